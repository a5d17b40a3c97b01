"""The training loop of both recipes, :mod:`task1a.training.train` and :mod:`task1a.training.compress`.

A training is repeatable and can be killed at any moment: the random generators of every epoch are seeded with (seed,
epoch, rank), and a checkpoint is written after every epoch, so a resumed training computes the same numbers.
"""
import copy
import io
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from task1a.models import cost
from task1a.predict.clips import logits
from task1a.training.augment import Draws, augment, draw
from task1a.training.examples import Examples
from task1a.training.translation import draw_translation, learn

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Augmented clips [n, 1, mel bins, frames], the model's logits for them [n, classes], target probabilities [n, classes]
-> the mean loss, a scalar."""

HISTORY = ("epoch", "learning_rate", "train_loss", "validation_accuracy", "validation_log_loss", "seconds")


@dataclass(frozen=True)
class Job:
    """One training: model, recipe, clips and output folder."""

    spec: ModelSpec
    """specification of the model"""
    recipe: TrainingConfig
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
    report: Callable[[str], None] = print
    """receives a line of text after every epoch"""
    calibration: Mapping[str, Any] | None = None
    """record of the temperature that was fitted with a pilot (``training.pilot_fraction``)"""


def check_memory(spec: ModelSpec, recipe: TrainingConfig, device: str) -> None:
    """Check that a training step fits into the memory of the device.

    Raises:
        InputError: a lower bound of the memory of a step exceeds the memory of the device.
    """
    with torch.device("meta"):
        model = spec.build()
    needed = cost.estimate(model, spec.input_shape, recipe.batch_size).training_bytes
    if recipe.precision != "32-true":
        needed //= 2
    if device_of(device) == "cuda":
        available = torch.cuda.get_device_properties(0).total_memory
    else:
        available = psutil.virtual_memory().total
    if needed > available:
        raise InputError(f"a training step of this network takes at least {needed / 1e9:,.1f} GB of memory, and the "
                         f"device has {available / 1e9:,.1f} GB; lower training.batch_size={recipe.batch_size}, or use "
                         "a smaller network or smaller features")


def launch(device: str, precision: str) -> lightning_fabric.Fabric:
    """Set up the device, the precision, the memory and, under torchrun, the process group."""
    keep_freed_memory()
    local, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    # on the CPU Fabric joins torchrun's process group only if given its size; otherwise each process trains alone
    fabric = lightning_fabric.Fabric(
        accelerator=device_of(device), devices=local, num_nodes=world // local, precision=precision,
        strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def learning_rate(step: int, steps_per_epoch: int, recipe: TrainingConfig) -> float:
    """Learning rate of a step (from 0): linear warm-up from 0 to the peak, then cosine decay to 0."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(job: Job, fabric: lightning_fabric.Fabric, model: nn.Module, loss: Loss,
        before_epoch: Callable[[int], None] = lambda epoch: None,
        as_stored: Callable[[nn.Module], nn.Module] = lambda model: model) -> nn.Module:
    """Train a model, writing ``history.csv`` and ``checkpoint.pt`` after every epoch.

    On the CPU a resumed training ends with the same weights as an undisturbed one, bit for bit.

    Args:
        job: recipe, clips and output folder.
        fabric: device, precision and processes.
        model: trained in place, and moved to the device.
        loss: loss of a batch.
        before_epoch: called with the index of every epoch; all that it changes must be part of the model's state.
        as_stored: returns the model to validate, e.g. with quantized weights.

    Returns:
        The model to store: ``model``, or the moving average of its weights and running statistics.

    Raises:
        InputError: there are too few clips for one step, the loss is not finite, or the checkpoint is damaged.
    """
    recipe, features = job.recipe, job.spec.features
    rank, world = fabric.global_rank, fabric.world_size
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum,
                                weight_decay=recipe.weight_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    state = {"identity": job.identity, "model": model, "optimizer": optimizer, "history": []}
    if recipe.averaging_epochs:
        state["average"] = copy.deepcopy(model)
    stored = state.get("average", model)
    _load(job.folder / "checkpoint.pt", state)
    history = state["history"]
    if rank == 0 and world > 1:
        job.report(f"{world} processes, {recipe.batch_size} clips per step in total")
    if rank == 0 and history:
        job.report(f"resuming after epoch {len(history)} of {recipe.epochs}")

    train, device = job.train, fabric.device
    if device.type == "cuda" and len(history) < recipe.epochs:
        train = train.hold(device, torch.cuda.mem_get_info(device)[0])
    targets = train.probabilities(len(job.spec.labels), device)
    learnt = learn(train) if recipe.translation_probability else None
    roll_frames = round(recipe.roll_seconds * features.sample_rate / features.hop)
    for epoch in range(len(history), recipe.epochs):
        started = time.monotonic()
        before_epoch(epoch)
        torch.manual_seed(job.seed + 1_000_003 * (epoch + 1) + rank)  # for the dropout
        rng = np.random.default_rng((job.seed, epoch, 1 + rank))
        order = np.random.default_rng((job.seed, epoch)).permutation(len(train))
        # everything random is on the device before the first step, so that no step waits for the host
        steps = []
        for indices in batches_of(order, recipe.batch_size, world):
            own = indices[rank::world]
            draws = draw(len(own), features.n_mels, features.frames, recipe, roll_frames, rng)
            if recipe.translation_probability:
                drawn = draw_translation(learnt, train.from_reference[own], recipe.translation_probability, rng)
                draws = replace(draws, translation=drawn)
            steps.append((torch.from_numpy(own).to(device), draws.to(device)))

        wrapped.train()
        mean_loss = fabric.all_reduce(
            train_epoch(epoch, steps, train, targets, recipe, fabric, wrapped, optimizer, loss,
                        state.get("average"))).item()
        if not math.isfinite(mean_loss):
            raise InputError(f"epoch {epoch + 1}: the training loss is {mean_loss}; lower the learning rate")

        with fabric.autocast():
            accuracy, log_loss = validate(as_stored(stored), job.validation, recipe.batch_size, device)
        rate = learning_rate((epoch + 1) * len(steps) - 1, len(steps), recipe)
        history.append([epoch + 1, rate, mean_loss, accuracy, log_loss, round(time.monotonic() - started, 2)])
        if rank == 0:
            _save(job.folder / "checkpoint.pt", state)
            _write_history(job.folder / "history.csv", history)
            job.report(_progress(history, recipe.epochs))
    if rank == 0:
        _write_history(job.folder / "history.csv", history)
    return stored


def train_epoch(epoch: int, steps: Sequence[tuple[Tensor, Draws]], examples: Examples, targets: Tensor,
                recipe: TrainingConfig, fabric: lightning_fabric.Fabric, model: nn.Module,
                optimizer: torch.optim.Optimizer, loss: Loss, average: nn.Module | None) -> Tensor:
    """Train for one epoch. If the clips are held on the device, nothing is copied to it and no step waits for it.

    Args:
        epoch: number of the epoch, from 0.
        steps: indices of the clips of each batch, and the random parameters of its augmentation, on the device.
        examples: the clips.
        targets: probabilities of the classes of all clips [clips, classes], on the device.
        recipe: hyperparameters.
        fabric: does the backward pass.
        model: the model in training mode.
        optimizer: its optimizer; the learning rate is set here.
        loss: loss of a batch.
        average: model that receives the moving average of the weights and running statistics.

    Returns:
        The mean loss of the steps, a scalar on the device.
    """
    # the average begins with the weights after the first step
    decay = math.exp(-1 / (recipe.averaging_epochs * len(steps))) if recipe.averaging_epochs else 0.0
    total = torch.zeros((), device=targets.device)
    for number, (indices, draws) in enumerate(steps):
        rate = learning_rate(epoch * len(steps) + number, len(steps), recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, mixed = augment(examples.batch(indices, targets.device), targets[indices], draws, recipe)
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


def validate(model: nn.Module, examples: Examples, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Overall accuracy in percent and log loss in nats; NaN if there are no clips."""
    if not len(examples):
        return math.nan, math.nan
    outputs = logits(model, examples.read, len(examples), batch_size, device)
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
    left = (epochs - epoch) * float(np.median([row[-1] for row in history]))
    left_text = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
    validation = "" if math.isnan(accuracy) else f"  validation accuracy {accuracy:.1f} %  log loss {log_loss:.3f}"
    return (f"epoch {epoch}/{epochs}  loss {loss:.3f}{validation}  rate {rate:.4f}  "
            f"{history[-1][-1]:.1f} s, {left_text} left")
