"""Unpacking of archives whose md5 sum has been verified.

Every file is written under a temporary name, compared with its checksum in the table of contents, and then renamed, so
that unpacking can be killed at any moment and continued.
"""
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from threading import Event

from task1a.data.fetch import Stopped
from task1a.errors import InputError, shown

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpack(path: Path, folder: Path, stop: Event) -> dict[str, int]:
    """Unpack an archive into a folder, without the folder that all of its files are in.

    Files that are there already, with the size and the checksum of the table of contents, are left as they are.

    Returns:
        Size in bytes of every file by its name below ``folder``, with forward slashes.

    Raises:
        InputError: the archive is damaged or cannot be written; or, before anything is written, it holds a path that
            leads out of the folder, or more than the disk has room for.
        Stopped: ``stop`` was set.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            tops = {info.filename.partition("/")[0] for info in files}
            strip = len(tops) == 1 and all("/" in info.filename for info in files)
            members = {info.filename.partition("/")[2] if strip else info.filename: info for info in files}
            for name in members:
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise InputError(f"{path}: holds {shown(name)}, outside its folder; nothing of it was unpacked")
            missing = {name: info for name, info in members.items() if not _is_complete(folder / name, info)}
            needed, free = sum(info.file_size for info in missing.values()), shutil.disk_usage(folder).free
            if needed > free:
                raise InputError(f"{folder}: the content of {path.name} needs {needed:,} bytes, and {free:,} are "
                                 "free; free some space and run the same command again to resume")
            for name, info in missing.items():
                if stop.is_set():
                    raise Stopped
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # the same name each time, so that nothing is left of a killed process
                part = target.with_name(f".{target.name}.part")
                part.unlink(missing_ok=True)
                with archive.open(info) as content, open(part, "xb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be unpacked ({' '.join(str(error).split())[:200]})") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free some space and run the same command "
                         "again to resume") from None
    return {name: info.file_size for name, info in members.items()}


def has_size(path: Path, size: int) -> bool:
    """Whether a file exists and has a size in bytes."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _is_complete(path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a file exists with the content that the table of contents tells."""
    if not has_size(path, info.file_size):
        return False
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum == info.CRC
