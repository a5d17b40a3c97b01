"""Records of a run as evaluation and submission read them, checked before a value is used.

A schema has the keys that are read; other keys of a record are for other programs.
"""
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict  # pydantic needs this one before Python 3.12

from task1a.errors import InputError, shown
from task1a.pipeline.run import Run

HISTORY = ("epoch", "learning_rate", "train_loss", "validation_log_loss", "validation_accuracy")
"""columns of ``history.csv`` that the report shows; the last two may be empty"""


def _record(keys: dict[str, Any]) -> Any:
    return with_config(ConfigDict(strict=True, allow_inf_nan=False))(TypedDict("Record", keys))


# integers that a float can hold, so that no sum or quotient of them overflows
Count = Annotated[int, Field(ge=0, lt=2 ** 53)]
Names = Annotated[list[str], Field(min_length=1)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
Score = _record({"accuracy": float, "logloss": float}) | None
Intervals = _record({"accuracy": Interval, "logloss": Interval}) | None
Bin = _record({"from": float, "to": float, "clips": Count, "confidence": float | None,
               "accuracy": float | None})
Calibration = _record({"expected_calibration_error": float, "bins": list[Bin]})

_SUMMARY = {
    "data": _record({"name": str, "demo": bool, "clips": Count}),
    "labels": Names,
    "overall": _record({"accuracy": float, "logloss": float}),
    "device_wise": dict[str, Score],
    "left_out": NotRequired[list[str]],
}
Summary = _record(_SUMMARY)
"""the part of ``evaluation.json`` that tables and comparisons need"""

Evaluation = _record({
    **_SUMMARY,
    "devices": Names,
    "class_wise": dict[str, Score],
    "class_device_wise": dict[str, dict[str, Score]],
    "device_groups": _record({"real": Score, "seen": Score, "unseen": Score}),
    "intervals": _record({
        "overall": Intervals, "device_wise": dict[str, Intervals],
        "device_groups": _record({"real": Intervals, "seen": Intervals, "unseen": Intervals})}),
    "calibration": Calibration,
    "before_scaling": NotRequired[_record({"temperature": float, "logloss": float,
                                           "calibration": Calibration})],
    "confusion": dict[str, dict[str, Count]],
    "highest_losses": list[_record({"filename": str, "device": str, "scene_label": str,
                                    "decided": str, "probability": float, "logloss": float})],
    "probability_0": list[str],
})
"""``evaluation.json``: the data set, and the results of :func:`evaluation.metrics.evaluate`"""

Size = _record({"bytes": Count, "kB": float, "KiB": float, "parameters": Count, "non_zero": Count,
                "by_bits": dict[Annotated[str, Field(pattern=r"^\d{1,3}$")],
                                _record({"parameters": Count})]})
Complexity = _record({
    "policies": _record({"dcase2021": Size, "paper": Size}),
    "limit_policy": Annotated[str, Field(pattern="^(dcase2021|paper)$")],
    "limit_bytes": Count, "warning_bytes": Count, "within_limit": bool,
    "trainable_parameters": Count | None, "multiply_accumulates": Count | None,
    "models": list[_record({"file": str})],
    "tensors": list[_record({"model": Count, "name": str, "shape": list[Count], "dtype": str,
                             "bits": Count, "bytes": Count, "values": Count, "non_zero": Count})],
})
"""``complexity.json``, from :func:`task1a.complexity.measure.measure`"""

Data = _record({"name": str, "demo": bool, "clips": _record({"train": Count}),
                "by_device": _record({"train": dict[str, Count]})})
"""``data.json``, from the check of the data set"""

Labels = _record({"labels": Names})
"""of ``data.json``, the labels in the order of the classes"""

Features = _record({"damaged": _record({"development": dict[str, str]})})
"""``features.json``: the clips that cannot be read, with the reasons"""

Environment = _record({"python": str, "packages": dict[str, str], "git_commit": str | None,
                       "platform": str, "processor": str, "device": str})
"""``environment.json``"""

# file, stage and schema of what is read
_RECORDS = {
    "data": ("data", "data", Data),
    "labels": ("data", "data", Labels),
    "features": ("features", "features", Features),
    "environment": ("environment", "train", Environment),
    "complexity": ("complexity", "complexity", Complexity),
    "evaluation": ("evaluation", "evaluate", Evaluation),
    "summary": ("evaluation", "evaluate", Summary),
}


def read(run: Run, name: str) -> Any:
    """Read a record.

    Args:
        run: the run.
        name: ``data``, only its ``labels``, ``features``, ``environment``, ``complexity``,
            ``evaluation``, or only its ``summary``.

    Raises:
        InputError: the record is missing or damaged; the message names the key and the stage that
            writes it.
    """
    file, stage, schema = _RECORDS[name]
    try:
        record = TypeAdapter(schema).validate_python(run.read(file))
        if schema is Evaluation:
            _check_keys(record)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        if first["type"] != "missing":
            problem += f" (given {shown(first['input'])})"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{run.folder / file}.json: damaged, or of an earlier version: {problem}; make "
                     f"it again with: python task1a.py --stage {stage} --force, with the run's "
                     "--system and --seed")


def _check_keys(record: Any) -> None:
    """Check that every table of an evaluation is of its labels and devices."""
    labels, devices = record["labels"], record["devices"]
    tables = [("device_wise", record["device_wise"], devices),
              ("class_wise", record["class_wise"], labels),
              ("class_device_wise", record["class_device_wise"], labels),
              ("intervals.device_wise", record["intervals"]["device_wise"], devices),
              ("confusion", record["confusion"], labels)]
    for label, row in record["class_device_wise"].items():
        tables.append((f"class_device_wise.{label}", row, devices))
    for label, row in record["confusion"].items():
        tables.append((f"confusion.{label}", row, labels))
    for name, table, expected in tables:
        if table.keys() != set(expected):
            raise ValueError(f"{name}: must have the keys {', '.join(expected)}")


def history(path: Path) -> dict[str, np.ndarray]:
    """Read the learning curves of a training: the columns ``HISTORY``, one value an epoch.

    Raises:
        InputError: the file is damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
        columns = {name: table[name].to_numpy(np.float64) for name in HISTORY}
    except (OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: damaged ({type(error).__name__}: {reason})") from None
    for name in HISTORY[:3]:
        if not np.isfinite(columns[name]).all():
            raise InputError(f"{path}: damaged (a number is missing)")
    return columns
