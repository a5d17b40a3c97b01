"""The vanilla training: from log-mel energies to ``model.safetensors``."""
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from task1a import model_file
from task1a.compression.packed import stored_state
from task1a.errors import InputError
from task1a.models import networks
from task1a.training.batch_norms import reestimate
from task1a.training.calibrate import calibrate
from task1a.training.fit import Job, fit, launch


def train(job: Job, initial: Path | None = None) -> None:
    """Train a model and write ``model.safetensors``, ``history.csv`` and ``checkpoint.pt``.

    Args:
        job: the training.
        initial: model file to fine-tune; default: random initial weights.

    Raises:
        InputError: the initial model is unusable or has different labels, features or architecture,
            or :func:`task1a.training.fit.fit` fails.
    """
    fabric = launch(job.device, job.config.precision)
    torch.manual_seed(job.seed)
    if initial is None:
        model = job.spec.build()
    else:
        model, spec = model_file.load(initial)
        for name, noun in (("labels", "labels"), ("features", "features"), ("model", "network settings")):
            if getattr(spec, name) != getattr(job.spec, name):
                raise InputError(f"{initial}: the initial model has different {noun}; fine-tune one with the same "
                                 f"{noun}")
        if spec.packing is not None:
            raise InputError(f"{initial}: the initial model is compressed; fine-tune the vanilla model")

    def fit_front_end(epoch: int) -> None:
        if epoch == 0 and initial is None:  # a checkpoint or an initial model contains the statistics
            networks.fit_front_end(model, job.train.batches(job.config.batch_size, fabric.device))

    model = fit(job, fabric, model, cross_entropy, fit_front_end)
    if job.config.reestimate_norms:
        reestimate(model, job.train, job.config.batch_size, job.seed, fabric.device)
    calibrate(model, job, fabric)
    if fabric.global_rank == 0:
        model_file.save(job.folder / "model.safetensors", stored_state(model), job.spec)
    fabric.barrier()


def cross_entropy(_: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss of a training without a teacher."""
    return F.cross_entropy(outputs, targets)
