"""Model files: safetensors that describe themselves, so that one file without pickle is enough to
predict.

The metadata holds the architecture and its settings, the scene labels in the order of the outputs,
the features the model was trained on, how a compressed model is packed, and a digest of these and
of the tensors. The same file compressed with xz (``.safetensors.xz``), for storage and transport,
is read as well.
"""
import hashlib
import json
import lzma
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from task1a.compression.fold import fold_batch_norms, merge_batch_norms
from task1a.compression.packed import Packing, packed_form, stored_state, unpack
from task1a.config import FeatureConfig, Network
from task1a.errors import InputError, shown
from task1a.files import replacing
from task1a.models import networks
from task1a.models.cost import Cost, estimate
from task1a.models.cpu.inference_form import inference_form
from task1a.safetensors_file import SafetensorsFile, opened, printable

FORMAT = "task1a-model-2"
"""The only key of the metadata; safetensors writes several keys in a random order."""
MAX_CLIP_BYTES, MAX_CLIP_OPERATIONS = 10 ** 10, 2 ** 38
"""Maximum memory of the activations and maximum number of multiply-accumulates for one clip: 80 and
500 times those of the paper's largest network, so that the file of a stranger cannot exhaust the
machine."""
# lc = lp = pb = 0: bytes of a sparse int8 tensor do not depend on position or neighbours
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def _plain(label: str) -> str:
    if label in ("filename", "scene_label"):
        raise ValueError("this is the name of a column of prediction tables")
    if not label.isprintable() or label != label.strip() or '"' in label:
        raise ValueError("a label holds no control characters, quotation marks or spaces around it")
    return label


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label is repeated")
    return labels


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed besides the tensors to rebuild a model."""

    model: Network
    features: FeatureConfig
    labels: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_plain)], ...],
                      AfterValidator(_distinct)]
    packing: Packing | None = None
    """how a compressed model is packed; None for a vanilla model, which is float32 throughout"""

    def build(self) -> nn.Module:
        """Build the front end and the network with random weights; batch norms of a compressed
        model are merged."""
        network = networks.build(len(self.labels), self.model.name, **self.model.settings)
        features = self.features
        model = networks.with_front_end(network, self.model.front_end, features.n_mels,
                                        features.sample_rate / features.hop, features.log_floor)
        return model if self.packing is None else merge_batch_norms(model)

    def stored_form(self) -> dict[str, Tensor]:
        """Return tensors without data, with the names, shapes and types of such a model's file."""
        model = _outline(replace(self, packing=None))
        return stored_state(model) if self.packing is None else packed_form(model, self.packing)

    def cost(self, batch_size: int = 2) -> Cost:
        """Return parameters, multiply-accumulates for a clip, and memory of a training step."""
        return _cost(replace(self, packing=None), batch_size)

    def activation_bytes(self) -> int:
        """Estimate the memory for one clip: all activations together, although not all are needed
        at the same time."""
        return self.cost().training_bytes // 2

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, mel bins, frames) of one clip."""
        return 1, self.features.n_mels, self.features.frames


# One command loads several files of one architecture, or one file several times, so its outline is
# built only once.
@lru_cache(maxsize=8)
def _outline(spec: ModelSpec) -> nn.Module:
    with torch.device("meta"):  # names, shapes and types, without memory for the values
        return spec.build()


@lru_cache(maxsize=8)
def _cost(spec: ModelSpec, batch_size: int) -> Cost:
    return estimate(_outline(spec), spec.input_shape, batch_size)


_SPEC = TypeAdapter(ModelSpec)


def save(path: Path, tensors: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write the tensors of a model with its specification, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
    contents = ((name, _kind(value), [value.reshape(-1).view(torch.uint8).numpy().tobytes()])
                for name, value in tensors.items())
    with replacing(path) as part:
        part.write_bytes(save_bytes(tensors, metadata={FORMAT: _metadata(asdict(spec), contents)}))


def save_xz(path: Path) -> Path:
    """Write a model file compressed with xz next to it, and return the path."""
    compressed = path.with_name(path.name + ".xz")
    with replacing(compressed) as part:
        part.write_bytes(lzma.compress(path.read_bytes(), check=lzma.CHECK_SHA256, filters=_XZ))
    return compressed


def load(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Load a model in evaluation mode, on the CPU and in float32.

    Raises:
        InputError: the file is missing, damaged, not a model file of this project, or its tensors
            do not fit the architecture in its metadata.
    """
    tensors, spec = read(path)
    model = spec.build()
    # not strict, because step counters of batch norms are not stored; :func:`verify` has compared names
    model.load_state_dict(tensors if spec.packing is None else unpack(tensors), strict=False)
    return model.eval(), spec


def load_for_inference(path: Path, torch_device: torch.device) -> tuple[nn.Module, ModelSpec]:
    """Load a model like :func:`load`, onto a device; on a CPU in the form that is fastest for
    inference.

    The form has the same outputs up to rounding, and no gradients
    (:mod:`task1a.models.cpu.inference_form`).
    """
    model, spec = load(path)
    if torch_device.type == "cpu":
        model = inference_form(fold_batch_norms(model, spec.input_shape), spec.input_shape)
    return model.to(torch_device), spec


def read(path: Path) -> tuple[dict[str, Tensor], ModelSpec]:
    """Read the tensors of a model as they are stored, and its specification.

    Raises:
        InputError: as :func:`load`.
    """
    tensors = {}
    with opened(path) as stored:
        spec = verify(stored)
        # read from the open file, so that what is used is what was verified, whatever replaces the file
        for name, entry in stored.tensors.items():
            content = bytearray().join(stored.blocks(name))
            dtype = getattr(torch, entry.dtype)
            flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(entry.shape)
    # Codes and scales may be finite while their products are not, so packed tensors are decoded, too.
    for name, value in (tensors if spec.packing is None else tensors | unpack(tensors)).items():
        if not value.isfinite().all():
            raise InputError(f"{path}: tensor {name} holds values that are not finite numbers; train the model again")
        if name.endswith(".running_var") and (value < 0).any():
            raise InputError(f"{path}: tensor {name} holds negative variances; train the model again")
    return tensors, spec


def find_largest(path: Path) -> tuple[str, float]:
    """Return the name of the tensor with the largest magnitude, decoded to float32, and that
    magnitude."""
    tensors, spec = read(path)
    state = tensors if spec.packing is None else unpack(tensors)
    name = max(state, key=lambda name: float(state[name].abs().max()))
    return name, float(state[name].abs().max())


def stated_spec(path: Path) -> ModelSpec | None:
    """Return the specification in a file's metadata, not checked against the tensors; None for files of
    other origin."""
    with opened(path) as stored:
        return _stated(stored)[0] if FORMAT in stored.metadata else None


def verify(stored: SafetensorsFile) -> ModelSpec:
    """Check an open model file completely and return its specification.

    Raises:
        InputError: the file is damaged or not a model file of this project, or its tensors do not
            fit the architecture.
    """
    path = stored.path
    if FORMAT not in stored.metadata:
        raise InputError(f"{path}: not a model file of this project (its metadata lacks {FORMAT!r})")
    spec, plain = _stated(stored)
    contents = ((name, _kind(entry), stored.blocks(name)) for name, entry in stored.tensors.items())
    # the whole text is compared, because the same settings can be written in several ways, e.g.
    # 1e-5
    if stored.metadata[FORMAT] != _metadata(plain, contents):
        raise InputError(f"{path}: damaged: the digest in its metadata is not that of its content")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of layers without outputs, which are rejected below
            spec.model.check_input(spec.features)
            expected = spec.stored_form()
            excess = _excess(spec, expected)
    except Exception as error:  # torch and the networks raise all kinds of exceptions for extreme settings
        raise InputError(f"{path}: damaged metadata: no model can be built from its settings "
                         f"({printable(' '.join(str(error).split()))})") from None
    if excess:
        raise InputError(f"{path}: {excess}")
    for name in sorted(set(expected) ^ set(stored.tensors)):
        state = "missing" if name in expected else "not part of the architecture"
        raise InputError(f"{path}: tensor {printable(name)} is {state}; the file was made for another model, or by "
                         "another version of this project")
    for name, value in expected.items():
        if _kind(stored.tensors[name]) != _kind(value):
            raise InputError(f"{path}: tensor {name} is {_kind(stored.tensors[name])}, the architecture needs "
                             f"{_kind(value)}")
    return spec


def _excess(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> str:
    """Return what is too much about the time and the memory for a clip; empty if nothing is.

    A bound of both is enough for most models; finding the cost itself takes a second. No layer has
    more positions than a clip has values. So a weight is used at most once for each of these, and a
    layer keeps at most that many activations in each of its channels, which both a convolution and
    the norm behind it count.
    """
    positions = spec.features.n_mels * spec.features.frames
    weights = sum(value.numel() for value in tensors.values())
    channels = sum(len(value) for name, value in tensors.items() if name.endswith(".weight"))
    if positions * weights <= MAX_CLIP_OPERATIONS and 4 * positions * channels <= MAX_CLIP_BYTES:
        return ""
    operations, activations = spec.cost().multiply_accumulates, spec.activation_bytes()
    if operations <= MAX_CLIP_OPERATIONS and activations <= MAX_CLIP_BYTES:
        return ""
    return (f"a clip of {spec.features.clip_seconds:g} s would take {operations / 1e9:,.1f} billion "
            f"multiply-accumulates and about {activations / 1e9:,.1f} GB of memory; at most "
            f"{MAX_CLIP_OPERATIONS / 1e9:,.0f} billion and {MAX_CLIP_BYTES / 1e9:,.0f} GB are allowed")


def _stated(stored: SafetensorsFile) -> tuple[ModelSpec, Mapping[str, Any]]:
    """Return the specification in the metadata, and the plain data it was read from."""
    try:
        plain = json.loads(stored.metadata[FORMAT])["spec"]
        return _SPEC.validate_json(json.dumps(plain)), plain
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        fault = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{stored.path}: damaged metadata: {printable(place)}: {printable(fault)} "
                         f"(given {shown(first['input'])})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{stored.path}: damaged metadata") from None


def _metadata(spec: Mapping[str, Any], contents: Iterable[tuple[str, str, Iterable[bytes]]]) -> str:
    """Return the text of the metadata: the specification as plain data, and the digest of it and of the
    tensors.

    ``contents`` are name, type and shape, and blocks of bytes of every tensor, in alphabetical
    order.
    """
    sha256 = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name, kind, blocks in contents:
        sha256.update(f"\n{name} {kind}\n".encode(errors="surrogatepass"))
        for block in blocks:
            sha256.update(block)
    return json.dumps({"sha256": sha256.hexdigest(), "spec": spec})


def _kind(tensor: Any) -> str:
    """Format type and shape of a tensor or of the header entry of one."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
