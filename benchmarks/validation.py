"""Duration of the check of a package, for every size of outputs, compared with reading the outputs by pandas.

    python benchmarks/validation.py [--rounds 5]

Packages of random predictions, one of them with a fault in every row, are checked in this process, in turn with
``pandas.read_csv``, which only parses the tables. Both are timed by processor time, so that other load on the machine
matters little. The start and the whole command are timed by the clock, in processes of their own.
"""
import io
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import yaml

from submission import schema
from submission.blocks import nested
from submission.rules import EDITIONS, META_SUFFIX, Rules
from submission.validate import validate
from task1a import predictions
from task1a.errors import CommandParser, run_command

SCORES = {"logloss": 1.5, "accuracy": 50.0}
FILLED = {str: "x", int: 1000, float: 1.0}
AUTHOR = {"lastname": "Lastname", "firstname": "Firstname", "email": "name@institute.test", "corresponding": True,
          "affiliation": {"abbreviation": "I", "institute": "Institute", "department": None, "location": None}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = CommandParser(prog="benchmarks/validation.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; medians are printed")
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as scratch:
        print(f"seconds, median of {rounds} rounds")
        for year in sorted(EDITIONS.keys() - {"2023"}):  # it has as many rows as 2022
            path = write_package(Path(scratch) / f"{year}.zip", EDITIONS[year])
            compare_with_pandas("", path, EDITIONS[year], rounds)
        faulty = write_package(Path(scratch) / "faulty.zip", EDITIONS["2022"], suffix=".mp3")
        compare_with_pandas(", all wrong", faulty, EDITIONS["2022"], rounds)
        compare_starts(Path(scratch) / "2021.zip", rounds)
    return 0


def compare_with_pandas(note: str, path: Path, rules: Rules, rounds: int) -> None:
    """Time the check of a package, and parsing its tables."""
    def parse() -> None:
        with zipfile.ZipFile(path) as package:
            for name in package.namelist():
                if name.endswith(".csv"):
                    pd.read_csv(io.BytesIO(package.read(name)), sep="\t")

    checks, parses = [], []
    for _ in range(rounds):
        checks.append(seconds(lambda: validate(path, rules), time.process_time))
        parses.append(seconds(parse, time.process_time))
    splits = f"{len(rules.splits)} x " if rules.splits else ""
    print(f"  {f'{splits}{rules.clips:,} rows{note}':28}{median(checks):7.2f}   "
          f"{median(np.divide(checks, parses)):.2f} x as long as pandas parses")


def compare_starts(path: Path, rounds: int) -> None:
    """Time the command over a package, and the start of Python without and with its imports."""
    commands = {"python alone": ["-c", "pass"], "import submission.validate": ["-c", "import submission.validate"],
                "the command, 7,920 rows": ["-m", "submission.validate", str(path)]}
    spent = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            run = partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            spent[name].append(seconds(run, time.perf_counter))
    for name, durations in spent.items():
        ratio = median(np.divide(durations, spent["python alone"]))
        print(f"  {name:28}{median(durations):7.2f}   {ratio:.1f} x as long as python alone")


def seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Duration of a call by a clock."""
    started = clock()
    work()
    return clock() - started


def write_package(path: Path, rules: Rules, suffix: str = ".wav") -> Path:
    """Write a package of one system with random predictions; it is right if clips have the suffix ``.wav``."""
    label = f"Lastname_Institute_{rules.task}_1"
    folder = "/".join(name or "package" for name in rules.above) + f"/{label}/{label}"
    clips = [f"audio/{name}".replace(".wav", suffix) for name in rules.files]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for seed, output_suffix in enumerate(rules.output_suffixes):
            scores = np.exp(np.random.default_rng(seed).normal(0, 3, (len(clips), len(rules.labels))))
            table = predictions.table(clips, scores / scores.sum(axis=1, keepdims=True), rules.labels)
            package.writestr(f"{folder}{output_suffix}", predictions.to_text(table))

        values = {path: FILLED.get(field.annotation) for path, field in schema.leaves(rules.metadata)}
        values |= {"submission.label": label, "submission.authors": [AUTHOR]}
        if rules.device_models:
            values |= {"system.inference_code": "https://code.test",
                       "system.description.model_weight_sharing": "fully shared"}
        for block in rules.result_blocks:
            values[f"{block}.class_wise"] = {name: dict(SCORES) for name in rules.labels}
            values[f"{block}.device_wise"] = {name: dict(SCORES) for name in rules.devices}
            values[f"{block}.overall"] = dict(SCORES)
        package.writestr(f"{folder}{META_SUFFIX}", yaml.safe_dump(nested(values)))
    return path


if __name__ == "__main__":
    sys.exit(run_command(main))
