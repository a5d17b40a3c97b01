"""The chain: an ordered table of stages, each with its inputs and its work.

The result of a stage is a function of the configuration and the files of earlier stages. Each stage has two functions:
one returns its inputs, everything that its result depends on, and the other does the work and returns the files that it
wrote into the run folder. :mod:`task1a.pipeline.uptodate` compares the inputs with the recorded ones.

Stages import torch and the like when they run, so that ``--help`` and runs that are up to date start quickly.
"""
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from task1a.challenge import size_verdict
from task1a.config import TrainingConfig, fingerprint
from task1a.errors import FallsShort, InputError, counted
from task1a.files import digest, read_json, remove, write_json
from task1a.machine import environment, processes, rank
from task1a.pipeline.run import Run
from task1a.pipeline.workspace import Workspace, without

if TYPE_CHECKING:
    from task1a.training.examples import Examples
    from task1a.training.fit import Job

Inputs = dict[str, Any]
"""everything that the result of a stage depends on, as plain data"""

CALIBRATION = frozenset({"training.calibrate", "training.pilot_fraction", "pilots"})
"""inputs of a training whose change divides the logits by another temperature, without training again"""

_USED_COLUMNS = ("filename", "scene_label", "identifier", "device", "split")
"""columns of a split's clips that the features, the training and the predictions depend on"""


@dataclass(frozen=True)
class Stage:
    """One step of the chain."""

    name: str
    inputs: Callable[[Workspace, Run], Inputs]
    """returns the inputs; the stages before must be up to date"""
    work: Callable[[Workspace, Run, Inputs], Iterable[Path]]
    """does the work and returns the files written into the run folder"""
    has_cache: bool = False
    """whether the stage writes the feature caches, which are outside the run folder"""
    reads_cache: bool = False
    """whether the stage reads the feature caches"""
    skipped: Callable[[Workspace, Run], str | None] = lambda workspace, run: None
    """returns the reason why the stage has nothing to do for this system, or None"""
    sections: tuple[str, ...] = ()
    """sections of the configuration that a training depends on; only for stages that train"""


def data_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the content of the recordings and their tables."""
    return {"recordings": workspace.content(run.config), "data.skip_damaged": run.config.data.skip_damaged}


def data(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Check the recordings and their tables."""
    from task1a.data.check import format_report

    report = workspace.check_recordings(run.config)
    workspace.log(format_report(report))
    if report.problems:
        raise InputError(f"the data set has {counted(len(report.problems), 'problem')}, listed above; correct them, or "
                         "leave out unreadable clips with --skip-damaged")
    write_json(run.data, {**report.facts, "content": inputs["recordings"]})
    return [run.data]


def features_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the record of the data set's check and the settings of the features."""
    return {"data": digest(run.data), **run.config.flat("features")}


def features(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Bring the feature caches up to date."""
    dataset = workspace.dataset(run.config)
    damaged = {}
    for name in dataset.roots:
        built = workspace.build_cache(run.config, name)
        damaged[name] = dict(built.damaged)
        workspace.log(f"{name}: {counted(len(built), 'clip')} in {built.folder}")
        for clip, reason in built.damaged.items():
            workspace.log(f"left out: {clip}: {reason}")
    # decoding finds more damaged clips than the check of the data set, and a scene may have lost all of its clips
    for split in ("train", "test"):
        readable = without(dataset.split(split), damaged["development"])
        lost = set(run.read("data")["labels"]) - set(readable.scene_label)
        if lost:
            raise InputError(f"the {split} split has no readable clip of {', '.join(sorted(lost))}; restore the "
                             "recordings that were left out")
    write_json(run.features, {"damaged": damaged, "splits": split_digests(workspace, run, damaged)})
    return [run.features]


def split_digests(workspace: Workspace, run: Run, damaged: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return a digest of names, labels and features of the clips of each split, without the damaged ones."""
    dataset, digests = workspace.dataset(run.config), {}
    for split, name in dataset.splits.items():
        clips = without(dataset.split(split), damaged[name])
        used = clips[[column for column in _USED_COLUMNS if column in clips]]
        cached = workspace.cache(run.config, name).digest(clips.filename)
        digests[split] = fingerprint([cached, used.to_dict("list")])
    return digests


def train_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the training clips, the seed, and the settings of features, model and training."""
    config = run.config.vanilla_training
    inputs = {"training clips": run.read("features")["splits"]["train"], "seed": run.config.seed,
              **run.config.flat("features", "model", "training"), "training.calibrate": config.calibrate,
              "training.pilot_fraction": config.pilot_fraction, "pilots": _held_out_digests(run, config)}
    if config.init_from:
        inputs["initial model"] = digest(initial_model(run))
    return inputs


def train(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Train the vanilla model, resume its training, or copy it from another run with the same inputs."""
    from task1a.pipeline.uptodate import take_training

    if rank() == 0:
        _clear_results(run, run.vanilla, run.packed, run.packed_xz)
    same = None if run.is_draft or processes() > 1 else take_training(run, inputs)
    if same:
        workspace.log(f"{same} has the same training; its model is copied")
    else:
        from task1a.training.train import train as train_model

        if rank() == 0:
            write_json(run.environment, environment(workspace.device))
        config = run.config.vanilla_training
        job = _job(workspace, run, run.vanilla.parent, config, inputs)
        train_model(job, initial_model(run) if config.init_from else None)
    return [run.vanilla, run.history, run.environment, *_calibration_record(run.vanilla)]


def compress_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the vanilla model, the teachers, the training clips, and the settings of training and compression."""
    return {"vanilla model": digest(run.vanilla), "teachers": [digest(path) for path in teachers(run)],
            "training clips": run.read("features")["splits"]["train"], "seed": run.config.seed,
            **run.config.flat("training", "compression"), "pilots": _held_out_digests(run, run.config.training)}


def compress(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Prune, quantize and distil the vanilla model, or resume its compression."""
    from task1a.training.compress import compress as compress_model

    config = run.config.compression
    if rank() == 0:
        _clear_results(run, run.packed, run.packed_xz)
    training = replace(run.config.training, epochs=config.epochs, learning_rate=config.learning_rate,
                       warmup_epochs=config.warmup_epochs)
    job = _job(workspace, run, run.packed.parent, training, inputs)
    compress_model(job, config, run.vanilla, teachers(run))
    return [run.packed, run.packed_xz, run.compress_history, *_calibration_record(run.packed)]


def complexity_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the model files, and how often they are applied to a clip."""
    return {"models": model_digests(run), "passes": list(run.system.passes)}


def complexity(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Count the size of the system from its model files."""
    from task1a.complexity.measure import measure

    system = run.system
    size = measure(system.files, system.passes, system.by_device)
    write_json(run.complexity, size)
    largest = f"largest of {len(system.files)} models: " if system.by_device else ""
    workspace.log(f"{largest}{size_verdict(size)}")
    return [run.complexity]


def predict_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the model files, how often they are applied, the hold-out models of an ensemble, and the clips."""
    splits = run.read("features")["splits"]
    held_out = None if run.is_single else _held_out_digests(run, run.config.training)
    return {"models": model_digests(run), "passes": list(run.system.passes), "pilots": held_out,
            "test clips": splits["test"], "evaluation clips": splits.get("evaluation")}


def predict(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Predict the test split and the evaluation set with the stored models."""
    from task1a.predict import predictions
    from task1a.predict.system import predict_system

    calibration, written = None, []
    if not run.is_single:  # the temperature of a single model is in its file
        remove(run.calibration)
        if inputs["pilots"] is not None:
            calibration = _fit_held_out(workspace, run)
    for split, path in (("test", run.test_predictions), ("evaluation", run.evaluation_predictions)):
        remove(path)
        if split not in run.read("features")["splits"]:
            continue
        clips, readers = [], []
        for model in run.models:
            # device-specific models have the features of the general one, which may be of an earlier command
            source = run if run.system.by_device else model
            clips.append(workspace.clips(source, split))
            readers.append(workspace.reader(source, split))
        table = predict_system(run.system, clips, readers, run.config.evaluation.batch_size, workspace.torch_device)
        if calibration:
            from evaluation.calibration import apply_temperature

            labels = predictions.label_columns(table)
            table[labels] = apply_temperature(table[labels].to_numpy(), calibration["temperature"])
        predictions.write(path, table)
        workspace.log(f"{split}: {counted(len(table), 'clip')}")
        written.append(path)
    if calibration:
        write_json(run.calibration, calibration)
        workspace.log(f"calibrated on {calibration['clips']:,} clips held out of the pilots: temperature "
                      f"{calibration['temperature']:.3f}")
        written.append(run.calibration)
    return written


def evaluate_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return the predictions and the reference."""
    return {"predictions": digest(run.test_predictions), "data": digest(run.data), "format": 2}


def evaluate(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Evaluate the predictions of the test split, and write the report."""
    from evaluation import calibration, metrics, per_device
    from evaluation.report import page
    from task1a.predict import predictions

    facts, reference = run.read("data"), workspace.clips(run, "test")
    table = predictions.read(run.test_predictions)
    results = metrics.evaluate(reference, table, seen_devices=set(facts["by_device"]["train"]))
    if run.config.training.calibrate and run.calibration.is_file():
        temperature = read_json(run.calibration)["temperature"]
        results["before_scaling"] = calibration.before_scaling(reference, table, temperature)
    evaluated = {"name": facts["name"], "demo": facts["demo"], "clips": len(reference)}
    every_clip = workspace.dataset(run.config).split("test").filename
    excluded = sorted(set(every_clip) - set(reference.filename))
    write_json(run.evaluation, {"data": evaluated, **results, "left_out": excluded})
    page.write([run], run.report)
    workspace.log(per_device.format_table(results))
    workspace.log("\n".join(per_device.notes(results)))
    if excluded:
        workspace.log(f"excluded: {counted(len(excluded), 'damaged test clip')}")
    return [run.evaluation, run.report]


def package_inputs(workspace: Workspace, run: Run) -> Inputs:
    """Return everything that the metadata and the report state."""
    authors = run.config.submission.authors
    return {"predictions": digest(run.evaluation_predictions), "complexity": digest(run.complexity),
            "results": digest(run.evaluation), "authors": digest(Path(authors)) if authors else None,
            "ensemble": list(run.config.ensemble), "device_models": list(run.config.device_models) or None,
            **run.config.flat("features", "model", "training", "compression", "submission")}


def package(workspace: Workspace, run: Run, inputs: Inputs) -> list[Path]:
    """Write the submission files and the zip, and validate the zip."""
    from submission.package import package as make_package
    from submission.rules import TASK1A_2021
    from submission.validation import findings

    authors = run.config.submission.authors
    made = make_package([run.folder], Path(authors) if authors else None, run.submission)
    if run.read("data")["demo"] and not findings.with_level(made.findings, "error"):
        for finding in made.findings:
            if finding.level != "not_submittable":
                workspace.log(str(finding))
        workspace.log("the package is well-formed; demo data cannot be submitted")
    else:
        workspace.log(findings.format_findings(made.findings, TASK1A_2021.name))
    if made.zip is None:
        raise FallsShort("the submission is invalid and no zip was written; its errors are listed above")
    return sorted(path for path in run.submission.rglob("*") if path.is_file())


def no_training(workspace: Workspace, run: Run) -> str | None:
    """Return the reason why there is nothing to train, or None."""
    if run.is_single:
        return None
    names = run.model_names[1:] if run.config.device_models else run.model_names
    return f"its models are trained as runs of their own ({', '.join(names)})"


def no_compression(workspace: Workspace, run: Run) -> str | None:
    """Return the reason why there is nothing to compress, or None."""
    if run.is_single and not run.config.compression.enabled:
        return "compression.enabled is false"
    return no_training(workspace, run)


def no_submission(workspace: Workspace, run: Run) -> str | None:
    """Return the reason why there is nothing to submit, or None."""
    from submission.rules import EDITIONS, TASK1A_2021

    dataset = workspace.dataset(run.config)
    if "evaluation" not in dataset.roots:
        return "there is no evaluation set to submit predictions of (--eval-root DIR)"
    clips = len(dataset.evaluation_clips)
    for year, rules in EDITIONS.items():
        if rules is not TASK1A_2021 and rules.clips == clips:
            return (f"the {clips:,} evaluation clips are those of {rules.name}; package the run with: python -m "
                    f"submission.package {run.home} --edition {year} --out DIR")
    return None


STAGES = (
    Stage("data", data_inputs, data),
    Stage("features", features_inputs, features, has_cache=True),
    Stage("train", train_inputs, train, reads_cache=True, skipped=no_training,
          sections=("features", "model", "training")),
    Stage("compress", compress_inputs, compress, reads_cache=True, skipped=no_compression,
          sections=("training", "compression")),
    Stage("complexity", complexity_inputs, complexity),
    Stage("predict", predict_inputs, predict, reads_cache=True),
    Stage("evaluate", evaluate_inputs, evaluate),
    Stage("package", package_inputs, package, skipped=no_submission),
)


def initial_model(run: Run) -> Path:
    """Return the model file that the training starts from, which must exist."""
    name = run.config.training.init_from
    return trained_model(run.sibling(f"{name}/{run.folder.name}"), "training.init_from")


def teachers(run: Run) -> list[Path]:
    """Return the model files of the teachers, which must exist."""
    files = []
    for name in run.config.compression.teachers:
        files.append(run.vanilla if name == "vanilla" else trained_model(run.sibling(name), "compression.teachers"))
    return files


def trained_model(run: Run, key: str) -> Path:
    """Return the vanilla model of another run, which the setting ``key`` names and which must exist."""
    if not run.vanilla.is_file():
        raise InputError(f"{key}: {run.vanilla}: no such model; train {run} first")
    return run.vanilla


def model_digests(run: Run) -> list[str]:
    """Return the digests of the system's model files, which must exist."""
    for model in run.models:
        if not model.model.is_file():
            raise InputError(f"{model.model}: no such model; finish the run {model} first")
    return [digest(model.model) for model in run.models]


def _held_out_digests(run: Run, config: TrainingConfig) -> list[str] | None:
    """Return the digests of the hold-out models, with which the temperature is fitted; None without them."""
    if not config.has_hold_out:
        return None
    digests = []
    for hold_out in run.hold_outs:
        digests += model_digests(hold_out)
    return digests


def _fit_held_out(workspace: Workspace, run: Run) -> dict[str, Any]:
    """Fit the temperature of the averaged probabilities of the hold-out models, on the clips that they hold out.

    All of them hold out the same clips, but their features may differ.
    """
    from task1a.predict import predictions
    from task1a.predict.clips import predict as predict_clips
    from task1a.training.calibrate import fit_probabilities

    tables = []
    for hold_out in run.hold_outs:
        _, held_out = _examples(workspace, hold_out)
        config = hold_out.config.evaluation
        tables.append(predict_clips(hold_out.model, held_out.filenames.tolist(), held_out.read, config.batch_size,
                                    workspace.torch_device, config.time_rolls))
    table = predictions.average(tables)
    return fit_probabilities(table[run.read("data")["labels"]].to_numpy(), held_out)


def _job(workspace: Workspace, run: Run, folder: Path, training: TrainingConfig, inputs: Inputs) -> "Job":
    """Return the job of a training, with the training split divided into training and validation clips."""
    from task1a.model_file import ModelSpec
    from task1a.training import fit

    config = run.config
    clips, validation = _examples(workspace, run)
    workspace.log(f"{counted(len(clips), 'training clip')}, {counted(len(validation), 'validation clip')} of other "
                  "locations")
    # a finished training is calibrated without being trained again, so its identity does not depend on it
    identity = fingerprint({key: value for key, value in inputs.items() if key not in CALIBRATION})
    spec = ModelSpec(config.model, config.features, tuple(run.read("data")["labels"]))
    return fit.Job(spec, training, config.seed, clips, validation, folder, identity, workspace.device, workspace.log,
                   _fit_held_out(workspace, run) if training.has_hold_out else None)


def _examples(workspace: Workspace, run: Run) -> "tuple[Examples, Examples]":
    """Return the clips that the system is trained on, and those that it holds out for validation."""
    from task1a.training.examples import split_examples

    return split_examples(workspace.clips(run, "train"), workspace.reader(run, "train"),
                          tuple(run.read("data")["labels"]), run.config.training)


def _calibration_record(model: Path) -> list[Path]:
    """Return the record of a model's temperature, if it is calibrated."""
    record = model.with_name("calibration.json")
    return [record] if record.is_file() else []


def _clear_results(run: Run, *models: Path) -> None:
    """Delete models and every result computed from them, so that no stale result is left next to a new model."""
    from submission.package import clear

    records = [model.with_name("calibration.json") for model in models]
    for path in (*models, *records, run.complexity, run.test_predictions, run.evaluation_predictions,
                 run.evaluation, run.report):
        remove(path)
    clear(run.submission)
