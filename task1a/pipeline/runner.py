"""The runner: one command from recordings to a checked submission zip.

Stages that are up to date are skipped. A run can be killed at any moment and started again with the same command. A
finished model is never replaced by one with other settings unless the user asks for it with ``--force``.
"""
from collections.abc import Collection, Sequence

from task1a import config_file
from task1a.challenge import size_verdict
from task1a.config import fingerprint
from task1a.errors import FallsShort, InputError, during
from task1a.machine import keep_freed_memory, processes, rank
from task1a.pipeline import drafts
from task1a.pipeline.plan import COMPARED, DEFAULT_SYSTEM, Plan, check_memory, check_plan, parse_arguments
from task1a.pipeline.run import Run
from task1a.pipeline.stages import STAGES, Inputs, Stage
from task1a.pipeline.uptodate import only_one, outdated, present_inputs, refuse_to_replace, restore_config, run_stage
from task1a.pipeline.workspace import Workspace

_CHECKS_SIZE = {"complexity", "package"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested stages of one system and return the exit status.

    Raises:
        InputError: the arguments or the configuration are wrong, or a stage could not do its work.
        FallsShort: the model is over the size limit, or the submission is invalid.
    """
    return run_plan(parse_arguments(argv))


def run_plan(plan: Plan) -> int:
    """Run what a command line asks for and return the exit status; raises as :func:`main`."""
    workspace, config = plan.workspace, plan.run.config
    if processes() > 1 and plan.wanted not in (("train",), ("compress",)):
        raise InputError("torchrun is for --stage train or --stage compress alone; run the other stages without it")
    if config.system == DEFAULT_SYSTEM and config.data.root is not None:
        workspace.log("note: this is the small demo system on your data set; choose another system with --system NAME, "
                      "e.g. bcresnet_asc_1_resnorm")
    if plan.dry_run:
        return _print_plan(plan)
    keep_freed_memory()
    for step in plan.steps:
        if rank() == 0:
            with only_one(step.run):
                drafts.finish_publishing(step.run)
        for stage in STAGES:
            trains = stage.name in step.stages and stage.sections and not stage.skipped(workspace, step.run)
            if trains and not workspace.force:
                refuse_to_replace(step.run, stage)
    check_plan(plan)
    for step in plan.steps:
        if step.role:
            workspace.log(f"{step.role} {step.run}")
        with only_one(step.run):
            _run_stages(workspace, step.run, step.stages)
    workspace.log(_closing_summary(plan))
    if over := over_limit(plan.run, plan.wanted):
        raise FallsShort(over)
    return 0


def is_finished(plan: Plan) -> bool:
    """Whether the requested stages are all up to date; False if that cannot be determined.

    The package of a model over the size limit is never made, and does not count.
    """
    try:
        over = over_limit(plan.run, plan.wanted)
        for step in plan.steps:
            for stage in STAGES:
                wanted = stage.name in step.stages and not (over and stage.name == "package")
                if wanted and not stage.skipped(plan.workspace, step.run):
                    if outdated(plan.workspace, step.run, stage)[0]:
                        return False
        return True
    except (InputError, OSError):
        return False


def over_limit(run: Run, wanted: Collection[str]) -> str | None:
    """Return the error message if the requested stages check the size of the model and it is over the limit."""
    if not _CHECKS_SIZE & set(wanted) or not run.complexity.is_file():
        return None
    counted = run.read("complexity")
    return None if counted["within_limit"] else f"the model is over the size limit: {size_verdict(counted)}"


def _print_plan(plan: Plan) -> int:
    """Print for every run and stage of a plan whether it would run, and why; returns 0.

    A stage after one that would run is expected to run, because its inputs may change.
    """
    for step in plan.steps:
        print(f"{step.role} {step.run.folder}".strip())
        before = None
        for stage in STAGES:
            if stage.name not in step.stages:
                continue
            reason = "--force" if plan.workspace.force else f"{before} runs" if before else None
            try:
                # whether there is something to submit is known only where the data set is there
                if (before is None or stage.sections) and (skipped := stage.skipped(plan.workspace, step.run)):
                    print(f"  {stage.name:<11} skipped: {skipped}")
                    continue
                reason = reason or outdated(plan.workspace, step.run, stage)[0]
            except InputError as error:
                reason = str(error)
            print(f"  {stage.name:<11} " + (f"would run: {reason}" if reason else "up to date"))
            before = before or (stage.name if reason else None)
    return 0


def _run_stages(workspace: Workspace, run: Run, wanted: Sequence[str]) -> None:
    """Run the stages of one run that are not up to date.

    A stage that was done before is done again in a draft, which replaces the run's files when all stages are done.
    """
    skipped = {}
    for stage in STAGES:
        if reason := stage.skipped(workspace, run):
            skipped[stage.name] = reason
    if wanted and run.is_single and all(name in skipped for name in wanted):
        raise InputError(f"--stage {wanted[0]}: {skipped[wanted[0]]}")
    last = max((index for index, stage in enumerate(STAGES) if stage.name in wanted), default=-1)
    stages = [stage for stage in STAGES[:last + 1] if stage.name not in skipped or stage.name in wanted]
    reads_cache = any(stage.reads_cache for stage in stages if stage.name in wanted)

    key = fingerprint([config_file.to_yaml(run.config), str(run), list(wanted), workspace.force])[:8]
    if drafts.exists(run, key):
        run = drafts.open_draft(run, key)
        workspace.log(f"continuing the draft {run.folder} of this command, which was interrupted")
    elif workspace.force and any(run.read_stage(name) for name in wanted):
        run = drafts.open_draft(run, key, [name for name in wanted if name not in skipped])
    trained = memory_checked = False
    try:
        for stage in stages:
            if stage.name in skipped:
                workspace.log(f"[{stage.name}] skipped: {skipped[stage.name]}")
                continue
            asked = stage.name in wanted
            reason, inputs = _why(workspace, run, stage, asked, asked or reads_cache)
            if inputs is None:
                continue
            if not memory_checked:
                check_memory(workspace, run, wanted)
                memory_checked = True
            if stage.sections:
                if not workspace.force:
                    refuse_to_replace(run, stage, inputs)
                trained = True
            if run.read_stage(stage.name) and not run.is_draft:
                run = drafts.open_draft(run, key)
            workspace.log(f"[{stage.name}] running" + (f": {reason}" if reason != "not done yet" else ""))
            run_stage(workspace, run, stage, inputs)
    except FallsShort:
        if run.is_draft and rank() == 0:
            drafts.publish(run)
        raise
    except BaseException:
        if run.is_draft and rank() == 0:
            _end_draft(workspace, run, trained)
        raise
    if rank() == 0:
        if run.is_draft:
            run = drafts.publish(run)
        if any(stage.name == "evaluate" for stage in stages):
            restore_config(workspace, run)


def _why(workspace: Workspace, run: Run, stage: Stage, asked: bool,
         with_cache: bool) -> tuple[str | None, Inputs | None]:
    """Return why a stage has to run, and its inputs; None and None if it is up to date.

    Raises:
        InputError: the stage is out of date, but was not asked for.
    """
    reason, inputs = outdated(workspace, run, stage, with_cache)
    if not asked:
        if reason:
            raise InputError(f"stage {stage.name} comes first: {reason}; run --stage all, or add it to --stage")
        return None, None
    if not reason:
        workspace.log(f"[{stage.name}] up to date")
        return None, None
    if inputs is None:
        with during(f"stage {stage.name} of {run}"):
            inputs = present_inputs(workspace, run, stage)
    return reason, inputs


def _end_draft(workspace: Workspace, draft: Run, trained: bool) -> None:
    """Keep the draft of a command that ends early if it holds the work of a training; otherwise remove it."""
    if trained:
        workspace.log(f"{draft.home} is as it was; what is done of its replacement is kept in {draft.folder}, and the "
                      "same command continues it")
    else:
        drafts.drop(draft)


def _closing_summary(plan: Plan) -> str:
    """Return accuracy and log loss by device, comparisons, the size of the model, and what was written where."""
    run, lines = plan.run, [""]
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
            lines += _comparison([run, *(step.run for step in plan.steps if step.role == COMPARED)])
        if run.complexity.is_file():
            lines.append(f"size    {size_verdict(run.read('complexity'))}")
    except InputError as error:  # of a stage that was not asked for
        lines.append(f"note: {error}")
    lines.append(f"run     {run.folder}")
    if run.report.is_file():
        lines.append(f"report  {run.report}")
    lines += [f"zip     {path}" for path in sorted(run.submission.glob("*.zip"))]
    return "\n".join(lines)


def _comparison(runs: Sequence[Run]) -> list[str]:
    """Return a table of the accuracy of runs, and how to test the difference; nothing for a single run."""
    from evaluation import records

    if len(runs) < 2:
        return []
    lines = [f"{'accuracy':<26}  overall  seen devices  unseen devices"]
    for run in runs:
        results = records.read(run, "evaluation")
        groups = results["device_groups"]
        line = f"{run.name:<26}  {results['overall']['accuracy']:6.1f}%"
        for name, width in (("seen", 11), ("unseen", 13)):
            line += f"  {groups[name]['accuracy']:{width}.1f}%" if name in groups else ""
        lines.append(line)
    first, second = runs[0].folder.parent, runs[1].folder.parent
    return [*lines, f"to test the difference: task1a compare {first} {second}", ""]
