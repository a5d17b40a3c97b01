"""Checkpoints of PyTorch as teams save them: which tensors are the model, and that nothing else is run or lost."""
import argparse
import collections
import enum
import functools
import pathlib
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from task1a.complexity.__main__ import format_report, main
from task1a.complexity.measure import measure
from task1a.complexity.model_files import read_tensors
from task1a.complexity.tensors import TensorSize
from task1a.errors import InputError

SAVE = "save one with torch.save(model.state_dict(), FILE)"


class Attributes(dict):
    """Like AttributeDict of Lightning, Munch and EasyDict."""


class Object:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Scene(enum.Enum):
    PARK = 1


def small(bias=1.0):
    return {"w": torch.tensor([[1.0, 0.0, 2.0]]), "b": torch.tensor([bias])}


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))


def trained(model):
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


STATE = network().state_dict()
OPTIMIZER = trained(network())
OBJECTS = {
    "args": argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("x"), scene=Scene.PARK), "best": np.float64(0.5),
    "log": collections.defaultdict(list, loss=[1.0]), "recent": collections.deque([1.0], 3),
    "hyper_parameters": Attributes(lr=0.1, activation=functools.partial(max, 1)), "history": np.ones(100),
    "numpy_random": np.random.get_state(), "optimizer_class": torch.optim.Adam, "object": Object(a=[1], b=None),
    "rng_state": torch.get_rng_state(), "loss": torch.tensor(0.5), "losses": torch.ones(9), "epoch": 3, "none": None}
# checkpoint: what it holds, of which the tensors of STATE are the model
CHECKPOINTS = {
    "flat": STATE,
    "flat with objects": {**STATE, "epoch": 3, "args": OBJECTS["args"], "log": OBJECTS["log"]},
    **{key: {key: STATE, "epoch": 3} for key in ("net", "state_dict", "model_state_dict", "model", "student", "ema")},
    "objects": {**OBJECTS, "model": STATE},
    "parallel": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
    "lightning": {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.1", "state_dict": STATE,
                  "loops": {"fit_loop": {"state_dict": {}}}, "lr_schedulers": [{"base_lrs": [0.1]}],
                  "callbacks": {"ModelCheckpoint{'mode': 'min'}": {"best_model_score": torch.tensor(0.5),
                                                                   "kth_value": torch.ones(3)}},
                  "optimizer_states": [OPTIMIZER], "hyper_parameters": Attributes(weights=torch.ones(10)),
                  "hparams_name": "kwargs"},
    "optimizers": {"net": STATE, "opt_g": OPTIMIZER, "opts": [OPTIMIZER, OPTIMIZER]},
    "of another class": Attributes(model=Attributes(STATE)),
    "average as an object": {"model": STATE, "average": Object(state=small())},
    "twice the same": {"model": STATE, "state_dict": STATE},
    "parameters": list(STATE.values()),
    "arrays": {"model": {name: value.numpy() if name == "0.weight" else value for name, value in STATE.items()}},
}


def counted(path, key=None):
    return [tensor for tensor in read_tensors(path, key) if not tensor.excluded]


def refusal(path, key=None):
    with pytest.raises(InputError) as raised:
        read_tensors(path, key)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 500
    return said


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_model_in_a_checkpoint(tmp_path, checkpoint, zipped):
    torch.save(checkpoint, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    found = counted(tmp_path / "m.ckpt")
    expected = [value for name, value in STATE.items() if "num_batches" not in name]
    sizes = [(tensor.shape, tensor.non_zero) for tensor in found if tensor.dtype == "float32"]
    assert sizes == [(tuple(value.shape), int(value.count_nonzero())) for value in expected]
    # a list has no names, by which the step counter could be told
    assert len(found) == len(sizes) + isinstance(checkpoint, list)


STUDENT, TEACHER = small(), small(0.0)
SEVERAL = {
    "student and teacher": ({"student": STUDENT, "teacher": TEACHER}, "student", "teacher"),
    "one system": ({"state_dict": {**{f"student.{name}": value for name, value in STUDENT.items()},
                                   **{f"teacher.{name}": value for name, value in TEACHER.items()},
                                   "mel.window": torch.ones(9)}}, "state_dict.student", "state_dict.teacher"),
    "flat": ({**{f"model.student.{name}": value for name, value in STUDENT.items()},
              **{f"model.teacher.{name}": value for name, value in TEACHER.items()}}, "model.student", "model.teacher"),
    "average": ({"model": STUDENT, "model_ema": TEACHER, "epoch": 3}, "model", "model_ema"),
    "folds": ([STUDENT, TEACHER], "0", "1"),
    "beside tensors": ({"model": STUDENT, **TEACHER}, "model", "."),
}


@pytest.mark.parametrize(("checkpoint", "first", "second"), SEVERAL.values(), ids=SEVERAL)
def test_several_models_are_named(tmp_path, checkpoint, first, second, capsys):
    path = tmp_path / "m.pt"
    torch.save(checkpoint, path)
    for key in (None, "nothing", first[:-1] or "x"):
        assert f"holds {first} (tensors: 2), {second} (tensors: 2); choose one with --key" in refusal(path, key)
    assert [(t.name, t.non_zero) for t in counted(path, first)] == [("w", 2), ("b", 1)]
    assert [(t.name, t.non_zero) for t in counted(path, second)] == [("w", 2), ("b", 0)]


def test_key_on_the_command_line(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"")
    torch.save({"student": STUDENT, "teacher": TEACHER}, tmp_path / "m.pt")
    assert main([str(tmp_path / "m.pt"), "--key", "student"]) == 0
    assert "12 B counted\n  not counted: not in student, 4 values, 8 B\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="only a PyTorch checkpoint"):
        main([str(tmp_path / "m.onnx"), "--key", "student"])


DEVICES = {"a": {"w": torch.ones(5)}, "b": {"w": torch.ones(30_000)}, "s1": {"w": torch.ones(7)}}


@pytest.mark.parametrize("checkpoint", [
    {"device_models": DEVICES, "epoch": 3}, DEVICES, {"models": DEVICES}, [DEVICES][0] | {"general": small()},
    {"base_model": small(), "device_models": DEVICES}, {"device_models": {"phone": small(), **DEVICES}},
    # torch.nn.ModuleDict in a LightningModule
    {"state_dict": {f"net.device_models.{device}.w": state["w"] for device, state in DEVICES.items()}
     | {"net.base_model.w": torch.ones(8)}},
], ids=["device_models", "flat", "models", "general", "base_model", "phone", "module"])
def test_models_by_device(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "m.pt")
    complexity = measure([tmp_path / "m.pt"])
    assert complexity["policies"]["dcase2021"]["bytes"] == 120_000  # of the largest
    sizes = complexity["models"][0]["device_models"]
    assert {device: sizes[device] for device in DEVICES} == {"a": 20, "b": 120_000, "s1": 28}
    assert "of which the largest is counted: a 20 B, b 120,000 B," in format_report(complexity)


def test_what_models_by_device_share(tmp_path):
    shared = torch.ones(100)
    torch.save({"stem.w": torch.ones(10), "device_models.a.body": shared, "device_models.a.head": torch.ones(5),
                "device_models.b.body": shared, "device_models.b.head": torch.ones(6)}, tmp_path / "m.pt")
    assert measure([tmp_path / "m.pt"])["models"][0]["device_models"] == {"a": 460, "b": 464}
    torch.save({"device_models": DEVICES}, tmp_path / "m.pt")
    assert [t.name for t in counted(tmp_path / "m.pt", "device_models.a")] == ["w"]
    assert len(counted(tmp_path / "m.pt", "device_models")) == 3


@pytest.mark.parametrize(("content", "said"), [
    ({}, SAVE), (torch.ones(3), SAVE), ({"epoch": 3}, SAVE), ({"w": "text"}, SAVE), ({"state_dict": {}}, SAVE),
    (OPTIMIZER, f"but an optimizer state; {SAVE}"), ({"w": np.ones(3)}, "but an array of numpy"),
    (network(), f"but an object of the class torch.nn.modules.container.Sequential; {SAVE}"),
    ({"model": network(), "epoch": 3}, "an object of the class torch.nn.modules.container.Sequential"),
    ({"model": {"w": torch.ones(3), "head": network()}}, "model holds an object of the class torch.nn.modules."),
    ({"w": torch.ones(3, device="meta")}, "tensor w"),
    ({"optimizer": OPTIMIZER, "args": Object(x=torch.ones(3))}, SAVE),
], ids=lambda value: "")
def test_no_state_dictionary(tmp_path, content, said):
    torch.save(content, tmp_path / "m.pt")
    assert said in refusal(tmp_path / "m.pt")


def test_program_of_torchscript(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), tmp_path / "m.pt")
    assert f"TorchScript; {SAVE}" in refusal(tmp_path / "m.pt")


def test_features_and_what_lies_next_to_the_model(tmp_path):
    mel = {f"mel.{name}": torch.ones(100) for name in (
        "0.kernel", "1.spectrogram.window", "1.mel_scale.fb", "stft.conv_real.weight", "logmel_extractor.melW")}
    state = {**STATE, **mel, "mel.kernel": torch.ones(50)}  # the last could be anything
    torch.save({"state_dict": state, "optimizer": OPTIMIZER, "rng": torch.get_rng_state()}, tmp_path / "m.ckpt")
    complexity = measure([tmp_path / "m.ckpt"])
    values = sum(value.numel() for name, value in STATE.items() if "num_batches" not in name)
    assert complexity["policies"]["dcase2021"]["parameters"] == values + 50
    excluded = {reason: total["parameters"] for reason, total in complexity["models"][0]["excluded"].items()}
    trainable = sum(parameter.numel() for parameter in network().parameters())
    assert excluded == {"features": 500, "optimizer state": 2 * trainable + 6, "step counters (num_batches_tracked)": 1,
                        "stored next to the model": len(torch.get_rng_state())}
    assert "  not counted: features, 500 values, 2,000 B\n" in format_report(complexity)


@pytest.mark.parametrize(("tensors", "names"), [
    (nn.BatchNorm2d(4).state_dict(), ["num_batches_tracked"]),
    ({"w": torch.ones(3), "num_batches_tracked": torch.tensor(3)}, []),
    ({"n.running_mean": torch.ones(4), "n.num_batches_tracked": torch.tensor(3.0)}, []),
    ({"n.running_mean": torch.ones(4), "n.num_batches_tracked": torch.ones(1000, dtype=torch.int64)}, [])])
def test_step_counters(tmp_path, tensors, names):
    torch.save(tensors, tmp_path / "m.pt")
    assert [t.name for t in read_tensors(tmp_path / "m.pt") if t.excluded] == names


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="torch announced to drop them")
@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_and_their_scales(tmp_path):
    values = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.0, 0.25]])
    linear = torch.ao.nn.quantized.Linear(3, 2)
    linear.set_weight_bias(torch.quantize_per_tensor(values, 0.25, 0, torch.qint8), torch.tensor([1.0, 0.0]))
    torch.save({
        "a": torch.quantize_per_channel(values, torch.tensor([0.5, 0.25]), torch.tensor([0, 0]), 0, torch.qint8),
        "b": torch.quantize_per_tensor(values, 0.25, 128, torch.quint8),
        **linear.state_dict(prefix="fc."),
    }, tmp_path / "m.pt")
    sizes = {t.name: (t.dtype, t.bits, t.values, t.non_zero) for t in read_tensors(tmp_path / "m.pt")}
    packed = "fc._packed_params._packed_params"
    assert sizes == {
        "a": ("qint8", 8, 6, 4), "a.scale": ("float64", 64, 2, 2), "a.zero_point": ("int64", 64, 2, 0),
        "b": ("quint8", 8, 6, 6), "b.scale": ("float64", 64, 1, 1), "b.zero_point": ("int64", 64, 1, 1),
        "fc.scale": ("float32", 32, 1, 1), "fc.zero_point": ("int64", 64, 1, 0),
        f"{packed}.0": ("qint8", 8, 6, 4), f"{packed}.0.scale": ("float64", 64, 1, 1),
        f"{packed}.0.zero_point": ("int64", 64, 1, 0), f"{packed}.1": ("float32", 32, 2, 1)}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_and_shared_tensors(tmp_path):
    dense, tied = torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.ones(3)
    torch.save({"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "a": tied, "b": tied, "part": tied[1:],
                "turned": torch.arange(6).view(2, 3).T}, tmp_path / "m.pt")
    torch.save({"best": tied, "optimizer": {"state": {0: {"average": tied}}, "param_groups": []}, "net": {"w": tied}},
               tmp_path / "n.pt")
    assert [t.name for t in counted(tmp_path / "n.pt", "net")] == ["w"]
    assert {t.name: (t.shape, t.values, t.non_zero) for t in read_tensors(tmp_path / "m.pt")} == {
        "coo": ((2, 2), 1, 1), "csr": ((2, 2), 1, 1), "a": ((3,), 3, 3), "part": ((2,), 2, 2), "turned": ((3, 2), 6, 5)}


def test_large_checkpoint_of_student_and_teacher(tmp_path):
    torch.save({"student": small(), "teacher": {"w": torch.ones(100, 250_000)}}, tmp_path / "m.ckpt")  # 100 MB
    assert measure([tmp_path / "m.ckpt"], key="student")["policies"]["dcase2021"]["bytes"] == 12
    sizes = [TensorSize("w", (100, 250_000), "float32", 32, 25_000_000, 25_000_000)]
    assert counted(tmp_path / "m.ckpt", "teacher") == sizes
