import numpy as np
import pandas as pd
import torch
from dcase_util.containers import ProbabilityContainer
from scipy.special import softmax

from task1a import model_file
from task1a.compression.packed import stored_state
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.model_file import ModelSpec
from task1a.predict import predictions
from task1a.predict.clips import logits, predict

NAMES = ["audio/b.wav", "audio/a.wav", "audio/c.wav"]
LABELS = ("bus", "metro", "tram")


def test_every_clip_once(network):
    model = network(classes=3, tau=0.2)
    clips = np.random.default_rng(0).normal(size=(7, 32, 40)).astype(np.float32)
    outputs = logits(model, lambda indices: clips[indices], 7, 3, torch.device("cpu"))
    assert model.training and not outputs.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(outputs, model.eval()(torch.from_numpy(clips)[:, None]), atol=1e-5, rtol=1e-5)


def test_time_rolls(tmp_path):
    torch.manual_seed(0)
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), FeatureConfig(n_mels=32, clip_seconds=1.0), LABELS)
    model, frames = spec.build().eval(), spec.features.frames
    model_file.save(tmp_path / "model.safetensors", stored_state(model), spec)
    clips = np.random.default_rng(0).normal(size=(5, 32, frames)).astype(np.float32)
    table = predict(tmp_path / "model.safetensors", list("abcde"), lambda indices: clips[indices], 2,
                    torch.device("cpu"), time_rolls=3)
    shifts = [0, round(frames / 3), round(2 * frames / 3)]
    with torch.no_grad():
        outputs = [model(torch.from_numpy(np.roll(clips, shift, axis=2))[:, None]).numpy() for shift in shifts]
    assert not np.allclose(outputs[0], outputs[1], atol=1e-3)
    expected = np.mean([softmax(output, axis=1) for output in outputs], axis=0)
    np.testing.assert_allclose(table[list(LABELS)], expected, atol=1e-6)


def test_table_has_the_most_probable_label():
    probabilities = softmax([[0.0, 1.0, -2.0], [30.0, 0.0, 0.0], [-1.0, -1.0, 2.0]], axis=1)
    table = predictions.table(NAMES, probabilities, LABELS)
    np.testing.assert_array_equal(table[list(LABELS)], probabilities)
    assert list(table.scene_label) == ["metro", "bus", "tram"] and list(table.filename) == NAMES


def test_official_columns(tmp_path):
    probabilities = softmax([[0.0, 1.0, -2.0], [50.0, 0.0, 0.0], [-1.0, -1.0, 2.0]], axis=1)
    table = predictions.table(NAMES, probabilities, LABELS)
    predictions.write(tmp_path / "p.csv", table)
    lines = (tmp_path / "p.csv").read_bytes().split(b"\n")
    assert lines[0] == b"filename\tscene_label\tbus\tmetro\ttram" and lines[-1] == b"" and len(lines) == 5
    again = pd.read_csv(tmp_path / "p.csv", sep="\t")
    np.testing.assert_allclose(again[list(LABELS)], probabilities, rtol=1e-8)
    assert (again[list(LABELS)].to_numpy() > 0).all()  # small probabilities are not rounded to nothing
    assert len(ProbabilityContainer(filename=str(tmp_path / "p.csv")).load()) > 0
    read = predictions.read(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(read, again, check_dtype=False)
    assert predictions.to_text(read) == (tmp_path / "p.csv").read_text(encoding="utf-8")
