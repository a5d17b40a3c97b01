"""Recordings: complete ones are read sample by sample, odd ones with a note, damaged ones are refused with a reason."""
import io
import os
import random
import struct

import numpy as np
import pytest
import soundfile

from task1a.config import FeatureConfig
from task1a.data import recording
from task1a.data.recording import open_recording, read_header
from task1a.errors import InputError
from task1a.features.audio import read_clip

FEATURES = FeatureConfig(sample_rate=8000, n_mels=10, window=200, hop=80, n_fft=256, clip_seconds=2.0)
SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, 24000)
RAMP = np.arange(4000, dtype="<i2")
RAMP_BYTES = RAMP.tobytes()
EXTENSIBLE = struct.pack("<HHI16s", 22, 24, 4, struct.pack("<I12s", 1, b"\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"))
GIB = 1 << 30

# container, encoding, byte order
WAV_FAMILY = [("WAV", "PCM_U8", "FILE"), ("WAV", "PCM_16", "FILE"), ("WAV", "PCM_24", "FILE"),
              ("WAV", "DOUBLE", "FILE"), ("WAV", "ULAW", "FILE"), ("WAV", "IMA_ADPCM", "FILE"),
              ("WAVEX", "PCM_24", "FILE"), ("RF64", "PCM_24", "FILE")]
OTHERS = [("WAV", "PCM_16", "BIG"), ("AIFF", "PCM_16", "FILE"), ("AIFF", "PCM_16", "LITTLE"), ("AIFF", "FLOAT", "FILE"),
          ("W64", "PCM_24", "FILE"), ("AU", "PCM_16", "BIG"), ("AU", "PCM_16", "LITTLE"), ("CAF", "PCM_16", "FILE"),
          ("CAF", "ALAC_16", "FILE"), ("FLAC", "PCM_16", "FILE"), ("FLAC", "PCM_24", "FILE"), ("OGG", "VORBIS", "FILE"),
          ("OGG", "OPUS", "FILE"), ("MP3", "MPEG_LAYER_III", "FILE"), ("NIST", "PCM_16", "FILE"),
          ("VOC", "PCM_16", "FILE"), ("SVX", "PCM_16", "FILE"), ("PAF", "PCM_16", "FILE"), ("IRCAM", "PCM_16", "FILE")]


def encoded(container, encoding, byte_order="FILE", samples=SAMPLES) -> bytes:
    file = io.BytesIO()
    rate = 48000 if encoding == "OPUS" else 8000
    soundfile.write(file, samples, rate, format=container, subtype=encoding, endian=byte_order)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)


def wav(declared=8000, content=RAMP_BYTES, rate=8000, channels=1, bits=16, code=1, extension=b"", before=b"",
        after=b"", form=b"RIFF") -> bytes:
    """A WAV file of 4,000 samples by default, whose header may say anything."""
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", code, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits) + extension
    body = b"WAVE" + before + chunk(b"fmt ", fmt) + struct.pack("<4sI", b"data", declared) + content + after
    return struct.pack("<4sI", form, len(body) & 0xFFFFFFFF) + body


def long_wav(form, declared, in_data=0xFFFFFFFF, **settings) -> bytes:
    """A WAV file that declares its length in 64 bits."""
    return wav(in_data, before=chunk(b"ds64", struct.pack("<QQQI", 0, declared, 0, 0)), form=form, **settings)


def fault(content: bytes, path) -> str:
    """Why a recording is refused, which the check and the features agree on; empty where it is taken."""
    path.write_bytes(content)
    reasons = [read_header(path).fault]
    for source in (path, content):
        try:
            read_clip(source, FEATURES)
            reasons.append("")
        except InputError as error:
            reasons.append(str(error))
    assert len(set(reasons)) == 1 and reasons[0].isprintable(), reasons
    return reasons[0]


@pytest.mark.parametrize(("container", "encoding", "byte_order"), WAV_FAMILY + OTHERS)
def test_containers(tmp_path, container, encoding, byte_order):
    whole = encoded(container, encoding, byte_order)
    assert fault(whole, tmp_path / "clip") == ""
    header = read_header(tmp_path / "clip")
    assert header.notes == ()
    assert header.seconds * header.rate == pytest.approx(24000, abs=2000)  # MP3 and ADPCM have whole blocks


@pytest.mark.parametrize(("container", "encoding", "byte_order"), WAV_FAMILY)
def test_truncated_wav(tmp_path, container, encoding, byte_order):
    whole = encoded(container, encoding, byte_order)
    for left in (3, 11, 12, 13, 20, 30, 43, 44, 45, 60, 80, 101, 4200, *range(4999, len(whole) - 1, 4999),
                 len(whole) - 2):
        assert fault(whole[:left], tmp_path / "clip"), f"{left} of {len(whole)} bytes"


@pytest.mark.parametrize(("container", "encoding", "byte_order"), OTHERS)
def test_truncated_others(tmp_path, container, encoding, byte_order):
    """They are refused, or when they are decoded; three are shorter recordings, which the check of a set notes."""
    whole = encoded(container, encoding, byte_order)
    for left in (12, 44, 200, len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 100):
        (tmp_path / "clip").write_bytes(whole[:left])
        header = read_header(tmp_path / "clip")
        if not header.fault and container in ("NIST", "PAF", "IRCAM"):
            assert header.seconds * header.rate < 24000
        elif not header.fault:
            assert container in ("FLAC", "MP3")
            with pytest.raises(InputError, match=r"truncated|not readable as audio"):
                read_clip(whole[:left], FEATURES)


@pytest.mark.parametrize("container", ["AIFF", "AU", "W64", "SVX"])
def test_more_after_the_audio(tmp_path, container):
    assert fault(encoded(container, "PCM_16") + bytes(1000), tmp_path / "clip") == ""


def test_aiff_without_pad(tmp_path):
    whole = encoded("AIFF", "PCM_S8", samples=SAMPLES[:2001])
    assert fault(whole[:-1], tmp_path / "clip") == ""  # the byte that makes the number of bytes even
    assert read_header(tmp_path / "clip").seconds * 8000 == 2001


READ = {
    # name: content, notes; all hold the ramp
    "plain": (wav(), ()),
    "odd chunk, padded": (wav(before=chunk(b"LIST", b"INFOx")), ()),
    "odd chunk, padded by a letter": (wav(before=b"LIST\x05\0\0\0INFOxx"), ()),
    "chunks after": (wav(after=chunk(b"LIST", b"INFO") + chunk(b"id3 ", b"ID3")), ()),
    "a large chunk after": (wav(after=chunk(b"junk", bytes(9000))), ()),
    "a torn chunk after": (wav(after=b"LIST\xff\xff"), ()),
    "ID3v1 tag after": (wav(after=b"TAG" + bytes(125)), ()),
    "SoX to a pipe": (wav(0x7FFFF000), ("open_length",)),
    "SoX to a pipe, 24 bit": (wav(0x7FFFEFFF), ("open_length",)),  # a whole number of frames of 3 bytes
    "phone": (wav(0x7FFFFFFF), ("open_length",)),
    "arecord to a pipe": (wav(0x80000000), ("open_length",)),
    "FFmpeg to a pipe": (wav(0xFFFFFFFF, before=chunk(b"LIST", b"INFO")), ("open_length",)),
    "less the header": (wav(0xFFFFFFFF - 36), ("open_length",)),
    "killed before the length was known": (wav(0), ("open_length",)),
    "RF64, killed": (long_wav(b"RF64", 0), ("open_length",)),
    "RF64 to a pipe": (long_wav(b"RF64", (1 << 64) - 1), ("open_length",)),
    "RF64": (long_wav(b"RF64", 8000), ()),
    "RF64, length in the audio chunk": (long_wav(b"RF64", 8000, in_data=8000), ()),
    "BW64": (long_wav(b"BW64", 8000), ()),
    "BW64 with chunks after": (long_wav(b"BW64", 8000, after=chunk(b"axml", b"<x/>")), ()),
    "LIST without pad": (wav(before=b"LIST\x05\0\0\0INFOx"), ("unpadded",)),
    "bext without pad": (wav(before=b"bext\x03\0\0\0abc"), ("unpadded",)),
    "two chunks without pad": (wav(before=b"LIST\x05\0\0\0INFOxJUNK\x01\0\0\0x"), ("unpadded", "unpadded")),
    "without pad, to a pipe": (wav(0xFFFFFFFF, before=b"LIST\x05\0\0\0INFOx"), ("unpadded", "open_length")),
    "ID3 tag before": (b"ID3\x04\0\0\0\0\x01\x0a" + bytes(138) + wav(), ("tag",)),
}


@pytest.mark.parametrize(("content", "notes"), READ.values(), ids=READ)
def test_read_with_notes(tmp_path, content, notes):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    assert read_header(path)[1:5] == (0.5, 8000, notes, "")
    for source in (path, content):
        with open_recording(source) as opened:
            np.testing.assert_array_equal(opened.read(dtype="int16"), RAMP)


@pytest.mark.parametrize("declared", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("encoding", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM"])
def test_open_length_of_every_encoding(encoding, declared):
    content = encoded("WAV", encoding)
    expected, _ = soundfile.read(io.BytesIO(content))
    size = content.index(b"data") + 4
    with open_recording(content[:size] + struct.pack("<I", declared) + content[size + 4:]) as opened:
        np.testing.assert_array_equal(opened.read(), expected)


def test_more_than_declared(tmp_path):
    (tmp_path / "clip.wav").write_bytes(wav(4000))
    header = read_header(tmp_path / "clip.wav")
    assert header.seconds == 0.25 and header.notes == ("more_behind",)


@pytest.mark.parametrize(("declared", "present", "form", "notes"), [
    (5 * GIB % (1 << 32), 5 * GIB, b"RIFF", ("wrapped",)),
    (9 * GIB % (1 << 32), 9 * GIB, b"RIFF", ("wrapped",)),
    (0, 4 * GIB, b"RIFF", ("wrapped",)),
    (0xFFFFFFFF, 5 * GIB, b"RIFF", ("open_length",)),
    (0xFFFFFFFF - 40, 5 * GIB, b"RIFF", ("open_length",)),
    (3 * GIB, 3 * GIB, b"RIFF", ()),
    (5 * GIB, 5 * GIB, b"RF64", ()),
    (5 * GIB, 5 * GIB, b"BW64", ()),
])
def test_gigabytes(tmp_path, declared, present, form, notes):
    path = tmp_path / "clip.wav"
    path.write_bytes(wav(declared, b"") if form == b"RIFF" else long_wav(form, declared, content=b""))
    with open(path, "ab") as file:  # a sparse file: a second of a ramp before gigabytes of silence
        file.write(RAMP_BYTES)
        start = file.tell() - 8000
    os.truncate(path, start + present)
    with open(path, "rb+") as file:
        file.seek(-10, os.SEEK_END)
        file.write(RAMP[1:6].tobytes())
    with open_recording(path) as opened:
        assert (opened.frames, opened.notes) == (present // 2, notes)
        np.testing.assert_array_equal(opened.read(4000, dtype="int16"), RAMP)
        opened.seek(opened.frames - 5)
        np.testing.assert_array_equal(opened.read(dtype="int16"), RAMP[1:6])


FLAC = encoded("FLAC", "PCM_16")
RATES = "1,000 to 1,000,000 Hz are possible"


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty file"),
    (b"R", "not readable as audio"),
    (b"version https://git-lfs.github.com/spec/v1\n", "not readable as audio (Format not recognised); restore it"),
    (bytes(5000), "not readable as audio"),
    (random.Random(0).randbytes(5000), "not readable as audio"),
    (b"RIFF" + bytes(4) + b"AVI LIST", "not readable as audio"),
    (wav(rate=1), f"declares a sample rate of 1 Hz; {RATES}"),
    (wav(rate=999), f"declares a sample rate of 999 Hz; {RATES}"),
    (wav(rate=1000), ""),
    (wav(rate=1_000_000), ""),
    (wav(rate=1_000_001), f"declares a sample rate of 1,000,001 Hz; {RATES}"),
    (wav(rate=0), "not readable as audio"),
    (wav(rate=(1 << 32) - 1), "not readable as audio"),
    (wav(channels=0), "not readable as audio"),
    (wav(20480, bytes(20480), channels=1024), ""),
    (wav(channels=65535), "not readable as audio"),
    (wav(bits=0), "not readable as audio"),
    (wav(bits=255), "not readable as audio"),
    (wav(code=0x1234), "not readable as audio"),
    (wav(code=0xFFFE, bits=24, declared=3000, content=bytes(3000), extension=EXTENSIBLE), ""),
    (wav()[:30], "truncated: ends before its audio"),
    (wav(8001), "truncated: 8,000 of 8,001 bytes of audio"),
    (wav(0x7FFFD000), "truncated: 8,000 of 2,147,471,360 bytes of audio"),
    (wav(content=b""), "truncated: 0 of 8,000 bytes of audio"),
    (long_wav(b"RF64", 5 * GIB), "truncated: 8,000 of 5,368,709,120 bytes of audio"),
    (long_wav(b"BW64", 8001), "truncated: 8,000 of 8,001 bytes of audio"),
    (b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + wav()[:-1], "truncated: 7,999 of 8,000 bytes of audio"),
    (wav(0, b""), "holds no audio"),
    (wav(0, b"", after=chunk(b"LIST", b"INFO")), "holds no audio"),
    (wav(1, b"\0"), "holds no audio"),
    (wav(before=b"junk\xff\xff\xff\xff"), "truncated: ends before its audio"),
    (wav(before=chunk(b"junk", b"") * 1000), "no audio in its first 1,000 chunks"),
    (FLAC[:22] + bytes(4) + FLAC[26:], "does not declare its length; convert it to WAV"),
])
def test_headers(tmp_path, content, reason):
    said = fault(content, tmp_path / "clip")
    assert said.startswith(reason) if reason else not said


@pytest.mark.parametrize(("settings", "name"), [
    ({"bits": 24}, "8 kHz, 24 bit, mono"), ({"rate": 44100, "channels": 2}, "44.1 kHz, 16 bit, stereo"),
    ({"rate": 22050, "bits": 8, "channels": 5}, "22.05 kHz, 8 bit, 5 channels"),
    ({"bits": 32, "code": 3}, "8 kHz, 32 bit float, mono"), ({"bits": 8, "code": 7}, "8 kHz, U-Law, mono")])
def test_format_names(tmp_path, settings, name):
    (tmp_path / "clip.wav").write_bytes(wav(3000, bytes(3000), **settings))
    assert read_header(tmp_path / "clip.wav").audio_format == name


def test_shorter_than_a_sample_of_the_features():
    with pytest.raises(InputError, match="is shorter than one sample of the features"):
        read_clip(wav(2, bytes(2), rate=1_000_000), FEATURES)


@pytest.mark.filterwarnings("error")  # an exception in a callback of libsndfile is but a warning
def test_mutated_headers_end_in_a_reason(tmp_path):
    draw = np.random.default_rng(0)
    contents = [encoded(*row, SAMPLES[:2000]) for row in WAV_FAMILY + OTHERS]
    for whole in contents + [content for content, _ in READ.values()]:
        for _ in range(20):
            content = bytearray(whole)
            for position in draw.integers(0, min(120, len(whole)), 3):
                content[position] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.integers(256)])
            (tmp_path / "clip").write_bytes(content)
            read_header(tmp_path / "clip")
            try:
                read_clip(bytes(content), FEATURES)
            except InputError:
                pass


def test_a_header_before_a_part_of_a_file():
    file = recording._Corrected(b"ab", io.BytesIO(b"xcdex"), 1, 3)
    assert [file.read(3), file.tell(), file.read(100), file.read(1)] == [b"abc", 3, b"de", b""]
    assert [file.seek(-2, os.SEEK_END), file.read(1), file.seek(-2, os.SEEK_CUR), file.read(2)] == [3, b"d", 2, b"cd"]
    assert [file.seek(-5), file.read(2), file.seek(9), file.read(1)] == [0, b"ab", 9, b""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_named_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "clip.wav")
    with pytest.raises(OSError, match="not a regular file"):
        read_clip(tmp_path / "clip.wav", FEATURES)
    assert read_header(tmp_path / "clip.wav").fault == "unreadable: not a regular file"
