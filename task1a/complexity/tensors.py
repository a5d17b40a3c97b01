"""Sizes of stored tensors, and what the readers of all formats share."""
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from task1a.errors import InputError
from task1a.safetensors_file import BLOCK

TYPES = {
    "bool": 8, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "int8": 8, "int16": 16,
    "int32": 32, "int64": 64, "quint8": 8, "qint8": 8, "qint32": 32, "uint2": 2, "int2": 2,
    "uint4": 4, "int4": 4, "float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6,
    "float8_e4m3fn": 8, "float8_e4m3fnuz": 8, "float8_e5m2": 8, "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
    "complex64": 64, "complex128": 128,
}
"""Bits of a value, by the names of torch and of ml_dtypes."""

FEATURES = "features/"
"""Start of the names of what computes the features, in the ONNX models that this project exports."""


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
    excluded: str = ""
    """what it is if it is no part of the model, e.g. ``optimizer state``"""

    @property
    def bytes(self) -> int:
        """Size of the non-zero values, rounded up."""
        return -(-self.non_zero * self.bits // 8)

    @property
    def statistics(self) -> bool:
        """Whether it is the running mean or variance of a batch norm."""
        return self.name.endswith(("running_mean", "running_var", "moving_mean", "moving_variance"))


def count_non_zero(content: bytes | np.ndarray, dtype: str, values: int | None = None) -> int:
    """Count the little-endian values in ``content`` that are not zero.

    Args:
        content: bytes; values of less than a byte are packed from the lowest bit of the first byte.
        dtype: a type of :data:`TYPES`.
        values: number of values, if the last byte may hold bits that belong to none.
    """
    raw, bits, non_zero = np.frombuffer(content, np.uint8), TYPES[dtype], 0
    if values is not None and values * bits % 8:
        raw = raw.copy()
        raw[-1] &= (1 << values * bits % 8) - 1
    if dtype == "float8_e8m0fnu":  # a power of two, which is never zero
        return len(raw)
    # -0.0 is zero, so the sign bit, the uppermost one, is left out. The fnuz types have no negative
    # zero: its code is their NaN.
    signed_zero = bool(re.search("float|complex", dtype)) and not dtype.endswith("fnuz")
    for start in range(0, len(raw), BLOCK):
        block = raw[start:start + BLOCK]
        if bits < 8:
            # Values of 2, 4 or 6 bits may cross bytes, but three bytes hold a whole number of them.
            # Zeros that are filled in at the end do not count.
            triples = np.concatenate([block, np.zeros(-len(block) % 3, np.uint8)])
            triples = triples.reshape(-1, 3).astype(np.uint32)
            words = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
            mask = (1 << bits - signed_zero) - 1
            for shift in range(0, 24, bits):
                non_zero += int(np.count_nonzero(words >> shift & mask))
            continue
        # integers of the same width; of a complex value, real and imaginary part
        found = block.view(f"<u{bits // (16 if 'complex' in dtype else 8)}")
        found = found << 1 if signed_zero else found
        if "complex" in dtype:
            found = found[::2] | found[1::2]
        non_zero += int(np.count_nonzero(found))
    return non_zero


@contextmanager
def readable(path: Path, file_type: str, advice: str = "") -> Iterator[None]:
    """Turn any exception of a library that reads a file into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise all kinds of exceptions for damaged files
        # the first sentence; torch puts a line of its own before it, and some messages are one word
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        reason = re.split(r"\n|\. ", reason)[0][:200].rstrip(".")
        reason = reason if " " in reason else f"{type(error).__name__} {reason}".strip()
        raise InputError(f"{path}: not a readable {file_type} ({reason}){advice and '; '}{advice}") from None


def unknown_type(path: Path, name: str, dtype: object) -> InputError:
    """Return the error of a tensor whose bit width is not known."""
    return InputError(f"{path}: tensor {name} is of type {dtype}, whose width is not known")


def device_of(name: str) -> str | None:
    """Return the recording device whose model a tensor belongs to; None if it is part of every
    model."""
    found = re.search(r"(?:^|\.)(?:device_models\.([^.]+)|(base_model))\.", name)
    return (found[1] or found[2]) if found else None
