"""What a pickle or a message of protobuf costs to load, found out by going through it without loading it.

Both can say in a few bytes what takes hours or gigabytes: a tuple made of one tuple twice, sixty times over, has 2^60
values to go through where it is a key; an empty part of a message has two bytes in a file, and a hundred times that in
memory.
"""
import pickletools
import re
from typing import Any, BinaryIO

from task1a.safetensors_file import printable

MOST_OPERATIONS = 400_000
"""The most operations of a pickle; a tensor of a state dictionary takes about 30."""
MOST_MEMORY = 1 << 26
"""The most bytes that the objects of a message may take."""
TEXT_MEMORY = 2
"""Bytes that are held for every one of a tensor's content in a message: its own, and a copy while it is counted."""

_FIELD_MEMORY, _NUMBER_MEMORY = 200, 16
# what the pickle of a state dictionary names; torch allows more, some of which makes large objects of a few bytes
_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+|torch\.(storage|serialization|nn\.parameter|_tensor) \w+|torch\._utils "
    r"_rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor|meta_tensor_no_storage)")


def check_pickle(file: BinaryIO) -> None:
    """Read a pickle to its end, and refuse one that is more than a state dictionary.

    Raises:
        ValueError: it names something else, or has too many operations; to fetch a value again counts as many times as
            there are values in it.
    """
    operations, fetched = 0, {}
    stack: list[int | None] = []  # the number of values in each object; None is a mark
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(argument):
            raise ValueError(f"{printable(argument.replace(' ', '.'), 60)} is no part of a state dictionary")
        values, inputs = 1, operation.stack_before
        if pickletools.markobject in inputs:
            inputs = inputs[:inputs.index(pickletools.markobject)]
            while (taken := stack.pop()) is not None:
                values += taken
        for _ in inputs:
            values += stack.pop()
        for output in operation.stack_after:
            made = values if "TUPLE" in operation.name else 1
            stack.append(None if output is pickletools.markobject else made)
        if "PUT" in operation.name:
            fetched[argument] = stack[-1]
        elif "GET" in operation.name:
            stack[-1] = fetched[argument]
            operations += stack[-1]
        operations += 1
        if operations > MOST_OPERATIONS:
            raise ValueError(f"a pickle of more than {MOST_OPERATIONS:,} operations")


def check_protobuf(content: bytes, message: Any) -> None:
    """Refuse a message whose objects would take too much memory.

    Args:
        content: the message.
        message: the descriptor of its type.

    Raises:
        ValueError: it is too large.
        IndexError: it is cut off.
    """
    memory, parts = 0, [(0, len(content), message)]
    while parts:
        place, end, message = parts.pop()
        while place < end:
            tag, place = _varint(content, place)
            field, wire_type = message.fields_by_number.get(tag >> 3), tag & 7
            memory += _FIELD_MEMORY
            if wire_type == 0:
                _, place = _varint(content, place)
            elif wire_type in (1, 5):
                place += 8 if wire_type == 1 else 4
            elif wire_type == 2:
                length, place = _varint(content, place)
                if field is not None and field.message_type:
                    parts.append((place, min(place + length, end), field.message_type))
                else:  # text and bytes, or numbers packed together
                    text = field is None or field.type in (field.TYPE_STRING, field.TYPE_BYTES)
                    memory += length * (TEXT_MEMORY if text else _NUMBER_MEMORY)
                place += length
            if memory > MOST_MEMORY:
                raise ValueError(f"it would take more than {MOST_MEMORY:,} B of memory")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of protobuf, seven bits in a byte, and the place behind it."""
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return number, place
