"""The plan of a command: from its arguments to the runs and stages that it needs, in order, checked beforehand."""
import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task1a import config_file
from task1a.challenge import LABELS
from task1a.config import Config
from task1a.config_file import SYSTEMS
from task1a.errors import CommandParser, InputError, shown
from task1a.machine import rank
from task1a.pipeline.run import Run
from task1a.pipeline.stages import STAGES, trained_model
from task1a.pipeline.workspace import Workspace

DEFAULT_SYSTEM = "demo"
COMPARED = "for comparison:"
"""role of a run that the one of the command is compared with"""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Step:
    """A run of a command, with the stages that are wanted of it."""

    run: Run
    stages: tuple[str, ...]
    role: str = ""
    """what the run is to that of the command: ``member``, ``general model``, ``hold-out model``, :data:`COMPARED`, or
    nothing"""


@dataclass(frozen=True)
class Plan:
    """All runs of a command, in the order in which they run: those whose models a run needs come before it."""

    workspace: Workspace
    steps: tuple[Step, ...]
    dry_run: bool = False
    """whether it is only printed what would run"""

    @property
    def run(self) -> Run:
        """The run that the command names."""
        return self.steps[-1].run

    @property
    def wanted(self) -> tuple[str, ...]:
        """The stages that the command names, in the order of the chain."""
        return self.steps[-1].stages


def parse_arguments(argv: Sequence[str] | None = None) -> Plan:
    """Return the plan of a command line.

    Raises:
        InputError: the arguments or the configuration are wrong.
    """
    parser = CommandParser(
        prog="task1a.py", description="From recordings to a checked challenge zip.",
        epilog="Example: python task1a.py --system bcresnet_asc_1_resnorm --data-root DIR training.epochs=60. "
               "Exit status: 0 success; 1 the result falls short (over the size limit, invalid submission); 2 it could "
               "not be done.")
    add_run_options(parser)
    parser.add_argument("--until", metavar="NAME", help="run this stage and all before it, instead of --stage")
    parser.add_argument("--system", default=DEFAULT_SYSTEM, metavar="NAME|FILE",
                        help="one of the systems in system_configs/, or the file of a system configuration (default: "
                             "demo)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="random seed of initialisation, order, augmentation and dropout")
    parser.add_argument("--name", metavar="NAME", help="name of the run's folder (default: that of the system), to try "
                        "a setting beside a finished run")
    parser.add_argument("--force", action="store_true", help="run the stages even if they are up to date, and replace "
                        "a finished model of other settings when the new one is complete")
    parser.add_argument("--dry-run", action="store_true", help="print which stages would run and why, and do nothing")
    group = parser.add_argument_group(
        "download", "--data-root and --eval-root are the folders of the sets themselves, which will hold meta.csv, "
        "audio/ and so on. Without --download, nothing is ever fetched.")
    group.add_argument("--download", action="store_true",
                       help="fetch TAU Urban Acoustic Scenes 2020 Mobile, development, into --data-root, and 2021 "
                            "Mobile, evaluation, into --eval-root, as far as they are not there")
    group.add_argument("--accept-licence", action="store_true", help="accept the licences without being asked")
    group.add_argument("--keep-archives", action="store_true", help="keep the archives after they are unpacked")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.until and arguments.stage != "all":
        raise InputError("--until NAME and --stage NAME exclude each other")
    return _plan(arguments, _wanted_stages(arguments.stage, arguments.until))


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


def system_file(system: str) -> Path:
    """Return the file of a system, given by its path or by the name of one in ``system_configs/``."""
    shipped = SYSTEMS / f"{system}.yaml"
    if re.fullmatch(r"\w+", system) and not Path(system).exists() and shipped.is_file():
        return shipped
    return Path(system)


def _wanted_stages(text: str, until: str | None) -> tuple[str, ...]:
    known = [stage.name for stage in STAGES]
    names = known if text == "all" else text.split(",")
    option = "--until" if until else "--stage"
    for name in [until] if until else names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{option} {name}: no such stage{hint} (all, or some of {','.join(known)})")
    if until:
        names = known[:known.index(until) + 1]
    return tuple(name for name in known if name in names)


@dataclass(frozen=True)
class _Configs:
    """The configurations of a command: that of its system, and those of others with the same options and overrides."""

    file: Path
    overrides: Sequence[str]
    options: dict[str, Any]
    runs: Path

    def load(self) -> Config:
        """Read the configuration of the command's system."""
        return config_file.load(self.file, self.overrides, self.options)

    def file_of(self, name: str) -> Path:
        """Return the file of another system: next to this one or, if there is none, of this project."""
        sibling, shipped = self.file.with_name(f"{name}.yaml"), SYSTEMS / f"{name}.yaml"
        return shipped if shipped.is_file() and not sibling.is_file() else sibling

    def load_other(self, name: str) -> Config:
        """Read the configuration of another system."""
        return config_file.load(self.file_of(name), self.overrides, self.options)

    def run(self, name: str, config: Config) -> Run:
        """Return the run of a configuration."""
        return Run(self.runs / name / f"seed{config.seed}", config)


def _plan(arguments: argparse.Namespace, wanted: tuple[str, ...]) -> Plan:
    """Return the run of a system, and those that it needs, with the same options and overrides."""
    options: dict[str, Any] = {"data.root": arguments.data_root, "data.evaluation_root": arguments.eval_root,
                               "seed": arguments.seed, "data.skip_damaged": arguments.skip_damaged or None}
    if arguments.data_root or arguments.eval_root:
        # a data set on the command line replaces the demo set
        options["data.source"] = "tau_layout"
    options = {key: value for key, value in options.items() if value is not None}
    configs = _Configs(system_file(arguments.system), arguments.overrides, options, arguments.runs)
    config, download = configs.load(), None
    if arguments.download and not arguments.dry_run:
        if config.data.source == "demo" or config.data.root is None:
            raise InputError("--download: give the folder of the development set with --data-root DIR")
        download = {"accept_licence": arguments.accept_licence, "keep_archives": arguments.keep_archives}

    alone = configs.run(_run_name(arguments.name, config), config)
    trained = _trained(configs, alone)
    hold_outs: list[Run] = []
    if config.training.has_hold_out:
        for run in trained:
            hold_outs.append(configs.run(f"{run.name}_pilot", run.config.hold_out(config.training)))
    before = tuple(name for name in wanted if name in ("data", "features", "train", "compress"))
    without_package = tuple(name for name in wanted if name != "package")
    steps = [Step(run, before, "hold-out model") for run in hold_outs]
    if "evaluate" in wanted:
        steps += [Step(run, without_package, COMPARED) for run in _compared(configs, alone)]
    models = [] if alone.is_single else trained
    if config.device_models:
        name = alone.model_names[0]
        general = alone.sibling(f"{name}/{alone.folder.name}")
        if not general.vanilla.is_file() and configs.file_of(name).is_file():
            general = configs.run(name, configs.load_other(name))
            steps.append(Step(general, without_package, "general model"))
        models = [general, *trained]
    if not alone.is_single:
        steps += [Step(run, without_package, "member") for run in trained]
    run = Run(alone.folder, config, tuple(models), tuple(hold_outs))
    workspace = Workspace(arguments.device, arguments.force, _log, download, arguments.dry_run)
    return Plan(workspace, (*steps, Step(run, wanted)), arguments.dry_run)


def _trained(configs: _Configs, run: Run) -> list[Run]:
    """Return the runs that are trained for a system: for its devices, its members, or the run itself."""
    config = run.config
    if config.device_models:
        names = run.model_names[1:]
        return [configs.run(name, config.for_device(device))
                for name, device in zip(names, config.device_models, strict=True)]
    if not config.ensemble:
        return [run]
    members = []
    for name, member in zip(run.model_names, config.ensemble, strict=True):
        members.append(configs.run(name, _member(configs.file, config, member, configs.load_other(member))))
    return members


def _compared(configs: _Configs, run: Run) -> list[Run]:
    """Return the runs that a run is compared with, which must be of systems of one model."""
    runs = []
    for name in run.config.evaluation.compare_with:
        compared = configs.run(run.partner_name(name), configs.load_other(name))
        if not compared.is_single or compared.config.training.has_hold_out or name == run.config.system:
            raise InputError(f"{configs.file}: evaluation.compare_with: {name} must be another system of a single "
                             "model, without hold-out models")
        runs.append(compared)
    return runs


def _member(file: Path, ensemble: Config, name: str, member: Config) -> Config:
    """Return the configuration of a member of an ensemble, which must be a system of one model."""
    if member.ensemble or member.device_models or name == ensemble.system:
        raise InputError(f"{file}: ensemble: {name} must be a system of a single model")
    if ensemble.training.has_hold_out and member.training.calibrate:
        raise InputError(f"{file}: training.pilot_fraction calibrates the ensemble as a whole; set training.calibrate "
                         f"to false in {name}.yaml, and to true in the file of the ensemble alone")
    return member


def _run_name(given: str | None, config: Config) -> str:
    """Return the name of the run: the given one or that of the system; the demo system on other data has its own."""
    if given is not None:
        if not _NAME.fullmatch(given):
            raise InputError(f"--name {shown(given)}: may have letters, digits, '_', '-' and '.' only, at most 100")
        return given
    if config.system == DEFAULT_SYSTEM and config.data.root is not None:
        folder = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(config.data.root).resolve().name)
        return f"{config.system}-{folder}"[:100]
    return config.system


def check_plan(plan: Plan) -> None:
    """Find errors that would otherwise appear after hours of work, in all runs of a command.

    Raises:
        InputError: a model or a data set does not fit the training, or the authors' file is missing or invalid.
    """
    config = plan.run.config
    if "package" in plan.wanted and config.submission.authors:
        from submission import authors
        from submission.rules import TASK1A_2021

        authors.read(Path(config.submission.authors), TASK1A_2021)
    will_be_trained = [step.run.home for step in plan.steps if "train" in step.stages]
    for step in plan.steps:
        if {"train", "compress"} & set(step.stages):
            _check_training(plan.workspace, step.run, will_be_trained)
    if config.device_models and "predict" in plan.wanted:
        dataset = plan.workspace.dataset(config)
        if "evaluation" in dataset.roots and "device" not in dataset.evaluation_clips:
            raise InputError(f"{dataset.evaluation}: device_models needs the recording devices of the evaluation set, "
                             "the column device_id of evaluation_setup/fold1_test.csv")


def _check_training(workspace: Workspace, run: Run, will_be_trained: Collection[Path]) -> None:
    """Check what a training needs: initial model, teachers, clips of its devices, and locations to validate on."""
    from task1a.data.splits import check_validation

    training, compression = run.config.training, run.config.compression
    needed = [(f"{training.init_from}/{run.folder.name}", "training.init_from")] if training.init_from else []
    if compression.enabled and run.is_single:
        needed += [(name, "compression.teachers") for name in compression.teachers if name != "vanilla"]
    for name, key in needed:
        if run.sibling(name).folder not in will_be_trained:
            trained_model(run.sibling(name), key)
    if not run.is_single:
        return
    # the check of the data set has better words for what is wrong with its splits
    clips = workspace.dataset(run.config).clips
    clips = clips[clips.split == "train"]
    absent = sorted(set(training.devices) - set(clips.device))
    if absent:
        raise InputError(f"training.devices: there are no training clips of {', '.join(absent)}; the devices are "
                         f"{', '.join(sorted(set(clips.device)))}")
    check_validation(clips, training.validation_fraction)


def check_memory(workspace: Workspace, run: Run, wanted: Collection[str]) -> None:
    """Check that a training step fits into the memory, before anything is computed.

    Raises:
        InputError: it does not.
    """
    if {"train", "compress"} & set(wanted) and run.is_single:
        from task1a.model_file import ModelSpec
        from task1a.training import fit

        config = run.config
        fit.check_memory(ModelSpec(config.model, config.features, LABELS), config.training, workspace.device)


def _log(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)
