"""State dictionaries of PyTorch (.pt, .pth), loaded with ``weights_only`` after a check of their pickles."""
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from task1a.complexity.tensors import TYPES, TensorSize, readable, unknown_type
from task1a.errors import InputError
from task1a.files import BoundedFile
from task1a.safetensors_file import printable

MAX_OPERATIONS = 400_000
"""Maximum number of operations of a pickle; a tensor of a state dictionary takes about 30."""

_SAVE = "save one with torch.save(model.state_dict(), FILE)"
# the old format is a sequence of pickles: two marks, the machine, the content and the names of the storages
_PICKLES = 5
# globals of a state dictionary; torch allows more, and some of them make large objects from a few bytes
_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+|torch\.(storage|serialization|nn\.parameter|_tensor) \w+|torch\._utils "
    r"_rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor|meta_tensor_no_storage)")


def read_state_dict(path: Path) -> Iterator[TensorSize]:
    """Yield the tensors of a state dictionary, stored by itself or under the key ``state_dict``."""
    with readable(path, "PyTorch file of tensors only", _SAVE):
        _check_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = _state_dict(content)
        if not tensors and isinstance(content, Mapping):
            tensors = _state_dict(content.get("state_dict"))
        if not tensors:
            raise InputError(f"{path}: no state dictionary (tensors by name), neither by itself nor under the key "
                             f"state_dict; {_SAVE}")
        yield from _sizes(path, tensors)


def _check_file(path: Path) -> None:
    """Reject a file that is damaged, or that would take too much time or memory to load."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            for _ in range(_PICKLES):
                _check_pickle(file)
            return
    with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise InputError(f"{path}: its content is compressed, which torch.save never does; not opened")
        damaged = archive.testzip()
        if damaged:
            raise InputError(f"{path}: damaged: {damaged} does not have its checksum")
        for entry in archive.infolist():
            if entry.orig_filename.lower().endswith("data.pkl"):  # torch ignores case, and accepts any of several
                with archive.open(entry) as content:
                    _check_pickle(content)


def _check_pickle(file: BinaryIO) -> None:
    """Read a pickle to its end without loading it, and reject one that is more than a state dictionary.

    Without a limit, a few bytes could cost hours: a tuple that holds one tuple twice, nested sixty times, has 2^60
    values to hash as a key. To fetch an object again therefore counts as many operations as it has values.

    Raises:
        ValueError: the pickle refers to another global, or has too many operations.
    """
    operations, memo = 0, {}
    stack: list[int | None] = []  # number of values of each object; None is a mark
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(argument):
            raise ValueError(f"{printable(argument.replace(' ', '.'), 60)} is not part of a state dictionary")

        values = 1
        for taken in reversed(opcode.stack_before):
            if taken is pickletools.stackslice:  # everything above the last mark
                while (part := stack.pop()) is not None:
                    values += part
            elif taken is not pickletools.markobject:
                values += stack.pop()
        for made in opcode.stack_after:
            stack.append(None if made is pickletools.markobject else values if "TUPLE" in opcode.name else 1)

        if "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif "GET" in opcode.name:
            stack[-1] = memo[argument]
            operations += stack[-1]
        operations += 1
        if operations > MAX_OPERATIONS:
            raise ValueError(f"a pickle of more than {MAX_OPERATIONS:,} operations")


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    """Tensors by name; None for anything but a state dictionary."""
    if not isinstance(content, Mapping):
        return None
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str):
            return None
        # quantized linear layers store their type, and weight and bias as a pair
        if isinstance(value, torch.dtype):
            continue
        if name.endswith("_packed_params") and isinstance(value, tuple) and len(value) == 2:
            weight, bias = value
            tensors[f"{name}.weight"] = weight
            if bias is not None:
                tensors[f"{name}.bias"] = bias
        else:
            tensors[name] = value
    return tensors if all(isinstance(tensor, Tensor) for tensor in tensors.values()) else None


def _sizes(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[TensorSize]:
    file_bytes, seen = path.stat().st_size, set()
    for name, tensor in tensors.items():
        if _type(tensor) not in TYPES:
            raise unknown_type(path, name, _type(tensor))
        values = tensor
        if tensor.layout is torch.sparse_coo:
            values = tensor._values()
        elif tensor.layout is not torch.strided:
            values = tensor.values()

        held = 0 if values.is_meta else values.untyped_storage().nbytes()
        if values.numel() * values.element_size() > held or held > file_bytes:
            raise InputError(f"{path}: tensor {name} has a shape of {values.numel():,} values, but fewer are stored; "
                             "save a copy of it (clone), or check whether the file is damaged")
        place = (values.data_ptr(), values.dtype, values.shape, values.stride())
        if values.numel() and place in seen:
            continue
        seen.add(place)

        yield _size(name, tensor.shape, values)
        if values.is_quantized:
            if values.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
                scale = torch.tensor(values.q_scale(), dtype=torch.float64)
                zero_point = torch.tensor(values.q_zero_point())
            else:
                scale, zero_point = values.q_per_channel_scales(), values.q_per_channel_zero_points()
            yield _size(f"{name}.scale", scale.shape, scale)
            yield _size(f"{name}.zero_point", zero_point.shape, zero_point)


def _size(name: str, shape: torch.Size, values: Tensor) -> TensorSize:
    stored = values.int_repr() if values.is_quantized else values
    return TensorSize(name, tuple(shape), _type(values), TYPES[_type(values)], values.numel(),
                      int(torch.count_nonzero(stored != 0)))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
