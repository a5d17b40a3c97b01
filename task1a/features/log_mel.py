"""Log-mel energies: natural logarithm of the power of a short-time Fourier transform in mel-spaced
triangular bands.

The definition is that of ``torchaudio.transforms.MelSpectrogram`` with its defaults, or of
``librosa.feature.melspectrogram`` with ``htk=True, norm=None, pad_mode="reflect"``: periodic Hann
window centred in each FFT frame, signal reflected at both ends, HTK mel scale (Young et al., *The
HTK Book*), filters not normalised by area. Less than one percent of the filter matrix is non-zero,
so a sparse product is much faster than a dense one.
"""
import functools
import warnings

import numpy as np
import scipy.sparse
import torch

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.features.compat import torchaudio

# frames transformed at once; larger blocks are slower, because their memory is allocated for
# every clip
_BLOCK = 64


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
        self.features = features
        self.filters = scipy.sparse.csr_array(mel_filters(features))
        self.window = torch.hann_window(features.window)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Compute the log-mel energies of one clip."""
        n_fft, hop = self.features.n_fft, self.features.hop
        padded = torch.from_numpy(np.pad(waveform, n_fft // 2, mode="reflect"))
        mel = []
        for start in range(0, len(padded) - n_fft + 1, _BLOCK * hop):
            block = padded[start:start + (_BLOCK - 1) * hop + n_fft]
            spectrum = torch.stft(block, n_fft, hop, self.features.window, self.window, center=False,
                                  return_complex=True)
            # |x|^2 = re^2 + im^2, in place, where abs() would take a root to be squared again
            squares = torch.view_as_real(spectrum).square_()
            # contiguous, unlike the spectrum: the product reads rows
            power = torch.empty(spectrum.shape)
            torch.add(squares[..., 0], squares[..., 1], out=power)
            mel.append(self.filters @ power.numpy())
        energies = np.concatenate(mel, axis=1)
        energies += np.float32(self.features.log_floor)
        return np.log(energies, out=energies)


_log_mel = functools.lru_cache(maxsize=4)(LogMel)


def log_mel(waveform: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """Compute like :class:`LogMel`; the filters of a configuration are made once."""
    return _log_mel(features)(waveform)


def stored_log_mel(waveform: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """Compute :func:`log_mel` in float32, rounded to half precision like the stored features that
    models are trained on."""
    return log_mel(waveform, features).astype(np.float16).astype(np.float32)


def mel_filters(features: FeatureConfig) -> np.ndarray:
    """Return triangular filters on the HTK mel scale, ``[n_mels, n_fft / 2 + 1]``, peak 1.

    Raises:
        InputError: a filter is so narrow that it contains no FFT bin.
    """
    # torchaudio computes the triangles; librosa's HTK filters are the same ones
    f_max = features.sample_rate / 2 if features.f_max is None else features.f_max
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about empty filters, which are an error here
        filters = torchaudio.functional.melscale_fbanks(features.n_fft // 2 + 1, features.f_min, f_max,
                                                        features.n_mels, features.sample_rate).numpy().T
    empty = int((filters.max(axis=1) <= 0).sum())
    if empty:
        raise InputError(f"{empty} of {features.n_mels} mel filters are empty: features.n_fft={features.n_fft} is too "
                         f"small for features.n_mels={features.n_mels}; raise n_fft or lower n_mels")
    return filters
