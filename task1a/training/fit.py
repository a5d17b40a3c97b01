"""The training loop, and with it the vanilla model: from cached log-mel energies to ``model.safetensors``.

A run is repeatable and can be killed at any moment: every epoch draws from generators that are seeded by (seed, epoch)
alone, and the state after each epoch lies in the checkpoint, so a resumed run goes through the same numbers.
"""
import io
import math
import os
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning_fabric
import numpy as np
import pandas as pd
import psutil
import torch
from scipy.optimize import minimize_scalar
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from torch.nn import functional as F

from task1a import model_file, models
from task1a.compression.packed import stored_state
from task1a.config import TrainingConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.predict import ReadClips, logits
from task1a.run_folder import replacing, write_text
from task1a.training.augment import augment

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Augmented clips [n, 1, mel bins, frames], the model's logits for them [n, classes], target probabilities [n, classes]
-> the mean loss, a scalar."""

HISTORY = ("epoch", "learning_rate", "train_loss", "validation_accuracy", "validation_log_loss", "seconds")


@dataclass(frozen=True)
class Examples:
    """Clips by index, ``read`` giving their log-mel energies, and their class indices ``targets`` [clips]."""

    read: ReadClips
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Clips [n, 1, mel bins, frames] and their class indices [n], on ``device``."""
        x = torch.from_numpy(self.read(indices)).unsqueeze(1)
        return x.to(device), torch.from_numpy(self.targets[indices]).to(device)


@dataclass(frozen=True)
class Job:
    """What a training is given."""

    spec: ModelSpec
    """the model"""
    recipe: TrainingConfig
    """how it is trained"""
    seed: int
    """of everything random"""
    train: Examples
    """the clips it learns from"""
    validation: Examples
    """the clips it is judged by after every epoch; may be none"""
    folder: Path
    """of the files"""
    identity: str
    """stands for everything that the result depends on"""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``"""
    resume: bool = True
    """go on from the checkpoint in the folder where that is of the same identity"""
    report: Callable[[str], None] = print
    """told of every epoch"""


def device_of(name: str) -> str:
    """``cpu`` or ``cuda`` for what the user asked for: ``auto`` takes a GPU where there is one.

    Raises:
        InputError: ``cuda`` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def check_memory(spec: ModelSpec, recipe: TrainingConfig, device: str) -> None:
    """Refuse a training that cannot fit into the memory of its device, before anything is computed.

    Args:
        spec: the model.
        recipe: how it is trained.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: the least that a step takes is more than there is.
    """
    with torch.device("meta"):
        model = spec.build()
    needed = models.training_bytes(model, spec.input_shape, recipe.batch_size)
    if recipe.precision != "32-true":
        needed //= 2
    if device_of(device) == "cuda":
        there = torch.cuda.get_device_properties(0).total_memory
    else:
        there = psutil.virtual_memory().total
    if needed > there:
        raise InputError(f"a training step of this network takes {needed / 1e9:,.1f} GB or more, and there are "
                         f"{there / 1e9:,.1f} GB of memory; lower training.batch_size={recipe.batch_size}, or make the "
                         "network or its input smaller")


def rank() -> int:
    """Number of this process under torchrun; 0 leads, and is the only one that writes."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Number of processes under torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join_processes(device: str, precision: str) -> lightning_fabric.Fabric:
    """The device, the precision and, under torchrun, the group of processes.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: as lightning-fabric names it.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # on the CPU Fabric joins torchrun's group only when told its size; at its defaults each process trains alone
    group = lightning_fabric.Fabric(
        accelerator=device_of(device), devices=local, num_nodes=processes() // local, precision=precision,
        strategy="ddp" if processes() > 1 else "auto")
    group.launch()
    return group


def split_validation(clips: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Choose the validation clips: whole locations, about ``fraction`` of the clips, scenes in proportion.

    Args:
        clips: ``scene_label`` and ``identifier`` (the location) of the training split.
        fraction: 0 for no validation.
        seed: of the draw.

    Returns:
        bool [clips]: True for validation.

    Raises:
        InputError: there are too few locations to hold any out.
    """
    held_out = np.zeros(len(clips), dtype=bool)
    if fraction == 0:
        return held_out
    parts = round(1 / fraction)
    locations, largest_scene = clips.identifier.nunique(), clips.scene_label.value_counts().max()
    if min(locations, largest_scene) < parts:
        raise InputError(f"training.validation_fraction={fraction:g}: the training split ({locations} locations, at "
                         f"most {largest_scene} clips a scene) does not divide into {parts} parts; raise it, or give "
                         "0 for no validation")
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a scene with fewer clips than parts is missing from some folds, which is as good as it gets
        warnings.filterwarnings("ignore", message="The least populated class")
        held_out[next(folds.split(clips, clips.scene_label, clips.identifier))[1]] = True
    return held_out


def learning_rate(step: int, steps_per_epoch: int, recipe: TrainingConfig) -> float:
    """Rate of a step (counted from 0): linear from 0 to the peak over the warm-up, then half a cosine to 0."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(job: Job) -> None:
    """Train a model and write ``model.safetensors``, ``history.csv`` and ``checkpoint.pt`` into the job's folder.

    On the CPU a resumed run ends with the weights of an undisturbed one, bit for bit.

    Raises:
        InputError: there are too few clips for one step, the loss is no longer finite, or the checkpoint is damaged.
    """
    group = join_processes(job.device, job.recipe.precision)
    torch.manual_seed(job.seed)
    model = job.spec.build()

    def learn_statistics(epoch: int) -> None:
        if epoch == 0:  # a checkpoint has them
            models.learn_statistics(model, _clips(job.train, job.recipe.batch_size, group.device))

    fit(job, group, model, cross_entropy, learn_statistics)
    if rank() == 0:
        model_file.save(job.folder / "model.safetensors", stored_state(model), job.spec)
    group.barrier()


def cross_entropy(_: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a training without a teacher."""
    return F.cross_entropy(outputs, targets)


def fit(job: Job, group: lightning_fabric.Fabric, model: nn.Module, loss: Loss,
        before_epoch: Callable[[int], None] = lambda epoch: None,
        as_stored: Callable[[nn.Module], nn.Module] = lambda model: model) -> None:
    """Go through the epochs of the job's recipe, writing ``history.csv`` and ``checkpoint.pt`` after each; calibrate in
    the end where the recipe says so.

    Args:
        job: recipe, clips, folder.
        group: the processes.
        model: is trained in place, and put on the device of the group.
        loss: of a batch.
        before_epoch: called with the number of every epoch, counted from 0; what it changes must be part of the
            model's state.
        as_stored: gives the model that is validated.
    """
    recipe, folder = job.recipe, job.folder
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum,
                                weight_decay=recipe.weight_decay)
    wrapped, optimizer = group.setup(model, optimizer)
    history = _load_checkpoint(folder / "checkpoint.pt", job.identity, model, optimizer) if job.resume else []
    leads = rank() == 0
    if leads and processes() > 1:
        job.report(f"{group.world_size} processes, {recipe.batch_size} clips a step together")
    if leads and history:
        job.report(f"going on after epoch {len(history)} of {recipe.epochs}")
    for epoch in range(len(history), recipe.epochs):
        started = time.monotonic()
        before_epoch(epoch)
        rate, mean_loss = _train_epoch(job, group, wrapped, optimizer, loss, epoch)
        with group.autocast():
            accuracy, log_loss = validate(as_stored(model), job.validation, recipe.batch_size, group.device)
        history.append([epoch + 1, rate, mean_loss, accuracy, log_loss, round(time.monotonic() - started, 2)])
        if leads:
            _save_checkpoint(folder / "checkpoint.pt", job.identity, model, optimizer, history)
            _write_history(folder / "history.csv", history)
            job.report(_progress(history, recipe.epochs))
    if leads:
        _write_history(folder / "history.csv", history)
    if recipe.calibrate and len(job.validation):
        calibrate(model, job, group.device)


def validate(model: nn.Module, examples: Examples, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Accuracy in percent of the clips and log loss (natural); NaN where there are no clips."""
    if not len(examples):
        return math.nan, math.nan
    outputs = logits(model, examples.read, len(examples), batch_size, device)
    targets = torch.from_numpy(examples.targets)
    return (100 * (outputs.argmax(1) == targets).double().mean().item(),
            F.cross_entropy(outputs.double(), targets).item())


def calibrate(model: nn.Module, job: Job, device: torch.device) -> float:
    """Divide the logits by the temperature of least log loss on the validation clips (Guo et al., *On calibration of
    modern neural networks*, ICML 2017).

    The head is linear in its parameters and only the mean follows it, so the temperature goes into them: the model has
    the same decisions and as many parameters as before.

    Returns:
        The temperature.
    """
    examples = job.validation
    outputs = logits(model, examples.read, len(examples), job.recipe.batch_size, device).double()
    targets = torch.from_numpy(examples.targets)
    best = minimize_scalar(lambda log_t: F.cross_entropy(outputs / math.exp(log_t), targets).item(),
                           bounds=(math.log(0.1), math.log(10)), method="bounded")
    temperature = math.exp(best.x)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter /= temperature
    if rank() == 0:
        job.report(f"calibrated on the validation clips: temperature {temperature:.3f}, folded into the head")
    return temperature


def _clips(examples: Examples, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """All clips in their order, in batches."""
    for start in range(0, len(examples), batch_size):
        yield examples.batch(np.arange(start, min(start + batch_size, len(examples))), device)[0]


def _train_epoch(job: Job, group: lightning_fabric.Fabric, model: nn.Module, optimizer: torch.optim.Optimizer,
                 loss: Loss, epoch: int) -> tuple[float, float]:
    """One pass; returns the last learning rate and the mean training loss."""
    recipe, features = job.recipe, job.spec.features
    torch.manual_seed(job.seed + 1_000_003 * (epoch + 1) + rank())  # of the dropout
    rng = np.random.default_rng((job.seed, epoch, 1 + rank()))
    order = np.random.default_rng((job.seed, epoch)).permutation(len(job.train))
    batches = batches_of(order, recipe.batch_size, processes())
    roll_frames = round(recipe.roll_seconds * features.sample_rate / features.hop)
    total, rate = torch.zeros((), device=group.device), 0.0
    model.train()
    for number, indices in enumerate(batches):
        rate = learning_rate(epoch * len(batches) + number, len(batches), recipe)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        x, classes = job.train.batch(indices[rank()::processes()], group.device)
        x, targets = augment(x, F.one_hot(classes, len(job.spec.labels)).float(), recipe, roll_frames, rng)
        if recipe.channels_last:
            x = x.to(memory_format=torch.channels_last)
        step_loss = loss(x, model(x), targets)
        optimizer.zero_grad()
        group.backward(step_loss)
        optimizer.step()
        total += step_loss.detach()
    mean = group.all_reduce(total / len(batches)).item()
    if not math.isfinite(mean):
        raise InputError(f"epoch {epoch + 1}: the training loss is {mean}; lower the learning rate")
    return rate, mean


def batches_of(order: np.ndarray, batch_size: int, world: int) -> list[np.ndarray]:
    """Cut ``order`` into batches that divide evenly among the ``world`` processes.

    A remainder too small for a batch norm is left out.

    Raises:
        InputError: there are too few clips for one batch.
    """
    batches = [order[k:k + batch_size] for k in range(0, len(order), batch_size)]
    batches = [batch[:len(batch) // world * world] for batch in batches]
    batches = [batch for batch in batches if len(batch) >= 2 * world]
    if not batches:
        raise InputError(f"{len(order)} training clips are too few for a step on {world} processes")
    return batches


def _load_checkpoint(path: Path, identity: str, model: nn.Module,
                     optimizer: torch.optim.Optimizer) -> list[list[float]]:
    """Load the checkpoint where there is one of this identity; returns the history of the epochs done."""
    if not path.is_file():
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums
        if damaged:
            raise ValueError(f"the checksum of {damaged} differs")
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        if checkpoint["identity"] != identity:
            return []
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        return checkpoint["history"]
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a usable checkpoint ({' '.join(str(error).split())[:120]}); "
                         "remove it to train from the start") from None


def _save_checkpoint(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer,
                     history: list[list[float]]) -> None:
    content = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain file as what it is
    torch.save({"identity": identity, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "history": history}, content)
    with replacing(path) as part:
        part.write_bytes(content.getvalue())


def _write_history(path: Path, history: list[list[float]]) -> None:
    table = pd.DataFrame(history, columns=list(HISTORY))
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def _progress(history: list[list[float]], epochs: int) -> str:
    epoch, rate, loss, accuracy, log_loss, _ = history[-1]
    left = (epochs - epoch) * float(np.median([row[-1] for row in history]))
    validation = "" if math.isnan(accuracy) else f"  validation accuracy {accuracy:.1f} %  log loss {log_loss:.3f}"
    return (f"epoch {epoch}/{epochs}  loss {loss:.3f}{validation}  rate {rate:.4f}  "
            f"{history[-1][-1]:.1f} s, {left / 60:.0f} min left")
