"""The folder of one run, ``runs/<system>/seed<N>/``: where everything lies, atomic writes, what is up to date.

The names are a contract: other tools read them.
"""
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from task1a.errors import InputError


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

    def changed_output(self, record: Mapping[str, Any]) -> str | None:
        """The first file of a stage's record that is not as the stage left it, and how; None where all are."""
        for name, content in record["outputs"].items():
            path = self.root / name
            if not path.is_file():
                return f"{name} is missing"
            if digest(path) != content:
                return f"{name} was changed"
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise.

    Whoever reads ``path`` sees the old file or the new one, never a part of either, even after a power failure. The
    temporary name is always the same, so what a killed process leaves is overwritten when it goes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def copy(source: Path, path: Path) -> None:
    """Copy a file, atomically."""
    with replacing(path) as part:
        shutil.copyfile(source, part)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with the line ends it has, atomically."""
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, atomically. NaN and infinity are refused (ValueError): JSON has none."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Plain data from a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Plain data from a YAML file.

    Raises:
        InputError: it is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()
