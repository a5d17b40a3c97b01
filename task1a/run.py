"""One run, ``<runs>/<system>/seed<N>/``: its configuration, files and records, and the other runs of its folder.

The file names are a contract: other tools read them.
"""
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from task1a.config import Config, load
from task1a.errors import InputError
from task1a.files import digest, read_json

_MADE_BY = {"data": "data", "features": "features", "environment": "train", "complexity": "complexity",
            "evaluation": "evaluate"}
"""the stage that writes each record"""


class Run:
    """A run of one system with one seed.

    Args:
        folder: run folder, which need not exist yet.
        config: configuration; default: the run's ``config.yaml``.
        members: runs that are trained for this one; default: those that its configuration names.
    """

    def __init__(self, folder: Path, config: Config | None = None, members: "tuple[Run, ...] | None" = None) -> None:
        self.folder = Path(folder)
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
        return f"{self.folder.parent.name}/{self.folder.name}"

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

    @cached_property
    def members(self) -> "tuple[Run, ...]":
        """Runs that are trained for this one (:attr:`task1a.config.Config.members`); empty for a single model."""
        return tuple(self.beside(f"{name}/{self.folder.name}") for name in self.config.members)

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
        """Another run, ``<system>/seed<N>``, of the same folder."""
        return Run(self.folder.parent.parent / name)

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

    def read_stage(self, stage: str) -> dict[str, Any] | None:
        """``inputs`` and ``outputs`` (digests by file) of a finished stage; None without a valid record."""
        try:
            record = read_json(self.stage_record(stage))
            return {"inputs": dict(record["inputs"]), "outputs": dict(record["outputs"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
