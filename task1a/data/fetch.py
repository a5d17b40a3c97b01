"""Archives over HTTP: resumed where they broke off, retried, and checked by their md5 sums.

Each attempt requests the bytes that are still missing (``Range``, RFC 9110, section 14). urllib3's ``Retry`` would
repeat the first request, and pooch, which checks sums as well, starts every file again, so attempts are counted here.
An answer is judged by its status and ``Content-Range`` alone, because Zenodo serves ranges although it says
``Accept-Ranges: none``. Of a server that ignores ``Range``, what it sends of the part on disk is skipped.
"""
import hashlib
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import BinaryIO

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from task1a.errors import InputError, printable

FIRST_DELAY, LONGEST_DELAY = 1.0, 120.0
"""Seconds before the second attempt, which are doubled with every further one, up to a maximum."""
LONGEST_RETRY_AFTER = 900.0
"""Maximum number of seconds that a server can ask for in ``Retry-After``."""
ATTEMPTS, ATTEMPTS_UNANSWERED = 10, 4
"""Maximum number of consecutive attempts without new bytes; the second if the server never responded."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000
"""An attempt that receives fewer bytes in this time is given up, like one without new bytes."""

_TIMEOUTS = 20, 30  # seconds to connect, and without a byte
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_WITH_RETRY_AFTER = (429, 503)  # Zenodo sends the header with every answer
_CHUNK = 256 * 1024
_REFUSED = {
    403: "servers refuse addresses that ask too often or seem to be robots, and proxies what their owner does not "
         "want: wait an hour, or use another network",
    407: "name the proxy of your network and its password in the environment variable HTTPS_PROXY"}


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


def say(text: str) -> None:
    """Print a line above the progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


def part_of(path: Path) -> Path:
    """Path of the bytes of an archive that were received so far."""
    return path.with_name(f"{path.name}.part")


def fetch(archive: Archive, path: Path, advance: Callable[[int], None], stop: Event) -> None:
    """Fetch an archive, or the rest of it, and check its md5 sum.

    If the sum is wrong, the file is deleted and fetched a second time. A file that is there already is checked, too,
    and an incomplete one is continued.

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
                while block := file.read(1 << 20):
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
        raise InputError(f"{part}: cannot be written ({error.strerror}); correct this and run the same command again "
                         "to resume") from None
    raise InputError(f"{archive.url}: has the md5 sum {md5.hexdigest()} instead of {archive.md5}, also when fetched a "
                     f"second time; try again later, or get {archive.name} elsewhere and put it into {path.parent}")


def _receive(archive: Archive, file: BinaryIO, md5: "hashlib._Hash", advance: Callable[[int], None],
             stop: Event) -> None:
    """Append the rest of an archive to ``file`` and ``md5``, with as many attempts as it takes while some succeed."""
    failures, answered = 0, False
    while (position := file.tell()) < archive.size:
        retry_after, slow = 0.0, False
        try:
            problem, retry_after = _attempt(archive, file, md5, advance, stop)
            answered, slow = True, problem == _SLOW
        except (requests.RequestException, HTTPError, ValueError) as error:  # ValueError: an address that is none
            problem = _reason(error)
        if file.tell() >= archive.size:
            return
        if file.tell() > position and not slow:
            failures, answered = 0, True
        failures += 1
        if failures >= (ATTEMPTS if answered else ATTEMPTS_UNANSWERED):
            raise InputError(f"{archive.url}: {problem}; run the same command again later to resume")

        backoff = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1)) * random.uniform(0.5, 1)
        delay = max(backoff, min(retry_after, LONGEST_RETRY_AFTER))
        if delay > 5:
            say(f"{archive.name}: {printable(problem)}; next attempt in {delay:.0f} s")
        if stop.wait(delay):
            raise Stopped


_SLOW = "the server sends almost nothing"


def _attempt(archive: Archive, file: BinaryIO, md5: "hashlib._Hash", advance: Callable[[int], None],
             stop: Event) -> tuple[str, float]:
    """Ask for the rest of an archive once, and append what is sent.

    Returns:
        The problem, if the rest is not complete, and the number of seconds that the server asks to wait.

    Raises:
        InputError: the server will not send the archive later either.
        requests.RequestException, urllib3.exceptions.HTTPError, ValueError: the connection failed.
    """
    position = file.tell()
    headers = {"Accept-Encoding": "identity", "User-Agent": user_agent()}
    if position:
        headers["Range"] = f"bytes={position}-"
    with requests.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUTS) as response:
        answer = f"the server answers {response.status_code} {response.reason}"
        if response.status_code in _TRANSIENT:
            return answer, _retry_after(response)
        if response.status_code not in (200, 206):
            advice = _REFUSED.get(response.status_code, "try again later")
            raise InputError(f"{archive.url}: {answer}; {advice}, or get {archive.name} elsewhere, e.g. with a "
                             "browser, and put it into the folder of the data set")
        # an unknown size is "*", or not told; what is no number of bytes is not believed
        extent = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if response.status_code == 206 and not extent:
            return "the server does not tell which part of the file it sends", 0.0
        start = int(extent[1]) if response.status_code == 206 else 0
        total = extent[2] if response.status_code == 206 else response.headers.get("Content-Length", "")
        if re.fullmatch(r"\d{1,18}", total) and int(total) != archive.size:
            return f"the server offers a file of {int(total):,} bytes instead of {archive.size:,}", 0.0
        if start > position:
            return "the server sends another part of the file than it was asked for", 0.0

        skip, received, since = position - start, 0, time.monotonic()
        # what has arrived, whereas iter_content waits for a whole chunk and drops a part of it if the connection breaks
        while file.tell() < archive.size and (chunk := response.raw.read1(_CHUNK, decode_content=False)):
            if stop.is_set():
                raise Stopped
            received += len(chunk)
            new = memoryview(chunk)[skip:][:archive.size - file.tell()]
            skip = max(0, skip - len(chunk))
            while new:  # a disk that is nearly full takes only a part of it
                written = file.write(new)
                md5.update(new[:written])
                advance(written)
                new = new[written:]
            if time.monotonic() - since > SLOW_SECONDS:
                if received < SLOW_BYTES:
                    return _SLOW, 0.0
                received, since = 0, time.monotonic()
    return "the connection ended early", 0.0


def user_agent() -> str:
    """The name by which a server knows this program: its version and, where the package gives one, its address."""
    try:
        package = metadata.metadata("task1a")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "task1a"
    address = f" (+{package['Home-page']})" if "Home-page" in package else ""
    return f"task1a/{package['Version']}{address}"


def _retry_after(response: requests.Response) -> float:
    """Number of seconds that the server asks to wait, 0 if it does not."""
    if response.status_code not in _WITH_RETRY_AFTER:
        return 0.0
    try:
        return Retry().get_retry_after(response.raw) or 0.0
    except (InvalidHeader, ValueError, OverflowError):  # neither seconds nor a date, or too many digits
        return 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection ({' '.join(str(error).split())[:300]})"
    if isinstance(error, (requests.Timeout, ReadTimeoutError)):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    if isinstance(error, HTTPError):
        return "the connection broke off"
    return f"no answer that makes sense ({' '.join(str(error).split())[:300]})"
