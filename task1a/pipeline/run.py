"""One run, ``<runs>/<name>/seed<N>/``: its configuration, files and records, and the other runs of its folder.

The file names are a contract: other tools read them.
"""
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from task1a.config import Config
from task1a.config_file import load
from task1a.errors import InputError
from task1a.files import digest, read_json
from task1a.system import System

RECORD_FORMAT = 1
"""Number of the format of the records of stages. Records of another format count as missing."""

_MADE_BY = {"data": "data", "features": "features", "environment": "train", "complexity": "complexity",
            "evaluation": "evaluate"}
"""the stage that writes each record"""

_RESULTS = ("config.yaml", "environment.json", "data.json", "features.json", "train", "compress", "complexity.json",
            "predictions", "evaluation.json", "report.html", "submission", "stages")
"""files and folders of a run; others, such as a log or a user's notes, are left alone"""

DRAFT = ".draft-"
"""beginning of the folder, next to those of the runs, that holds a draft; see :mod:`task1a.pipeline.drafts`"""


class _File:
    """The path of a file or folder of a run, given relative to the run folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "Run", owner: "type[Run]") -> Path:
        return run.folder / self.name


class Run:
    """A run of one system with one seed.

    Args:
        folder: run folder, which need not exist yet, or a draft of it.
        config: configuration; default: the run's ``config.yaml``.
        models: runs whose models make up the system; default: those that its configuration names.
        hold_outs: runs of the hold-out models, on whose held-out clips the temperature is fitted.
    """

    def __init__(self, folder: Path, config: Config | None = None, models: "tuple[Run, ...]" = (),
                 hold_outs: "tuple[Run, ...]" = ()) -> None:
        self.folder = Path(folder)
        """folder that is read and written: that of the run, or its draft"""
        if config is not None:
            self.config = config
        self._models, self.hold_outs = models, hold_outs

    config_file = _File("config.yaml")
    environment = _File("environment.json")
    data = _File("data.json")
    features = _File("features.json")
    vanilla = _File("train/model.safetensors")
    checkpoint = _File("train/checkpoint.pt")
    history = _File("train/history.csv")
    packed = _File("compress/packed.safetensors")
    packed_xz = _File("compress/packed.safetensors.xz")
    compress_history = _File("compress/history.csv")
    complexity = _File("complexity.json")
    test_predictions = _File("predictions/test.csv")
    evaluation_predictions = _File("predictions/evaluation.csv")
    evaluation = _File("evaluation.json")
    report = _File("report.html")
    submission = _File("submission")

    def __str__(self) -> str:
        return f"{self.name}/{self.folder.name}"

    @property
    def name(self) -> str:
        """Name of the run: that of its system, or the one given with ``--name``."""
        return self.folder.parent.name

    @property
    def is_draft(self) -> bool:
        """Whether a draft is read and written instead of the run itself."""
        return self.folder.parent.parent.name.startswith(DRAFT)

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
    def model_names(self) -> tuple[str, ...]:
        """Names of the runs whose models make up the system.

        They are the members of an ensemble, which ensembles share unless the run has a name of its own; or the general
        model, which predicts the clips of other devices, and the models of single devices; or the run itself.
        """
        config = self.config
        if config.device_models:
            general = config.training.init_from or ""  # the configuration makes sure that there is one
            return general, *(f"{self.name}_{device}" for device in config.device_models)
        if config.ensemble:
            return tuple(self.partner_name(member) for member in config.ensemble)
        return (self.name,)

    def partner_name(self, system: str) -> str:
        """Return the name of the run of another system that is made for this one, a member or one to compare with."""
        return system if self.name == self.config.system else f"{self.name}_{system}"

    @property
    def models(self) -> "tuple[Run, ...]":
        """Runs whose models make up the system (:attr:`model_names`)."""
        if self.is_single:
            return (self,)
        if not self._models:
            self._models = tuple(self.sibling(f"{name}/{self.folder.name}") for name in self.model_names)
        return self._models

    @property
    def is_single(self) -> bool:
        """Whether the system is one model, which this run trains, rather than several, which other runs train."""
        return not self.config.ensemble and not self.config.device_models

    @property
    def system(self) -> System:
        """The models of the system, and how they are combined."""
        return System(tuple(run.model for run in self.models),
                      tuple(run.config.evaluation.time_rolls for run in self.models), self.config.device_models)

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

    def at(self, folder: Path) -> "Run":
        """Return the same run with another folder that is read and written: its draft, or its home."""
        return Run(folder, self.config, self._models, self.hold_outs)

    def sibling(self, name: str) -> "Run":
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
        """Return ``inputs`` and ``outputs`` (digests by file) of a stage; None without a valid record.

        Args:
            stage: name of the stage.
            finished: False reads the record of an interrupted stage as well, whose ``outputs`` are empty.
        """
        try:
            record = read_json(self.stage_record(stage))
            if record["format"] != RECORD_FORMAT:
                return None
            outputs = record["outputs"]
            if outputs is None and not finished:
                outputs = {}
            if all(map(is_result, outputs)):
                return {"inputs": dict(record["inputs"]), "outputs": dict(outputs)}
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

    def results(self) -> Iterator[str]:
        """Yield the names of the files of the run, relative to its folder, with forward slashes."""
        for entry in _RESULTS:
            path = self.folder / entry
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not file.name.startswith("."):
                    yield file.relative_to(self.folder).as_posix()


def is_result(name: str) -> bool:
    """Whether a name in a record is that of a file of a run, below its folder."""
    return name.partition("/")[0] in _RESULTS and not {"..", ""} & set(name.split("/")) and "\\" not in name


def model_of(path: Path) -> Path:
    """Return the model file of a run folder; the path of a file is returned as it is.

    Raises:
        InputError: the run is not finished, or its system has several models.
    """
    if not (path / "config.yaml").is_file():
        return path
    run = Run(path)
    if not run.is_single:
        raise InputError(f"{path}: this system has several models; give one of their run folders: "
                         f"{', '.join(str(model.folder) for model in run.models)}")
    if not run.model.is_file():
        raise InputError(f"{run.model}: no such model; finish the run {run} first")
    return run.model
