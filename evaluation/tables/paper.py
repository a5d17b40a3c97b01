"""Tables of the paper with the results of our runs next to the published ones.

* Scores are those of :mod:`evaluation.results`; ± is the sample standard deviation (n - 1) over
  seeds, if there are several.
* Rows without runs are empty, and so are values that a run lacks.
* All runs of a table are on one data set. A row is the mean of runs that differ in the seed alone:
  of those with the settings of the system's configuration or, if there are none, of those in the
  folder with the system's name. Notes say what differs from the configuration, and which other runs
  of the system there are.
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
    changes,
    differences,
    format_differences,
    format_side,
    groups,
    have_folds,
    read_systems,
    shipped_settings,
    validate,
)
from evaluation.tables.table_file import Published, Table
from task1a.errors import InputError, printable

# [ and * would be read as arguments of the \\ of the line above
_LATEX = str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
          "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}",
          "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"})


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
    """Return the table with the results of all finished runs of its systems below ``runs``.

    Raises:
        InputError: the folder does not exist or has no finished run of any row, a record is
            damaged, or the runs cannot share a table (:func:`evaluation.results.validate`).
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; give the folder of the runs with --runs")
    rows: dict[str, list[Result]] = {}
    unfinished, other_runs = [], []
    found = read_systems(runs, [row.system for row in table.rows])
    for system, (results, not_finished) in found.items():
        rows[system], noted = choose(system, results, shipped_settings(system, table.systems))
        unfinished += not_finished
        other_runs += noted
    finished = sum(rows.values(), [])
    if not finished:
        raise InputError("; ".join([
            f"{runs}: no finished run (<system>/seed<N>/evaluation.json) of any row of {table.name}: "
            f"{', '.join(rows)}", *other_runs]))
    validate(finished)
    comparable = all(run.comparable for run in finished)

    # the published devices come first, in their order
    devices: dict[str, None] = {}
    tested: set[str] = set()
    for row in table.rows if comparable else ():
        devices |= dict.fromkeys(row.published.devices)
    for run in finished:
        tested |= run.scores.keys() - {"overall"}
    devices |= dict.fromkeys(sorted(tested))

    first = finished[0]
    return Results(
        table=table, title=f"{table.title} (ours: demo data)" if first.demo else table.title,
        ours=[summarize(rows[row.system], list(devices)) for row in table.rows], devices=list(devices),
        data=first.data, demo=first.demo, comparable=comparable,
        notes=describe(table, rows, comparable, unfinished) + other_runs)


def choose(system: str, runs: Sequence[Result],
           shipped: Mapping[str, Any] | None) -> tuple[list[Result], list[str]]:
    """Return the runs of a row, which differ in the seed alone, and notes on its system's other
    runs.

    Raises:
        InputError: there are several such groups of runs, none of which comes before the others.
    """
    def rank(group: Sequence[Result]) -> int:
        # 0, 1: with the settings of the configuration; 0, 2: in the system's folder; 3: neither
        as_shipped = shipped is not None and not changes(shipped, group[0].settings)
        return 2 * (not as_shipped) + (system not in [run.name for run in group])

    # sorting is stable: among equals, the runs in the system's folder come first
    others = sorted(groups(runs), key=rank)
    row = others.pop(0) if others and rank(others[0]) < 3 else []
    notes = []
    for group in others:
        found = differences(row[0], group[0]) if row else changes(shipped or {}, group[0].settings)
        if row and found and rank(group) == rank(row):
            raise InputError(f"{row[0]} and {group[0]} cannot be averaged: {format_differences(found)}; "
                             "run one of the two again, or keep them in folders of their own")
        reason = "a run with this seed is in the row" if row else \
            "their folder does not have the system's name"
        if found:
            reason = f"{format_side(found, 1)} instead of {format_side(found, 0)}"
        notes.append(f"Not in the row of {system}: {', '.join(map(str, group))}: {reason}.")
    return row, notes


def summarize(runs: Sequence[Result], devices: Sequence[str]) -> dict[str, Any]:
    """Return the values of a row by column; None for a value that one of its runs lacks."""
    from evaluation.compare.intervals import spread

    parameters = {run.parameters for run in runs} - {None}
    row: dict[str, Any] = {"seeds": [run.seed for run in runs], "parameters": sorted(parameters)}
    for policy in POLICIES:
        row[f"kib_{policy}"], _ = spread([run.kib[policy] for run in runs if run.kib])
    for name in (*devices, "overall"):
        scores = [run.scores[name]["accuracy"] for run in runs if name in run.scores]
        # a mean over fewer seeds than the other columns would mislead
        if len(scores) < len(runs):
            scores = []
        row[f"accuracy_{name}"], row[f"deviation_{name}"] = spread(scores)
    losses = [run.scores["overall"]["logloss"] for run in runs]
    row["logloss"], row["deviation_logloss"] = spread(losses)
    return row


def describe(table: Table, rows: Mapping[str, Sequence[Result]], comparable: bool,
             unfinished: Sequence[str]) -> list[str]:
    """Return the notes that belong under the table."""
    runs: list[Result] = sum(map(list, rows.values()), [])
    clips = sorted({run.clips - len(run.excluded) for run in runs})
    count = " to ".join(f"{number:,}" for number in dict.fromkeys((clips[0], clips[-1])))
    notes = [f"Ours: test split of {runs[0].data_name}, {count} clips. Accuracy in percent, the mean of "
             "the class-wise accuracies; ± is the sample deviation (n - 1) over seeds."]
    if runs[0].demo:
        notes.append(f"{DEMO_NOTE.capitalize()}.")
    if comparable:
        notes.append(f"Published: {PUBLISHED_ON}, the same test split.")
    elif any(row.published != Published() for row in table.rows):
        notes.append(f"Published figures are of the test split of {PUBLISHED_ON} ({PUBLISHED_CLIPS:,} "
                     "clips), and are left out.")

    if have_folds(runs):
        notes.append("Folds: the seeds were tested on different clips, so that ± is over folds, too.")
        seeds = {tuple(run.seed for run in row) for row in rows.values() if row}
        if len(seeds) > 1:
            notes.append("Rows with different seeds are not over the same test clips.")

    # systems with the same changes share a note
    changed_systems: dict[str, list[str]] = {}
    for system, row in rows.items():
        shipped = shipped_settings(system, table.systems)
        if shipped and row and (found := changes(shipped, row[0].settings)):
            words = f"{format_side(found, 1)} instead of {format_side(found, 0)}"
            changed_systems.setdefault(words, []).append(system)
    for words, systems in changed_systems.items():
        notes.append(f"Not the recipe of system_configs: {words}: {', '.join(systems)}.")

    damaged = [f"{run} ({len(run.excluded)})" for run in runs if run.excluded]
    if damaged:
        notes.append(f"Damaged test clips were left out: {', '.join(damaged)}.")
    if unfinished:
        notes.append(f"Not finished, and not in the table: {', '.join(unfinished)}.")
    return notes


def format_markdown(results: Results) -> str:
    """Format the table in Markdown."""
    cells = _cells(results)
    sides = "<<" + ">" * (len(cells[0]) - 2)
    return markdown.section(results.title, cells, sides, results.notes)


def format_latex(results: Results) -> str:
    """Format the table in LaTeX, over the width of the page; it needs no package."""
    head, *rows = [" & ".join(map(_latex, row)) + r" \\" for row in _cells(results)]
    columns = "ll" + "r" * (head.count(" & ") - 1)
    return "\n".join([
        r"\begin{table*}", r"\centering", rf"\caption{{{_latex(results.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *rows, r"\hline",
        r"\end{tabular}", "", r"\smallskip", r"\footnotesize", "\n\n".join(map(_latex, results.notes)),
        r"\end{table*}", ""])


def format_csv(results: Results) -> str:
    """Format the table as comma-separated values, one line per row; missing values are empty."""
    import pandas as pd

    lines = []
    for row, ours in zip(results.table.rows, results.ours, strict=True):
        line = {"table": results.table.name, "label": row.label, "system": row.system,
                "data": results.data, "demo": results.demo, "comparable": results.comparable}
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


FORMATS: dict[str, Callable[[Results], str]] = {"md": format_markdown, "csv": format_csv,
                                                "tex": format_latex}
"""by file suffix"""


def _cells(results: Results) -> list[list[str]]:
    """Return the heading, then for each row our results and, if comparable, the published ones."""
    head = ["System", "", "Seeds", "Parameters"]
    for policy in POLICIES:
        head.append(f"KiB, {policy}")
    for device in results.devices:
        head.append(device.upper())
    cells = [[*head, "Overall", "Log loss"]]
    for row, line in zip(results.table.rows, results.ours, strict=True):
        ours = [row.label, "ours (demo data)" if results.demo else "ours", str(len(line["seeds"]) or ""),
                " to ".join(f"{count:,}" for count in line["parameters"])]
        for policy in POLICIES:
            ours.append(_fixed(line[f"kib_{policy}"], None, 1))
        for name in (*results.devices, "overall"):
            ours.append(_fixed(line[f"accuracy_{name}"], line[f"deviation_{name}"], 1))
        ours.append(_fixed(line["logloss"], line["deviation_logloss"], 3))
        cells.append(ours)
        if results.comparable:
            published = row.published
            theirs = ["", "published", str(published.seeds or ""), published.parameters or "", "",
                      ", ".join(filter(None, (published.bits, published.size)))]
            for device in results.devices:
                theirs.append(_fixed(published.devices.get(device), None, 1))
            cells.append([*theirs, _fixed(published.overall, published.deviation, 1), ""])
    return cells


def _fixed(mean: float | None, deviation: float | None, decimals: int) -> str:
    if mean is None:
        return ""
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def _latex(text: str) -> str:
    return printable(text).translate(_LATEX)
