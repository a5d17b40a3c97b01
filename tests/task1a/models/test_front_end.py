import librosa
import numpy as np
import pytest
import torch

from task1a import model_file
from task1a.config import BCResNetASCConfig, FeatureConfig, TrainingConfig
from task1a.model_file import ModelSpec
from task1a.models.front_end import PCEN, FreqNorm, pcen, smooth, smoothing_weight
from task1a.training import fit
from task1a.training import train as training
from task1a.training.examples import Examples

FLOOR, RATE = 1e-8, 16000 / 480
# float32 against float64; the energies of a clip lie within 12 orders of magnitude
RELATIVE, ABSOLUTE = 5e-6, 1e-8


def log_mel(clips, bins, frames, seed=0):
    """Clips as they are stored: slopes over frequency of eight orders of magnitude, sudden events, digital silence."""
    rng = np.random.default_rng(seed)
    energies = 10.0 ** (rng.normal(-3, 1, (clips, 1, bins, frames)) + np.linspace(4, -4, bins)[:, None])
    energies[..., frames // 3:frames // 2] *= 1000
    energies[..., frames // 2:frames // 2 + 2] = 0
    return torch.from_numpy(np.log(energies + FLOOR)).half().float()


def librosas(x):
    """librosa.pcen in float64 of the energies behind log-mel energies."""
    energies = np.maximum(np.exp(x.double().numpy()) - FLOOR, 0)
    return librosa.pcen(energies * 2 ** 31, sr=16000, hop_length=480)


@pytest.mark.parametrize("bins, frames", [(256, 334), (256, 1), (3, 2), (5, 3), (7, 64), (7, 65)])
def test_pcen_is_librosas(bins, frames):
    x = log_mel(3, bins, frames)
    y = PCEN(RATE, FLOOR)(x)
    assert y.dtype == torch.float32 and y.shape == x.shape
    np.testing.assert_allclose(y.numpy(), librosas(x), rtol=RELATIVE, atol=ABSOLUTE)


def test_pcen_parameters():
    x = np.random.default_rng(0).uniform(0, 1e6, (4, 50))
    weight = smoothing_weight(0.06 * 22050 / 512)
    y = pcen(torch.from_numpy(x), weight, gain=0.8, bias=10.0, power=0.25, eps=1e-3)
    expected = librosa.pcen(x, sr=22050, hop_length=512, gain=0.8, bias=10, power=0.25, time_constant=0.06, eps=1e-3)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


def test_pcen_level_of_a_lasting_tone():
    """M = E in the long run, so that P = (E / (E + eps)^0.98 + 2)^0.5 - 2^0.5."""
    energy = torch.tensor([1e3, 1e9], dtype=torch.float64)
    last = pcen(energy[:, None].expand(2, 2000), 0.07)[:, -1]
    torch.testing.assert_close(last, (energy.pow(0.02) + 2).sqrt() - 2 ** 0.5)


def test_pcen_is_causal():
    x = log_mel(4, 16, 100)
    front_end = PCEN(RATE, FLOOR)
    y = front_end(x)
    torch.testing.assert_close(torch.cat([front_end(clip[None]) for clip in x]), y, rtol=1e-6, atol=0)
    torch.testing.assert_close(front_end(x[..., :60]), y[..., :60], rtol=1e-6, atol=0)


def test_silence_and_masks_stay_finite():
    x = torch.cat([torch.full((1, 1, 4, 50), v) for v in (np.log(FLOOR), -40.0, 0.0, 25.0)]).float()
    y = PCEN(RATE, FLOOR)(x)
    assert y.isfinite().all() and (y >= 0).all() and y[1].max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(dtype):
    x, front_end = log_mel(2, 8, 40).to(dtype), PCEN(RATE, FLOOR)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(front_end(x), front_end(x.float()), rtol=0, atol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 334])
def test_smoothing_is_the_recursion(frames):
    x = np.random.default_rng(0).normal(0, 1, (2, 3, frames))
    state, expected = np.full((2, 3), 0.7), np.empty_like(x)
    for t in range(frames):
        state = 0.9 * state + 0.1 * x[..., t]
        expected[..., t] = state
    given = torch.from_numpy(x)
    np.testing.assert_allclose(smooth(given, 0.1, 0.7).numpy(), expected, rtol=1e-12, atol=1e-14)
    assert np.array_equal(given.numpy(), x)


def test_freqnorm_is_numpys():
    x = log_mel(11, 6, 30)
    x[:, :, 5] = -18.421875  # a bin in which there never is anything
    front_end = FreqNorm(6)
    front_end.fit(iter([x[:4], x[4:5], x[5:]]))
    values = x.double().numpy().transpose(2, 0, 1, 3).reshape(6, -1)
    np.testing.assert_allclose(front_end.running_mean, values.mean(1), rtol=1e-7)
    np.testing.assert_allclose(front_end.running_var, values.var(1), rtol=1e-6)
    expected = (values[:5] - values[:5].mean(1, keepdims=True)) / values[:5].std(1, keepdims=True)
    y = front_end(x).numpy().transpose(2, 0, 1, 3).reshape(6, -1)
    np.testing.assert_allclose(y[:5], expected, atol=1e-5)
    assert not y[5].any()


def test_freqnorm_far_from_zero():
    """Sums of a million values of 1,000 +- 0.5, which float32 could not hold."""
    front_end = FreqNorm(1)
    front_end.fit(1000 + torch.tensor([0.5, -0.5]).repeat(500).reshape(1, 1, 1, 1000) for _ in range(1000))
    assert front_end.running_mean.item() == 1000 and front_end.running_var.item() == pytest.approx(0.25, abs=1e-7)


SPEC = ModelSpec(BCResNetASCConfig(tau=0.4, residual_norm="none", front_end="freqnorm"),
                 FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0), ("bus", "park", "tram"))
RECIPE = TrainingConfig(epochs=3, batch_size=8, warmup_epochs=1, roll_seconds=0.1)
STORED = np.random.default_rng(1).normal(-5, 3, (45, 32, 21)).astype(np.float32)


class Killed(Exception):
    pass


def trained(folder, report=lambda text: None):
    """Train on the first 30 clips and validate on the others, which are far away from them."""
    clips = STORED + np.where(np.arange(45) < 30, 0, 50).astype(np.float32)[:, None, None]
    train, validation = (Examples(lambda indices, start=start: clips[start + indices], np.arange(count) % 3)
                         for start, count in ((0, 30), (30, 15)))
    training.train(fit.Job(SPEC, RECIPE, 0, train, validation, folder, "x", "cpu", log=report))
    return folder / "model.safetensors"


def test_freqnorm_is_fitted_to_training_clips(tmp_path):
    model, spec = model_file.load(trained(tmp_path))
    assert spec == SPEC
    np.testing.assert_allclose(model.front_end.running_mean, STORED[:30].mean((0, 2), np.float64), rtol=1e-6)
    np.testing.assert_allclose(model.front_end.running_var, STORED[:30].var((0, 2), np.float64), rtol=1e-6)


def test_freqnorm_of_a_resumed_training(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole").read_bytes()
    learnt, learn = [], FreqNorm.fit
    monkeypatch.setattr(FreqNorm, "fit", lambda self, batches: learnt.append(1) or learn(self, batches))

    def kill(text):
        if text.startswith("epoch 1/"):
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill)
    assert trained(tmp_path / "killed").read_bytes() == whole and len(learnt) == 1
