"""Export to ONNX: every architecture, the features, the stored types, and the command on the run of a toy system."""
import copy
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import soundfile
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

from task1a import model_file
from task1a.complexity import measure
from task1a.complexity.model_files import stored_tensors
from task1a.compression import packed
from task1a.compression.packed import Packing, stored_state
from task1a.config import BCResNetASCConfig, BCResNetConfig, CPResNetConfig, FeatureConfig
from task1a.errors import FallsShort, InputError
from task1a.export import __main__ as export
from task1a.export import check, graph
from task1a.export import measure as latency
from task1a.export.activations import quantize_activations
from task1a.export.log_mel import LogMel
from task1a.features.log_mel import log_mel, stored_log_mel
from task1a.files import digest, read_json
from task1a.model_file import ModelSpec

FEATURES = FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0)
LABELS = ("tram", "bus", "park")  # not sorted
PACKING = Packing("tensor")
ASC = BCResNetASCConfig(tau=0.6)
MEASURED = {"milliseconds": 1.5, "peak_bytes": 2_000_000}


def write(path, as_trained, network, packing=PACKING, features=FEATURES):
    """A model file of random weights, half of them pruned."""
    spec = ModelSpec(network, features, LABELS)
    model = as_trained(spec.build())
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)  # stored zeros are stored in the exported model, too
    if hasattr(model, "front_end") and network.front_end == "freqnorm":
        model.front_end.fit([torch.randn(8, 1, features.n_mels, features.frames) * 3 - 5])
    if packing:
        packed.prepare(model, packing)
        for parametrized in packed.convolutions(model).values():
            mask = parametrized.parametrizations["weight"][0].kept
            mask.copy_(torch.rand(mask.shape) < 0.5)
            mask.view(-1)[0] = True
    model_file.save(path, packed.pack(model, packing) if packing else stored_state(model),
                    replace(spec, packing=packing))
    return path


def run_onnx(model, **inputs):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]


def initializers(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture(scope="module", autouse=True)
def exported_once():
    """A model that several tests export is exported once, which takes torch seconds."""
    made = {}

    def once(export):
        def exported(*given):
            weights = [value.numpy().tobytes() for value in given[0].state_dict().values()] if len(given) == 2 else []
            key = (given[-1], *weights)
            if key not in made:
                made[key] = export(*given)
            return copy.deepcopy(made[key])

        return exported

    with pytest.MonkeyPatch.context() as patch:
        for name in ("network_graph", "features_graph"):
            patch.setattr(graph, name, once(getattr(graph, name)))
        yield


@pytest.mark.parametrize(("network", "packing", "bins"), [
    pytest.param(BCResNetASCConfig(tau=8.0), PACKING, 32, id="asc-8", marks=pytest.mark.slow),
    pytest.param(ASC, Packing("channel"), 32, id="scales by channel"),
    pytest.param(replace(ASC, residual_norm="none", front_end="freqnorm"), Packing("channel"), 32, id="freqnorm",
                 marks=pytest.mark.slow),
    pytest.param(replace(ASC, residual_norm="none", front_end="pcen"), PACKING, 32, id="pcen"),
    pytest.param(BCResNetConfig(tau=0.5), PACKING, 64, id="bcresnet", marks=pytest.mark.slow),
    pytest.param(CPResNetConfig(width=4), PACKING, 32, id="cp_resnet"),
    pytest.param(ASC, None, 32, id="vanilla", marks=pytest.mark.slow),
])
def test_every_network_is_exported_as_it_is_stored(tmp_path, as_trained, network, packing, bins):
    path = write(tmp_path / "x.safetensors", as_trained, network, packing,
                 replace(FEATURES, n_mels=bins, f_max=7000.0))
    model, spec = model_file.load(path)
    exported = graph.network_graph(model, spec)
    graph.store_as_packed(exported, load_file(path))
    graph.write(tmp_path / "x.onnx", exported)

    # quiet and loud clips in a batch of a size of its own, one of them silent
    floor = np.log(spec.features.log_floor)
    energies = torch.randn(3, *spec.input_shape) * 2 - torch.tensor([5.0, 18.0, 100.0])[:, None, None, None]
    energies = energies.clamp(floor)
    with torch.no_grad():
        expected = torch.softmax(model(energies).double(), dim=1).numpy()
    between_clips = np.ptp(expected, axis=0).max()
    assert between_clips > 1e-4
    np.testing.assert_allclose(run_onnx(exported, log_mel=energies.numpy()), expected, atol=between_clips / 100)

    stored = initializers(exported)
    for name, tensor in load_file(path).items():
        assert stored[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(stored[name].squeeze(), tensor.numpy().squeeze())
    constants = sum(value.size for name, value in stored.items() if name not in load_file(path))
    assert constants < 150  # shapes, and the numbers of formulas
    assert {node.domain for node in exported.graph.node} == {""}


def test_what_is_counted_is_what_is_shipped(tmp_path, as_trained):
    path = write(tmp_path / "x.safetensors", as_trained, ASC)
    model, spec = model_file.load(path)
    exported = graph.network_graph(model, spec)
    graph.store_as_packed(exported, load_file(path))
    whole = graph.with_features(graph.features_graph(FEATURES), exported)
    graph.write(tmp_path / "other.onnx", whole)  # of another program
    graph.describe(whole, spec, {})
    graph.write(tmp_path / "x.onnx", whole)
    assert {entry.key: json.loads(entry.value) for entry in whole.metadata_props}["labels"] == list(LABELS)
    assert not any(tensor.excluded for tensor in stored_tensors(tmp_path / "other.onnx"))
    found = {tensor.name: tensor for tensor in stored_tensors(tmp_path / "x.onnx")}
    for tensor in stored_tensors(path):
        counted = found.pop(tensor.name)
        assert (counted.bytes, counted.non_zero, counted.statistics) == (
            tensor.bytes, tensor.non_zero, tensor.statistics)
    assert sum(tensor.bytes for tensor in found.values() if not tensor.excluded) < 600
    features = {name: tensor for name, tensor in found.items() if tensor.excluded == "features"}
    assert features.keys() == {name for name in found if name.startswith("features/")}
    assert sum(tensor.bytes for tensor in features.values()) > 1000
    excluded = measure.measure([tmp_path / "x.onnx"])["models"][0]["excluded"]
    assert excluded["features"]["bytes"] == sum(tensor.bytes for tensor in features.values())


@pytest.mark.parametrize("settings", [
    {}, {"n_fft": 1200, "window": 999, "hop": 333}, {"n_fft": 2048, "window": 1024, "hop": 1024},
    {"n_fft": 1030, "window": 600, "hop": 70, "f_min": 50.0, "f_max": 6000.0, "log_floor": 1e-6},
], ids=["power of two", "odd window", "padded window", "two prime factors"])
def test_the_features_are_those_of_a_data_set(settings):
    features = replace(FEATURES, **settings)
    generator = np.random.default_rng(0)
    clips = generator.normal(0, 0.1, (3, features.clip_samples)).astype(np.float32)
    clips[1] = np.sin(np.arange(features.clip_samples) / 5)
    clips[2] = 0
    found = LogMel(features)(torch.from_numpy(clips)).numpy()[:, 0]
    expected = np.stack([log_mel(clip, features) for clip in clips])
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, found.astype(np.float16))
    # the last digit of half precision, which is 1/64 beyond 16; far below a pure tone, both have rounding errors
    heard = expected > expected.max(axis=(1, 2), keepdims=True) - 14
    np.testing.assert_allclose(found[heard], expected[heard], atol=1 / 64)
    assert (found == expected.astype(np.float16))[[0, 2]].mean() > 0.999


def test_the_features_are_exported_for_batches_of_any_size():
    clips = np.random.default_rng(0).normal(0, 0.1, (3, FEATURES.clip_samples)).astype(np.float32)
    clips[2] = 0
    found = run_onnx(graph.features_graph(FEATURES), waveform=clips)
    expected = np.stack([stored_log_mel(clip, FEATURES) for clip in clips])[:, None]
    np.testing.assert_allclose(found, expected, rtol=2 ** -10)
    np.testing.assert_array_equal(found[2], expected[2])  # the floor of the logarithm is still there


def test_a_fourier_transform_that_cannot_be_split_is_refused():
    with pytest.raises(InputError, match="n_fft=2053 is not a product of two numbers up to 1024"):
        LogMel(replace(FEATURES, n_fft=2053, window=2053))


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_bits_of_weights(tmp_path, as_trained, reduce_range, largest):
    """Each channel uses the range of its codes: 8 bits, or 7."""
    model, spec = model_file.load(write(tmp_path / "x.safetensors", as_trained, ASC))
    clips = np.random.default_rng(0).normal(-5, 3, (2, *spec.input_shape[1:])).astype(np.float32)
    exported = quantize_activations(graph.network_graph(model, spec), clips, lambda clip: clip, reduce_range)
    values = initializers(exported)
    makers = {node.output[0]: node for node in exported.graph.node}
    codes = [values[makers[node.input[1]].input[0]] for node in exported.graph.node if node.op_type == "Conv"]
    assert codes and all(weight.dtype == np.int8 for weight in codes)
    used = np.concatenate([np.abs(weight.astype(int)).reshape(len(weight), -1).max(axis=1) for weight in codes])
    assert set(used[used > 0]) <= {largest - 1, largest} and (used > 0).any()


@pytest.mark.parametrize("features", ["inside", pytest.param("outside", marks=pytest.mark.slow)])
def test_a_run_is_exported_with_8_bit_activations(undisturbed, toy_data, tmp_path, capsys, monkeypatch, features):
    monkeypatch.chdir(undisturbed)
    run = undisturbed / "runs/toy/seed0"
    monkeypatch.setattr(export, "measure", lambda *_: MEASURED)
    model, out = run / "compress" / "packed.safetensors", tmp_path / "x.onnx"
    assert export.main([str(model), str(out), "--features", features, "--run", str(run), "--int8",
                        "--calibration-clips", "5"]) == 0
    told = capsys.readouterr().out
    scores = read_json(run / "evaluation.json")["overall"]
    beside = f"accuracy {scores['accuracy']:.1f}%  log loss {scores['logloss']:.3f}"
    assert told.count(beside) >= 2  # torch and the ONNX model with activations in float32

    exported = onnx.load(out)
    facts = {entry.key: entry.value for entry in exported.metadata_props}
    spec = model_file.load(model)[1]
    assert json.loads(facts["labels"]) == list(spec.labels) and facts["sample_rate"] == "16000"
    assert FeatureConfig(**json.loads(facts["features"])) == spec.features
    assert facts["model_sha256"] == digest(model)
    train = set(pd.read_csv(toy_data[0] / "evaluation_setup" / "fold1_train.csv", sep="\t").filename)
    calibration = json.loads(facts["calibration_clips"])
    assert len(set(calibration)) == 5 and set(calibration) <= train

    # the weights, inputs and outputs of convolutions have 8 bits, nothing else has
    makers = {output: node for node in exported.graph.node for output in node.output}
    types = {name: value.dtype for name, value in initializers(exported).items()}
    convolutions = [node for node in exported.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        assert [makers[given].op_type for given in node.input[:2]] == ["DequantizeLinear"] * 2
        assert types[makers[node.input[1]].input[0]] == np.int8
    quantized = [node for node in exported.graph.node if node.op_type == "QuantizeLinear"]
    assert len(convolutions) < len(quantized) <= 2 * len(convolutions)
    assert {types[node.input[2]] for node in quantized} == {np.dtype(np.int8)}
    assert [value.name for value in exported.graph.input] == [{"inside": "waveform", "outside": "log_mel"}[features]]

    # and predicts about the same
    read = [check.read_waveform(path, spec.features) for path in sorted((toy_data[0] / "audio").glob("*.wav"))[:8]]
    truth, found = check.compare(model_file.load(model)[0], spec.features, [out], read)
    assert 0 < np.abs(truth - found).max() < 0.25


def test_the_command_tells_sizes_and_checks_on_recordings(tmp_path, as_trained, capsys):
    model = write(tmp_path / "x.safetensors", as_trained, ASC)
    for number in range(9):  # more than one batch
        noise = np.random.default_rng(number).normal(0, 0.1, 48000)
        soundfile.write(tmp_path / f"{number}.flac", noise, 48000)
    assert export.main([str(model), str(tmp_path / "x.onnx"), "--check", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "probabilities of 9 recordings differ from those in torch by at most " in told
    rows = [line.split() for line in told.splitlines() if line.startswith(("torch  ", "ONNX  "))]
    assert [row[0] for row in rows] == ["torch", "ONNX"] and " ms " in told and " MB" in told
    counted = sum(tensor.bytes for tensor in stored_tensors(model))
    assert f"{model.stat().st_size:,} B" in told and f"{counted:,} B" in told
    assert f"{(tmp_path / 'x.onnx').stat().st_size:,} B" in told


@pytest.mark.parametrize("limit", ["TOLERANCE", "TOLERANCE_INSIDE"])
def test_a_model_that_differs_is_not_written(tmp_path, as_trained, monkeypatch, limit):
    model, out = write(tmp_path / "x.safetensors", as_trained, ASC), tmp_path / "x.onnx"
    out.write_bytes(b"an older export")
    monkeypatch.setattr(check, limit, 0.0)
    with pytest.raises(FallsShort, match="x.onnx is not written: its probabilities of 8 clips of noise differ by up"):
        export.main([str(model), str(out)])
    assert out.read_bytes() == b"an older export"
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.onnx"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["x.tflite"], "x.tflite: the name of an ONNX model ends with .onnx"),
    (["x.onnx", "--int8"], "--int8: give the run of the model with --run"),
    (["x.onnx", "--check", "a.wav", "--run", "r"], "--check and --run: give one of them"),
    (["x.onnx", "--check", "nowhere.wav"], "nowhere.wav: no such file or folder"),
    (["x.onnx", "--check", "notes.wav"], "notes.wav: "),
    (["x.onnx", "--run", "r", "--calibration-clips", "0"], "--calibration-clips 0: must be at least 1"),
    (["x.onnx", "--run", "r"], "config.yaml: no such file"),
])
def test_what_cannot_be_exported_is_told(tmp_path, as_trained, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.wav").write_text("no audio", encoding="utf-8")
    model = write(tmp_path / "x.safetensors", as_trained, ASC)
    with pytest.raises(InputError, match=message):
        export.main([str(model), *arguments])
    assert not list(tmp_path.glob("*.onnx"))


def test_the_run_of_another_model_is_refused(tmp_path, as_trained, undisturbed):
    model = write(tmp_path / "x.safetensors", as_trained, ASC)
    with pytest.raises(InputError, match="has other features or labels than the model"):
        export.main([str(model), str(tmp_path / "x.onnx"), "--run", str(undisturbed / "runs/toy/seed0")])


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package onnx is needed to export: pip install -e '.\[export\]'"):
        export.main([str(tmp_path / "x.safetensors"), str(tmp_path / "x.onnx")])


def test_a_failed_measurement_is_told(tmp_path):
    """The model is measured in a process of its own."""
    with pytest.raises(InputError, match=r"x.safetensors: its latency cannot be measured: .*x.safetensors: no such"):
        latency.measure(tmp_path / "x.safetensors", from_waveform=False)
