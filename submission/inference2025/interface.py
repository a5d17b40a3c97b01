"""The interface of the 2025 edition: a general model, and models for the recording devices that are
known.

The organisers' evaluation calls the functions of this module
(https://github.com/CPJKU/dcase2025_task1_inference). A submission contains a copy of it and of the
modules that it imports, and needs nothing else of this project.

The model files of a system are in one folder: ``general.safetensors``, and ``<device>.safetensors``
for each device with a model of its own. The logits of a clip come from the model of its device, or
from the general one.
"""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from submission.inference2025.stored import load_packed
from task1a import model_file
from task1a.errors import InputError, ModelError
from task1a.features.audio import read_clip
from task1a.features.log_mel import stored_log_mel
from task1a.machine import cores

GENERAL = "general"

# clips whose features are in memory at once
_BLOCK = 2048
_BATCH = 64


class DeviceModels(nn.Module):
    """The models of a system, with their tensors in the stored types.

    Args:
        path: folder of the model files, or a single file, the general model.

    Shape: log-mel energies [N, 1, F, T] and the device of each clip -> logits [N, classes].

    Raises:
        InputError: the general model is missing, a file is not a usable model, a mel filter of its
            features is empty, or the models differ in their features or labels.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        names = [GENERAL if file == path else file.stem for file in files]
        if GENERAL not in names:
            raise InputError(f"{path}: no such model file, and no folder with {GENERAL}.safetensors")
        # "of_" because a ModuleDict reserves the names of its methods
        self.model = nn.ModuleDict()
        self.files, specs = dict(zip(names, files, strict=True)), []
        for name, file in self.files.items():
            self.model[f"of_{name}"], spec = load_stored(file)
            specs.append(spec)
        self.features, self.labels = specs[0].features, specs[0].labels
        for file, spec in zip(files, specs, strict=True):
            if (spec.features, spec.labels) != (self.features, self.labels):
                raise InputError(f"{file}: has other features or labels than {files[0].name}")
        try:
            stored_log_mel(np.zeros(self.features.n_fft, np.float32), self.features)
        except InputError as error:
            raise ModelError(f"{files[0]}: {error}") from None

    def of_device(self, device_id: str) -> nn.Module:
        """Return the model of a device, or the general model if the device has none."""
        name = f"of_{device_id}"
        return self.model[name if name in self.model else f"of_{GENERAL}"]

    def forward(self, x: Tensor, device_ids: Sequence[str]) -> Tensor:
        logits = [self.of_device(device)(clip) for clip, device in zip(x.float().split(1), device_ids, strict=True)]
        return torch.cat(logits)


def load_model(model_file_path: str | Path) -> DeviceModels:
    """Load the models of a system in evaluation mode, on the CPU."""
    return DeviceModels(Path(model_file_path)).eval()


def get_model_for_device(model: DeviceModels, device_id: str) -> nn.Module:
    """Return the model for the clips of a device: log-mel energies [N, 1, F, T] -> logits [N,
    classes]."""
    return _TakesHalf(model.of_device(device_id))


def load_inputs(file_paths: Sequence[str], device_ids: Sequence[str], model: DeviceModels) -> list[Tensor]:
    """Return log-mel energies of recordings, [1, 1, F, T] each, in half precision as in training.

    Raises:
        InputError: there is not one device per file, or a recording cannot be read; the message
            names it.
    """
    if len(file_paths) != len(device_ids):
        raise InputError(f"{len(file_paths):,} files, but {len(device_ids):,} device ids")

    def log_mel(file: str) -> Tensor:
        try:
            values = stored_log_mel(read_clip(Path(file), model.features), model.features)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        inputs = torch.from_numpy(values).half()[None, None]
        if not inputs.isfinite().all():
            raise InputError(f"{file}: holds samples too large to compute with")
        return inputs

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(log_mel, file_paths))


@torch.inference_mode()
def predict(file_paths: Sequence[str], device_ids: Sequence[str], model_file_path: str | Path,
            use_cuda: bool = True) -> tuple[list[Tensor], list[str]]:
    """Predict recordings.

    Args:
        file_paths: the recordings.
        device_ids: the recording device of each.
        model_file_path: folder of the model files, or a single file.
        use_cuda: use a GPU if there is one.

    Returns:
        Logits [classes] of each recording, in their order, on the CPU; and the labels of the
        classes.

    Raises:
        InputError: as :func:`load_model` and :func:`load_inputs`, or the outputs of a model
            overflow.
    """
    device = torch.device("cuda" if use_cuda and torch.cuda.is_available() else "cpu")
    model = load_model(model_file_path)
    networks = {name: model_file.load_for_inference(file, device)[0] for name, file in model.files.items()}
    logits: list[Tensor] = []
    for start in range(0, len(file_paths), _BLOCK):
        devices = np.array(device_ids[start:start + _BLOCK], dtype=object)
        inputs = torch.cat(load_inputs(file_paths[start:start + _BLOCK], devices.tolist(), model))
        outputs = torch.empty(len(inputs), len(model.labels))
        # the clips of a device are predicted together by its model
        for name in sorted(set(devices)):
            network, rows = networks.get(name, networks[GENERAL]), np.flatnonzero(devices == name)
            for first in range(0, len(rows), _BATCH):
                batch = rows[first:first + _BATCH]
                outputs[batch] = network(inputs[batch].to(device).float()).cpu()
            if not outputs[rows].isfinite().all():  # the features are finite
                file = model.files.get(name, model.files[GENERAL])
                tensor, largest = model_file.find_largest(file)
                raise ModelError(f"{file}: its outputs overflow; the largest of its values, {largest:g}, "
                                 f"is in tensor {tensor}")
        logits += list(outputs)
    return logits, list(model.labels)


def load_stored(path: Path) -> tuple[nn.Module, model_file.ModelSpec]:
    """Load a model like :func:`task1a.model_file.load`, with its tensors in their stored types
    (:mod:`submission.inference2025.stored`)."""
    tensors, spec = model_file.read(path)
    if spec.packing is None:
        return model_file.load(path)
    return load_packed(spec.build(), tensors), spec


class _TakesHalf(nn.Module):
    """A network that takes clips in half precision and computes in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.float())
