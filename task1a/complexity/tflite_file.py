"""TFLite models: their constant tensors with scales and zero points."""
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from task1a.complexity.tensors import MAX_AXES, TYPES, TensorSize, count_non_zero, package, readable, unknown_type
from task1a.errors import InputError
from task1a.safetensors_file import printable

_MARK = b"TFL3"
_MAX_ENTRIES = 50_000
_BLOCK = 1 << 20
# field of a tensor's table that says its values are in another file; the package does not know it yet
_EXTERNAL = 24


def read_tflite(path: Path) -> Iterator[TensorSize]:
    """Yield the constant tensors of a TFLite model; tensors that share a buffer are listed once."""
    tflite = package("tflite", path)
    with readable(path, "TFLite model"):
        content = path.read_bytes()
        if content[4:8] != _MARK:
            raise InputError(f"{path}: not a TFLite model")
        model = tflite.Model.GetRootAs(content)

        # a file can refer to one table many times: what is read must have bytes of its own
        counted, entries, referenced = set(), 0, 0
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            entries += 1 + graph.TensorsLength()
            if entries > _MAX_ENTRIES:
                raise ValueError(f"it has more than {_MAX_ENTRIES:,} graphs and tensors")
            for tensor in map(graph.Tensors, range(graph.TensorsLength())):
                name = tensor.Name() or b""
                referenced += len(name) + 4 * tensor.ShapeLength()
                if referenced > len(content) or tensor.ShapeLength() > MAX_AXES:
                    raise ValueError("its tensors share their names or shapes, or have too many axes")
                name = printable(name.decode(errors="replace"))
                if tensor._tab.Offset(_EXTERNAL):
                    raise InputError(f"{path}: the values of tensor {name} are in another file, which is not supported")

                index = tensor.Buffer()
                if index not in counted:
                    counted.add(index)
                    data = _buffer(content, model, index)
                    referenced += len(data)
                    if referenced > len(content):
                        raise ValueError("its buffers overlap")
                    if len(data):
                        yield _size(tflite, path, name, tensor, data)

                quantization = tensor.Quantization()
                if quantization is not None:
                    for part, values in (("scale", quantization.ScaleAsNumpy()),
                                         ("zero_point", quantization.ZeroPointAsNumpy())):
                        if isinstance(values, np.ndarray) and values.size:  # 0 without a list
                            yield TensorSize(f"{name}.{part}", values.shape, values.dtype.name,
                                             8 * values.dtype.itemsize, values.size, int(np.count_nonzero(values)))


def _buffer(content: bytes, model: Any, index: int) -> np.ndarray:
    """The bytes of a buffer; none for a tensor that is computed."""
    if index >= model.BuffersLength():
        raise ValueError(f"a tensor in buffer {index:,} of {model.BuffersLength():,}")
    buffer = model.Buffers(index)
    start, size = buffer.Offset(), buffer.Size()
    if start > 1:  # behind the flatbuffer, which is limited to 2 GB; 1 is a placeholder
        if start + size > len(content):
            raise ValueError("a buffer beyond its end")
        return np.frombuffer(content, np.uint8, size, start)
    return np.zeros(0, np.uint8) if buffer.DataIsNone() else buffer.DataAsNumpy()


def _size(tflite: ModuleType, path: Path, name: str, tensor: Any, data: np.ndarray) -> TensorSize:
    kinds = {number: kind for kind, number in vars(tflite.TensorType).items() if not kind.startswith("_")}
    kind = kinds.get(tensor.Type(), str(tensor.Type()))
    dtype = kind.lower()
    if dtype not in TYPES and dtype != "int4":
        raise unknown_type(path, name, kind)
    bits = TYPES.get(dtype, 4)

    shape = () if tensor.ShapeIsNone() else tuple(map(int, tensor.ShapeAsNumpy()))
    # a sparse tensor stores fewer values than its shape has
    values = math.prod(shape) if tensor.Sparsity() is None else 8 * len(data) // bits
    if min(shape, default=0) < 0 or len(data) != -(-values * bits // 8):
        raise InputError(f"{path}: tensor {name}, {dtype} {list(shape)}, has {len(data):,} bytes; damaged")

    non_zero = 0
    for start in range(0, len(data), _BLOCK):
        block = data[start:start + _BLOCK]
        if dtype == "int4":
            block = np.stack([block & 0x0F, block >> 4], axis=-1).reshape(-1)[:values - 2 * start]
        non_zero += count_non_zero(block.tobytes(), torch.uint8 if dtype == "int4" else getattr(torch, dtype))
    return TensorSize(name, shape, dtype, bits, values, non_zero)
