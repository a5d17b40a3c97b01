"""Open recordings. What libsndfile would misread without an error is refused, or read right and noted.

libsndfile takes a truncated file for a shorter recording. Of a WAV file, the format of the challenge's
data sets, the declared length is compared with what is there. Of most other containers, libsndfile's
log tells; of the rest, the check of a data set notes lengths that differ from those of the others.

Sources: Microsoft, *Multimedia Programming Interface and Data Specifications 1.0* (RIFF, in which
chunks start at even bytes); EBU Tech 3306 (RF64) and ITU-R BS.2088 (BW64), which have 64-bit lengths
in a chunk of their own, ``ds64``.

Imports no pandas, because every worker process that reads headers imports this module again.
"""
import errno
import io
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import soundfile
from soundfile import SoundFile

from task1a.errors import InputError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
            ".w64", ".rf64")
"""Files that are taken from a folder of recordings."""
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000
"""In Hz. Audio converters have 4 kHz to 768 kHz; a header with another rate is damaged, and would turn
the samples into hours of audio, or into none."""
MAX_CHUNKS = 1000
"""Number of chunks that are searched for the audio of a WAV file."""

# What programs declare that do not know the length yet: SoX 0x7FFFF000 less a part of a frame (of
# at most 4 kB), arecord 0x80000000, FFmpeg 0xFFFFFFFF. All such lengths beyond the end of the file
# are taken to be unknown.
_OPEN_LENGTH = 0x7FFFE000
# libsndfile's count for a recording that does not declare its length
_UNKNOWN_FRAMES = (1 << 63) - 1
_CHUNK = struct.Struct("<4sI")  # name and size
_CHUNK_NAMES = {b"data", b"fmt ", b"fact", b"LIST", b"bext", b"iXML", b"JUNK", b"junk", b"id3 ", b"cue ",
                b"smpl"}
_ENCODINGS = {"PCM_U8": "8 bit", "PCM_S8": "8 bit", "PCM_16": "16 bit", "PCM_24": "24 bit",
              "PCM_32": "32 bit", "FLOAT": "32 bit float", "DOUBLE": "64 bit float"}


class Recording(SoundFile):
    """A recording that is open for reading its samples."""

    notes: tuple[str, ...] = ()
    """what is odd about the file, keys of :data:`task1a.data.sound.NOTES`"""


class Header(NamedTuple):
    """Format and length in seconds of an audio file, or the reason why it cannot be used."""

    audio_format: str = ""
    seconds: float = 0.0
    rate: int = 0
    """sample rate in Hz"""
    notes: tuple[str, ...] = ()
    """what is odd about the file, keys of :data:`task1a.data.sound.NOTES`"""
    fault: str = ""
    missing: bool = False
    inode: tuple[int, int] | None = None
    """device and inode of the file, which all its names share; None on file systems without inodes"""


class FileIdentity(NamedTuple):
    """What the system knows of a file; while all of it is the same, so is the content.

    Size and modification time do not suffice: all clips of a set have the same size, archives restore
    times, and so two files that have changed names would pass for each other. A rename changes the
    change time (on Windows, where that is the time of creation, the files differ in it and in their
    numbers).
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """Return the identity in the status of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Other files are not opened: a named pipe would block until somebody writes to it, and a device may
    never end.

    Raises:
        OSError: the file does not exist, is not a regular file, or cannot be read.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except ValueError:  # a NUL, or a character that this system does not allow in names
        raise OSError(errno.EINVAL, "not a possible file name", str(path)) from None
    if not regular:
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_header(path: str | Path) -> Header:
    """Read the format and length of a recording, or find out why it cannot be used."""
    try:
        with open_regular(path) as file, open_recording(file) as recording:
            status = os.fstat(file.fileno())
            rate, channels = recording.samplerate, recording.channels
            encoding = _ENCODINGS.get(recording.subtype) or recording.subtype_info
            layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
            return Header(f"{rate / 1000:g} kHz, {encoding}, {layout}", recording.frames / rate, rate,
                          recording.notes,
                          inode=(status.st_dev, status.st_ino) if status.st_ino else None)
    except FileNotFoundError:
        return Header(fault="no such file", missing=True)
    except InputError as error:
        return Header(fault=str(error))
    except OSError as error:
        return Header(fault=f"unreadable: {error.strerror}")


@contextmanager
def open_recording(source: Path | bytes | BinaryIO) -> Iterator[Recording]:
    """Open a recording to read its samples. Errors of reading within the block are raised like
    those of opening.

    Args:
        source: path, content, or file opened for reading bytes.

    Raises:
        InputError: the recording is empty or truncated, or has an impossible header. The message is
            the reason without the name of the clip.
        OSError: the file cannot be opened or is not a regular file.
    """
    if isinstance(source, Path):
        with open_regular(source) as file, open_recording(file) as recording:
            yield recording
        return
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise InputError("empty file")
    wav = _find_audio(file)
    corrected, notes = wav.corrected(file, size) if wav else (None, ())
    opened: int | _Corrected | None = corrected
    if opened is None and (os.name == "nt" or isinstance(file, io.BytesIO)):
        opened = _Corrected(b"", file, 0, size)
    elif opened is None:
        # libsndfile reads a descriptor much faster than through Python, but on Windows it may have
        # other descriptors than Python. A buffered file may be elsewhere than it says.
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        opened = file.fileno()
    try:
        with Recording(opened, closefd=False) as recording:
            if wav is None:
                _check_log(recording.extra_info)
            if not recording.frames:
                raise InputError("holds no audio")
            if recording.frames == _UNKNOWN_FRAMES:
                raise InputError("does not declare its length; convert it to WAV")
            if not MIN_SAMPLE_RATE <= recording.samplerate <= MAX_SAMPLE_RATE:
                raise InputError(f"declares a sample rate of {recording.samplerate:,} Hz; "
                                 f"{MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,} Hz are possible")
            recording.notes = notes
            yield recording
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".").removeprefix("Error : ")
        raise InputError(f"not readable as audio ({reason}); restore it, or convert it to WAV") from None


def _check_log(log: str) -> None:
    """Raise InputError if libsndfile's log of a file says that its audio has been cut off."""
    lengths = r"(?:SSND|BODY|Data Size|data|riff) *: (\d+) \(should be (\d+)\)"
    for declared, present in re.findall(lengths, log):
        if int(declared) > int(present) + 1:  # some programs leave out the byte that makes it even
            raise InputError(f"truncated: {int(present):,} of {int(declared):,} bytes of audio")
    if re.search("Ogg.*(unexpectedly|lacks an end|Junk after)|truncated file", log):
        raise InputError("truncated: ends before its end is marked")


class _Wav(NamedTuple):
    """Where the audio of a WAV file is."""

    form: bytes
    """``RIFF``, ``RF64`` or ``BW64``"""
    head: bytes
    """chunks that describe the samples"""
    start: int
    declared: int
    notes: list[str]

    def corrected(self, file: BinaryIO, size: int) -> "tuple[_Corrected | None, tuple[str, ...]]":
        """Compare the declared length with what is there.

        Returns:
            The same audio under a header that libsndfile reads right, or None if it does so with the
            file as it is, and what is odd about the file.

        Raises:
            InputError: the file is truncated.
        """
        present, declared, notes = size - self.start, self.declared, self.notes
        plain = self.form != b"BW64" and not notes  # libsndfile finds the audio
        short = self.form == b"RIFF"  # with a length of 32 bits
        unknown = declared == 0 or declared >= (0xFFFFFF00 if short else 1 << 63)
        rest = b""
        if declared < present:
            rest = _read(file, self.start + declared + declared % 2, _CHUNK.size)
        # no chunk's name
        audio_goes_on = len(rest) == _CHUNK.size and not re.match(rb"[ -~]{4}", rest)

        # What is declared is believed if it is there. There is more in files beyond 4 GiB, or if the
        # recorder was stopped before it wrote the length; less if the file was cut off, or if the
        # length was not known when the header was written.
        length = declared
        # only the lower 32 bits of the length are there
        if short and present - declared >= 1 << 32:
            length += present - declared >> 32 << 32
            notes.append("wrapped")
        elif (unknown and audio_goes_on
              or declared > present and (unknown or short and declared >= _OPEN_LENGTH)):
            length = present
            notes.append("open_length")
        elif audio_goes_on and present > 1.1 * declared:
            notes.append("more_behind")
        if length > present:
            raise InputError(f"truncated: {max(0, present):,} of {length:,} bytes of audio")
        if plain and length == declared:
            return None, tuple(notes)
        if length < 1 << 31:
            head = struct.pack("<4sI4s", b"RIFF", 0xFFFFFFFF, b"WAVE") + self.head
            head += _CHUNK.pack(b"data", length)
        else:
            head = struct.pack("<4s4x8sIQQQI", b"RF64", b"WAVEds64", 28, 0, length, 0, 0) + self.head
            head += _CHUNK.pack(b"data", 0xFFFFFFFF)
        return _Corrected(head, file, self.start, length), tuple(notes)


def _find_audio(file: BinaryIO) -> _Wav | None:
    """Find the audio of a WAV file; None in other containers."""
    head, notes, origin = _read(file, 0, 12), [], 0
    if head[:3] == b"ID3":  # a tag, whose size has 7 bits a byte
        origin = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        head = _read(file, origin, 12)
        notes.append("tag")
    form = head[:4]
    if form not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None

    # chunk by chunk up to the audio, which may be followed by others
    position, long_length, kept = origin + 12, 0, b""
    for _ in range(MAX_CHUNKS):
        chunk = _read(file, position, _CHUNK.size)
        if len(chunk) < _CHUNK.size:
            raise InputError("truncated: ends before its audio")
        name, declared = _CHUNK.unpack(chunk)
        if name == b"data":
            if form != b"RIFF" and declared == 0xFFFFFFFF:
                declared = long_length
            return _Wav(form, kept, position + _CHUNK.size, declared, notes)
        if name == b"ds64":
            long_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt " and declared < 1000:
            kept += chunk + file.read(declared + declared % 2)
        position += _CHUNK.size + declared + declared % 2
        if declared % 2 and _read(file, position - 1, 4) in _CHUNK_NAMES:
            position -= 1  # without the byte that makes the number even
            notes.append("unpadded")
    raise InputError(f"no audio in its first {MAX_CHUNKS:,} chunks")


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    if position >= 1 << 63:  # larger than any file
        return b""
    file.seek(position)
    return file.read(count)


class _Corrected:
    """A file for libsndfile: a header, and after it a part of another file.

    Damaged files make libsndfile seek to positions before their start.
    """

    def __init__(self, header: bytes, file: BinaryIO, start: int, length: int) -> None:
        self.header, self.file, self.start, self.size = header, file, start, len(header) + length
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, count: int = -1) -> bytes:
        count = max(0, min(count, self.size - self.position))
        content = self.header[self.position:self.position + count]
        if len(content) < count:
            self.file.seek(self.start + self.position + len(content) - len(self.header))
            content += self.file.read(count - len(content))
        self.position += len(content)
        return content
