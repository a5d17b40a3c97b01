"""Compression: a vanilla model is pruned, quantized to 8 bits and fine-tuned with knowledge
distillation.

Table 4 of BC-ResNet-ASC (arXiv 2206.13909), as far as it is published: one-shot magnitude pruning
of all convolution weights with ratio 0.89, 8-bit convolutions, half precision for everything else,
and knowledge distillation (Hinton et al., *Distilling the Knowledge in a Neural Network*, arXiv
1503.02531). Number of epochs, learning rate, teacher, temperature and loss weights are not
published; the defaults are in :class:`task1a.config.CompressionConfig`.
"""
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a import model_file
from task1a.compression import packed
from task1a.compression.packed import Packing
from task1a.compression.prune import magnitude_masks, ratio_at, ratio_for_bytes
from task1a.config import CompressionConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.training.batch_norms import reestimate
from task1a.training.calibrate import calibrate
from task1a.training.fit import Job, Loss, fit, launch
from task1a.training.train import cross_entropy


def compress(job: Job, config: CompressionConfig, vanilla: Path, teachers: Sequence[Path]) -> None:
    """Compress a model and write ``packed.safetensors``, its xz, ``history.csv`` and
    ``checkpoint.pt``.

    On the CPU a resumed compression ends with the same file as an undisturbed one, byte for byte.
    The model validated after every epoch is the one that would be stored.

    Args:
        job: the training of the compressed model.
        config: configuration of pruning, quantization and distillation.
        vanilla: model file to compress.
        teachers: model files of the teachers; without any, the model is trained on the labels
            alone.

    Raises:
        InputError: a model file is unusable, a teacher has different labels or features, the target
            size is out of reach, or :func:`task1a.training.fit.fit` fails.
    """
    fabric = launch(job.device, job.config.precision)
    packing = Packing(config.weight_scales)
    model, spec = load_prepared(vanilla, packing)
    ratio = choose_ratio(model, packing, config)
    # built once: after every epoch it takes what the file would hold
    stored = spec.build().eval().to(fabric.device)

    def prune(epoch: int) -> None:
        so_far = ratio_at(epoch, ratio, config.schedule, config.pruning_spread, config.pruning_steps)
        prune_to(model, so_far, config.scope)

    model = fit(job, fabric, model, _loss(config, teachers, job, fabric.device), prune,
                lambda trained: read_back(trained, stored, packing))
    if job.config.reestimate_norms:
        reestimate(model, job.train, job.config.batch_size, job.seed, fabric.device)
    calibrate(model, job, fabric)
    if fabric.global_rank == 0:
        path = job.folder / "packed.safetensors"
        model_file.save(path, packed.pack(model, packing), spec)
        small = model_file.save_xz(path)
        job.log(f"{summarize(model)}; {path.stat().st_size:,} B on disk, {small.stat().st_size:,} B as {small.name}")
    fabric.barrier()


def load_prepared(vanilla: Path, packing: Packing) -> tuple[nn.Module, ModelSpec]:
    """Load a vanilla model and prepare it for pruning and quantization.

    Returns:
        The prepared model, and the specification of the compressed model.
    """
    model, spec = model_file.load(vanilla)
    if spec.packing is not None:
        raise InputError(f"{vanilla}: is compressed already; give the vanilla model")
    packed.prepare(model, packing)
    return model, replace(spec, packing=packing)


def choose_ratio(model: nn.Module, packing: Packing, config: CompressionConfig) -> float:
    """Return the pruning ratio: as configured, or computed from the target size."""
    if config.target_bytes is None:
        return config.ratio
    # Only the int8 weights can be pruned. Everything else counts in full, as if none of it were 0,
    # so the result is below the target rather than above it.
    tensors = packed.pack(model, packing).values()
    weights = sum(value.numel() for value in tensors if value.dtype == torch.int8)
    others = sum(value.numel() * value.element_size() for value in tensors) - weights
    try:
        return ratio_for_bytes(config.target_bytes, weights, others)
    except ValueError as error:
        raise InputError(f"compression.target_bytes={config.target_bytes}: out of reach: {error}") from None


def prune_to(model: nn.Module, ratio: float, scope: Literal["global", "layer", "lamp"]) -> None:
    """Prune a prepared model by magnitude; weights pruned before stay pruned."""
    weights, masks = packed.pruning(model)
    for name, mask in magnitude_masks(weights, masks, ratio, scope).items():
        masks[name].copy_(mask)


def read_back(model: nn.Module, stored: nn.Module, packing: Packing) -> nn.Module:
    """Return ``stored``, of the form of a packed file, with what would be read back from the file
    of a prepared model."""
    stored.load_state_dict(packed.unpack(packed.pack(model, packing)), strict=False)
    return stored


def summarize(model: nn.Module) -> str:
    """Format the number of pruned weights of a prepared model, and its layers that are pruned
    completely."""
    kept = packed.pruning(model)[1]
    weights = sum(mask.numel() for mask in kept.values())
    pruned = weights - sum(int(mask.sum()) for mask in kept.values())
    empty = [name for name, mask in kept.items() if not mask.any()]
    line = f"{pruned:,} of {weights:,} convolution weights are pruned ({100 * pruned / weights:.1f} %)"
    return f"{line}, including all of {', '.join(empty)}" if empty else line


class Teacher:
    """One teacher, or several whose probabilities are averaged.

    Args:
        models: teachers in evaluation mode.
        temperature: softmax temperature.

    Shape: clips [N, 1, F, T] -> log probabilities [N, classes].
    """

    def __init__(self, models: Sequence[nn.Module], temperature: float) -> None:
        self.models = models
        self.temperature = temperature

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Log probabilities of augmented clips at the softmax temperature."""
        # the log of the mean of the probabilities, without leaving the log domain
        each = torch.stack([F.log_softmax(model(x).float() / self.temperature, dim=1) for model in self.models])
        return each.logsumexp(dim=0) - math.log(len(self.models))


def distillation_loss(outputs: Tensor, targets: Tensor, teacher: Tensor, temperature: float,
                      weights: tuple[float, float]) -> Tensor:
    """w_1 H(targets, softmax(z)) + w_2 T^2 KL(teacher || softmax(z / T)), Hinton et al. (arXiv
    1503.02531).

    T^2 compensates for the gradient of the softened softmax, which scales with 1 / T^2.

    Args:
        outputs: logits z of the student [N, classes].
        targets: class probabilities [N, classes].
        teacher: log probabilities at the same temperature [N, classes].
        temperature: softmax temperature T.
        weights: w_1, w_2.

    Returns:
        The mean loss over the clips.
    """
    student = F.log_softmax(outputs / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return weights[0] * F.cross_entropy(outputs, targets) + weights[1] * temperature ** 2 * divergence


def _loss(config: CompressionConfig, teachers: Sequence[Path], job: Job, torch_device: torch.device) -> Loss:
    if not teachers:
        return cross_entropy
    models = []
    for path in teachers:
        model, spec = model_file.load_for_inference(path, torch_device)
        for name in ("labels", "features"):
            if getattr(spec, name) != getattr(job.spec, name):
                raise InputError(f"{path}: the teacher was trained on different {name}; use one with the same {name}")
        models.append(model)
    teacher = Teacher(models, config.temperature)
    weights = config.cross_entropy_weight, config.distillation_weight

    def loss(x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        return distillation_loss(outputs, targets, teacher(x), config.temperature, weights)

    return loss
