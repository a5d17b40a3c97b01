"""One archive of a data set: fetched over HTTP, resumed where it broke off, checked by its md5 sum,
unpacked.

Each attempt requests the bytes that are still missing (``Range``, RFC 9110, section 14). urllib3's
``Retry`` would repeat the first request, and pooch, which checks sums as well, starts every file
again, so attempts are counted here.
"""
import hashlib
import os
import random
import re
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from task1a import __version__
from task1a.errors import InputError, printable

FIRST_DELAY, LONGEST_DELAY = 1.0, 120.0
"""Seconds before the second attempt, which are doubled with every further one, up to a maximum."""
LONGEST_RETRY_AFTER = 900.0
"""Maximum number of seconds that a server can ask for in ``Retry-After``."""
ATTEMPTS, ATTEMPTS_UNANSWERED = 10, 4
"""Maximum number of consecutive attempts without new bytes; the second if the server never
responded."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000
"""An attempt that receives fewer bytes in this time is given up, like one without new bytes."""

_TIMEOUTS = 20, 30  # seconds to connect, and without a byte
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_WITH_RETRY_AFTER = (429, 503)  # Zenodo sends the header with every answer
_CHUNK, _BLOCK = 256 * 1024, 1 << 20
_SLOW = "the server sends almost nothing"
_REFUSED = {
    403: "servers refuse addresses that ask too often or seem to be robots, and proxies what their "
         "owner does not want: wait an hour, or use another network",
    407: "name the proxy of your network and its password in the environment variable HTTPS_PROXY"}
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class Stopped(Exception):
    """The work was stopped because other work failed, or by the user."""


@dataclass(frozen=True)
class Archive:
    """A file on a server."""

    name: str
    """name of the local file"""
    url: str
    size: int
    """size in bytes"""
    md5: str
    """md5 sum in hexadecimal"""


def log(text: str) -> None:
    """Print a line above the progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


def part_of(path: Path) -> Path:
    """Return the path of the bytes of an archive that were received so far."""
    return path.with_name(f"{path.name}.part")


def fetch(archive: Archive, path: Path, advance: Callable[[int], None], stop: Event) -> None:
    """Fetch an archive, or the rest of it, and check its md5 sum.

    If the sum is wrong, the file is deleted and fetched a second time. A file that is there already
    is checked, too, and an incomplete one is continued.

    Args:
        archive: what to fetch.
        path: where to store it; until its md5 sum is verified, the file is called ``<name>.part``.
        advance: receives numbers of bytes: those received and, negative, those that were deleted.
        stop: if it is set, the work stops and leaves the part.

    Raises:
        InputError: the server does not send the archive, or sends another one, or the disk is full.
        Stopped: ``stop`` was set.
    """
    part = part_of(path)
    try:
        if path.is_file():
            os.replace(path, part)
        for _ in range(2):
            md5 = hashlib.md5(usedforsecurity=False)
            with open(part, "ab+", buffering=0) as file:
                file.seek(0)
                while block := file.read(_BLOCK):
                    if stop.is_set():
                        raise Stopped
                    md5.update(block)
                _receive(archive, file, md5, advance, stop)
                os.fsync(file.fileno())
            if md5.hexdigest() == archive.md5:
                os.replace(part, path)
                return
            advance(-part.stat().st_size)
            part.unlink()
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror}); correct this and run the same "
                         "command again to resume") from None
    raise InputError(f"{archive.url}: has the md5 sum {md5.hexdigest()} instead of {archive.md5}, also "
                     f"when fetched a second time; try again later, or get {archive.name} elsewhere and "
                     f"put it into {path.parent}")


def _receive(archive: Archive, file: BinaryIO, md5: "hashlib._Hash", advance: Callable[[int], None],
             stop: Event) -> None:
    """Append the rest of an archive to ``file`` and ``md5``, in as many attempts as bring new
    bytes."""
    failures, answered = 0, False
    while (position := file.tell()) < archive.size:
        retry_after, slow = 0.0, False
        try:
            problem, retry_after = _attempt(archive, file, md5, advance, stop)
            answered, slow = True, problem == _SLOW
        except requests.exceptions.SSLError as error:
            problem = f"no secure connection ({' '.join(str(error).split())[:300]})"
        except (requests.Timeout, ReadTimeoutError):
            problem = "the server does not answer"
        except requests.ConnectionError:
            problem = "no connection to the server"
        except HTTPError:
            problem = "the connection broke off"
        except (requests.RequestException, ValueError) as error:  # ValueError: not an address
            problem = f"no answer that makes sense ({' '.join(str(error).split())[:300]})"
        if file.tell() >= archive.size:
            return
        if file.tell() > position and not slow:
            failures, answered = 0, True
        failures += 1
        if failures >= (ATTEMPTS if answered else ATTEMPTS_UNANSWERED):
            raise InputError(f"{archive.url}: {problem}; run the same command again later to resume")

        # a random part of the delay, so that clients that failed together do not come back together
        backoff = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1)) * random.uniform(0.5, 1)
        delay = max(backoff, min(retry_after, LONGEST_RETRY_AFTER))
        if delay > 5:
            log(f"{archive.name}: {printable(problem)}; next attempt in {delay:.0f} s")
        if stop.wait(delay):
            raise Stopped


def _attempt(archive: Archive, file: BinaryIO, md5: "hashlib._Hash", advance: Callable[[int], None],
             stop: Event) -> tuple[str, float]:
    """Ask for the rest of an archive once, and append what is sent.

    Returns:
        The problem, if the rest is not complete, and the seconds that the server asks to wait.

    Raises:
        InputError: the server will not send the archive later either.
        requests.RequestException, urllib3.exceptions.HTTPError, ValueError: the connection failed.
    """
    position = file.tell()
    headers = {"Accept-Encoding": "identity", "User-Agent": f"task1a/{__version__}"}
    if position:
        headers["Range"] = f"bytes={position}-"
    with requests.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUTS) as response:
        answer = f"the server answers {response.status_code} {response.reason}"
        if response.status_code in _TRANSIENT:
            wait = 0.0
            if response.status_code in _WITH_RETRY_AFTER:
                try:
                    wait = Retry().get_retry_after(response.raw) or 0.0
                except (InvalidHeader, ValueError, OverflowError):
                    pass  # neither seconds nor a date, or too many digits
            return answer, wait
        if response.status_code not in (200, 206):
            advice = _REFUSED.get(response.status_code, "try again later")
            raise InputError(f"{archive.url}: {answer}; {advice}, or get {archive.name} elsewhere, e.g. "
                             "with a browser, and put it into the folder of the data set")

        # Accept-Ranges is not asked: Zenodo serves ranges and says "none". An unknown size is "*"
        # or missing, and what is not a plausible number of bytes counts as unknown.
        start, total = 0, response.headers.get("Content-Length", "")
        if response.status_code == 206:
            extent = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)",
                                  response.headers.get("Content-Range", ""))
            if not extent:
                return "the server does not tell which part of the file it sends", 0.0
            start, total = int(extent[1]), extent[2]
        if re.fullmatch(r"\d{1,18}", total) and int(total) != archive.size:
            return f"the server offers a file of {int(total):,} bytes instead of {archive.size:,}", 0.0
        if start > position:
            return "the server sends another part of the file than it was asked for", 0.0
        return _append(response, archive.size, position - start, file, md5, advance, stop), 0.0


def _append(response: requests.Response, size: int, skip: int, file: BinaryIO, md5: "hashlib._Hash",
            advance: Callable[[int], None], stop: Event) -> str:
    """Append an answer to a file, up to ``size`` bytes, and return why it ended.

    Its first ``skip`` bytes are in the file: a server that ignores ``Range`` sends them again.
    """
    received, since = 0, time.monotonic()
    # read1 gives what has arrived; iter_content waits for a whole chunk, and drops it if the
    # connection breaks meanwhile
    while file.tell() < size and (chunk := response.raw.read1(_CHUNK, decode_content=False)):
        if stop.is_set():
            raise Stopped
        received += len(chunk)
        new = memoryview(chunk)[skip:][:size - file.tell()]
        skip = max(0, skip - len(chunk))
        while new:  # a disk that is nearly full takes only a part of it
            written = file.write(new)
            md5.update(new[:written])
            advance(written)
            new = new[written:]
        if time.monotonic() - since > SLOW_SECONDS:
            if received < SLOW_BYTES:
                return _SLOW
            received, since = 0, time.monotonic()
    return "the connection ended early"


def unpack(path: Path, folder: Path, stop: Event) -> dict[str, int]:
    """Unpack an archive into a folder, without the folder that all of its files are in.

    Every file is written under a temporary name, compared with its checksum and renamed, so that
    unpacking can be killed at any moment and continued. Files that are there already, with the size
    and the checksum of the table of contents, are left as they are. The md5 sum of the archive has
    been verified, so its names are those that were published; zipfile keeps any others in the folder.

    Returns:
        Size in bytes of every file by its name below ``folder``, with forward slashes.

    Raises:
        InputError: the archive is damaged, or the disk has no room for it or cannot be written.
        Stopped: ``stop`` was set.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            tops = {info.filename.partition("/")[0] for info in files}
            strip = len(tops) == 1 and all("/" in info.filename for info in files)
            sizes, missing = {}, {}
            for info in files:
                name = info.filename.partition("/")[2] if strip else info.filename
                sizes[name] = info.file_size
                # clips of 1 MB, so their content is compared in memory
                if (not has_size(folder / name, info.file_size)
                        or zlib.crc32((folder / name).read_bytes()) != info.CRC):
                    missing[name] = info
            needed = sum(info.file_size for info in missing.values())
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise InputError(f"{folder}: the content of {path.name} needs {needed:,} bytes, and "
                                 f"{free:,} are free; free some space and run the same command again to "
                                 "resume")
            for name, info in missing.items():
                if stop.is_set():
                    raise Stopped
                # the same name each time, so that nothing is left of a killed process
                above, _, last = name.rpartition("/")
                info.filename = f"{above}/.{last}.part"
                # zipfile fails if an archive that is unpacked at the same time makes the folder first
                inside = [step for step in above.split("/") if step not in ("", ".", "..")]
                folder.joinpath(*inside).mkdir(parents=True, exist_ok=True)
                part = Path(archive.extract(info, folder))
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, part.with_name(part.name[1:].removesuffix(".part")))
    except _BROKEN_ZIP as error:
        raise InputError(f"{path}: cannot be unpacked ({' '.join(str(error).split())[:200]})") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free some space and run the "
                         "same command again to resume") from None
    return sizes


def has_size(path: Path, size: int) -> bool:
    """Return whether a regular file exists and has a size in bytes."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size
