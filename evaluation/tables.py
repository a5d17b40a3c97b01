"""The poster's tables with the figures of our own runs beside the published ones, and paired tests of two systems.

``python -m evaluation.tables TABLE --runs DIR [--out DIR] [--compare A B --data-root DIR]``

Conventions
-----------
* A table is a YAML file: ``title`` and ``rows``; a row names a ``system``, the ``label`` that it has in the paper, and
  the ``published`` figures. ``table3`` is the file of that name in ``system_configs/tables/``; a path is taken as such.
* The runs of a row are ``DIR/<system>/seed<N>/evaluation.json``, with ``complexity.json``, ``config.yaml`` and
  ``predictions/test.csv`` beside it where they are there. A row without runs is empty; so is a figure that a run lacks.
* A table is of one data set. Seeds may have test splits of their own (folds of the data set), the same for all systems.
* Runs of a row share one recipe; where it is not the one of the system's file, that is said, and likewise that figures
  are of demo data, or of another data set than the published ones.

Figures
-------
* *Accuracy*: percent, ours the mean of the class-wise accuracies (:mod:`evaluation.metrics`). *Log loss*: natural.
* ±: sample deviation (n - 1) over seeds; one seed has none.
* *Parameters*: trainable values, pruned ones included: all that is stored but running statistics and scales.
* *KiB*: non-zero values times the bytes of their type, by the two policies of ``complexity.json``: ``dcase2021``, which
  the limit is judged by, and ``paper``, without running statistics, which the published size is counted by.
* Two systems: :mod:`evaluation.intervals`, over the seeds that both have and the locations of the test clips.

Published figures: B. Kim, S. Yang, J. Kim, S. Chang, arXiv 2206.13909.
"""
import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from evaluation import intervals, metrics
from evaluation.intervals import PairedTest, Spread, spread
from evaluation.per_device import DEMO_NOTE
from submission.rules import TASK1A_2021
from task1a.data.tau_layout import clip_key, read_development
from task1a.errors import CommandParser, InputError, run_command
from task1a.run_folder import RunFolder, read_json, write_json, write_text

SYSTEMS = Path(__file__).resolve().parent.parent / "system_configs"
TABLES = SYSTEMS / "tables"

PUBLISHED_ON = "TAU Urban Acoustic Scenes 2020 Mobile"
_TAU_FOLDER, _TAU_TEST_CLIPS = "tau-urban-acoustic-scenes-2020-mobile-development", 2968

POLICIES = ("dcase2021", "paper")
"""ways to count the size, in the order of the columns"""

_RECIPE = ("features", "model", "training", "compression", "ensemble")
_OF_THE_MACHINE = ("training.precision", "training.channels_last")


@dataclass(frozen=True)
class Metric:
    """How a figure is told."""

    name: str
    decimals: int
    better: int
    """sign of a change for the better"""


METRICS = {"accuracy": Metric("accuracy", 1, 1), "logloss": Metric("log loss", 3, -1)}
"""what two systems are compared by, named as in ``evaluation.json``"""


@dataclass(frozen=True)
class Published:
    """What the paper says of a row; None, or no device, where it says nothing."""

    parameters: str | None = None
    bits: str | None = None
    size: str | None = None
    devices: Mapping[str, float] = field(default_factory=dict)
    """accuracy in percent"""
    overall: float | None = None
    """accuracy in percent"""
    deviation: float | None = None
    """of the overall accuracy"""
    seeds: int | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    system: str
    label: str
    published: Published


@dataclass(frozen=True)
class Table:
    """A published table."""

    name: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Run:
    """The results of one run."""

    folder: RunFolder
    system: str
    seed: int
    data: str
    """name of the data set"""
    demo: bool
    labels: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    """``logloss`` and ``accuracy`` (percent) of the devices, and ``overall``"""
    left_out: frozenset[str]
    """damaged test clips"""
    clips: int
    """test clips, damaged ones included"""
    names: frozenset[str] | None
    """of these clips; None where there is no prediction file"""
    parameters: int | None
    kib: Mapping[str, float]
    """size by policy"""
    recipe: Mapping[str, Any]
    """what it was trained with, by ``section.key``; empty where there is no ``config.yaml``"""

    def __str__(self) -> str:
        return f"{self.system}/seed{self.seed}"


@dataclass(frozen=True)
class RowResult:
    """A row with our figures; None, or empty, where there are none."""

    row: Row
    seeds: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    """the different counts of the runs, ascending: one, unless the runs differ"""
    kib: Mapping[str, float] = field(default_factory=dict)
    """mean size by policy"""
    accuracy: Mapping[str, Spread] = field(default_factory=dict)
    """of the devices that all of the row's runs have, and ``overall``"""
    logloss: Spread | None = None


@dataclass(frozen=True)
class Results:
    """A table with our figures, and what has to be said with them."""

    table: Table
    rows: tuple[RowResult, ...]
    devices: tuple[str, ...]
    data: str
    demo: bool
    comparable: bool
    """whether our figures are of the data set of the published ones"""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same test clips."""

    first: str
    second: str
    data: str
    demo: bool
    tests: Mapping[str, PairedTest]
    """by metric; the difference is first less second"""
    scores: Mapping[str, tuple[float, float]]
    """mean figures of the first and the second system over the seeds that both have, by metric"""


def read_table(name: str) -> Table:
    """Read a shipped table by its name (``table3``), or any by its path.

    Raises:
        InputError: there is no such file, it is no YAML, or a key or a value in it is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TABLES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(known.stem for known in TABLES.glob("*.yaml")))
        raise InputError(f"{name}: no such table; give {shipped}, or the path of a YAML file")
    tree = _read_yaml(path)
    _check_keys(path, "", tree, ("title", "rows"), ("title", "rows"))
    if not isinstance(tree["rows"], list) or not tree["rows"]:
        raise InputError(f"{path}: rows: must be a list of at least one row")
    rows = tuple(_read_row(path, number, row) for number, row in enumerate(tree["rows"], start=1))
    systems = [row.system for row in rows]
    twice = [system for system in systems if systems.count(system) > 1]
    if twice:
        raise InputError(f"{path}: rows: two rows are of the system {twice[0]!r}")
    return Table(path.stem, _text(path, "title", tree["title"]), rows)


def read_runs(runs: Path, system: str) -> list[Run]:
    """The finished runs of a system below ``runs``, by seed; see :func:`unfinished` for the others.

    Raises:
        InputError: a record of a run is not what it should be.
    """
    folders = {seed: folder for seed, folder in _seeds(runs, system) if folder.evaluation.is_file()}
    return [_read_run(folder, system, seed) for seed, folder in sorted(folders.items())]


def unfinished(runs: Path, system: str) -> list[str]:
    """The runs of a system that have no results yet."""
    return [f"{system}/seed{seed}" for seed, folder in sorted(_seeds(runs, system)) if not folder.evaluation.is_file()]


def validate(runs: Sequence[Run]) -> None:
    """Check that runs belong into one table.

    Raises:
        InputError: they are of different data sets, two runs of the same seed were tested on different clips, or two
            runs of the same system were trained differently.
    """
    first = runs[0]
    for run in runs:
        if (run.data, run.demo) != (first.data, first.demo):
            raise InputError(f"runs of different data sets are not for one table: {first} is of {_data_name(first)}, "
                             f"{run} of {_data_name(run)}; keep the runs of each data set in a folder of their own")
    splits, split_of = {}, _split_of(runs)
    for run in runs:
        other = splits.setdefault(run.seed, run)
        if split_of(run) != split_of(other):
            raise InputError(f"{other} and {run} were tested on different clips: a seed may have a test split of its "
                             "own (a fold), but then all systems have the same; run one of the two again")
    recipes: dict[str, Run] = {}
    for run in runs:
        other = recipes.setdefault(run.system, run)
        changed = [key for key, value in _changes(other.recipe, run.recipe).items() if key not in _OF_THE_MACHINE]
        if changed:
            key = changed[0]
            raise InputError(f"{other} and {run} were trained differently ({key}: {other.recipe[key]} and "
                             f"{run.recipe[key]}), so that a mean would be of nothing; run one of the two again")


def evaluate(table: Table, runs: Path) -> Results:
    """The table with the figures of all finished runs of its systems below ``runs``.

    Raises:
        InputError: there is no such folder or no finished run of any row, a record is damaged, or the runs do not
            belong into one table (:func:`validate`).
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; give the folder of the runs with --runs")
    by_system = {row.system: read_runs(runs, row.system) for row in table.rows}
    found = [run for of_row in by_system.values() for run in of_row]
    if not found:
        raise InputError(f"{runs}: no finished run (<system>/seed<N>/evaluation.json) of any row of {table.name}: "
                         f"{', '.join(by_system)}")
    validate(found)
    published = [device for row in table.rows for device in row.published.devices]
    ours = sorted({name for run in found for name in run.scores if name != "overall"})
    comparable = all(_is_tau(run) for run in found)
    return Results(
        table, tuple(_row_result(row, by_system[row.system]) for row in table.rows),
        tuple(dict.fromkeys(published + ours)), found[0].data, found[0].demo, comparable,
        tuple(_notes(by_system, comparable, [name for row in table.rows for name in unfinished(runs, row.system)])))


def format_markdown(results: Results) -> str:
    """The table in Markdown, in line where it is read as text."""
    rows = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in _cells(results)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", "<", *">" * (len(widths) - 2)]
    lines = ["| " + " | ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
             + " |" for row in rows]
    rule = ["-" * width if side == "<" else "-" * (width - 1) + ":" for side, width in zip(sides, widths, strict=True)]
    lines.insert(1, f"| {' | '.join(rule)} |")
    notes = "\n".join(f"- {note}" for note in results.notes)
    return f"## {_title(results)}\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def format_latex(results: Results) -> str:
    """The table as a LaTeX table of the width of the page, which needs no package."""
    head, *rows = [[_latex(cell) for cell in row] for row in _cells(results)]
    lines = [" & ".join(row) + r" \\" for row in rows]
    notes = "\n\n".join(_latex(note) for note in results.notes)
    return "\n".join([
        r"\begin{table*}", r"\centering", rf"\caption{{{_latex(_title(results))}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}", r"\hline", " & ".join(head) + r" \\", r"\hline",
        *lines, r"\hline", r"\end{tabular}", "", r"\smallskip", r"\footnotesize", notes, r"\end{table*}", ""])


def format_csv(results: Results) -> str:
    """The table as comma-separated values, one line a row; what there is not is empty."""
    columns = [*results.devices, "overall"]
    lines = []
    for result in results.rows:
        published = result.row.published
        line: dict[str, Any] = {
            "table": results.table.name, "label": result.row.label, "system": result.row.system,
            "data": results.data, "demo": results.demo, "comparable": results.comparable,
            "seeds": " ".join(map(str, result.seeds)),
            "parameters": " ".join(map(str, result.parameters)),
            **{f"kib_{policy}": _rounded(result.kib.get(policy)) for policy in POLICIES},
        }
        for name in columns:
            line |= _figures(f"accuracy_{name}", f"deviation_{name}", result.accuracy.get(name))
        line |= _figures("logloss", "deviation_logloss", result.logloss)
        line |= {f"published_{name}": published.devices.get(name) for name in results.devices}
        line |= {f"published_{name}": getattr(published, name)
                 for name in ("overall", "deviation", "seeds", "parameters", "bits", "size")}
        lines.append({**line, "notes": " ".join(results.notes)})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


FORMATS: dict[str, Callable[[Results], str]] = {"md": format_markdown, "csv": format_csv, "tex": format_latex}
"""by suffix of the file"""


def compare(runs: Path, first: str, second: str, data_root: str) -> Comparison:
    """Paired tests of two systems over the seeds that both have.

    Args:
        runs: the folder of runs.
        first: name of a system.
        second: name of another one.
        data_root: the development set whose test split was predicted; ``{seed}`` in it stands for the seed, where seeds
            are folds.

    Raises:
        InputError: they share no seed, are not of one data set, or the predictions are not of this test split.
    """
    if first == second:
        raise InputError(f"--compare: {first} cannot be compared with itself")
    by_seed = [{run.seed: run for run in read_runs(runs, system)} for system in (first, second)]
    seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not seeds:
        have = [f"{system} has {', '.join(map(str, sorted(of_system))) or 'none'}"
                for system, of_system in zip((first, second), by_seed, strict=True)]
        raise InputError(f"{runs}: no seed that both systems have finished: {'; '.join(have)}")
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]
    validate([run for pair in pairs for run in pair])
    parts = [_paired_clips(*pair, Path(data_root.replace("{seed}", str(pair[0].seed)))) for pair in pairs]
    tests = {metric: intervals.evaluate(pd.concat([part[metric] for part in parts])) for metric in METRICS}
    scores = {metric: tuple(float(np.mean([pair[side].scores["overall"][metric] for pair in pairs])) for side in (0, 1))
              for metric in METRICS}
    return Comparison(first, second, pairs[0][0].data, pairs[0][0].demo, tests, scores)


def verdict(comparison: Comparison, metric: str) -> str:
    """One sentence: whether the difference is within noise, and of what."""
    test, words = comparison.tests[metric], METRICS[metric].name.capitalize()
    if test.p_locations > intervals.ALPHA:
        few = f": {test.locations} are too few to tell anything" if math.isinf(test.low) else ""
        return f"{words}: within noise: other test locations could have turned it{few}."
    if test.within_noise:
        return (f"{words}: within noise: the trained models differ on these locations, but another training could have "
                "turned it.")
    winner = comparison.first if test.difference * METRICS[metric].better > 0 else comparison.second
    unknown = "" if test.p_seeds is not None else "; one seed says nothing of the noise of training"
    return f"{words}: not within noise: {winner} is better{unknown}."


def format_comparison(comparison: Comparison) -> str:
    """The tests in Markdown: a table, the verdicts, and what they are of."""
    head = ["", comparison.first, comparison.second, "Difference", "95 % interval", "p, locations", "p, with seeds"]
    rows = [head]
    for metric, test in comparison.tests.items():
        decimals = METRICS[metric].decimals
        ends = [_signed(end, decimals) for end in (test.low, test.high)]
        rows.append([METRICS[metric].name.capitalize(),
                     *(f"{score:.{decimals}f}" for score in comparison.scores[metric]),
                     _signed(test.difference, decimals), "none" if math.isinf(test.low) else " to ".join(ends),
                     _p_value(test.p_locations), _p_value(test.p_seeds)])
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
             for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    test = comparison.tests["accuracy"]
    seeds = ", ".join(f"{seed}: {_signed(value, 1)}" for seed, value in test.by_seed.items())
    notes = [verdict(comparison, metric) for metric in METRICS]
    notes += [f"Test split of {comparison.data}: {_counted(len(test.by_seed), 'seed')}, "
              f"{_counted(test.locations, 'location')}, {test.clips:,} paired predictions. Difference of accuracy by "
              f"seed: {seeds}.",
              "Interval and p over locations take the trained models as given; p with seeds is of locations and seeds "
              "together."]
    if comparison.demo:
        notes.append(_demo_note())
    mark = " (demo data)" if comparison.demo else ""
    return (f"## {comparison.first} less {comparison.second}{mark}\n\n" + "\n".join(lines) + "\n\n"
            + "\n".join(f"- {note}" for note in notes) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write a table, and the comparison of two systems where one is asked for; returns 0.

    Raises:
        InputError: the table or the runs cannot be read, or do not belong together.
    """
    arguments = _parser().parse_args(argv)
    if bool(arguments.compare) != bool(arguments.data_root):
        raise InputError("--compare A B and --data-root DIR go together: the locations of the test clips are in the "
                         "data set")
    table = read_table(arguments.table)
    results = evaluate(table, arguments.runs)
    comparison = compare(arguments.runs, *arguments.compare, arguments.data_root) if arguments.compare else None
    out = arguments.out or arguments.runs / "tables"
    for suffix, form in FORMATS.items():
        write_text(out / f"{table.name}.{suffix}", form(results))
    print(format_markdown(results), end="")
    if comparison:
        text, stem = format_comparison(comparison), f"compare_{comparison.first}_{comparison.second}"
        write_text(out / f"{stem}.md", text)
        write_json(out / f"{stem}.json", _plain(comparison))
        print(f"\n{text}", end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m evaluation.tables", description="A table of the paper with the figures of "
                           "our runs beside the published ones, in Markdown, CSV and LaTeX.")
    parser.add_argument("table", metavar="TABLE", help="table2, table3, table4, or the path of a YAML file like those "
                        "in system_configs/tables/")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"),
                        help="where runs lie (default: runs)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the files go (default: tables/ beside the runs)")
    parser.add_argument("--compare", metavar=("A", "B"), nargs=2, help="names of two systems: is their difference more "
                        "than noise?")
    parser.add_argument("--data-root", metavar="DIR", help="for --compare: the development set that was tested on; "
                        "where each seed has a fold of its own, with {seed} for the seed")
    return parser


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _check_keys(path: Path, where: str, tree: Any, known: Sequence[str], required: Sequence[str] = ()) -> None:
    if not isinstance(tree, dict):
        raise InputError(f"{path}: {where}must hold keys ({', '.join(known)})")
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise InputError(f"{path}: {where}unknown key {unknown[0]!r} (known are {', '.join(known)})")
    missing = [key for key in required if key not in tree]
    if missing:
        raise InputError(f"{path}: {where}no key {missing[0]!r}")


def _read_row(path: Path, number: int, tree: Any) -> Row:
    where = f"rows: {number}: "
    _check_keys(path, where, tree, ("system", "label", "published"), ("system", "label"))
    system = _text(path, f"{where}system", tree["system"])
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", system):
        raise InputError(f"{path}: {where}system: {system!r} is not the name of a system")
    return Row(system, _text(path, f"{where}label", tree["label"]),
               _read_published(path, f"{where}published: ", tree.get("published") or {}))


def _read_published(path: Path, where: str, tree: Any) -> Published:
    _check_keys(path, where, tree, ("parameters", "bits", "size", "devices", "overall", "deviation", "seeds"))
    texts = {key: _text(path, where + key, tree[key]) for key in ("parameters", "bits", "size") if key in tree}
    numbers = {key: _number(f"{path}: {where}{key}", tree[key]) for key in ("overall", "deviation") if key in tree}
    seeds = tree.get("seeds")
    if seeds is not None and (not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1):
        raise InputError(f"{path}: {where}seeds: must be a count (given {seeds!r})")
    devices = tree.get("devices") or {}
    if not isinstance(devices, dict) or "overall" in devices:
        raise InputError(f"{path}: {where}devices: must hold the accuracy of each device, overall is beside it")
    return Published(**texts, **numbers, seeds=seeds, devices={
        _text(path, f"{where}devices", name): _number(f"{path}: {where}devices: {name}", value)
        for name, value in devices.items()})


def _text(path: Path, where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) > 1:
        raise InputError(f"{path}: {where}: must be one line of text (given {value!r})")
    return value


def _number(where: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{where}: must be a number (given {value!r})")
    return float(value)


def _seeds(runs: Path, system: str) -> Iterator[tuple[int, RunFolder]]:
    for path in (runs / system).glob("seed*"):
        if path.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", path.name, re.ASCII):
            yield int(path.name[4:]), RunFolder(path)


def _read_run(folder: RunFolder, system: str, seed: int) -> Run:
    record = _read_record(folder.evaluation, "evaluate")
    try:
        data, labels = record["data"], tuple(record["labels"])
        left_out = frozenset(map(clip_key, record.get("left_out", ())))
        of_devices = {name: score for name, score in record["device_wise"].items() if score is not None}
        scores = {name: {metric: _number(f"{folder.evaluation}: {name}: {metric}", score[metric]) for metric in METRICS}
                  for name, score in {**of_devices, "overall": record["overall"]}.items()}
        name, demo, clips = str(data["name"]), bool(data["demo"]), int(data["clips"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{folder.evaluation}: not the results of a run ({error!r}); run the stage again: --stage "
                         "evaluate --force") from None
    return Run(folder, system, seed, name, demo, labels, scores, left_out, clips + len(left_out),
               _tested(folder.test_predictions, left_out), *_size(folder.complexity), _recipe(folder.config))


def _read_record(path: Path, stage: str) -> Any:
    try:
        return read_json(path)
    except ValueError:  # no JSON, or no UTF-8
        raise InputError(f"{path}: damaged; run the stage again: --stage {stage} --force") from None


def _tested(predictions: Path, left_out: frozenset[str]) -> frozenset[str] | None:
    if not predictions.is_file():
        return None
    try:
        lines = predictions.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{predictions}: not a table: not UTF-8 text") from None
    return left_out | {clip_key(line.split("\t", 1)[0]) for line in lines[1:]}


def _size(path: Path) -> tuple[int | None, dict[str, float]]:
    """Trainable parameters, and KiB by policy."""
    if not path.is_file():
        return None, {}
    record = _read_record(path, "complexity")
    try:
        parameters = sum(tensor["values"] for tensor in record["tensors"]
                         if not tensor["statistics"] and not tensor["name"].endswith(".weight_scale"))
        return parameters, {policy: _number(f"{path}: {policy}", record["policies"][policy]["KiB"])
                            for policy in POLICIES}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the size of a run ({error!r}); run the stage again: --stage complexity "
                         "--force") from None


def _recipe(path: Path) -> dict[str, Any]:
    """What decides the trained model, by ``section.key``."""
    if not path.is_file():
        return {}
    tree = _read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not the configuration of a run")
    return _flat(tree)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: tree[name] for name in _RECIPE if tree.get(name)}
    compression = sections.get("compression")
    if isinstance(compression, dict) and not compression.get("enabled"):
        sections["compression"] = {"enabled": False}  # the rest of it has no effect
    flat = {}
    for name, section in sections.items():
        flat |= {f"{name}.{key}": value for key, value in section.items()} if isinstance(section, dict) else {
            name: section}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def _changes(from_recipe: Mapping[str, Any], to_recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that both have with different values, and the new ones."""
    return {key: value for key, value in to_recipe.items() if key in from_recipe and from_recipe[key] != value}


def _split_of(runs: Sequence[Run]) -> Callable[[Run], Any]:
    """What tells test splits apart: the names of their clips where all runs have them, else their number."""
    if all(run.names is not None for run in runs):
        return lambda run: run.names
    return lambda run: run.clips


def _is_tau(run: Run) -> bool:
    """Whether a run was tested on what the published figures are of."""
    return (not run.demo and run.data.lower() == _TAU_FOLDER and run.clips == _TAU_TEST_CLIPS
            and set(run.labels) == set(TASK1A_2021.labels))


def _data_name(run: Run) -> str:
    return f"{run.data} (demo data)" if run.demo else run.data


def _row_result(row: Row, runs: Sequence[Run]) -> RowResult:
    if not runs:
        return RowResult(row)
    names = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    sizes = [run.kib for run in runs if run.kib]
    return RowResult(
        row, tuple(run.seed for run in runs),
        tuple(sorted({run.parameters for run in runs if run.parameters is not None})),
        {policy: float(np.mean([size[policy] for size in sizes])) for policy in sizes[0]} if sizes else {},
        {name: spread([run.scores[name]["accuracy"] for run in runs]) for name in names},
        spread([run.scores["overall"]["logloss"] for run in runs]))


def _notes(by_system: Mapping[str, Sequence[Run]], comparable: bool, left: Sequence[str]) -> Iterator[str]:
    """What has to be said with the figures, one sentence or two each."""
    runs = [run for of_system in by_system.values() for run in of_system]
    clips = [run.clips - len(run.left_out) for run in runs]
    count = " to ".join(f"{number:,}" for number in sorted({min(clips), max(clips)}))
    yield (f"Ours: test split of {_data_name(runs[0])}, {count} clips. Accuracy in percent, the mean of the class-wise "
           "accuracies; ± is the sample deviation (n - 1) over seeds.")
    if runs[0].demo:
        yield _demo_note()
    if comparable:
        yield f"Published: {PUBLISHED_ON}, the same test split."
    else:
        yield (f"Not comparable with the published figures: those are of the test split of {PUBLISHED_ON} "
               f"({_TAU_TEST_CLIPS:,} clips), ours are not.")
    yield from _fold_notes(by_system, runs)
    yield from _recipe_notes(by_system)
    damaged = [f"{run} ({len(run.left_out)})" for run in runs if run.left_out]
    if damaged:
        yield f"Damaged test clips were left out: {', '.join(damaged)}."
    if left:
        yield f"Not finished, and not in the table: {', '.join(left)}."


def _fold_notes(by_system: Mapping[str, Sequence[Run]], runs: Sequence[Run]) -> Iterator[str]:
    split_of = _split_of(runs)
    if len({split_of(run) for run in runs}) == 1:
        return
    yield "Folds: the seeds were tested on different clips, so that ± is over folds, too."
    seeds = {tuple(run.seed for run in of_system) for of_system in by_system.values() if of_system}
    if len(seeds) > 1:
        yield "Rows with different seeds are not over the same test clips."


def _recipe_notes(by_system: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """Where runs were not made with what the system's file says; systems with the same changes share a sentence."""
    from task1a import config  # pydantic takes as long to import as everything else here
    changes: dict[str, list[str]] = {}
    for system, runs in by_system.items():
        path = SYSTEMS / f"{system}.yaml"
        if not path.is_file() or not runs or not runs[0].recipe:
            continue
        shipped = _flat(asdict(config.load(path)))
        changed = _changes(shipped, runs[0].recipe)
        if changed:
            said = ", ".join(f"{key}={value} ({shipped[key]})" for key, value in changed.items())
            changes.setdefault(said, []).append(system)
    for said, systems in changes.items():
        yield f"Not the recipe of system_configs (in parentheses): {said}: {', '.join(systems)}."


def _demo_note() -> str:
    return f"{DEMO_NOTE[0].upper()}{DEMO_NOTE[1:]}."


def _title(results: Results) -> str:
    return f"{results.table.title} (ours: demo data)" if results.demo else results.table.title


def _cells(results: Results) -> list[list[str]]:
    """The heading, then two rows of text for each row of the table: our figures and the published ones."""
    ours_name = "ours (demo data)" if results.demo else "ours"
    rows = [["System", "", "Seeds", "Parameters", *(f"KiB, {policy}" for policy in POLICIES),
             *(device.upper() for device in results.devices), "Overall", "Log loss"]]
    for result in results.rows:
        published, columns = result.row.published, (*results.devices, "overall")
        size = [result.kib.get(policy) for policy in POLICIES]
        rows.append([result.row.label, ours_name, str(len(result.seeds) or ""),
                     " to ".join(f"{count:,}" for count in result.parameters),
                     *("" if kib is None else f"{kib:.1f}" for kib in size),
                     *(_spread(result.accuracy.get(name), 1) for name in columns), _spread(result.logloss, 3)])
        overall = None if published.overall is None else Spread(published.overall, published.deviation, 0)
        rows.append(["", "published", str(published.seeds or ""), published.parameters or "", "",
                     ", ".join(text for text in (published.bits, published.size) if text),
                     *("" if name not in published.devices else f"{published.devices[name]:.1f}"
                       for name in results.devices), _spread(overall, 1), ""])
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _figures(mean: str, deviation: str, value: Spread | None) -> dict[str, float | None]:
    return {mean: _rounded(value and value.mean), deviation: _rounded(value and value.deviation)}


def _spread(value: Spread | None, decimals: int) -> str:
    if value is None:
        return ""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{deviation}"


def _latex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
               # [ and * would belong to the end of the line above
               "[": "{[}", "*": "{*}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
    return "".join(escapes.get(letter, letter) for letter in text)


def _paired_clips(first: Run, second: Run, root: Path) -> dict[str, pd.DataFrame]:
    """The table of clips (:mod:`evaluation.intervals`) of the two runs of a seed, by metric."""
    if first.left_out != second.left_out:
        raise InputError(f"{first} and {second}: other damaged test clips were left out of the one than of the other; "
                         "run one of the two again")
    clips = read_development(root)
    keep = (clips.split == "test") & ~clips.filename.map(clip_key).isin(first.left_out)
    reference = clips[keep].reset_index(drop=True)
    scores = [_clip_scores(run, reference, root) for run in (first, second)]
    weights = {"accuracy": intervals.class_weights(reference.scene_label), "logloss": 1 / len(reference)}
    return {metric: pd.DataFrame({"seed": first.seed, "location": reference.identifier,
                                  "difference": scores[0][metric] - scores[1][metric], "weight": weights[metric]})
            for metric in METRICS}


def _clip_scores(run: Run, reference: pd.DataFrame, root: Path) -> dict[str, np.ndarray]:
    """Accuracy in percent and log loss of every clip of the reference.

    Raises:
        InputError: the predictions are not of these clips, or are not those that the run's results are of.
    """
    path = run.folder.test_predictions
    predictions = metrics.read_predictions(path)
    try:
        metrics.validate(reference, predictions)
    except InputError as error:
        raise InputError(f"{run} against {root}: {error} (where seeds are folds, put {{seed}} into --data-root)"
                         ) from None
    matched = predictions.set_index(predictions.filename.map(clip_key)).loc[reference.filename.map(clip_key)]
    labels = metrics.label_columns(predictions)
    truth = reference.scene_label.to_numpy(object)
    eps = np.finfo(np.float64).eps
    likely = matched[labels].to_numpy(np.float64)[np.arange(len(truth)), pd.Index(labels).get_indexer(truth)]
    scores = {"accuracy": 100.0 * (matched.scene_label.to_numpy(object) == truth),
              "logloss": -np.log(likely.clip(eps, 1 - eps))}
    means = {"accuracy": scores["accuracy"] @ intervals.class_weights(truth), "logloss": scores["logloss"].mean()}
    for metric, mean in means.items():
        noted = run.scores["overall"][metric]
        if not math.isclose(mean, noted, rel_tol=1e-6, abs_tol=1e-6):
            raise InputError(f"{run} against {root}: {metric} {mean:.6g} where the run's results say {noted:.6g}; this "
                             "is another data set, or the predictions were changed")
    return scores


def _plain(comparison: Comparison) -> dict[str, Any]:
    """A comparison as it is stored."""
    accuracy = comparison.tests["accuracy"]
    return {
        "first": comparison.first, "second": comparison.second,
        "data": {"name": comparison.data, "demo": comparison.demo},
        "seeds": list(accuracy.by_seed), "locations": accuracy.locations, "paired_predictions": accuracy.clips,
        **{metric: {
            "first": comparison.scores[metric][0], "second": comparison.scores[metric][1],
            "difference": test.difference, "interval": None if math.isinf(test.low) else [test.low, test.high],
            "p_locations": test.p_locations, "p_with_seeds": test.p_seeds,
            "by_seed": {str(seed): value for seed, value in test.by_seed.items()},
            "within_noise": test.within_noise, "verdict": verdict(comparison, metric),
        } for metric, test in comparison.tests.items()}}


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}"


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


if __name__ == "__main__":
    sys.exit(run_command(main))
