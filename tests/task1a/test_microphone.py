"""Live prediction, with a sound card that plays known samples."""
import queue
import sys
import types

import numpy as np
import pytest
import torch

from task1a import model_file
from task1a.compression.packed import stored_state
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.errors import InputError, run_command
from task1a.model_file import ModelSpec
from task1a.predict import microphone
from task1a.predict import recordings as predict
from task1a.predict.__main__ import main

RATE = 100
SIGNAL = np.arange(1000, dtype=np.float32)


class PortAudioError(Exception):
    pass


@pytest.fixture
def sound_card(monkeypatch):
    """Installs a sounddevice; blocks arrive at once, or each when the program waits for it, until ``end`` is raised."""
    def install(at_once=(), later=(), end=queue.Empty, rate=RATE, signal=SIGNAL):
        state = types.SimpleNamespace(position=0, closed=False, later=list(later))
        buffer = np.empty((1000, 1), np.float32)  # used again for every block, as PortAudio does

        def deliver(size):
            buffer[:size, 0] = signal[state.position:state.position + size]
            state.position += size
            state.callback(buffer[:size], size, None, None)

        class Queue(queue.SimpleQueue):
            def get(self, timeout=None):
                if self.empty():
                    if not state.later:
                        raise end
                    deliver(state.later.pop(0))
                return super().get()

        class InputStream:
            def __init__(self, samplerate, channels, dtype, callback):
                assert (samplerate, channels, dtype) == (rate, 1, "float32")
                state.callback = callback

            def __enter__(self):
                for size in at_once:
                    deliver(size)

            def __exit__(self, *error):
                state.closed = True

        def query_devices(kind):
            assert kind == "input"
            return {"default_samplerate": float(rate)}

        monkeypatch.setattr(microphone, "queue", types.SimpleNamespace(SimpleQueue=Queue, Empty=queue.Empty))
        monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(
            InputStream=InputStream, query_devices=query_devices, PortAudioError=PortAudioError))
        return state
    return install


def test_newest_samples(sound_card):
    sound_card(at_once=[30, 30, 30, 30])
    recorded, rate = next(microphone.windows(seconds=1.0, step=0.5))
    assert rate == RATE
    assert recorded.tolist() == SIGNAL[20:120].tolist()


def test_steps_of_windows(sound_card):
    state = sound_card(later=[30] * 6)
    seen = []
    with pytest.raises(InputError, match="has sent nothing"):
        for recorded, _ in microphone.windows(seconds=1.0, step=0.5):
            seen.append((recorded[0], recorded[-1]))
    assert seen == [(0, 59), (20, 119), (80, 179)]
    assert state.closed


@pytest.mark.parametrize(("error", "text"), [
    (PortAudioError("Error querying device -1"), "no usable input device (Error querying device -1)"),
    (ValueError("No input\n device"), "no usable input device (No input device)"),
])
def test_no_input_device_is_one_line(sound_card, monkeypatch, error, text):
    def query_devices(kind):
        raise error

    sound_card()
    monkeypatch.setattr(sys.modules["sounddevice"], "query_devices", query_devices)
    with pytest.raises(InputError) as raised:
        next(microphone.windows(1.0, 0.5))
    assert text in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[microphone\]'"):
        next(microphone.windows(1.0, 0.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    features = FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0)
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), features, ("bus", "park", "tram"))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, stored_state(spec.build()), spec)
    return path


def test_command_until_ctrl_c(sound_card, model, capsys):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    sound_card(at_once=[1000] * 16, later=[1000] * 16, end=KeyboardInterrupt, rate=16000, signal=noise)
    assert run_command(lambda: main([str(model), "--microphone", "--overlap", "0.5"])) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    expected = [predict.Predictor(model).predict(noise[start:start + 16000], 16000) for start in (0, 8000, 16000)]
    assert len(lines) == 3
    for line, prediction in zip(lines, expected, strict=True):
        assert f"{prediction.scene} {100 * prediction.probabilities[prediction.scene]:.1f}%" in line


@pytest.mark.parametrize(("arguments", "text"), [
    ([], "give recordings"),
    (["--microphone", "x.wav"], "give recordings"),
    (["--microphone", "--csv", "x.csv"], "are for recordings"),
])
def test_contradicting_arguments_are_refused(model, arguments, text):
    with pytest.raises(InputError, match=text):
        main([str(model), *arguments])
