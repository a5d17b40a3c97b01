"""The files of a package that comes from a stranger: listed first, read one by one, within bounds, never extracted.

A zip is refused before anything of it is unpacked where it declares more than a package can hold, or where its members
share their bytes, as those of zip bombs do (D. Fifield, "A better zip bomb", WOOT 2019). Its table of contents is read
only up to a size, so that neither time nor memory depend on what a file claims.
"""
import copy
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from submission.findings import Finding, shown
from task1a.errors import InputError
from task1a.files import BoundedFile

MAX_MEMBERS = 1000

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
           OverflowError, IndexError, OSError)
_CHUNK = 64 * 1024
_LOCAL_HEADER = struct.Struct("<4s2xHHLLLL4s")  # before a member: flags, method, time, checksum and both sizes
_IN_ZIP64 = 0xFFFFFFFF  # a size that is given elsewhere, for it may need more bytes


class Refused(Exception):
    """A file that is not read, or cannot be; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass(frozen=True)
class Member:
    """One file of a package."""

    name: str
    """with forward slashes, below the package"""
    size: int
    """in bytes, as the package declares it"""
    open: Callable[[], BinaryIO]

    def read(self, most: int) -> bytes:
        """Its content.

        Raises:
            Refused: it has more than ``most`` bytes, or is damaged.
        """
        if self.size > most:
            raise Refused(Finding("error", self.name, "", f"{self.size:,} bytes", f"at most {most:,}"))
        return b"".join(self._chunks())

    def test(self) -> None:
        """Read it to the end and keep nothing (Refused: it is damaged)."""
        for _ in self._chunks():
            pass

    def _chunks(self) -> Iterator[bytes]:
        size = 0
        try:
            with self.open() as content:
                while chunk := content.read(_CHUNK):
                    size += len(chunk)
                    if size > self.size:
                        raise ValueError(f"more than the {self.size:,} bytes that it declares")
                    yield chunk
        except _BROKEN as error:
            raise Refused(Finding("error", self.name, "", _said(error), "a file that can be read")) from None


@contextmanager
def opened(path: Path, most_bytes: int) -> Iterator[tuple[dict[str, Member], list[Finding]]]:
    """Open a zip or a folder and list its files.

    Args:
        path: of the package.
        most_bytes: that all of its files may have together.

    Yields:
        Files by name, those that are safe to read, and what is wrong with the others.

    Raises:
        InputError: there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        yield _folder_members(path, most_bytes)
    elif not path.is_file():
        raise InputError(f"{path}: no such zip or folder")
    else:
        with BoundedFile(path) as file:
            yield _zip_members(file, path.name, most_bytes)


def _zip_members(file: BinaryIO, name: str, most_bytes: int) -> tuple[dict[str, Member], list[Finding]]:
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        return {}, [Finding("error", name, "", _said(error), "a zip file")]
    infos = archive.infolist()
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or declared > most_bytes:
        return {}, [_too_much(name, len(infos), declared, most_bytes)]
    if _overlapping(infos, archive.start_dir):
        return {}, [Finding("error", name, "", "members that share their bytes, as in a zip bomb", "each its own")]
    members, findings, seen = {}, [], set()
    for info in infos:
        member = info.orig_filename  # the other name ends where it has a NUL
        reasons = list(_unsafe(info))
        if member in seen:
            reasons.append(("the same name again", "every file once"))
        if not reasons and not _consistent(file, info):
            reasons.append(("a header that contradicts the table of contents", "a zip that every program reads alike"))
        seen.add(member)
        findings += [Finding("error", member or name, "", *reason) for reason in reasons]
        if not reasons and not member.endswith("/"):
            members[member] = Member(member, info.file_size, partial(_open, archive, info))
    return members, findings


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    """Open a member so that one byte more than it declares can be read: zipfile leaves out whatever follows."""
    info = copy.copy(info)
    info.file_size += 1
    return archive.open(info)


def _too_much(name: str, files: int, size: int, most_bytes: int) -> Finding:
    return Finding("error", name, "", f"{files:,} files of {size:,} bytes",
                   f"at most {MAX_MEMBERS:,} files of {most_bytes:,} bytes")


def _overlapping(infos: Sequence[zipfile.ZipInfo], contents_start: int) -> bool:
    places = sorted((info.header_offset, info.header_offset + _LOCAL_HEADER.size + info.compress_size)
                    for info in infos)
    starts = [*(start for start, _ in places[1:]), contents_start]
    return any(end > start for (_, end), start in zip(places, starts, strict=False))


def _consistent(file: BinaryIO, info: zipfile.ZipInfo) -> bool:
    """Whether the header before a member says what the table of contents says; zipfile reads only the latter."""
    try:
        file.seek(info.header_offset)
        _, flags, method, _, crc, packed, size, _ = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    except _BROKEN:  # it lies outside the file
        return False
    if flags & 8:  # checksum and sizes follow the member
        return method == info.compress_type
    said, right = (method, crc, packed, size), (info.compress_type, info.CRC, info.compress_size, info.file_size)
    return all(one in (other, _IN_ZIP64) for one, other in zip(said, right, strict=True))


def _unsafe(info: zipfile.ZipInfo) -> Iterator[tuple[str, str]]:
    """Yield (found, expected) for every reason not to touch a member."""
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    if "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        yield f"the path {shown(name)}", "a relative path with forward slashes that stays inside the package"
    elif not name.isprintable():
        yield f"the name {shown(name)}", "a name without control characters"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield "a link or special file", "regular files only"
    if info.flag_bits & 1:
        yield "an encrypted member", "one that everybody can read"
    if info.compress_type not in _METHODS:
        yield f"compression method {info.compress_type}", "stored or deflated members"


def _folder_members(folder: Path, most_bytes: int) -> tuple[dict[str, Member], list[Finding]]:
    members, findings, folders, listed, size = {}, [], [folder], 0, 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                listed += 1
                path = Path(entry.path)
                name = PurePosixPath(path.relative_to(folder)).as_posix()
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    findings.append(Finding("error", name, "", "a link or special file", "regular files only"))
                elif entry.is_dir():
                    folders.append(path)
                else:
                    members[name] = Member(name, entry.stat().st_size, partial(path.open, "rb"))
                    size += members[name].size
                if size > most_bytes or listed > MAX_MEMBERS:
                    return {}, [_too_much(folder.name, listed, size, most_bytes)]
    return members, sorted(findings, key=lambda finding: finding.file)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
