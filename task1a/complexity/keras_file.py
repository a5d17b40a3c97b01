"""Keras models (.h5, .keras): every weight that a layer stores, as in the organisers' tool of 2021."""
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from task1a.complexity.tensors import TYPES, TensorSize, count_non_zero, readable, unknown_type
from task1a.errors import InputError
from task1a.files import BoundedFile

_WEIGHTS = "model.weights.h5"
# groups of a file whose tensors are no weights, and what they are
_EXCLUDED = {"optimizer": "optimizer state", "optimizer_weights": "optimizer state", "metrics": "metrics"}


def read_keras(path: Path, key: None = None) -> Iterator[TensorSize]:
    """Yield the weights in an HDF5 file of Keras, or in a ``.keras`` archive; all else is marked as
    excluded."""
    with readable(path, "Keras model"):
        content = path.read_bytes()
        if path.suffix.lower() == ".keras":
            with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
                if archive.getinfo(_WEIGHTS).file_size > len(content):
                    raise InputError(f"{path}: its weights are compressed, which Keras never does; not opened")
                content = archive.read(_WEIGHTS)
        names: list[str] = []
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visit(names.append)  # follows no link to another file
            for name in names:
                if isinstance(dataset := file[name], h5py.Dataset):
                    yield tensor_size(path, name, dataset)


def tensor_size(path: Path, name: str, dataset: h5py.Dataset) -> TensorSize:
    """Return the size of a data set of HDF5, whose values must be in the file itself."""
    dtype = dataset.dtype.name
    # types that HDF5 does not have are stored as bytes, with their name
    if dataset.dtype.kind == "V":
        dtype = str(dataset.attrs.get("dtype"))
    if dtype not in TYPES or TYPES[dtype] != 8 * dataset.dtype.itemsize:
        raise unknown_type(path, name, dtype)
    # a data set may have values in other files, or fewer than its shape says: the rest is filled in
    # when it is read, up to any size
    stored = dataset.id.get_storage_size()
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: the values of {name} are in another file, which is not supported")
    if dataset.size and (stored == 0 or dataset.chunks is None and stored != dataset.nbytes):
        raise InputError(f"{path}: {name} has a shape of {dataset.size:,} values, but fewer are stored; damaged")

    values = np.asarray(dataset[()])
    non_zero = count_non_zero(values.astype(values.dtype.newbyteorder("<")).tobytes(), dtype)
    parts = name.split("/")
    excluded = _EXCLUDED.get(parts[0], "random state" if "seed_generator" in parts else "")
    return TensorSize(name.removesuffix(":0"), dataset.shape, dtype, TYPES[dtype], dataset.size,
                      non_zero, excluded)
