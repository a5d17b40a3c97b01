"""Models as safetensors files that rebuild themselves: no pickle, and one file is enough to predict.

The metadata holds the architecture and its settings, the scene labels in the order of the outputs, the features the
model was trained on, how its weights are packed where they are, and a digest of all that and of the tensors. The same
file compressed with xz (``.safetensors.xz``) is read as well: the small encoding for storage and transport.
"""
import hashlib
import json
import lzma
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from task1a import models
from task1a.compression.fold import fold_batch_norms
from task1a.compression.packed import Packing, packed_form, stored_state, unpack
from task1a.config import FeatureConfig, Network
from task1a.errors import InputError, shown
from task1a.files import replacing
from task1a.safetensors_file import SafetensorsFile, opened, printable

FORMAT = "task1a-model-2"
"""the one key of the metadata: with several, safetensors writes them in an order that differs from run to run"""
# no position and no context helps to predict a byte of a sparse int8 tensor
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model around its tensors."""

    model: Network
    features: FeatureConfig
    labels: tuple[str, ...]
    packing: Packing | None = None
    """how a compressed model is packed; None is a vanilla one, float32 throughout"""

    def build(self) -> nn.Module:
        """The front end and the architecture, with freshly drawn weights."""
        network = models.build(len(self.labels), self.model.name, **self.model.settings)
        features = self.features
        model = models.with_front_end(network, self.model.front_end, features.n_mels,
                                      features.sample_rate / features.hop, features.log_floor)
        folded = self.packing is not None and self.packing.folded
        return fold_batch_norms(model, self.input_shape) if folded else model

    def stored_form(self) -> dict[str, Tensor]:
        """Tensors of the names, shapes and types that a file of such a model has; they hold no data."""
        with torch.device("meta"):
            model = self.build()
            return stored_state(model) if self.packing is None else packed_form(model, self.packing)

    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of one clip, counted without memory for any weight or value."""
        with torch.device("meta"):
            model = self.build()
        return models.multiply_accumulates(model, self.input_shape)

    def trainable_parameters(self) -> int:
        """Trainable values, pruned ones included."""
        with torch.device("meta"):
            return models.parameter_count(self.build())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, mel bins, frames) of one clip."""
        return 1, self.features.n_mels, self.features.frames


_SPEC = TypeAdapter(ModelSpec)


def save(path: Path, tensors: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write the tensors of a model with its specification, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as part:
        part.write_bytes(save_bytes(tensors, metadata={FORMAT: _metadata(asdict(spec), _contents(tensors))}))


def save_xz(path: Path) -> Path:
    """Write the small encoding of a model file beside it; returns its path."""
    small = path.with_name(path.name + ".xz")
    with replacing(small) as part:
        part.write_bytes(lzma.compress(path.read_bytes(), check=lzma.CHECK_SHA256, filters=_XZ))
    return small


def load(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Read a model back, in evaluation mode on the CPU, in float32.

    Raises:
        InputError: the file is missing, not a model file of this project, damaged, or its tensors do not fit the
            architecture that its metadata names.
    """
    with opened(path) as stored:
        spec, tensors = verified(stored), _tensors(stored)
    model = spec.build()
    model.load_state_dict(tensors if spec.packing is None else unpack(tensors), strict=False)
    return model.eval(), spec


def read_spec(path: Path) -> ModelSpec:
    """The specification in a model file's metadata, which the tensors fit."""
    with opened(path) as stored:
        return verified(stored)


def stated_spec(path: Path) -> ModelSpec | None:
    """The specification in a model file's metadata, whatever its tensors are; None in a file of another maker."""
    with opened(path) as stored:
        return _stated(stored)[0] if FORMAT in stored.metadata else None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, of this project or any other."""
    with opened(path) as stored:
        if FORMAT in stored.metadata:
            verified(stored)
        return _tensors(stored)


def verified(stored: SafetensorsFile) -> ModelSpec:
    """The specification of a model file after all checks: nothing is damaged, and the tensors fit the architecture.

    The tensors are gone through block by block and not kept.

    Raises:
        InputError: one of these is not so, or it is not a model file of this project.
    """
    if FORMAT not in stored.metadata:
        raise InputError(f"{stored.path}: not a model file of this project (its metadata lacks {FORMAT!r})")
    spec, plain = _stated(stored)
    contents = ((name, str(entry), stored.blocks(name)) for name, entry in stored.tensors.items())
    # the text and not what it says, for 1e-5 may be written in many ways and was written in one
    if stored.metadata[FORMAT] != _metadata(plain, contents):
        raise InputError(f"{stored.path}: damaged: its content is not what was written (the digest in its metadata "
                         "differs)")
    _check_form(stored, spec)
    return spec


def _stated(stored: SafetensorsFile) -> tuple[ModelSpec, Mapping[str, Any]]:
    """The specification in the metadata, and the plain data that it is made of."""
    try:
        plain = json.loads(stored.metadata[FORMAT])["spec"]
        return _SPEC.validate_json(json.dumps(plain)), plain
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{stored.path}: damaged metadata: {printable(place)}: {printable(first['msg'])} "
                         f"(given {shown(first['input'])})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{stored.path}: damaged metadata") from None


def _check_form(stored: SafetensorsFile, spec: ModelSpec) -> None:
    """Refuse tensors that are not those of the architecture; of that, nothing is built but names and shapes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of layers without outputs, which are refused below
            expected = spec.stored_form()
            spec.multiply_accumulates()  # layers may fit together, and not the clips that the features make
    except Exception as error:  # torch and the networks raise all sorts over settings that nobody trains with
        raise InputError(f"{stored.path}: damaged metadata: no model can be built of its settings "
                         f"({printable(' '.join(str(error).split()))})") from None
    for name in sorted(set(expected) ^ set(stored.tensors)):
        state = "missing" if name in expected else "not part of the architecture"
        raise InputError(f"{stored.path}: tensor {printable(name)} is {state}; the file was made for another model")
    for name, value in expected.items():
        if str(stored.tensors[name]) != _kind(value):
            raise InputError(f"{stored.path}: tensor {name} is {stored.tensors[name]}, the architecture needs "
                             f"{_kind(value)}")


def _tensors(stored: SafetensorsFile) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in stored.tensors.items():
        content, dtype = bytearray(), getattr(torch, entry.dtype)
        for block in stored.blocks(name):
            content += block
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry.shape)
    return tensors


def _metadata(spec: Mapping[str, Any], contents: Iterable[tuple[str, str, Iterable[bytes]]]) -> str:
    """The text of the metadata: the specification, and the digest of that and of the tensors.

    Args:
        spec: as plain data.
        contents: name, type and shape, and bytes in blocks of every tensor, in the order of the names.
    """
    sha256 = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name, kind, blocks in contents:
        sha256.update(f"\n{name} {kind}\n".encode(errors="surrogatepass"))
        for block in blocks:
            sha256.update(block)
    return json.dumps({"sha256": sha256.hexdigest(), "spec": spec})


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Iterable[bytes]]]:
    for name, value in sorted(tensors.items()):
        yield name, _kind(value), [value.reshape(-1).view(torch.uint8).numpy().tobytes()]


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
