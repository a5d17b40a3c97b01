"""The runner: one command from recordings to a checked submission zip.

Stages that are up to date are skipped. A run can be killed at any moment and started again with the same command.
"""
import argparse
import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from task1a import config as configuration
from task1a.challenge import LABELS, size_verdict
from task1a.config import Config
from task1a.errors import CommandParser, FallsShort, InputError, during
from task1a.files import digest, remove, write_json, write_text
from task1a.machine import keep_freed_memory, processes, rank
from task1a.run import Run
from task1a.stages import STAGES, Inputs, Session, Stage, changed_inputs

DEFAULT_SYSTEM = Path(__file__).resolve().parent.parent / "system_configs" / "demo.yaml"

_JUDGE_THE_SIZE = {"complexity", "package"}


class Busy(InputError):
    """Another process is working on the run."""


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
    _run(session, wanted)
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
    parser.add_argument("--force", action="store_true", help="run the stages even if they are up to date")
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
        if not all(is_finished(pilot, _of_pilot(wanted)) for pilot in session.pilots):
            return False
        if not all(is_finished(member, _of_member(wanted)) for member in session.members):
            return False
        for stage in STAGES:
            if stage.name in wanted and not stage.left_out(session) and _outdated(session, stage)[0]:
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

    def session(config: Config, members: Sequence[Config] = ()) -> Session:
        folder = arguments.runs / config.system / f"seed{config.seed}"
        parts, pilots = tuple(session(member) for member in members), ()
        if config.training.has_pilot:
            pilots = tuple(session(part.pilot(config.training)) for part in members or [config])
        run = Run(folder, config, tuple(part.run for part in parts))
        return Session(run, arguments.device, arguments.force, _say, parts, pilots, download)

    config, download = configuration.load(arguments.system, arguments.overrides, options), None
    if arguments.download:
        if config.data.source == "demo" or config.data.root is None:
            raise InputError("--download: give the folder of the development set with --data-root DIR")
        download = {"accept_licence": arguments.accept_licence, "keep_archives": arguments.keep_archives}
    members = [config.of_device(device) for device in config.device_models]
    for name in config.ensemble:
        path = arguments.system.with_name(f"{name}.yaml")
        members.append(configuration.load(path, arguments.overrides, options))
        if members[-1].members or path == arguments.system:
            raise InputError(f"{arguments.system}: ensemble: {name} must be a system of a single model")
        if config.training.has_pilot and members[-1].training.calibrate:
            raise InputError(f"{arguments.system}: training.pilot_fraction calibrates the ensemble as a whole; set "
                             f"training.calibrate to false in {path.name}, and to true in the file of the ensemble "
                             "alone")
    return session(config, members)


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
    """Hold the lock of the run folder, which the system releases when the process is killed."""
    if rank() > 0:
        yield
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        hold = FileLock(run.folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise Busy(f"{run.folder}: another process is working on this run; wait until it ends, or choose another "
                   "--runs, --seed or --system") from None
    with hold:
        yield


def _of_member(wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if name != "package"]


def _of_pilot(wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if name in ("data", "features", "train", "compress")]


def _run(session: Session, wanted: Sequence[str]) -> None:
    """Run the stages of the pilots, then those of the members, then those of the run itself."""
    for pilot in session.pilots:
        _say(f"pilot {pilot.run.config.system}")
        _run(pilot, _of_pilot(wanted))
    for member in session.members:
        _say(f"member {member.run.config.system}")
        _run(member, _of_member(wanted))
    with _only_one(session.run):
        _run_stages(session, wanted)


def _run_stages(session: Session, wanted: Sequence[str]) -> None:
    reasons = {stage.name: reason for stage in STAGES if (reason := stage.left_out(session))}
    if wanted and not session.members and all(name in reasons for name in wanted):
        raise InputError(f"--stage {wanted[0]}: {reasons[wanted[0]]}")
    last = max((index for index, stage in enumerate(STAGES) if stage.name in wanted), default=-1)
    needs_cache = any(stage.reads_cache for stage in STAGES if stage.name in wanted)
    checked = False
    for stage in STAGES[:last + 1]:
        if stage.name in reasons:
            if stage.name in wanted:
                _say(f"[{stage.name}] left out: {reasons[stage.name]}")
            continue
        outdated, inputs = _outdated(session, stage, stage.name in wanted or needs_cache)
        if stage.name not in wanted:
            if outdated:
                raise InputError(f"stage {stage.name} comes first: {outdated}; run --stage all, or add it to --stage")
        elif outdated or session.force:
            if not checked:
                _check_beforehand(session, wanted)
                checked = True
            _say(f"[{stage.name}] {outdated or 'forced'}")
            _run_stage(session, stage, inputs)
        else:
            _say(f"[{stage.name}] up to date")
    if rank() == 0 and "evaluate" in [stage.name for stage in STAGES[:last + 1]]:
        _restore_config(session.run)


def _check_beforehand(session: Session, wanted: Collection[str]) -> None:
    """Find errors that would otherwise appear after hours of work.

    Raises:
        InputError: the training needs more memory than there is, or the authors' file is missing.
    """
    config = session.run.config
    if {"train", "compress"} & set(wanted) and not session.members:
        from task1a.model_file import ModelSpec
        from task1a.training import fit

        fit.check_memory(ModelSpec(config.model, config.features, LABELS), config.training, session.device)
    authors = config.submission.authors
    if "package" in wanted and authors and not Path(authors).is_file():
        raise InputError(f"submission.authors: {authors}: no such file; start one with python -m submission.package "
                         "--init")


def _run_stage(session: Session, stage: Stage, inputs: Inputs | None) -> None:
    run, record = session.run, session.run.stage_record(stage.name)
    if rank() == 0:
        remove(record)
        write_text(run.config_file, configuration.to_yaml(run.config))
    with during(f"stage {stage.name} of {run.folder}"):
        if inputs is None:
            inputs = stage.inputs(session)
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
        return f"{record.relative_to(run.folder)} is damaged" if record.exists() else "not done yet", None
    if changed_output := run.changed_output(made):
        return changed_output, None
    if with_cache and not stage.cache_is_whole(session):
        return "its cache is gone or was changed", None
    inputs: Inputs = json.loads(json.dumps(stage.inputs(session)))
    changed = changed_inputs(made["inputs"], inputs)
    return f"{', '.join(changed)} changed" if changed else None, inputs


def _restore_config(run: Run) -> None:
    """Rewrite a missing or changed ``config.yaml`` when all results are those of this configuration."""
    text = configuration.to_yaml(run.config)
    if not run.config_file.is_file() or run.config_file.read_bytes() != text.encode("utf-8"):
        _say("config.yaml was missing or changed; it is rewritten")
        write_text(run.config_file, text)


def _closing_summary(run: Run) -> str:
    """Accuracy and log loss by device, the size of the model, and the paths of the run and the zip."""
    lines = [""]
    if run.evaluation.is_file():
        from evaluation.per_device import DEMO_NOTE, summary

        results = run.read("evaluation")
        lines.append(f"{run.config.system}, seed {run.config.seed}, on the {results['data']['clips']:,} test clips of "
                     f"{results['data']['name']}")
        if results["data"]["demo"]:
            lines.append(DEMO_NOTE)
        lines.append(summary(results))
    if run.complexity.is_file():
        lines.append(f"size  {size_verdict(run.read('complexity'))}")
    lines.append(f"run   {run.folder}")
    lines += [f"zip   {path}" for path in sorted(run.submission.glob("*.zip"))]
    return "\n".join(lines)


def _say(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)
