"""The files of a package of unknown origin: listed first, read one by one, within bounds, never extracted.

A zip is refused before anything is unpacked if it declares more than a package can hold, or if its members overlap, as
in zip bombs (D. Fifield, "A better zip bomb", WOOT 2019). Its table of contents is read only up to a maximum size, so
neither time nor memory depend on what a file claims.
"""
import copy
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from submission.findings import Finding
from task1a.errors import InputError, shown
from task1a.files import BoundedFile

MAX_MEMBERS = 1000

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
           OverflowError, IndexError, OSError)
_CHUNK = 64 * 1024
_LOCAL_HEADER = struct.Struct("<4s2xHHLLLL4s")  # before a member: flags, method, time, checksum and both sizes
_IN_ZIP64 = 0xFFFFFFFF  # stands for a size that may need more than four bytes and is given elsewhere


@dataclass(frozen=True)
class Member:
    """One file of a package."""

    name: str
    """with forward slashes, below the package"""
    size: int
    """declared size in bytes"""
    open: Callable[[], BinaryIO]

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
        yield _folder_members(path, max_bytes, without)
    elif not path.is_file():
        raise InputError(f"{path}: no such zip or folder")
    else:
        with BoundedFile(path) as file:
            yield _zip_members(file, path.name, max_bytes)


def _zip_members(file: BinaryIO, name: str, max_bytes: int) -> tuple[dict[str, Member], list[Finding]]:
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        return {}, [Finding("error", name, "", _one_line(error), "a zip file")]
    infos = archive.infolist()
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or declared > max_bytes:
        return {}, [_too_large(name, len(infos), declared, max_bytes)]

    ordered = sorted(infos, key=lambda info: info.header_offset)
    starts = [*(info.header_offset for info in ordered), archive.start_dir]
    for info, next_start in zip(ordered, starts[1:], strict=True):
        if info.header_offset + _LOCAL_HEADER.size + info.compress_size > next_start:
            return {}, [Finding("error", name, "", "members that share their bytes, as in a zip bomb", "each its own")]

    members, findings, seen = {}, [], set()
    for info in infos:
        member = info.orig_filename  # zipfile cuts the other name at a NUL
        reasons = list(_unsafe(info))
        if member in seen:
            reasons.append(("the same name again", "every file once"))
        if not reasons and not _consistent(file, info):
            reasons.append(("a header that contradicts the table of contents", "a zip that every program reads alike"))
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


def _consistent(file: BinaryIO, info: zipfile.ZipInfo) -> bool:
    """Whether the header before a member agrees with the table of contents; zipfile reads only the latter."""
    try:
        file.seek(info.header_offset)
        _, flags, method, _, crc, packed, size, _ = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    except _BROKEN:  # it lies outside the file
        return False
    if flags & 8:  # checksum and sizes follow the member
        return method == info.compress_type
    header = (method, crc, packed, size)
    contents = (info.compress_type, info.CRC, info.compress_size, info.file_size)
    return all(stated in (right, _IN_ZIP64) for stated, right in zip(header, contents, strict=True))


def _unsafe(info: zipfile.ZipInfo) -> Iterator[tuple[str, str]]:
    """Yield (found, expected) for every reason not to read a member."""
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


def _folder_members(folder: Path, max_bytes: int,
                    without: Collection[Path]) -> tuple[dict[str, Member], list[Finding]]:
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
