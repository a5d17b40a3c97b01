"""The report of one run, or of several side by side, as one HTML file that needs neither network nor script.

``python -m evaluation.report RUN... --out FILE``

Everything in it comes from the records of the runs; the recordings are only needed for the spectrograms and the players
of the clips with the highest loss. Intervals are those of ``evaluation.json``: 95 %, over locations.
"""
import base64
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import figures, table_file
from evaluation.per_device import DEMO_NOTE, interval_text
from evaluation.results import METRICS
from task1a.challenge import size_verdict
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import write_text
from task1a.run import Run

BASELINE = {"accuracy": 47.7, "logloss": 1.473}
"""the organisers' baseline on the test split of TAU Urban Acoustic Scenes 2020 Mobile"""

_AXES = {"accuracy": "accuracy (%)", "logloss": "log loss (nats)"}
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_PLAYERS, _PLAYERS_SIDE_BY_SIDE = 5, 2  # clips with a spectrogram and a player, for one run and for each of several
_PLAYER_RATE = 16_000


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
    decided: str
    probability: str
    logloss: str
    spectrogram: str = ""
    """drawing as an SVG element"""
    audio: str = ""
    """data URL of the recording"""


@dataclass
class Section:
    """One part of the report."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    text: str = ""
    listing: str = ""
    """text of fixed width, folded at first"""


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the report of runs.

    Raises:
        InputError: a run has not been evaluated, or runs were tested on different data sets.
    """
    import jinja2

    names = list(map(str, runs))
    if len(set(names)) < len(names):
        names = [run.folder.as_posix() for run in runs]
    results = {name: run.read("evaluation") for name, run in zip(names, runs, strict=True)}
    first = results[names[0]]
    for name, record in results.items():
        if "calibration" not in record:
            raise InputError(f"{name}: was evaluated by an earlier version; evaluate it again with --stage evaluate "
                             "--force")
        if record["data"] != first["data"] or record["devices"] != first["devices"]:
            raise InputError(f"{name}: was tested on {record['data']['name']} and {names[0]} on "
                             f"{first['data']['name']}; a report compares runs on the same data")
    sections = [_scores(results, runs[0].read("data")["by_device"]["train"])]
    players = _PLAYERS if len(runs) == 1 else _PLAYERS_SIDE_BY_SIDE
    sections[0].text += _over_seeds(runs, results)
    for run, (name, record) in zip(runs, results.items(), strict=True):
        for section in (_matrices(record), _calibration(record), _training(run), _size(run),
                        _clips(run, record, players), _settings(run)):
            if section.figures or section.clips or section.text or section.listing:
                section.title += f": {name}" if len(runs) > 1 else ""
                sections.append(section)

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    title = " and ".join(results) if len(results) < 3 else f"{len(results)} runs"
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{title} on {first['data']['name']}" + (" (demo data)" if first["data"]["demo"] else ""),
        demo=DEMO_NOTE if first["data"]["demo"] else "", clips=first["data"]["clips"],
        headlines=[_headline(run, *named) for run, named in zip(runs, results.items(), strict=True)], sections=sections)
    write_text(path, text)


def _headline(run: Run, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The most important figures of a run, and those that were published of its system."""
    published = table_file.published(run.config.system)
    cards = []
    for metric, (title, decimals) in METRICS.items():
        unit = " %" if metric == "accuracy" else ""
        beside = [f"baseline of the challenge {BASELINE[metric]}{unit}"]
        if metric == "accuracy" and published and published.overall is not None:
            beside.append(f"paper {published.overall}{unit}")
        cards.append({"title": title, "value": f"{record['overall'][metric]:.{decimals}f}{unit}",
                      "interval": interval_text((record["intervals"]["overall"] or {}).get(metric), decimals),
                      "beside": "; ".join(beside) + " (TAU Urban Acoustic Scenes 2020 Mobile)"})
    cards.append({"title": "Expected calibration error", "interval": "", "beside": "15 bins of confidence",
                  "value": f"{record['calibration']['expected_calibration_error']:.1f} %"})
    if run.complexity.is_file():
        counted = run.read("complexity")
        size = counted["policies"][counted["limit_policy"]]
        cards.append({"title": "Size", "value": f"{size['KiB']:.2f} KiB", "interval": "",
                      "beside": size_verdict(counted)})
    return {"run": name, "description": run.config.description, "cards": cards}


def _scores(results: Mapping[str, Mapping[str, Any]], training_devices: Collection[str]) -> Section:
    """Accuracy and log loss by device and device group, of all runs."""
    first = next(iter(results.values()))
    groups = {"": ["overall"], "seen": [], "unseen": []}
    for device in first["devices"]:
        groups["seen" if device in training_devices else "unseen"].append(device)
    for group in ("seen", "unseen"):
        if groups[group]:
            groups[group].append(f"all {group}")
    section = Section("Scores by device")
    if groups["unseen"]:
        section.text = "The devices below the second line have no clips in the training split."
    for metric, (title, decimals) in METRICS.items():
        label = _AXES[metric]
        series: dict[str, dict[str, Any]] = {}
        rows = []
        for run, record in results.items():
            scores, intervals = _by_device(record), _by_device(record["intervals"])
            series[run] = {}
            for names in groups.values():
                for name in names:
                    value, interval = scores[name][metric], (intervals[name] or {}).get(metric)
                    series[run][name] = value, interval
                    rows.append([run, name, f"{value:.{decimals}f}", interval_text(interval, decimals)])
        chance = {"uniform guess": np.log(len(first["labels"])) if metric == "logloss" else 100 / len(first["labels"])}
        section.figures.append(Figure(f"{title} by device", figures.intervals(groups, series, label, chance),
                                      ("run", "device", label, "95 % interval"), rows))
    return section


def _over_seeds(runs: Sequence[Run], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and standard deviation of the overall scores of each system with several runs."""
    from evaluation.intervals import spread

    scores: dict[str, list[Mapping[str, float]]] = {}
    for run, record in zip(runs, results.values(), strict=True):
        scores.setdefault(run.config.system, []).append(record["overall"])
    text = ""
    for system, of_runs in scores.items():
        if len(of_runs) > 1:
            parts = []
            for metric, (title, decimals) in METRICS.items():
                mean, deviation = spread([score[metric] for score in of_runs])
                parts.append(f"{title.lower()} {mean:.{decimals}f} ± {deviation:.{decimals}f}")
            text += f" {system}, mean ± standard deviation of {len(of_runs)} runs: {', '.join(parts)}."
    return text


def _by_device(scores: Mapping[str, Any]) -> dict[str, Any]:
    groups = scores["device_groups"]
    return {"overall": scores["overall"], **scores["device_wise"], "all seen": groups["seen"],
            "all unseen": groups["unseen"]}


def _matrices(record: Mapping[str, Any]) -> Section:
    """Log loss by class and device, and the confusion matrix."""
    labels, devices = record["labels"], record["devices"]
    losses = np.full((len(labels), len(devices)), np.nan)
    confusion = np.zeros((len(labels), len(labels)))
    for row, label in enumerate(labels):
        for column, device in enumerate(devices):
            score = record["class_device_wise"][label][device]
            if score is not None:
                losses[row, column] = score["logloss"]
        for column, decided in enumerate(labels):
            confusion[row, column] = record["confusion"][label][decided]
    shares = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return Section("Classes", [
        Figure("Log loss by class and device", figures.heat_map(losses, labels, devices, "Log loss", 1),
               ("class", *devices), [[label, *("-" if np.isnan(value) else f"{value:.3f}" for value in row)]
                                     for label, row in zip(labels, losses, strict=True)]),
        Figure("Confusion matrix", figures.heat_map(shares, labels, labels, "Decided scenes", 0),
               ("true scene", *labels), [[label, *(f"{value:.0f}" for value in row)]
                                         for label, row in zip(labels, confusion, strict=True)],
               "Percent of the clips of each true scene (rows) by decided scene (columns); the table has clips."),
    ])


def _calibration(record: Mapping[str, Any]) -> Section:
    """Reliability diagram, also of the probabilities before temperature scaling."""
    series = {"as predicted": record["calibration"]}
    section = Section("Calibration")
    if "before_scaling" in record:
        before = record["before_scaling"]
        series = {"before scaling": before["calibration"], "after scaling": record["calibration"]}
        section.text = (f"The logits are divided by the temperature {before['temperature']:.3f}, fitted on clips held "
                        f"out of the training split. Log loss before scaling: {before['logloss']:.3f}; expected "
                        f"calibration error: {before['calibration']['expected_calibration_error']:.1f} %.")
    rows = []
    for name, reliability in series.items():
        for point in reliability["bins"]:
            if point["clips"]:
                rows.append([name, f"{point['from']:.0f} to {point['to']:.0f}", str(point["clips"]),
                             f"{point['confidence']:.1f}", f"{point['accuracy']:.1f}"])
    section.figures.append(Figure(
        "Reliability diagram", figures.reliability({name: part["bins"] for name, part in series.items()}),
        ("predictions", "confidence (%)", "clips", "mean confidence (%)", "accuracy (%)"), rows,
        "The area of a marker is proportional to the number of clips."))
    return section


def _training(run: Run) -> Section:
    """Learning curves of training and compression."""
    import pandas as pd

    section = Section("Learning curves")
    for stage, path in (("training", run.history), ("compression", run.compress_history)):
        if not path.is_file():
            continue
        history = pd.read_csv(path)
        losses = {"training loss": history.train_loss.to_numpy(float),
                  "validation log loss": history.validation_log_loss.to_numpy(float)}
        rows = [[str(row.epoch), f"{row.learning_rate:.4g}", f"{row.train_loss:.3f}",
                 "-" if np.isnan(row.validation_log_loss) else f"{row.validation_log_loss:.3f}",
                 "-" if np.isnan(row.validation_accuracy) else f"{row.validation_accuracy:.1f}"]
                for row in history.itertuples()]
        section.figures.append(Figure(
            f"Loss during {stage}", figures.curves(losses, "loss (nats)"),
            ("epoch", "learning rate", "training loss", "validation log loss", "validation accuracy (%)"), rows,
            "The training loss is that of augmented clips."))
    return section


def _size(run: Run) -> Section:
    """Bytes by layer and bit width, and what was pruned."""
    section = Section("Size")
    if not run.complexity.is_file():
        return section
    counted = run.read("complexity")
    sizes: dict[str, dict[str, float]] = {}
    weights: dict[str, dict[str, float]] = {}
    for tensor in counted["tensors"]:
        layer = ".".join(tensor["name"].split(".")[:2])
        bits = f"{tensor['bits']} bit"
        sizes.setdefault(layer, {})
        sizes[layer][bits] = sizes[layer].get(bits, 0) + tensor["bytes"]
        if tensor["bits"] == 8:
            parts = weights.setdefault(layer, {"kept": 0, "pruned": 0})
            parts["kept"] += tensor["non_zero"]
            parts["pruned"] += tensor["values"] - tensor["non_zero"]
    section.text = size_verdict(counted)
    section.figures.append(Figure(
        "Size by layer and bit width", figures.stacks(sizes, "bytes of non-zero values"),
        ("layer", "bits", "bytes"), [[layer, bits, f"{size:,}"] for layer, of_bits in sizes.items()
                                     for bits, size in of_bits.items()]))
    if weights:
        section.figures.append(Figure(
            "8-bit weights by layer", figures.stacks(weights, "weights"), ("layer", "kept", "pruned", "pruned (%)"),
            [[layer, f"{parts['kept']:,}", f"{parts['pruned']:,}",
              f"{100 * parts['pruned'] / (parts['kept'] + parts['pruned']):.1f}"]
             for layer, parts in weights.items()]))
    return section


def _clips(run: Run, record: Mapping[str, Any], players: int) -> Section:
    """The clips with the highest loss; the first ones with spectrogram and player if their recordings are there."""
    from evaluation.metrics import EPS

    zeros = record["probability_0"]
    section = Section("Clips with the highest loss", text=(
        f"Probabilities are clipped to [{EPS:.2g}, 1 - {EPS:.2g}] in the log loss. Clips with probability 0 for their "
        f"true scene: {', '.join(zeros) or 'none'}."))
    for number, clip in enumerate(record["highest_losses"]):
        media = _media(run.data_root / clip["filename"]) if number < players else ("", "")
        section.clips.append(Clip(clip["filename"], clip["device"], clip["scene_label"], clip["decided"],
                                  f"{clip['probability']:.3g}", f"{clip['logloss']:.2f}", *media))
    return section


def _media(path: Path) -> tuple[str, str]:
    """Spectrogram and data URL of a recording; empty if it cannot be read."""
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError):
        return "", ""
    mono = samples.mean(axis=1)
    drawing = figures.spectrogram(mono, rate, path.name)
    kind = "MP3" if "MP3" in soundfile.available_formats() else "OGG"
    content = io.BytesIO()
    soundfile.write(content, soxr.resample(mono, rate, _PLAYER_RATE), _PLAYER_RATE, format=kind)
    mime = "audio/mpeg" if kind == "MP3" else "audio/ogg"
    return drawing, f"data:{mime};base64,{base64.b64encode(content.getvalue()).decode()}"


def _settings(run: Run) -> Section:
    """Configuration and environment."""
    text = run.config_file.read_text(encoding="utf-8") if run.config_file.is_file() else ""
    if run.environment.is_file():
        text += f"\n# environment.json\n{run.environment.read_text(encoding='utf-8')}"
    return Section("Configuration and environment", listing=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of runs; returns 0.

    Raises:
        InputError: a run has not been evaluated, or runs were tested on different data sets.
    """
    parser = CommandParser(prog="python -m evaluation.report", description="One HTML page about one or several runs.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder, <runs>/<system>/seed<N>")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="HTML file to write")
    arguments = parser.parse_args(argv)
    write([Run(folder) for folder in arguments.runs], arguments.out)
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
