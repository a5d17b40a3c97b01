"""Safetensors files of any origin, read in bounded time and memory.

The safetensors library checks a file without reading its tensors. Here the size of the header is
bounded, and tensors are read in blocks, of every type, also of those that numpy and torch do not
have. A file compressed with xz (``.safetensors.xz``) is unpacked into memory, up to a maximum.
"""
import io
import json
import lzma
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, deserialize, safe_open

from task1a.errors import InputError

MAX_UNPACKED_BYTES = 1 << 25
"""Maximum size of an unpacked xz file: ten times the largest network of the paper in float32."""
MAX_HEADER_BYTES = 1 << 21
"""Maximum size of a header: enough for 10,000 tensors. Parsed, it takes up to 30 times as much
memory."""

BLOCK = 3 << 18
"""Bytes that are read at a time: whole values of every type, those of 6 bits included."""

_XZ_MEMORY = 1 << 27  # twice what the strongest of the usual settings takes
_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn", "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64",
}


@dataclass(frozen=True)
class Entry:
    """Header entry of one tensor."""

    dtype: str
    """as torch or ml_dtypes name it"""
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
        for offset in range(0, entry.size, BLOCK):
            wanted = min(BLOCK, entry.size - offset)
            block = self.file.read(wanted)
            if len(block) < wanted:
                raise InputError(f"{self.path}: became shorter while it was read")
            yield block


@contextmanager
def opened(path: Path) -> Iterator[SafetensorsFile]:
    """Open a safetensors file, compressed with xz or not, and check its header.

    Raises:
        InputError: the file is missing, damaged or of another format, its header or unpacked
            content is too large, or a tensor has a type of unknown width.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    with path.open("rb") as stored:
        file = io.BytesIO(_unpacked(path, stored)) if path.suffix.lower() == ".xz" else stored
        length = int.from_bytes(file.read(8), "little")
        file_bytes = file.seek(0, io.SEEK_END)
        if MAX_HEADER_BYTES < length <= file_bytes:
            raise InputError(f"{path}: not a readable safetensors file (its header has {length:,} bytes; the maximum "
                             f"is {MAX_HEADER_BYTES:,}, enough for 10,000 tensors)")
        # the library checks offsets, shapes and types; the header is parsed again because it gives no
        # tensors of types that numpy and torch lack
        try:
            if isinstance(file, io.BytesIO):
                deserialize(file.getvalue())
            else:
                with safe_open(path, "numpy"):
                    pass
            file.seek(8)
            header = json.loads(file.read(length))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({printable(str(error))})") from None

        metadata, tensors = header.pop("__metadata__", None) or {}, {}
        for name in sorted(header):
            dtype, (start, end) = header[name]["dtype"], header[name]["data_offsets"]
            if dtype not in _TYPES:
                raise InputError(f"{path}: tensor {printable(name)} is of type {printable(dtype)}, whose width is not "
                                 "known")
            tensors[name] = Entry(_TYPES[dtype], tuple(header[name]["shape"]), 8 + length + start, end - start)
        yield SafetensorsFile(path, metadata, tensors, file)


def printable(text: str, max_length: int = 200) -> str:
    """Return text in one line without control characters, shortened in the middle."""
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
