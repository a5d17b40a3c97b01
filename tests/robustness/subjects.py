"""The ways to disturb the chain: each yields case by case what was done, what was wrong then, and in which folder."""
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


def kill(toy: Toy, rounds: int, draw: random.Random) -> Cases:
    """Kill the command at random moments of all stages, sometimes its next attempt too; then let it end."""
    stages = list(toy.seconds)
    for number in range(rounds):
        folder, done, groups = toy.fresh(f"kill-{number}"), [], []
        stage = stages[number % len(stages)]
        while not done or draw.random() < 0.3:
            process, seconds = toy.start(folder), draw.random() * toy.seconds[stage]
            how = draw.choice((os.kill, os.killpg))
            reach(process, stage, seconds)
            how(process.pid, signal.SIGKILL)
            late = " (too late)" if process.wait() == 0 else ""
            done.append(f"{how.__name__} {seconds:.2f} s into {stage}{late}")
            groups.append(process.pid)
            stage = draw.choice(stages)
        # at once, while workers of the killed process may still be there
        ended = finish(toy.start(folder))
        problems = ended.problems() + differences(folder, toy.undisturbed)
        for group in groups:
            problems += [f"left alive: {command}" for command in _left_alive(group)]
        yield ", ".join(done), problems, folder


def _left_alive(group: int) -> list[str]:
    """Commands of the processes of a group that do not end within ten seconds."""
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


def two(toy: Toy, rounds: int, draw: random.Random) -> Cases:
    """Run two commands at once: on one run, on one cache, and where one may take the other's vanilla model."""
    right = {"toy": toy.undisturbed}
    for second in ("other", "twin"):
        right[second] = toy.fresh(f"right-{second}", toy.undisturbed)
        toy.run(right[second], second)
    for number in range(rounds):
        second = ("toy", "other", "twin")[number % 3]
        longest = toy.seconds[START] / 2 if second == "toy" else sum(toy.seconds.values())
        folder, apart = toy.fresh(f"two-{number}"), draw.choice((0, draw.random() * longest))
        processes = [toy.start(folder)]
        time.sleep(apart)
        processes.append(toy.start(folder, second))
        first, last = sorted(map(finish, processes), key=lambda ended: ended.status)
        problems = first.problems() + last.problems((2,) if second == "toy" else (0,))
        if second == "toy" and "another process is working on this run" not in last.told:
            problems.append("it does not say that another process is working on the run")
        yield f"toy and {second}, {apart:.2f} s apart", problems + differences(folder, right[second]), folder


def disk(toy: Toy, rounds: int, draw: random.Random) -> Cases:
    """Fill the disk of the run and of the cache at random moments of all stages; then make room and go on."""
    mount = toy.fresh("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], check=True)
    try:
        stages = [stage for stage in toy.seconds if stage != START]
        for number in range(rounds):
            stage, room = stages[number % len(stages)], draw.choice((0, 0, 4096, 32768, 131072))
            folder, seconds = toy.fresh(f"disk/{number}"), draw.random() * toy.seconds[stage]
            process = toy.start(folder)
            reach(process, stage, seconds)
            _fill(mount / "ballast", room)
            ended = finish(process)
            problems = ended.problems((0, 2)) + differences(folder, toy.undisturbed, so_far=ended.status != 0)
            (mount / "ballast").unlink()
            problems += toy.run(folder).problems() + differences(folder, toy.undisturbed)
            told = (ended.told if ended.status else "not an error").splitlines()[-1]
            yield f"{room} B left {seconds:.2f} s into {stage}: {told}", problems, folder
            shutil.rmtree(folder, ignore_errors=True)  # it takes room
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def _fill(ballast: Path, room: int) -> None:
    """Take all of a disk but so many bytes, while others write there, too."""
    with open(ballast, "wb") as file:
        while (free := shutil.disk_usage(ballast).free - room) > 0:
            with suppress(OSError):  # it is less by now
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)


def damage(toy: Toy, rounds: int, draw: random.Random) -> Cases:
    """Damage each file of a finished run and of its caches in each way, in turn; run, and again as advised."""
    for name in sorted(files(toy.undisturbed)):
        for way in ("half", "empty", "missing", "a folder", *["a byte"] * rounds):
            folder = toy.fresh("damage", toy.undisturbed)
            path = folder / name
            _damage(path, way, draw)
            if _not_looked_at(path, way):
                # so that it is, everything is to be done from the features on
                for done in (*folder.rglob("stages/[!df]*.json"), *folder.rglob("checkpoint.pt")):
                    if done != path:
                        done.unlink()
            ended = toy.run(folder)
            problems = ended.problems((0, 2))
            started = re.search(r"^\[\w+\] (?!up to date)", ended.said, re.MULTILINE)
            if not (path.name in ended.said + ended.told or (ended.status == 0 and started)):
                problems.append("nothing is said of it")
            if "remove" in ended.told or "found an edited report" in ended.said:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                problems += toy.run(folder).problems()
            yield f"{way}: {name}", problems + differences(folder, toy.undisturbed), folder


def _not_looked_at(path: Path, way: str) -> bool:
    """Whether a finished run has no use for a file, or for what is wrong with it."""
    return path.name == "checkpoint.pt" or (path.name == "log_mel.float16" and way == "a byte")


def _damage(path: Path, way: str, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if way == "half":
        path.write_bytes(content[:len(content) // 2])
    elif way == "empty":
        path.touch()
    elif way == "a folder":
        path.mkdir()
    elif way == "a byte":
        content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(content)
