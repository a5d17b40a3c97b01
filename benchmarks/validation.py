"""How long the check of a package takes: to start, and over the outputs of every size there is, beside pandas.

    python benchmarks/validation.py [--rounds 5]

Packages of random predictions are checked in this process, in turn with reading the same tables by ``pandas.read_csv``,
which only parses them; both by processor time, so that little depends on what else the machine does. So is one whose
rows are all wrong. Starting, and the command as a whole, are other processes, timed by the clock.
"""
import io
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from submission.blocks import nested
from submission.rules import EDITIONS, META_SUFFIX, Rules
from submission.validate import validate
from task1a import predictions
from task1a.errors import CommandParser, run_command

SCORES = {"logloss": 1.5, "accuracy": 50.0}
FILLED = {"text": "x", "optional text": None, "count": 1000, "optional count": None, "number": 1.0,
          "optional number": None, "percent": 50.0, "optional list": []}
AUTHOR = {"lastname": "Lastname", "firstname": "Firstname", "email": "name@institute.test", "corresponding": True,
          "affiliation": {"abbreviation": "I", "institute": "Institute", "department": None, "location": None}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = CommandParser(prog="benchmarks/validation.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, of which the median counts")
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as scratch:
        packages = {year: _package(Path(scratch) / f"{year}.zip", rules) for year, rules in EDITIONS.items()
                    if year != "2023"}  # it is as large as 2022
        print(f"seconds, median of {rounds} rounds")
        for year, path in packages.items():
            _compare(_size(EDITIONS[year]), path, EDITIONS[year], rounds)
        rules = EDITIONS["2022"]
        wrong = _package(Path(scratch) / "wrong.zip", rules, spoil=lambda data: data.replace(b".wav", b".mp3"))
        _compare(f"{_size(rules)}, all wrong", wrong, rules, rounds)
        _start(packages["2021"], rounds)
    return 0


def _size(rules: Rules) -> str:
    splits = f"{len(rules.splits)} x " if rules.splits else ""
    return f"{splits}{len(rules.files):,} rows"


def _compare(name: str, path: Path, rules: Rules, rounds: int) -> None:
    spent = {"check": [], "pandas": []}
    for _ in range(rounds):
        spent["check"].append(_seconds(lambda: validate(path, rules), time.process_time))
        spent["pandas"].append(_seconds(lambda: _parse(path), time.process_time))
    ratio = statistics.median(check / parse for check, parse in zip(spent["check"], spent["pandas"], strict=True))
    print(f"  {name:28}{statistics.median(spent['check']):7.2f}   {ratio:.2f} x as long as pandas parses")


def _parse(path: Path) -> None:
    with zipfile.ZipFile(path) as opened:
        for name in opened.namelist():
            if name.endswith(".csv"):
                pd.read_csv(io.BytesIO(opened.read(name)), sep="\t")


def _start(path: Path, rounds: int) -> None:
    commands = {"python alone": ["-c", "pass"], "import submission.validate": ["-c", "import submission.validate"],
                "the command, 7,920 rows": ["-m", "submission.validate", str(path)]}
    spent = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            spent[name].append(_seconds(lambda arguments=arguments: subprocess.run(
                [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL), time.perf_counter))
    for name, seconds in spent.items():
        ratio = statistics.median(here / bare for here, bare in zip(seconds, spent["python alone"], strict=True))
        print(f"  {name:28}{statistics.median(seconds):7.2f}   {ratio:.1f} x as long as python alone")


def _seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def _package(path: Path, rules: Rules, spoil: Callable[[bytes], bytes] = bytes) -> Path:
    """Write a package of one system, right but for what ``spoil`` does to its outputs."""
    label = f"Lastname_Institute_{rules.task}_1"
    above = "/".join(folder or "package" for folder in rules.above)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for seed, suffix in enumerate(rules.output_suffixes):
            opened.writestr(f"{above}/{label}/{label}{suffix}", spoil(_output(rules, seed).encode()))
        opened.writestr(f"{above}/{label}/{label}{META_SUFFIX}", yaml.safe_dump(_meta(label, rules)))
    return path


def _output(rules: Rules, seed: int) -> str:
    scores = np.random.default_rng(seed).normal(0, 3, (len(rules.files), len(rules.labels)))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = [f"audio/{name}" for name in rules.files]
    return predictions.to_text(predictions.table(names, probabilities, rules.labels))


def _meta(label: str, rules: Rules) -> dict[str, Any]:
    values = {field.path: FILLED[field.kind] for field in rules.fields if "*" not in field.path
              and field.kind in FILLED}
    values |= {"submission.label": label, "submission.authors": [AUTHOR]}
    for block in rules.result_blocks:
        values |= {f"{block}.{group}": {name: dict(SCORES) for name in names}
                   for group, names in (("class_wise", rules.labels), ("device_wise", rules.devices))}
        values |= {f"{block}.overall": dict(SCORES)}
    return nested(values)


if __name__ == "__main__":
    sys.exit(run_command(main))
