"""Checks whether an audio file is complete, by the published layout of its container.

libsndfile silently reads a truncated file as a shorter recording. The accepted containers declare the number of bytes
or samples of audio, or mark their last page; only MP3, which has no container, cannot be checked. Sources:

- WAV: Microsoft, *Multimedia Programming Interface and Data Specifications 1.0*; its big-endian twin RIFX likewise;
  RF64: EBU Tech 3306
- AIFF: Apple, *Audio Interchange File Format 1.3*; AIFF-C: Apple, *AIFF-C, draft 08/26/91*
- Wave64: Sony, *Sony Pictures Digital Wave 64*
- CAF: Apple, *Core Audio Format Specification 1.0*
- AU: Sun, manual page *au(4)*; its little-endian twin has the magic number reversed
- Ogg: RFC 3533
"""
import os
import struct
from typing import BinaryIO, NamedTuple

MAX_CHUNKS = 1000
"""Number of chunks that are searched for the audio."""


class _Layout(NamedTuple):
    """Layout of the chunks of a container."""

    first: int
    """position of the first chunk"""
    head: struct.Struct
    """name and size at the start of a chunk"""
    audio: bytes
    """name of the chunk that holds the samples"""
    alignment: int
    """chunks start at multiples of this number of bytes"""
    preamble: int = 0
    """number of bytes before the samples in the audio chunk"""
    head_counts: bool = False
    """whether the size of a chunk includes its head"""


_WAV = _Layout(12, struct.Struct("<4sI"), b"data", 2)
_AIFF = _Layout(12, struct.Struct(">4sI"), b"SSND", 2, preamble=8)
_W64_AUDIO = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_LAYOUTS = {  # by bytes 0 to 3 and 8 to 11 of the file
    (b"RIFF", b"WAVE"): _WAV,
    (b"RF64", b"WAVE"): _WAV,
    (b"RIFX", b"WAVE"): _WAV._replace(head=struct.Struct(">4sI")),
    (b"FORM", b"AIFF"): _AIFF,
    (b"FORM", b"AIFC"): _AIFF,
    (b"riff", b"\xa5\xd6\x28\xdb"): _Layout(40, struct.Struct("<16sQ"), _W64_AUDIO, 8, head_counts=True),
    (b"caff", b"desc"): _Layout(8, struct.Struct(">4sQ"), b"data", 1, preamble=4),
}
_AU = {b".snd": struct.Struct(">II"), b"dns.": struct.Struct("<II")}
_FLAC, _OGG = b"fLaC", b"OggS"
_OGG_HEAD_BYTES = 27
_OGG_LAST_PAGE = 4  # flag of a page


def fault(file: BinaryIO) -> str:
    """Say why an audio file is refused: it is truncated, or its container cannot be checked.

    Args:
        file: opened for reading bytes, at any position.

    Returns:
        The reason; empty if nothing is wrong. That includes containers that leave their length open, as those written
        to a pipe do, and FLAC, where only the decoder can tell whether the last sample is present.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        return "empty file"
    head = _read(file, 0, 12).ljust(12, b"\0")
    form, kind = head[:4], head[8:]
    if form == _FLAC:
        return ""
    if form == _OGG:
        return _fault_of_pages(file, size)
    if form in _AU:
        start, declared = _AU[form].unpack(head[4:])
        return _shortfall(size - start, 0 if declared == 0xFFFFFFFF else declared)
    if (form, kind) in _LAYOUTS:
        return _fault_of_chunks(file, size, _LAYOUTS[form, kind])

    start = 0
    if head[:3] == b"ID3":  # a tag, whose size has 7 bits a byte
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    frame = _read(file, start, 2)
    if len(frame) == 2 and frame[0] == 0xFF and frame[1] >= 0xE0:
        return ""  # MP3: independent frames
    return "neither WAV, AIFF, Wave64, AU, CAF, FLAC, Ogg nor MP3 audio; convert it to WAV"


def _fault_of_chunks(file: BinaryIO, size: int, layout: _Layout) -> str:
    position, long_size = layout.first, 0
    for _ in range(MAX_CHUNKS):
        head = _read(file, position, layout.head.size)
        if len(head) < layout.head.size:
            return "truncated: ends before its audio"
        name, declared = layout.head.unpack(head)
        start = position + len(head)
        if name == b"ds64":  # holds the size of the audio in RF64
            long_size = int.from_bytes(_read(file, start, 16)[8:], "little")
        if name == layout.audio:
            if declared == (1 << 8 * (len(head) - len(name))) - 1:  # all bits set: unknown when it was written
                declared = long_size
            elif layout.head_counts:
                declared -= len(head)
            return _shortfall(size - start - layout.preamble, declared - layout.preamble)
        end = (position if layout.head_counts else start) + declared
        position = end + -end % layout.alignment
    return f"no audio in its first {MAX_CHUNKS:,} chunks"


def _fault_of_pages(file: BinaryIO, size: int) -> str:
    position, flags = 0, 0
    while position < size:
        head = _read(file, position, _OGG_HEAD_BYTES)
        if len(head) < _OGG_HEAD_BYTES or not head.startswith(_OGG):
            break
        flags, segments = head[5], file.read(head[26])
        position += _OGG_HEAD_BYTES + len(segments) + sum(segments)
    return "" if position == size and flags & _OGG_LAST_PAGE else "truncated: ends before its last page"


def _shortfall(present: int, declared: int) -> str:
    return f"truncated: {max(0, present):,} of {declared:,} bytes of audio" if present < declared else ""


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    if position >= 1 << 63:  # larger than any file
        return b""
    file.seek(position)
    return file.read(count)
