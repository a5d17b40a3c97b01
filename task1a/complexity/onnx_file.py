"""ONNX models, with or without external data in the same folder."""
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from task1a.complexity.tensors import TensorSize, package, readable, unknown_type
from task1a.errors import InputError, shown

MAX_MEMORY = 1 << 26
"""Maximum memory of the objects of a message, in bytes."""

# bytes of memory per field, per packed number, and per byte of a text or tensor: its own and a copy for counting
_FIELD_MEMORY, _NUMBER_MEMORY, _TEXT_MEMORY = 200, 16, 2


def read_onnx(path: Path) -> Iterator[TensorSize]:
    """Yield the initializers and constants of an ONNX model, including its training graphs and functions."""
    onnx = package("onnx", path)
    with readable(path, "ONNX model"):
        content = path.read_bytes()
        _check_memory(content, onnx.ModelProto.DESCRIPTOR)
        model = onnx.load_model_from_string(content)
        del content
        # protobuf reads many other files as a model without content
        if not (model.ir_version and model.opset_import and model.HasField("graph")):
            raise InputError(f"{path}: not an ONNX model, or truncated")
        graphs = [model.graph]
        for training in model.training_info:
            graphs += [training.initialization, training.algorithm]
        for graph in (*graphs, *model.functions):
            for name, tensor in _tensors(onnx, graph):
                yield _size(onnx, path, name, tensor)


def _check_memory(content: bytes, message: Any) -> None:
    """Reject a message whose objects would take too much memory; an empty part has 2 bytes in a file, 200 in memory.

    ``message`` is the descriptor of its type. Raises ValueError if it is too large, IndexError if it is truncated.
    """
    memory, parts = 0, [(0, len(content), message)]
    while parts:
        place, end, message = parts.pop()
        while place < end:
            tag, place = _varint(content, place)
            field, wire_type = message.fields_by_number.get(tag >> 3), tag & 7
            memory += _FIELD_MEMORY
            if wire_type == 0:
                _, place = _varint(content, place)
            elif wire_type in (1, 5):
                place += 8 if wire_type == 1 else 4
            elif wire_type == 2:
                length, place = _varint(content, place)
                if field is not None and field.message_type:
                    parts.append((place, min(place + length, end), field.message_type))
                else:  # text, bytes or packed numbers
                    text = field is None or field.type in (field.TYPE_STRING, field.TYPE_BYTES)
                    memory += length * (_TEXT_MEMORY if text else _NUMBER_MEMORY)
                place += length
            if memory > MAX_MEMORY:
                raise ValueError(f"it would take more than {MAX_MEMORY:,} B of memory")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Decode a number of protobuf, seven bits per byte; returns it and the place behind it."""
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return number, place


def _tensors(onnx: ModuleType, graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and TensorProto of everything that a graph or function stores, in nested graphs as well.

    Of sparse tensors only the values are yielded, because indices do not count.
    """
    if isinstance(graph, onnx.GraphProto):
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            yield tensor.name, tensor
    for node in graph.node:
        output = node.output[0] if node.output else node.name
        constant = node.op_type == "Constant"
        for attribute in node.attribute:
            name = output if constant else f"{output}.{attribute.name}"
            for nested in (*attribute.graphs, attribute.g):
                yield from _tensors(onnx, nested)

            tensors = [*attribute.tensors, *(sparse.values for sparse in attribute.sparse_tensors)]
            if attribute.HasField("sparse_tensor"):
                tensors.append(attribute.sparse_tensor.values)
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            floats, ints = list(attribute.floats), []
            if constant:  # other single numbers and integers are settings, e.g. strides
                floats += [attribute.f] if attribute.HasField("f") else []
                ints = [*attribute.ints, *([attribute.i] if attribute.HasField("i") else [])]
            for kind, numbers in ((onnx.TensorProto.FLOAT, floats), (onnx.TensorProto.INT64, ints)):
                if numbers:
                    tensors.append(onnx.helper.make_tensor(name, kind, [len(numbers)], numbers))
            for tensor in tensors:
                yield name, tensor


def _size(onnx: ModuleType, path: Path, name: str | bytes, tensor: Any) -> TensorSize:
    import ml_dtypes  # comes with onnx

    if isinstance(name, bytes):  # protobuf returns text that is not UTF-8 as bytes
        name = name.decode(errors="replace")
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.kind in "biufc":
            bits = 8 * dtype.itemsize
        else:  # numpy holds sub-byte types in whole bytes
            bits = (ml_dtypes.iinfo if "int" in dtype.name else ml_dtypes.finfo)(dtype).bits
    except (KeyError, TypeError, ValueError):
        kinds = {number: kind for kind, number in onnx.TensorProto.DataType.items()}
        raise unknown_type(path, name, kinds.get(tensor.data_type, tensor.data_type)) from None

    with readable(path, "ONNX model", f"see its tensor {name}"):
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"a shape of {list(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            size = -(-math.prod(tensor.dims) * bits // 8)
            lengths = [entry.value for entry in tensor.external_data if entry.key == "length"]
            max_size = MAX_MEMORY // _TEXT_MEMORY
            if size > max_size or (lengths and int(lengths[-1]) != size):
                raise ValueError(f"its shape takes {size:,} bytes, of {max_size:,} at most, and its length is "
                                 f"{shown(lengths)}")
            original, tensor = tensor, type(tensor)()
            tensor.CopyFrom(original)  # some versions keep in it what they read from other files
            tensor.external_data.add(key="length", value=str(size))
        values = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
    return TensorSize(name, tuple(tensor.dims), dtype.name, bits, values.size, int(np.count_nonzero(values)))
