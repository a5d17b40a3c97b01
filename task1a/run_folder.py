"""The folder of one run, ``runs/<system>/seed<N>/``: where everything lies, and what is up to date.

The names are a contract: other tools read them.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task1a.files import copy, digest, read_json, read_yaml, replacing, write_json, write_text  # noqa: F401


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run below ``root``."""

    root: Path

    config = property(lambda self: self.root / "config.yaml")
    environment = property(lambda self: self.root / "environment.json")
    data = property(lambda self: self.root / "data.json")
    features = property(lambda self: self.root / "features.json")
    model = property(lambda self: self.root / "train" / "model.safetensors")
    checkpoint = property(lambda self: self.root / "train" / "checkpoint.pt")
    history = property(lambda self: self.root / "train" / "history.csv")
    packed = property(lambda self: self.root / "compress" / "packed.safetensors")
    packed_small = property(lambda self: self.root / "compress" / "packed.safetensors.xz")
    compress_history = property(lambda self: self.root / "compress" / "history.csv")
    complexity = property(lambda self: self.root / "complexity.json")
    test_predictions = property(lambda self: self.root / "predictions" / "test.csv")
    evaluation_predictions = property(lambda self: self.root / "predictions" / "evaluation.csv")
    evaluation = property(lambda self: self.root / "evaluation.json")
    submission = property(lambda self: self.root / "submission")

    def record(self, stage: str) -> Path:
        """What a stage depended on and wrote when it last ended well; missing while it has to run."""
        return self.root / "stages" / f"{stage}.json"

    def read_record(self, stage: str) -> dict[str, Any] | None:
        """``inputs`` and ``outputs`` (digests by file) of a finished stage; None where there is no usable record."""
        try:
            record = read_json(self.record(stage))
            return {"inputs": dict(record["inputs"]), "outputs": dict(record["outputs"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def changed_output(self, record: Mapping[str, Any]) -> str | None:
        """The first file of a stage's record that is not as the stage left it, and how; None where all are."""
        for name, content in record["outputs"].items():
            path = self.root / name
            if not path.is_file():
                return f"{name} is missing"
            if digest(path) != content:
                return f"{name} was changed"
        return None
