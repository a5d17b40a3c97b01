"""Drafts of runs: finished results are never overwritten while others are being made.

A command that does a stage again works on a draft, a copy of the run in ``<runs>/.draft-<key>/<name>/seed<N>/``. Its
files replace those of the run when it is complete. A command that was interrupted continues its draft.
"""
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from task1a.files import copy, read_json, write_json
from task1a.machine import rank
from task1a.pipeline.run import DRAFT, Run, is_result

_COMPLETE = "complete.json"
"""lists the files of a draft that is replacing those of its run"""


def exists(run: Run, key: str) -> bool:
    """Whether there is a draft of the command that ``key`` identifies."""
    return _folder(run, key).is_dir()


def open_draft(run: Run, key: str, again: Collection[str] = ()) -> Run:
    """Return the draft of a run, which is copied from the run if it does not exist; under torchrun, by rank 0.

    Args:
        run: the run.
        key: identifies the command, which continues the same draft after an interruption.
        again: stages that are done again even if nothing has changed.
    """
    draft = _folder(run, key)
    deadline = time.monotonic() + 60
    while rank() > 0 and not draft.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    if not draft.is_dir():
        # a kill while copying must not leave a draft that looks complete
        unfinished = run.runs / f"{DRAFT}{key}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        copied = unfinished / run.name / run.folder.name
        copied.mkdir(parents=True)
        for name in run.results():
            if name.partition("/")[0] in again or name in [f"stages/{stage}.json" for stage in again]:
                continue
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            try:  # files are replaced and never changed, so the run does not see what is written to the draft
                os.link(run.folder / name, copied / name)
            except OSError:
                shutil.copyfile(run.folder / name, copied / name)
        unfinished.rename(draft.parents[1])
    return run.at(draft)


def publish(draft: Run) -> Run:
    """Replace the results of a run by those of its draft, and return the run.

    After a kill, :func:`finish_publishing` does the rest: once ``complete.json`` is there, the draft is complete.
    """
    run = draft.at(draft.home)
    write_json(draft.folder / _COMPLETE, sorted(draft.results()))
    _take_over(run, draft.folder)
    return run


def drop(draft: Run) -> None:
    """Remove a draft."""
    shutil.rmtree(draft.folder.parents[1])


def finish_publishing(run: Run) -> None:
    """Finish a replacement that was interrupted."""
    for complete in run.runs.glob(f"{DRAFT}*/{run.name}/{run.folder.name}/{_COMPLETE}"):
        _take_over(run, complete.parent)


def _folder(run: Run, key: str) -> Path:
    return run.runs / f"{DRAFT}{key}" / run.name / run.folder.name


def _take_over(run: Run, draft: Path) -> None:
    names = [name for name in read_json(draft / _COMPLETE) if is_result(name)]
    for name in names:
        if (draft / name).is_file():
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(draft / name, run.folder / name)
            except OSError:  # the run is a link to another disk
                copy(draft / name, run.folder / name)
    for name in set(run.results()) - set(names):
        (run.folder / name).unlink()
        with suppress(OSError):  # a folder stays as long as it has other files
            (run.folder / name).parent.rmdir()
    shutil.rmtree(draft.parents[1])
