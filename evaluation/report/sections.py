"""The sections of the report, each from the records of one run; the first one from those of all
runs."""
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation import records
from evaluation.per_device import interval_text
from evaluation.report import figures
from evaluation.report.media import Media, read_media
from evaluation.results import METRICS, differences, format_differences, groups, read_result
from task1a.challenge import size_verdict
from task1a.errors import InputError
from task1a.pipeline.run import Run

_AXES = {"accuracy": "accuracy (%)", "logloss": "log loss (nats)"}


@dataclass(frozen=True)
class Figure:
    """A drawing with its numbers."""

    title: str
    svg: str
    """drawing as an SVG element"""
    columns: Sequence[str]
    """head of the table"""
    rows: Sequence[Sequence[str]]
    """cells of the table"""
    note: str = ""


@dataclass(frozen=True)
class Clip:
    """A clip with a high loss."""

    filename: str
    device: str
    scene_label: str
    predicted: str
    probability: str
    logloss: str
    media: Media


@dataclass
class Section:
    """One part of the report."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    text: str = ""
    listing: str = ""
    """text of fixed width, folded at first"""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.clips or self.text or self.listing)


def scores_by_device(results: Mapping[str, Mapping[str, Any]], training_devices: Collection[str]) -> Section:
    """Show accuracy and log loss by device and device group, of all runs.

    Args:
        results: ``evaluation.json`` of each run, by its name.
        training_devices: devices with clips in the training split.
    """
    first = next(iter(results.values()))
    seen = [device for device in first["devices"] if device in training_devices]
    unseen = [device for device in first["devices"] if device not in training_devices]
    # name of each row, and the keys to its score: devices may have the names of groups
    blocks: list[list[tuple[str, tuple[str, ...]]]] = [[("overall", ("overall",))]]
    for group, devices in (("seen", seen), ("unseen", unseen)):
        if devices:
            block: list[tuple[str, tuple[str, ...]]] = []
            for device in devices:
                block.append((device, ("device_wise", device)))
            blocks.append([*block, (f"all {group}", ("device_groups", group))])
    section = Section("Scores by device")
    if unseen:
        section.text = "The devices below the last line have no clips in the training split."
    scenes = len(first["labels"])
    chances = {"accuracy": 100 / scenes, "logloss": np.log(scenes)}
    for metric, (title, decimals) in METRICS.items():
        series: dict[str, list[Any]] = {}
        rows = []
        for run, record in results.items():
            series[run] = []
            for name, keys in sum(blocks, []):
                score, intervals = record, record["intervals"]
                for key in keys:
                    score, intervals = score[key], intervals[key]
                interval = (intervals or {}).get(metric)
                series[run].append((score[metric], interval) if score else None)
                rows.append([run, name, f"{score[metric]:.{decimals}f}" if score else "-",
                             interval_text(interval, decimals)])
        names = [[name for name, _ in block] for block in blocks]
        drawing = figures.intervals(names, series, _AXES[metric], {"uniform guess": chances[metric]})
        section.figures.append(Figure(f"{title} by device", drawing,
                                      ("run", "device", _AXES[metric], "95 % interval"), rows))
    return section


def compare_runs(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Say which runs differ in the seed alone, with their mean scores, and what the others differ
    in."""
    from evaluation.compare.intervals import spread

    found = groups([read_result(run) for run in runs])
    names_by_run = dict(zip(runs, names, strict=True))
    text = ""
    for group in found:
        if len(group) == 1:
            continue
        scores = []
        for metric, (title, decimals) in METRICS.items():
            mean, deviation = spread([result.scores["overall"][metric] for result in group])
            scores.append(f"{title.lower()} {mean:.{decimals}f} ± {deviation:.{decimals}f}")
        folders = " and ".join(dict.fromkeys(result.name for result in group))
        seeds = ", ".join(str(result.seed) for result in group)
        text += (f" {folders}, mean ± standard deviation of {len(group)} runs (seeds {seeds}): "
                 f"{', '.join(scores)}.")
    one = found[0][0]
    for other, *_ in found[1:]:
        changed = differences(one, other)
        words = f"differ in {format_differences(changed)}" if changed else "have the same settings and seed"
        text += f" {names_by_run[one.run]} and {names_by_run[other.run]} {words}."
    return text


def classes(record: Mapping[str, Any]) -> Section:
    """Show the log loss by class and device, and the confusion matrix."""
    labels, devices = record["labels"], record["devices"]
    losses = np.full((len(labels), len(devices)), np.nan)
    confusion = np.zeros((len(labels), len(labels)))
    loss_rows, confusion_rows = [], []
    for row, label in enumerate(labels):
        loss_rows.append([label])
        for column, device in enumerate(devices):
            score = record["class_device_wise"][label][device]
            if score is not None:
                losses[row, column] = score["logloss"]
            loss_rows[row].append("-" if score is None else f"{score['logloss']:.3f}")
        confusion[row] = [record["confusion"][label][predicted] for predicted in labels]
        confusion_rows.append([label, *(f"{count:.0f}" for count in confusion[row])])
    # rows of classes without clips stay 0
    shares = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return Section("Classes", [
        Figure("Log loss by class and device", figures.heat_map(losses, labels, devices, "Log loss", 1),
               ("class", *devices), loss_rows),
        Figure("Confusion matrix", figures.heat_map(shares, labels, labels, "Predicted scenes", 0),
               ("true scene", *labels), confusion_rows, "Percent of the clips of each true scene (rows) by "
               "predicted scene (columns); the table has clips."),
    ])


def calibration(record: Mapping[str, Any]) -> Section:
    """Show the reliability diagram, also of the probabilities before temperature scaling."""
    series = {"as predicted": record["calibration"]["bins"]}
    section = Section("Calibration")
    if "before_scaling" in record:
        before = record["before_scaling"]
        series = {"before scaling": before["calibration"]["bins"],
                  "after scaling": record["calibration"]["bins"]}
        section.text = (
            f"The logits are divided by the temperature {before['temperature']:.3f}, fitted on clips held "
            f"out of the training split. Log loss before scaling: {before['logloss']:.3f}; expected "
            f"calibration error: {before['calibration']['expected_calibration_error']:.1f} %.")
    rows = []
    for name, bins in series.items():
        for point in bins:
            if point["clips"]:
                rows.append([name, f"{point['from']:.0f} to {point['to']:.0f}", str(point["clips"]),
                             f"{point['confidence']:.1f}", f"{point['accuracy']:.1f}"])
    section.figures.append(Figure(
        "Reliability diagram", figures.reliability(series),
        ("predictions", "confidence (%)", "clips", "mean confidence (%)", "accuracy (%)"), rows,
        "The area of a marker is proportional to the number of clips."))
    return section


def learning_curves(run: Run) -> Section:
    """Show the learning curves of training and compression; damaged ones are named instead."""
    section = Section("Learning curves")
    for stage, path in (("training", run.history), ("compression", run.compress_history)):
        if not path.is_file():
            continue
        try:
            history = records.history(path)
        except InputError as error:
            section.text += f"Not shown: {error}. "
            continue
        rows = []
        for epoch, rate, loss, validation, accuracy in zip(*history.values(), strict=True):
            rows.append([f"{epoch:.0f}", f"{rate:.4g}", f"{loss:.3f}",
                         "-" if np.isnan(validation) else f"{validation:.3f}",
                         "-" if np.isnan(accuracy) else f"{accuracy:.1f}"])
        losses = {"training loss": history["train_loss"],
                  "validation log loss": history["validation_log_loss"]}
        section.figures.append(Figure(
            f"Loss during {stage}", figures.curves(losses, "loss (nats)"),
            ("epoch", "learning rate", "training loss", "validation log loss", "validation accuracy (%)"),
            rows, "The training loss is that of augmented clips."))
    return section


def size(complexity: Mapping[str, Any] | None) -> Section:
    """Show the bytes by layer and bit width, and how many 8-bit weights were pruned."""
    section = Section("Size")
    if complexity is None:
        return section
    sizes: dict[str, dict[str, float]] = {}
    weights: dict[str, dict[str, float]] = {}
    for tensor in complexity["tensors"]:
        # stage and block, or the name of a tensor outside of them
        layer, bits = ".".join(tensor["name"].split(".")[:2]), f"{tensor['bits']} bit"
        by_bits = sizes.setdefault(layer, {})
        by_bits[bits] = by_bits.get(bits, 0) + tensor["bytes"]
        if tensor["bits"] == 8:
            counts = weights.setdefault(layer, {"kept": 0, "pruned": 0})
            counts["kept"] += tensor["non_zero"]
            counts["pruned"] += tensor["values"] - tensor["non_zero"]
    section.text = size_verdict(complexity)
    rows = []
    for layer, by_bits in sizes.items():
        for bits, size_in_bytes in by_bits.items():
            rows.append([layer, bits, f"{size_in_bytes:,}"])
    section.figures.append(Figure("Size by layer and bit width",
                                  figures.stacks(sizes, "bytes of non-zero values"),
                                  ("layer", "bits", "bytes"), rows))
    if weights:
        rows = []
        for layer, counts in weights.items():
            kept, pruned = counts["kept"], counts["pruned"]
            rows.append([layer, f"{kept:,}", f"{pruned:,}", f"{100 * pruned / (kept + pruned):.1f}"])
        section.figures.append(Figure("8-bit weights by layer", figures.stacks(weights, "weights"),
                                      ("layer", "kept", "pruned", "pruned (%)"), rows))
    return section


def highest_losses(run: Run, record: Mapping[str, Any], players: int) -> Section:
    """Show the clips with the highest loss; the first ``players`` with spectrogram and player."""
    from evaluation.metrics import EPS

    zeros = ", ".join(record["probability_0"]) or "none"
    section = Section("Clips with the highest loss", text=(
        f"Probabilities are clipped to [{EPS:.2g}, 1 - {EPS:.2g}] in the log loss. Clips with probability 0 "
        f"for their true scene: {zeros}."))
    for number, clip in enumerate(record["highest_losses"]):
        media = read_media(run, clip["filename"]) if number < players else Media()
        section.clips.append(Clip(
            filename=clip["filename"], device=clip["device"], scene_label=clip["scene_label"],
            predicted=clip["decided"], probability=f"{clip['probability']:.3g}",
            logloss=f"{clip['logloss']:.2f}", media=media))
    return section


def configuration(run: Run) -> Section:
    """Show the configuration and the environment as they are stored."""
    text = ""
    if run.config_file.is_file():
        text = run.config_file.read_text(encoding="utf-8", errors="replace")
    if run.environment.is_file():
        environment = run.environment.read_text(encoding="utf-8", errors="replace")
        text += f"\n# environment.json\n{environment}"
    return Section("Configuration and environment", listing=text)
