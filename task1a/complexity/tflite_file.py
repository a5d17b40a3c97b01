"""TFLite models: their constant tensors with scales and zero points."""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from task1a.complexity.tensors import TYPES, TensorSize, count_non_zero, readable, unknown_type
from task1a.errors import InputError

_MARK = b"TFL3"
# field of a tensor's table that says its values are in another file; the package does not know it
# yet
_EXTERNAL = 24


def read_tflite(path: Path, key: None = None) -> Iterator[TensorSize]:
    """Yield the constant tensors of a TFLite model; tensors that share a buffer are listed once."""
    with readable(path, "TFLite model"):
        content = path.read_bytes()
        if content[4:8] != _MARK:
            raise InputError(f"{path}: not a TFLite model")
        model, counted = tflite.Model.GetRootAs(content), set()
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for tensor in map(graph.Tensors, range(graph.TensorsLength())):
                name = (tensor.Name() or b"").decode(errors="replace")
                if tensor._tab.Offset(_EXTERNAL):
                    raise InputError(f"{path}: the values of tensor {name} are in another file, which is not supported")
                data = buffer_bytes(content, model, tensor.Buffer())
                if len(data) and tensor.Buffer() not in counted:
                    yield tensor_size(path, name, tensor, data)
                counted.add(tensor.Buffer())

                quantization = tensor.Quantization()
                if quantization is not None:
                    for part, values in (("scale", quantization.ScaleAsNumpy()),
                                         ("zero_point", quantization.ZeroPointAsNumpy())):
                        if isinstance(values, np.ndarray) and values.size:  # 0 without a list
                            yield TensorSize(f"{name}.{part}", values.shape, values.dtype.name,
                                             8 * values.dtype.itemsize, values.size, int(np.count_nonzero(values)))


def buffer_bytes(content: bytes, model: Any, index: int) -> np.ndarray:
    """Return the bytes of a buffer; none for a tensor that is computed."""
    if index >= model.BuffersLength():
        raise ValueError(f"a tensor in buffer {index:,} of {model.BuffersLength():,}")
    buffer = model.Buffers(index)
    start, size = buffer.Offset(), buffer.Size()
    if start > 1:  # behind the flatbuffer, which is limited to 2 GB; 1 is a placeholder
        if start + size > len(content):
            raise ValueError("a buffer beyond its end")
        return np.frombuffer(content, np.uint8, size, start)
    return np.zeros(0, np.uint8) if buffer.DataIsNone() else buffer.DataAsNumpy()


def tensor_size(path: Path, name: str, tensor: Any, data: np.ndarray) -> TensorSize:
    """Return the size of a tensor with the bytes of its buffer."""
    dtype = str(tensor.Type())
    for type_name, number in vars(tflite.TensorType).items():
        if number == tensor.Type():
            dtype = type_name
    if dtype.lower() not in TYPES:
        raise unknown_type(path, name, dtype)
    dtype = dtype.lower()
    bits, shape = TYPES[dtype], () if tensor.ShapeIsNone() else tuple(map(int, tensor.ShapeAsNumpy()))
    # a sparse tensor stores fewer values than its shape has
    values = math.prod(shape) if tensor.Sparsity() is None else 8 * len(data) // bits
    if min(shape, default=0) < 0 or len(data) != -(-values * bits // 8):
        raise InputError(f"{path}: tensor {name}, {dtype} {list(shape)}, has {len(data):,} bytes; damaged")
    return TensorSize(name, shape, dtype, bits, values, count_non_zero(data, dtype, values))
