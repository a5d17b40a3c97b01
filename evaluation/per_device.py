"""The per-device table of the official DCASE 2021 Task 1A baseline, for any prediction file and any data root.

``python -m evaluation.per_device PREDICTIONS --data-root DIR [--json FILE]``
"""
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


def format_table(results: Mapping[str, Any]) -> str:
    """The scores as the official baseline prints them, and those of the device groups below.

    One row per class with the log loss, the log loss by device, and the accuracy; then the log loss and the accuracy
    over all classes. A score without clips is ``-``.

    Args:
        results: from :func:`evaluation.metrics.evaluate`.
    """
    devices, overall, by_device = results["devices"], results["overall"], results["device_wise"]
    first = max(len("Accuracy"), *map(len, results["labels"]))
    widths = [max(7, len(device)) for device in devices]  # the largest log loss is 36.044

    def line(name: str, log_loss: str, of_devices: Sequence[str], accuracy: str) -> str:
        cells = [f"{name:<{first}}", f"{log_loss:>7}"]
        if of_devices:
            cells.append(" ".join(f"{cell:>{width}}" for cell, width in zip(of_devices, widths, strict=True)))
        return " | ".join([*cells, f"{accuracy:>8}"]).rstrip()

    rule = line("-" * first, "-" * 7, ["-" * width for width in widths], "-" * 8)
    lines = [line("Scene", "Logloss", [device.upper() for device in devices], "Accuracy"), rule]
    for label in results["labels"]:
        score, cells = results["class_wise"][label], results["class_device_wise"][label]
        lines.append(line(label, _log_loss(score), [_log_loss(cells[device]) for device in devices], _accuracy(score)))
    lines += [rule,
              line("Logloss", _log_loss(overall), [_log_loss(by_device[device]) for device in devices], ""),
              line("Accuracy", "", [_accuracy(by_device[device]) for device in devices], _accuracy(overall)),
              ""]

    lines += [line("Devices", "Logloss", [], "Accuracy"), line("-" * first, "-" * 7, [], "-" * 8)]
    for name, score in results["device_groups"].items():
        lines.append(line(name, _log_loss(score), [], _accuracy(score)))
    return "\n".join(lines) + "\n"


def summary(results: Mapping[str, Any]) -> str:
    """Accuracy and log loss, one line per device and one over all clips."""
    scores = {**results["device_wise"], "overall": results["overall"]}
    width = max(map(len, (*scores, "device")))
    lines = [f"{'device':<{width}}  accuracy  log loss"]
    lines += [f"{name:<{width}}  {_accuracy(score):>8}  {_log_loss(score):>8}" for name, score in scores.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a prediction file for the test split of a data set; returns 0.

    Raises:
        InputError: the data set or the predictions cannot be read, or do not belong together.
    """
    parser = CommandParser(prog="python -m evaluation.per_device",
                           description="Log loss and accuracy of predictions, by scene and by device.")
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path,
                        help="predictions of the test split: tab-separated filename, scene_label, one column per label")
    parser.add_argument("--data-root", metavar="DIR", type=Path, required=True,
                        help="development set in the TAU layout, with the true labels of the test split")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all scores to FILE")
    arguments = parser.parse_args(argv)

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


def _log_loss(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['logloss']:.3f}"


def _accuracy(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.1f}%"


if __name__ == "__main__":
    sys.exit(run_command(main))
