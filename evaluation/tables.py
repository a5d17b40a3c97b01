"""The poster's tables with the figures of our own runs beside the published ones, and paired tests of two systems.

``python -m evaluation.tables TABLE --runs DIR [--out DIR] [--compare A B --data-root DIR]``

* Figures are those of :mod:`evaluation.results`; ± is the sample deviation (n - 1) over seeds; one seed has none.
* A row without runs is empty; so is a figure that a run lacks.
* A table is of one data set. Runs of a row share one recipe; where it is not the one of the system's file, that is
  said, and likewise that figures are of demo data, or of another data set than the published ones.

Published figures: B. Kim, S. Yang, J. Kim, S. Chang, arXiv 2206.13909.
"""
import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import comparison, markdown
from evaluation.intervals import Spread, spread
from evaluation.per_device import DEMO_NOTE
from evaluation.results import POLICIES, Result, changes, read_results, recipe, tested_on, unfinished, validate
from evaluation.table_file import SYSTEMS, Row, Table, read_table
from task1a.challenge import LABELS
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import write_json, write_text

PUBLISHED_ON = "TAU Urban Acoustic Scenes 2020 Mobile"
_TAU_FOLDER, _TAU_TEST_CLIPS = "tau-urban-acoustic-scenes-2020-mobile-development", 2968


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


def evaluate(table: Table, runs: Path) -> Results:
    """The table with the figures of all finished runs of its systems below ``runs``.

    Raises:
        InputError: there is no such folder or no finished run of any row, a record is damaged, or the runs do not
            belong into one table (:func:`validate`).
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; give the folder of the runs with --runs")
    by_system = {row.system: read_results(runs, row.system) for row in table.rows}
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
    """The table in Markdown."""
    cells = _cells(results)
    return (f"## {_title(results)}\n\n{markdown.table(cells, '<<' + '>' * (len(cells[0]) - 2))}\n\n"
            f"{markdown.notes(results.notes)}\n")


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
    compared = (comparison.compare(arguments.runs, *arguments.compare, arguments.data_root) if arguments.compare
                else None)
    out = arguments.out or arguments.runs / "tables"
    for suffix, form in FORMATS.items():
        write_text(out / f"{table.name}.{suffix}", form(results))
    print(format_markdown(results), end="")
    if compared:
        text, stem = comparison.format_markdown(compared), f"compare_{compared.first}_{compared.second}"
        write_text(out / f"{stem}.md", text)
        write_json(out / f"{stem}.json", comparison.plain(compared))
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


def _is_tau(run: Result) -> bool:
    """Whether a run was tested on what the published figures are of."""
    return (not run.demo and run.data.lower() == _TAU_FOLDER and run.clips == _TAU_TEST_CLIPS
            and set(run.labels) == set(LABELS))


def _row_result(row: Row, runs: Sequence[Result]) -> RowResult:
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


def _notes(by_system: Mapping[str, Sequence[Result]], comparable: bool, left: Sequence[str]) -> Iterator[str]:
    """What has to be said with the figures, one sentence or two each."""
    runs = [run for of_system in by_system.values() for run in of_system]
    clips = [run.clips - len(run.left_out) for run in runs]
    count = " to ".join(f"{number:,}" for number in sorted({min(clips), max(clips)}))
    yield (f"Ours: test split of {runs[0].data_name}, {count} clips. Accuracy in percent, the mean of the class-wise "
           "accuracies; ± is the sample deviation (n - 1) over seeds.")
    if runs[0].demo:
        yield f"{DEMO_NOTE.capitalize()}."
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


def _fold_notes(by_system: Mapping[str, Sequence[Result]], runs: Sequence[Result]) -> Iterator[str]:
    if len(set(tested_on(runs))) == 1:
        return
    yield "Folds: the seeds were tested on different clips, so that ± is over folds, too."
    seeds = {tuple(run.seed for run in of_system) for of_system in by_system.values() if of_system}
    if len(seeds) > 1:
        yield "Rows with different seeds are not over the same test clips."


def _recipe_notes(by_system: Mapping[str, Sequence[Result]]) -> Iterator[str]:
    """Where runs were not made with what the system's file says; systems with the same changes share a sentence."""
    from task1a import config  # pydantic takes as long to import as everything else here
    systems_of: dict[str, list[str]] = {}
    for system, runs in by_system.items():
        path = SYSTEMS / f"{system}.yaml"
        if not path.is_file() or not runs or not runs[0].recipe:
            continue
        shipped = recipe(config.load(path))
        changed = changes(shipped, runs[0].recipe)
        if changed:
            said = ", ".join(f"{key}={value} ({shipped[key]})" for key, value in changed.items())
            systems_of.setdefault(said, []).append(system)
    for said, systems in systems_of.items():
        yield f"Not the recipe of system_configs (in parentheses): {said}: {', '.join(systems)}."


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


if __name__ == "__main__":
    sys.exit(run_command(main))
