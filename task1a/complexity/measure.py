"""The size of a model as the challenge counts it: non-zero values times the bytes of their stored type.

Model files of any origin are counted; several files are an ensemble, whose sizes add up.

Policies
--------
``dcase2021``: everything that is stored, including running mean and variance of batch norms, as in the organisers'
model size tool (DCASE 2021 Task 1A baseline). The limit applies to this policy.
``paper``: without running mean and variance, as in the published sizes of BC-ResNet-ASC (arXiv 2206.13909).

Scales of quantized tensors are counted. Indices of sparse tensors and the features are not, by the rules of the
challenge, and neither is what a training stores next to its model, such as the state of the optimizer. Sizes are given
in bytes, in kB of 1,000 and in KiB of 1,024 bytes, because the rules say "KB" and the organisers' tool divides by
1,024.
"""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from task1a.challenge import LIMIT_BYTES, WARN_ABOVE_BYTES

if TYPE_CHECKING:
    from task1a.complexity.tensors import TensorSize

LIMIT_POLICY = "dcase2021"


def measure(paths: Sequence[Path], passes: Sequence[int] | None = None, alternatives: bool = False,
            key: str | None = None) -> dict[str, Any]:
    """Count the model files of a system; the result is the content of ``complexity.json``.

    Args:
        paths: model files.
        passes: number of forward passes per clip of each model; default: one.
        alternatives: whether a clip is predicted by one of the models instead of all; then only the largest is
            counted, as in the rules for device-specific models.
        key: of several models in a PyTorch checkpoint, the one to count.

    Of a file that holds a model for each recording device, the largest is counted. Multiply-accumulates, trainable
    parameters and the shape of the input are None for files of other origin.

    Raises:
        InputError: a file cannot be counted (:func:`task1a.complexity.model_files.stored_tensors`).
    """
    from task1a.complexity.model_files import stored_tensors
    from task1a.safetensors_file import printable

    if alternatives:
        each = [measure([path], [times]) for path, times in zip(paths, passes or [1] * len(paths), strict=True)]
        return max(each, key=lambda counted: counted["policies"][LIMIT_POLICY]["bytes"])
    files, tensors = [], []
    for index, (path, times) in enumerate(zip(map(Path, paths), passes or [1] * len(paths), strict=True)):
        stored = stored_tensors(path, key)
        counted, device_models = _largest_device_model([tensor for tensor in stored if not tensor.excluded])
        tensors += [(index, tensor) for tensor in counted]
        excluded: dict[str, dict[str, float]] = {}
        for reason in sorted({tensor.excluded for tensor in stored} - {""}):
            excluded[reason] = totals([tensor for tensor in stored if tensor.excluded == reason])

        spec = None
        if path.name.lower().endswith((".safetensors", ".safetensors.xz")):
            from task1a.model_file import stated_spec  # imports torch

            spec = stated_spec(path)
        compressed = path.with_name(path.name + ".xz")
        files.append({
            "file": printable(path.name),
            "file_bytes": path.stat().st_size,
            "xz_bytes": compressed.stat().st_size if compressed.is_file() else None,
            "multiply_accumulates": times * spec.cost().multiply_accumulates if spec else None,
            "trainable_parameters": spec.cost().parameters if spec else None,
            "input_shape": list(spec.input_shape) if spec else None,
            "excluded": excluded,
            "device_models": device_models,
        })

    policies = {"dcase2021": _by_bits([tensor for _, tensor in tensors]),
                "paper": _by_bits([tensor for _, tensor in tensors if not tensor.statistics])}
    return {
        "models": files,
        "policies": policies,
        "multiply_accumulates": _sum(file["multiply_accumulates"] for file in files),
        "trainable_parameters": _sum(file["trainable_parameters"] for file in files),
        "limit_bytes": LIMIT_BYTES,
        "warning_bytes": WARN_ABOVE_BYTES,
        "limit_policy": LIMIT_POLICY,
        "within_limit": policies[LIMIT_POLICY]["bytes"] <= LIMIT_BYTES,
        "tensors": [{"model": index, "name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype,
                     "bits": tensor.bits, "values": tensor.values, "non_zero": tensor.non_zero, "bytes": tensor.bytes,
                     "statistics": tensor.statistics} for index, tensor in tensors],
    }


def _largest_device_model(tensors: "Sequence[TensorSize]") -> "tuple[Sequence[TensorSize], dict[str, int]]":
    """Of models for one recording device each, the tensors of the largest, and the bytes of each by its device.

    Tensors outside of them are part of every model. Without such models, all tensors are returned.
    """
    from task1a.complexity.tensors import device_of

    parts: dict[str | None, list[TensorSize]] = {}
    for tensor in tensors:
        parts.setdefault(device_of(tensor.name), []).append(tensor)
    if not parts.keys() - {None, "base_model"}:
        return tensors, {}
    shared = parts.pop(None, [])
    shared_bytes = sum(tensor.bytes for tensor in shared)
    sizes = {device: shared_bytes + sum(tensor.bytes for tensor in parts[device]) for device in sorted(parts)}
    return shared + parts[max(sizes, key=sizes.__getitem__)], sizes


def totals(tensors: "Sequence[TensorSize]") -> dict[str, float]:
    """Number of values (``parameters``) and of ``non_zero`` values, and size in ``bytes``, ``kB`` and ``KiB``."""
    size = sum(tensor.bytes for tensor in tensors)
    return {"parameters": sum(tensor.values for tensor in tensors),
            "non_zero": sum(tensor.non_zero for tensor in tensors),
            "bytes": size, "kB": size / 1000, "KiB": size / 1024}


def _by_bits(tensors: "Sequence[TensorSize]") -> dict[str, Any]:
    """Totals of all tensors, and those of each bit width under ``by_bits``."""
    widths = sorted({tensor.bits for tensor in tensors})
    return {**totals(tensors), "by_bits": {
        str(bits): totals([tensor for tensor in tensors if tensor.bits == bits]) for bits in widths}}


def _sum(numbers: Iterable[int | None]) -> int | None:
    numbers = list(numbers)
    return None if None in numbers else sum(numbers)
