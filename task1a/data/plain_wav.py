"""Format and length of a plain WAV file, from its first bytes.

libsndfile takes several times as long to open a file, which counts in sets of hundreds of thousands of short clips.
This module knows what common programs write: linear PCM up to the end of the file, after at most a number of samples
and texts such as a title. Everything else, damaged files included, is left to libsndfile. Sources: Microsoft,
*Multimedia Programming Interface and Data Specifications 1.0*, 1991, and *Multiple channel audio data and WAVE files*,
2001, for the extensible format.
"""
import struct
from typing import NamedTuple

from task1a.data.recording import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

HEAD_BYTES = 512
"""Number of bytes at the start of a file that :func:`read` needs."""

_FORM = struct.Struct("<4s4x8sIHHIIHH")  # RIFF, WAVE and the name of the first chunk, its size and first six fields
_EXTENSION = struct.Struct("<HH4x16s")  # size of the extension, valid bits of a sample, encoding
_CHUNK = struct.Struct("<4sI")
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_ENCODING = struct.pack("<I12s", _PCM, b"\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71")
_MAX_BYTES = 1 << 31
_MAX_CHANNELS = 1024  # of libsndfile


class PlainWav(NamedTuple):
    """Format and length of linear PCM."""

    sample_rate: int
    channels: int
    bits: int
    """bits per sample"""
    frames: int
    """samples per channel"""


def read(head: bytes, size: int) -> PlainWav | None:
    """Read the header of a WAV file.

    Args:
        head: the first ``HEAD_BYTES`` bytes of the file, or the whole file if it is shorter.
        size: number of bytes in the file.

    Returns:
        What libsndfile finds in the file, or None where only libsndfile can tell.
    """
    if len(head) < 44 or size > _MAX_BYTES:
        return None
    form, kind, fmt_bytes, code, channels, rate, byte_rate, frame, bits = _FORM.unpack_from(head)
    if form != b"RIFF" or kind != b"WAVEfmt ":
        return None
    if (code, fmt_bytes) == (_EXTENSIBLE, 40) and len(head) >= 68:
        if _EXTENSION.unpack_from(head, _FORM.size) != (22, bits, _PCM_ENCODING):
            return None
    elif (code, fmt_bytes) != (_PCM, 16):
        return None
    if (bits not in (8, 16, 24, 32) or not 1 <= channels <= _MAX_CHANNELS or frame != channels * bits // 8
            or byte_rate != rate * frame or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE):
        return None

    position = 20 + fmt_bytes
    name, declared = _CHUNK.unpack_from(head, position)
    while name in (b"fact", b"LIST"):
        start = position + _CHUNK.size
        position = start + declared
        if len(head) < position + _CHUNK.size or not _is_plain(name, head[start:position]):
            return None
        name, declared = _CHUNK.unpack_from(head, position)
    # libsndfile also interprets what follows the samples and the byte that makes their number even
    rest = size - position - _CHUNK.size - declared
    if name != b"data" or not declared or declared % frame or rest not in (0, declared % 2):
        return None
    return PlainWav(rate, channels, bits, declared // frame)


def _is_plain(name: bytes, content: bytes) -> bool:
    """Whether a chunk consists of a number of samples, or of texts such as a title and the name of a program."""
    if name == b"fact":
        return len(content) == 4
    position = 4
    while position + _CHUNK.size < len(content):
        text, length = _CHUNK.unpack_from(content, position)
        if text[:1] != b"I" or not length:
            return False
        position += _CHUNK.size + length + length % 2
    return content[:4] == b"INFO" and position == len(content)
