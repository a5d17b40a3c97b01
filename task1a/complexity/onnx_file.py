"""ONNX models, with or without external data in the same folder."""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from task1a.complexity.tensors import FEATURES, TYPES, TensorSize, readable, unknown_type
from task1a.errors import InputError, shown

_MAX_EXTERNAL = 1 << 25
# of a node other than a constant, more integers or letters than these are values, not settings such
# as strides
_MAX_INTEGERS, _MAX_LETTERS = 16, 64


def read_onnx(path: Path, key: None = None) -> Iterator[TensorSize]:
    """Yield the initializers and constants of an ONNX model, including its training graphs and
    functions.

    The features of a model that this project has exported are marked as excluded.
    """
    with readable(path, "ONNX model"):
        model = onnx.load_model(path, load_external_data=False)
        # protobuf reads many other files as a model without content
        if not (model.ir_version and model.opset_import and model.HasField("graph")):
            raise InputError(f"{path}: not an ONNX model, or truncated")
        ours = model.producer_name == "task1a"
        graphs = [model.graph]
        for training in model.training_info:
            graphs += [training.initialization, training.algorithm]
        for graph in (*graphs, *model.functions):
            for name, tensor in stored_in(graph):
                if isinstance(name, bytes):  # protobuf returns text that is not UTF-8 as bytes
                    name = name.decode(errors="replace")
                yield tensor_size(path, name, tensor, "features" if ours and name.startswith(FEATURES) else "")


def stored_in(graph: Any) -> Iterator[tuple[str | bytes, Any]]:
    """Yield name and TensorProto of everything that a graph or function stores, in nested graphs as
    well.

    Of sparse tensors only the values are yielded, because indices do not count.
    """
    attributes = [("", attribute, False) for attribute in getattr(graph, "attribute_proto", ())]
    for tensor in getattr(graph, "initializer", ()):  # a function has none
        yield tensor.name, tensor
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield sparse.values.name, sparse.values
    for node in graph.node:
        output = node.output[0] if node.output else node.name
        attributes += [(output, attribute, node.op_type == "Constant") for attribute in node.attribute]
    for output, attribute, constant in attributes:
        name = output if constant else f"{output}.{attribute.name}"
        for nested in (*attribute.graphs, attribute.g):
            yield from stored_in(nested)
        for tensor in (attribute.t, attribute.sparse_tensor.values, *attribute.tensors,
                       *(sparse.values for sparse in attribute.sparse_tensors)):
            if tensor.data_type:
                yield name, tensor

        floats, integers, text = list(attribute.floats), list(attribute.ints), b"".join(attribute.strings)
        if constant:
            floats += [attribute.f] if attribute.HasField("f") else []
            integers += [attribute.i] if attribute.HasField("i") else []
        text += attribute.s
        arrays = [np.array(floats, np.float32)]
        if constant or len(integers) > _MAX_INTEGERS:
            arrays.append(np.array(integers, np.int64))
        if constant or len(text) > _MAX_LETTERS:
            arrays.append(np.frombuffer(text, np.uint8))
        for array in arrays:
            if array.size:
                yield name, onnx.numpy_helper.from_array(array)


def tensor_size(path: Path, name: str, tensor: Any, excluded: str) -> TensorSize:
    """Return the size of a TensorProto, whose values may be in a file of the same folder."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = TYPES[dtype.name]
    except (KeyError, TypeError, ValueError):
        known = tensor.data_type in onnx.TensorProto.DataType.values()
        dtype = onnx.TensorProto.DataType.Name(tensor.data_type) if known else tensor.data_type
        raise unknown_type(path, name, dtype) from None

    with readable(path, "ONNX model", f"see its tensor {name}"):
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"a shape of {list(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            # the library reads the length that the file states, or else all of the other file,
            # before it looks at the shape; it refuses other folders and links itself
            size = -(-math.prod(tensor.dims) * bits // 8)
            lengths = [entry.value for entry in tensor.external_data if entry.key == "length"]
            if size > _MAX_EXTERNAL or (lengths and int(lengths[-1]) != size):
                raise ValueError(f"its shape takes {size:,} bytes, of {_MAX_EXTERNAL:,} at most, and its length is "
                                 f"{shown(lengths)}")
            tensor.external_data.add(key="length", value=str(size))
        values = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
    return TensorSize(name, tuple(tensor.dims), dtype.name, bits, values.size,
                      int(np.count_nonzero(values)), excluded)
