"""What is read without libsndfile is what libsndfile reads."""
import io
import random
import struct

import numpy as np
import pytest
import soundfile

from task1a.data import headers, plain_wav
from task1a.data.recording import open_recording

PCM = struct.pack("<I12s", 1, b"\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71")
FLOAT = b"\x03" + PCM[1:]
TITLE = b"INFOINAM\x05\0\0\0title\0ISFT\x0e\0\0\0Lavf58.76.100\0"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)


def wav(channels=1, rate=44100, bits=24, frames=50, between=b"", after=b"", encoding=b"", valid_bits=None) -> bytes:
    """A WAV file, of the extensible format if an encoding is given."""
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE if encoding else 1, channels, rate, rate * frame, frame, bits)
    if encoding:
        fmt += struct.pack("<HHI16s", 22, valid_bits or bits, 4, encoding)
    samples = random.Random(0).randbytes(frames * frame)
    body = b"WAVE" + chunk(b"fmt ", fmt) + between + chunk(b"data", samples) + after
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def read(content: bytes):
    return plain_wav.read(content[:plain_wav.HEAD_BYTES], len(content))


def by_libsndfile(content: bytes):
    with open_recording(content) as recording:
        bits = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}[recording.subtype]
        return plain_wav.PlainWav(recording.samplerate, recording.channels, bits, recording.frames)


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("encoding", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize(("frames", "channels"), [(1, 1), (44100, 1), (101, 1), (101, 2), (3, 6)])
def test_files_of_libsndfile_are_plain(container, encoding, frames, channels):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((frames, channels)), 44100, format=container, subtype=encoding)
    expected = by_libsndfile(file.getvalue())
    assert expected.frames == frames and read(file.getvalue()) == expected


@pytest.mark.parametrize("content", [
    wav(),
    wav(encoding=PCM),
    wav(encoding=PCM, between=chunk(b"fact", struct.pack("<I", 50))),  # SoX
    wav(encoding=PCM, between=chunk(b"LIST", TITLE)),  # FFmpeg
    wav(bits=16, between=chunk(b"LIST", TITLE)),
    wav(bits=8, frames=51)[:-1],  # many programs leave out the last byte
    wav(channels=1024, frames=1),
    wav(rate=1000), wav(rate=1_000_000),
], ids=range(9))
def test_files_of_other_programs_are_plain(content):
    assert read(content) == by_libsndfile(content)


def changed(content: bytes, position: int, new: bytes) -> bytes:
    return content[:position] + new + content[position + len(new):]


@pytest.mark.parametrize("content", [
    b"", wav()[:20], wav()[:43], wav()[:44], wav()[:-1],
    wav(encoding=PCM)[:50], wav(encoding=PCM)[:67],
    wav(frames=0),
    wav(rate=999), wav(rate=1_000_001),
    wav(encoding=FLOAT, bits=32),
    wav(encoding=PCM, valid_bits=20),
    wav(channels=1025, frames=1),
    wav(after=chunk(b"LIST", TITLE)), wav(after=chunk(b"PEAK", bytes(16))), wav(after=b"\0"),
    wav(between=chunk(b"LIST", b"adtl" + bytes(12))), wav(between=chunk(b"LIST", TITLE[:-4])),
    wav(between=chunk(b"LIST", b"INFOINAM\x00\0\0\0")), wav(between=chunk(b"LIST", b"INFOINAM\xff\xff\xff\xff")),
    wav(between=chunk(b"fact", bytes(12))), wav(between=chunk(b"bext", bytes(700))),
    wav(between=chunk(b"LIST", b"INFO" + chunk(b"ICMT", b"x" * 600))),
    changed(wav(), 0, b"RIFX"), changed(wav(), 8, b"AVI "), changed(wav(), 12, b"junk"), changed(wav(), 16, b"\x12"),
    changed(wav(), 20, b"\x03"), changed(wav(), 28, b"\0"), changed(wav(), 32, b"\x02"), changed(wav(), 34, b"\x14"),
    changed(wav(), 36, b"dato"), changed(wav(), 40, b"\x95"), changed(wav(), 40, b"\xff\xff\xff\xff"),
], ids=range(34))
def test_everything_else_is_left_to_libsndfile(content):
    assert read(content) is None


def test_a_file_that_libsndfile_may_take_for_a_longer_one():
    huge = changed(wav(), 40, struct.pack("<I", 3 * (1 << 30)))
    assert plain_wav.read(huge, 3 * (1 << 30) + 44) is None


def test_mutated_files_are_read_as_by_libsndfile_or_left_to_it():
    draw, plain = random.Random(0), 0
    names = [b"LIST", b"fact", b"INFO", b"INAM", b"ISFT", b"data", b"fmt ", b"junk", b"PEAK"]
    for _ in range(1500):
        bits = draw.choice([8, 16, 24, 32])
        between = draw.choice([b"", b"", chunk(b"fact", draw.randbytes(4)), chunk(b"LIST", TITLE)])
        after = draw.choice([b"", b"", b"\0", chunk(b"LIST", TITLE)])
        channels, rate, frames = draw.choice([1, 2, 3, 255]), draw.choice([1000, 44100]), draw.choice([1, 50, 51])
        content = bytearray(wav(channels, rate, bits, frames, between, after, draw.choice([b"", PCM])))
        for _ in range(draw.choice([0, 1, 2])):
            position = draw.randrange(min(len(content), 130))
            if draw.random() < 0.8:
                content[position] = draw.choice([0, 1, 2, 0x7F, 0x80, 0xFF, draw.randrange(256)])
            else:
                content[position:position + 4] = draw.choice(names)
        found = read(bytes(content))
        if found:
            plain += 1
            assert found == by_libsndfile(bytes(content)), bytes(content[:200])
    assert plain > 300


@pytest.mark.parametrize(("content", "name"), [
    (wav(), "44.1 kHz, 24 bit, mono"), (wav(2, 48000, 16), "48 kHz, 16 bit, stereo"),
    (wav(6, 22050, 8), "22.05 kHz, 8 bit, 6 channels"), (wav(bits=32), "44.1 kHz, 32 bit, mono")])
def test_a_format_has_one_name_whoever_reads_the_file(tmp_path, content, name):
    (tmp_path / "plain.wav").write_bytes(content)
    (tmp_path / "with a chunk.wav").write_bytes(content + chunk(b"LIST", TITLE))
    plain = headers.read_header(tmp_path / "plain.wav")
    other = headers.read_header(tmp_path / "with a chunk.wav")
    assert read(content) and not read((tmp_path / "with a chunk.wav").read_bytes())
    assert plain.audio_format == other.audio_format == name and plain.seconds == other.seconds > 0
    assert plain.identity != other.identity
