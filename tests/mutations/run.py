"""Break the code in every way of ``mutations.yaml``, one at a time, and see whether the tests notice.

``python tests/mutations/run.py [WHICH...] [--jobs N]``, WHICH being names of breaks, or files whose breaks are tried.

Each break is made in a copy of the checkout, in which the tests that are named for it run until one fails. The table
says which one that was, or that the break survived: something that the code does and no test knows. Exit status 0:
all were noticed; 1: some survived; 2: it could not be tried, for the tests fail without a break, too, or the code that
was to be broken is no longer there.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("task1a", "evaluation", "submission")
COPIED = (*PACKAGES, "task1a.py", "system_configs", "tests", "pyproject.toml")
TIMEOUT = 900
"""seconds after which the tests of a break count as failed: with some breaks they never end"""

_ORIGINS = "import importlib.util, sys; print(*(importlib.util.find_spec(name).origin for name in sys.argv[1:]))"


class CannotTry(Exception):
    """A break cannot be judged; the message says why."""


@dataclass(frozen=True)
class Mutation:
    """One way to break the code."""

    name: str
    file: str
    """relative to the repository"""
    old: str
    """stands once in the file"""
    new: str
    """stands there instead"""
    tests: tuple[str, ...]
    """files of tests, relative to the repository, one of which should fail"""

    def broken(self, text: str) -> str:
        """The text of the file with the break in it.

        Raises:
            CannotTry: what is to be broken does not stand there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise CannotTry(f"{self.name}: stands {count} times in {self.file}, not once: {self.old!r}")
        return text.replace(self.old, self.new)


def read_mutations() -> list[Mutation]:
    """All of ``mutations.yaml``."""
    files = yaml.safe_load(Path(__file__).with_name("mutations.yaml").read_text(encoding="utf-8"))
    return [Mutation(name, file, entry["old"], entry["new"], tuple(entry.get("tests", of_file["tests"])))
            for file, of_file in files.items() for name, entry in of_file["breaks"].items()]


def noticed_by(mutation: Mutation) -> str | None:
    """The first test that fails with the break; None where it survives."""
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        path = Path(folder) / mutation.file
        path.write_text(mutation.broken(path.read_text(encoding="utf-8")), encoding="utf-8")
        return first_failure(Path(folder), mutation.tests)


def check_unbroken(mutations: Iterable[Mutation]) -> None:
    """Check that every break can be made and that all of their tests pass without it.

    Raises:
        CannotTry: one cannot, or does not.
    """
    for mutation in mutations:
        mutation.broken((REPOSITORY / mutation.file).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        failed = first_failure(Path(folder), sorted({test for mutation in mutations for test in mutation.tests}))
    if failed:
        raise CannotTry(f"without a break, too, a test fails: {failed}")


def copy_checkout(folder: Path) -> None:
    """Copy what the tests need into ``folder``."""
    for path in filter(Path.exists, (REPOSITORY / name for name in COPIED)):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)


def first_failure(folder: Path, tests: Iterable[str]) -> str | None:
    """Run tests in a copy of the checkout; the first that fails, None where all pass.

    Raises:
        CannotTry: the packages that the tests would import are not those of the copy, or pytest ends otherwise than
            with tests passed or failed.
    """
    packages = [name for name in PACKAGES if (folder / name).is_dir()]
    origins = python(folder, "-c", _ORIGINS, *packages).stdout.split()
    if [Path(origin).parent.resolve() for origin in origins] != [(folder / name).resolve() for name in packages]:
        raise CannotTry(f"the tests would not import the packages of {folder}, but {' '.join(origins)}")
    try:
        finished = python(folder, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-xq", "--tb=no", "-rfE", *tests)
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT} s"
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", finished.stdout, re.MULTILINE)
    if finished.returncode == 1 and failed:
        return failed[1]
    if finished.returncode:
        raise CannotTry(f"the tests do not run:\n{finished.stdout[-2000:]}{finished.stderr[-2000:]}")
    return None


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a copy of the checkout, whose packages come before those that are installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=TIMEOUT)


def main() -> int:
    """The command; its exit status."""
    mutations = read_mutations()
    parser = argparse.ArgumentParser(description="Break the code, one way at a time, and see whether the tests notice.")
    parser.add_argument("which", nargs="*", metavar="WHICH", help="names of breaks, or files (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="at once (default: one a core)")
    arguments = parser.parse_args()
    unknown = set(arguments.which) - {name for mutation in mutations for name in (mutation.name, mutation.file)}
    if unknown:
        parser.error(f"no such break: {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in mutations
              if not arguments.which or {mutation.name, mutation.file} & set(arguments.which)]
    width, survived = max(len(mutation.name) for mutation in chosen), 0
    pool = ThreadPoolExecutor(arguments.jobs)
    try:
        check_unbroken(chosen)
        for mutation, test in zip(chosen, pool.map(noticed_by, chosen), strict=True):
            print(f"{mutation.name:<{width}}  {test or 'SURVIVED'}", flush=True)
            survived += test is None
    except CannotTry as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        pool.shutdown(cancel_futures=True)
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
