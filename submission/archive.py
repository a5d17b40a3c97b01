"""Reading a package that comes from a stranger: in memory, within bounds, never extracted."""
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from submission.findings import Finding, shown
from task1a.errors import InputError

MAX_BYTES = 64 * 1024 * 1024
"""of all members together, and of the zip itself"""
MAX_MEMBERS = 1000

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


def read(path: Path) -> tuple[dict[str, bytes], list[Finding]]:
    """Read the files of a zip or of a folder.

    Returns:
        Content by name, with forward slashes, of what is safe to read; and what is not.

    Raises:
        InputError: there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such zip or folder")
    if path.stat().st_size > MAX_BYTES:
        return {}, [Finding("error", path.name, "", f"{path.stat().st_size:,} bytes", f"at most {MAX_BYTES:,}")]
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, path.name)
    except _BROKEN as error:
        return {}, [Finding("error", path.name, "", str(error), "a zip file")]


def _read_zip(archive: zipfile.ZipFile, name: str) -> tuple[dict[str, bytes], list[Finding]]:
    infos = archive.infolist()
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or declared > MAX_BYTES:
        return {}, [Finding("error", name, "", f"{len(infos):,} members of {declared:,} bytes",
                            f"at most {MAX_MEMBERS:,} members of {MAX_BYTES:,} bytes")]
    findings, members = [], {}
    for info in infos:
        unsafe = [Finding("error", info.orig_filename, "", *reason) for reason in _unsafe(info)]
        if info.filename in members:
            unsafe.append(Finding("error", info.filename, "", "the same name again", "every member once"))
        findings += unsafe
        if unsafe or info.is_dir():
            continue
        try:
            with archive.open(info) as member:
                # zipfile reads no further than the declared size, and then compares the checksum
                members[info.filename] = member.read(MAX_BYTES)
        except _BROKEN as error:
            findings.append(Finding("error", info.filename, "", str(error), "a member that can be read"))
    return members, findings


def _unsafe(info: zipfile.ZipInfo) -> Iterator[tuple[str, str]]:
    """Yield (found, expected) for every reason not to touch a member."""
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        yield f"the path {shown(name)}", "a relative path with forward slashes that stays inside the package"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield "a link or special file", "regular files only"
    if info.flag_bits & 1:
        yield "an encrypted member", "one that everybody can read"
    if info.compress_type not in _METHODS:
        yield f"compression method {info.compress_type}", "stored or deflated members"


def _read_folder(folder: Path) -> tuple[dict[str, bytes], list[Finding]]:
    members, findings, left = {}, [], MAX_BYTES
    for above, folders, files in os.walk(folder):
        folders.sort()
        for entry in sorted(Path(above) / name for name in (*folders, *files)):
            name = PurePosixPath(entry.relative_to(folder)).as_posix()
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                findings.append(Finding("error", name, "", "a link or special file", "regular files only"))
            elif entry.is_file():
                left -= entry.stat().st_size
                if left < 0 or len(members) == MAX_MEMBERS:
                    return {}, [Finding("error", folder.name, "", "more than a package can hold",
                                        f"at most {MAX_MEMBERS:,} files of {MAX_BYTES:,} bytes")]
                members[name] = entry.read_bytes()
    return members, findings
