"""The report of one run, or of several side by side, as one HTML file that needs neither network nor script.

``python -m evaluation.report RUN... --out FILE``

Everything in it comes from the records of the runs; the recordings are only needed for the spectrograms and the players
of the clips with the highest loss. Intervals are those of ``evaluation.json``: 95 %, over locations. Published figures
are shown only beside results on the same test split. Names in the records may be any text, and are shown as text: the
page allows no script, and asks for nothing outside of it.
"""
import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from evaluation import records
from evaluation.per_device import DEMO_NOTE, interval_text
from evaluation.report import figures
from evaluation.results import (
    METRICS,
    PUBLISHED_ON,
    against,
    changes,
    differences,
    groups,
    is_published_split,
    read_result,
    settings,
    shipped_settings,
)
from evaluation.tables import table_file
from task1a.challenge import size_verdict
from task1a.errors import InputError, printable
from task1a.files import write_text
from task1a.pipeline.run import Run

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
    note: str = ""


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
    """Write the report of runs (:func:`page`) to a file, atomically."""
    write_text(path, page(runs))


def page(runs: Sequence[Run]) -> str:
    """The report of runs, as HTML.

    Raises:
        InputError: a run has not been evaluated or is given twice, or runs were tested on different data sets.
    """
    import jinja2

    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise InputError(f"{', '.join(map(str, runs))}: a run is given twice")
    names = list(map(str, runs))
    if len(set(names)) < len(names):
        names = [run.folder.as_posix() for run in runs]
    results = {name: records.read(run, "evaluation") for name, run in zip(names, runs, strict=True)}
    first = results[names[0]]
    for name, record in results.items():
        if record["data"] != first["data"] or record["devices"] != first["devices"]:
            raise InputError(f"{name}: was tested on {record['data']['name']} and {names[0]} on "
                             f"{first['data']['name']}; a report compares runs on the same data")
    sizes = [records.read(run, "complexity") if run.complexity.is_file() else None for run in runs]
    sections = [_scores(results, records.read(runs[0], "data")["by_device"]["train"])]
    players = _PLAYERS if len(runs) == 1 else _PLAYERS_SIDE_BY_SIDE
    if len(runs) > 1:
        sections[0].text += _groups(runs, names)
    for run, size, (name, record) in zip(runs, sizes, results.items(), strict=True):
        for section in (_matrices(record), _calibration(record), _training(run), _size(size),
                        _clips(run, record, players), _settings(run)):
            if section.figures or section.clips or section.text or section.listing:
                section.title += f": {name}" if len(runs) > 1 else ""
                sections.append(section)

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, finalize=_shown)
    title = " and ".join(results) if len(results) < 3 else f"{len(results)} runs"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{title} on {first['data']['name']}" + (" (demo data)" if first["data"]["demo"] else ""),
        demo=DEMO_NOTE if first["data"]["demo"] else "", clips=first["data"]["clips"],
        headlines=[_headline(*each) for each in zip(runs, names, results.values(), sizes, strict=True)],
        sections=sections)


def _shown(value: Any) -> Any:
    """Escape what a page cannot show in a text that is not markup of this module; its line ends stay."""
    import markupsafe

    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _headline(run: Run, name: str, record: Mapping[str, Any], counted: Mapping[str, Any] | None) -> dict[str, Any]:
    """The summary cards of a run, with the published figures of its system."""
    data, published = record["data"], None
    on_published = is_published_split(data["demo"], record["labels"], record["devices"],
                                      data["clips"] + len(record.get("left_out", ())))
    if on_published:
        published = table_file.published(run.config.system)
    cards = []
    for metric, (title, decimals) in METRICS.items():
        unit = " %" if metric == "accuracy" else ""
        beside = [f"baseline of the challenge {BASELINE[metric]}{unit}"] if on_published else []
        if metric == "accuracy" and published and published.overall is not None:
            changed = changes(shipped_settings(run.config.system) or {}, settings(run.config))
            beside.append(f"paper {published.overall}{unit}"
                          + (f" with another {', '.join(changed)}" if changed else ""))
        cards.append({"title": title, "value": f"{record['overall'][metric]:.{decimals}f}{unit}",
                      "interval": interval_text((record["intervals"]["overall"] or {}).get(metric), decimals),
                      "beside": f"{'; '.join(beside)} ({PUBLISHED_ON})" if beside else ""})
    cards.append({"title": "Expected calibration error", "interval": "", "beside": "15 bins of confidence",
                  "value": f"{record['calibration']['expected_calibration_error']:.1f} %"})
    if counted:
        size = counted["policies"][counted["limit_policy"]]
        cards.append({"title": "Size", "value": f"{size['KiB']:.2f} KiB", "interval": "",
                      "beside": size_verdict(counted)})
    return {"run": name, "description": run.config.description, "cards": cards}


def _scores(results: Mapping[str, Mapping[str, Any]], training_devices: Collection[str]) -> Section:
    """Accuracy and log loss by device and device group, of all runs."""
    first = next(iter(results.values()))
    blocks = [[("overall", ("overall",))]]  # name of each row, and the keys to its score
    for group in ("seen", "unseen"):
        devices = [name for name in first["devices"] if (name in training_devices) == (group == "seen")]
        if devices:
            blocks.append([*((name, ("device_wise", name)) for name in devices),
                           (f"all {group}", ("device_groups", group))])
    section = Section("Scores by device")
    if not set(first["devices"]) <= set(training_devices):
        section.text = "The devices below the last line have no clips in the training split."
    for metric, (title, decimals) in METRICS.items():
        label = _AXES[metric]
        series: dict[str, list[Any]] = {}
        rows = []
        for run, record in results.items():
            series[run] = []
            for name, keys in (row for block in blocks for row in block):
                score, interval = _at(record, keys), (_at(record["intervals"], keys) or {}).get(metric)
                series[run].append((score[metric], interval) if score else None)
                rows.append([run, name, f"{score[metric]:.{decimals}f}" if score else "-",
                             interval_text(interval, decimals)])
        chance = {"uniform guess": np.log(len(first["labels"])) if metric == "logloss" else 100 / len(first["labels"])}
        drawing = figures.intervals([[name for name, _ in block] for block in blocks], series, label, chance)
        section.figures.append(Figure(f"{title} by device", drawing, ("run", "device", label, "95 % interval"), rows))
    return section


def _at(record: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        record = record[key]
    return record


def _groups(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Means and standard deviations of runs that differ in the seed alone, and what the others differ in."""
    from evaluation.compare.intervals import spread

    found = groups([read_result(run) for run in runs])
    names_of = dict(zip(runs, names, strict=True))
    text = ""
    for of_group in found:
        if len(of_group) > 1:
            parts = []
            for metric, (title, decimals) in METRICS.items():
                mean, deviation = spread([result.scores["overall"][metric] for result in of_group])
                parts.append(f"{title.lower()} {mean:.{decimals}f} ± {deviation:.{decimals}f}")
            folders = " and ".join(dict.fromkeys(result.name for result in of_group))
            seeds = ", ".join(str(result.seed) for result in of_group)
            text += (f" {folders}, mean ± standard deviation of {len(of_group)} runs (seeds {seeds}): "
                     f"{', '.join(parts)}.")
    for first, *_ in found[1:]:
        other = found[0][0]
        pair, changed = f"{names_of[other.run]} and {names_of[first.run]}", differences(other, first)
        text += f" {pair} differ in {against(changed)}." if changed else f" {pair} have the same settings and seed."
    return text


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
    section = Section("Learning curves")
    for stage, path in (("training", run.history), ("compression", run.compress_history)):
        if not path.is_file():
            continue
        try:
            history = records.history(path)
        except InputError as error:
            section.text += f"Not shown: {error}. "
            continue
        losses = {"training loss": history["train_loss"], "validation log loss": history["validation_log_loss"]}
        rows = [[f"{epoch:.0f}", f"{rate:.4g}", f"{loss:.3f}", "-" if np.isnan(validation) else f"{validation:.3f}",
                 "-" if np.isnan(accuracy) else f"{accuracy:.1f}"]
                for epoch, rate, loss, validation, accuracy in zip(*history.values(), strict=True)]
        section.figures.append(Figure(
            f"Loss during {stage}", figures.curves(losses, "loss (nats)"),
            ("epoch", "learning rate", "training loss", "validation log loss", "validation accuracy (%)"), rows,
            "The training loss is that of augmented clips."))
    return section


def _size(counted: Mapping[str, Any] | None) -> Section:
    """Bytes by layer and bit width, and what was pruned."""
    section = Section("Size")
    if counted is None:
        return section
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
        media = _media(run, clip["filename"]) if number < players else ()
        section.clips.append(Clip(clip["filename"], clip["device"], clip["scene_label"], clip["decided"],
                                  f"{clip['probability']:.3g}", f"{clip['logloss']:.2f}", *media))
    return section


def _media(run: Run, filename: str) -> tuple[str, str, str]:
    """Spectrogram and data URL of what the network heard of a recording; or a note why they are left out."""
    import soundfile
    import soxr

    if PurePosixPath(filename).is_absolute() or PureWindowsPath(filename).anchor or ".." in Path(filename).parts:
        return "", "", "The recording is left out: its name leaves the folder of the data set."
    path = run.data_root / filename
    try:
        if not path.is_file():  # a pipe would be waited for
            return "", "", "The recording is left out: it is not there."
        with soundfile.SoundFile(path) as recording:
            rate = recording.samplerate
            samples = recording.read(round(run.config.features.clip_seconds * rate), dtype="float32", always_2d=True)
        if not len(samples) or not np.isfinite(samples).all():
            return "", "", "The recording is left out: it is empty, or not all of its samples are numbers."
        mono = np.clip(samples, -1, 1).mean(axis=1)
        drawing = figures.spectrogram(mono, rate, path.name)
        kind = "MP3" if "MP3" in soundfile.available_formats() else "OGG"
        content = io.BytesIO()
        soundfile.write(content, soxr.resample(mono, rate, _PLAYER_RATE), _PLAYER_RATE, format=kind)
    except (OSError, ValueError, RuntimeError) as error:  # the errors of soundfile are RuntimeErrors
        return "", "", f"The recording is left out: {' '.join(str(error).split())[:200]}"
    mime = "audio/mpeg" if kind == "MP3" else "audio/ogg"
    return drawing, f"data:{mime};base64,{base64.b64encode(content.getvalue()).decode()}", ""


def _settings(run: Run) -> Section:
    """Configuration and environment."""
    text = run.config_file.read_text(encoding="utf-8", errors="replace") if run.config_file.is_file() else ""
    if run.environment.is_file():
        text += f"\n# environment.json\n{run.environment.read_text(encoding='utf-8', errors='replace')}"
    return Section("Configuration and environment", listing=text)
