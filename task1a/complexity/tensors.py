"""Sizes of stored tensors, and what the readers of all formats share."""
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from task1a.errors import InputError

MAX_AXES = 64
"""Maximum number of axes of a tensor, as in numpy."""
TYPES = {name: 8 * getattr(torch, name).itemsize for name in (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "quint8", "qint8", "qint32",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float16", "bfloat16", "float32", "float64",
    "complex64", "complex128")}
"""Bits of a value, by the names of torch; sub-byte types are left out, because torch packs some of them."""


@dataclass(frozen=True)
class TensorSize:
    """Size of one stored tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    """bits of one value"""
    values: int
    """explicitly stored values (sparse tensors: non-default entries only)"""
    non_zero: int

    @property
    def bytes(self) -> int:
        """Size of the non-zero values, rounded up."""
        return -(-self.non_zero * self.bits // 8)

    @property
    def statistics(self) -> bool:
        """Whether it is the running mean or variance of a batch norm."""
        return self.name.endswith(("running_mean", "running_var"))

    @property
    def step_counter(self) -> bool:
        """Whether it counts the training steps of a batch norm in torch, which is not part of the model."""
        return self.name.endswith("num_batches_tracked") and self.values == 1


def count_non_zero(content: bytes, dtype: torch.dtype) -> int:
    """Count the little-endian values in ``content`` that are not zero."""
    words = np.frombuffer(content, f"<u{dtype.itemsize // (2 if dtype.is_complex else 1)}")
    if (dtype.is_floating_point or dtype.is_complex) and not str(dtype).endswith("fnuz"):
        words = words << 1  # without the sign, because zero has one, except in the fnuz types
    if dtype.is_complex:
        words = words.reshape(-1, 2).any(axis=1)
    return int(np.count_nonzero(words))


@contextmanager
def readable(path: Path, kind: str, advice: str = "") -> Iterator[None]:
    """Turn any exception of a library that reads a file into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise all kinds of exceptions for damaged files
        said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        said = re.split(r"\n|\. ", said)[0][:200].rstrip(".")
        said = said if " " in said else f"{type(error).__name__} {said}".strip()
        raise InputError(f"{path}: not a readable {kind} ({said}){advice and '; '}{advice}") from None


def unknown_type(path: Path, name: str, dtype: object) -> InputError:
    """The error of a tensor whose bit width is not known."""
    return InputError(f"{path}: tensor {name} is of type {dtype}, whose width is not known")


def package(name: str, path: Path) -> ModuleType:
    """Import an optional package, which has the name of the extra that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{path}: the package {name} is needed to read it: pip install -e '.[{name}]'") from None
