"""The Python interface: load a model, predict, embed, and run the chain."""
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import task1a
from task1a import model_file
from task1a.errors import InputError
from task1a.predict import predictions

RUN = Path("runs/toy/seed0")


@pytest.fixture
def model(again):
    return task1a.load(RUN, "cpu")


@pytest.fixture
def recordings(toy_data):
    return sorted((toy_data[0] / "audio").glob("*.wav"))[:3]


def test_run_folder_gives_its_model_that_is_counted(model, recordings):
    assert model.path == RUN / "compress" / "packed.safetensors" and model.labels == model.spec.labels
    table = predictions.read(RUN / "predictions" / "test.csv").set_index("filename")
    name = table.index[0]
    clip = recordings[0].parent.parent / name
    expected = table.loc[name, list(model.labels)]
    assert list(model.predict(clip).probabilities.values()) == pytest.approx(expected, abs=2e-3)


def test_samples_of_every_layout(model, recordings):
    samples, rate = soundfile.read(recordings[0], always_2d=True)
    stereo = np.column_stack([samples, samples])
    expected = model.predict(str(recordings[0])).probabilities
    for given in (samples[:, 0], samples, stereo, stereo.T, (stereo * 2 ** 23).round().astype(np.int32) << 8):
        assert model.predict(given, rate).probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (9, 500), (500, 9), (2, 100, 2), ()])
def test_samples_of_other_shapes_are_refused(model, shape):
    with pytest.raises(InputError, match="expected .samples., .samples, channels. or .channels, samples."):
        model.predict(np.zeros(shape), 44_100)


def test_samples_need_a_rate(model):
    with pytest.raises(InputError, match="need their sampling rate"):
        model.predict(np.zeros(100))


def test_lists_are_predicted_in_order(model, recordings):
    assert model.predict(list(recordings)) == [model.predict(path) for path in recordings]


def test_embedding_is_what_the_classifier_sees(model, recordings):
    """The head is linear and its output is averaged: from the mean of its input, it gives the probabilities."""
    embedding = torch.from_numpy(model.embed(recordings[0]))
    head = model_file.load(model.path)[0].head
    logits = head.weight[:, :, 0, 0] @ embedding
    if head.bias is not None:
        logits = logits + head.bias
    expected = list(model.predict(recordings[0]).probabilities.values())
    assert torch.softmax(logits.double(), 0).tolist() == pytest.approx(expected, abs=1e-4)


def test_runs_that_give_no_model(model, again):
    (again / "runs/toy/seed0/compress/packed.safetensors").unlink()
    with pytest.raises(InputError, match="packed.safetensors: no such model; finish the run toy/seed0 first"):
        task1a.load(RUN)


def test_chain_in_a_notebook(again, toy_system, toy_data):
    options = {"data_root": toy_data[0], "eval_root": toy_data[1], "device": "cpu", "force": False}
    run = task1a.train(toy_system, **options)  # everything is up to date
    assert run.folder == RUN and run.read("evaluation")["data"]["demo"]
    run = task1a.train(toy_system, {"training.epochs": 1}, **options, until="train", name="short")
    assert run.folder == Path("runs/short/seed0") and len(run.history.read_text().splitlines()) == 2
