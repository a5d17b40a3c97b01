"""Results of finished runs, as tables and comparisons use them, and what two runs differ in.

A run is ``DIR/<name>/seed<N>/`` with ``config.yaml``, ``evaluation.json`` and, if they exist,
``complexity.json`` and ``predictions/test.csv``. The name is that of the system, or another one for
a trial with other settings.

Runs are averaged if, and only if, they differ in the seed alone (:func:`groups`); everything else
is compared, and named by the keys in which it differs (:func:`differences`). Seeds may have test
splits of their own, the folds of a data set, whose paths differ in the seed alone.

Scores are those of :mod:`evaluation.metrics`. *Parameters* are trainable values, pruned ones
included, without running statistics and scales. *KiB* are non-zero values times the bytes of their
type.
"""
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation import records
from task1a.challenge import DEVICES, LABELS, clip_key
from task1a.config import Config
from task1a.config_file import SYSTEMS, load
from task1a.errors import InputError
from task1a.pipeline.run import Run

METRICS = {"accuracy": ("Accuracy", 1), "logloss": ("Log loss", 3)}
"""title and decimals of each score, by its name in ``evaluation.json``"""

POLICIES = ("dcase2021", "paper")
"""ways to count the size: with running statistics, for the limit, and without, for the published
sizes"""

PUBLISHED_ON = "TAU Urban Acoustic Scenes 2020 Mobile"
"""the data set that the results of the papers and of the challenge's baseline are of"""
PUBLISHED_CLIPS = 2968
"""number of its test clips"""

# sections that name a run, and do not change its results
_NAMING = ("system", "description", "seed", "submission")
# the data set is known by its name and clips, wherever it lies
_WITHOUT_EFFECT = ("data.source", "data.root", "data.evaluation_root", "data.cache_dir", "data.workers",
                   "evaluation.batch_size")


@dataclass(frozen=True)
class Result:
    """Results of one run."""

    run: Run
    name: str
    """name of the folder of its seeds"""
    system: str
    seed: int
    data: str
    """name of the data set"""
    demo: bool
    labels: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    """:data:`METRICS` by device, and ``overall``"""
    excluded: frozenset[str]
    """damaged test clips"""
    clips: int
    """number of test clips, including damaged ones"""
    names: frozenset[str] | None
    """file names of the test clips; None if the run has no predictions"""
    parameters: int | None
    kib: Mapping[str, float]
    """size by policy; empty without ``complexity.json``"""
    settings: Mapping[str, Any]
    """:func:`settings` of the run and of the models that make up its system"""

    def __str__(self) -> str:
        return "/".join(self.run.folder.resolve().parts[-2:])

    @property
    def data_name(self) -> str:
        """Name of the data set, marked if it is demo data."""
        return f"{self.data} (demo data)" if self.demo else self.data

    @property
    def comparable(self) -> bool:
        """Whether published results are of the same test split (:func:`is_published_split`)."""
        return is_published_split(self.demo, self.labels, self.scores.keys() - {"overall"}, self.clips)


def is_published_split(demo: bool, labels: Collection[str], devices: Collection[str],
                       clips: int) -> bool:
    """Return whether a test split is that of ``PUBLISHED_ON``, in a folder of any name.

    Args:
        demo: whether the recordings are synthesised.
        labels: scene labels of the test split.
        devices: its recording devices.
        clips: its number of clips, damaged ones included.
    """
    same_names = set(labels) == set(LABELS) and set(devices) == set(DEVICES)
    return not demo and clips == PUBLISHED_CLIPS and same_names


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that can change the results of a run, apart from the seed, by their
    key."""
    found: dict[str, Any] = {}
    # by way of JSON, in which a tuple is a list, as in the values of a configuration file
    for section, value in json.loads(json.dumps(asdict(config))).items():
        if section in _NAMING:
            continue
        if section == "compression" and not config.compression.enabled:
            value = {"enabled": False}
        if not isinstance(value, dict):
            value = {"": value}
        for key, setting in value.items():
            found[f"{section}.{key}".removesuffix(".")] = setting
    for key in _WITHOUT_EFFECT:
        del found[key]
    if config.data.source != "demo":
        del found["data.demo_clip_seconds"]
    return found


def shipped_settings(system: str, folder: Path = SYSTEMS) -> dict[str, Any] | None:
    """Return the settings of a system in ``folder``, or else in ``system_configs``; None without
    one."""
    for path in (folder / f"{system}.yaml", SYSTEMS / f"{system}.yaml"):
        if path.is_file():
            return settings(load(path))
    return None


def changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of the settings that differ.

    A setting that only one of them has does not count: it belongs to another network, and
    ``model.name`` differs.
    """
    found = {}
    for key, value in one.items():
        if key in other and value != other[key]:
            found[key] = value, other[key]
    return found


def differences(one: Result, other: Result) -> dict[str, tuple[Any, Any]]:
    """Return both values of what two runs differ in apart from their seed, by key."""
    found = changes(one.settings, other.settings)
    if one.data != other.data:
        found["data.name"] = one.data, other.data
    if one.demo != other.demo:
        found["data.demo"] = one.demo, other.demo
    if _same_clips(one, other):
        if one.excluded != other.excluded:
            found["damaged test clips"] = len(one.excluded), len(other.excluded)
    elif one.seed == other.seed or not _are_folds(one, other):
        others = other.clips if one.clips != other.clips else f"{other.clips} others"
        found["test clips"] = one.clips, others
    return found


def format_differences(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Format differences: ``training.epochs=30 against training.epochs=100``; empty without."""
    return f"{format_side(found, 0)} against {format_side(found, 1)}" if found else ""


def format_side(found: Mapping[str, tuple[Any, Any]], side: int) -> str:
    """Format one side of differences as its values are written on the command line."""
    parts = []
    for key, values in found.items():
        value = values[side]
        parts.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(parts)


def groups(runs: Sequence[Result]) -> list[list[Result]]:
    """Return lists of runs that differ in the seed alone, and so can be averaged.

    A run with the seed and the settings of an earlier one, such as its copy, begins a list of its
    own.
    """
    found: list[list[Result]] = []
    for run in runs:
        for group in found:
            seeds = [other.seed for other in group]
            if run.seed not in seeds and not differences(group[0], run):
                group.append(run)
                break
        else:
            found.append([run])
    return found


def read_folder(folder: Path) -> tuple[list[Result], list[str]]:
    """Return the finished runs ``<folder>/seed<N>`` and the names of the unfinished ones, by seed.

    Raises:
        InputError: a record of a run is damaged or incomplete.
    """
    return _read_all(_seeds(folder))


def read_systems(runs: Path, systems: Collection[str]) -> dict[str, tuple[list[Result], list[str]]]:
    """Return, for each system, its finished runs below ``runs`` and the names of the unfinished
    ones.

    Runs in the folder with the system's name come first, in the order of the seeds, then those of
    other names.

    Raises:
        InputError: a record of one of these runs is damaged or incomplete.
    """
    found: dict[str, list[Run]] = {system: [] for system in systems}
    # the folder of a trial has another name than its system
    for folder in sorted(runs.iterdir()):
        for run in _seeds(folder):
            try:
                system = run.config.system
            except InputError:  # matters only if the folder has the name of one of the systems
                system = folder.name
            if system in found:
                found[system].append(run)
    results = {}
    for system, those in found.items():
        results[system] = _read_all(sorted(those, key=lambda run: run.name != system))
    return results


def validate(runs: Sequence[Result]) -> None:
    """Check that runs can be put into one table.

    Raises:
        InputError: they are on different data sets, or runs with the same seed were tested on
            different clips.
    """
    first = runs[0]
    by_seed: dict[int, Result] = {}
    for run in runs:
        if (run.data, run.demo) != (first.data, first.demo):
            raise InputError(f"runs on different data sets cannot share a table: {first} is on "
                             f"{first.data_name}, {run} on {run.data_name}; keep the runs of each data "
                             "set in a folder of their own")
        other = by_seed.setdefault(run.seed, run)
        if not _same_clips(run, other):
            raise InputError(f"{other} and {run} were tested on different clips; all systems must have "
                             "the same test clips for a seed: run one of the two again")


def have_folds(runs: Sequence[Result]) -> bool:
    """Return whether runs were tested on different clips."""
    return not all(_same_clips(run, runs[0]) for run in runs)


def read_result(run: Run) -> Result:
    """Read the results of a finished run.

    Raises:
        InputError: a record of the run is damaged or incomplete.
    """
    config = run.config
    evaluated = records.read(run, "summary")
    scores = {}
    for device, score in evaluated["device_wise"].items():
        if score is not None:
            scores[device] = score
    scores["overall"] = evaluated["overall"]
    excluded = frozenset(map(clip_key, evaluated.get("left_out", ())))
    data = evaluated["data"]

    parameters, kib = None, {}
    if run.complexity.is_file():
        size = records.read(run, "complexity")
        parameters = size["trainable_parameters"]
        kib = {policy: size["policies"][policy]["KiB"] for policy in POLICIES}

    names = None
    if run.test_predictions.is_file():
        from task1a.predict import predictions

        names = excluded | set(predictions.read(run.test_predictions).filename.map(clip_key))
    found = settings(config)
    # a system of several models differs if one of them does
    if not run.is_single:
        for model in run.models:
            if model.config_file.is_file():
                for key, value in settings(model.config).items():
                    found[f"{model.config.system}: {key}"] = value
    return Result(
        run=run, name=run.folder.resolve().parent.name, system=config.system, seed=config.seed,
        data=data["name"], demo=data["demo"], labels=tuple(evaluated["labels"]), scores=scores,
        excluded=excluded, clips=data["clips"] + len(excluded), names=names, parameters=parameters,
        kib=kib, settings=found)


def _seeds(folder: Path) -> list[Run]:
    seeds = {}
    for path in folder.glob("seed*"):
        if path.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", path.name, re.ASCII):
            seeds[int(path.name.removeprefix("seed"))] = Run(path)
    return [seeds[seed] for seed in sorted(seeds)]


def _read_all(runs: Sequence[Run]) -> tuple[list[Result], list[str]]:
    finished, unfinished = [], []
    for run in runs:
        if not run.evaluation.is_file():
            unfinished.append(str(run))
            continue
        finished.append(read_result(run))
        if run.folder.name != f"seed{run.config.seed}":
            raise InputError(f"{run.folder}: is a run with seed {run.config.seed}, by its config.yaml; "
                             "rename the folder, or remove it if it is a copy")
    return finished, unfinished


def _same_clips(one: Result, other: Result) -> bool:
    # without predictions only the number of clips is known
    if one.names is None or other.names is None:
        return one.clips == other.clips
    return one.names == other.names


def _are_folds(one: Result, other: Result) -> bool:
    """Return whether the paths of two data sets differ in numbers alone, by as much as the seeds
    do."""
    # sets/fold1/x: numbers and the text between them
    parts = re.findall(r"[0-9]+|[^0-9]+", str(one.run.data_root))
    others = re.findall(r"[0-9]+|[^0-9]+", str(other.run.data_root))
    if parts == others or len(parts) != len(others):
        return False
    for part, another in zip(parts, others, strict=True):
        numbers = part[0].isdigit() and another[0].isdigit()
        if part != another and not (numbers and int(another) - int(part) == other.seed - one.seed):
            return False
    return True
