"""Models as safetensors files that rebuild themselves: no pickle, and one file is enough to predict.

The metadata holds the architecture and its settings, the scene labels in the order of the outputs, the features the
model was trained on, how its weights are packed where they are, and a digest of all that and of the tensors. The same
file compressed with xz (``.safetensors.xz``) is read as well: the small encoding for storage and transport.
"""
import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from task1a import models
from task1a.compression.fold import fold_batch_norms
from task1a.compression.packed import Packing, packed_form, stored_state, unpack
from task1a.config import FeatureConfig, ModelConfig
from task1a.errors import InputError
from task1a.run_folder import replacing

FORMAT = "task1a-model-2"
"""the one key of the metadata: with several, safetensors writes them in an order that differs from run to run"""
LARGEST_UNPACKED = 1 << 28
"""bytes that an xz file may unpack to; a model of the challenge has a thousandth of that"""
# no position and no context helps to predict a byte of a sparse int8 tensor
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model around its tensors."""

    model: ModelConfig
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

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, mel bins, frames) of one clip."""
        return 1, self.features.n_mels, self.features.frames


_SPEC = TypeAdapter(ModelSpec)


def save(path: Path, tensors: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write the tensors of a model with its specification, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as part:
        part.write_bytes(save_bytes(tensors, metadata={FORMAT: _metadata(asdict(spec), tensors)}))


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
    spec, tensors = _read(path)
    model = spec.build()
    model.load_state_dict(tensors if spec.packing is None else unpack(tensors), strict=False)
    return model.eval(), spec


def read_spec(path: Path) -> ModelSpec:
    """The specification in a model file's metadata."""
    return _read(path)[0]


def is_model_file(path: Path) -> bool:
    """Whether a safetensors file says that it is a model file of this project."""
    return FORMAT in _read_safetensors(path)[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, of this project or any other."""
    metadata, tensors = _read_safetensors(path)
    if FORMAT in metadata:
        _verified(path, metadata[FORMAT], tensors)
    return tensors


def _read(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    metadata, tensors = _read_safetensors(path)
    if FORMAT not in metadata:
        raise InputError(f"{path}: not a model file of this project (its metadata lacks {FORMAT!r})")
    return _verified(path, metadata[FORMAT], tensors), tensors


def _verified(path: Path, text: str, tensors: Mapping[str, Tensor]) -> ModelSpec:
    """The specification in the text of the metadata, which the tensors fit and which is whole with them."""
    try:
        plain = json.loads(text)["spec"]
        spec = _SPEC.validate_json(json.dumps(plain))
        # the text and not what it says, for 1e-5 may be written in many ways and was written in one
        whole = text == _metadata(plain, tensors)
    except ValidationError as error:
        raise InputError(f"{path}: damaged metadata: {' '.join(str(error).split())}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: damaged metadata") from None
    if not whole:
        raise InputError(f"{path}: damaged: its content is not what was written (the digest in its metadata differs)")
    _check_form(path, spec, tensors)
    return spec


def _check_form(path: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of the architecture; of that, nothing is built but names and shapes."""
    try:
        expected = spec.stored_form()
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: damaged metadata: no model can be built of its settings") from None
    for name in sorted(set(expected) ^ set(tensors)):
        state = "missing" if name in expected else "not part of the architecture"
        raise InputError(f"{path}: tensor {name} is {state}; the file was made for another model")
    for name, value in expected.items():
        if tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
            raise InputError(f"{path}: tensor {name} is {_kind(tensors[name])}, the architecture needs {_kind(value)}")


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors."""
    content = _content(Path(path))
    try:
        # by name, for the order in a file is that of the sizes of its types
        tensors = dict(sorted(load_bytes(content).items()))
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    return header.get("__metadata__", {}), tensors


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    content = path.read_bytes()
    if path.suffix != ".xz":
        return content
    reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=LARGEST_UNPACKED)
    try:
        content = reader.decompress(content, max_length=LARGEST_UNPACKED)
    except lzma.LZMAError as error:
        raise InputError(f"{path}: not a readable xz file ({error})") from None
    if not reader.eof or reader.unused_data:
        raise InputError(f"{path}: cut off, followed by something else, or larger than {LARGEST_UNPACKED:,} B when "
                         "unpacked")
    return content


def _metadata(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The text of the metadata: the specification, and the digest of that and of the tensors."""
    return json.dumps({"sha256": _digest(spec, tensors), "spec": spec})


def _digest(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the specification and the names, types, shapes and values of the tensors."""
    sha256 = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        sha256.update(f"\n{name} {_kind(value)}\n".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
