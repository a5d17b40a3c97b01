"""Whether all of a WAV file is there, by its chunks."""
import os
import struct
from typing import Any, BinaryIO


def truncation(file: BinaryIO, size: int) -> str:
    """Say how much of a WAV file's data chunk is there where it is not all; empty where it is, or for other files.

    libsndfile reads what is there of such a file without a word. Chunks as in Microsoft's *Multimedia Programming
    Interface and Data Specifications 1.0*; RF64 as in EBU Tech 3306.

    Args:
        file: at its beginning.
        size: of the whole file in bytes.
    """
    form, _, kind = _unpack("<4sI4s", file.read(12))
    if form not in (b"RIFF", b"RF64") or kind != b"WAVE":
        return ""
    long_size = None
    while len(head := file.read(8)) == 8:
        name, declared = struct.unpack("<4sI", head)
        if name == b"ds64":
            _, long_size = _unpack("<QQ", file.read(16))
            declared -= 16
        if name == b"data":
            if declared == 0xFFFFFFFF:  # too long for the field, or written to a pipe: length not known beforehand
                declared = long_size or 0
            there = size - file.tell()
            return f"truncated: {there:,} of {declared:,} bytes of audio" if there < declared else ""
        file.seek(declared + declared % 2, os.SEEK_CUR)
    return "truncated: ends before its audio"


def _unpack(layout: str, data: bytes) -> tuple[Any, ...]:
    # a file that ends early reads as zeros, which is no WAV file
    return struct.unpack(layout, data.ljust(struct.calcsize(layout), b"\0"))
