"""Compare a package with the runs it was made from: outputs, sizes and results.

The size is counted again from the model files, and the results are computed again from the
predictions of the test split, so edited or outdated records do not count. If a model or the data
set is no longer there, the records of the run are used instead, with a warning.
"""
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation import metrics
from submission import metadata
from submission.metadata import Records
from submission.rules import RESULTS, Rules
from submission.validation.findings import Finding, format_key
from submission.validation.metadata import at
from task1a.challenge import clip_key
from task1a.complexity import measure
from task1a.data import tau_layout
from task1a.errors import InputError, shown
from task1a.pipeline.run import Run
from task1a.predict import predictions

# the order of summation differs between machines
_TOLERANCE = 1e-9


def compare_output(text: str, file: str, run: Path) -> Iterator[Finding]:
    """Name every row of an output that differs from the run's predictions, in any order of the
    rows.

    Args:
        text: the output, in which no errors were found, without quotes and with LF line ends.
        file: its name in findings.
        run: the run folder.

    Raises:
        InputError: the run has no readable predictions for the evaluation set.
    """
    path = Run(run).evaluation_predictions
    if not path.is_file():
        raise InputError(f"{path}: no such file, so there is nothing to compare {file} with")
    columns, *rows = _rows(predictions.to_text(predictions.read(path)))
    header, *given = _rows(text)
    if header != columns:
        yield Finding("error", file, "line 1", shown(" ".join(header)),
                      f"the columns of {path}: {' '.join(columns)}")
        return
    predicted = {clip_key(row[0]): row for row in rows}
    for line, row in enumerate(given, start=2):
        right = predicted.get(clip_key(row[0]))
        if right is None:
            yield Finding("error", file, f"line {line}, filename", shown(row[0]), f"a clip of {path}")
            continue
        wrong = []
        for index in range(1, len(columns)):
            same = row[index] == right[index]
            if not same and index > 1:
                same = float(row[index]) == float(right[index])
            if not same:
                wrong.append(index)
        if wrong:
            first = wrong[0]
            more = f", and {len(wrong) - 1} other columns that differ" if len(wrong) > 1 else ""
            yield Finding("error", file, f"line {line}, {columns[first]}", f"{shown(row[first])}{more}",
                          f"{right[first]}, as {path} has it")
    missing = predicted.keys() - {clip_key(row[0]) for row in given}
    if missing:
        yield Finding("error", file, "", f"{len(missing):,} clips fewer, one of them {min(missing)}",
                      f"the {len(predicted):,} clips of {path}")


def compare_meta(meta: Mapping[str, Any], file: str, runs: Sequence[Path],
                 rules: Rules) -> Iterator[Finding]:
    """Name every size and result that differs from those of the runs.

    Args:
        meta: content of the metadata file.
        file: its name in findings.
        runs: run folder of the system, or of one run for each split.
        rules: the edition.

    Raises:
        InputError: a record, a model file or the predictions of the test split are missing or
            damaged.
    """
    systems = []
    for run in runs:
        recomputed, findings = recompute(run, file)
        systems.append(recomputed)
        yield from findings
    yield from metadata.wrong_shares(file, systems, rules)

    for block, records in metadata.results(systems, rules).items():
        stated = at(meta, block)
        if records is None and stated is not None:
            yield Finding("error", file, block, "results", f"null: {runs[0]} has no device-specific models")
        elif records is not None and stated is None:
            yield Finding("error", file, block, "no results", f"those of {records.run}")
        elif records is not None:
            for part in ("overall", "class_wise", "device_wise"):
                yield from _differences(at(stated, part), records.evaluation[part], file, f"{block}.{part}",
                                        str(records.run))
    for path, sizes in metadata.sizes(systems, rules).items():
        # the largest system of the splits counts; operations are not known for every kind of model
        if None not in sizes:
            yield from _differences(at(meta, path), max(sizes), file, path, ", ".join(map(str, runs)))


def recompute(folder: Path, file: str) -> tuple[Records, list[Finding]]:
    """Return the records of a run with its size and results computed again.

    Args:
        folder: the run folder.
        file: name of the metadata file in findings.

    Returns:
        The records, and warnings about what cannot be computed again.
    """
    run, records, findings = Run(folder), metadata.read_records(folder), []
    system = run.system
    absent = [model for model in system.files if not model.is_file()]
    if absent:
        findings.append(Finding(
            "warning", file, "system.complexity",
            f"a size that is compared with {folder}'s complexity.json only",
            f"the model {absent[0]}, to count it again"))
    else:
        size = measure.measure(system.files, system.passes, system.by_device)
        records = replace(records, complexity=size)
    records, problems = evaluate_again(records, file)
    findings += problems
    if records.general:
        general, problems = evaluate_again(records.general, file)
        records = replace(records, general=general)
        findings += problems
    return records, findings


def evaluate_again(records: Records, file: str) -> tuple[Records, list[Finding]]:
    """Return the records of a run with its results computed again; warn if the data set is
    missing."""
    run, evaluation = Run(records.run), records.evaluation
    root = run.data_root
    if not (root / tau_layout.META).is_file():
        return records, [Finding(
            "warning", file, RESULTS, f"results that are compared with {run.folder}'s evaluation.json only",
            f"the data set {root}, to compute them again")]
    reference = tau_layout.read_reference(root)
    reference = reference[~reference.filename.isin(evaluation.get("left_out", ()))]
    try:
        evaluation = metrics.evaluate(reference, predictions.read(run.test_predictions))
    except InputError as error:
        raise InputError(f"{run.folder}: its predictions of the test split cannot be judged by {root}: "
                         f"{error}") from None
    return replace(records, evaluation=evaluation), []


def _rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.removesuffix("\n").split("\n")]


def _differences(stated: Any, right: Any, file: str, where: str, source: str) -> Iterator[Finding]:
    """Compare stated numbers, or blocks of them, with the right ones; None has no clips."""
    if isinstance(right, Mapping):
        right = {key: value for key, value in right.items() if value is not None}
        stated = stated if isinstance(stated, Mapping) else {}
        for key in right.keys() | stated.keys():
            yield from _differences(stated.get(key), right.get(key), file, f"{where}.{format_key(key)}",
                                    source)
        return
    is_number = isinstance(stated, int | float) and not isinstance(stated, bool)
    if right is None or not is_number or not math.isclose(stated, right, rel_tol=_TOLERANCE):
        yield Finding("error", file, where, "nothing" if stated is None else shown(stated),
                      f"{'nothing' if right is None else f'{right:.9g}'}, as the files of {source} come to")
