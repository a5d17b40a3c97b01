"""Files: atomic writes, digests, JSON, and a strict YAML reader.

The YAML reader accepts plain data only. It rejects aliases (``*name``), which can expand a small file
without bound, and repeated keys, of which PyYAML keeps the last.
"""
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from task1a.errors import InputError, shown

MAX_YAML_BYTES = 1 << 20
"""Maximum size of a YAML file."""

MAX_CONTENTS_BYTES = 1 << 20
"""Maximum size of the table of contents of a zip."""

_MAX_DEPTH = 50
# errors of a file that another process has locked: of POSIX, and of Windows, where EACCES has no
# other cause for an open file
_LOCKED = (errno.EACCES, errno.EDEADLK) if os.name == "nt" else (errno.EAGAIN, errno.EWOULDBLOCK)
_PART_SECONDS = 3600.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` when the block succeeds and is removed otherwise.

    A reader of ``path`` sees the old file or the new one, never a part, even after a power failure,
    and whatever other processes write there. Nobody can plant a link under the temporary name,
    which has random digits; remains of killed processes are removed after an hour.

    Raises:
        InputError: ``path`` is a folder, or the disk is full or read-only.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder where a file belongs; remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder, because a rename is atomic only within a file system
    part = path.with_name(f".task1a-{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as created:
            now = os.fstat(created.fileno()).st_mtime
        for old in path.parent.glob(".task1a-*.part"):
            with suppress(OSError):  # another process may remove it as well
                if now - old.lstat().st_mtime > _PART_SECONDS:
                    old.unlink()
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}); free some space and run the same "
                         "command again to resume") from None
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left of :func:`replacing` below a folder in which no other
    process writes."""
    for part in folder.rglob(".task1a-*.part"):
        part.unlink(missing_ok=True)


class Busy(InputError):
    """Another process holds a lock."""


@contextmanager
def exclusive(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold a lock file, whose lock the system releases however the process ends.

    The package filelock is not used: depending on its version, it takes a file system without locks
    for one on which another process holds the lock, or turns to files that a killed process leaves
    locked.

    Args:
        path: the lock file, which may be removed by the process that holds it.
        waiting: printed once if another process holds the lock, which is then waited for; None raises.

    Raises:
        Busy: another process holds the lock.
        InputError: the file cannot be opened, or its file system has no locks.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened for writing ({error.strerror}); choose a folder that "
                             "you may write in, or ask its owner for the permission") from None
        try:
            if sys.platform == "win32":  # which a type checker knows, unlike os.name
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
            # the file was removed meanwhile, so the next process would make and lock
            # another one
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _LOCKED:
                raise InputError(f"{path.parent}: its file system offers no locks ({error.strerror}), so "
                                 "nothing would keep two processes apart; choose a folder on a local disk, or "
                                 "have it mounted with locks (Lustre: -o flock; NFS: with its lock service)"
                                 ) from None
        if waiting is None:
            raise Busy(f"{path.parent}: another process is working there; wait until it ends")
        if waiting:
            print(waiting, file=sys.stderr, flush=True)
            waiting = ""
        time.sleep(0.2)
    try:
        yield
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it exists.

    Raises:
        InputError: ``path`` is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder where a file belongs; remove it")
    path.unlink(missing_ok=True)


def copy(source: Path, path: Path) -> None:
    """Copy a file, atomically."""
    with replacing(path) as part:
        shutil.copyfile(source, part)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 without changing its line ends, atomically."""
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, atomically; NaN and infinity raise ValueError."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """Return plain data as indented JSON; NaN and infinity raise ValueError."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Check files that a user named for the output of a command, before it starts.

    Args:
        outputs: files by the options that name them; None for an option that is not given.
        inputs: files that the command reads.

    Raises:
        InputError: an output is a folder, or the same file as an input or another output, by
            whatever name.
    """
    seen: dict[object, str] = {}
    for read in inputs:
        with suppress(OSError):  # whoever reads it reports it
            status = read.stat()
            seen[status.st_dev, status.st_ino] = f"is also an input, {read},"
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{option} {path}: is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            continue  # /dev/null, a pipe or a terminal takes everything
        identity: object = os.path.realpath(path)
        if path.exists():
            identity = path.stat().st_dev, path.stat().st_ino
        if identity in seen:
            raise InputError(f"{option} {path}: {seen[identity]} and would be overwritten; give another name")
        seen[identity] = f"is the file of {option}, too,"


def write_output(path: Path, text: str) -> None:
    """Write a text as UTF-8 into a file that a user named: a link is followed to its target, and a
    device or a pipe is written into, where :func:`write_text` would replace both by a file."""
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(text.encode("utf-8"))
    else:
        write_text(Path(os.path.realpath(path)), text)


def read_json(path: Path) -> Any:
    """Read plain data from a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Read plain data from a YAML file.

    Raises:
        InputError: the file is too large or :func:`parse_yaml` rejects it; the message names the line.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_YAML_BYTES:
        raise InputError(f"{path}: {size:,} bytes; a YAML file has at most {MAX_YAML_BYTES:,}")
    try:
        return parse_yaml(path.read_bytes())
    except YAMLError as error:
        raise InputError(f"{path}: {error}") from None


class YAMLError(ValueError):
    """A text is not valid YAML, or has elements that this project rejects."""

    def __init__(self, problem: object, line: int | None) -> None:
        self.problem = " ".join(str(problem).split())[:200]
        self.line = line
        """line number from 1, or None if unknown"""
        super().__init__(f"not valid YAML: {f'line {line}: ' if line else ''}{self.problem}")


def parse_yaml(content: bytes | str) -> Any:
    """Parse YAML into plain data: dictionaries, lists, text, numbers, booleans, dates and None.

    Raises:
        YAMLError: the content is not UTF-8, not YAML, or nested too deeply, or has line ends other
            than LF and CR LF, aliases, repeated keys, or values that cannot be represented.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        text.encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise YAMLError(f"not UTF-8 text ({error.reason})", None) from None
    # line ends in YAML 1.1, but ordinary characters in YAML 1.2, editors and other programs
    if found := re.search("[\x85\u2028\u2029]", text):
        raise YAMLError(f"the line separator {found[0]!a}; end lines with LF",
                        text.count("\n", 0, found.start()) + 1)
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YAMLError(error.problem or error.context or "no YAML", line) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YAMLError(error, None) from None


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that rejects aliases, repeated keys and deep nesting, and names lines in its
    errors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="references (*) are not supported; repeat the value",
                                       problem_mark=mark)
        if len(self.states) > _MAX_DEPTH:  # the parser keeps a state for each level
            raise yaml.MarkedYAMLError(problem=f"more than {_MAX_DEPTH} levels of nesting", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # "\ud800" is half a character
            return value
        except (KeyError, AttributeError, IndexError, TypeError, ValueError, OverflowError):  # !!bool maybe
            raise yaml.MarkedYAMLError(problem=f"no valid {node.tag.rpartition(':')[2]}: {shown(node.value)}",
                                       problem_mark=node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise yaml.MarkedYAMLError(problem=f"repeated key {shown(key.value)}",
                                               problem_mark=key.start_mark)
                keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class BoundedFile(io.FileIO):
    """A file for ``zipfile``, which reads a table of contents at once, with a bound on its size."""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to ``size`` bytes; more than the maximum of a table of contents raises
        ``zipfile.BadZipFile``."""
        if size is not None and size > MAX_CONTENTS_BYTES:
            raise zipfile.BadZipFile(f"its table of contents has {size:,} bytes; the maximum is {MAX_CONTENTS_BYTES:,}")
        return super().read(MAX_CONTENTS_BYTES if size is None or size < 0 else size)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()
