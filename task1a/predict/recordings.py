"""Prediction of recordings with a stored model, window by window.

A model file is enough: it describes the features and holds the scene labels.
"""
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import soundfile
import torch

from task1a import model_file
from task1a.data.recording import SUFFIXES
from task1a.data.sound import SoundCheck
from task1a.errors import InputError, ModelError
from task1a.features.audio import read_windows
from task1a.features.log_mel import stored_log_mel
from task1a.machine import device_of
from task1a.predict.clips import logits, probabilities

_BATCH, _BATCH_BYTES = 16, 10 ** 9  # windows per forward pass, fewer if their activations take more memory
MAX_CHANNELS = 8
"""of samples; a longer axis is that of time"""
Recording = str | Path | np.ndarray
"""the path of a recording, or its samples"""


@dataclass(frozen=True)
class Prediction:
    """Scene probabilities of a window of a recording, or of a whole recording."""

    start: float
    """start in seconds"""
    end: float
    """end in seconds"""
    probabilities: dict[str, float]
    """probability of each scene"""

    @property
    def scene(self) -> str:
        """The most probable scene."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class Predictor:
    """A stored model that predicts recordings.

    Args:
        path: model file, vanilla or packed.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: the file is not a usable model, a mel filter of its features is empty, or there
            is no such device.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.path, self.torch_device = path, torch.device(device_of(device))
        self.model, self.spec = model_file.load_for_inference(path, self.torch_device)
        features = self.spec.features
        try:
            stored_log_mel(np.zeros(features.n_fft, np.float32), features)
        except InputError as error:
            raise ModelError(f"{path}: {error}") from None

    @cached_property
    def batch_size(self) -> int:
        """Windows per forward pass. The first use takes a second, which recordings of one window
        need not wait for."""
        return max(1, min(_BATCH, _BATCH_BYTES // self.spec.activation_bytes()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Scene labels, in the order of the model's outputs."""
        return self.spec.labels

    @overload
    def predict(self, recording: Recording, rate: int | None = None) -> Prediction: ...

    @overload
    def predict(self, recording: list[Recording], rate: int | None = None) -> list[Prediction]: ...

    def predict(self, recording: Recording | list[Recording],
                rate: int | None = None) -> Prediction | list[Prediction]:
        """Predict the scene of a recording: the mean over its windows.

        Args:
            recording: the path of a recording, its samples, or a list of paths or of samples.
            rate: sampling rate of samples, in Hz.

        Returns:
            The prediction; for a list, a list of predictions.

        Shape:
            samples: [samples], [samples, channels] or [channels, samples] with at most 8 channels;
                floating-point
            values in [-1, 1], or integers, which are scaled by the range of their type.

        Raises:
            InputError: a recording cannot be read, or samples have no rate or another shape.
        """
        if isinstance(recording, list):
            predictions = []
            for each in recording:
                predictions.append(self.predict(each, rate))
            return predictions
        return self.whole(list(self.windows(_source(recording, rate))))

    def embed(self, recording: Recording, rate: int | None = None) -> np.ndarray:
        """Return the embedding of a recording: what the classifier sees, averaged over its area and
        the windows.

        The arguments are those of :meth:`predict`.

        Returns:
            float32 [channels].
        """
        # the form for inference merges layers, so the network is built again as it was trained
        model, seen = model_file.load(self.path)[0].to(self.torch_device), []
        assert isinstance(model.head, torch.nn.Module)
        hook = model.head.register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0].mean(dim=(2, 3))))
        for _, _, samples in read_windows(_source(recording, rate), self.spec.features):
            log_mel = stored_log_mel(samples, self.spec.features)[None]
            logits(model, log_mel.__getitem__, 1, 1, self.torch_device)
        hook.remove()
        return torch.cat(seen).mean(dim=0).cpu().numpy()

    def windows(self, source: Path | bytes, window: float | None = None, overlap: float = 0.0,
                sound: SoundCheck | None = None) -> Iterator[Prediction]:
        """Predict the windows of a recording, see :func:`task1a.features.audio.read_windows`.

        Raises:
            InputError, OSError: the recording cannot be read, or the outputs of the model overflow
                (ModelError).
        """
        # windows wait until a batch is full; the first predictions of a long recording come early
        waiting: list[tuple[float, float, np.ndarray]] = []
        for start, end, samples in read_windows(source, self.spec.features, window, overlap, sound):
            log_mel = stored_log_mel(samples, self.spec.features)
            if not np.isfinite(log_mel).all():
                raise InputError("holds samples too large to compute with")
            if waiting and len(waiting) == self.batch_size:
                yield from self._predict_batch(waiting)
                waiting = []
            waiting.append((start, end, log_mel))
        if waiting:
            yield from self._predict_batch(waiting)

    def _predict_batch(self, windows: Sequence[tuple[float, float, np.ndarray]]) -> Iterator[Prediction]:
        log_mel = np.stack([window[2] for window in windows])
        outputs = logits(self.model, log_mel.__getitem__, len(windows), len(windows), self.torch_device)
        for (start, end, _), values in zip(windows, probabilities(outputs, self.path), strict=True):
            yield Prediction(start, end, dict(zip(self.spec.labels, values.tolist(), strict=True)))

    def whole(self, windows: Sequence[Prediction]) -> Prediction:
        """Average the predictions of the windows of a recording."""
        mean = {}
        for label in self.spec.labels:
            mean[label] = float(np.mean([window.probabilities[label] for window in windows]))
        return Prediction(windows[0].start, windows[-1].end, mean)


def recordings(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and all audio files in the given folders, each once.

    Raises:
        InputError: a path does not exist, or a folder has no audio file.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise InputError(f"{path}: no audio file in this folder ({', '.join(SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def _source(recording: Recording, rate: int | None) -> Path | bytes:
    """Return the path of a recording, or its samples as the content of a WAV file."""
    if isinstance(recording, str | Path):
        return Path(recording)
    samples = np.asarray(recording)
    if rate is None:
        raise InputError("samples need their sampling rate: predict(samples, rate)")
    if samples.ndim == 2 and samples.shape[0] <= MAX_CHANNELS < samples.shape[1]:
        samples = samples.T
    if samples.ndim not in (1, 2) or samples.ndim == 2 and not samples.shape[1] <= MAX_CHANNELS < samples.shape[0]:
        raise InputError(f"samples of shape {list(samples.shape)}: expected [samples], [samples, channels] or "
                         f"[channels, samples] with at most {MAX_CHANNELS} channels")
    if np.issubdtype(samples.dtype, np.integer):
        integers = np.iinfo(samples.dtype)
        middle = (integers.max + integers.min + 1) // 2  # 0, or 128 for bytes without a sign as in WAV
        samples = (samples - float(middle)) / float(integers.max + 1 - middle)
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", subtype="FLOAT")
    return content.getvalue()
