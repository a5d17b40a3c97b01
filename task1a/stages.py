"""The chain: an ordered table of stages, each with what it depends on and what it does.

A stage is a function of the configuration and of the files before it. It is skipped while what it depends on is what
it was when the stage last ran and its files are as it left them. Nobody imports this module but the runner.
"""
import platform
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from evaluation import metrics, per_device
from submission.findings import tell
from submission.package import clear as clear_package
from submission.package import package
from submission.rules import TASK1A_2021
from task1a import complexity, model_file, predict
from task1a.config import Config, TrainingConfig, fingerprint
from task1a.data import check, demo, tau_layout
from task1a.errors import FallsShort, InputError
from task1a.features import cache
from task1a.features.cache import FeatureCache
from task1a.files import copy, digest, read_json, remove, write_json
from task1a.model_file import ModelSpec
from task1a.predict import ReadClips
from task1a.run_folder import RunFolder
from task1a.training import distill, fit

Inputs = dict[str, Any]

SPLITS = {"development": ("train", "test"), "evaluation": ("evaluation",)}
"""the splits of each data set that are gone through; the unused clips of the development set are left alone"""


@dataclass(frozen=True)
class Run:
    """One run of the chain: what to do it with and where it lies."""

    config: Config
    folder: RunFolder
    device: str = "auto"
    force: bool = False
    say: Callable[[str], None] = print
    members: tuple["Run", ...] = ()
    """the runs that an ensemble averages; none for a system of one model"""

    @property
    def parts(self) -> tuple["Run", ...]:
        """The runs whose models make up the system: its members, or itself."""
        return self.members or (self,)

    @property
    def model(self) -> Path:
        """The model file that is counted and predicts: the packed one where the system is compressed."""
        return self.folder.packed if self.config.compression.enabled else self.folder.model

    @cached_property
    def sets(self) -> dict[str, Path]:
        """Folders of the ``development`` and, where there is one, the ``evaluation`` set.

        The demo set is built where it is missing.
        """
        data = self.config.data
        if data.source == "demo":
            roots = demo.build(Path(data.cache_dir) / "demo", workers=data.workers)
        elif data.root is None:
            raise InputError("no data set: give its folder with --data-root DIR (and --eval-root DIR)")
        else:
            roots = data.root, data.evaluation_root
        return {name: Path(root) for name, root in zip(SPLITS, roots, strict=True) if root is not None}


@dataclass(frozen=True)
class Stage:
    """One step of the chain."""

    name: str
    depends_on: Callable[[Run], Inputs]
    """everything its result depends on, as plain data; called where the stages before it are up to date"""
    work: Callable[[Run], Sequence[Path]]
    """does it, and returns the files that it wrote into the run folder"""
    still_there: Callable[[Run], bool] = lambda run: True
    """whether what it left outside the run folder is there"""
    left_out: Callable[[Run], str | None] = lambda run: None
    """why there is nothing to do for this system; None where there is"""


def _data_inputs(run: Run) -> Inputs:
    return {"recordings": _recordings(run), "data.skip_damaged": run.config.data.skip_damaged}


def data(run: Run) -> Sequence[Path]:
    """Check the recordings and their tables; stop where something is wrong."""
    report = check.check(run.sets["development"], run.sets.get("evaluation"), run.config.data.workers,
                         run.config.data.skip_damaged)
    run.say(check.format_report(report))
    if report.problems:
        raise InputError(f"the data set has {len(report.problems)} problem{'s' * (len(report.problems) > 1)}, named "
                         "above: put them right, or leave unreadable clips out with --skip-damaged")
    write_json(run.folder.data, {**report.facts, "content": _recordings(run)})
    return [run.folder.data]


def _features_inputs(run: Run) -> Inputs:
    return {"data": digest(run.folder.data), **_settings("features", run.config.features)}


def features(run: Run) -> Sequence[Path]:
    """Bring the feature caches up to date and note what is in them."""
    settings, damaged = run.config.data, {}
    for name, root in run.sets.items():
        clips = [filename for split in SPLITS[name] for filename in _listed(run, split).filename]
        built = cache.build(root, clips, run.config.features, Path(settings.cache_dir), settings.workers,
                            settings.skip_damaged)
        damaged[name] = dict(built.damaged)
        run.say(f"{name}: {len(built):,} clips in {built.folder}")
        for clip, reason in built.damaged.items():
            run.say(f"left out: {clip}: {reason}")
    write_json(run.folder.features, {"damaged": damaged, "splits": _cached_splits(run, damaged)})
    return [run.folder.features]


def features_there(run: Run) -> bool:
    """Whether the caches still hold what was noted."""
    noted = read_json(run.folder.features)
    try:
        return _cached_splits(run, noted["damaged"]) == noted["splits"]
    except InputError:
        return False


def _no_training(run: Run) -> str | None:
    return f"an ensemble trains nothing itself ({', '.join(run.config.ensemble)})" if run.members else None


def _train_inputs(run: Run) -> Inputs:
    config = run.config
    return {"training clips": _noted_splits(run)["train"], "seed": config.seed,
            **_settings("features", config.features), **_settings("model", config.model),
            **_settings("training", config.training)}


def train(run: Run) -> Sequence[Path]:
    """Train the vanilla model, go on with it, or take it from a run beside this one that trained the same."""
    folder, inputs = run.folder, _train_inputs(run)
    written = [folder.model, folder.history, folder.environment]
    if fit.rank() == 0:
        _clear_results(folder, folder.model, folder.packed, folder.packed_small)
    same = None if run.force or fit.processes() > 1 else _take_training(run, inputs)
    if same:
        run.say(f"the same training was done in {same.root}; its model is taken")
        return written
    if fit.rank() == 0:
        write_json(folder.environment, environment(run.device))
    fit.train(_job(run, folder.model.parent, run.config.training, inputs))
    return written


def _no_compression(run: Run) -> str | None:
    return _no_training(run) or (None if run.config.compression.enabled else "compression.enabled is false")


def _compress_inputs(run: Run) -> Inputs:
    config = run.config
    return {"vanilla model": digest(run.folder.model), "teachers": [digest(path) for path in _teachers(run)],
            "training clips": _noted_splits(run)["train"], "seed": config.seed,
            **_settings("training", config.training), **_settings("compression", config.compression)}


def compress(run: Run) -> Sequence[Path]:
    """Prune, quantize and distil the vanilla model, or go on with it."""
    folder, settings = run.folder, run.config.compression
    if fit.rank() == 0:
        _clear_results(folder, folder.packed, folder.packed_small)
    recipe = replace(run.config.training, epochs=settings.epochs, learning_rate=settings.learning_rate,
                     warmup_epochs=settings.warmup_epochs)
    job = _job(run, folder.packed.parent, recipe, _compress_inputs(run))
    distill.compress(job, settings, folder.model, _teachers(run))
    return [folder.packed, folder.packed_small, folder.compress_history]


def _complexity_inputs(run: Run) -> Inputs:
    return {"models": [digest(part.model) for part in run.parts]}


def count(run: Run) -> Sequence[Path]:
    """Count the size of the system over its model files."""
    counted = complexity.measure([part.model for part in run.parts])
    write_json(run.folder.complexity, counted)
    run.say(complexity.verdict(counted))
    return [run.folder.complexity]


def _predict_inputs(run: Run) -> Inputs:
    splits = _noted_splits(run)
    return {"models": [digest(part.model) for part in run.parts], "test clips": splits["test"],
            "evaluation clips": splits.get("evaluation")}


def predictions(run: Run) -> Sequence[Path]:
    """Predict the test split and the evaluation set with the model files as they are stored."""
    device = torch.device(fit.device_of(run.device))
    written = []
    for split, path in (("test", run.folder.test_predictions), ("evaluation", run.folder.evaluation_predictions)):
        remove(path)
        if split not in _noted_splits(run):
            continue
        tables = [_predicted(part, split, device) for part in run.parts]
        predict.write_predictions(path, predict.average(tables))
        run.say(f"{split}: {len(tables[0]):,} clips")
        written.append(path)
    return written


def _predicted(run: Run, split: str, device: torch.device) -> pd.DataFrame:
    """Probabilities of the clips of a split from a run's own model."""
    model, spec = model_file.load(run.model)
    clips, read = _clips(run, split)
    outputs = predict.logits(model.to(device), read, len(clips), run.config.evaluation.batch_size, device)
    return predict.predictions(clips.filename, outputs, spec.labels)


def _evaluate_inputs(run: Run) -> Inputs:
    return {"predictions": digest(run.folder.test_predictions), "data": digest(run.folder.data)}


def evaluate(run: Run) -> Sequence[Path]:
    """Judge the predictions of the test split, overall and by device."""
    facts = read_json(run.folder.data)
    reference, _ = _clips(run, "test")
    results = metrics.evaluate(reference, metrics.read_predictions(run.folder.test_predictions),
                               seen_devices=set(facts["by_device"]["train"]))
    judged = {"name": facts["name"], "demo": facts["demo"], "clips": len(reference)}
    left_out = sorted(set(_listed(run, "test").filename) - set(reference.filename))
    write_json(run.folder.evaluation, {"data": judged, **results, "left_out": left_out})
    run.say(per_device.format_table(results).rstrip("\n"))
    if left_out:
        run.say(f"{len(left_out)} damaged test clips were left out")
    return [run.folder.evaluation]


def _package_inputs(run: Run) -> Inputs:
    folder, config = run.folder, run.config
    return {"predictions": digest(folder.evaluation_predictions), "complexity": digest(folder.complexity),
            "results": digest(folder.evaluation),
            "authors": digest(Path(config.submission.authors)) if config.submission.authors else None,
            **_settings("features", config.features), **_settings("model", config.model),
            "ensemble": list(config.ensemble), **_settings("training", config.training),
            **_settings("compression", config.compression), **_settings("submission", config.submission)}


def _nothing_to_submit(run: Run) -> str | None:
    if "evaluation" in run.sets:
        return None
    return "without an evaluation set there is nothing to submit (--eval-root DIR)"


def make_package(run: Run) -> Sequence[Path]:
    """Write the challenge's files and the zip, and check the zip as a stranger would."""
    authors = run.config.submission.authors
    made = package([run.folder.root], Path(authors) if authors else None, run.folder.submission)
    run.say(tell(made.findings, TASK1A_2021.name))
    if made.zip is None:
        raise FallsShort("no package was made; what is wrong with it is named above")
    return sorted(path for path in run.folder.submission.rglob("*") if path.is_file())


def _recordings(run: Run) -> str:
    return check.content_digest(run.sets["development"], run.sets.get("evaluation"))


def _clear_results(folder: RunFolder, *models: Path) -> None:
    """Remove models and what came of them, so that nothing of it can be taken for a result of the next ones."""
    for path in (*models, folder.complexity, folder.test_predictions, folder.evaluation_predictions, folder.evaluation):
        remove(path)
    clear_package(folder.submission)


def _job(run: Run, folder: Path, recipe: TrainingConfig, inputs: Inputs) -> fit.Job:
    """A training over the run's training clips, parted into those learnt from and those validated on."""
    config = run.config
    clips, read = _clips(run, "train")
    labels = tuple(read_json(run.folder.data)["labels"])
    held_out = fit.split_validation(clips, config.training.validation_fraction, config.training.validation_seed)
    targets = np.array([labels.index(label) for label in clips.scene_label])

    def examples(chosen: np.ndarray) -> fit.Examples:
        rows = np.flatnonzero(chosen)
        return fit.Examples(lambda indices: read(rows[indices]), targets[rows])

    run.say(f"{(~held_out).sum():,} training clips, {held_out.sum():,} validation clips of other locations")
    return fit.Job(ModelSpec(config.model, config.features, labels), recipe, config.seed, examples(~held_out),
                   examples(held_out), folder, fingerprint(inputs), run.device, resume=not run.force, report=run.say)


def _take_training(run: Run, inputs: Inputs) -> RunFolder | None:
    """Copy the vanilla model of a run beside this one that came of the same inputs; returns that run, if there is one.

    The other run may be trained anew at this very moment, so the copies count only if they are what its record says.
    """
    folder = run.folder
    for path in sorted(folder.root.parent.parent.glob("*/seed*/stages/train.json")):
        other = RunFolder(path.parent.parent)
        record = other.read_record("train")
        if other.root == folder.root or record is None or record["inputs"] != inputs or other.changed_output(record):
            continue
        try:
            for path in (folder.model, folder.history, folder.environment, folder.checkpoint):
                copy(other.root / path.relative_to(folder.root), path)
        except FileNotFoundError:
            continue
        if not folder.changed_output(record):
            return other
    return None


def _teachers(run: Run) -> list[Path]:
    """The vanilla models that teach; a run of another system lies in the same folder of runs."""
    runs, paths = run.folder.root.parent.parent, []
    for name in run.config.compression.teachers:
        path = run.folder.model if name == "vanilla" else RunFolder(runs / name).model
        if not path.is_file():
            raise InputError(f"compression.teachers: {path}: no such model; train {name} first")
        paths.append(path)
    return paths


def environment(device: str) -> dict[str, Any]:
    """What a run was made with: versions, commit, machine."""
    packages = ("torch", "torchaudio", "lightning-fabric", "numpy", "pandas", "scikit-learn", "soundfile", "soxr")
    used = fit.device_of(device)
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if used == "cuda" else used,
    }


def _git_commit() -> str | None:
    """The commit that is checked out where this code lies, ``+changes`` where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"], text=True,
            cwd=Path(__file__).parent, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _settings(section: str, settings: Any) -> Inputs:
    return {f"{section}.{key}": value for key, value in asdict(settings).items()}


def _noted_splits(run: Run) -> dict[str, str]:
    return read_json(run.folder.features)["splits"]


def _listed(run: Run, split: str) -> pd.DataFrame:
    """The clips that the tables list for ``train``, ``test`` or ``evaluation``."""
    if split == "evaluation":
        return tau_layout.read_evaluation(run.sets["evaluation"])
    clips = tau_layout.read_development(run.sets["development"])
    return clips[clips.split == split].reset_index(drop=True)


def _cached_splits(run: Run, damaged: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Digests of names, labels and content of the clips of each split in the caches, without the damaged ones."""
    digests = {}
    for name, root in run.sets.items():
        opened = FeatureCache.open(root, run.config.features, Path(run.config.data.cache_dir))
        for split in SPLITS[name]:
            clips = _without(_listed(run, split), damaged[name])
            digests[split] = fingerprint([opened.digest(clips.filename), clips.to_dict("list")])
    return digests


def _clips(run: Run, split: str) -> tuple[pd.DataFrame, ReadClips]:
    """The clips of a split, without those that were left out as damaged, and the reader of their features."""
    name = next(name for name, splits in SPLITS.items() if split in splits)
    clips = _without(_listed(run, split), read_json(run.folder.features)["damaged"][name])
    opened = FeatureCache.open(run.sets[name], run.config.features, Path(run.config.data.cache_dir))
    rows = opened.rows(clips.filename)
    return clips, lambda indices: opened.read(rows[indices])


def _without(clips: pd.DataFrame, damaged: Collection[str]) -> pd.DataFrame:
    return clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)


STAGES = (
    Stage("data", _data_inputs, data),
    Stage("features", _features_inputs, features, features_there),
    Stage("train", _train_inputs, train, left_out=_no_training),
    Stage("compress", _compress_inputs, compress, left_out=_no_compression),
    Stage("complexity", _complexity_inputs, count),
    Stage("predict", _predict_inputs, predictions),
    Stage("evaluate", _evaluate_inputs, evaluate),
    Stage("package", _package_inputs, make_package, left_out=_nothing_to_submit),
)
