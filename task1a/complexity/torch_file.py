"""PyTorch files (.pt, .pth, .ckpt, .bin): the state dictionary in them, whatever else is in them.

A checkpoint of a training holds more than a state dictionary: settings, states of optimizers,
objects of classes that are not installed here. Only tensors and plain data are loaded
(``weights_only``). Every other object becomes a :class:`collections.Counter` with its state as
attributes, so that none of its code is run or imported.
"""
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from task1a.complexity.tensors import TYPES, TensorSize, count_non_zero, device_of, readable, unknown_type
from task1a.errors import InputError
from task1a.files import BoundedFile

_SAVE = "save one with torch.save(model.state_dict(), FILE)"
# the format before torch 1.6 is a sequence of pickles: two marks, the machine, the content, the
# names of the storages
_PICKLES = 5
_MAX_CONTAINERS = 100_000
_OPTIMIZER, _ARRAY = "optimizer state", "array of numpy"
# what trainings store next to a model
_BESIDE = re.compile(r"(?i)(hyper_?param(eter)?s|hparams|args|config|callbacks|loops|optimizers?|(lr_)?schedulers?|"
                     r"scaler|history|metrics|loss(es)?)(_states?|_state_dict)?")
# keys of models for one recording device each, and of the model for all others
_DEVICES = re.compile(r"(?i)[a-d]|s[0-9]{1,2}|unknown|device_models|general|(base|general|default)_model")
_ROLES = re.compile(r"((?:module\.|model\.)?(?:student|teacher))\.")


class _Found(NamedTuple):
    """A tensor in a checkpoint."""

    keys: tuple[str, ...]
    tensor: Tensor
    inside: str
    """what holds it, if that is an object or an optimizer, or what it is, if that is an array of
    numpy"""

    @property
    def name(self) -> str:
        return ".".join(self.keys)


class _Inert:
    """An object of numpy or functools with any state; the values of an array become a tensor."""

    tensor: Tensor | None = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if type(self).__name__.endswith("multiarray._reconstruct"):
            _, shape, dtype, _, content = state
            if isinstance(content, bytes) and np.dtype(dtype.arguments[0]).kind in "biufc":
                self.tensor = torch.from_numpy(np.frombuffer(bytearray(content), dtype.arguments[0]).reshape(shape))


def read_state_dict(path: Path, key: str | None = None) -> Iterator[TensorSize]:
    """Yield the tensors of the state dictionary of a file; what else it holds is marked as excluded.

    Args:
        path: PyTorch file, in the format of today or in the one before torch 1.6.
        key: name of the dictionary to count, if there are several, e.g. ``student`` or
            ``state_dict.student``.

    Raises:
        InputError: there is no state dictionary, or there are several and ``key`` names none of them.
    """
    with readable(path, "PyTorch file of tensors", _SAVE):
        found = find_tensors(load_tensors(path))
        models = group_models(found)
        if key and key not in models:
            asked = [part for part in found if part.name == key or part.name.startswith(f"{key}.")]
            models |= {key: asked} if asked else {}
        if not models:
            other = "".join(sorted({f", but an {part.inside}" for part in found if part.inside})[:1])
            raise InputError(f"{path}: no state dictionary (tensors by name){other}; {_SAVE}")
        if key not in models and (key or len(models) > 1):
            names = ", ".join(f"{name} (tensors: {len(parts):,})" for name, parts in models.items())
            raise InputError(f"{path}: holds {names}; choose one with --key, e.g. --key {next(iter(models))}")

        chosen = key or next(iter(models))
        # a dictionary of models by device, under a name of its own
        by_device = chosen.endswith("device_models") or not key and all(
            len(part.keys) > 2 and _DEVICES.fullmatch(part.keys[1]) for part in models[chosen])
        # Every tensor of the file is listed, in its order. What is inside the chosen model counts,
        # unless it belongs to an optimizer; an object of a class may compute something else.
        counted = set(map(id, models[chosen]))
        seen: set[object] = set()
        for part in found:
            name, excluded = part.name, ""
            if id(part) in counted and part.inside in ("", _ARRAY):
                name = name.removeprefix(f"{chosen}.")
                name = f"device_models.{name}" if by_device else name
            elif id(part) in counted and part.inside != _OPTIMIZER:
                raise InputError(f"{path}: {chosen} holds an {part.inside}, not only tensors; {_SAVE}")
            else:
                other = f"not in {chosen}" if key else "stored next to the model"
                excluded = _OPTIMIZER if part.inside == _OPTIMIZER else other
            yield from tensor_sizes(path, seen, name, part.tensor, excluded)


def load_tensors(path: Path) -> Any:
    """Load tensors and plain data; other objects are replaced."""
    # torch lists the classes that it would need without loading anything. Each gets a stand-in of
    # the same name, so that the file can be loaded, and none of the classes is imported.
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        names: set[str] = set()
        for _ in range(0 if is_zip else _PICKLES):
            names |= torch._weights_only_unpickler.get_globals_in_pkl(file)
    if is_zip:
        with BoundedFile(path) as bounded, zipfile.ZipFile(bounded) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"{path}: its content is compressed, as in a program of TorchScript; {_SAVE}")
            if damaged := archive.testzip():
                raise InputError(f"{path}: damaged: {damaged} does not have its checksum")
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))

    stand_ins: list[Any] = []
    methods: dict[str, Any]
    for name in names:
        if name.startswith(("numpy.", "functools.")):
            methods = {}
        elif name == "collections.deque":
            methods = {"__new__": lambda cls, *arguments: []}
        else:
            methods = {"__new__": _counter}
        stand_ins.append((type(name, (_Inert,), methods), name))
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _counter(cls: type, *arguments: object) -> "Counter[str]":
    """Return an object of any class, whose items and attributes torch sets as the file says."""
    counter: Counter[str] = Counter()
    counter.__dict__.update(class_name=cls.__name__, arguments=arguments)
    return counter


def find_tensors(content: Any) -> list[_Found]:
    """List every tensor of a checkpoint, in the order of the file."""
    # a stack instead of recursion, because a file can nest as deeply as it likes; its last item is
    # taken next, so what a container holds is pushed in reverse
    found: list[_Found] = []
    parts: list[tuple[tuple[str, ...], Any, str]] = [((), content, "")]
    visited: set[int] = set()
    while parts:
        keys, value, inside = parts.pop()
        if isinstance(value, _Inert):
            value, inside = value.tensor, inside or _ARRAY
        if isinstance(value, Tensor) and keys:
            found.append(_Found(keys, value, inside))
        if id(value) in visited or not isinstance(value, Mapping | list | tuple | set):
            continue
        visited.add(id(value))
        if len(visited) > _MAX_CONTAINERS:
            raise ValueError(f"it holds more than {_MAX_CONTAINERS:,} dictionaries and lists")

        # such as weight and bias of a quantized layer, under one key
        if not isinstance(value, Mapping):
            for index, part in reversed(list(enumerate(value))):
                parts.append(((*keys[:-1], ".".join((*keys[-1:], str(index)))), part, inside))
            continue
        if "param_groups" in value and "state" in value:
            inside = inside or _OPTIMIZER
        attributes = vars(value) if isinstance(value, Counter) else {}
        of_object = inside or f"object of the class {attributes.get('class_name')}"
        parts += [((*keys, str(name)), part, of_object) for name, part in reversed(attributes.items())]
        parts += [((*keys, str(name)), part, inside) for name, part in reversed(list(value.items()))]
    return found


def group_models(found: list[_Found]) -> dict[str, list[_Found]]:
    """Return the tensors that can be a model, by the key they are under; ``.`` for those under no
    other than their own."""
    groups: dict[str, list[_Found]] = {}
    for part in found:
        groups.setdefault(part.keys[0] if len(part.keys) > 1 else ".", []).append(part)
    models: dict[str, list[_Found]] = {}
    others: dict[str, list[_Found]] = {}
    for name, parts in groups.items():
        for part in parts:
            if not part.inside and part.tensor.ndim:
                random_state = part.tensor.dtype == torch.uint8 and part.tensor.ndim == 1
                (others if random_state or _BESIDE.fullmatch(part.keys[0]) else models)[name] = parts
    models = models or others  # a vector of bytes is no random state if there is nothing else
    # models by recording device are one system, of which measure counts the largest
    if len(models) > 1 and all(map(_DEVICES.fullmatch, models)):
        return {"device_models": [part for parts in models.values() for part in parts]}

    # a system for distillation, saved as one model
    roles: dict[str, list[_Found]] = {}
    for name, parts in models.items():
        for part in parts:
            if match := _ROLES.match(part.name.removeprefix(f"{name}.")):
                roles.setdefault(match[1] if name == "." else f"{name}.{match[1]}", []).append(part)
    return roles if len(models) == 1 and len(roles) > 1 else models


def tensor_sizes(path: Path, seen: set[object], name: str, tensor: Tensor,
                 excluded: str) -> Iterator[TensorSize]:
    """Yield the size of a tensor and of its scales, unless ``seen`` says that its values are
    counted already."""
    dtype = str(tensor.dtype).removeprefix("torch.").removesuffix("_x2")  # two values in a byte
    if dtype not in TYPES:
        raise unknown_type(path, name, dtype)
    values = tensor
    if tensor.layout is torch.sparse_coo:
        values = tensor._values()
    elif tensor.layout is not torch.strided:
        values = tensor.values()
    # a view may repeat values (stride 0), so its shape can be larger than what is stored
    stored = 0 if values.is_meta else values.untyped_storage().nbytes()
    if values.numel() * values.element_size() > stored or stored > path.stat().st_size:
        raise InputError(f"{path}: tensor {name} has a shape of {values.numel():,} values, but fewer are stored; "
                         "save a copy of it (clone), or check whether the file is damaged")
    memory = (device_of(name), excluded, values.data_ptr(), values.dtype, values.shape, values.stride())
    if values.numel() and memory in seen:
        return
    seen.add(memory)

    # torch keeps the scales of a quantized tensor inside it: one for all values, or one a channel
    scales = {}
    if values.is_quantized and values.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scales = {".scale": torch.tensor(values.q_scale(), dtype=torch.float64),
                  ".zero_point": torch.tensor(values.q_zero_point())}
    elif values.is_quantized:
        scales = {".scale": values.q_per_channel_scales(), ".zero_point": values.q_per_channel_zero_points()}
    numbers = 8 * values.element_size() * values.numel() // TYPES[dtype]
    non_zero = 0
    # in blocks, because making a tensor contiguous copies it
    for block in torch.split((values.int_repr() if scales else values).reshape(-1), 1 << 20):
        non_zero += count_non_zero(block.contiguous().view(torch.uint8).numpy(), dtype)
    yield TensorSize(name, tuple(tensor.shape), dtype, TYPES[dtype], numbers, non_zero, excluded)
    for part, setting in scales.items():
        yield TensorSize(name + part, tuple(setting.shape), str(setting.dtype).removeprefix("torch."),
                         8 * setting.element_size(), setting.numel(), int(setting.count_nonzero()), excluded)
