"""What a model file stores: the shape and type of every tensor, and how many of its values are not zero.

Files of any maker are read, and none is trusted: nothing in a file is run, nothing outside its folder is opened, and
time and memory have bounds that no file can move. Widths come from the stored type; a type that is not known is an
error and never a guess. A value counts as it is stored: the zero of a type with a zero point is a value.
"""
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from task1a.errors import InputError, shown
from task1a.files import BoundedFile
from task1a.load_cost import MOST_MEMORY, TEXT_MEMORY, check_pickle, check_protobuf
from task1a.model_file import FORMAT, verified
from task1a.safetensors_file import opened, printable

LARGEST_FILE = 1 << 30
"""The largest .safetensors file that is counted; it is read in blocks."""
LARGEST_WHOLE = 1 << 26
"""The largest file of any other kind, which memory has to hold as a whole: 500 times the limit of the challenge."""
MOST_TENSORS = 10_000
"""The most tensors of one file; the networks of the paper have a few hundred."""

_MOST_AXES = 64
_BLOCK = 1 << 20
_LONGEST_MESSAGE = 1000
# sub-byte types of torch are left out: some hold several values in what torch counts as one
_TORCH_BITS = {
    "bool": 8, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "quint8": 8, "qint8": 8, "qint32": 32, "float8_e4m3fn": 8, "float8_e4m3fnuz": 8, "float8_e5m2": 8,
    "float8_e5m2fnuz": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64, "complex64": 64,
    "complex128": 128,
}
_BITS = {**_TORCH_BITS, "int4": 4}
_SAVE = "save one with torch.save(model.state_dict(), FILE)"
# before its archives, torch wrote one pickle after another: two marks, the machine, the content and the storages' names
_PICKLES = 5
_TFLITE_MARK = b"TFL3"
# lists of a TFLite file, of which several references may share one
_TFLITE_ENTRIES = 50_000
# the place in a tensor's table of "values are in another file", which came after the schema of the package
_TFLITE_EXTERNAL = 24


@dataclass(frozen=True)
class TensorSize:
    """One stored tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    """of one value"""
    values: int
    """explicitly stored values (sparse tensors: non-default entries only)"""
    non_zero: int

    @property
    def bytes(self) -> int:
        """Of the non-zero values, rounded up."""
        return -(-self.non_zero * self.bits // 8)

    @property
    def statistics(self) -> bool:
        """Whether it is the running mean or variance of a batch norm."""
        return self.name.endswith(("running_mean", "running_var"))

    @property
    def step_counter(self) -> bool:
        """Whether it counts the training steps of one of torch's batch norms, which is no part of the model."""
        return self.name.endswith("num_batches_tracked") and self.values == 1


def stored_tensors(path: Path) -> list[TensorSize]:
    """Every tensor of a model file, step counters included. Values that several tensors share are listed once.

    Raises:
        InputError: there is no such file, its kind is unknown or needs a package that is not installed, it is damaged,
            not what its suffix says or too large to be counted, or a tensor has a type of unknown width.
    """
    path, sizes, stored_bytes = Path(path), [], 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is told in one line, as an error
            for size in _reader_of(path)(path):
                stored_bytes += size.values * size.bits // 8
                if len(sizes) == MOST_TENSORS or len(size.shape) > _MOST_AXES or stored_bytes > LARGEST_FILE:
                    raise InputError(f"{path}: too large to be counted; {MOST_TENSORS:,} tensors of {_MOST_AXES} axes "
                                     f"and together {LARGEST_FILE:,} B are the most")
                sizes.append(replace(size, name=printable(size.name)))
    except InputError as error:
        raise InputError(printable(str(error), _LONGEST_MESSAGE)) from None
    return sizes


def count_non_zero(blocks: Iterable[bytes | np.ndarray], dtype: str, values: int) -> int:
    """Count the values that are not zero; a float has a zero of either sign.

    Args:
        blocks: the bytes of the values, little-endian; all but the last of a length that 16 divides.
        dtype: their type, as numpy or torch call it.
        values: how many there are.
    """
    bits, parts = _BITS[dtype], 2 if dtype.startswith("complex") else 1
    word = np.dtype(f"<u{max(bits // parts // 8, 1)}")
    # types that end in fnuz are finite, and use the bits of the negative zero for what is not a number
    signed_zero = dtype.startswith(("float", "bfloat", "complex")) and not dtype.endswith("fnuz")
    non_zero, left = 0, parts * values
    for block in blocks:
        words = np.frombuffer(block, word)
        if bits == 4:
            words = np.stack([words & 0x0F, words >> 4], axis=-1).reshape(-1)
        words = words[:left]  # the last byte of an odd number of halves has one that is no value
        left -= len(words)
        if signed_zero:
            words = words & word.type((1 << bits // parts - 1) - 1)
        non_zero += int(np.count_nonzero(words if parts == 1 else words.reshape(-1, 2).any(axis=1)))
    return non_zero


def _reader_of(path: Path) -> Callable[[Path], Iterable[TensorSize]]:
    suffix = next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"{path}: not a kind of model file that can be counted; these are {', '.join(_READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    size, largest = path.stat().st_size, LARGEST_FILE if suffix == ".safetensors" else LARGEST_WHOLE
    if size > largest:
        advice = "" if suffix == ".safetensors" else "; save a larger model as .safetensors"
        raise InputError(f"{path}: {size:,} B, which is too large to be counted; {largest:,} B are the most{advice}")
    return _READERS[suffix]


def _read_safetensors(path: Path) -> Iterator[TensorSize]:
    with _readable(path, "safetensors file"), opened(path) as stored:
        if FORMAT in stored.metadata:
            verified(stored)
        for name, entry in stored.tensors.items():
            yield TensorSize(name, entry.shape, entry.dtype, _BITS[entry.dtype], entry.values,
                             count_non_zero(stored.blocks(name), entry.dtype, entry.values))


def _read_state_dict(path: Path) -> Iterator[TensorSize]:
    with _readable(path, "PyTorch file of tensors only", _SAVE):
        _check_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = _state_dict(content) or (isinstance(content, Mapping) and _state_dict(content.get("state_dict")))
        if not tensors:
            raise InputError(f"{path}: no state dictionary (tensors by their names), neither as a whole nor under the "
                             f"key state_dict; {_SAVE}")
        yield from _torch_sizes(path, tensors, path.stat().st_size)


def _check_torch_file(path: Path) -> None:
    """Refuse a file that has changed since it was written, or that would take much time or memory to load."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            for _ in range(_PICKLES):
                check_pickle(file)
            return
    with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise InputError(f"{path}: its content is compressed, which torch.save does not do; not opened")
        damaged = archive.testzip()
        if damaged:
            raise InputError(f"{path}: damaged: {damaged} is not what was written (its checksum differs)")
        for entry in archive.infolist():
            if entry.orig_filename.lower().endswith("data.pkl"):  # torch takes either case, and any of several
                with archive.open(entry) as content:
                    check_pickle(content)


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    """Tensors by name, or None where this is anything but a state dictionary."""
    if not isinstance(content, Mapping):
        return None
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str):
            return None
        # torch's quantized linear layers keep (weight, bias) and a type beside their tensors
        if name.endswith("_packed_params") and isinstance(value, tuple) and len(value) == 2:
            parts = {f"{name}.{part}": v for part, v in zip(("weight", "bias"), value, strict=True) if v is not None}
        else:
            parts = {} if isinstance(value, torch.dtype) else {name: value}
        if not all(isinstance(part, Tensor) for part in parts.values()):
            return None
        tensors.update(parts)
    return tensors


def _torch_sizes(path: Path, tensors: Mapping[str, Tensor], largest: float = math.inf) -> Iterator[TensorSize]:
    """Yield the sizes of tensors whose storages have at most ``largest`` bytes."""
    seen = set()
    for name, value in tensors.items():
        if _torch_type(value) not in _TORCH_BITS:
            raise _unknown_type(path, name, _torch_type(value))
        if value.layout is torch.sparse_coo:
            value = value._values()
        elif value.layout is not torch.strided:
            value = value.values()
        held = 0 if value.is_meta else value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > held or held > largest:
            raise InputError(f"{path}: tensor {name} has a shape of {value.numel():,} values, and fewer are stored; "
                             "save a copy of its own (clone) or look where the file was damaged")
        place = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and place in seen:
            continue
        seen.add(place)
        yield _torch_size(name, tensors[name].shape, value)
        if value.is_quantized:
            yield from _torch_sizes(path, _quantizer(name, value))


def _torch_size(name: str, shape: Iterable[int], value: Tensor) -> TensorSize:
    stored = value.int_repr() if value.is_quantized else value
    return TensorSize(name, tuple(shape), _torch_type(value), _TORCH_BITS[_torch_type(value)], value.numel(),
                      int(torch.count_nonzero(stored != 0)))


def _torch_type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _quantizer(name: str, value: Tensor) -> dict[str, Tensor]:
    """The scale and zero point that torch stores with a quantized tensor."""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = torch.tensor(value.q_scale(), dtype=torch.float64), torch.tensor(value.q_zero_point())
    else:
        scale, zero = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return {f"{name}.scale": scale, f"{name}.zero_point": zero}


def _read_onnx(path: Path) -> Iterator[TensorSize]:
    onnx = _package("onnx", path)
    with _readable(path, "ONNX model"):
        content = path.read_bytes()
        check_protobuf(content, onnx.ModelProto.DESCRIPTOR)
        model = onnx.load_model_from_string(content)
        del content
        # protobuf takes many other bytes for a model with nothing in it
        if not (model.ir_version and model.opset_import and model.HasField("graph")):
            raise InputError(f"{path}: not an ONNX model, or cut off")
        graphs = [model.graph]
        for training in model.training_info:
            graphs += [training.initialization, training.algorithm]
        for graph in graphs:
            for name, tensor in _graph_tensors(onnx, graph):
                yield _onnx_size(onnx, path, name, tensor)
        for function in model.functions:
            for name, tensor in _node_tensors(onnx, function.node):
                yield _onnx_size(onnx, path, name, tensor)


def _graph_tensors(onnx: ModuleType, graph: Any) -> Iterator[tuple[str, Any]]:
    """Names and TensorProtos of a graph and those within it. Of sparse tensors, the values: indices do not count."""
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        yield tensor.name, tensor
    yield from _node_tensors(onnx, graph.node)


def _node_tensors(onnx: ModuleType, nodes: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """What nodes carry as attributes: tensors, lists of floats, graphs, and the number that is a Constant."""
    for node in nodes:
        output = node.output[0] if node.output else node.name
        for attribute in node.attribute:
            name = output if node.op_type == "Constant" else f"{output}.{attribute.name}"
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graph_tensors(onnx, graph)
            sparse = (*attribute.sparse_tensors,
                      *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []))
            yield from ((name, tensor) for tensor in (*attribute.tensors, *(each.values for each in sparse)))
            if attribute.HasField("t"):
                yield name, attribute.t
            floats, ints = list(attribute.floats), []
            if node.op_type == "Constant":
                floats += [attribute.f] if attribute.HasField("f") else []
                ints = [*attribute.ints, *([attribute.i] if attribute.HasField("i") else [])]
            for kind, numbers in ((onnx.TensorProto.FLOAT, floats), (onnx.TensorProto.INT64, ints)):
                if numbers:
                    yield name, onnx.helper.make_tensor(name, kind, [len(numbers)], numbers)


def _onnx_size(onnx: ModuleType, path: Path, name: str | bytes, tensor: Any) -> TensorSize:
    if isinstance(name, bytes):  # what protobuf makes of letters that are none
        name = name.decode(errors="replace")
    kinds = {number: kind for kind, number in onnx.TensorProto.DataType.items()}
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = _numpy_bits(dtype)
    except (KeyError, TypeError, ValueError):
        raise _unknown_type(path, name, kinds.get(tensor.data_type, tensor.data_type)) from None
    with _readable(path, "ONNX model", f"see its tensor {name}"):
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"a shape of {list(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor = _with_length(tensor, -(-math.prod(tensor.dims) * bits // 8))
        values = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
    return TensorSize(name, tuple(tensor.dims), dtype.name, bits, values.size, int(np.count_nonzero(values)))


def _with_length(tensor: Any, size: int) -> Any:
    """A copy of a TensorProto that says how much of another file it takes (ValueError: too much, or another size)."""
    said = [entry.value for entry in tensor.external_data if entry.key == "length"]
    most = MOST_MEMORY // TEXT_MEMORY
    if size > most or (said and int(said[-1]) != size):
        raise ValueError(f"a shape of {size:,} bytes, of {most:,} at most, and a length of {shown(said)}")
    own = type(tensor)()
    own.CopyFrom(tensor)  # some versions keep in it what they read from other files
    own.external_data.add(key="length", value=str(size))
    return own


def _numpy_bits(dtype: np.dtype) -> int:
    """Width of one value, also of the types that ml_dtypes adds to numpy, which keeps the small ones in whole bytes."""
    import ml_dtypes  # comes with onnx
    if dtype.kind in "biufc":
        return 8 * dtype.itemsize
    try:
        return ml_dtypes.iinfo(dtype).bits
    except ValueError:
        return ml_dtypes.finfo(dtype).bits


def _read_tflite(path: Path) -> Iterator[TensorSize]:
    package = _package("tflite", path)
    with _readable(path, "TFLite model"):
        content = path.read_bytes()
        if content[4:8] != _TFLITE_MARK:
            raise InputError(f"{path}: not a TFLite model")
        model, counted, referenced, entries = package.Model.GetRootAs(content), set(), 0, 0
        for graph in _entries(model.SubgraphsLength(), model.Subgraphs):
            for tensor in _entries(graph.TensorsLength(), graph.Tensors):
                # everything that is read has bytes of its own, or reading would take longer than the file is large
                name = tensor.Name() or b""
                referenced += len(name) + 4 * tensor.ShapeLength()
                entries += 1
                if referenced > len(content) or tensor.ShapeLength() > _MOST_AXES or entries > _TFLITE_ENTRIES:
                    raise ValueError("its tensors share their names or shapes, or are too many")
                name = printable(name.decode(errors="replace"))
                if tensor._tab.Offset(_TFLITE_EXTERNAL):
                    raise InputError(f"{path}: the values of tensor {name} are in another file, which is not supported")
                index = tensor.Buffer()
                if index not in counted:
                    counted.add(index)
                    data = _tflite_data(content, model, index)
                    referenced += len(data)
                    if referenced > len(content):
                        raise ValueError("its buffers overlap")
                    if len(data):
                        yield _tflite_size(package, path, name, tensor, data)
                yield from _tflite_quantizer(name, tensor.Quantization())


def _entries(length: int, get: Callable[[int], Any]) -> Iterator[Any]:
    """Yield the entries of a list in a flatbuffer."""
    if length > _TFLITE_ENTRIES:
        raise ValueError(f"a list of {length:,} entries")
    for index in range(length):
        yield get(index)


def _tflite_data(content: bytes, model: Any, index: int) -> np.ndarray:
    """The bytes of a buffer, none where it is that of a tensor which is computed."""
    if index >= model.BuffersLength():
        raise ValueError(f"a tensor in buffer {index:,} of {model.BuffersLength():,}")
    buffer = model.Buffers(index)
    start, size = buffer.Offset(), buffer.Size()
    if start > 1:  # behind the flatbuffer, which cannot be larger than 2 GB; 1 is a place that was never filled
        if start + size > len(content):
            raise ValueError("a buffer beyond its end")
        return np.frombuffer(content, np.uint8, size, start)
    return np.zeros(0, np.uint8) if buffer.DataIsNone() else buffer.DataAsNumpy()


def _tflite_size(package: ModuleType, path: Path, name: str, tensor: Any, data: np.ndarray) -> TensorSize:
    kinds = {number: kind for kind, number in vars(package.TensorType).items() if not kind.startswith("_")}
    kind = kinds.get(tensor.Type(), str(tensor.Type()))
    dtype = kind.lower()
    if dtype not in _BITS:
        raise _unknown_type(path, name, kind)
    shape, bits = () if tensor.ShapeIsNone() else tuple(map(int, tensor.ShapeAsNumpy())), _BITS[dtype]
    # a sparse tensor stores fewer values than its shape has
    values = math.prod(shape) if tensor.Sparsity() is None else 8 * len(data) // bits
    if min(shape, default=0) < 0 or len(data) != -(-values * bits // 8):
        raise InputError(f"{path}: tensor {name}, {dtype} {list(shape)}, has {len(data):,} bytes; damaged")
    blocks = (data[start:start + _BLOCK] for start in range(0, len(data), _BLOCK))
    return TensorSize(name, shape, dtype, bits, values, count_non_zero(blocks, dtype, values))


def _tflite_quantizer(name: str, quantization: Any) -> list[TensorSize]:
    """The scales and zero points that a tensor is stored with."""
    if quantization is None:
        return []
    scale = None if quantization.ScaleIsNone() else quantization.ScaleAsNumpy()
    zero = None if quantization.ZeroPointIsNone() else quantization.ZeroPointAsNumpy()
    return [TensorSize(f"{name}.{part}", value.shape, value.dtype.name, 8 * value.dtype.itemsize, value.size,
                       int(np.count_nonzero(value)))
            for part, value in (("scale", scale), ("zero_point", zero)) if value is not None and value.size]


@contextmanager
def _readable(path: Path, kind: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library says of a file that it cannot read into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise all sorts over damaged files
        said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        said = re.split(r"\n|\. ", said)[0][:200].rstrip(".")
        said = said if " " in said else f"{type(error).__name__} {said}".strip()
        raise InputError(f"{path}: not a readable {kind} ({said}){advice and '; '}{advice}") from None


def _unknown_type(path: Path, name: str, dtype: object) -> InputError:
    return InputError(f"{path}: tensor {name} is of type {dtype}, whose width is not known")


def _package(name: str, path: Path) -> ModuleType:
    """An optional package, named like the extra that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{path}: the package {name} is needed to read it: pip install -e '.[{name}]'") from None


_READERS: dict[str, Callable[[Path], Iterator[TensorSize]]] = {
    ".safetensors": _read_safetensors, ".safetensors.xz": _read_safetensors,
    ".pt": _read_state_dict, ".pth": _read_state_dict,
    ".onnx": _read_onnx,
    ".tflite": _read_tflite,
}
