"""The ways to disturb the chain. Each yields, for every case, a description, the problems found, and the folder."""
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chain import START, Toy, differences, files, finish, reach

Cases = Iterator[tuple[str, list[str], Path]]


def kill(toy: Toy, rounds: int, generator: random.Random) -> Cases:
    """Kill the command at random moments of all stages, sometimes repeatedly; then let it end."""
    stages = list(toy.seconds)
    for number in range(rounds):
        folder, done, groups = toy.fresh(f"kill-{number}"), [], []
        stage = stages[number % len(stages)]
        while not done or generator.random() < 0.3:
            process, seconds = toy.start(folder), generator.random() * toy.seconds[stage]
            how = generator.choice((os.kill, os.killpg))
            reach(process, stage, seconds)
            how(process.pid, signal.SIGKILL)
            late = " (too late)" if process.wait() == 0 else ""
            done.append(f"{how.__name__} {seconds:.2f} s into {stage}{late}")
            groups.append(process.pid)
            stage = generator.choice(stages)
        # at once, while workers of the killed process may still be alive
        ended = finish(toy.start(folder))
        problems = ended.problems() + differences(folder, toy.undisturbed)
        for group in groups:
            problems += [f"left alive: {command}" for command in _left_alive(group)]
        yield ", ".join(done), problems, folder


def _left_alive(group: int) -> list[str]:
    """Command lines of the processes in a group that are still alive after ten seconds."""
    for _ in range(100):
        alive = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state != "Z":
                    alive.append((entry / "cmdline").read_text().replace("\0", " "))
        if not alive:
            break
        time.sleep(0.1)
    return alive


def two(toy: Toy, rounds: int, generator: random.Random) -> Cases:
    """Run two commands at the same time: on one run, on one cache, and with the same vanilla model."""
    expected = {"toy": toy.undisturbed}
    for second in ("other", "twin"):
        expected[second] = toy.fresh(f"expected-{second}", toy.undisturbed)
        toy.run(expected[second], second)
    for number in range(rounds):
        second = ("toy", "other", "twin")[number % 3]
        longest = toy.seconds[START] / 2 if second == "toy" else sum(toy.seconds.values())
        folder, apart = toy.fresh(f"two-{number}"), generator.choice((0, generator.random() * longest))
        processes = [toy.start(folder)]
        time.sleep(apart)
        processes.append(toy.start(folder, second))
        first, last = sorted(map(finish, processes), key=lambda ended: ended.status)
        problems = first.problems() + last.problems((2,) if second == "toy" else (0,))
        if second == "toy" and "another process is working on this run" not in last.stderr:
            problems.append("the message does not name the other process")
        yield f"toy and {second}, {apart:.2f} s apart", problems + differences(folder, expected[second]), folder


def disk(toy: Toy, rounds: int, generator: random.Random) -> Cases:
    """Fill the disk of the run and the cache at random moments of all stages; then make room and run again."""
    mount = toy.fresh("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], check=True)
    try:
        stages = [stage for stage in toy.seconds if stage != START]
        for number in range(rounds):
            stage, room = stages[number % len(stages)], generator.choice((0, 0, 4096, 32768, 131072))
            folder, seconds = toy.fresh(f"disk/{number}"), generator.random() * toy.seconds[stage]
            process = toy.start(folder)
            reach(process, stage, seconds)
            fill(mount / "ballast", room)
            ended = finish(process)
            problems = ended.problems((0, 2)) + differences(folder, toy.undisturbed, incomplete=ended.status != 0)
            (mount / "ballast").unlink()
            problems += toy.run(folder).problems() + differences(folder, toy.undisturbed)
            outcome = (ended.stderr if ended.status else "not an error").splitlines()[-1]
            yield f"{room} B left {seconds:.2f} s into {stage}: {outcome}", problems, folder
            shutil.rmtree(folder, ignore_errors=True)  # the next case needs its room
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def fill(ballast: Path, room: int) -> None:
    """Fill a disk up to ``room`` bytes while other processes write to it."""
    with open(ballast, "wb") as file:
        while (free := shutil.disk_usage(ballast).free - room) > 0:
            with suppress(OSError):  # less is free by now
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)


def damage(toy: Toy, rounds: int, generator: random.Random) -> Cases:
    """Damage each file of a finished run and its caches in each way; run again, and follow the advice of an error."""
    for name in sorted(files(toy.undisturbed)):
        for way in ("half", "empty", "missing", "a folder", *["a byte"] * rounds):
            folder = toy.fresh("damage", toy.undisturbed)
            path = folder / name
            _damage(path, way, generator)
            if _is_unread(path, way):
                # repeat everything after the features, which reads the file
                for done in (*folder.rglob("stages/[!df]*.json"), *folder.rglob("checkpoint.pt")):
                    if done != path:
                        done.unlink()
            ended = toy.run(folder)
            problems = ended.problems((0, 2))
            started = re.search(r"^\[\w+\] (?!up to date)", ended.stdout, re.MULTILINE)
            if not (path.name in ended.stdout + ended.stderr or (ended.status == 0 and started)):
                problems.append("the damage is not reported")
            if "remove" in ended.stderr or "found an edited report" in ended.stdout:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                problems += toy.run(folder).problems()
            yield f"{way}: {name}", problems + differences(folder, toy.undisturbed), folder


def _is_unread(path: Path, way: str) -> bool:
    """Whether a finished run does not read a file, or not the damaged part of it."""
    return path.name == "checkpoint.pt" or (path.name == "log_mel.float16" and way == "a byte")


def _damage(path: Path, way: str, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if way == "half":
        path.write_bytes(content[:len(content) // 2])
    elif way == "empty":
        path.touch()
    elif way == "a folder":
        path.mkdir()
    elif way == "a byte":
        content[generator.randrange(len(content))] ^= generator.randrange(1, 256)
        path.write_bytes(content)
