"""The runner: one command from recordings to a checked submission zip.

Stages that are up to date are skipped. A run can be killed at any moment and started again with the same command. A
finished model is never replaced by one with other settings unless the user asks for it with ``--force``.
"""
import argparse
import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from task1a import config as configuration
from task1a.challenge import LABELS, size_verdict
from task1a.config import SYSTEMS, Config, fingerprint
from task1a.errors import CommandParser, FallsShort, InputError, during, shown
from task1a.files import Busy, digest, exclusive, read_yaml, remove, remove_parts, write_json, write_text
from task1a.machine import keep_freed_memory, processes, rank
from task1a.pipeline.run import Run
from task1a.pipeline.stages import (
    CALIBRATION,
    STAGES,
    Inputs,
    Session,
    Stage,
    changed_inputs,
    check_authors,
    check_devices,
    check_training,
    settings,
)

DEFAULT_SYSTEM = SYSTEMS / "demo.yaml"

_JUDGE_THE_SIZE = {"complexity", "package"}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested stages of one system and return the exit status.

    Raises:
        InputError: the arguments or the configuration are wrong, or a stage could not do its work.
        FallsShort: the model is over the size limit, or the submission is invalid.
    """
    session, wanted = asked_for(argv)
    if processes() > 1 and wanted not in (["train"], ["compress"]):
        raise InputError("torchrun is for --stage train or --stage compress alone; run the other stages without it")
    if session.run.config.system == DEFAULT_SYSTEM.stem and session.run.config.data.root is not None:
        _say("note: this is the small demo system on your data set; choose another system with --system FILE, e.g. "
             "system_configs/bcresnet_asc_1_resnorm.yaml")
    keep_freed_memory()
    plan = _plan(session, wanted)
    for part, stages in plan:
        if rank() == 0:
            with _only_one(part.run):
                part.run.finish_publishing()
        for stage in STAGES:
            if stage.name in stages and stage.sections and not session.force and not stage.left_out(part):
                _refuse_to_replace(part, stage)
    _check_plan(plan)
    for part, stages in plan:
        if part is not session:
            _say(f"{_role(session, part)} {part.run}")
        with _only_one(part.run):
            _run_stages(part, stages)
    _say(_closing_summary(session.run))
    if over := over_limit(session.run, wanted):
        raise FallsShort(over)
    return 0


def asked_for(argv: Sequence[str] | None = None) -> tuple[Session, list[str]]:
    """Parse the command line: the run, and the names of the requested stages in the order of the chain.

    Raises:
        InputError: the arguments or the configuration are wrong.
    """
    parser = CommandParser(
        prog="task1a.py", description="From recordings to a checked challenge zip.",
        epilog="Exit status: 0 success; 1 the result falls short (over the size limit, invalid submission); 2 it could "
               "not be done.")
    add_run_options(parser)
    parser.add_argument("--system", type=Path, default=DEFAULT_SYSTEM, metavar="FILE",
                        help="system configuration (default: system_configs/demo.yaml)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="random seed of initialisation, order, augmentation and dropout")
    parser.add_argument("--name", metavar="NAME", help="name of the run's folder (default: that of the system), to try "
                        "a setting beside a finished run")
    parser.add_argument("--force", action="store_true", help="run the stages even if they are up to date, and replace "
                        "a finished model of other settings when the new one is complete")
    group = parser.add_argument_group(
        "download", "--data-root and --eval-root are the folders of the sets themselves, which will hold meta.csv, "
        "audio/ and so on. Without --download, nothing is ever fetched.")
    group.add_argument("--download", action="store_true",
                       help="fetch TAU Urban Acoustic Scenes 2020 Mobile, development, into --data-root, and 2021 "
                            "Mobile, evaluation, into --eval-root, as far as they are not there")
    group.add_argument("--accept-licence", action="store_true", help="accept the licences without being asked")
    group.add_argument("--keep-archives", action="store_true", help="keep the archives after they are unpacked")
    arguments = parser.parse_intermixed_args(argv)
    return _session(arguments), _wanted(arguments.stage)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the runner and the sweep share."""
    names = ",".join(stage.name for stage in STAGES)
    parser.add_argument("--stage", default="all", metavar="NAME[,NAME]", help=f"all (default), or some of {names}")
    parser.add_argument("--data-root", metavar="DIR", help="development set in the TAU layout")
    parser.add_argument("--eval-root", metavar="DIR", help="evaluation set in the TAU layout")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR",
                        help="folder of the runs (default: runs)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto (default) uses a GPU if there is one")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out unreadable clips instead of stopping")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. training.epochs=60")


def is_finished(session: Session, wanted: Sequence[str]) -> bool:
    """Whether the requested stages are all up to date; False if that cannot be determined.

    The package of a model over the size limit is never made, and does not count.
    """
    try:
        if over_limit(session.run, wanted):
            wanted = [name for name in wanted if name != "package"]
        for part, stages in _plan(session, wanted):
            for stage in STAGES:
                if stage.name in stages and not stage.left_out(part) and _outdated(part, stage)[0]:
                    return False
        return True
    except (InputError, OSError):
        return False


def over_limit(run: Run, wanted: Collection[str]) -> str | None:
    """The error message if the requested stages check the size of the model and it is over the limit, else None."""
    if not _JUDGE_THE_SIZE & set(wanted) or not run.complexity.is_file():
        return None
    counted = run.read("complexity")
    return None if counted["within_limit"] else f"the model is over the size limit: {size_verdict(counted)}"


def _session(arguments: argparse.Namespace) -> Session:
    """The run of a system, its pilots and those that are trained for it, with the same options and overrides."""
    options: dict[str, Any] = {"data.root": arguments.data_root, "data.evaluation_root": arguments.eval_root,
                               "seed": arguments.seed, "data.skip_damaged": arguments.skip_damaged or None}
    if arguments.data_root or arguments.eval_root:
        # a data set on the command line replaces the demo set
        options["data.source"] = "tau_layout"
    options = {key: value for key, value in options.items() if value is not None}

    config, download = configuration.load(arguments.system, arguments.overrides, options), None
    if arguments.download:
        if config.data.source == "demo" or config.data.root is None:
            raise InputError("--download: give the folder of the development set with --data-root DIR")
        download = {"accept_licence": arguments.accept_licence, "keep_archives": arguments.keep_archives}

    def session(name: str, config: Config, **parts: Any) -> Session:
        run = Run(arguments.runs / name / f"seed{config.seed}", config)
        return Session(run, arguments.device, arguments.force, _say, download=download, **parts)

    def other_system(name: str) -> Config:
        return configuration.load(arguments.system.with_name(f"{name}.yaml"), arguments.overrides, options)

    run = Run(arguments.runs / _name(arguments, config) / f"seed{config.seed}", config)
    members = [config.of_device(device) for device in config.device_models]
    for name in config.ensemble:
        member = other_system(name)
        if member.ensemble or member.device_models or name == config.system:
            raise InputError(f"{arguments.system}: ensemble: {name} must be a system of a single model")
        if config.training.has_pilot and member.training.calibrate:
            raise InputError(f"{arguments.system}: training.pilot_fraction calibrates the ensemble as a whole; set "
                             f"training.calibrate to false in {name}.yaml, and to true in the file of the ensemble "
                             "alone")
        members.append(member)
    parts: dict[str, Any] = {"members": tuple(map(session, run.member_names, members))}
    if config.training.has_pilot:
        names = run.member_names or (run.name,)
        parts["pilots"] = tuple(session(f"{name}_pilot", part.pilot(config.training))
                                for name, part in zip(names, members or [config], strict=True))
    if config.device_models and not run.general.vanilla.is_file():
        if arguments.system.with_name(f"{config.training.init_from}.yaml").is_file():
            parts["general"] = session(config.training.init_from, other_system(config.training.init_from))
    whole = session(run.name, config, **parts)
    whole.run.members = tuple(part.run for part in whole.members)
    return whole


def _name(arguments: argparse.Namespace, config: Config) -> str:
    """Name of the run: the one given, or that of the system; the demo system on other data has a name of its own."""
    given = arguments.name
    if given is not None:
        if not _NAME.fullmatch(given):
            raise InputError(f"--name {shown(given)}: may have letters, digits, '_', '-' and '.' only, at most 100")
        return given
    if config.system == DEFAULT_SYSTEM.stem and config.data.root is not None:
        folder = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(config.data.root).resolve().name)
        return f"{config.system}-{folder}"[:100]
    return config.system


def _wanted(text: str) -> list[str]:
    known = [stage.name for stage in STAGES]
    names = known if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(f"--stage {name}: no such stage" + (f"; did you mean {near[0]}?" if near else "") +
                             f" (all, or some of {','.join(known)})")
    return [name for name in known if name in names]


@contextmanager
def _only_one(run: Run) -> Iterator[None]:
    """Hold the lock of the run folder, which is removed again if nothing was written to it."""
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


def _plan(session: Session, wanted: Sequence[str]) -> list[tuple[Session, list[str]]]:
    """All runs of a command with their stages, in the order in which they run: those whose models a run needs first."""
    plan = [(pilot, [name for name in wanted if name in ("data", "features", "train", "compress")])
            for pilot in session.pilots]
    needed = [*([session.general] if session.general else []), *session.members]
    plan += [(part, [name for name in wanted if name != "package"]) for part in needed]
    return [*plan, (session, list(wanted))]


def _role(session: Session, part: Session) -> str:
    if part in session.pilots:
        return "hold-out model"
    return "general model" if part is session.general else "member"


def _check_plan(plan: Sequence[tuple[Session, Collection[str]]]) -> None:
    """Find errors that would otherwise appear after hours of work, in all runs of a command.

    Raises:
        InputError: a model or a data set does not fit the training, or the authors' file is missing or invalid.
    """
    session, wanted = plan[-1]
    if "package" in wanted:
        check_authors(session)
    trained = [part.run.home for part, stages in plan if "train" in stages]
    for part, stages in plan:
        if {"train", "compress"} & set(stages):
            check_training(part, trained)
    if session.run.config.device_models and "predict" in wanted:
        check_devices(session)


def _run_stages(session: Session, wanted: Sequence[str]) -> None:
    """Run the stages of one run that are not up to date.

    A stage that was done before is done again in a draft, which replaces the run's files when all stages are done.
    """
    run = session.run
    reasons = {stage.name: reason for stage in STAGES if (reason := stage.left_out(session))}
    if wanted and not session.members and all(name in reasons for name in wanted):
        raise InputError(f"--stage {wanted[0]}: {reasons[wanted[0]]}")
    last = max((index for index, stage in enumerate(STAGES) if stage.name in wanted), default=-1)
    needs_cache = any(stage.reads_cache for stage in STAGES if stage.name in wanted)
    key = fingerprint([configuration.to_yaml(run.config), str(run), list(wanted), session.force])[:8]
    forced = session.force and any(run.read_stage(name) for name in wanted)
    if run.draft(key).is_dir():
        _say(f"continuing the draft {run.draft(key)} of this command, which was interrupted")
        run.open_draft(key)
        forced = False
    memory_checked = trained = False
    try:
        for stage in STAGES[:last + 1]:
            asked = stage.name in wanted
            if stage.name in reasons:
                if asked:
                    _say(f"[{stage.name}] skipped: {reasons[stage.name]}")
                continue
            if forced and asked:
                run.open_draft(key, [name for name in wanted if name not in reasons])
                forced = False
            outdated, inputs = _outdated(session, stage, asked or needs_cache)
            if not asked:
                if outdated:
                    raise InputError(f"stage {stage.name} comes first: {outdated}; run --stage all, or add it to "
                                     "--stage")
                continue
            if not outdated:
                _say(f"[{stage.name}] up to date")
                continue
            if not memory_checked:
                _check_memory(session, wanted)
                memory_checked = True
            if inputs is None:
                with during(f"stage {stage.name} of {run}"):
                    inputs = json.loads(json.dumps(stage.inputs(session)))
            if stage.sections:
                if not session.force:
                    _refuse_to_replace(session, stage, inputs)
                trained = True
            if run.read_stage(stage.name) and not run.is_draft:
                run.open_draft(key)
            _say(f"[{stage.name}] running" + (f": {outdated}" if outdated != "not done yet" else ""))
            _run_stage(session, stage, inputs)
    except FallsShort:
        if run.is_draft and rank() == 0:
            run.publish_draft()
        raise
    except BaseException:
        if run.is_draft and rank() == 0:
            if trained:
                _say(f"{run.home} is as it was; what is done of its replacement is kept in {run.folder}, and the same "
                     "command continues it")
            else:
                run.drop_draft()
        raise
    if rank() == 0:
        if run.is_draft:
            run.publish_draft()
        if "evaluate" in [stage.name for stage in STAGES[:last + 1]]:
            _restore_config(run)


def _check_memory(session: Session, wanted: Collection[str]) -> None:
    """Check that a training step fits into the memory, before anything is computed."""
    if {"train", "compress"} & set(wanted) and not session.members:
        from task1a.model_file import ModelSpec
        from task1a.training import fit

        config = session.run.config
        fit.check_memory(ModelSpec(config.model, config.features, LABELS), config.training, session.device)


def _refuse_to_replace(session: Session, stage: Stage, inputs: Inputs | None = None) -> None:
    """Refuse to replace a finished or interrupted training whose inputs were others.

    Args:
        session: the run.
        stage: a stage that trains.
        inputs: the present inputs; default: those that are known beforehand, which are the seed and the settings.

    Raises:
        InputError: the training would be replaced; the message names what differs, and the ways out.
    """
    run = session.run
    model = run.vanilla if stage.name == "train" else run.packed
    checkpoint = model.with_name("checkpoint.pt")
    made = run.read_stage(stage.name, finished=False)
    if made is None:
        if not model.is_file():
            return
        differing = f"{run.stage_record(stage.name)}, the record of its inputs, is missing or damaged"
    else:
        if not (model if made["outputs"] else checkpoint).is_file():
            return
        recorded = made["inputs"]
        if inputs is None:
            inputs = {"seed": run.config.seed, **settings(session, *stage.sections)}
            inputs = {key: value for key, value in inputs.items() if key not in CALIBRATION}
            recorded = {key: value for key, value in recorded.items() if key in inputs}
        changed = set(changed_inputs(recorded, inputs))
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
    """One input of a training that differs from the recorded one."""
    if "." in key:
        return f"{key} was {shown(before)}, now {shown(now)}"
    if key == "training clips":
        with suppress(InputError, OSError, AttributeError):
            root = read_yaml(run.home / "config.yaml").get("data", {}).get("root")
            if root != run.config.data.root:
                return f"data.root was {root or 'the demo set'}, now {run.config.data.root or 'the demo set'}"
        return "the training clips or their features have changed"
    return f"{key} changed"


def _run_stage(session: Session, stage: Stage, inputs: Inputs) -> None:
    run, record = session.run, session.run.stage_record(stage.name)
    if rank() == 0:
        if stage.sections:  # a record without outputs is that of an interrupted training
            write_json(record, {"inputs": inputs, "outputs": None})
        else:
            remove(record)
        write_text(run.config_file, configuration.to_yaml(run.config))
    with during(f"stage {stage.name} of {run}"):
        written = stage.work(session, inputs)
    if rank() == 0:
        outputs = {path.relative_to(run.folder).as_posix(): digest(path) for path in written}
        write_json(record, {"inputs": inputs, "outputs": outputs})


def _outdated(session: Session, stage: Stage, with_cache: bool = True) -> tuple[str | None, Inputs | None]:
    """The reason why a stage has to run, None if it is up to date; and its inputs, if they had to be computed."""
    run = session.run
    made = run.read_stage(stage.name)
    if made is None:
        record = run.stage_record(stage.name)
        if run.read_stage(stage.name, finished=False):
            return "interrupted before", None
        return f"{record.relative_to(run.folder)} is damaged" if record.exists() else "not done yet", None
    if changed_output := run.changed_output(made):
        return changed_output, None
    inputs: Inputs = json.loads(json.dumps(stage.inputs(session)))
    if changed := changed_inputs(made["inputs"], inputs):
        return f"{', '.join(changed)} changed", inputs
    if with_cache and not stage.cache_is_whole(session):
        return "its cache is gone or was changed", inputs
    return None, inputs


def _restore_config(run: Run) -> None:
    """Rewrite a missing or changed ``config.yaml`` when all results are those of this configuration."""
    text = configuration.to_yaml(run.config)
    if not run.config_file.is_file() or run.config_file.read_bytes() != text.encode("utf-8"):
        _say("config.yaml was missing or changed; it is rewritten")
        write_text(run.config_file, text)


def _closing_summary(run: Run) -> str:
    """Accuracy and log loss by device, the size of the model, and the paths of the run and the zip."""
    lines = [""]
    try:
        if run.evaluation.is_file():
            from evaluation import records
            from evaluation.per_device import DEMO_NOTE, summary

            results = records.read(run, "evaluation")
            lines.append(f"{run.name}, seed {run.config.seed}, on the {results['data']['clips']:,} test clips of "
                         f"{results['data']['name']}")
            if results["data"]["demo"]:
                lines.append(DEMO_NOTE)
            lines.append(summary(results))
        if run.complexity.is_file():
            lines.append(f"size  {size_verdict(run.read('complexity'))}")
    except InputError as error:  # of a stage that was not asked for
        lines.append(f"note: {error}")
    lines.append(f"run   {run.folder}")
    lines += [f"zip   {path}" for path in sorted(run.submission.glob("*.zip"))]
    return "\n".join(lines)


def _say(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)
