"""The per-device table of the official DCASE 2021 Task 1A baseline, for any prediction file and any data root.

``python -m evaluation.per_device PREDICTIONS --data-root DIR [--json FILE]``
"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.metrics import evaluate
from task1a import predictions
from task1a.data.tau_layout import is_demo, read_development
from task1a.errors import CommandParser, run_command
from task1a.files import write_json

DEMO_NOTE = "demo data: figures say nothing about real recordings"

_NUMBER_WIDTH = 7  # 36.044 is the worst log loss there is


def format_table(results: Mapping[str, Any]) -> str:
    """The scores as the official baseline prints them, with the device groups below.

    Rows are the classes; columns the log loss, the log loss by device, the accuracy. The last two rows are the log loss
    and the accuracy of all classes, overall and by device. ``-`` stands where there are no clips.

    Args:
        results: what :func:`evaluation.metrics.evaluate` returns.
    """
    devices, overall = results["devices"], results["overall"]
    by_device = [results["device_wise"][device] for device in devices]
    groups = results["device_groups"]
    rows = [["Scene", "Logloss", *(device.upper() for device in devices), "Accuracy"], None]
    for label in results["labels"]:
        cells = results["class_device_wise"][label]
        scene = results["class_wise"][label]
        rows.append([label, _log_loss(scene), *(_log_loss(cells[device]) for device in devices), _accuracy(scene)])
    rows += [None,
             ["Logloss", _log_loss(overall), *map(_log_loss, by_device), ""],
             ["Accuracy", "", *map(_accuracy, by_device), _accuracy(overall)]]
    group_rows = [["Devices", "Logloss", "Accuracy"], None,
                  *([name, _log_loss(score), _accuracy(score)] for name, score in groups.items())]
    first = max(len(row[0]) for row in rows + group_rows if row)
    return f"{_layout(rows, first)}\n\n{_layout(group_rows, first)}\n"


def summary(results: Mapping[str, Any]) -> str:
    """A short form of the scores: one line a device with accuracy and log loss, and one for all clips."""
    scores = {**results["device_wise"], "overall": results["overall"]}
    width = max(map(len, (*scores, "device")))
    lines = [f"{'device':<{width}}  accuracy  log loss"]
    lines += [f"{name:<{width}}  {_accuracy(score):>8}  {_log_loss(score):>8}" for name, score in scores.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a prediction file against the test split of a data set; returns 0.

    Raises:
        InputError: the data set or the predictions cannot be read, or do not belong together.
    """
    arguments = _parser().parse_args(argv)
    clips = read_development(arguments.data_root)
    reference = clips[clips.split == "test"]
    results = evaluate(reference, predictions.read(arguments.predictions),
                       seen_devices=set(clips.device[clips.split == "train"]))
    demo = is_demo(arguments.data_root)
    if demo:
        print(f"{DEMO_NOTE}\n")
    print(format_table(results), end="")
    if arguments.json:
        data = {"name": arguments.data_root.resolve().name, "demo": demo, "clips": len(reference)}
        write_json(arguments.json, {"data": data, **results, "left_out": []})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m evaluation.per_device",
                           description="Log loss and accuracy of predictions, by scene and by device.")
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path,
                        help="predictions of the test split: tab-separated filename, scene_label, one column a label")
    parser.add_argument("--data-root", metavar="DIR", type=Path, required=True,
                        help="development set in the TAU layout, with the truth of the test split")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all scores to FILE, too")
    return parser


def _log_loss(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['logloss']:.3f}"


def _accuracy(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.1f}%"


def _layout(rows: Sequence[Sequence[str] | None], first: int) -> str:
    """Rows of name, log loss, further numbers and accuracy as lines with ``|`` between the four; None is a rule."""
    inner = [max(_NUMBER_WIDTH, len(device)) for device in rows[0][2:-1]]
    rule = ["-" * width for width in (first, _NUMBER_WIDTH, *inner, len("Accuracy"))]
    lines = []
    for row in rows:
        name, log_loss, *numbers, accuracy = row or rule
        cells = [f"{name:<{first}}", f"{log_loss:>{_NUMBER_WIDTH}}"]
        if numbers:
            cells.append(" ".join(f"{number:>{width}}" for number, width in zip(numbers, inner, strict=True)))
        lines.append(" | ".join([*cells, f"{accuracy:>{len('Accuracy')}}"]).rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
