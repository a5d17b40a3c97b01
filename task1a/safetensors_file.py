"""Safetensors files of any origin, read in bounded time and memory.

The safetensors library maps a whole file into memory. Here the header has a maximum size, and tensors are read in
blocks. A file compressed with xz (``.safetensors.xz``) is unpacked into memory, up to a maximum.
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

import torch

from task1a.errors import InputError, shown

MAX_UNPACKED_BYTES = 1 << 25
"""Maximum size of an unpacked xz file: ten times the largest network of the paper in float32."""
MAX_HEADER_BYTES = 1 << 21
"""Maximum size of a header: enough for 10,000 tensors. Parsed, it takes up to 30 times as much memory."""

_XZ_MEMORY = 1 << 27  # twice what the strongest of the usual settings takes
_BLOCK = 1 << 20
_MAX_AXES = 64  # as in numpy
# types of less than a byte are left out, because they are packed in several ways
_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "C64": torch.complex64,
}


@dataclass(frozen=True)
class Entry:
    """Header entry of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """offset of the first byte in the file"""
    size: int
    """number of bytes"""


@dataclass(frozen=True)
class SafetensorsFile:
    """An open file with a valid header."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]
    """by name, in alphabetical order"""
    file: BinaryIO

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor in blocks of whole values."""
        entry = self.tensors[name]
        self.file.seek(entry.start)
        for offset in range(0, entry.size, _BLOCK):
            wanted = min(_BLOCK, entry.size - offset)
            block = self.file.read(wanted)
            if len(block) < wanted:
                raise InputError(f"{self.path}: became shorter while it was read")
            yield block


@contextmanager
def opened(path: Path) -> Iterator[SafetensorsFile]:
    """Open a safetensors file, compressed with xz or not, and check its header.

    Raises:
        InputError: the file is missing, damaged or of another format, its header or unpacked content is too large, or a
            tensor has a type of unknown width.
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


def printable(text: str, max_length: int = 200) -> str:
    """Text in one line without control characters, shortened in the middle."""
    if len(text) > max_length:
        text = f"{text[:max_length // 2]}...{text[-max_length // 2:]}"
    return "".join(character if character.isprintable() else "?" for character in text)


def _unpacked(path: Path, file: BinaryIO) -> bytes:
    reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        content = reader.decompress(file.read(MAX_UNPACKED_BYTES + 1), max_length=MAX_UNPACKED_BYTES)
    except lzma.LZMAError as error:
        raise InputError(f"{path}: not a readable xz file ({error})") from None
    if not reader.eof or reader.unused_data:
        raise InputError(f"{path}: truncated, followed by other data, or larger than {MAX_UNPACKED_BYTES:,} B when "
                         "unpacked")
    return content


def _read_header(file: BinaryIO) -> tuple[dict[str, str], dict[str, Entry]]:
    """Read metadata and entries; raises ValueError if the header is invalid, too large, or does not fit the file."""
    file_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if 8 + length > file_bytes:
        raise ValueError("truncated, or of another format")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes; the maximum is {MAX_HEADER_BYTES:,}, enough for 10,000 "
                         "tensors")
    text = file.read(length).decode("utf-8")
    if not text.startswith("{"):
        raise ValueError("its header is not a JSON object")
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ValueError("its header is not valid JSON, or has a repeated key") from None
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text")

    entries = {name: _entry(printable(name), header[name], 8 + length) for name in sorted(header)}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != end:
            raise ValueError("its tensors overlap, or leave gaps")
        end += entry.size
    if end != file_bytes:
        raise ValueError(f"it has {file_bytes:,} bytes, but its header describes {end:,}")
    return metadata, entries


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError
    return mapping


def _entry(name: str, fields: Any, tensors_start: int) -> Entry:
    match fields:
        case {"dtype": dtype, "shape": [*shape], "data_offsets": [start, end]}:
            numbers = (*shape, start, end)
        case _:
            raise ValueError(f"tensor {name} lacks a dtype, shape or data_offsets")
    if len(shape) > _MAX_AXES or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError(f"tensor {name} has the shape {shown(shape)} and the offsets {shown([start, end])}")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise ValueError(f"tensor {name} is of type {shown(dtype)}, whose width is not known")
    if end - start != _TYPES[dtype].itemsize * math.prod(shape):
        raise ValueError(f"tensor {name} has the shape {shown(shape)}, but {end - start:,} bytes")
    return Entry(_TYPES[dtype], tuple(shape), tensors_start + start, end - start)
