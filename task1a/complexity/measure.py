"""The size of a model as the challenge counts it: non-zero values times the bytes of their stored
type.

Model files of any origin are counted; several files are an ensemble, whose sizes add up.

Policies
--------
``dcase2021``: everything that is stored, including running mean and variance of batch norms, as in
the organisers' model size tool (DCASE 2021 Task 1A baseline). The limit applies to this policy.
``paper``: without running mean and variance, as in the published sizes of BC-ResNet-ASC (arXiv
2206.13909).

Scales of quantized tensors are counted. Indices of sparse tensors and the features are not, by the
rules of the challenge, and neither is what a training stores next to its model, such as the state
of the optimizer. Sizes are given in bytes, in kB of 1,000 and in KiB of 1,024 bytes, because the
rules say "KB" and the organisers' tool divides by 1,024.
"""
from collections.abc import Sequence
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
        alternatives: whether a clip is predicted by one of the models instead of all; then only the
            largest is counted, as in the rules for device-specific models.
        key: of several models in a PyTorch checkpoint, the one to count.

    Of a file that holds a model for each recording device, the largest is counted.
    Multiply-accumulates, trainable parameters and the shape of the input are None for files of
    other origin.

    Raises:
        InputError: a file cannot be counted (:func:`task1a.complexity.model_files.stored_tensors`).
    """
    passes = passes or [1] * len(paths)
    if alternatives:
        each = [measure([path], [times]) for path, times in zip(paths, passes, strict=True)]
        return max(each, key=lambda counted: counted["policies"][LIMIT_POLICY]["bytes"])
    models, tensors, listed = [], [], []
    for index, (path, times) in enumerate(zip(paths, passes, strict=True)):
        model, counted = measure_file(Path(path), times, key)
        models.append(model)
        tensors += counted
        for tensor in counted:
            listed.append({"model": index, "name": tensor.name, "shape": list(tensor.shape),
                           "dtype": tensor.dtype, "bits": tensor.bits, "values": tensor.values,
                           "non_zero": tensor.non_zero, "bytes": tensor.bytes,
                           "statistics": tensor.statistics})

    policies = {"dcase2021": _by_bits(tensors),
                "paper": _by_bits([tensor for tensor in tensors if not tensor.statistics])}
    return {
        "models": models,
        "policies": policies,
        "multiply_accumulates": _sum([model["multiply_accumulates"] for model in models]),
        "trainable_parameters": _sum([model["trainable_parameters"] for model in models]),
        "limit_bytes": LIMIT_BYTES,
        "warning_bytes": WARN_ABOVE_BYTES,
        "limit_policy": LIMIT_POLICY,
        "within_limit": policies[LIMIT_POLICY]["bytes"] <= LIMIT_BYTES,
        "tensors": listed,
    }


def measure_file(path: Path, passes: int, key: str | None) -> "tuple[dict[str, Any], list[TensorSize]]":
    """Count one file: its entry in ``models``, and the tensors that count."""
    from task1a.complexity.model_files import stored_tensors
    from task1a.safetensors_file import printable

    kept: list[TensorSize] = []
    by_reason: dict[str, list[TensorSize]] = {}
    for tensor in stored_tensors(path, key):
        if tensor.excluded:
            by_reason.setdefault(tensor.excluded, []).append(tensor)
        else:
            kept.append(tensor)
    counted, device_models = largest_device_model(kept)

    spec = None
    if path.name.lower().endswith((".safetensors", ".safetensors.xz")):
        from task1a.model_file import stated_spec  # imports torch

        spec = stated_spec(path)
    # what a file of this project says about its network; of other files only the values are known
    cost = spec.cost() if spec else None
    compressed = path.with_name(path.name + ".xz")
    return {
        "file": printable(path.name),
        "file_bytes": path.stat().st_size,
        "xz_bytes": compressed.stat().st_size if compressed.is_file() else None,
        "multiply_accumulates": passes * cost.multiply_accumulates if cost else None,
        "trainable_parameters": cost.parameters if cost else None,
        "input_shape": list(spec.input_shape) if spec else None,
        "excluded": {reason: totals(by_reason[reason]) for reason in sorted(by_reason)},
        "device_models": device_models,
    }, counted


def largest_device_model(tensors: "list[TensorSize]") -> "tuple[list[TensorSize], dict[str, int]]":
    """Return the tensors of the largest of several models, one a recording device, and all sizes.

    Tensors outside of them are part of every model. Without such models, all tensors are returned.
    """
    from task1a.complexity.tensors import device_of

    shared: list[TensorSize] = []
    by_device: dict[str, list[TensorSize]] = {}
    for tensor in tensors:
        device = device_of(tensor.name)
        (shared if device is None else by_device.setdefault(device, [])).append(tensor)
    if not by_device.keys() - {"base_model"}:
        return tensors, {}
    sizes = {}
    for device in sorted(by_device):
        sizes[device] = sum(tensor.bytes for tensor in shared + by_device[device])
    return shared + by_device[max(sizes, key=sizes.__getitem__)], sizes


def totals(tensors: "Sequence[TensorSize]") -> dict[str, float]:
    """Return the number of values (``parameters``) and of ``non_zero`` values, and the size in
    ``bytes``, ``kB`` and ``KiB``."""
    parameters, non_zero, size = 0, 0, 0
    for tensor in tensors:
        parameters += tensor.values
        non_zero += tensor.non_zero
        size += tensor.bytes
    return {"parameters": parameters, "non_zero": non_zero, "bytes": size, "kB": size / 1000,
            "KiB": size / 1024}


def _by_bits(tensors: "Sequence[TensorSize]") -> dict[str, Any]:
    """Return the totals of all tensors, and those of each bit width under ``by_bits``."""
    by_bits: dict[int, list[TensorSize]] = {}
    for tensor in tensors:
        by_bits.setdefault(tensor.bits, []).append(tensor)
    return {**totals(tensors), "by_bits": {str(bits): totals(by_bits[bits]) for bits in sorted(by_bits)}}


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Return the sum, or None if a number is unknown."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
