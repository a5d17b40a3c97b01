"""The ways to disturb a download, from a server on the loopback with archives under their real names."""
import io
import random
import re
import shutil
import subprocess
import sys
import time
import wave
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chain import REPOSITORY, finish
from subjects import Cases, fill

sys.path.append(str(REPOSITORY / "tests" / "task1a" / "data"))

from archive_server import ArchiveServer, zipped  # noqa: E402

from task1a.data.download import Release  # noqa: E402
from task1a.data.fetch import Archive  # noqa: E402

NAME = "TAU-urban-acoustic-scenes-2020-mobile-development"
CLIP_BYTES = 1_323_000  # 10 s at 44.1 kHz and 24 bit
BEHAVIOUR = {
    # what a server does, and what the command says of it
    "404": "the server answers 404 Not Found; ",
    "wrong md5": "has the md5 sum ",
    "../../evil": "outside its folder",
    "429": None,
    "503": None,
    "no ranges": None,
}


def download(work: Path, rounds: int, generator: random.Random) -> Cases:
    """Cut connections, misbehave as a server, kill the command, and fill the disk."""
    work.mkdir(parents=True, exist_ok=True)
    yield from _cuts(work, generator)
    yield from _servers(work, generator)
    yield from _kills(work, rounds, generator)
    yield from _disks(work, rounds, generator)


def _cuts(work: Path, generator: random.Random) -> Cases:
    """Cut connections after 10 MB on average while an archive of 200 MB is fetched."""
    with _serving({"audio.1": 150}, generator) as server:
        # so fast that nothing waits in the buffers of the server, which it would count as sent
        server.bytes_per_second = 50_000_000
        server.cut = lambda length: cut if (cut := round(generator.expovariate(1e-7))) < length else None
        folder = _fresh(work / "cuts")
        ended = finish(_start(folder, server))
        size, sent = sum(map(len, server.files.values())), sum(server.sent.values())
        problems = ended.problems() + _differences(folder, _undisturbed(server))
        if sent >= 1.05 * size:
            problems.append("too much was fetched")
        yield (f"{size:,} bytes in {len(server.requests)} connections, fetched {sent / size:.4f} times", problems,
               folder)


def _servers(work: Path, generator: random.Random) -> Cases:
    for what, said in BEHAVIOUR.items():
        with _serving({"audio.1": 8, "audio.2": 4}, generator) as server:
            name, folder = f"{NAME}.audio.1.zip", _fresh(work / "server")
            expected = _undisturbed(server)
            command = _command(server)
            if what == "404":
                del server.files[name]
            elif what == "wrong md5":
                server.files[name] = server.files[name][:-1] + b"x"
            elif what == "../../evil":
                server.files[name] = _unsafe(server.files[name], what)
                command = _command(server)
            elif what in ("429", "503"):
                server.refusals[name] = [(int(what), {"Retry-After": "2"})] * 2
            else:
                server.ranges, cuts = False, [5_000_000, 3_000_000, 7_000_000]
                server.cut = lambda length: cuts.pop(0) if length > 9_000_000 and cuts else None  # noqa: B023
            began = time.monotonic()
            ended = finish(_start(folder, server, command))
            seconds = time.monotonic() - began
            problems = ended.problems((2,) if said else (0,))
            if said is None:
                problems += _differences(folder, expected)
            elif said not in ended.stderr:
                problems.append("the message does not say what is wrong")
            if what in ("429", "503") and seconds < 4:
                problems.append("Retry-After was not honoured")
            if list(work.rglob("evil")) or [path for path in folder.rglob("*") if path.is_symlink()]:
                problems.append("the archive wrote where it must not")
            yield f"{what}: {ended.stderr.strip() or f'{seconds:.1f} s'}", problems, folder


def _kills(work: Path, rounds: int, generator: random.Random) -> Cases:
    """Kill the command at random moments, sometimes repeatedly; then let it end."""
    with _serving({"audio.1": 30, "audio.2": 10, "audio.3": 10, "audio.4": 10}, generator) as server:
        server.bytes_per_second = 10_000_000
        expected, size = _undisturbed(server), sum(map(len, server.files.values()))
        began = time.monotonic()
        finish(_start(_fresh(work / "timed"), server))
        seconds = time.monotonic() - began
        for number in range(rounds):
            folder, done = _fresh(work / f"kill-{number}"), []
            server.sent.clear()
            while not done or generator.random() < 0.3:
                process = _start(folder, server)
                if generator.random() < 0.5:
                    time.sleep(seconds * generator.random())
                else:
                    _wait_for_clips(process, folder, generator.randrange(1, 60))
                process.kill()
                parts = len(list(folder.rglob("*.part")))
                clips = len(list(folder.rglob("*.wav")))
                late = " (too late)" if process.wait() == 0 else ""
                done.append(f"with {parts} parts and {clips} clips{late}")
                process.communicate()
            ended = finish(_start(folder, server))
            problems, sent = ended.problems() + _differences(folder, expected), sum(server.sent.values())
            if sent >= 1.05 * size:  # what was on its way to each killed command
                problems.append("too much was fetched")
            yield f"killed {', '.join(done)}; fetched {sent / size:.4f} times", problems, folder


def _disks(work: Path, rounds: int, generator: random.Random) -> Cases:
    """Fill a small disk at random moments; then make room and run again."""
    with _serving({"audio.1": 8, "audio.2": 8}, generator) as server:
        server.bytes_per_second = 5_000_000
        expected, mount = _undisturbed(server), _fresh(work / "disk")
        for size, cases in (("32m", 1), ("56m", rounds)):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
            try:
                for number in range(cases):
                    folder = _fresh(mount / str(number))
                    process = _start(folder, server)
                    if number % 2:
                        _wait_for_clips(process, folder, generator.randrange(1, 16))
                    else:
                        time.sleep(0.5 + 2 * generator.random())
                    room = generator.choice((0, 4096, 100_000, 3_000_000))
                    if size == "56m":
                        fill(mount / "ballast", room)
                    ended = finish(process)
                    problems = ended.problems((0, 2))
                    (mount / "ballast").unlink(missing_ok=True)
                    if size == "56m":
                        problems += finish(_start(folder, server)).problems() + _differences(folder, expected)
                    elif "need about" not in ended.stderr:
                        problems.append("the room was not checked before")
                    outcome = (ended.stderr if ended.status else "not an error").splitlines()[-1]
                    yield f"{size}, {room} B left: {outcome}", problems, folder
                    shutil.rmtree(folder, ignore_errors=True)  # the next case needs its room
            finally:
                subprocess.run(["umount", "--lazy", mount], check=True)


@contextmanager
def _serving(clips: dict[str, int], generator: random.Random) -> Iterator[ArchiveServer]:
    """A server of a set with a number of noise clips in each archive."""
    files = {f"{NAME}.doc.zip": zipped({"README.md": b"read me"}, NAME),
             f"{NAME}.meta.zip": zipped({"meta.csv": b"filename\n" * 1000}, NAME)}
    for archive, number in clips.items():
        recordings = {f"audio/{archive}-{clip}.wav": _noise(generator) for clip in range(number)}
        files[f"{NAME}.{archive}.zip"] = zipped(recordings, NAME)
    server = ArchiveServer(files)
    try:
        yield server
    finally:
        server.close()


def _noise(generator: random.Random) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as clip:
        clip.setparams((1, 3, 44100, 0, "NONE", ""))
        clip.writeframes(generator.randbytes(CLIP_BYTES))
    return content.getvalue()


def _unsafe(archive: bytes, path: str) -> bytes:
    content = io.BytesIO(archive)
    with zipfile.ZipFile(content, "a") as unsafe:
        unsafe.writestr(f"{NAME}/{path}", "/etc/passwd")
    return content.getvalue()


def _undisturbed(server: ArchiveServer) -> dict[str, bytes]:
    """Content of the archives by name, read without the downloader."""
    expected = {}
    for content in server.files.values():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                expected[name.removeprefix(f"{NAME}/")] = archive.read(name)
    return expected


def _command(server: ArchiveServer) -> str:
    """Python code of the command, with archives of the server in the place of those that dcase_util describes."""
    archives = [Archive(name, server.url(name), len(content), server.md5(name))
                for name, content in server.files.items()]
    release = Release(NAME, "T. Heittola", "free non-commercial", server.url("").partition("/files/")[0],
                      tuple(archives))
    return (f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from task1a.data import download, fetch\n"
            "from task1a.data.download import Archive, Release\n"
            "from task1a.errors import run_command\n"
            f"download.release = lambda name: {release!r}\n"
            "fetch.FIRST_DELAY = 0.05\n"
            "sys.exit(run_command(lambda: download.main(['tau2020-development', 'data/set', '--accept-licence'])))")


def _start(folder: Path, server: ArchiveServer, command: str | None = None) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", command or _command(server)], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def _wait_for_clips(process: subprocess.Popen, folder: Path, number: int) -> None:
    """Wait until a number of clips are unpacked, or the process has ended."""
    while process.poll() is None and len(list(folder.rglob("*.wav"))) < number:
        time.sleep(0.001)


def _differences(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """List the files that differ from the expected ones, besides the records of the download."""
    root, found = folder / "data" / "set", []
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    present = {name for name in present if not re.match(r"\.download/(\.lock$|TAU[^/]*/TAU[^/]*\.zip\.json$)", name)}
    for name in sorted(present | set(expected)):
        if name not in expected:
            found.append(f"{name} is left over")
        elif name not in present:
            found.append(f"{name} is missing")
        elif (root / name).read_bytes() != expected[name]:
            found.append(f"{name} differs")
    return found


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
