"""The files of a package of unknown origin: listed first, read one by one, within bounds, never
extracted.

A zip is refused before anything is unpacked if it declares more than a package can hold, or if its
members overlap, as in zip bombs (D. Fifield, "A better zip bomb", WOOT 2019). Its table of contents
is read only up to a maximum size, so neither time nor memory depend on what a file claims. A zip
states most facts twice; where the two contradict each other, programs would read different
packages, so that is refused, too.
"""
import copy
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from submission.validation.findings import Finding
from task1a.errors import InputError, shown
from task1a.files import BoundedFile

MAX_MEMBERS = 1000
# of nested folders
_MAX_DEPTH = 20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
           OverflowError, IndexError, OSError)
_CHUNK = 64 * 1024
# before a member: flags, method, time, checksum, both sizes, lengths of the name and of the extra
# fields
_LOCAL_HEADER = struct.Struct("<4s2xHHLLLLHH")
# after the table of contents: two disks, two numbers of members, its size, its place, and the
# length of a comment; before that in zip64 the same wider, and the place of this record
_END, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4s12x2L4Q4s4xQ4x")
_IN_ZIP64 = (0xFFFF, 0xFFFFFFFF)  # stand for numbers that may need more bytes and are given elsewhere
_ENCRYPTED, _UTF8 = 0x2041, 0x800  # flags
_DESCRIPTORS = (12, 16, 20, 24)  # sizes of a record behind a member with its checksum and sizes
_NO_ASCII = re.compile(rb"[\x80-\xff]+")  # differs between encodings
_ALIKE = "a zip that every program reads alike; zip the files again"


@dataclass(frozen=True)
class Member:
    """One file of a package."""

    name: str
    """with forward slashes, below the package"""
    size: int
    """declared size in bytes"""
    open: Callable[[], IO[Any]]

    @property
    def base(self) -> str:
        """Name without folders."""
        return self.name.rpartition("/")[2]

    def read(self, max_bytes: int) -> tuple[bytes | None, list[Finding]]:
        """Read the whole content.

        Returns:
            The content; if the file has more than ``max_bytes`` or is damaged, None and the reason.
        """
        if self.size > max_bytes:
            return None, [Finding("error", self.name, "", f"{self.size:,} bytes", f"at most {max_bytes:,}")]
        chunks, size = [], 0
        try:
            with self.open() as content:
                while chunk := content.read(_CHUNK):  # BoundedFile refuses longer reads
                    size += len(chunk)
                    if size > self.size:
                        raise ValueError(f"more than the {self.size:,} bytes that it declares")
                    chunks.append(chunk)
        except _BROKEN as error:
            return None, [Finding("error", self.name, "", _one_line(error), "a file that can be read")]
        return b"".join(chunks), []


@contextmanager
def opened(path: Path, max_bytes: int,
           without: Collection[Path] = ()) -> Iterator[tuple[dict[str, Member], list[Finding]]]:
    """Open a zip or a folder and list its files.

    Args:
        path: the package.
        max_bytes: maximum size of all files together.
        without: folders in the folder that are no part of the package.

    Yields:
        The files that are safe to read, by name, and findings about the others.

    Raises:
        InputError: ``path`` does not exist.
    """
    path = Path(path)
    if path.is_dir():
        yield read_folder(path, max_bytes, without)
    elif not path.is_file():
        raise InputError(f"{path}: no such zip or folder")
    else:
        with BoundedFile(path) as file:
            yield read_zip(file, path.name, max_bytes)


def read_zip(file: BinaryIO, name: str, max_bytes: int) -> tuple[dict[str, Member], list[Finding]]:
    """Return the members of a zip that are safe to read, and findings about the others."""
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        return {}, [Finding("error", name, "", _one_line(error), "a zip file")]
    infos = archive.infolist()
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or declared > max_bytes:
        return {}, [_too_large(name, len(infos), declared, max_bytes)]

    if not _end_agrees(file, archive):
        return {}, [Finding("error", name, "", "an end that contradicts the table of contents", _ALIKE)]
    next_starts, next_start = {}, archive.start_dir
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + _LOCAL_HEADER.size + info.compress_size > next_start:
            return {}, [Finding("error", name, "", "overlapping members, as in a zip bomb",
                                "members that do not overlap")]
        next_starts[info.header_offset] = next_start
        next_start = info.header_offset

    # one unsafe member does not hide what is wrong with the others
    members, findings, seen = {}, [], set()
    for info in infos:
        member = info.orig_filename  # zipfile cuts the other name at a NUL
        reasons = list(_unsafe(info))
        if member in seen:
            reasons.append(("the same name again", "every file once"))
        if not reasons and not _header_agrees(file, info, next_starts[info.header_offset]):
            return {}, [Finding("error", member, "", "a header that contradicts the table of contents", _ALIKE)]
        seen.add(member)
        findings += [Finding("error", member or name, "", *reason) for reason in reasons]
        if not reasons and not member.endswith("/"):
            # zipfile silently ends at the declared size; one byte more shows whether there is more
            longer = copy.copy(info)
            longer.file_size += 1
            members[member] = Member(member, info.file_size, partial(archive.open, longer))
    return members, findings


def _too_large(name: str, files: int, size: int, max_bytes: int) -> Finding:
    return Finding("error", name, "", f"{files:,} files of {size:,} bytes",
                   f"at most {MAX_MEMBERS:,} files of {max_bytes:,} bytes")


def _end_agrees(file: BinaryIO, archive: zipfile.ZipFile) -> bool:
    """Return whether the end of a zip describes its table of contents, of which zipfile only reads
    the size there."""
    try:
        end = file.seek(-_END.size - len(archive.comment), os.SEEK_END)
        signature, *stated, comment = _END.unpack(file.read(_END.size))
        file.seek(max(end - _END64.size, 0))
        wide, *larger, locator, place = _END64.unpack(file.read(_END64.size).ljust(_END64.size))
        if (wide, locator) == (b"PK\6\6", b"PK\6\7"):  # also where no number needs it
            end -= _END64.size
            stated = [large if value in _IN_ZIP64 else value for value, large in zip(stated, larger, strict=True)]
            if place != end or larger != stated:
                return False
    except _BROKEN:
        return False
    count, start = len(archive.infolist()), archive.start_dir
    return (signature, comment, stated) == (b"PK\5\6", len(archive.comment), [0, 0, count, count, end - start, start])


def _header_agrees(file: BinaryIO, info: zipfile.ZipInfo, next_start: int) -> bool:
    """Return whether the header before a member agrees with the table of contents, and nothing is
    hidden behind the member."""
    try:
        file.seek(info.header_offset)
        signature, flags, method, _, crc, packed, size, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        name, extra = map(file.read, lengths)
    except _BROKEN:  # it lies outside the file
        return False
    behind = next_start - info.header_offset - _LOCAL_HEADER.size - sum(lengths) - info.compress_size
    follows = flags & 8  # checksum and sizes follow the member
    numbers = ((crc, info.CRC), (packed, info.compress_size), (size, info.file_size))
    names = {_NO_ASCII.sub(b"?", path) for path in (name, *_unicode_paths(extra + info.extra))}
    heeded = _ENCRYPTED | (0 if name.isascii() else _UTF8)
    return (signature == b"PK\3\4" and name == info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
            and not (flags ^ info.flag_bits) & heeded and not info.volume and method == info.compress_type
            and all(stated in (right, _IN_ZIP64[1]) or follows and not stated for stated, right in numbers)
            and (behind == 0 or follows and behind in _DESCRIPTORS) and len(names) == 1)


def _unicode_paths(extra: bytes) -> Iterator[bytes]:
    """Yield other names of a member, in its extra fields, which some programs prefer."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 0x7075:
            yield extra[9:4 + length]  # after a version and the checksum of the plain name
        extra = extra[4 + length:]


def _unsafe(info: zipfile.ZipInfo) -> Iterator[tuple[str, str]]:
    """Yield (found, expected) for every reason not to read a member."""
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        yield f"the path {shown(name)}", "a relative path with forward slashes that stays inside the package"
    elif not name.isprintable():
        yield f"the name {shown(name)}", "a name without control characters"
    elif name.endswith("/") and (info.file_size or info.compress_size > 2):  # an empty stream has two bytes
        yield "a folder with content", _ALIKE
    elif not name.endswith("/") and (kind == stat.S_IFDIR or info.external_attr & 0x10):  # of Unix or of Windows
        yield "a file marked as a folder", _ALIKE
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield "a link or special file", "regular files only"
    if info.flag_bits & _ENCRYPTED:
        yield "an encrypted member", "one that everybody can read"
    if info.compress_type not in _METHODS:
        yield f"compression method {info.compress_type}", "stored or deflated members"


def read_folder(folder: Path, max_bytes: int,
                without: Collection[Path]) -> tuple[dict[str, Member], list[Finding]]:
    """Return the files below a folder that are safe to read, and findings about the others."""
    members, findings, folders, listed, size = {}, [], [folder], 0, 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path in without:
                    continue
                listed += 1
                name = PurePosixPath(path.relative_to(folder)).as_posix()
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    findings.append(Finding("error", name, "", "a link or special file", "regular files only"))
                elif entry.is_dir() and name.count("/") == _MAX_DEPTH:
                    return {}, [Finding("error", name, "", "a folder this deep", f"at most {_MAX_DEPTH} above a file")]
                elif entry.is_dir():
                    folders.append(path)
                else:
                    members[name] = Member(name, entry.stat().st_size, partial(path.open, "rb"))
                    size += members[name].size
                if size > max_bytes or listed > MAX_MEMBERS:
                    return {}, [_too_large(folder.name, listed, size, max_bytes)]
    return members, sorted(findings, key=lambda finding: finding.file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
