"""Tables of the paper with the results of our runs beside the published ones, and paired tests of two systems.

``python -m evaluation.tables TABLE --runs DIR [--out DIR] [--compare A B --data-root DIR]``

* Scores are those of :mod:`evaluation.results`; ± is the sample standard deviation (n - 1) over seeds, if there are
  several.
* Rows without runs are empty, and so are values that a run lacks.
* All runs of a table are on one data set. A row is the mean of runs that differ in the seed alone: of those with the
  settings of the system's configuration or, if there are none, of those in the folder with the system's name. Notes say
  what differs from the configuration, and which other runs of the system there are.
* Published results are shown only if ours are of the same test split.

Published results: B. Kim, S. Yang, J. Kim, S. Chang, arXiv 2206.13909.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import markdown
from evaluation.per_device import DEMO_NOTE
from evaluation.results import (
    POLICIES,
    PUBLISHED_CLIPS,
    PUBLISHED_ON,
    Result,
    against,
    changes,
    differences,
    groups,
    have_folds,
    read_systems,
    shipped_settings,
    validate,
    values_of,
)
from evaluation.tables.table_file import Published, Table
from task1a.errors import InputError, printable


@dataclass(frozen=True)
class Results:
    """A table with the results of our runs."""

    table: Table
    title: str
    ours: list[dict[str, Any]]
    """results of each row, by column of the CSV file; None for a value that a run lacks"""
    devices: list[str]
    data: str
    demo: bool
    comparable: bool
    """whether our runs were tested on the clips of the published results"""
    notes: list[str]


def evaluate(table: Table, runs: Path) -> Results:
    """The table with the results of all finished runs of its systems below ``runs``.

    Raises:
        InputError: the folder does not exist or has no finished run of any row, a record is damaged, or the runs cannot
            share a table (:func:`evaluation.results.validate`).
    """
    from evaluation.compare.intervals import spread

    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; give the folder of the runs with --runs")
    by_system: dict[str, list[Result]] = {}
    unfinished, notes = [], []
    for system, (of_system, left) in read_systems(runs, [row.system for row in table.rows]).items():
        by_system[system], noted = _of_row(system, of_system, shipped_settings(system, table.systems))
        unfinished += left
        notes += noted
    finished = [run for of_row in by_system.values() for run in of_row]
    if not finished:
        raise InputError(f"{runs}: no finished run (<system>/seed<N>/evaluation.json) of any row of {table.name}: "
                         f"{', '.join(by_system)}{''.join(f'; {note}' for note in notes)}")
    validate(finished)
    comparable = all(run.comparable for run in finished)

    # the published devices come first, in their order
    devices = [device for row in table.rows if comparable for device in row.published.devices]
    devices += sorted({device for run in finished for device in run.scores} - {"overall"})
    devices = list(dict.fromkeys(devices))

    ours = []
    for row in table.rows:
        of_row = by_system[row.system]
        line: dict[str, Any] = {"seeds": [run.seed for run in of_row],
                                "parameters": sorted({run.parameters for run in of_row} - {None})}
        for policy in POLICIES:
            line[f"kib_{policy}"], _ = spread([run.kib[policy] for run in of_row if run.kib])
        for name in (*devices, "overall"):
            complete = all(name in run.scores for run in of_row)
            scores = [run.scores[name]["accuracy"] for run in of_row] if complete else []
            line[f"accuracy_{name}"], line[f"deviation_{name}"] = spread(scores)
        line["logloss"], line["deviation_logloss"] = spread([run.scores["overall"]["logloss"] for run in of_row])
        ours.append(line)

    first = finished[0]
    title = f"{table.title} (ours: demo data)" if first.demo else table.title
    return Results(table, title, ours, devices, first.data, first.demo, comparable,
                   _notes(table, by_system, comparable, unfinished) + notes)


def format_markdown(results: Results) -> str:
    """The table in Markdown."""
    cells = _cells(results)
    return markdown.section(results.title, cells, "<<" + ">" * (len(cells[0]) - 2), results.notes)


def format_latex(results: Results) -> str:
    """The table as a LaTeX table over the width of the page, which needs no package."""
    head, *rows = [[_latex(cell) for cell in row] for row in _cells(results)]
    lines = [" & ".join(row) + r" \\" for row in rows]
    notes = "\n\n".join(_latex(note) for note in results.notes)
    return "\n".join([
        r"\begin{table*}", r"\centering", rf"\caption{{{_latex(results.title)}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}", r"\hline", " & ".join(head) + r" \\", r"\hline",
        *lines, r"\hline", r"\end{tabular}", "", r"\smallskip", r"\footnotesize", notes, r"\end{table*}", ""])


def format_csv(results: Results) -> str:
    """The table as comma-separated values, one line per row; missing values are empty."""
    import pandas as pd

    lines = []
    for row, ours in zip(results.table.rows, results.ours, strict=True):
        line = {"table": results.table.name, "label": row.label, "system": row.system, "data": results.data,
                "demo": results.demo, "comparable": results.comparable}
        for name, value in ours.items():
            if isinstance(value, list):
                value = " ".join(map(str, value))
            line[name] = round(value, 6) if isinstance(value, float) else value
        published = row.published if results.comparable else Published()
        for device in results.devices:
            line[f"published_{device}"] = published.devices.get(device)
        for name in ("overall", "deviation", "seeds", "parameters", "bits", "size"):
            line[f"published_{name}"] = getattr(published, name)
        lines.append({**line, "notes": " ".join(results.notes)})
    return pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")


FORMATS: dict[str, Callable[[Results], str]] = {"md": format_markdown, "csv": format_csv, "tex": format_latex}
"""by file suffix"""


def _of_row(system: str, runs: Sequence[Result],
            shipped: Mapping[str, Any] | None) -> tuple[list[Result], list[str]]:
    """The runs of a row, which differ in the seed alone, and notes on the other runs of its system.

    Raises:
        InputError: there are several such groups of runs, none of which comes before the others.
    """
    def place(group: Sequence[Result]) -> int:
        """0, 1: with the settings of the configuration; 0, 2: in the folder with the system's name; 3: neither."""
        as_shipped = shipped is not None and not changes(shipped, group[0].settings)
        return 2 * (not as_shipped) + (system not in [run.name for run in group])

    alike = sorted(groups(runs), key=place)
    row = alike.pop(0) if alike and place(alike[0]) < 3 else []
    notes = []
    for group in alike:
        found = differences(row[0], group[0]) if row else changes(shipped or {}, group[0].settings)
        if row and found and place(group) == place(row):
            raise InputError(f"{row[0]} and {group[0]} cannot be averaged: {against(found)}; run one of the two again, "
                             "or keep them in folders of their own")
        reason = "a run with this seed is in the row" if row else "their folder does not have the system's name"
        if found:
            reason = f"{values_of(found, 1)} instead of {values_of(found, 0)}"
        notes.append(f"Not in the row of {system}: {', '.join(map(str, group))}: {reason}.")
    return row, notes


def _notes(table: Table, by_system: Mapping[str, Sequence[Result]], comparable: bool,
           unfinished: Sequence[str]) -> list[str]:
    """Notes that belong under the table."""
    runs = [run for of_system in by_system.values() for run in of_system]
    clips = [run.clips - len(run.left_out) for run in runs]
    count = f"{min(clips):,} to {max(clips):,}" if min(clips) < max(clips) else f"{min(clips):,}"
    notes = [f"Ours: test split of {runs[0].data_name}, {count} clips. Accuracy in percent, the mean of the class-wise "
             "accuracies; ± is the sample deviation (n - 1) over seeds."]
    if runs[0].demo:
        notes.append(f"{DEMO_NOTE.capitalize()}.")
    if comparable:
        notes.append(f"Published: {PUBLISHED_ON}, the same test split.")
    elif any(row.published != Published() for row in table.rows):
        notes.append(f"Published figures are of the test split of {PUBLISHED_ON} ({PUBLISHED_CLIPS:,} clips), and are "
                     "left out.")

    if have_folds(runs):
        notes.append("Folds: the seeds were tested on different clips, so that ± is over folds, too.")
        seeds = {tuple(run.seed for run in of_system) for of_system in by_system.values() if of_system}
        if len(seeds) > 1:
            notes.append("Rows with different seeds are not over the same test clips.")

    # systems with the same changes share a note
    changed_systems: dict[str, list[str]] = {}
    for system, of_system in by_system.items():
        shipped = shipped_settings(system, table.systems)
        if shipped and of_system and (found := changes(shipped, of_system[0].settings)):
            words = f"{values_of(found, 1)} instead of {values_of(found, 0)}"
            changed_systems.setdefault(words, []).append(system)
    for words, systems in changed_systems.items():
        notes.append(f"Not the recipe of system_configs: {words}: {', '.join(systems)}.")

    damaged = [f"{run} ({len(run.left_out)})" for run in runs if run.left_out]
    if damaged:
        notes.append(f"Damaged test clips were left out: {', '.join(damaged)}.")
    if unfinished:
        notes.append(f"Not finished, and not in the table: {', '.join(unfinished)}.")
    return notes


def _cells(results: Results) -> list[list[str]]:
    """The heading, then for each row of the table our results and, if comparable, the published ones."""
    cells = [["System", "", "Seeds", "Parameters", *(f"KiB, {policy}" for policy in POLICIES),
              *(device.upper() for device in results.devices), "Overall", "Log loss"]]
    for row, line in zip(results.table.rows, results.ours, strict=True):
        ours = [row.label, "ours (demo data)" if results.demo else "ours", str(len(line["seeds"]) or ""),
                " to ".join(f"{count:,}" for count in line["parameters"])]
        ours += [_fixed(line[f"kib_{policy}"], None, 1) for policy in POLICIES]
        for name in (*results.devices, "overall"):
            ours.append(_fixed(line[f"accuracy_{name}"], line[f"deviation_{name}"], 1))
        cells.append([*ours, _fixed(line["logloss"], line["deviation_logloss"], 3)])
        if not results.comparable:
            continue
        published = row.published
        theirs = ["", "published", str(published.seeds or ""), published.parameters or "", "",
                  ", ".join(filter(None, (published.bits, published.size)))]
        theirs += [_fixed(published.devices.get(device), None, 1) for device in results.devices]
        cells.append([*theirs, _fixed(published.overall, published.deviation, 1), ""])
    return cells


def _fixed(mean: float | None, deviation: float | None, decimals: int) -> str:
    if mean is None:
        return ""
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def _latex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
               # [ and * would be arguments of the \\ of the line above
               "[": "{[}", "*": "{*}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
    return "".join(escapes.get(letter, letter) for letter in printable(text))
