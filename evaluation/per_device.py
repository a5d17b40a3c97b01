"""The per-device table of the official DCASE 2021 Task 1A baseline, for any predictions and data
root.

``python -m evaluation.per_device PREDICTIONS --data-root DIR [--format text|markdown|csv] [--json
FILE]``
"""
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import markdown
from task1a.errors import CommandParser, counted, printable, run_command
from task1a.files import check_outputs, to_json, write_output

DEMO_NOTE = "demo data: figures say nothing about real recordings"


def format_table(results: Mapping[str, Any]) -> str:
    """Format the scores as the official baseline prints them, and those of the device groups below.

    One row per class with the log loss, the log loss by device, and the accuracy; then the log loss
    and the accuracy over all classes. A score without clips is ``-``.

    Args:
        results: from :func:`evaluation.metrics.evaluate`.
    """
    devices, by_device = results["devices"], results["device_wise"]
    first = len("Accuracy")
    for label in results["labels"]:
        first = max(first, len(printable(label)))
    # the largest log loss is 36.044
    widths = [max(7, len(printable(device))) for device in devices]

    def line(name: str, log_loss: str, device_cells: Sequence[str], accuracy: str) -> str:
        cells = [f"{name:<{first}}", f"{log_loss:>7}"]
        if device_cells:
            pairs = zip(device_cells, widths, strict=True)
            cells.append(" ".join(f"{cell:>{width}}" for cell, width in pairs))
        return " | ".join([*cells, f"{accuracy:>8}"]).rstrip()

    def losses(scores: Mapping[str, Any]) -> list[str]:
        return [_log_loss(scores[device]) for device in devices]

    rule = line("-" * first, "-" * 7, ["-" * width for width in widths], "-" * 8)
    lines = [line("Scene", "Logloss", [printable(device.upper()) for device in devices], "Accuracy"), rule]
    for label in results["labels"]:
        score, cells = results["class_wise"][label], losses(results["class_device_wise"][label])
        lines.append(line(printable(label), _log_loss(score), cells, _accuracy(score)))
    overall = results["overall"]
    accuracies = [_accuracy(by_device[device]) for device in devices]
    lines += [rule, line("Logloss", _log_loss(overall), losses(by_device), ""),
              line("Accuracy", "", accuracies, _accuracy(overall)), ""]

    lines += [line("Devices", "Logloss", [], "Accuracy"), line("-" * first, "-" * 7, [], "-" * 8)]
    for name, score in results["device_groups"].items():
        lines.append(line(name, _log_loss(score), [], _accuracy(score)))
    return "\n".join(lines) + "\n"


def summary(results: Mapping[str, Any]) -> str:
    """Format accuracy and log loss with their intervals, one line per device and one over all
    clips."""
    rows = _summary_rows(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        for cell, width in zip(row[1:], widths[1:], strict=True):
            cells.append(f"{cell:>{width}}")
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table: calibration, clipping, and clips with probability 0."""
    from evaluation.metrics import EPS

    lines = [f"expected calibration error {results['calibration']['expected_calibration_error']:.1f} %",
             f"log loss with probabilities clipped to [{EPS:.2g}, 1 - {EPS:.2g}]"]
    zeros = results["probability_0"]
    if zeros:
        lines.append(f"{counted(len(zeros), 'clip')} with probability 0 for the true scene: "
                     + ", ".join(map(printable, zeros[:3])) + (", ..." if len(zeros) > 3 else ""))
    return lines


def interval_text(interval: Sequence[float] | None, decimals: int) -> str:
    """Format an interval; ``-`` if there is none."""
    return "-" if interval is None else f"{interval[0]:.{decimals}f} to {interval[1]:.{decimals}f}"


def _summary_rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = [["device", "accuracy", "95 % interval", "log loss", "95 % interval"]]
    for name, score, intervals in _by_device(results):
        rows.append([printable(name),
                     _accuracy(score), interval_text(intervals.get("accuracy"), 1),
                     _log_loss(score), interval_text(intervals.get("logloss"), 3)])
    return rows


def _by_device(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, Any]]]:
    """Yield name, scores and intervals of every device, and of all clips as ``overall``."""
    for name, score in results["device_wise"].items():
        yield name, score, results["intervals"]["device_wise"][name] or {}
    yield "overall", results["overall"], results["intervals"]["overall"] or {}


def _log_loss(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['logloss']:.3f}"


def _accuracy(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.1f}%"


def format_csv(results: Mapping[str, Any]) -> str:
    """Format the scores by device as CSV, unrounded, with a column for each end of an interval."""
    import pandas as pd

    rows = []
    for name, score, intervals in _by_device(results):
        row: dict[str, Any] = {"device": name}
        for metric in ("accuracy", "logloss"):
            low, high = intervals.get(metric) or (None, None)
            row |= {metric: score[metric], f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a prediction file for the test split of a data set; return 0.

    Raises:
        InputError: the data set or the predictions cannot be read, or do not belong together.
    """
    parser = CommandParser(prog="python -m evaluation.per_device",
                           description="Log loss and accuracy of predictions, by scene and by device.")
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path,
                        help="predictions of the test split: tab-separated filename, scene_label, one column "
                        "per label")
    parser.add_argument("--data-root", metavar="DIR", type=Path, required=True,
                        help="development set in the TAU layout, with the true labels of the test split")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), default="text",
                        help="text: the table of the baseline (default); markdown and csv: the scores by device")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all scores to FILE")
    arguments = parser.parse_args(argv)

    from evaluation.metrics import evaluate
    from task1a.data.tau_layout import META, SETUP, is_demo, read_development
    from task1a.predict import predictions

    # an output must not replace what is read
    tables = [arguments.data_root / META, *(arguments.data_root / SETUP).glob("*.csv")]
    check_outputs({"--json": arguments.json}, [arguments.predictions, *tables])
    clips = read_development(arguments.data_root)
    reference = clips[clips.split == "test"]
    results = evaluate(reference, predictions.read(arguments.predictions),
                       seen_devices=set(clips.device[clips.split == "train"]))
    demo = is_demo(arguments.data_root)
    below = notes(results) + ([DEMO_NOTE] if demo else [])
    if arguments.format == "markdown":
        rows = _summary_rows(results)
        sides = "<" + ">" * (len(rows[0]) - 1)
        print(markdown.section("Scores by device", rows, sides, below), end="")
    elif arguments.format == "csv":
        print(format_csv(results), end="")
        if demo:
            print(DEMO_NOTE, file=sys.stderr)
    else:
        if demo:
            print(f"{DEMO_NOTE}\n")
        print("\n".join([format_table(results), *notes(results)]))
    if arguments.json:
        data = {"name": arguments.data_root.resolve().name, "demo": demo, "clips": len(reference)}
        write_output(arguments.json, to_json({"data": data, **results, "left_out": []}))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
