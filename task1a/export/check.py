"""Comparison of exported models with the model in torch, on the same clips."""
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.export.graph import LOG_MEL
from task1a.features.audio import read_clip
from task1a.features.log_mel import stored_log_mel
from task1a.predict.clips import logits

TOLERANCE = 1e-4
"""Maximum difference in probability between a model and its export, given the same features."""
TOLERANCE_INSIDE = 1e-3
"""The same with features inside. Where a recording has hardly any energy, Residual Normalization
enlarges the rounding errors of the features: on real recordings, features computed in float64
change probabilities by 1.1e-4, too."""
_BATCH = 8


def read_waveform(path: Path, features: FeatureConfig) -> np.ndarray:
    """Read the samples of a recording as the model takes them
    (:func:`task1a.features.audio.read_clip`).

    Raises:
        InputError: the recording cannot be read; the message names it.
    """
    try:
        return read_clip(path, features)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def noise(features: FeatureConfig) -> list[np.ndarray]:
    """Make clips of white noise, from nearly full scale to silence."""
    generator = np.random.default_rng(0)
    levels = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 0.0)
    return [generator.normal(0, 1, features.clip_samples).astype(np.float32) * np.float32(level) for level in levels]


def compare(network: nn.Module, features: FeatureConfig, exported: Sequence[Path],
            waveforms: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Predict clips with a network in torch, and with ONNX models in onnxruntime, in batches of
    several clips.

    Args:
        network: the model in evaluation mode.
        features: its features.
        exported: ONNX models, from waveforms or from log-mel energies.
        waveforms: the clips, as from :func:`read_waveform`.

    Returns:
        Probabilities, float64 [clips, classes], first of the network and then of each ONNX model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would hold up torch
    sessions = []
    for path in exported:
        sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    rows: list[list[np.ndarray]] = [[] for _ in (network, *sessions)]
    clips = iter(waveforms)
    while batch := list(itertools.islice(clips, _BATCH)):
        log_mel = np.stack([stored_log_mel(waveform, features) for waveform in batch])
        outputs = logits(network, log_mel.__getitem__, len(batch), len(batch), torch.device("cpu"))
        rows[0].append(torch.softmax(outputs.double(), dim=1).numpy())
        for session, probabilities in zip(sessions, rows[1:], strict=True):
            name = session.get_inputs()[0].name
            given = log_mel[:, None] if name == LOG_MEL else np.stack(batch)
            probabilities.append(session.run(None, {name: given})[0].astype(np.float64))
    return [np.concatenate(parts) for parts in rows]
