"""Log-mel energies: natural logarithm of the power of a short-time Fourier transform in mel-spaced triangular bands.

The definition is that of ``torchaudio.transforms.MelSpectrogram`` with its defaults, or of
``librosa.feature.melspectrogram`` with ``htk=True, norm=None, pad_mode="reflect"``: periodic Hann window centred in
each FFT frame, signal reflected at both ends, HTK mel scale (Young et al., *The HTK Book*), filters not normalised by
their area. Of the [n_fft / 2 + 1, n_mels] matrix of filters less than a hundredth is not zero, so the sparse product
that is taken here is much faster than the dense one, and equal to it.
"""
import functools
import warnings

import numpy as np
import scipy.sparse
import torch

from task1a.compat import torchaudio
from task1a.config import FeatureConfig
from task1a.errors import InputError

_BLOCK = 64  # frames at a time: memory for more is handed back and cleared anew with every clip, which takes longer


class LogMel:
    """Log-mel energies with the filters of one configuration.

    Args:
        features: sampling rate, window, hop, FFT size, mel bands and floor.

    Shape:
        - waveform: ``[samples]``, float32 at ``features.sample_rate``
        - output: ``[n_mels, 1 + samples // hop]``, float32, ``ln(mel power + log_floor)``

    Raises:
        InputError: a mel filter is empty.
    """

    def __init__(self, features: FeatureConfig) -> None:
        """Make the filters and the window."""
        self.features = features
        self.filters = scipy.sparse.csr_array(mel_filters(features))
        self.window = torch.hann_window(features.window)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """The log-mel energies of one clip."""
        n_fft, hop = self.features.n_fft, self.features.hop
        padded = torch.from_numpy(np.pad(waveform, n_fft // 2, mode="reflect"))
        mel = [self._mel(padded[start:start + (_BLOCK - 1) * hop + n_fft])
               for start in range(0, len(padded) - n_fft + 1, _BLOCK * hop)]
        return np.log(np.concatenate(mel, axis=1) + np.float32(self.features.log_floor))

    def _mel(self, samples: torch.Tensor) -> np.ndarray:
        features = self.features
        spectrum = torch.stft(samples, features.n_fft, features.hop, features.window, self.window, center=False,
                              return_complex=True)
        power = (spectrum.real.square() + spectrum.imag.square()).contiguous()  # row-wise, as the product reads it
        return self.filters @ power.numpy()


def log_mel(waveform: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """Functional version of :class:`LogMel`, which see; the filters of a configuration are made once."""
    return _log_mel(features)(waveform)


def mel_filters(features: FeatureConfig) -> np.ndarray:
    """Triangular filters on the HTK mel scale, ``[n_mels, n_fft / 2 + 1]``, peak 1.

    Raises:
        InputError: a filter is so narrow that no FFT bin falls into it.
    """
    f_max = features.sample_rate / 2 if features.f_max is None else features.f_max
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about empty filters, which are an error here
        filters = torchaudio.functional.melscale_fbanks(features.n_fft // 2 + 1, features.f_min, f_max,
                                                        features.n_mels, features.sample_rate).numpy().T
    empty = int((filters.max(axis=1) <= 0).sum())
    if empty:
        raise InputError(f"{empty} of {features.n_mels} mel filters are empty: features.n_fft={features.n_fft} is too "
                         f"small for features.n_mels={features.n_mels}; raise the one or lower the other")
    return filters


@functools.lru_cache(maxsize=4)
def _log_mel(features: FeatureConfig) -> LogMel:
    return LogMel(features)
