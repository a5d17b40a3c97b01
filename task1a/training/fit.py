"""The training loop of :mod:`task1a.training.train` and :mod:`task1a.training.compress`.

A training is repeatable and can be killed at any moment: the random generators of every epoch are
seeded with (seed, epoch, rank), and a checkpoint is written after every epoch, so a resumed
training computes the same numbers.
"""
import copy
import io
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import lightning_fabric
import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.config import TrainingConfig
from task1a.errors import InputError, counted
from task1a.files import replacing, write_text
from task1a.machine import device_of, keep_freed_memory
from task1a.model_file import ModelSpec
from task1a.predict.clips import logits
from task1a.training.augment import Augmentation, Draws
from task1a.training.examples import Examples

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Augmented clips [n, 1, mel bins, frames], the model's logits for them [n, classes], target
probabilities [n, classes] -> the mean loss, a scalar."""

HISTORY = ("epoch", "learning_rate", "train_loss", "validation_accuracy", "validation_log_loss", "seconds")


@dataclass(frozen=True)
class Job:
    """One training: model, configuration, clips and output folder."""

    spec: ModelSpec
    """specification of the model"""
    config: TrainingConfig
    """hyperparameters"""
    seed: int
    """random seed"""
    train: Examples
    """training clips"""
    validation: Examples
    """validation clips, evaluated after every epoch; may be empty"""
    folder: Path
    """output folder"""
    identity: str
    """digest of everything that the result depends on"""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``"""
    log: Callable[[str], None] = print
    """receives a line of text after every epoch"""
    calibration: Mapping[str, Any] | None = None
    """record of the temperature that was fitted with a hold-out model
    (``training.pilot_fraction``)"""


def check_memory(spec: ModelSpec, config: TrainingConfig, device: str) -> None:
    """Check that a training step fits into the memory of the device.

    Raises:
        InputError: a lower bound of the memory of a step exceeds the memory of the device.
    """
    # a lower bound: the workspace of the operations and the data are not counted
    needed = spec.cost(config.batch_size).training_bytes
    if config.precision != "32-true":
        needed //= 2
    if device_of(device) == "cuda":
        available = torch.cuda.get_device_properties(0).total_memory
    else:
        available = psutil.virtual_memory().total
    if needed > available:
        raise InputError(f"a training step of this network takes at least {needed / 1e9:,.1f} GB of memory, and the "
                         f"device has {available / 1e9:,.1f} GB; lower training.batch_size={config.batch_size}, or use "
                         "a smaller network or smaller features")


def launch(device: str, precision: Literal["32-true", "bf16-mixed", "16-mixed"]) -> lightning_fabric.Fabric:
    """Set up the device, the precision, the memory and, under torchrun, the process group."""
    keep_freed_memory()
    local, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("WORLD_SIZE", 1))
    # on the CPU Fabric joins torchrun's process group only if given its size; otherwise each
    # process trains alone
    fabric = lightning_fabric.Fabric(
        accelerator=device_of(device), devices=local, num_nodes=world // local, precision=precision,
        strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def learning_rate(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up from 0 to the peak, then cosine
    decay to 0."""
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * step / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(job: Job, fabric: lightning_fabric.Fabric, model: nn.Module, loss: Loss,
        before_epoch: Callable[[int], None] = lambda epoch: None,
        as_stored: Callable[[nn.Module], nn.Module] = lambda model: model) -> nn.Module:
    """Train a model, writing ``history.csv`` and ``checkpoint.pt`` after every epoch.

    On the CPU a resumed training ends with the same weights as an undisturbed one, bit for bit.

    Args:
        job: configuration, clips and output folder.
        fabric: device, precision and processes.
        model: trained in place, and moved to the device.
        loss: loss of a batch.
        before_epoch: called with the index of every epoch; all that it changes must be part of the
            model's state.
        as_stored: returns the model to validate, e.g. with quantized weights.

    Returns:
        The model to store: ``model``, or the moving average of its weights and running statistics.

    Raises:
        InputError: there are too few clips for one step, the loss is not finite, or the checkpoint
            is damaged.
    """
    config, features, device, rank = job.config, job.spec.features, fabric.device, fabric.global_rank
    wrapped, state = set_up(job, fabric, model)
    history, average = state["history"], state.get("average")
    stored = state["model"] if average is None else average

    clips = job.train
    if device.type == "cuda" and len(history) < config.epochs:
        clips = clips.hold(device, torch.cuda.mem_get_info(device)[0])
    targets = clips.probabilities(len(job.spec.labels), device)
    roll_frames = round(config.roll_seconds * features.sample_rate / features.hop)
    augmentation = Augmentation(config, features.n_mels, features.frames, roll_frames, clips)
    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        before_epoch(epoch)
        steps = draw_steps(epoch, job.seed, len(clips), augmentation, fabric)
        wrapped.train()
        epoch_loss = train_epoch(epoch, steps, clips, targets, augmentation, fabric, wrapped,
                                 state["optimizer"], loss, average)
        mean_loss = float(cast(Tensor, fabric.all_reduce(epoch_loss)))
        if not math.isfinite(mean_loss):
            raise InputError(f"epoch {epoch + 1}: the training loss is {mean_loss}; lower the learning rate")

        # every process validates for itself: the clips are few, and the models are the same
        with fabric.autocast():
            accuracy, log_loss = validate(as_stored(stored), job.validation, config.batch_size, device)
        rate = learning_rate((epoch + 1) * len(steps) - 1, len(steps), config)
        history.append([epoch + 1, rate, mean_loss, accuracy, log_loss, round(time.monotonic() - started, 2)])
        # The history is part of the checkpoint; the table is written after it. If the process is
        # killed in between, the next one writes the table again.
        if rank == 0:
            _save(job.folder / "checkpoint.pt", state)
            _write_history(job.folder / "history.csv", history)
            job.log(_progress(history, config.epochs))
    if rank == 0:
        _write_history(job.folder / "history.csv", history)
    return stored


def set_up(job: Job, fabric: lightning_fabric.Fabric, model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Prepare a training, or continue it from its checkpoint.

    Returns:
        The model as it is trained, on the device and with the gradients of all processes, and the
        state of the training, which is what a checkpoint contains.
    """
    config = job.config
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=config.momentum,
                                weight_decay=config.weight_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    history: list[list[float]] = []
    # the model without its wrapper, so that a checkpoint does not depend on the number of processes
    state: dict[str, Any] = {"identity": job.identity, "model": model, "optimizer": optimizer, "history": history}
    if config.averaging_epochs:
        state["average"] = copy.deepcopy(model)
    _load(job.folder / "checkpoint.pt", state)
    if fabric.global_rank == 0 and fabric.world_size > 1:
        job.log(f"{fabric.world_size} processes, {config.batch_size} clips per step in total")
    if fabric.global_rank == 0 and history:
        job.log(f"resuming after epoch {len(history)} of {config.epochs}")
    return wrapped, state


def draw_steps(epoch: int, seed: int, clips: int, augmentation: Augmentation,
               fabric: lightning_fabric.Fabric) -> list[tuple[Tensor, Draws]]:
    """Draw the order of the clips of an epoch and their augmentation, and seed torch, which draws the
    rest in its steps: dropout and Freq-MixStyle.

    Returns:
        For each step of this process, the indices of its clips and their draws. They are on the
        device before the first step, so that no step waits for the host.
    """
    rank, world = fabric.global_rank, fabric.world_size
    # The factor is a prime that is larger than usual seeds and numbers of processes, so that no two of
    # seed, epoch and rank share a stream; and none depends on the epochs before in this process.
    torch.manual_seed(seed + 1_000_003 * (epoch + 1) + rank)
    order = np.random.default_rng((seed, epoch)).permutation(clips)  # the same in every process, which take turns
    rng = np.random.default_rng((seed, epoch, 1 + rank))
    steps = []
    for indices in batches_of(order, augmentation.config.batch_size, world):
        own = indices[rank::world]
        draws = augmentation.draw(own, rng)
        steps.append((torch.from_numpy(own).to(fabric.device), draws.to(fabric.device)))
    return steps


def train_epoch(epoch: int, steps: Sequence[tuple[Tensor, Draws]], examples: Examples, targets: Tensor,
                augmentation: Augmentation, fabric: lightning_fabric.Fabric, model: nn.Module,
                optimizer: torch.optim.Optimizer, loss: Loss, average: nn.Module | None) -> Tensor:
    """Train for one epoch. If the clips are held on the device, nothing is copied to it and no step
    waits for it.

    Args:
        epoch: number of the epoch, from 0.
        steps: indices of the clips of each batch, and the draws of its augmentation, on the device.
        examples: the clips.
        targets: probabilities of the classes of all clips [clips, classes], on the device.
        augmentation: augments a batch; has the hyperparameters.
        fabric: does the backward pass.
        model: the model in training mode.
        optimizer: its optimizer; the learning rate is set here.
        loss: loss of a batch.
        average: model that receives the moving average of the weights and running statistics.

    Returns:
        The mean loss of the steps, a scalar on the device.
    """
    config = augmentation.config
    # the average begins with the weights after the first step
    decay = math.exp(-1 / (config.averaging_epochs * len(steps))) if config.averaging_epochs else 0.0
    total = torch.zeros((), device=targets.device)
    for number, (indices, draws) in enumerate(steps):
        rate = learning_rate(epoch * len(steps) + number, len(steps), config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, mixed = augmentation(examples.batch(indices, targets.device), targets[indices], draws)
        batch_loss = loss(x, model(x), mixed)
        optimizer.zero_grad()
        fabric.backward(batch_loss)
        optimizer.step()
        if average is not None:
            _update_average(average, model, decay if epoch + number else 0.0)
        total += batch_loss.detach()
    return total / len(steps)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    averages, values = [], []
    for averaged, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if value.is_floating_point():
            averages.append(averaged)
            values.append(value)
        else:  # pruning masks and counters have no average
            averaged.copy_(value)
    # one call for all tensors: one by one, a small network would take longer for this than for a step
    torch._foreach_lerp_(averages, values, 1 - decay)


def batches_of(order: np.ndarray, batch_size: int, world: int) -> list[np.ndarray]:
    """Divide ``order`` into batches that can be shared evenly among ``world`` processes.

    Remainders too small for batch normalization are dropped.

    Raises:
        InputError: there are too few clips for one batch.
    """
    batches = [order[k:k + batch_size] for k in range(0, len(order), batch_size)]
    batches = [batch[:len(batch) // world * world] for batch in batches]
    batches = [batch for batch in batches if len(batch) >= 2 * world]
    if not batches:
        raise InputError(f"too few training clips for a step on {counted(world, 'process', 'processes')}: {len(order)}")
    return batches


def validate(model: nn.Module, examples: Examples, batch_size: int, torch_device: torch.device) -> tuple[float, float]:
    """Return overall accuracy in percent and log loss in nats; NaN if there are no clips."""
    if not len(examples):
        return math.nan, math.nan
    outputs = logits(model, examples.read, len(examples), batch_size, torch_device)
    targets = torch.from_numpy(examples.targets)
    return (100 * (outputs.argmax(1) == targets).double().mean().item(),
            F.cross_entropy(outputs.double(), targets).item())


def _load(path: Path, state: dict[str, Any]) -> None:
    """Load the checkpoint into ``state`` if it exists and has the same identity."""
    if not path.is_file():
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not verify the checksums
        if damaged:
            raise ValueError(f"the checksum of {damaged} differs")
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        # a checkpoint of another training is overwritten after the first epoch
        if checkpoint["identity"] == state["identity"]:
            for key in state.keys() - {"identity", "history"}:
                state[key].load_state_dict(checkpoint[key])
            state["history"] += checkpoint["history"]
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError,
            zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a usable checkpoint ({' '.join(str(error).split())[:120]}); "
                         "remove it to train from the beginning") from None


def _save(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()  # a full disk is an OSError for a plain file, but a RuntimeError for torch
    plain = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in state.items()}
    torch.save(plain, content)
    with replacing(path) as part:
        part.write_bytes(content.getvalue())


def _write_history(path: Path, history: list[list[float]]) -> None:
    table = pd.DataFrame(history, columns=list(HISTORY))
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def _progress(history: list[list[float]], epochs: int) -> str:
    epoch, rate, loss, accuracy, log_loss, _ = history[-1]
    # the median, because the first epoch of a process takes longer, and a pause may lie in another
    left = (epochs - epoch) * float(np.median([row[-1] for row in history]))
    left_text = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
    validation = "" if math.isnan(accuracy) else f"  validation accuracy {accuracy:.1f} %  log loss {log_loss:.3f}"
    return (f"epoch {epoch}/{epochs}  loss {loss:.3f}{validation}  rate {rate:.4f}  "
            f"{history[-1][-1]:.1f} s, {left_text} left")
