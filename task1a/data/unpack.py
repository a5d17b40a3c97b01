"""Zip archives of unknown origin, unpacked so that nothing is written outside their folder.

Every file is written under a temporary name, compared with its size and checksum in the table of contents, and then
renamed, so that unpacking can be killed at any moment and continued.
"""
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from threading import Event

from task1a.data.fetch import Stopped
from task1a.errors import InputError, shown
from task1a.files import replacing

MAX_FILES, MAX_BYTES = 1_000_000, 10 * 1000 ** 3
"""Most that one archive may declare to hold; those of the TAU sets hold up to 20,000 files of 2 GB."""

RESERVED = ".download"
"""Folder of the records of a download, into which no archive may write."""

_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
           OverflowError, IndexError)


def unpack(path: Path, folder: Path, stop: Event) -> dict[str, int]:
    """Unpack an archive into a folder, without the folder that all of its files are in.

    Files that are there already, with the size and the checksum of the table of contents, are left as they are.

    Returns:
        Size in bytes of every file by its name below ``folder``, with forward slashes.

    Raises:
        InputError: the archive is damaged, holds something unsafe, or more than the disk has room for; in the latter
            two cases, nothing has been written.
        Stopped: ``stop`` was set.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            missing = {name: member for name, member in members.items() if not _is_whole(folder / name, member)}
            needed, free = sum(member.file_size for member in missing.values()), shutil.disk_usage(folder).free
            if needed > free:
                raise InputError(f"{folder}: the content of {path.name} needs {needed:,} bytes, and {free:,} are "
                                 "free; free some space and run the same command again to resume")
            for name, member in missing.items():
                if stop.is_set():
                    raise Stopped
                with replacing(folder / name) as part:
                    with archive.open(member) as content, open(part, "wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    if part.stat().st_size != member.file_size:
                        raise zipfile.BadZipFile(f"{name} is shorter than declared")
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be unpacked ({' '.join(str(error).split())[:200]})") from None
    return {name: member.file_size for name, member in members.items()}


def bytes_missing(path: Path, folder: Path) -> int:
    """Size in bytes of the files of an archive that a folder lacks, or has with another size.

    Raises:
        InputError: the archive is damaged, or holds something unsafe.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be unpacked ({' '.join(str(error).split())[:200]})") from None
    return sum(member.file_size for name, member in members.items() if not has_size(folder / name, member.file_size))


def has_size(path: Path, size: int) -> bool:
    """Whether a file exists and has a size in bytes."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their names without the common top folder, in the order of their bytes."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_FILES or declared > MAX_BYTES:
        raise InputError(f"{archive.filename}: declares {len(infos):,} files of {declared:,} bytes; at most "
                         f"{MAX_FILES:,} files of {MAX_BYTES:,} bytes are unpacked")
    for info in infos:
        if reason := _unsafe(info):
            raise InputError(f"{archive.filename}: holds {reason}, {shown(info.orig_filename)}; nothing of it was "
                             "unpacked")

    files = [info for info in infos if not info.orig_filename.endswith("/")]
    tops = {info.orig_filename.partition("/")[0] for info in files}
    strip = len(tops) == 1 and all("/" in info.orig_filename for info in files)
    members, seen = {}, set()
    for info in files:
        name = info.orig_filename.partition("/")[2] if strip else info.orig_filename
        if name.partition("/")[0].casefold() == RESERVED:
            raise InputError(f"{archive.filename}: holds a file in {RESERVED}, {shown(name)}; nothing of it was "
                             "unpacked")
        if name.casefold() in seen:  # some file systems ignore the case of letters
            raise InputError(f"{archive.filename}: holds two files of one name, {shown(name)}; nothing of it was "
                             "unpacked")
        seen.add(name.casefold())
        members[name] = info
    return members


def _unsafe(info: zipfile.ZipInfo) -> str | None:
    """The reason why a member must not be unpacked, or None."""
    name = info.orig_filename  # zipfile cuts the other name at a NUL
    for part in name.removesuffix("/").split("/"):
        if part in ("", ".", "..") or "\\" in part or ":" in part:
            return "a path that may leave its folder"
        if not part.isprintable() or part != part.rstrip(". "):
            return "a name that not every system allows"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    if info.flag_bits & 1:
        return "an encrypted file"
    return None


def _is_whole(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a file exists with the content that the table of contents tells."""
    if not has_size(path, member.file_size):
        return False
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum == member.CRC
