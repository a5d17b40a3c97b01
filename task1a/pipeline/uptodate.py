"""What has to run, and why: records of stages, changed inputs, the lock of a run, and the reuse of trainings.

A stage is skipped if neither its inputs nor its files have changed since it last ran. A finished training whose inputs
have changed is never replaced unless the user asks for it.
"""
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from task1a import config_file
from task1a.errors import InputError, during, shown
from task1a.files import Busy, copy, digest, exclusive, read_yaml, remove, remove_parts, write_json, write_text
from task1a.machine import rank
from task1a.pipeline.run import RECORD_FORMAT, Run
from task1a.pipeline.stages import CALIBRATION, Inputs, Stage, split_digests
from task1a.pipeline.workspace import Workspace


def present_inputs(workspace: Workspace, run: Run, stage: Stage) -> Inputs:
    """Return the inputs of a stage as they are read back from a record."""
    inputs: Inputs = json.loads(json.dumps(stage.inputs(workspace, run)))
    return inputs


def changed_inputs(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return the keys of the inputs that differ from the recorded ones."""
    return [key for key in {**recorded, **present} if recorded.get(key) != present.get(key)]


def outdated(workspace: Workspace, run: Run, stage: Stage, with_cache: bool = True) -> tuple[str | None, Inputs | None]:
    """Return the reason why a stage has to run, None if it is up to date; and its inputs, if they had to be computed.

    Args:
        workspace: the data sets and caches of the command.
        run: the run.
        stage: the stage.
        with_cache: whether the feature caches count, too; a run without them is up to date as long as nothing reads
            them.
    """
    record = run.stage_record(stage.name)
    made = run.read_stage(stage.name)
    if made is None:
        if run.read_stage(stage.name, finished=False):
            return "interrupted before", None
        if record.exists():
            return f"{record.relative_to(run.folder)} is damaged or of another version", None
        return "not done yet", None
    if changed_output := run.changed_output(made):
        return changed_output, None
    inputs = present_inputs(workspace, run, stage)
    if changed := changed_inputs(made["inputs"], inputs):
        return f"{', '.join(changed)} changed", inputs
    if with_cache and stage.has_cache and not _cache_is_complete(workspace, run):
        return "its cache is gone or was changed", inputs
    return None, inputs


def _cache_is_complete(workspace: Workspace, run: Run) -> bool:
    """Whether the feature caches are complete and their content is the recorded one."""
    record = run.read("features")
    try:
        if split_digests(workspace, run, record["damaged"]) != record["splits"]:
            return False
        return workspace.caches_are_complete(run.config)
    except InputError:
        return False


def run_stage(workspace: Workspace, run: Run, stage: Stage, inputs: Inputs) -> None:
    """Do the work of a stage, and record its inputs and the digests of its outputs; under torchrun, rank 0 writes."""
    record = run.stage_record(stage.name)
    if rank() == 0:
        if stage.sections:  # a record without outputs is that of an interrupted training
            write_json(record, {"format": RECORD_FORMAT, "inputs": inputs, "outputs": None})
        else:
            remove(record)
        write_text(run.config_file, config_file.to_yaml(run.config))
    with during(f"stage {stage.name} of {run}"):
        written = stage.work(workspace, run, inputs)
    if rank() == 0:
        outputs = {path.relative_to(run.folder).as_posix(): digest(path) for path in written}
        write_json(record, {"format": RECORD_FORMAT, "inputs": inputs, "outputs": outputs})


def refuse_to_replace(run: Run, stage: Stage, inputs: Inputs | None = None) -> None:
    """Refuse to replace a finished or interrupted training whose inputs were others.

    Args:
        run: the run.
        stage: a stage that trains.
        inputs: the present inputs; default: those that are known beforehand, which are the seed and the settings.

    Raises:
        InputError: the training would be replaced; the message names what differs, and the ways out.
    """
    model = run.vanilla if stage.name == "train" else run.packed
    checkpoint = model.with_name("checkpoint.pt")
    made = run.read_stage(stage.name, finished=False)
    if made is None:
        if not model.is_file():
            return
        differing = f"{run.stage_record(stage.name)}, the record of its inputs, is missing, damaged or of another "\
                    "version"
    else:
        if not (model if made["outputs"] else checkpoint).is_file():
            return
        recorded = made["inputs"]
        if inputs is None:
            inputs = {"seed": run.config.seed, **run.config.flat(*stage.sections)}
            inputs = json.loads(json.dumps({key: value for key, value in inputs.items() if key not in CALIBRATION}))
            recorded = {key: value for key, value in recorded.items() if key in inputs}
        changed = set(changed_inputs(recorded, inputs))
        # a finished training is calibrated again without training, but the checkpoint must be there
        if not changed or changed <= CALIBRATION and checkpoint.is_file():
            return
        names = sorted(changed - CALIBRATION or changed)
        differing = "; ".join(_difference(run, key, recorded.get(key), inputs.get(key)) for key in names[:4])
        differing += f"; and {len(names) - 4} more" if len(names) > 4 else ""
    noun = "finished model" if model.is_file() else "interrupted training"
    force = "--force" if stage.name == "train" else "--force --stage compress,complexity,predict,evaluate,package"
    raise InputError(f"{run.home / stage.name}: the {noun} there would be replaced by another: {differing}. Nothing "
                     "was changed. Keep it and give the new run a folder of its own with --name NAME or --runs DIR, "
                     f"or replace it with {force}")


def _difference(run: Run, key: str, before: Any, now: Any) -> str:
    """Describe one input of a training that differs from the recorded one."""
    if "." in key:
        return f"{key} was {shown(before)}, now {shown(now)}"
    if key == "training clips":
        with suppress(InputError, OSError, AttributeError):
            root = read_yaml(run.home / "config.yaml").get("data", {}).get("root")
            if root != run.config.data.root:
                return f"data.root was {root or 'the demo set'}, now {run.config.data.root or 'the demo set'}"
        return "the training clips or their features have changed"
    return f"{key} changed"


def take_training(run: Run, inputs: Inputs) -> Run | None:
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


def restore_config(workspace: Workspace, run: Run) -> None:
    """Rewrite a missing or changed ``config.yaml`` when all results are those of this configuration."""
    text = config_file.to_yaml(run.config)
    if not run.config_file.is_file() or run.config_file.read_bytes() != text.encode("utf-8"):
        workspace.log("config.yaml was missing or changed; it is rewritten")
        write_text(run.config_file, text)


@contextmanager
def only_one(run: Run) -> Iterator[None]:
    """Hold the lock of the run folder, which is removed again if nothing was written to it; for rank 0 alone.

    Raises:
        Busy: another process holds it.
    """
    if rank() > 0:
        yield
        return
    lock = run.home / ".lock"
    try:
        with exclusive(lock):
            remove_parts(run.home)
            yield
    except Busy:
        raise Busy(f"{run.home}: another process is working on this run; wait until it ends, or choose another --name, "
                   "--runs or --seed") from None
    finally:
        if lock.is_file() and [path.name for path in run.home.iterdir()] == [".lock"]:
            with suppress(OSError):  # another process may be starting
                lock.unlink()
                for folder in (run.home, run.home.parent, run.runs):
                    folder.rmdir()
