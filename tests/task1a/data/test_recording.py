"""Recordings of every container: whole ones are read, damaged ones are named by the check and by the features."""
import io
import os
import struct

import numpy as np
import pytest
import soundfile

from task1a.config import FeatureConfig
from task1a.data import headers
from task1a.errors import InputError
from task1a.features.audio import read_clip

FEATURES = FeatureConfig(sample_rate=8000, n_mels=10, window=200, hop=80, n_fft=256, clip_seconds=2.0)
NOT_AUDIO = "neither WAV, AIFF, Wave64, AU, CAF, FLAC, Ogg nor MP3 audio; convert it to WAV"
SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, 24000)

# container, encoding, byte order
CHECKED = [
    ("WAV", "PCM_U8", "FILE"), ("WAV", "PCM_16", "FILE"), ("WAV", "PCM_24", "FILE"), ("WAV", "DOUBLE", "FILE"),
    ("WAV", "ULAW", "FILE"), ("WAV", "IMA_ADPCM", "FILE"), ("WAV", "PCM_16", "BIG"), ("WAVEX", "PCM_24", "FILE"),
    ("RF64", "PCM_24", "FILE"), ("AIFF", "PCM_16", "FILE"), ("AIFF", "PCM_16", "LITTLE"), ("AIFF", "FLOAT", "FILE"),
    ("W64", "PCM_24", "FILE"), ("AU", "PCM_16", "BIG"), ("AU", "PCM_16", "LITTLE"), ("CAF", "PCM_16", "FILE"),
    ("CAF", "PCM_24", "LITTLE"), ("FLAC", "PCM_16", "FILE"), ("FLAC", "PCM_24", "FILE"), ("OGG", "VORBIS", "FILE"),
    ("OGG", "OPUS", "FILE")]
UNCHECKED = [
    ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("SVX", "PCM_16"),
    ("MAT4", "PCM_16"), ("MAT5", "PCM_16"), ("PAF", "PCM_16"), ("PVF", "PCM_16"), ("AVR", "PCM_16"),
    ("IRCAM", "PCM_16"), ("MPC2K", "PCM_16"), ("SDS", "PCM_16"), ("WVE", "ALAW")]


def encoded(container, encoding, byte_order="FILE", samples=SAMPLES, rate=8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=encoding, endian=byte_order)
    return file.getvalue()


def wav(rate=8000, channels=1, bits=16, data_bytes=2000, content=bytes(2000), before=b"", code=1) -> bytes:
    frame = channels * bits // 8
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF,
                        bits)
    size = 4 + len(chunk) + len(before) + 8 + data_bytes & 0xFFFFFFFF
    return (struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + chunk + before + struct.pack("<4sI", b"data", data_bytes)
            + content)


def fault(content: bytes, path) -> str:
    """Why a recording is refused, which the check and the features agree on; empty where it is taken."""
    path.write_bytes(content)
    reasons = [headers.read_header(path).fault]
    for source in (path, content):
        try:
            read_clip(source, FEATURES)
            reasons.append("")
        except InputError as error:
            reasons.append(str(error))
    assert len(set(reasons)) == 1 and reasons[0].isprintable()
    return reasons[0]


@pytest.mark.parametrize(("container", "encoding", "byte_order"), CHECKED)
def test_cut_anywhere(tmp_path, container, encoding, byte_order):
    whole = encoded(container, encoding, byte_order, rate=48000 if encoding == "OPUS" else 8000)
    assert fault(whole, tmp_path / "clip") == ""
    for left in (3, 11, 12, 13, 20, 30, 43, 44, 45, 60, 80, 101, 120, 4200, *range(4999, len(whole) - 1, 4999),
                 len(whole) - 100, len(whole) - 2):
        assert fault(whole[:left], tmp_path / "clip"), f"{left} of {len(whole)} bytes"


@pytest.mark.parametrize(("container", "encoding", "byte_order"),
                         [row for row in CHECKED if row[0] not in ("FLAC", "OGG")])
def test_what_follows_the_audio_need_not_be_whole(tmp_path, container, encoding, byte_order):
    whole = encoded(container, encoding, byte_order)
    assert fault(whole + b"LIST\xff\xff", tmp_path / "clip") == ""


def test_mp3_is_read(tmp_path):
    assert fault(encoded("MP3", "MPEG_LAYER_III"), tmp_path / "clip") == ""


@pytest.mark.parametrize(("container", "encoding"), UNCHECKED)
def test_containers_that_cannot_be_checked(tmp_path, container, encoding):
    assert fault(encoded(container, encoding), tmp_path / "clip").endswith("; convert it to WAV")


def test_a_tag_before_the_container_hides_no_truncation(tmp_path):
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)  # libsndfile skips it
    assert fault(tag + encoded("WAV", "PCM_16"), tmp_path / "clip") == NOT_AUDIO


W64 = encoded("W64", "PCM_16")
W64_FMT, W64_DATA = W64.index(b"fmt \xf3\xac") + 16, W64.rindex(b"data\xf3\xac") + 16
CAF, FLAC = encoded("CAF", "PCM_16"), encoded("FLAC", "PCM_16")
CAF_DATA = CAF.rindex(b"data") + 4


def with_bytes(content: bytes, position: int, new: bytes) -> bytes:
    return content[:position] + new + content[position + len(new):]


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty file"),
    (b"R", NOT_AUDIO),
    (b"version https://git-lfs.github.com/spec/v1\n", NOT_AUDIO),
    (bytes(5000), NOT_AUDIO),
    (b"RIFF" + bytes(4) + b"AVI LIST", NOT_AUDIO),
    (wav(), ""),
    (wav(rate=1), "declares a sample rate of 1 Hz; 1,000 to 1,000,000 Hz are possible"),
    (wav(rate=999), "declares a sample rate of 999 Hz; 1,000 to 1,000,000 Hz are possible"),
    (wav(rate=1000), ""),
    (wav(rate=1_000_000), ""),
    (wav(rate=1_000_001), "declares a sample rate of 1,000,001 Hz; 1,000 to 1,000,000 Hz are possible"),
    (wav(rate=0), "not readable as audio"),
    (wav(rate=(1 << 32) - 1), "not readable as audio"),
    (wav(channels=0), "not readable as audio"),
    (wav(channels=1024, data_bytes=20480, content=bytes(20480)), ""),
    (wav(channels=65535), "not readable as audio"),
    (wav(bits=0), "not readable as audio"),
    (wav(bits=255), "not readable as audio"),
    (wav(code=0x1234), "not readable as audio"),
    (wav()[:30], "truncated: ends before its audio"),
    (wav(data_bytes=2001), "truncated: 2,000 of 2,001 bytes of audio"),
    (wav(content=b""), "truncated: 0 of 2,000 bytes of audio"),
    (wav(data_bytes=0, content=b""), "holds no audio"),
    (wav(data_bytes=1, content=b"\0"), "holds no audio"),
    (wav(data_bytes=0xFFFFFFFF), ""),  # written to a pipe
    (wav(before=b"LIST\x03\0\0\0abc\0"), ""),  # chunks start at even bytes
    (wav(before=b"junk\xff\xff\xff\xff"), "truncated: ends before its audio"),
    (wav(before=(b"junk" + bytes(4)) * 1000), "no audio in its first 1,000 chunks"),
    (with_bytes(W64, W64_FMT, bytes(8)), "no audio in its first 1,000 chunks"),
    (with_bytes(W64, W64_FMT, b"\xff" * 8), "truncated: ends before its audio"),
    (with_bytes(W64, W64_FMT, struct.pack("<Q", 1 << 63)), "truncated: ends before its audio"),
    (with_bytes(W64, W64_DATA, struct.pack("<Q", 1 << 63)), "truncated: 48,000 of 9,223,372,036,854,775,784 bytes"),
    (with_bytes(CAF, CAF_DATA, struct.pack(">q", -1)), "not readable as audio"),  # libsndfile knows no open end
    (with_bytes(CAF, CAF_DATA, struct.pack(">q", -2)), "truncated: 48,000 of 18,446,744,073,709,551,610 bytes"),
    (with_bytes(encoded("AU", "PCM_16"), 4, b"\xff" * 4), "truncated: 0 of 48,000 bytes"),
    (with_bytes(encoded("AU", "PCM_16"), 8, b"\xff" * 4), ""),  # written to a pipe
    (with_bytes(FLAC, 22, b"\xff" * 4), "truncated: the last of its"),
    (with_bytes(FLAC, 22, bytes(4)), "does not declare its length"),
])
def test_headers(tmp_path, content, reason):
    said = fault(content, tmp_path / "clip")
    assert said.startswith(reason) if reason else not said


def test_a_recording_of_open_length_is_read_whole():
    streamed = read_clip(wav(data_bytes=0xFFFFFFFF, content=b"\x01\x02" * 1000), FEATURES)
    np.testing.assert_array_equal(streamed, read_clip(wav(content=b"\x01\x02" * 1000), FEATURES))


def test_shorter_than_a_sample_of_the_features():
    with pytest.raises(InputError, match="is shorter than one sample of the features"):
        read_clip(wav(rate=1_000_000, data_bytes=2, content=bytes(2)), FEATURES)


def test_mutated_headers_end_in_a_reason(tmp_path):
    random = np.random.default_rng(0)
    for container, encoding, byte_order in CHECKED:
        whole = encoded(container, encoding, byte_order, SAMPLES[:2000], 48000 if encoding == "OPUS" else 8000)
        for _ in range(20):
            content = bytearray(whole)
            for position in random.integers(0, min(120, len(whole)), 3):
                content[position] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
            (tmp_path / "clip").write_bytes(content)
            headers.read_header(tmp_path / "clip")
            try:
                read_clip(bytes(content), FEATURES)
            except InputError:
                pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_named_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "clip.wav")
    with pytest.raises(OSError, match="not a regular file"):
        read_clip(tmp_path / "clip.wav", FEATURES)
