"""The chain: an ordered table of stages, each with its inputs and its work.

The result of a stage is a function of the configuration and the files of earlier stages. A stage is skipped if neither
its inputs nor its files have changed since it last ran. Only the runner imports this module.

Stages import torch and the like when they run, so that ``--help`` and runs that are up to date start quickly.
"""
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from task1a.challenge import size_verdict
from task1a.config import Config, TrainingConfig, fingerprint
from task1a.errors import FallsShort, InputError, counted
from task1a.files import copy, digest, read_json, remove, write_json
from task1a.machine import device_of, environment, processes, rank
from task1a.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from task1a.data.dataset import Dataset
    from task1a.features.cache import FeatureCache
    from task1a.predict.clips import ReadClips
    from task1a.training.examples import Examples
    from task1a.training.fit import Job

Inputs = dict[str, Any]
"""everything that the result of a stage depends on, as plain data"""


@dataclass(frozen=True)
class Session:
    """A run that a command works on, with the data set and the feature caches, each opened once."""

    run: Run
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``"""
    force: bool = False
    """whether stages run even if they are up to date"""
    say: Callable[[str], None] = print
    """receives the reports of the stages"""
    members: tuple["Session", ...] = ()
    """sessions of the runs that are trained for this one: members of an ensemble, or device-specific models"""
    pilots: tuple["Session", ...] = ()
    """sessions of the pilots of this run, or of its members, on whose held-out clips the temperature is fitted"""
    general: "Session | None" = None
    """session of the general model of device-specific models, if it has to be trained first"""
    download: dict[str, bool] | None = None
    """settings of :func:`task1a.data.download.download`, if the sets of the challenge may be downloaded"""
    caches: "dict[str, FeatureCache]" = field(default_factory=dict)
    """caches opened so far; see :meth:`cache`"""

    @cached_property
    def dataset(self) -> "Dataset":
        """The recordings; on first use, the demo set is synthesised, and the sets of the challenge are downloaded."""
        from task1a.data.dataset import Dataset

        settings = self.run.config.data
        if settings.source == "demo":
            from task1a.data import demo

            size = demo.DemoSize(clip_seconds=settings.demo_clip_seconds)
            return Dataset(*demo.build(Path(settings.cache_dir) / "demo", size, settings.workers))
        if settings.root is None:
            raise InputError("no data set: give its folder with --data-root DIR (and --eval-root DIR)")
        root, evaluation = Path(settings.root), Path(settings.evaluation_root) if settings.evaluation_root else None
        if self.download is not None:
            from task1a.data import download

            download.download(download.challenge_sets(root, evaluation), **self.download)
        return Dataset(root, evaluation)

    def cache(self, name: str) -> "FeatureCache":
        """The feature cache of the ``development`` or the ``evaluation`` set."""
        from task1a.features.cache import FeatureCache

        if name not in self.caches:
            config = self.run.config
            root = self.dataset.roots[name]
            self.caches[name] = FeatureCache.open(root, config.features, Path(config.data.cache_dir))
        return self.caches[name]

    def clips(self, split: str) -> "pd.DataFrame":
        """The clips of a split, without the damaged ones that were left out."""
        damaged = self.run.read("features")["damaged"][self.dataset.splits[split]]
        return _without(self.dataset.split(split), damaged)

    def reader(self, split: str) -> "ReadClips":
        """A function that reads the features of a split's clips by index."""
        cache = self.cache(self.dataset.splits[split])
        rows = cache.rows(self.clips(split).filename)
        return lambda indices: cache.read(rows[indices])


@dataclass(frozen=True)
class Stage:
    """One step of the chain."""

    name: str
    inputs: Callable[[Session], Inputs]
    """computes the inputs; the stages before must be up to date"""
    work: Callable[[Session, Inputs], Iterable[Path]]
    """does the work and returns the files written into the run folder"""
    cache_is_whole: Callable[[Session], bool] = lambda session: True
    """whether the files that the stage wrote outside the run folder are unchanged"""
    reads_cache: bool = False
    """whether the stage reads the feature caches"""
    left_out: Callable[[Session], str | None] = lambda session: None
    """the reason why the stage has nothing to do for this system, or None"""
    sections: tuple[str, ...] = ()
    """sections of the configuration that a training depends on; only for stages that train"""


_LEARNT_FROM = ("filename", "scene_label", "identifier", "device", "split")
"""columns of a split's clips that the features, the training and the predictions depend on"""

CALIBRATION = frozenset({"training.calibrate", "training.pilot_fraction", "pilots"})
"""inputs of a training whose change divides the logits by another temperature, without training again"""


def changed_inputs(recorded: Inputs, present: Inputs) -> list[str]:
    """Keys of the inputs that differ from the recorded ones.

    A setting that the record lacks, because it did not exist yet, is taken to have had its default.
    """
    defaults = json.loads(json.dumps(asdict(Config(system="any"))))
    changed = []
    for key in {**recorded, **present}:
        section, _, name = key.partition(".")
        default = (defaults[section] or {}).get(name) if name and section in defaults else None
        if recorded.get(key, default) != present.get(key):
            changed.append(key)
    return changed


def data_inputs(session: Session) -> Inputs:
    """The content of the recordings and their tables."""
    from task1a.data import check

    return {"recordings": check.content_digest(session.dataset),
            "data.skip_damaged": session.run.config.data.skip_damaged}


def data(session: Session, inputs: Inputs) -> list[Path]:
    """Check the recordings and their tables."""
    from task1a.data import check

    settings, features = session.run.config.data, session.run.config.features
    report = check.check(session.dataset, settings.skip_damaged, features.sample_rate, features.clip_seconds)
    session.say(check.format_report(report))
    if report.problems:
        raise InputError(f"the data set has {counted(len(report.problems), 'problem')}, listed above; correct them, or "
                         "leave out unreadable clips with --skip-damaged")
    write_json(session.run.data, {**report.facts, "content": inputs["recordings"]})
    return [session.run.data]


def features_inputs(session: Session) -> Inputs:
    """The record of the data set's check and the settings of the features."""
    return {"data": digest(session.run.data), **settings(session, "features")}


def features(session: Session, inputs: Inputs) -> list[Path]:
    """Bring the feature caches up to date."""
    from task1a.features.build import build

    config, dataset = session.run.config, session.dataset
    damaged = {}
    for name, root in dataset.roots.items():
        built = build(root, dataset.filenames(name), config.features, Path(config.data.cache_dir), config.data.workers,
                      config.data.skip_damaged)
        session.caches[name] = built
        damaged[name] = dict(built.damaged)
        session.say(f"{name}: {counted(len(built), 'clip')} in {built.folder}")
        for clip, reason in built.damaged.items():
            session.say(f"left out: {clip}: {reason}")
    # decoding finds more damaged clips than the check of the data set, and a scene may have lost all of its clips
    for split in ("train", "test"):
        readable = _without(dataset.split(split), damaged["development"])
        lost = set(session.run.read("data")["labels"]) - set(readable.scene_label)
        if lost:
            raise InputError(f"the {split} split has no readable clip of {', '.join(sorted(lost))}; restore the "
                             "recordings that were left out")
    write_json(session.run.features, {"damaged": damaged, "splits": _cached_splits(session, damaged)})
    return [session.run.features]


def cache_is_whole(session: Session) -> bool:
    """Whether the caches are complete and their content is the recorded one."""
    from task1a.features.build import is_whole

    record, config = session.run.read("features"), session.run.config
    try:
        if _cached_splits(session, record["damaged"]) != record["splits"]:
            return False
        return all(is_whole(root, config.features, Path(config.data.cache_dir))
                   for root in session.dataset.roots.values())
    except InputError:
        return False


def train_inputs(session: Session) -> Inputs:
    """The training clips, the seed, and the settings of features, model and training."""
    run, recipe = session.run, session.run.config.vanilla_recipe
    inputs = {"training clips": run.read("features")["splits"]["train"], "seed": run.config.seed,
              **settings(session, "features", "model", "training"), "training.calibrate": recipe.calibrate,
              "training.pilot_fraction": recipe.pilot_fraction, "pilots": _pilots(session, recipe)}
    if recipe.init_from:
        inputs["initial model"] = digest(_initial_model(run))
    return inputs


def train(session: Session, inputs: Inputs) -> list[Path]:
    """Train the vanilla model, resume its training, or copy it from another run with the same inputs."""
    run = session.run
    if rank() == 0:
        _clear_results(run, run.vanilla, run.packed, run.packed_xz)
    same = None if run.is_draft or processes() > 1 else _take_training(run, inputs)
    if same:
        session.say(f"{same} has the same training; its model is copied")
    else:
        from task1a.training.train import train as train_model

        if rank() == 0:
            write_json(run.environment, environment(session.device))
        initial = _initial_model(run) if run.config.training.init_from else None
        train_model(_job(session, run.vanilla.parent, run.config.vanilla_recipe, inputs), initial)
    return [run.vanilla, run.history, run.environment, *_records(run.vanilla)]


def compress_inputs(session: Session) -> Inputs:
    """The vanilla model, the teachers, the training clips, and the settings of training and compression."""
    run = session.run
    return {"vanilla model": digest(run.vanilla), "teachers": [digest(path) for path in _teachers(run)],
            "training clips": run.read("features")["splits"]["train"], "seed": run.config.seed,
            **settings(session, "training", "compression"), "pilots": _pilots(session, run.config.training)}


def compress(session: Session, inputs: Inputs) -> list[Path]:
    """Prune, quantize and distil the vanilla model, or resume its compression."""
    from task1a.training.compress import compress as compress_model

    run, settings = session.run, session.run.config.compression
    if rank() == 0:
        _clear_results(run, run.packed, run.packed_xz)
    recipe = replace(run.config.training, epochs=settings.epochs, learning_rate=settings.learning_rate,
                     warmup_epochs=settings.warmup_epochs)
    job = _job(session, run.packed.parent, recipe, inputs)
    compress_model(job, settings, run.vanilla, _teachers(run))
    return [run.packed, run.packed_xz, run.compress_history, *_records(run.packed)]


def complexity_inputs(session: Session) -> Inputs:
    """The model files, and how often they are applied to a clip."""
    return {"models": _model_digests(session.run), "passes": _passes(session.run)}


def complexity(session: Session, inputs: Inputs) -> list[Path]:
    """Count the size of the system from its model files."""
    from task1a.complexity import measure

    run = session.run
    counted = measure.measure([part.model for part in run.parts], run.passes, run.alternatives)
    write_json(run.complexity, counted)
    largest = f"largest of {len(run.parts)} models: " if run.alternatives else ""
    session.say(f"{largest}{size_verdict(counted)}")
    return [run.complexity]


def predict_inputs(session: Session) -> Inputs:
    """The model files, how often they are applied to a clip, the pilots of an ensemble, and the clips to predict."""
    run, splits = session.run, session.run.read("features")["splits"]
    return {"models": _model_digests(run), "passes": _passes(run),
            "pilots": _pilots(session, run.config.training) if session.members else None,
            "test clips": splits["test"], "evaluation clips": splits.get("evaluation")}


def predict(session: Session, inputs: Inputs) -> list[Path]:
    """Predict the test split and the evaluation set with the stored models."""
    import torch

    from task1a.predict import predictions

    run, written, device = session.run, [], torch.device(device_of(session.device))
    calibration = None
    if session.members:  # the temperature of a single model is in its file
        remove(run.calibration)
        calibration = _fitted_with_pilots(session)
    for split, path in (("test", run.test_predictions), ("evaluation", run.evaluation_predictions)):
        remove(path)
        if split not in run.read("features")["splits"]:
            continue
        if run.config.device_models:
            table = _predict_by_device(session, split, device)
        else:
            tables = []
            for part in session.members or (session,):
                tables.append(_predict(part.run, part.clips(split).filename, part.reader(split), device))
            table = predictions.average(tables)
            if calibration:
                labels = predictions.label_columns(table)
                table[labels] = predictions.scaled(table[labels].to_numpy(), calibration["temperature"])
        predictions.write(path, table)
        session.say(f"{split}: {counted(len(table), 'clip')}")
        written.append(path)
    if calibration:
        write_json(run.calibration, calibration)
        session.say(f"calibrated on {calibration['clips']:,} clips held out of the pilots: temperature "
                    f"{calibration['temperature']:.3f}")
        written.append(run.calibration)
    return written


def evaluate_inputs(session: Session) -> Inputs:
    """The predictions and the reference."""
    return {"predictions": digest(session.run.test_predictions), "data": digest(session.run.data), "format": 2}


def evaluate(session: Session, inputs: Inputs) -> list[Path]:
    """Evaluate the predictions of the test split, and write the report."""
    from evaluation import metrics, per_device
    from evaluation.report import page as report
    from task1a.predict import predictions

    run, facts = session.run, session.run.read("data")
    reference = session.clips("test")
    table = predictions.read(run.test_predictions)
    results = metrics.evaluate(reference, table, seen_devices=set(facts["by_device"]["train"]))
    judged = {"name": facts["name"], "demo": facts["demo"], "clips": len(reference)}
    left_out = sorted(set(session.dataset.split("test").filename) - set(reference.filename))
    if run.config.training.calibrate and run.calibration.is_file():
        temperature = read_json(run.calibration)["temperature"]
        results["before_scaling"] = metrics.before_scaling(reference, table, temperature)
    write_json(run.evaluation, {"data": judged, **results, "left_out": left_out})
    report.write([run], run.report)
    session.say(per_device.format_table(results))
    session.say("\n".join(per_device.notes(results)))
    if left_out:
        session.say(f"excluded: {counted(len(left_out), 'damaged test clip')}")
    return [run.evaluation, run.report]


def package_inputs(session: Session) -> Inputs:
    """Everything that the metadata and the report state."""
    run, authors = session.run, session.run.config.submission.authors
    return {"predictions": digest(run.evaluation_predictions), "complexity": digest(run.complexity),
            "results": digest(run.evaluation), "authors": digest(Path(authors)) if authors else None,
            "ensemble": list(run.config.ensemble), "device_models": list(run.config.device_models) or None,
            **settings(session, "features", "model", "training", "compression", "submission")}


def package(session: Session, inputs: Inputs) -> list[Path]:
    """Write the submission files and the zip, and validate the zip."""
    from submission.package import package as make_package
    from submission.rules import TASK1A_2021
    from submission.validation import findings

    run, authors = session.run, session.run.config.submission.authors
    made = make_package([run.folder], Path(authors) if authors else None, run.submission)
    session.say(findings.tell(made.findings, TASK1A_2021.name))
    if made.zip is None:
        raise FallsShort("the submission is invalid and no zip was written; its errors are listed above")
    return sorted(path for path in run.submission.rglob("*") if path.is_file())


def no_training(session: Session) -> str | None:
    """The reason why there is nothing to train, or None."""
    names = ", ".join(member.run.name for member in session.members)
    return f"its models are trained as runs of their own ({names})" if session.members else None


def no_compression(session: Session) -> str | None:
    """The reason why there is nothing to compress, or None."""
    if not session.members and not session.run.config.compression.enabled:
        return "compression.enabled is false"
    return no_training(session)


def nothing_to_submit(session: Session) -> str | None:
    """The reason why there is nothing to submit, or None."""
    from submission.rules import EDITIONS, TASK1A_2021

    if "evaluation" not in session.dataset.roots:
        return "there is no evaluation set to submit predictions of (--eval-root DIR)"
    clips = len(session.dataset.evaluation_clips)
    for year, rules in EDITIONS.items():
        if rules is not TASK1A_2021 and rules.clips == clips:
            return (f"the {clips:,} evaluation clips are those of {rules.name}; package the run with: python -m "
                    f"submission.package {session.run.home} --edition {year} --out DIR")
    return None


def _pilots(session: Session, recipe: TrainingConfig) -> list[str] | None:
    """Digests of the models of the pilots with which the temperature is fitted; None without pilots."""
    if not recipe.has_pilot:
        return None
    return [name for pilot in session.pilots for name in _model_digests(pilot.run)]


def _fitted_with_pilots(session: Session) -> dict[str, Any] | None:
    """Fit the temperature of the pilots' averaged probabilities on the clips that they hold out; None without pilots.

    All pilots hold out the same clips, but their features may differ.
    """
    import numpy as np
    import torch

    from task1a.predict import predictions
    from task1a.training.calibrate import fitted

    if not session.pilots:
        return None
    tables, device = [], torch.device(device_of(session.device))
    for pilot in session.pilots:
        held_out = _examples(pilot)[1]
        tables.append(_predict(pilot.run, held_out.filenames, held_out.read, device))
    table = predictions.average(tables)
    probabilities = table[session.run.read("data")["labels"]].to_numpy()
    return fitted(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)), held_out)


def _model_digests(run: Run) -> list[str]:
    """Digests of the system's model files."""
    for part in run.parts:
        if not part.model.is_file():
            raise InputError(f"{part.model}: no such model; finish the run {part} first")
    return [digest(part.model) for part in run.parts]


def _predict(run: Run, filenames: Sequence[str], read: "ReadClips", device: "torch.device") -> "pd.DataFrame":
    """Predict clips with the model of a run, with the settings of its evaluation."""
    from task1a.predict import clips

    settings = run.config.evaluation
    return clips.predict(run.model, filenames, read, settings.batch_size, device, settings.time_rolls)


def _predict_by_device(session: Session, split: str, device: "torch.device") -> "pd.DataFrame":
    """Predict each clip with the model of its recording device, or with the general model."""
    import numpy as np
    import pandas as pd

    run, clips, read = session.run, session.clips(split), session.reader(split)
    number_of = {name: number for number, name in enumerate(run.config.device_models, start=1)}
    numbers = clips.device.map(number_of).fillna(0).astype(int).to_numpy()
    tables = []
    for number, part in enumerate(run.parts):
        rows = np.flatnonzero(numbers == number)
        if len(rows):
            tables.append(_predict(part, clips.filename[rows], lambda indices, rows=rows: read(rows[indices]), device))
    return pd.concat(tables).set_index("filename").loc[clips.filename].reset_index()


def settings(session: Session, *sections: str) -> Inputs:
    """Values of some sections of the configuration, by ``section.key``."""
    values = {}
    for section in sections:
        for key, value in asdict(getattr(session.run.config, section)).items():
            values[f"{section}.{key}"] = list(value) if isinstance(value, tuple) else value
    return values


def _without(clips: "pd.DataFrame", damaged: Iterable[str]) -> "pd.DataFrame":
    return clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)


def _cached_splits(session: Session, damaged: dict[str, dict[str, str]]) -> dict[str, str]:
    """A digest of names, labels and features of the clips of each split, without the damaged ones."""
    digests = {}
    for split, name in session.dataset.splits.items():
        clips = _without(session.dataset.split(split), damaged[name])
        known = clips[[column for column in _LEARNT_FROM if column in clips]]
        digests[split] = fingerprint([session.cache(name).digest(clips.filename), known.to_dict("list")])
    return digests


def _passes(run: Run) -> list[int] | None:
    """Number of forward passes per clip; None if it is one, as in runs that were made before it could be set."""
    return run.passes if max(run.passes) > 1 else None


def _clear_results(run: Run, *models: Path) -> None:
    """Remove models and all results made with them, which the next models would contradict."""
    from submission.package import clear

    records = [model.with_name("calibration.json") for model in models]
    for path in (*models, *records, run.complexity, run.test_predictions, run.evaluation_predictions,
                 run.evaluation, run.report):
        remove(path)
    clear(run.submission)


def _records(model: Path) -> list[Path]:
    """The record of a model's temperature, if it is calibrated."""
    record = model.with_name("calibration.json")
    return [record] if record.is_file() else []


def _take_training(run: Run, inputs: Inputs) -> Run | None:
    """Copy the vanilla model of another run of the same folder that had the same inputs, and return that run.

    The other run may be retrained at the same time, so the copies are compared with its record.
    """
    for path in sorted(run.runs.glob("*/seed*/stages/train.json")):
        other = Run(path.parent.parent)
        record = other.read_stage("train")
        if other.folder == run.home or record is None or changed_inputs(record["inputs"], inputs):
            continue
        if other.changed_output(record):
            continue
        try:
            for name in (*record["outputs"], run.checkpoint.relative_to(run.folder)):
                copy(other.folder / name, run.folder / name)
        except FileNotFoundError:
            continue
        if not run.changed_output(record):
            return other
    return None


def _initial_model(run: Run) -> Path:
    """Model file that the training starts from."""
    name = run.config.training.init_from
    return _trained(run.beside(f"{name}/{run.folder.name}"), "training.init_from")


def _teachers(run: Run) -> list[Path]:
    """Model files of the teachers."""
    return [run.vanilla if name == "vanilla" else _trained(run.beside(name), "compression.teachers")
            for name in run.config.compression.teachers]


def _trained(run: Run, key: str) -> Path:
    """The vanilla model of another run, which a setting names."""
    if not run.vanilla.is_file():
        raise InputError(f"{key}: {run.vanilla}: no such model; train {run} first")
    return run.vanilla


def _job(session: Session, folder: Path, recipe: TrainingConfig, inputs: Inputs) -> "Job":
    """The job of a training, with the training split divided into training and validation clips."""
    from task1a.model_file import ModelSpec
    from task1a.training import fit

    config = session.run.config
    train, validation = _examples(session)
    session.say(f"{counted(len(train), 'training clip')}, {counted(len(validation), 'validation clip')} of other "
                "locations")
    # a finished training is calibrated without being trained again
    identity = fingerprint({key: value for key, value in inputs.items() if key not in CALIBRATION})
    return fit.Job(ModelSpec(config.model, config.features, tuple(session.run.read("data")["labels"])), recipe,
                   config.seed, train, validation, folder, identity, session.device, session.say,
                   _fitted_with_pilots(session) if recipe.has_pilot else None)


def _examples(session: Session) -> "tuple[Examples, Examples]":
    """The clips of the training split that the system learns from, and those that it holds out for validation."""
    import numpy as np

    from task1a.data.splits import split_validation
    from task1a.training.examples import Examples

    config, clips, read = session.run.config, session.clips("train"), session.reader("train")
    labels = tuple(session.run.read("data")["labels"])
    held_out = split_validation(clips, config.training.validation_fraction, config.training.validation_seed)
    targets = np.array([labels.index(label) for label in clips.scene_label])

    wanted = config.training.devices
    used = clips.device.isin(wanted).to_numpy() if wanted else np.ones(len(clips), bool)

    def examples(chosen: np.ndarray) -> Examples:
        rows = np.flatnonzero(chosen)
        return Examples(lambda indices: read(rows[indices]), targets[rows], clips.device.to_numpy(str)[rows],
                        clips.identifier.to_numpy(str)[rows], clips.filename.to_numpy(str)[rows])

    return examples(~held_out & used), examples(held_out & used)


def check_training(session: Session, will_be_trained: Collection[Path]) -> None:
    """Check what a training needs before anything is computed.

    Args:
        session: the run.
        will_be_trained: folders of the runs that the same command trains before.

    Raises:
        InputError: a teacher or an initial model is missing, no clip is of a recording device that is trained on, or
            the training split cannot be divided.
    """
    from task1a.data.splits import check_validation

    run, training = session.run, session.run.config.training
    needed = [(f"{training.init_from}/{run.folder.name}", "training.init_from")] if training.init_from else []
    if run.config.compression.enabled and not session.members:
        needed += [(name, "compression.teachers") for name in run.config.compression.teachers if name != "vanilla"]
    for name, key in needed:
        if run.beside(name).folder not in will_be_trained:
            _trained(run.beside(name), key)
    if session.members:
        return
    # the check of the data set has better words for what is wrong with its splits
    clips = session.dataset.clips[session.dataset.clips.split == "train"]
    absent = sorted(set(training.devices) - set(clips.device))
    if absent:
        raise InputError(f"training.devices: there are no training clips of {', '.join(absent)}; the devices are "
                         f"{', '.join(sorted(set(clips.device)))}")
    check_validation(clips, training.validation_fraction)


def check_devices(session: Session) -> None:
    """Check that the evaluation set names the recording devices, which device-specific models are chosen by."""
    dataset = session.dataset
    if "evaluation" in dataset.roots and "device" not in dataset.evaluation_clips:
        raise InputError(f"{dataset.evaluation}: device_models needs the recording devices of the evaluation set, the "
                         "column device_id of evaluation_setup/fold1_test.csv")


def check_authors(session: Session) -> None:
    """Check the authors' file, which is read at the end."""
    from submission import authors
    from submission.rules import TASK1A_2021

    if session.run.config.submission.authors:
        authors.read(Path(session.run.config.submission.authors), TASK1A_2021)


STAGES = (
    Stage("data", data_inputs, data),
    Stage("features", features_inputs, features, cache_is_whole=cache_is_whole),
    Stage("train", train_inputs, train, reads_cache=True, left_out=no_training,
          sections=("features", "model", "training")),
    Stage("compress", compress_inputs, compress, reads_cache=True, left_out=no_compression,
          sections=("training", "compression")),
    Stage("complexity", complexity_inputs, complexity),
    Stage("predict", predict_inputs, predict, reads_cache=True),
    Stage("evaluate", evaluate_inputs, evaluate),
    Stage("package", package_inputs, package, left_out=nothing_to_submit),
)
