"""Keras models (.h5, .keras): every weight that a layer stores, as in the organisers' tool of 2021."""
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from task1a.complexity.tensors import BLOCK, TYPES, TensorSize, count_non_zero, readable, unknown_type
from task1a.errors import InputError
from task1a.files import BoundedFile

_WEIGHTS = "model.weights.h5"
# groups of a file whose tensors are no weights, and what they are
_EXCLUDED = {"optimizer": "optimizer state", "optimizer_weights": "optimizer state", "metrics": "metrics"}


def read_keras(path: Path, key: None = None) -> Iterator[TensorSize]:
    """Yield the weights in an HDF5 file of Keras, or in a ``.keras`` archive; all else is marked as excluded."""
    with readable(path, "Keras model"):
        source = path
        if path.suffix.lower() == ".keras":
            with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
                if archive.getinfo(_WEIGHTS).file_size > path.stat().st_size:
                    raise InputError(f"{path}: its weights are compressed, which Keras never does; not opened")
                source = io.BytesIO(archive.read(_WEIGHTS))
        names: list[str] = []
        with h5py.File(source, "r") as file:
            file.visit(names.append)  # follows no link to another file
            for name in names:
                if isinstance(dataset := file[name], h5py.Dataset):
                    yield _size(path, name, dataset)


def _size(path: Path, name: str, dataset: h5py.Dataset) -> TensorSize:
    dtype = dataset.dtype.name
    if dataset.dtype.kind == "V":  # types that HDF5 does not have are stored as bytes, with their name
        dtype = str(dataset.attrs.get("dtype"))
    if dtype not in TYPES or TYPES[dtype] != 8 * dataset.dtype.itemsize:
        raise unknown_type(path, name, dtype)
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: the values of {name} are in another file, which is not supported")
    stored = dataset.id.get_storage_size()
    if dataset.size and (stored == 0 or dataset.chunks is None and stored != dataset.nbytes):
        raise InputError(f"{path}: {name} has a shape of {dataset.size:,} values, but fewer are stored; damaged")

    parts, non_zero = name.split("/"), 0
    excluded = _EXCLUDED.get(parts[0], "random state" if "seed_generator" in parts else "")
    rows = max(1, BLOCK // max(1, dataset.nbytes // max(1, len(dataset)))) if dataset.ndim else 1
    for start in range(0, len(dataset) if dataset.ndim else 1, rows):
        block = np.asarray(dataset[start:start + rows] if dataset.ndim else dataset[()])
        block = block.astype(block.dtype.newbyteorder("<"))
        non_zero += count_non_zero(np.frombuffer(block.tobytes(), np.uint8), dtype)
    return TensorSize(name.removesuffix(":0"), dataset.shape, dtype, TYPES[dtype], dataset.size, non_zero, excluded)
