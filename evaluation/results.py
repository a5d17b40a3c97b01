"""Results of finished runs, as tables and comparisons use them, and what two runs differ in.

A run is ``DIR/<name>/seed<N>/`` with ``config.yaml``, ``evaluation.json`` and, if they exist, ``complexity.json`` and
``predictions/test.csv``. The name is that of the system, or another one for a trial with other settings.

Runs are averaged if, and only if, they differ in the seed alone (:func:`groups`); everything else is compared, and
named by the keys in which it differs (:func:`differences`). Seeds may have test splits of their own, the folds of a
data set, whose paths differ in the seed alone.

Scores are those of :mod:`evaluation.metrics`. *Parameters* are trainable values, pruned ones included, without running
statistics and scales. *KiB* are non-zero values times the bytes of their type.
"""
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation import records
from evaluation.tables.table_file import SYSTEMS
from task1a.challenge import DEVICES, LABELS, clip_key
from task1a.config import Config
from task1a.config_file import load
from task1a.errors import InputError
from task1a.pipeline.run import Run

METRICS = {"accuracy": ("Accuracy", 1), "logloss": ("Log loss", 3)}
"""title and decimals of each score, by its name in ``evaluation.json``"""

POLICIES = ("dcase2021", "paper")
"""ways to count the size: with running statistics, for the limit, and without, for the published sizes"""

PUBLISHED_ON = "TAU Urban Acoustic Scenes 2020 Mobile"
"""the data set that the results of the papers and of the challenge's baseline are of"""
PUBLISHED_CLIPS = 2968
"""number of its test clips"""

_OF_ITSELF = ("system", "description", "seed", "submission")
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
    left_out: frozenset[str]
    """damaged test clips"""
    clips: int
    """number of test clips, including damaged ones"""
    names: frozenset[str] | None
    """names of these clips; None without a prediction file"""
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


def is_published_split(demo: bool, labels: Collection[str], devices: Collection[str], clips: int) -> bool:
    """Whether a test split is that of ``PUBLISHED_ON``, in a folder of any name.

    Args:
        demo: whether the recordings are synthesised.
        labels: scene labels of the test split.
        devices: its recording devices.
        clips: its number of clips, damaged ones included.
    """
    return not demo and clips == PUBLISHED_CLIPS and set(labels) == set(LABELS) and set(devices) == set(DEVICES)


def settings(config: Config) -> dict[str, Any]:
    """Settings that can change the results of a run, apart from the seed and the place of its data; by their key."""
    found: dict[str, Any] = {}
    for section, value in json.loads(json.dumps(asdict(config))).items():
        if section not in _OF_ITSELF:
            found |= {f"{section}.{key}": part for key, part in value.items()} if isinstance(value, dict) \
                else {section: value}
    if not config.compression.enabled:
        found = {key: value for key, value in found.items() if not key.startswith("compression.")}
        found["compression.enabled"] = False
    if config.data.source != "demo":
        del found["data.demo_clip_seconds"]
    return {key: value for key, value in found.items() if key not in _WITHOUT_EFFECT}


def shipped_settings(system: str, folder: Path = SYSTEMS) -> dict[str, Any] | None:
    """Settings of a system's configuration in ``folder``, or else in ``system_configs``; None if there is none."""
    for path in (folder / f"{system}.yaml", SYSTEMS / f"{system}.yaml"):
        if path.is_file():
            return settings(load(path))
    return None


def changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of the settings that differ.

    A setting of only one of them does not count: that of another network, of which ``model.name`` tells.
    """
    return {key: (value, other[key]) for key, value in one.items() if key in other and value != other[key]}


def differences(one: Result, other: Result) -> dict[str, tuple[Any, Any]]:
    """What two runs differ in apart from their seed: both values, by the key of the setting or of the data set."""
    found = changes(one.settings, other.settings)
    for key, value, others in (("data.name", one.data, other.data), ("data.demo", one.demo, other.demo)):
        if value != others:
            found[key] = value, others
    if not _same_clips(one, other) and not (one.seed != other.seed and _are_folds(one, other)):
        found["test clips"] = one.clips, other.clips if one.clips != other.clips else f"{other.clips} others"
    elif one.left_out != other.left_out and _same_clips(one, other):
        found["damaged test clips"] = len(one.left_out), len(other.left_out)
    return found


def against(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in words: ``training.epochs=30 against training.epochs=100``; empty without."""
    return " against ".join(values_of(found, side) for side in (0, 1)) if found else ""


def values_of(found: Mapping[str, tuple[Any, Any]], side: int) -> str:
    """The values of one side of differences, as they are written on the command line."""
    parts = []
    for key, values in found.items():
        value = values[side]
        parts.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(parts)


def groups(runs: Sequence[Result]) -> list[list[Result]]:
    """Runs that differ in the seed alone, and so can be averaged, in one list each.

    A run with the seed and the settings of an earlier one, such as its copy, begins a list of its own.
    """
    found: list[list[Result]] = []
    for run in runs:
        for group in found:
            if run.seed not in [other.seed for other in group] and not differences(group[0], run):
                group.append(run)
                break
        else:
            found.append([run])
    return found


def read_folder(folder: Path) -> tuple[list[Result], list[str]]:
    """Finished runs ``<folder>/seed<N>``, and the names of the unfinished ones, both in the order of the seeds.

    Raises:
        InputError: a record of a run is damaged or incomplete.
    """
    return _read_all(_seeds(folder))


def read_systems(runs: Path, systems: Collection[str]) -> dict[str, tuple[list[Result], list[str]]]:
    """Finished runs of each system below ``runs``, under any name, and the names of the unfinished ones.

    Those in the folder with the system's name come first, in the order of the seeds.

    Raises:
        InputError: a record of one of these runs is damaged or incomplete.
    """
    found: dict[str, list[Run]] = {system: [] for system in systems}
    for folder in sorted(runs.iterdir()):
        for run in _seeds(folder):
            try:
                system = run.config.system
            except InputError:  # matters only if the folder has the name of one of the systems
                system = folder.name
            if system in found:
                found[system].append(run)
    for system, of_system in found.items():
        of_system.sort(key=lambda run: run.folder.parent.name != system)
    return {system: _read_all(of_system) for system, of_system in found.items()}


def validate(runs: Sequence[Result]) -> None:
    """Check that runs can be put into one table.

    Raises:
        InputError: they are on different data sets, or runs with the same seed were tested on different clips.
    """
    first = runs[0]
    by_seed: dict[int, Result] = {}
    for run in runs:
        if (run.data, run.demo) != (first.data, first.demo):
            raise InputError(f"runs on different data sets cannot share a table: {first} is on {first.data_name}, "
                             f"{run} on {run.data_name}; keep the runs of each data set in a folder of their own")
        other = by_seed.setdefault(run.seed, run)
        if not _same_clips(run, other):
            raise InputError(f"{other} and {run} were tested on different clips; all systems must have the same test "
                             "clips for a seed: run one of the two again")


def have_folds(runs: Sequence[Result]) -> bool:
    """Whether runs were tested on different clips."""
    return not all(_same_clips(run, runs[0]) for run in runs)


def read_result(run: Run) -> Result:
    """The results of a finished run.

    Raises:
        InputError: a record of the run is damaged or incomplete.
    """
    config = run.config
    evaluated = records.read(run, "summary")
    scores = {name: score for name, score in evaluated["device_wise"].items() if score is not None}
    scores["overall"] = evaluated["overall"]
    left_out = frozenset(map(clip_key, evaluated.get("left_out", ())))
    data = evaluated["data"]

    parameters, kib = None, {}
    if run.complexity.is_file():
        counted = records.read(run, "complexity")
        parameters = counted["trainable_parameters"]
        kib = {policy: counted["policies"][policy]["KiB"] for policy in POLICIES}

    names = None
    if run.test_predictions.is_file():
        from task1a.predict import predictions

        names = left_out | set(predictions.read(run.test_predictions).filename.map(clip_key))
    found = settings(config)
    for part in () if run.is_single else run.models:
        if part.config_file.is_file():
            found |= {f"{part.config.system}: {key}": value for key, value in settings(part.config).items()}
    return Result(run, run.folder.resolve().parent.name, config.system, config.seed, data["name"], data["demo"],
                  tuple(evaluated["labels"]), scores, left_out, data["clips"] + len(left_out), names, parameters, kib,
                  found)


def _seeds(folder: Path) -> list[Run]:
    seeds = {}
    for run in folder.glob("seed*"):
        if run.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", run.name, re.ASCII):
            seeds[int(run.name.removeprefix("seed"))] = Run(run)
    return [run for _, run in sorted(seeds.items())]


def _read_all(runs: Sequence[Run]) -> tuple[list[Result], list[str]]:
    finished, unfinished = [], []
    for run in runs:
        if not run.evaluation.is_file():
            unfinished.append(str(run))
            continue
        finished.append(read_result(run))
        if run.folder.name != f"seed{run.config.seed}":
            raise InputError(f"{run.folder}: is a run with seed {run.config.seed}, by its config.yaml; rename the "
                             "folder, or remove it if it is a copy")
    return finished, unfinished


def _same_clips(one: Result, other: Result) -> bool:
    if one.names is None or other.names is None:
        return one.clips == other.clips
    return one.names == other.names


def _are_folds(one: Result, other: Result) -> bool:
    """Whether the paths of two data sets differ in a number alone, by as much as the seeds do."""
    parts, others = (re.findall(r"[0-9]+|[^0-9]+", str(run.run.data_root)) for run in (one, other))
    if parts == others or len(parts) != len(others):
        return False
    for part, another in zip(parts, others, strict=True):
        numbers = part[0].isdigit() and another[0].isdigit()
        if part != another and not (numbers and int(another) - int(part) == other.seed - one.seed):
            return False
    return True
