"""The features of :mod:`task1a.features.log_mel` as operators that every runtime has."""
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.features.log_mel import mel_filters

LARGEST_TRANSFORM = 1024
"""Maximum length of one of the two Fourier transforms, which are stored as square matrices."""


class LogMel(nn.Module):
    """Log-mel energies by matrix products, rounded to half precision like the features of a data
    set.

    The Fourier transform of n_fft = A B samples is split into transforms of A and of B samples
    (Cooley, Tukey: *An algorithm for the machine calculation of complex Fourier series*,
    Mathematics of Computation 1965). For sample B m + n and frequency j + A k:

        X[j + A k] = sum_n e^(-2 pi i n k / B) e^(-2 pi i n j / (A B)) sum_m e^(-2 pi i m j / A) x[B
        m + n]

    As the samples are real, frequencies with j <= A / 2 are enough: the others have the power of
    their mirror images. In onnxruntime this takes half the time of the operator STFT, and is more
    accurate.

    Shape: waveform [N, samples] at ``features.sample_rate`` -> log-mel energies [N, 1, mel bins,
    frames].

    Raises:
        InputError: a mel filter is empty, or n_fft cannot be split into two short transforms.
    """

    window: Tensor
    first: Tensor
    between_real: Tensor
    between_imag: Tensor
    second_real: Tensor
    second_imag: Tensor
    filter_places: Tensor
    filter_values: Tensor
    log_floor: Tensor

    def __init__(self, features: FeatureConfig) -> None:
        super().__init__()
        self.features = features
        a, b = _factors(features.n_fft)
        self.kept, self.b = a // 2 + 1, b
        self.rows = math.ceil(features.window / b)  # the rest of an FFT frame is 0

        first = _turns(self.kept, self.rows, a)
        between = _turns(self.kept, b, features.n_fft)
        second = _turns(b, b, b)
        self.register_buffer("window", torch.hann_window(features.window))
        # float64, because quiet frequencies next to loud ones are small differences of large numbers
        self.register_buffer("first", torch.cat([first.real, first.imag]))
        self.register_buffer("between_real", between.real.clone())
        self.register_buffer("between_imag", between.imag.clone())
        self.register_buffer("second_real", second.real.float())
        self.register_buffer("second_imag", second.imag.float())

        # nearly all of the filter matrix is 0, and it would be far larger than a compressed network
        filters = mel_filters(features)
        mel_bins, frequencies = np.nonzero(filters)
        values = filters[mel_bins, frequencies]
        mirrored = frequencies % a >= self.kept
        frequencies = np.where(mirrored, features.n_fft - frequencies, frequencies)
        columns = frequencies % a * b + frequencies // a
        self.register_buffer("filter_places", torch.from_numpy(columns * features.n_mels + mel_bins).to(torch.int32))
        self.register_buffer("filter_values", torch.from_numpy(values))
        self.register_buffer("log_floor", torch.tensor(features.log_floor))

    def forward(self, waveform: Tensor) -> Tensor:
        """The energies of clips."""
        # the dense matrix is made when the model runs, so that the file holds its values that are not 0
        filters = torch.zeros(self.kept * self.b * self.features.n_mels)
        filters = filters.scatter(0, self.filter_places.long(), self.filter_values)
        mel = self._power(self._frames(waveform)) @ filters.reshape(-1, self.features.n_mels)
        # rounded like the features of a data set, which the network was trained on
        energies = torch.log(mel + self.log_floor).transpose(1, 2).unsqueeze(1)
        return energies.to(torch.float16).to(torch.float32)

    def _frames(self, waveform: Tensor) -> Tensor:
        """Windowed frames: [N, samples] -> [N, frames, window]."""
        window, hop, frames = self.features.window, self.features.hop, self.features.frames
        # the window lies in the middle of an FFT frame, whose middle is on the first sample of the
        # clip
        before = self.features.n_fft // 2 - (self.features.n_fft - window) // 2
        padded = F.pad(waveform.unsqueeze(1), (before, before), mode="reflect").squeeze(1)

        # every frame is made of consecutive hops
        hops = math.ceil(window / hop)
        needed = (frames + hops - 1) * hop
        parts = F.pad(padded, (0, max(0, needed - padded.shape[1])))[:, :needed].reshape(-1, frames + hops - 1, hop)
        framed = torch.cat([parts[:, start:start + frames] for start in range(hops)], dim=2)
        return framed[..., :window] * self.window

    def _power(self, frames: Tensor) -> Tensor:
        """Power of the frequencies j + A k at place B j + k: [N, frames, window] -> [N, frames, (A
        // 2 + 1) B]."""
        filled = F.pad(frames, (0, self.rows * self.b - self.features.window))
        filled = filled.reshape(-1, self.features.frames, self.rows, self.b).double()
        real, imag = (self.first @ filled).chunk(2, dim=2)
        real, imag = (real * self.between_real - imag * self.between_imag,
                      real * self.between_imag + imag * self.between_real)

        # (p + q i) (c + d i) as one product of real matrices
        second = torch.cat([torch.cat([self.second_real, self.second_imag], dim=1),
                            torch.cat([-self.second_imag, self.second_real], dim=1)])
        real, imag = (torch.cat([real, imag], dim=3).float() @ second).chunk(2, dim=3)
        return (real * real + imag * imag).reshape(-1, self.features.frames, self.kept * self.b)


def _factors(n_fft: int) -> tuple[int, int]:
    """The two factors of ``n_fft`` that are closest to each other, the smaller one first."""
    smaller = next(factor for factor in range(math.isqrt(n_fft), 0, -1) if n_fft % factor == 0)
    if n_fft // smaller > LARGEST_TRANSFORM:
        raise InputError(f"features.n_fft={n_fft} is not a product of two numbers up to {LARGEST_TRANSFORM}, so its "
                         "Fourier transform would fill the exported file; export with --features outside")
    return smaller, n_fft // smaller


def _turns(rows: int, columns: int, period: int) -> Tensor:
    """e^(-2 pi i m n / period) for row m and column n, complex128."""
    angle = -2 * math.pi / period * (torch.outer(torch.arange(rows), torch.arange(columns)) % period).double()
    return torch.polar(torch.ones_like(angle), angle)
