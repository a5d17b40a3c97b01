"""The interface of the 2025 edition given models and recordings that cannot be computed with."""
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from submission.inference2025 import interface
from task1a import model_file
from task1a.compression.packed import stored_state
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.errors import InputError, ModelError

FEATURES = FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0)


@pytest.mark.parametrize(("largest", "features", "scale", "error", "message"), [
    (3e38, FEATURES, 0.1, ModelError, "m.safetensors: its outputs overflow; .* 3e.38, is in tensor head.weight"),
    (1.0, replace(FEATURES, n_mels=256), 0.1, ModelError, "m.safetensors: [0-9]+ of 256 mel filters are empty"),
    (1.0, FEATURES, 1e30, InputError, "x.wav: holds samples too large to compute with"),
])
def test_prediction_names_what_cannot_be_computed(tmp_path, largest, features, scale, error, message):
    spec = model_file.ModelSpec(BCResNetASCConfig(tau=0.4), features, ("bus", "park", "tram"))
    torch.manual_seed(0)
    tensors = stored_state(spec.build())
    tensors["head.weight"][:] = largest
    tensors["head.bias"][:] = 0.9 * largest  # the sum overflows for any activations of the last block above 0.24
    model_file.save(tmp_path / "m.safetensors", tensors, spec)
    samples = np.random.default_rng(0).normal(0, scale, 16000).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(error, match=message):
        interface.predict([str(tmp_path / "x.wav")], ["a"], tmp_path / "m.safetensors", use_cuda=False)
