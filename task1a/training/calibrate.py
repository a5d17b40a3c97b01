"""Temperature scaling on the validation clips (Guo et al., *On Calibration of Modern Neural
Networks*, ICML 2017).

The challenge's test set has equally many clips of every device, whereas most training clips come
from one, so every device has the same weight here. The clips of one location are not independent,
so a location counts as one observation. The temperature T maximises

    L mean(log p(true label)) - (log T)^2 / (2 s^2),

where L is the number of validation locations: the posterior of T with the prior log T ~ N(0, s^2),
s = 0.5. With the hundreds of locations of the challenge's data the prior has no influence; with a
few, it keeps T near 1.
"""
import math
from typing import Any

import lightning_fabric
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F

from task1a.files import write_json
from task1a.predict.clips import logits
from task1a.training.examples import Examples
from task1a.training.fit import Job

PRIOR_DEVIATION = 0.5
"""standard deviation of log T"""


def best_temperature(outputs: np.ndarray, targets: np.ndarray, devices: np.ndarray, locations: np.ndarray) -> float:
    """Return the temperature to divide logits by.

    Args:
        outputs: logits of the validation clips [clips, classes].
        targets: class indices [clips].
        devices: recording device of each clip [clips].
        locations: recording location of each clip [clips].
    """
    scores, classes = torch.from_numpy(outputs).double(), torch.from_numpy(targets)
    _, device, counts = np.unique(devices, return_inverse=True, return_counts=True)
    # the weights of the clips sum to 1, and those of each device to 1 / devices
    weights = torch.from_numpy(1 / (len(counts) * counts[device]))
    places = len(set(locations))

    # in log T, where T and 1 / T are as far from 1; the posterior has one maximum
    def loss(log_temperature: float) -> float:
        losses = F.cross_entropy(scores / math.exp(log_temperature), classes, reduction="none")
        return places * float(weights @ losses) + log_temperature ** 2 / (2 * PRIOR_DEVIATION ** 2)

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.1), math.log(10)), method="bounded").x)


def calibrate(model: nn.Module, job: Job, fabric: lightning_fabric.Fabric) -> float:
    """Divide the logits of a model by a temperature, and write ``calibration.json`` into the job's
    folder.

    The temperature was fitted with a hold-out model, or else it is fitted on the validation clips.
    The head is linear and only a mean follows it, so its parameters are divided instead: predicted
    labels and number of parameters do not change. Without ``training.calibrate``, or without
    validation clips, nothing happens.

    Returns:
        The temperature; 1 if nothing happens.
    """
    record = job.calibration
    if record is None:
        examples = job.validation
        if not job.config.calibrate or not len(examples):
            return 1.0
        outputs = logits(model, examples.read, len(examples), job.config.batch_size, fabric.device).double().numpy()
        record = fit_temperature(outputs, examples)
    assert isinstance(model.head, nn.Module)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.div_(record["temperature"])
    if fabric.global_rank == 0:
        write_json(job.folder / "calibration.json", record)
        job.log(f"calibrated on {record['clips']:,} validation clips: temperature {record['temperature']:.3f}, "
                   "included in the model")
    return record["temperature"]


def fit_temperature(outputs: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Fit the temperature for logits [clips, classes] of examples; returns it and what it was
    fitted on."""
    return {"temperature": best_temperature(outputs, examples.targets, examples.devices, examples.locations),
            "clips": len(examples), "locations": len(set(examples.locations)),
            "devices": sorted(set(examples.devices))}


def fit_probabilities(probabilities: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Fit the temperature for probabilities [clips, classes], e.g. the mean over several models;
    see :func:`fit_temperature`."""
    return fit_temperature(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)), examples)
