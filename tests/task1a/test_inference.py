"""The interface of the 2025 edition: every clip goes to the model of its device."""
import numpy as np
import pytest
import soundfile
import torch

from submission.inference2025 import interface as inference
from task1a import model_file
from task1a.compression.packed import stored_state
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.model_file import ModelSpec

SPEC = ModelSpec(BCResNetASCConfig(tau=0.2), FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800,
                                                           clip_seconds=1.0), ("tram", "bus", "park"))


@pytest.mark.parametrize("block", [1, 3, 4, 2048])
def test_devices_of_every_block(tmp_path, monkeypatch, block):
    """Each model gives logits of its own, whatever it is given: its bias."""
    biases = {"general": 0.0, "a": 1.0, "s1": 2.0}
    for name, bias in biases.items():
        tensors = {name: torch.zeros_like(value) for name, value in stored_state(SPEC.build()).items()}
        tensors["head.bias"] = bias + torch.tensor([0.0, 10.0, 20.0])
        model_file.save(tmp_path / f"{name}.safetensors", tensors, SPEC)
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    devices = ["a", "s1", "b", "s1", "a", "a", "s9", "s1", "general", "a", "s1"]
    monkeypatch.setattr(inference, "_BLOCK", block)
    logits, labels = inference.predict([str(tmp_path / "x.wav")] * len(devices), devices, tmp_path, use_cuda=False)
    assert labels == ["tram", "bus", "park"]
    assert torch.stack(logits)[:, 0].tolist() == [biases.get(device, 0.0) for device in devices]
