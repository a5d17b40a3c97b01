"""One run, ``<runs>/<name>/seed<N>/``: its configuration, files and records, and the other runs of its folder.

The file names are a contract: other tools read them.

Finished results are never overwritten while others are being made. A command that does a stage again works on a draft,
a copy of the run in ``<runs>/.draft-<key>/<name>/seed<N>/``. Its files replace those of the run when it is complete.
"""
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from task1a.config import Config, load
from task1a.errors import InputError
from task1a.files import copy, digest, read_json, write_json
from task1a.machine import rank

_MADE_BY = {"data": "data", "features": "features", "environment": "train", "complexity": "complexity",
            "evaluation": "evaluate"}
"""the stage that writes each record"""

_RESULTS = ("config.yaml", "environment.json", "data.json", "features.json", "train", "compress", "complexity.json",
            "predictions", "evaluation.json", "report.html", "submission", "stages")
"""files and folders of a run; others, such as a log or a user's notes, are left alone"""

_DRAFT = ".draft-"
_COMPLETE = "complete.json"
"""lists the files of a draft that is replacing those of its run"""


class Run:
    """A run of one system with one seed.

    Args:
        folder: run folder, which need not exist yet, or a draft of it.
        config: configuration; default: the run's ``config.yaml``.
        members: runs that are trained for this one; default: those that its configuration names.
    """

    def __init__(self, folder: Path, config: Config | None = None, members: "tuple[Run, ...] | None" = None) -> None:
        self.folder = Path(folder)
        """folder that is read and written: that of the run, or its draft"""
        if config is not None:
            self.config = config
        if members is not None:
            self.members = members

    config_file = property(lambda self: self.folder / "config.yaml")
    environment = property(lambda self: self.folder / "environment.json")
    data = property(lambda self: self.folder / "data.json")
    features = property(lambda self: self.folder / "features.json")
    vanilla = property(lambda self: self.folder / "train" / "model.safetensors")
    checkpoint = property(lambda self: self.folder / "train" / "checkpoint.pt")
    history = property(lambda self: self.folder / "train" / "history.csv")
    packed = property(lambda self: self.folder / "compress" / "packed.safetensors")
    packed_xz = property(lambda self: self.folder / "compress" / "packed.safetensors.xz")
    compress_history = property(lambda self: self.folder / "compress" / "history.csv")
    report = property(lambda self: self.folder / "report.html")
    complexity = property(lambda self: self.folder / "complexity.json")
    test_predictions = property(lambda self: self.folder / "predictions" / "test.csv")
    evaluation_predictions = property(lambda self: self.folder / "predictions" / "evaluation.csv")
    evaluation = property(lambda self: self.folder / "evaluation.json")
    submission = property(lambda self: self.folder / "submission")

    def __str__(self) -> str:
        return f"{self.name}/{self.folder.name}"

    @property
    def name(self) -> str:
        """Name of the run: that of its system, or the one given with ``--name``."""
        return self.folder.parent.name

    @property
    def is_draft(self) -> bool:
        """Whether a draft is read and written instead of the run itself."""
        return self.folder.parent.parent.name.startswith(_DRAFT)

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        above = self.folder.parent.parent
        return above.parent if self.is_draft else above

    @property
    def home(self) -> Path:
        """The run folder, also of a draft."""
        return self.runs / self.name / self.folder.name

    @cached_property
    def config(self) -> Config:
        """Configuration of the run.

        Raises:
            InputError: ``config.yaml`` is missing or invalid.
        """
        advice = "make it with: python task1a.py --stage data, with the run's --system and --seed"
        if not self.config_file.is_file():
            raise InputError(f"{self.config_file}: no such file; {advice}")
        try:
            return load(self.config_file)
        except InputError as error:
            raise InputError(f"{error}; {advice}") from None

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the runs that are trained for this one: for an ensemble, or one for each of ``device_models``.

        The members of an ensemble are shared between ensembles, unless the run has a name of its own.
        """
        config = self.config
        if config.device_models:
            return tuple(f"{self.name}_{device}" for device in config.device_models)
        return tuple(member if self.name == config.system else f"{self.name}_{member}" for member in config.ensemble)

    @cached_property
    def members(self) -> "tuple[Run, ...]":
        """Runs that are trained for this one (:attr:`member_names`); empty for a single model."""
        return tuple(self.beside(f"{name}/{self.folder.name}") for name in self.member_names)

    @property
    def general(self) -> "Run":
        """Run whose model predicts the clips of unknown devices: the fine-tuned one, or this one."""
        config = self.config
        return self.beside(f"{config.training.init_from}/{self.folder.name}") if config.device_models else self

    @property
    def parts(self) -> "tuple[Run, ...]":
        """Runs whose models make up the system: the members of an ensemble, the general model and one for each device
        of ``device_models``, or this one."""
        return (self.general, *self.members) if self.config.device_models else self.members or (self,)

    @property
    def model(self) -> Path:
        """Model file that is counted and predicts: the packed one if the system is compressed."""
        return self.packed if self.config.compression.enabled else self.vanilla

    @property
    def calibration(self) -> Path:
        """Record of the temperature scaling of the model, which exists only with ``training.calibrate``."""
        return self.model.with_name("calibration.json")

    @property
    def data_root(self) -> Path:
        """Folder of the development set that the run was made with."""
        data = self.config.data
        return Path(data.root) if data.root else Path(data.cache_dir) / "demo" / "demo-development"

    @property
    def passes(self) -> list[int]:
        """Number of forward passes per clip of each of the parts."""
        return [part.config.evaluation.time_rolls for part in self.parts]

    @property
    def alternatives(self) -> bool:
        """Whether each clip is predicted by one of the parts, which its device decides, instead of all."""
        return bool(self.config.device_models)

    def beside(self, name: str) -> "Run":
        """Another run, ``<name>/seed<N>``, of the same folder."""
        return Run(self.runs / name)

    def read(self, name: str) -> dict[str, Any]:
        """Read a record: ``data``, ``features``, ``environment``, ``complexity`` or ``evaluation``.

        Raises:
            InputError: the record is missing or damaged; the message names the stage that writes it.
        """
        path = self.folder / f"{name}.json"
        advice = f"make it with: python task1a.py --stage {_MADE_BY[name]}, with the run's --system and --seed"
        if not path.is_file():
            raise InputError(f"{path}: no such file; {advice}")
        try:
            return dict(read_json(path))
        except (OSError, ValueError, TypeError, RecursionError):
            raise InputError(f"{path}: damaged; {advice}") from None

    def stage_record(self, stage: str) -> Path:
        """Path of the record of a stage's inputs and outputs, which exists only after the stage has succeeded."""
        return self.folder / "stages" / f"{stage}.json"

    def read_stage(self, stage: str, finished: bool = True) -> dict[str, Any] | None:
        """``inputs`` and ``outputs`` (digests by file) of a stage; None without a valid record.

        Args:
            stage: name of the stage.
            finished: False reads the record of an interrupted stage as well, whose ``outputs`` are empty.
        """
        try:
            record = read_json(self.stage_record(stage))
            if record["outputs"] is None and not finished:
                record["outputs"] = {}
            if all(map(_is_result, record["outputs"])):
                return {"inputs": dict(record["inputs"]), "outputs": dict(record["outputs"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return None

    def changed_output(self, record: Mapping[str, Any]) -> str | None:
        """The first output of a stage that is missing or changed, as a message; None if all are intact."""
        for name, content in record["outputs"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if digest(path) != content:
                return f"{name} was changed"
        return None

    def draft(self, key: str) -> Path:
        """Folder of the draft of a command, which ``key`` identifies."""
        return self.runs / f"{_DRAFT}{key}" / self.name / self.folder.name

    def open_draft(self, key: str, again: Collection[str] = ()) -> None:
        """Read and write a copy of the run from now on; under torchrun, rank 0 makes it.

        Args:
            key: identifies the command, which continues the same draft after an interruption.
            again: stages that are done again even if nothing has changed.
        """
        draft = self.draft(key)
        deadline = time.monotonic() + 60
        while rank() > 0 and not draft.is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not draft.is_dir():
            unfinished = self.runs / f"{_DRAFT}{key}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            copied = unfinished / self.name / self.folder.name
            copied.mkdir(parents=True)
            for name in _results(self.folder):
                if name.partition("/")[0] in again or name in [f"stages/{stage}.json" for stage in again]:
                    continue
                (copied / name).parent.mkdir(parents=True, exist_ok=True)
                try:  # every file is replaced as a whole, so the run never sees what is written to the draft
                    os.link(self.folder / name, copied / name)
                except OSError:
                    shutil.copyfile(self.folder / name, copied / name)
            unfinished.rename(draft.parents[1])
        self.folder = draft

    def publish_draft(self) -> None:
        """Replace the results of the run by those of its draft.

        After a kill, :meth:`finish_publishing` does the rest: once ``complete.json`` is there, the draft is complete.
        """
        draft, self.folder = self.folder, self.home
        write_json(draft / _COMPLETE, sorted(_results(draft)))
        self._take_over(draft)

    def drop_draft(self) -> None:
        """Return to the run itself, and remove its draft."""
        draft, self.folder = self.folder, self.home
        shutil.rmtree(draft.parents[1])

    def finish_publishing(self) -> None:
        """Finish a replacement that was interrupted."""
        for complete in self.runs.glob(f"{_DRAFT}*/{self.name}/{self.folder.name}/{_COMPLETE}"):
            self._take_over(complete.parent)

    def _take_over(self, draft: Path) -> None:
        names = [name for name in read_json(draft / _COMPLETE) if _is_result(name)]
        for name in names:
            if (draft / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.replace(draft / name, self.folder / name)
                except OSError:  # the run is a link to another disk
                    copy(draft / name, self.folder / name)
        for name in set(_results(self.folder)) - set(names):
            (self.folder / name).unlink()
            with suppress(OSError):  # a folder stays as long as it has other files
                (self.folder / name).parent.rmdir()
        shutil.rmtree(draft.parents[1])


def _is_result(name: str) -> bool:
    """Whether a name in a record is that of a file of a run, below its folder."""
    return name.partition("/")[0] in _RESULTS and not {"..", ""} & set(name.split("/")) and "\\" not in name


def _results(folder: Path) -> Iterator[str]:
    """Names of the files of a run, relative to its folder, with forward slashes."""
    for entry in _RESULTS:
        path = folder / entry
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.name.startswith("."):
                yield file.relative_to(folder).as_posix()
