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

from evaluation.per_device import DEMO_NOTE, summary
from submission.authors import INIT
from submission.rules import TASK1A_2021
from task1a import config as configuration
from task1a.complexity import verdict
from task1a.errors import CommandParser, FallsShort, InputError, during
from task1a.files import digest, read_json, remove, write_json, write_text
from task1a.model_file import ModelSpec
from task1a.run_folder import RunFolder
from task1a.stages import STAGES, Run, Stage
from task1a.training import fit
from task1a.training.fit import processes, rank

DEFAULT_SYSTEM = Path(__file__).resolve().parent.parent / "system_configs" / "demo.yaml"

_JUDGE_THE_SIZE = {"complexity", "package"}


class Busy(InputError):
    """Another process is working on the run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the wanted stages of one system; returns the exit status.

    Raises:
        InputError: the arguments or the configuration are wrong, or a stage could not do its work.
        FallsShort: a stage did its work and the result is not good enough.
    """
    run, wanted = asked_for(argv)
    _check_beforehand(run, wanted)
    if processes() > 1 and wanted not in (["train"], ["compress"]):
        raise InputError("under torchrun only --stage train or --stage compress runs, on all processes; run the other "
                         "stages without it")
    for member in run.members:
        _say(f"member {member.config.system}")
        with _only_one(member.folder):
            _run_stages(member, _of_member(wanted))
    with _only_one(run.folder):
        _run_stages(run, wanted)
    _say(_closing_summary(run))
    if over := over_limit(run, wanted):
        raise FallsShort(over)
    return 0


def asked_for(argv: Sequence[str] | None = None) -> tuple[Run, list[str]]:
    """The run that arguments ask for, and the names of the wanted stages.

    Raises:
        InputError: the arguments or the configuration are wrong.
    """
    arguments = _parser().parse_intermixed_args(argv)
    wanted = _wanted(arguments.stage)
    return _run_of(arguments, arguments.system), wanted


def is_finished(run: Run, wanted: Sequence[str]) -> bool:
    """Whether these stages are up to date, so that running them would compute nothing; False where that cannot be told.

    A package that is not made because the model is over the limit is nothing to compute.
    """
    try:
        counts = [name for name in wanted if not (name == "package" and over_limit(run, wanted))]
        return all(is_finished(member, _of_member(counts)) for member in run.members) and not any(
            _outdated(run, stage) for stage in STAGES if stage.name in counts and not stage.left_out(run))
    except (InputError, OSError):
        return False


def is_busy(run: Run) -> bool:
    """Whether another process is working on a run or on one of its members."""
    for part in (*run.members, run):
        try:
            if part.folder.root.is_dir():
                with _only_one(part.folder):
                    pass
        except Busy:
            return True
    return False


def over_limit(run: Run, wanted: Collection[str]) -> str | None:
    """What is to be said where the wanted stages judge the size of the run's model, and it is over the limit."""
    if not _JUDGE_THE_SIZE & set(wanted) or not run.folder.complexity.is_file():
        return None
    counted = read_json(run.folder.complexity)
    return None if counted["within_limit"] else f"the model is over the size limit: {verdict(counted)}"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that one run has in common with many."""
    names = ",".join(stage.name for stage in STAGES)
    parser.add_argument("--stage", default="all", metavar="NAME[,NAME]", help=f"all (default), or some of {names}")
    parser.add_argument("--data-root", metavar="DIR", help="development set in the TAU layout")
    parser.add_argument("--eval-root", metavar="DIR", help="evaluation set in the TAU layout")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto (default) takes a GPU where there is one")
    parser.add_argument("--skip-damaged", action="store_true", help="leave unreadable clips out instead of stopping")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. training.epochs=60")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="task1a.py", description="From recordings to a checked challenge zip.",
        epilog="Exit status: 0 all is there and right; 1 it falls short (over the limit, invalid); 2 it could not be "
               "done.")
    add_run_options(parser)
    parser.add_argument("--system", type=Path, default=DEFAULT_SYSTEM, metavar="FILE",
                        help="system configuration (default: system_configs/demo.yaml)")
    parser.add_argument("--seed", type=int, metavar="N", help="of initialisation, order, augmentation and dropout")
    parser.add_argument("--force", action="store_true", help="run the stages even where they are up to date")
    return parser


def _run_of(arguments: argparse.Namespace, system: Path) -> Run:
    """The run of a system, and those of its members where it is an ensemble, under the same arguments."""
    def single(path: Path, members: tuple[Run, ...] = ()) -> Run:
        config = configuration.load(path, arguments.overrides, _options(arguments))
        if path != system and config.ensemble:
            raise InputError(f"{system}: ensemble: {path.stem} is an ensemble itself")
        folder = RunFolder(arguments.runs / config.system / f"seed{config.seed}")
        return Run(config, folder, arguments.device, arguments.force, _say, members)

    names = configuration.load(system, arguments.overrides, _options(arguments)).ensemble
    if system.stem in names:
        raise InputError(f"{system}: ensemble: {system.stem} is an ensemble itself")
    return single(system, tuple(single(system.with_name(f"{name}.yaml")) for name in names))


def _wanted(text: str) -> list[str]:
    """The names of the wanted stages, in the order of the chain."""
    known = [stage.name for stage in STAGES]
    names = known if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(f"--stage {name}: no such stage" + (f"; did you mean {near[0]}?" if near else "") +
                             f" (all, or some of {','.join(known)})")
    return [name for name in known if name in names]


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of the options that stand for keys of the configuration.

    A data set that is given is the one that is used, also by a system whose own is the demo set.
    """
    values: dict[str, Any] = {"data.root": arguments.data_root, "data.evaluation_root": arguments.eval_root,
                              "seed": arguments.seed, "data.skip_damaged": arguments.skip_damaged or None}
    if arguments.data_root or arguments.eval_root:
        values["data.source"] = "tau_layout"
    return {key: value for key, value in values.items() if value is not None}


@contextmanager
def _only_one(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder's lock, which a killed process gives back by itself."""
    if rank() > 0:
        yield
        return
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        hold = FileLock(folder.root / ".lock").acquire(timeout=0)
    except Timeout:
        raise Busy(f"{folder.root}: another process is working on this run; wait for it, or give another "
                   "--runs, --seed or system name") from None
    with hold:
        yield


def _check_beforehand(run: Run, wanted: Collection[str]) -> None:
    """Find out before hours of work what could not end well.

    Raises:
        InputError: the network needs more memory than there is, or the authors' file is missing.
    """
    for part in run.parts:
        if {"train", "compress"} & set(wanted):
            config = part.config
            fit.check_memory(ModelSpec(config.model, config.features, TASK1A_2021.labels), config.training, run.device)
    authors = run.config.submission.authors
    if "package" in wanted and authors and not Path(authors).is_file():
        raise InputError(f"submission.authors: {authors}: no such file; start one with {INIT}")
    if run.config.system == DEFAULT_SYSTEM.stem and run.config.data.root is not None:
        _say("note: this is the small demo system, on the data set that was given; --system FILE chooses another one, "
             "e.g. system_configs/bcresnet_asc_1_resnorm.yaml")


def _of_member(wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if name != "package"]


def _run_stages(run: Run, wanted: Sequence[str]) -> None:
    reasons = {stage.name: reason for stage in STAGES if (reason := stage.left_out(run))}
    if wanted and not run.members and all(name in reasons for name in wanted):
        raise InputError(f"--stage {wanted[0]}: {reasons[wanted[0]]}")
    last = max((index for index, stage in enumerate(STAGES) if stage.name in wanted), default=-1)
    for stage in STAGES[:last + 1]:
        if stage.name in reasons:
            if stage.name in wanted:
                _say(f"[{stage.name}] left out: {reasons[stage.name]}")
            continue
        outdated = _outdated(run, stage)
        if stage.name not in wanted:
            if outdated:
                raise InputError(f"stage {stage.name} comes first: {outdated}; run --stage all, or name it in --stage")
        elif outdated or run.force:
            _say(f"[{stage.name}] {outdated or 'forced'}")
            _run_stage(run, stage)
        else:
            _say(f"[{stage.name}] up to date")
    if rank() == 0 and "evaluate" in [stage.name for stage in STAGES[:last + 1]]:
        _restore_config(run)


def _restore_config(run: Run) -> None:
    """Write ``config.yaml`` where all results are of this configuration, and the file says something else."""
    text = configuration.to_yaml(run.config)
    if not run.folder.config.is_file() or run.folder.config.read_bytes() != text.encode("utf-8"):
        _say("config.yaml is missing or was changed; it is written anew")
        write_text(run.folder.config, text)


def _run_stage(run: Run, stage: Stage) -> None:
    record = run.folder.record(stage.name)
    if rank() == 0:
        remove(record)
        write_text(run.folder.config, configuration.to_yaml(run.config))
    with during(f"stage {stage.name} of {run.folder.root}"):
        inputs = stage.depends_on(run)
        written = stage.work(run)
    if rank() == 0:
        outputs = {path.relative_to(run.folder.root).as_posix(): digest(path) for path in written}
        write_json(record, {"inputs": inputs, "outputs": outputs})


def _outdated(run: Run, stage: Stage) -> str | None:
    """Why a stage has to run, or None where its results are those of the present configuration and files."""
    made = run.folder.read_record(stage.name)
    if made is None:
        record = run.folder.record(stage.name)
        return f"{record.relative_to(run.folder.root)} is damaged" if record.exists() else "not done yet"
    changed_output = run.folder.changed_output(made)
    if changed_output:
        return changed_output
    if not stage.still_there(run):
        return "its cache is gone or was changed"
    inputs: dict[str, Any] = json.loads(json.dumps(stage.depends_on(run)))
    changed = [key for key in {**made["inputs"], **inputs} if made["inputs"].get(key) != inputs.get(key)]
    return f"{', '.join(changed)} changed" if changed else None


def _closing_summary(run: Run) -> str:
    """What the run has come to: accuracy and log loss by device, the size, and where the files are."""
    folder, lines = run.folder, [""]
    if folder.evaluation.is_file():
        results = read_json(folder.evaluation)
        lines.append(f"{run.config.system}, seed {run.config.seed}, on the {results['data']['clips']:,} test clips of "
                     f"{results['data']['name']}")
        if results["data"]["demo"]:
            lines.append(DEMO_NOTE)
        lines.append(summary(results))
    if folder.complexity.is_file():
        lines.append(f"size  {verdict(read_json(folder.complexity))}")
    lines.append(f"run   {folder.root}")
    lines += [f"zip   {path}" for path in sorted(folder.submission.glob("*.zip"))]
    return "\n".join(lines)


def _say(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)
