"""Prediction of recordings of any kind and length with a model file alone."""
import io
import json
import os
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.io.wavfile
import soundfile
import soxr
import torch

import task1a
from task1a import errors, model_file
from task1a.compression.packed import stored_state
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.errors import InputError, Terminated, run_command
from task1a.features.audio import read_clip, read_windows
from task1a.features.log_mel import log_mel
from task1a.model_file import ModelSpec
from task1a.predict import recordings as predict
from task1a.predict.__main__ import main
from task1a.predict.clips import predict as predict_clips

FEATURES = FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0)
LABELS = ("bus", "park", "tram")
RATE = 16000


def noise(seconds, rate=RATE, channels=1, seed=0):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    return samples[:, 0] if channels == 1 else samples


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), FEATURES, LABELS)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, stored_state(spec.build()), spec)
    return path


def test_a_clip_is_predicted_as_in_a_run(tmp_path, model):
    """A run reads features in half precision from its cache."""
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, file in enumerate(files):
        soundfile.write(file, noise(1.0, 44100, seed=number), 44100, subtype="PCM_24")
    stored = np.stack([log_mel(read_clip(file, FEATURES), FEATURES) for file in files]).astype(np.float16)
    expected = predict_clips(model, files, lambda indices: stored[indices].astype(np.float32), 2,
                               torch.device("cpu"))[list(LABELS)].to_numpy()
    predictor = predict.Predictor(model, "cpu")
    for file, row in zip(files, expected, strict=True):
        [window] = predictor.windows(file)
        assert list(window.probabilities.values()) == pytest.approx(row, abs=1e-6)


@pytest.mark.parametrize(("name", "rate", "channels", "seconds", "subtype"), [
    ("x.wav", 44100, 1, 1.0, "PCM_24"),
    ("x.flac", 48000, 2, 2.7, "PCM_16"),
    ("x.mp3", 44100, 2, 2.0, None),
    ("x.ogg", 22050, 1, 2.0, None),
    ("short.wav", 16000, 1, 0.01, "PCM_16"),
    ("eight.wav", 8000, 6, 1.0, "PCM_16"),
])
def test_recordings_of_every_kind(tmp_path, model, name, rate, channels, seconds, subtype):
    soundfile.write(tmp_path / name, noise(seconds, rate, channels), rate, subtype=subtype)
    windows = list(predict.Predictor(model, "cpu").windows(tmp_path / name))
    assert windows and all(sum(window.probabilities.values()) == pytest.approx(1) for window in windows)
    assert windows[-1].end == pytest.approx(min(seconds, round(seconds)), abs=0.5)


def test_silence_is_predicted(tmp_path, model):
    soundfile.write(tmp_path / "x.wav", np.zeros(RATE), RATE)
    [window] = predict.Predictor(model, "cpu").windows(tmp_path / "x.wav")
    assert sum(window.probabilities.values()) == pytest.approx(1)


def test_windows_are_consecutive(tmp_path):
    samples = noise(3.6).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    windows = list(read_windows(tmp_path / "x.wav", FEATURES))
    assert [(start, round(end, 6)) for start, end, _ in windows] == [(0, 1), (1, 2), (2, 3), (3, 3.6)]
    np.testing.assert_array_equal(np.concatenate([part for _, _, part in windows[:3]]), samples[:3 * RATE])
    np.testing.assert_array_equal(windows[3][2], np.resize(samples[3 * RATE:], RATE))  # repeated
    halves = list(read_windows(tmp_path / "x.wav", FEATURES, overlap=0.5))
    assert [start for start, _, _ in halves] == [0, 0.5, 1, 1.5, 2, 2.5]  # the last 0.1 s are left out
    np.testing.assert_array_equal(halves[3][2], samples[24000:40000])
    overlapping = [start for start, _, _ in read_windows(tmp_path / "x.wav", FEATURES, overlap=0.2)]
    assert overlapping == pytest.approx([0, 0.8, 1.6, 2.4])  # of the last 0.4 s, half are new
    quarters = list(read_windows(tmp_path / "x.wav", FEATURES, window=0.25))
    assert len(quarters) == 14
    np.testing.assert_array_equal(quarters[1][2], np.tile(samples[4000:8000], 4))


def test_windows_of_another_rate(tmp_path):
    samples = noise(5.0, 44100).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, 44100, subtype="FLOAT")
    windows = [part for _, _, part in read_windows(tmp_path / "x.wav", FEATURES)]
    expected = soxr.resample(samples, 44100, RATE, quality="HQ")
    np.testing.assert_allclose(np.concatenate(windows), expected[:5 * RATE], atol=1e-4)


def test_mean_of_windows(tmp_path, model, capsys):
    soundfile.write(tmp_path / "long.wav", noise(3.0), RATE)
    soundfile.write(tmp_path / "short.flac", noise(1.0, seed=1), RATE)
    assert main([str(model), str(tmp_path), "--csv", str(tmp_path / "p.csv"), "--json",
                         str(tmp_path / "p.json"), "--device", "cpu"]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table.columns) == ["file", "window", "start", "end", "scene", *LABELS]
    of_long = table[table.file.str.endswith("long.wav")]
    assert of_long.window.isna().tolist() == [True, False, False, False]
    np.testing.assert_allclose(of_long[list(LABELS)].iloc[0], of_long[list(LABELS)].iloc[1:].mean(), rtol=1e-8)
    assert (table.scene == table[list(LABELS)].idxmax(axis=1)).all()
    stored = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert [len(recording["windows"]) for recording in stored] == [3, 1]
    assert stored[0]["probabilities"] == pytest.approx(dict(of_long[list(LABELS)].iloc[0]), rel=1e-8)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and printed[1].startswith("  0.0 to 1.0 s ")


def test_damaged_recording(tmp_path, model, capsys):
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, noise(1.0), RATE)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:20000])
    assert run_command(lambda: main([str(model), str(tmp_path), "--csv", str(tmp_path / "p.csv")])) == 1
    told = capsys.readouterr()
    assert "b.wav: truncated" in told.err and "1 of 3 recordings cannot be read" in told.err
    assert told.out.count(".wav") == 2 and len(pd.read_csv(tmp_path / "p.csv")) == 4


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere.wav"], "nowhere.wav: no such file or folder"),
    (["."], "no audio file in this folder"),
    (["x.wav", "--window", "2"], "--window 2: must be between 0.01 and 1 seconds"),
    (["x.wav", "--overlap", "1"], "--overlap 1: must be at least 0 and less than 1"),
    (["notes.txt"], "none of the recordings can be read"),
])
def test_what_cannot_be_predicted_is_told(tmp_path, model, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no audio", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        main([str(model), *arguments])


@pytest.mark.parametrize(("given", "subtype"), [
    (np.float64, "PCM_16"), (np.float32, "PCM_16"), (np.int16, "PCM_16"), (np.int32, "PCM_32"), (np.uint8, "PCM_U8")])
def test_samples_are_predicted_like_their_file(tmp_path, model, given, subtype):
    soundfile.write(tmp_path / "x.wav", noise(2.5, 22050, 2), 22050, subtype=subtype)
    predictor = task1a.load(model, "cpu")
    if np.issubdtype(given, np.integer):
        samples = scipy.io.wavfile.read(tmp_path / "x.wav")[1]
    else:
        samples = soundfile.read(tmp_path / "x.wav", dtype=given.__name__)[0]
    assert samples.dtype == given
    found = predictor.predict(samples, 22050)
    expected = predictor.whole(list(predictor.windows(tmp_path / "x.wav")))
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert (found.start, found.end) == (0, 2.5) and found.scene in LABELS


NAMES = {b"caf\xe9.wav": r"caf\xe9.wav", "é日.wav".encode(): "é日.wav", b"\x1b[2Jx.wav": r"\x1b[2Jx.wav",
         b"a\nb.wav": r"a\nb.wav", "\u202egnp.wav".encode(): r"\u202egnp.wav", b"plain.wav": "plain.wav"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_names_on_any_terminal(tmp_path, model, monkeypatch, encoding):
    for name in NAMES:
        soundfile.write(open(os.fsencode(tmp_path) + b"/" + name, "wb"), noise(1.0), RATE, format="WAV")
    (tmp_path / os.fsdecode(b"\xff.wav")).write_bytes(b"no audio")
    shown = {stream: io.BytesIO() for stream in ("stdout", "stderr")}
    for stream, content in shown.items():
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(content, encoding=encoding))
    assert run_command(lambda: main([str(model), str(tmp_path), "--csv", str(tmp_path / "p.csv"), "--json",
                                             str(tmp_path / "p.json")])) == 1
    lines = shown["stdout"].getvalue().decode(encoding).splitlines()
    expected = {name.encode(encoding, "backslashreplace").decode(encoding) for name in NAMES.values()}
    assert {line.split("  ")[0].rpartition("/")[2] for line in lines} == expected
    assert r"/\xff.wav: " in shown["stderr"].getvalue().decode(encoding)
    stored = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert {recording["file"].rpartition("/")[2] for recording in stored} == set(NAMES.values())
    assert set(pd.read_csv(tmp_path / "p.csv").file.str.rpartition("/")[2]) == set(NAMES.values())


def test_files_without_a_reader(tmp_path, model, monkeypatch):
    soundfile.write(tmp_path / "x.wav", noise(1.0), RATE)
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", open(writer, "w"))
    assert run_command(lambda: main([str(model), str(tmp_path), "--csv", str(tmp_path / "p.csv")])) == 141
    assert len(pd.read_csv(tmp_path / "p.csv")) == 2


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Terminated(15), 143), (KeyError(), 3)])
def test_interrupted_prediction(tmp_path, model, monkeypatch, capsys, error, status):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise(1.0), RATE)
    windows = predict.Predictor.windows

    def interrupted(self, path, *arguments):
        if path.name == "c.wav":
            raise error
        return windows(self, path, *arguments)

    monkeypatch.setattr(predict.Predictor, "windows", interrupted)
    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path))
    assert run_command(lambda: main([str(model), str(tmp_path), "--csv", str(tmp_path / "p.csv")])) == status
    assert pd.read_csv(tmp_path / "p.csv").file.str[-5:].tolist() == ["a.wav", "a.wav", "b.wav", "b.wav"]
    shown = capsys.readouterr()
    assert shown.out.count(".wav") == 2 and "note: ends after 2 of 3 recordings\n" in shown.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_lines_without_a_file(tmp_path, model, capsys):
    soundfile.write(tmp_path / "x.wav", noise(1.0), RATE)
    assert run_command(lambda: main([str(model), str(tmp_path), "--csv", "/dev/full"])) == 2
    shown = capsys.readouterr()
    assert "x.wav  " in shown.out and "No space left on device" in shown.err


@pytest.mark.parametrize("outputs", [["--csv", "x.wav"], ["--json", "below/../link"], ["--csv", "model"],
                                     ["--csv", "new", "--json", "./new"], ["--csv", "old", "--json", "old link"],
                                     ["--json", "below"]])
def test_outputs_that_are_inputs(tmp_path, model, monkeypatch, outputs):
    monkeypatch.chdir(tmp_path)
    soundfile.write("x.wav", noise(1.0), RATE)
    os.link("x.wav", "link")
    os.symlink(model, "model")
    (tmp_path / "below").mkdir()
    (tmp_path / "old").write_text("")
    os.symlink("old", "old link")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=f"^{outputs[-2]} .*(overwritten; give another name|give the name of a file)"):
        main(["model", "x.wav", *outputs])
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(("largest", "labels", "features", "options", "message"), [
    (3e38, LABELS, FEATURES, [], "its outputs overflow; the largest of its values, 3e.38, is in tensor head.weight"),
    (1.0, LABELS, replace(FEATURES, n_mels=256, n_fft=1024), [], "[0-9]+ of 256 mel filters are empty"),
    (1.0, ("bus", "start", "tram"), FEATURES, ["--csv", "p.csv"], "--csv: start is a scene .* use --json")])
def test_models_at_fault(tmp_path, monkeypatch, capsys, largest, labels, features, options, message):
    """No recording is named, and no other one is tried."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav"):
        soundfile.write(name, noise(1.0), RATE)
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), features, labels)
    torch.manual_seed(0)
    tensors = stored_state(spec.build())
    tensors["head.weight"][:] = largest
    tensors["head.bias"][:] = 0.9 * largest  # the sum overflows for any activations of the last block above 0.24
    model_file.save(tmp_path / "m.safetensors", tensors, spec)
    assert run_command(lambda: main(["m.safetensors", ".", *options])) == 2
    shown = capsys.readouterr()
    [error] = [line for line in shown.err.splitlines() if not line.startswith("note: ends after 0")]
    assert re.match(f"error: (m.safetensors: )?{message}", error) and not shown.out


@pytest.mark.parametrize("windows", [1, 3, 16])
def test_windows_of_a_batch_by_their_memory(tmp_path, model, monkeypatch, windows):
    soundfile.write(tmp_path / "x.wav", noise(17.0), RATE)
    monkeypatch.setattr(predict, "_BATCH_BYTES", windows * model_file.stated_spec(model).activation_bytes())
    predictor, given = predict.Predictor(model, "cpu"), []
    predictor.model.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    assert len(list(predictor.windows(tmp_path / "x.wav"))) == 17 == sum(given)
    assert set(given[:-1]) == {windows}


def test_notes_about_sound(tmp_path, model, capsys):
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", noise(1.0) * 32767, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "cancels.wav", np.outer(noise(3.0), [1, -1]), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "sound.wav", noise(2.0), RATE)
    with open(tmp_path / "silent.wav", "rb+") as file:
        file.seek(40)
        file.write(b"\xff" * 4)  # as FFmpeg writes to a pipe
    assert main([str(model), str(tmp_path)]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    examples = ", ".join(str(tmp_path / f"{number}.wav") for number in range(3))
    assert [note[note.rindex(": "):] for note in notes] == [
        f": 1 ({tmp_path / 'silent.wav'})", f": 1 ({tmp_path / 'silent.wav'})", f": 4 ({examples}, ...)",
        f": 1 ({tmp_path / 'silent.wav'})", f": 1 ({tmp_path / 'cancels.wav'})"]
    for note, word in zip(notes, ("declare their length", "lower sample rate", "far above", "silent", "cancel"),
                          strict=True):
        assert word in note
