"""Models as safetensors files that rebuild themselves: no pickle, and one file is enough to predict.

The metadata holds the architecture and its settings, the scene labels in the order of the outputs, and the features
the model was trained on.
"""
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from task1a import models
from task1a.config import FeatureConfig, ModelConfig
from task1a.errors import InputError
from task1a.run_folder import replacing

FORMAT = "task1a-model-1"
"""the one key of the metadata: with several, safetensors writes them in an order that differs from run to run"""
# a step counter that batch norms keep for a mode that is not used here; no part of the model
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model around its tensors."""

    model: ModelConfig
    features: FeatureConfig
    labels: tuple[str, ...]

    def build(self) -> nn.Module:
        """The architecture with freshly drawn weights."""
        return models.build(len(self.labels), **asdict(self.model))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, mel bins, frames) of one clip."""
        return 1, self.features.n_mels, self.features.frames


def save(path: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write a model with its specification, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
               if not name.endswith(_COUNTER)}
    with replacing(path) as part:
        save_file(tensors, part, metadata={FORMAT: json.dumps(asdict(spec))})


def load(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Read a model back, in evaluation mode on the CPU.

    Raises:
        InputError: the file is missing, not a model file of this project, damaged, or its tensors do not fit the
            architecture that its metadata names.
    """
    spec = read_spec(path)
    model = spec.build()
    tensors = read_tensors(path)
    expected = {name: value for name, value in model.state_dict().items() if not name.endswith(_COUNTER)}
    for name in sorted(set(expected) ^ set(tensors)):
        state = "missing" if name in expected else "not part of the architecture"
        raise InputError(f"{path}: tensor {name} is {state}; the file was made for another model")
    for name, value in expected.items():
        if tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
            raise InputError(f"{path}: tensor {name} is {_kind(tensors[name])}, the architecture needs {_kind(value)}")
    model.load_state_dict(tensors, strict=False)
    return model.eval(), spec


def read_spec(path: Path) -> ModelSpec:
    """The specification in a model file's metadata."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if FORMAT not in metadata:
        raise InputError(f"{path}: not a model file of this project (its metadata lacks {FORMAT!r})")
    try:
        return TypeAdapter(ModelSpec).validate_json(metadata[FORMAT])
    except ValidationError as error:
        raise InputError(f"{path}: damaged metadata: {' '.join(str(error).split())}") from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys())}


def _opened(path: Path) -> safe_open:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such model file")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def _kind(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
