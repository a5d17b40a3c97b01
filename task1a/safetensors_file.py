"""Safetensors files of any maker: the header first, then of every tensor as much at a time as a block holds.

The safetensors library maps a whole file into memory or copies it. Here, neither memory nor time depends on what a file
claims: the header has a bound, and the tensors stay in the file until they are asked for. A file compressed with xz
(``.safetensors.xz``) is unpacked into memory, up to a bound.
"""
import io
import json
import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from task1a.errors import InputError, shown

LARGEST_UNPACKED = 1 << 25
"""The most bytes that an xz file may unpack to: ten times what the largest network of the paper takes in float32."""
MOST_HEADER_BYTES = 1 << 21
"""The largest header that is read. It has room for 10,000 tensors; parsed, it takes up to 30 times as much memory."""

_XZ_MEMORY = 1 << 27  # the strongest of the usual settings takes half of that
_BLOCK = 1 << 20
_MOST_AXES = 64  # those of an array of numpy
# the names that torch has for the types; those of less than a byte are left out, for they are packed in several ways
_TYPES = {
    "BOOL": ("bool", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "U16": ("uint16", 2), "I16": ("int16", 2),
    "U32": ("uint32", 4), "I32": ("int32", 4), "U64": ("uint64", 8), "I64": ("int64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1), "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "F32": ("float32", 4),
    "F64": ("float64", 8), "C64": ("complex64", 8),
}


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor."""

    dtype: str
    """as torch calls it"""
    shape: tuple[int, ...]
    start: int
    """place of the first byte in the file"""
    size: int
    """in bytes"""

    @property
    def values(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class SafetensorsFile:
    """An open file with a sound header."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]
    """by name, in the order of the names: the order in a file is that of the sizes of the types"""
    file: BinaryIO

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor, a block at a time; the first blocks hold whole values."""
        entry = self.tensors[name]
        self.file.seek(entry.start)
        for place in range(0, entry.size, _BLOCK):
            wanted = min(_BLOCK, entry.size - place)
            block = self.file.read(wanted)
            if len(block) < wanted:
                raise InputError(f"{self.path}: became shorter while it was read")
            yield block


@contextmanager
def opened(path: Path) -> Iterator[SafetensorsFile]:
    """Open a safetensors file, or one that is compressed with xz, and check its header.

    Raises:
        InputError: there is no such file, it is damaged or not of this format, its header or its unpacked content is
            too large, or a tensor has a type of unknown width.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    with path.open("rb") as stored:
        file = io.BytesIO(_unpacked(path, stored)) if path.suffix.lower() == ".xz" else stored
        try:
            metadata, tensors = _read_header(file)
        except ValueError as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None
        yield SafetensorsFile(path, metadata, tensors, file)


def printable(text: str, most: int = 200) -> str:
    """Text on one line and without control characters, its middle left out where it is longer than ``most``."""
    if len(text) > most:
        text = f"{text[:most // 2]}...{text[-most // 2:]}"
    return "".join(character if character.isprintable() else "?" for character in text)


def _unpacked(path: Path, file: BinaryIO) -> bytes:
    content = file.read(LARGEST_UNPACKED + 1)  # what is longer than that unpacks to more
    reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        content = reader.decompress(content, max_length=LARGEST_UNPACKED)
    except lzma.LZMAError as error:
        raise InputError(f"{path}: not a readable xz file ({error})") from None
    if not reader.eof or reader.unused_data:
        raise InputError(f"{path}: cut off, followed by something else, or larger than {LARGEST_UNPACKED:,} B when "
                         "unpacked")
    return content


def _read_header(file: BinaryIO) -> tuple[dict[str, str], dict[str, Entry]]:
    """Metadata and entries by name (ValueError: the header is not sound)."""
    file_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or 8 + length > file_bytes:
        raise ValueError("cut off, or of another format")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes; {MOST_HEADER_BYTES:,}, enough for 10,000 tensors, are the "
                         "most")
    text = file.read(length).decode("utf-8")
    try:
        header = json.loads(text, object_pairs_hook=_without_repeated_keys) if text.startswith("{") else None
    except (ValueError, RecursionError):
        raise ValueError("its header is no plain JSON, or has a key twice") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not text")
    entries = {name: _entry(name, header[name], 8 + length) for name in sorted(header)}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != end:
            raise ValueError("its tensors overlap, or leave bytes between them")
        end += entry.size
    if end != file_bytes:
        raise ValueError(f"{file_bytes:,} bytes, and the header describes {end:,}")
    return metadata, entries


def _without_repeated_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError
    return mapping


def _entry(name: str, said: Any, tensors_start: int) -> Entry:
    """What the header says of a tensor, checked against itself (ValueError: it contradicts itself)."""
    name = printable(name)
    if not isinstance(said, dict):
        raise ValueError(f"tensor {name} has no type, shape and place")
    shape, offsets = said.get("shape"), said.get("data_offsets")
    if not _naturals(shape) or len(shape) > _MOST_AXES or not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name} has a shape of {shown(shape)} and a place of {shown(offsets)}")
    if not isinstance(said.get("dtype"), str) or said["dtype"] not in _TYPES:
        raise ValueError(f"tensor {name} is of type {shown(said.get('dtype'))}, whose width is not known")
    dtype, width = _TYPES[said["dtype"]]
    start, end = offsets
    if end - start != width * math.prod(shape):
        raise ValueError(f"tensor {name} has a shape of {shown(shape)}, and {end - start:,} bytes")
    return Entry(dtype, tuple(shape), tensors_start + start, end - start)


def _naturals(numbers: Any) -> bool:
    """Whether it is a list of whole numbers as a file has them."""
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
