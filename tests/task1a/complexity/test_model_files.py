import io
import json
import lzma
import math
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
import tflite
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from task1a import model_file
from task1a.complexity.model_files import stored_tensors
from task1a.complexity.tensors import TensorSize
from task1a.errors import InputError
from task1a.safetensors_file import printable

REPOSITORY = Path(__file__).parents[3]
FLOAT, HALF, BYTE = torch.float32, torch.float16, torch.int8
# one of every width, with zeros of both signs
SMALL = {
    "conv.weight": torch.tensor([[1, 0, -2], [0, 0, 3]], dtype=BYTE),
    "conv.weight_scale": torch.tensor(0.5),
    "norm.weight": torch.tensor([1.0, 0.0], dtype=HALF),
    "norm.running_mean": torch.tensor([0.5, -0.5], dtype=HALF),
    "norm.running_var": torch.tensor([1.0, 1.0], dtype=HALF),
    "head.bias": torch.tensor([0.0, -0.0, 7.0]),
}
# name: shape, type, bits, values, of which not zero, bytes of those
BY_HAND = {
    "conv.weight": ((2, 3), "int8", 8, 6, 3, 3),
    "conv.weight_scale": ((), "float32", 32, 1, 1, 4),
    "norm.weight": ((2,), "float16", 16, 2, 1, 2),
    "norm.running_mean": ((2,), "float16", 16, 2, 2, 4),
    "norm.running_var": ((2,), "float16", 16, 2, 2, 4),
    "head.bias": ((3,), "float32", 32, 3, 1, 4),
}
TFLITE_TYPES = {BYTE: tflite.TensorType.INT8, HALF: tflite.TensorType.FLOAT16, FLOAT: tflite.TensorType.FLOAT32}


def write_onnx(path, *tensors, nodes=(), sparse=()):
    graph = helper.make_graph(nodes, "g", [], [], initializer=tensors, sparse_initializer=sparse)
    onnx.save_model(helper.make_model(graph), path)
    return path


def onnx_tensor(name, values, kind=TensorProto.FLOAT):
    return helper.make_tensor(name, kind, np.shape(values), np.ravel(values))


def write_tflite(path, *tensors):
    """Each tensor: name, shape, type, bytes (or the index of a buffer), and further fields by their names."""
    builder, buffers, tables = flatbuffers.Builder(), [b""], []
    for name, shape, kind, data, fields in tensors:
        if isinstance(data, bytes):
            buffers.append(data)
            data = len(buffers) - 1
        tables.append(table(builder, "Tensor", Name=builder.CreateString(name), Shape=vector(builder, shape, "int32"),
                            Type=kind, Buffer=data, **{key: value(builder) for key, value in fields.items()}))
    return finish_tflite(path, builder, tables, buffers=buffers)


def write_shared_tflite(path, count, name="w", scales=()):
    """A model whose one tensor is referenced again and again, with its name and its scales."""
    builder = flatbuffers.Builder()
    tensor = table(builder, "Tensor", Name=builder.CreateString(name), Shape=vector(builder, [4], "int32"),
                   Quantization=quantization(scales, [0])(builder))
    finish_tflite(path, builder, [tensor] * count, graphs=1_000)


def finish_tflite(path, builder, tensors, graphs=1, buffers=(b"",)):
    graph = table(builder, "SubGraph", Tensors=references(builder, tensors))
    contents = [vector(builder, np.frombuffer(data, np.uint8), "uint8") for data in buffers]
    held = references(builder, [table(builder, "Buffer", Data=content) for content in contents])
    builder.Finish(table(builder, "Model", Version=3, Subgraphs=references(builder, [graph] * graphs), Buffers=held),
                   file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def table(builder, kind, external=0, **fields):
    builder.StartObject(11)  # as many fields as a tensor has, and the one that the package does not know
    for key, value in fields.items():
        getattr(tflite, f"{kind}Add{key}")(builder, value)
    builder.PrependUint32Slot(10, external, 0)
    return builder.EndObject()


def vector(builder, values, dtype):
    return builder.CreateNumpyVector(np.asarray(values, dtype=dtype))


def references(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def quantization(scale, zero_point):
    return lambda builder: table(builder, "QuantizationParameters", Scale=vector(builder, scale, "float32"),
                                 ZeroPoint=vector(builder, zero_point, "int64"))


def sparsity(builder):
    return table(builder, "SparsityParameters")


def write(path, tensors):
    """Tensors in the format that the name asks for."""
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.name == "checkpoint.pt":
        torch.save({"epoch": 3, "state_dict": tensors, "hyper_parameters": {"lr": 0.1}}, path)
    elif path.suffix == ".pt":
        torch.save(OrderedDict(tensors), path)
    elif path.suffix == ".pth":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif path.suffix == ".onnx":
        write_onnx(path, *(numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()))
    else:
        write_tflite(path, ("input", (1, 40, 500, 1), 0, 0, {}), *(
            (name, value.shape, TFLITE_TYPES[value.dtype], value.numpy().tobytes(), {})
            for name, value in tensors.items()))
    return path


FORMATS = ("m.safetensors", "m.pt", "m.pth", "checkpoint.pt", "M.PT", "m.onnx", "m.tflite")


def refusal(path):
    with pytest.raises(InputError) as raised:
        stored_tensors(path)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 500
    return said


@pytest.mark.parametrize("name", FORMATS)
def test_a_small_network_by_hand_in_every_format(tmp_path, name):
    sizes = {t.name: (t.shape, t.dtype, t.bits, t.values, t.non_zero, t.bytes)
             for t in stored_tensors(write(tmp_path / name.lower(), SMALL))}
    assert sizes == BY_HAND


@pytest.mark.parametrize("name", FORMATS)
def test_the_end_of_a_file_cut_off(tmp_path, name):
    whole = write(tmp_path / name.lower(), SMALL).read_bytes()
    # of a flatbuffer, only what is read can be found missing: not the last letters of a name
    last = len(whole) - (16 if name.endswith(".tflite") else 1)
    for kept in (0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 64, last):
        (tmp_path / name).write_bytes(whole[:kept])
        refusal(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_byte_is_told_or_does_no_harm(tmp_path, name):
    path = write(tmp_path / name.lower(), SMALL)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1:])
        try:
            stored_tensors(path)
        except InputError as error:
            assert "\n" not in str(error)


class Disguised:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("pickled", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, name, pickled):
    content = {"weight": torch.ones(3), "more": Disguised(tmp_path / "run")}
    if pickled:
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / name)
    refusal(tmp_path / name)
    assert not (tmp_path / "run").exists()


def saved(content):
    return lambda path: torch.save(content, path)


def of_onnx(**fields):
    return lambda path: write_onnx(path, TensorProto(name="a.w", **fields))


def of_tflite(shape, data, kind=tflite.TensorType.FLOAT32, **fields):
    return lambda path: write_tflite(path, ("a.w", shape, kind, data, fields))


KINDS, STATE_DICT = ".safetensors, .safetensors.xz, .pt, .pth, .onnx, .tflite", "torch.save(model.state_dict(), FILE)"
UNKNOWN = "tensor a.w is of type {}, whose width is not known"
F32, INT4 = TensorProto.FLOAT, TensorProto.INT4


@pytest.mark.parametrize(("name", "write_file", "said"), [
    *((name, lambda path: path.write_bytes(b"something"), KINDS)
      for name in ("model.h5", "model.keras", "model.pb", "model.ckpt", "model", "model.pt.zip")),
    ("gone.pt", lambda path: None, "no such model file"),
    # types of unknown width
    ("m.pt", saved({"a.w": torch.zeros(2, dtype=torch.float4_e2m1fn_x2)}), UNKNOWN.format("float4_e2m1fn_x2")),
    ("m.onnx", lambda path: write_onnx(path, onnx_tensor("a.w", [b"x"], TensorProto.STRING)), UNKNOWN.format("STRING")),
    ("m.onnx", of_onnx(dims=[1], raw_data=b"1234"), UNKNOWN.format("UNDEFINED")),
    ("m.onnx", of_onnx(data_type=99, dims=[1], raw_data=b"1234"), UNKNOWN.format("99")),
    ("m.tflite", of_tflite((1,), b"abcd", tflite.TensorType.STRING), UNKNOWN.format("STRING")),
    ("m.tflite", of_tflite((1,), b"abcd", 99), UNKNOWN.format("99")),
    # no state dictionary
    *(("m.pt", saved(content), STATE_DICT) for content in (
        torch.ones(3), [torch.ones(3)], {}, {"state_dict": {}}, {"model": {"w": torch.ones(3)}}, {0: torch.ones(3)},
        {"w": torch.ones(3), "epoch": 3}, {"w": [torch.ones(3)]}, {"state_dict": torch.ones(3), "epoch": 1},
        {"state_dict": {"state_dict": {"w": torch.ones(3)}}}, torch.nn.Linear(3, 2))),
    ("m.pt", saved({"w": torch.ones(3, device="meta")}), "tensor w"),
    # other content than the suffix says
    *(("m.onnx", lambda path, content=content: path.write_bytes(content), "ONNX model")
      for content in (b"", b"\x08\x07", b"no model at all", b"\x00" * 100)),
    ("m.tflite", lambda path: path.write_bytes(b"\x1c\x00\x00\x00TFL2" + bytes(100)), "not a TFLite model"),
    # shapes that do not fit the values
    ("m.onnx", of_onnx(data_type=F32, dims=[10**6, 10**6], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=INT4, dims=[10**12], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=F32, dims=[-1], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=F32, dims=[5], float_data=[1.0]), "tensor a.w"),
    *(("m.tflite", of_tflite(shape, data), "tensor a.w") for shape, data in (
        ((4,), bytes(15)), ((4,), bytes(17)), ((10**6, 10**3), bytes(16)), ((-4,), bytes(16)))),
    ("m.tflite", of_tflite((4,), 7), "buffer 7"),
    ("m.tflite", of_tflite((4,), 0, external=lambda builder: 1), "in another file"),
    ("m.tflite", lambda path: write_shared_tflite(path, 1_000_000), "graphs and tensors"),
])
def test_what_cannot_be_counted_is_told(tmp_path, name, write_file, said):
    write_file(tmp_path / name)
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize("package", ["onnx", "tflite"])
def test_an_optional_package_that_is_not_there(tmp_path, monkeypatch, package):
    path = write(tmp_path / f"m.{package}", SMALL)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install -e '.[{package}]'" in refusal(path)


@pytest.mark.parametrize("name", FORMATS)
def test_names_stay_on_their_line(tmp_path, name):
    path = write(tmp_path / name.lower(), {"a\nb\x1b[2J": torch.ones(2)})
    assert [t.name for t in stored_tensors(path)] == ["a?b?[2J"]
    if path.suffix == ".onnx":
        refusal(write_onnx(path, TensorProto(name="a\nb", data_type=99)))


# --- safetensors ------------------------------------------------------------------------------------------------------

W = b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'


def with_header(header, size=16, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize("content", [
    *(with_header(b"{" + W + b"}", length=length) for length in (0, 1, 2**24, 2**31, 2**32, 2**63, 2**64 - 1)),
    *(with_header(header) for header in (
        b"", b"[]", b"3", b"null", b"{" + W, b"{" + W + b"}{}", b" {" + W + b"}", b"\xef\xbb\xbf{" + W + b"}",
        b"{" + W + b"}\0", b"{\xff}", ("{" + W.decode() + "}").encode("utf-16"), b"{" * 100_000, b"[" * 1_000_000,
        b'{"a":' * 100_000, b'{"a":' + b"9" * 1_000_000 + b"}", b"{" + W + b"," + W + b"}",
        b'{"__metadata__":{"a":"1","a":"2"},' + W + b"}", b'{"__metadata__":[],"a":1,' + W + b"}",
        b'{"__metadata__":{"a":1},' + W + b"}", b'{"__metadata__":"a",' + W + b"}")),
    *(with_header(b"{" + W.replace(old, new) + b"}") for old, new in (
        (b'"F32"', b'"F32","dtype":"I32"'), (b'"F32"', b'["F32"]'), (b'"F32"', b"null"), (b'"F32"', b'"F4"'),
        (b'"F32"', b'"F33"'), (b'"F32"', b'"F64"'), (b"[4]", b"[-2,-2]"), (b"[4]", b"[4.0]"), (b"[4]", b"[NaN]"),
        (b"[4]", b"[Infinity]"), (b"[4]", b"[true]"), (b"[4]", b"null"), (b"[4]", b'"4"'),
        (b"[4]", b"[4294967296,4294967296]"), (b"[4]", b"[4611686018427387904,4]"),
        (b"[4]", b"[" + b"1," * 1000 + b"4]"), (b"[4]", b"[9" + b"9" * 30 + b"]"),
        (b"[0,16]", b"[-16,0]"), (b"[0,16]", b"[16,0]"), (b"[0,16]", b"[0]"), (b"[0,16]", b"[0,16,32]"),
        (b"[0,16]", b"[0,1e1]"), (b"[0,16]", b"[4611686018427387904,4611686018427387920]"), (b"[0,16]", b"{}"),
        (b"[4]", b"[1000000000000]"), (b"[0,16]", b"[0,1000000000000]"))),
    b"\xff" * 8 + b"{}", with_header(b"{" + W + b"}", 15), with_header(b"{" + W + b"}", 17), with_header(b"{}", 1),
    with_header(b"{" + W + b"," + W.replace(b"w", b"v") + b"}"),  # the same place twice
    with_header(b"{" + W + b"," + W.replace(b"w", b"v").replace(b"[0,16]", b"[8,24]") + b"}", 24),  # they overlap
    with_header(b"{" + W + b"," + W.replace(b"w", b"v").replace(b"[0,16]", b"[20,36]") + b"}", 36),  # bytes between
], ids=lambda content: repr(content[8:60]))
def test_safetensors_that_are_not_sound(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(b"{" + W + b"}"))
    assert [t.values for t in stored_tensors(path)] == [4]
    path.write_bytes(content)
    refusal(path)
    for read in (model_file.load, model_file.stated_spec):
        with pytest.raises(InputError, match="not a readable safetensors file"):
            read(path)


@pytest.mark.parametrize(("name", "bits", "stored", "non_zero"), [
    ("BOOL", 8, [0, 1, 2, 0], 2), ("I8", 8, [0, 0x80, 1, 0], 2), ("F8_E4M3", 8, [0, 0x80, 1, 0x7F], 2),
    ("F8_E5M2", 8, [0, 0x80, 0x7C, 0xFF], 2), ("F8_E4M3FNUZ", 8, [0, 0x80, 1, 0], 2),  # its 0x80 is no number
    ("F8_E5M2FNUZ", 8, [0, 0x80, 1, 0], 2), ("BF16", 16, [0, 0x8000, 0x7FC0, 1], 2),
    ("F16", 16, [0, 0x8000, 0x7E00, 0xFC00], 2), ("U16", 16, [0, 0x8000, 1, 0], 2),
    ("F32", 32, [0, 0x80000000, 0x7FC00000, 1], 2), ("I32", 32, [0, 0x80000000, 1, 0], 2),
    ("F64", 64, [0, 1 << 63, 0x7FF << 52, 1], 2), ("U64", 64, [0, 1 << 63, 1, 0], 2),
    ("C64", 64, [0, 0x8000000080000000, 1, 1 << 32], 2),
])
def test_what_is_zero_in_safetensors(tmp_path, name, bits, stored, non_zero):
    values = b"".join(value.to_bytes(bits // 8, "little") for value in stored)
    repeated = 300_000  # several blocks
    header = {"w": {"dtype": name, "shape": [repeated, 4], "data_offsets": [0, repeated * len(values)]}}
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(json.dumps(header).encode(), 0) + values * repeated)
    size, = stored_tensors(path)
    assert (size.bits, size.values, size.non_zero) == (bits, 4 * repeated, non_zero * repeated)


def test_safetensors_are_read_as_their_own_library_reads_them(tmp_path):
    path = write(tmp_path / "m.safetensors", SMALL)
    whole, rng, compared = path.read_bytes(), np.random.default_rng(0), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(1500):
        content = bytearray(whole)
        for place in rng.integers(0, header if rng.random() < 0.8 else len(whole), rng.integers(1, 4)):
            content[place] = rng.choice([content[place] ^ 1 << rng.integers(8), *b'0123456789{}[]",:\0'])
        path.write_bytes(content)
        try:
            expected = {name: int((value != 0).sum()) for name, value in load(bytes(content)).items()}
        except (SafetensorError, ValueError, KeyError):
            refusal(path)
        else:
            compared += 1
            assert {t.name: t.non_zero for t in stored_tensors(path)} == {
                printable(name): count for name, count in expected.items()}
    assert compared > 50


# --- PyTorch ----------------------------------------------------------------------------------------------------------

TORCH_BITS = {
    "bool": 8, "uint8": 8, "int8": 8, "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8,
    "uint16": 16, "int16": 16, "float16": 16, "bfloat16": 16, "uint32": 32, "int32": 32, "float32": 32, "uint64": 64,
    "int64": 64, "float64": 64, "complex64": 64, "complex128": 128,
}


@pytest.mark.parametrize("kind", TORCH_BITS)
def test_widths_of_torch_and_tflite(tmp_path, kind):
    values, expected = torch.tensor([0, 1, 0, 1, 1]).to(getattr(torch, kind)), (kind, TORCH_BITS[kind], 5, 3)
    torch.save({"w": values}, tmp_path / "m.pt")
    assert stored_tensors(tmp_path / "m.pt") == [TensorSize("w", (5,), *expected)]
    if hasattr(tflite.TensorType, kind.upper()):
        tensor = ("w", (5, 1), getattr(tflite.TensorType, kind.upper()), bytes(values.untyped_storage()), {})
        assert stored_tensors(write_tflite(tmp_path / "m.tflite", tensor)) == [TensorSize("w", (5, 1), *expected)]


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="torch announced to drop them")
@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_of_torch_and_their_scales(tmp_path):
    values = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.0, 0.25]])
    linear = torch.ao.nn.quantized.Linear(3, 2)
    linear.set_weight_bias(torch.quantize_per_tensor(values, 0.25, 0, torch.qint8), torch.tensor([1.0, 0.0]))
    torch.save({
        "a": torch.quantize_per_channel(values, torch.tensor([0.5, 0.25]), torch.tensor([0, 0]), 0, torch.qint8),
        "b": torch.quantize_per_tensor(values, 0.25, 128, torch.quint8),
        **linear.state_dict(prefix="fc."),
    }, tmp_path / "m.pt")
    sizes = {t.name: (t.dtype, t.bits, t.values, t.non_zero) for t in stored_tensors(tmp_path / "m.pt")}
    packed = "fc._packed_params._packed_params"
    assert sizes == {
        "a": ("qint8", 8, 6, 4), "a.scale": ("float64", 64, 2, 2), "a.zero_point": ("int64", 64, 2, 0),
        "b": ("quint8", 8, 6, 6), "b.scale": ("float64", 64, 1, 1), "b.zero_point": ("int64", 64, 1, 1),
        "fc.scale": ("float32", 32, 1, 1), "fc.zero_point": ("int64", 64, 1, 0),
        f"{packed}.weight": ("qint8", 8, 6, 4), f"{packed}.weight.scale": ("float64", 64, 1, 1),
        f"{packed}.weight.zero_point": ("int64", 64, 1, 0), f"{packed}.bias": ("float32", 32, 2, 1)}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_and_shared_tensors_of_torch_count_what_is_stored(tmp_path):
    dense, tied = torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.ones(3)
    torch.save({"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "a": tied, "b": tied, "part": tied[1:]},
               tmp_path / "m.pt")
    assert {t.name: (t.shape, t.values, t.non_zero) for t in stored_tensors(tmp_path / "m.pt")} == {
        "coo": ((2, 2), 1, 1), "csr": ((2, 2), 1, 1), "a": ((3,), 3, 3), "part": ((2,), 2, 2)}


def test_step_counters_are_recognised(tmp_path):
    torch.save(torch.nn.BatchNorm2d(4).state_dict(), tmp_path / "m.pt")
    assert [t.name for t in stored_tensors(tmp_path / "m.pt") if t.step_counter] == ["num_batches_tracked"]
    torch.save({"num_batches_tracked": torch.ones(1000)}, tmp_path / "m.pt")
    assert not stored_tensors(tmp_path / "m.pt")[0].step_counter


def test_a_program_of_torch(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert STATE_DICT in refusal(tmp_path / "m.pt")


# in the pickle of ten values: their number in the storage, then their shape and stride
STORED, SHAPE, STRIDE, BILLIONS = b"cpuq\x06%s", b"K\x00%s\x85q\x08", b"K%c", b"J\xff\xff\xff\x7f"


@pytest.mark.parametrize(("values", "compression", "changes", "said"), [
    # a storage of billions of values that is not there
    (10, zipfile.ZIP_STORED, {STORED % b"K\x0a": STORED % BILLIONS, SHAPE % b"K\x0a": SHAPE % BILLIONS},
     "not a readable"),
    # the same value billions of times
    (10, zipfile.ZIP_STORED, {SHAPE % b"K\x0a" + STRIDE % 1: SHAPE % BILLIONS + STRIDE % 0}, "2,147,483,647 values"),
    (1_000_000, zipfile.ZIP_DEFLATED, {}, "compressed"),
])
def test_archives_of_torch_that_lie(tmp_path, values, compression, changes, said):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(values, dtype=torch.int64)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            for old, new in changes.items() if name.endswith(".pkl") else ():
                assert old in data
                data = data.replace(old, new)
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000 and said in refusal(path)


def pickled(content, name="a/data.pkl", **others):
    """An archive of torch with a pickle that was made by hand."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for member, data in {name: content, "a/data/0": bytes(4), "a/version": b"3\n", **others}.items():
            opened.writestr(member, data)
    return archive.getvalue()


LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03." b"\x80\x02}."
# ((), ()) in itself sixty times over: 2^60 values in a key, of which only the digest is wanted
TWICE = b")q\x00" + b"".join(b"h%c\x86q%c" % (depth, depth + 1) for depth in range(60))
TENS_OF_BILLIONS = b"\x8a\x05\0\xe4\x0bT\x02"
KEY = b"X\x01\x00\x00\x000"
TENSOR = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + KEY +
          b"X\x03\x00\x00\x00cpuK\x01tQK\x00%s\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR")


def dictionary(value):
    return b"\x80\x02}(" + KEY + value + b"u."


PICKLES = {
    "a key of 2^60 values": b"\x80\x02}(" + TWICE + b"K\x01u.",
    "such a key set by itself": b"\x80\x02}" + TWICE + b"K\x01s.",
    "such a key of a storage": dictionary((TENSOR % b"K\x01").replace(KEY, TWICE)),
    "such a value": dictionary(TWICE),
    "billions of zeros": dictionary(b"cbuiltins\nbytearray\n" + TENS_OF_BILLIONS + b"\x85R"),
    "a copy of one value billions of times": dictionary(
        b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(" + TENSOR % TENS_OF_BILLIONS + b"tR"),
    "a tensor of billions of values": dictionary(b"ctorch\nFloatTensor\n" + TENS_OF_BILLIONS + b"\x85R"),
    "a shape of billions": dictionary(TENSOR % TENS_OF_BILLIONS),
    "a negative shape": dictionary(TENSOR % b"J\xfb\xff\xff\xff"),
    "dictionaries": b"\x80\x02" + b"}" * 1_000_000 + b".",
    "depth": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "itself": b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dicth\x00u.",
    "a place in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a mark too many": b"\x80\x02(}u.",
    "no end": b"\x80\x02}",
    "a long name": b"\x80\x02c" + b"a" * 10_000_000 + b"\nb\n.",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_that_are_small_and_do_harm(tmp_path, content):
    path, harmless = tmp_path / "m.pt", dictionary(TENSOR % b"K\x01")
    path.write_bytes(pickled(harmless))
    assert [(t.name, t.values) for t in stored_tensors(path)] == [("0", 1)]
    for written in (pickled(content), pickled(content, name="A/DATA.PKL"), content, LEGACY + content + b"\x80\x02]."):
        path.write_bytes(written)
        refusal(path)
    for first, second in ((harmless, content), (content, harmless)):
        path.write_bytes(pickled(first, **{"a/DATA.pkl": second}))
        try:
            stored_tensors(path)  # torch decides which of them it takes
        except InputError as error:
            assert "\n" not in str(error)


# --- ONNX -------------------------------------------------------------------------------------------------------------

ONNX_BITS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8, "FLOAT16": 16,
    "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8,
    "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4,
}


@pytest.mark.parametrize("kind", ONNX_BITS)
@pytest.mark.parametrize("raw", [False, True])
def test_widths_of_onnx(tmp_path, kind, raw):
    tensor = onnx_tensor("w", [0, 1, 0, 1, 1], getattr(TensorProto, kind))
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
        assert tensor.HasField("raw_data")
    size, = stored_tensors(write_onnx(tmp_path / "m.onnx", tensor))
    bits = ONNX_BITS[kind]
    assert (size.bits, size.shape, size.values, size.non_zero) == (bits, (5,), 5, 3)
    assert size.bytes == math.ceil(3 * bits / 8)


def test_everything_that_an_onnx_file_stores(tmp_path):
    body = helper.make_graph([helper.make_node("Constant", [], ["inner.c"], value=onnx_tensor("", [3.0, 0.0]))],
                             "body", [], [], initializer=[onnx_tensor("inner.w", [1.0, 2.0])])
    sparse = helper.make_sparse_tensor(onnx_tensor("sparse.w", [5.0, 6.0, 0.0]),
                                       onnx_tensor("", [0, 7, 99], TensorProto.INT64), [100])
    nodes = [
        helper.make_node("Constant", [], ["c.tensor"], value=onnx_tensor("", [[1, 0]], TensorProto.INT8)),
        helper.make_node("Constant", [], ["c.float"], value_float=0.0),
        helper.make_node("Constant", [], ["c.floats"], value_floats=[1.0, 0.0, 2.0]),
        helper.make_node("Constant", [], ["c.int"], value_int=4),
        helper.make_node("Constant", [], ["c.ints"], value_ints=[0, -1]),
        helper.make_node("Constant", [], ["c.sparse"], sparse_value=sparse),
        helper.make_node("If", ["x"], ["if"], then_branch=body, else_branch=body),
        helper.make_node("Conv", ["x", "y"], ["conv"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("LinearClassifier", ["x"], ["l"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 0.0]),
    ]
    function = helper.make_function("own", "f", [], ["y"], [helper.make_node("Constant", [], ["f.c"], value_float=1.0)],
                                    [helper.make_opsetid("", 20)])
    graph = helper.make_graph(nodes, "g", [], [], initializer=[onnx_tensor("w", [1.0])], sparse_initializer=[sparse])
    onnx.save_model(helper.make_model(graph, functions=[function]), tmp_path / "m.onnx")
    found = [(t.name, t.bits, t.values, t.non_zero) for t in stored_tensors(tmp_path / "m.onnx")]
    assert sorted(found) == sorted([
        ("w", 32, 1, 1), ("sparse.w", 32, 3, 2), ("c.tensor", 8, 2, 1), ("c.float", 32, 1, 0), ("c.floats", 32, 3, 2),
        ("c.int", 64, 1, 1), ("c.ints", 64, 2, 1), ("c.sparse", 32, 3, 2), *2 * [("inner.w", 32, 2, 2)],
        *2 * [("inner.c", 32, 2, 1)], ("l.coefficients", 32, 3, 2), ("f.c", 32, 1, 1)])


def external(path, location, **fields):
    tensor = TensorProto(name="a.w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    return write_onnx(path, tensor)


def test_external_data_beside_an_onnx_file(tmp_path, monkeypatch):
    values = np.float32([1, 0, 2, 3])
    (tmp_path / "weights.bin").write_bytes(b"12345678" + values.tobytes() + b"rest")
    path = external(tmp_path / "m.onnx", "weights.bin", offset=8, length=16)
    assert [(t.values, t.non_zero) for t in stored_tensors(path)] == [(4, 3)]
    monkeypatch.chdir(tmp_path)
    assert [(t.values, t.non_zero) for t in stored_tensors("m.onnx")] == [(4, 3)]


@pytest.mark.parametrize("fields", [
    {"location": "../weights.bin"}, {"location": "sub/../../weights.bin"}, {"location": "gone.bin"}, {"location": ""},
    {"location": "weights.bin", "length": 10**15}, {"location": "weights.bin", "offset": 10**15},
    {"location": "weights.bin", "length": 12}, {"location": "weights.bin", "offset": -1},
    {"location": "link.bin"}, {"location": "absolute"},
])
def test_external_data_that_is_not_there_or_leaves_the_folder(tmp_path, fields):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(16))
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    if fields["location"] == "absolute":
        fields = {"location": str(tmp_path / "weights.bin")}
    if fields["location"] == "link.bin":
        try:
            (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
        except OSError:
            pytest.skip("links need a privilege here")
    assert "tensor a.w" in refusal(external(folder / "m.onnx", **fields))


def test_a_network_exported_to_onnx(tmp_path, network):
    torch.manual_seed(0)
    model, path = network().eval(), tmp_path / "m.onnx"
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    for value in state.values():  # the exporter merges equal tensors, such as fresh running means
        value.uniform_(0.5, 1.5)
    model.head.weight.data[0] = 0
    with warnings.catch_warnings():  # this exporter needs no more than onnx, and says that it is the old one
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 1, 256, 32),), path, dynamo=False, do_constant_folding=False)
    sizes = stored_tensors(path)
    graph = onnx.load(path).graph
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    arrays = [numpy_helper.to_array(tensor) for tensor in (*graph.initializer, *constants)]
    assert len(constants) > 10
    assert sum(t.values * t.bits // 8 for t in sizes) == sum(array.nbytes for array in arrays)
    assert sum(t.bytes for t in sizes) == sum(np.count_nonzero(array) * array.itemsize for array in arrays)
    own = [t for t in sizes if t.name in state]
    assert {t.name: t.values for t in own} == {name: value.numel() for name, value in state.items()}
    assert sum(t.bytes for t in own) == 4 * (8_055 + 1_830 - 25)
    assert sum(t.bytes for t in own if not t.statistics) == 4 * (8_055 - 25)


# --- TFLite -----------------------------------------------------------------------------------------------------------

def test_int4_of_tflite(tmp_path):
    data = bytes([0x10, 0xF0, 0xF3])  # 0, 1, 0, -1, 3, and half a byte that is no value
    path = write_tflite(tmp_path / "m.tflite", ("w", (5, 1), tflite.TensorType.INT4, data, {}))
    assert stored_tensors(path) == [TensorSize("w", (5, 1), "int4", 4, 5, 3)]


def test_scales_sparse_and_shared_buffers_of_tflite(tmp_path):
    path = write_tflite(
        tmp_path / "m.tflite",
        ("w", (2, 2), tflite.TensorType.INT8, bytes([1, 0, 2, 3]), {"Quantization": quantization([0.5, 0.25], [0, 0])}),
        ("same", (4,), tflite.TensorType.INT8, 1, {}),
        ("computed", (9,), tflite.TensorType.INT8, 0, {"Quantization": quantization([0.5], [-128])}),
        ("sparse", (10, 10), tflite.TensorType.FLOAT32, np.float32([1, 2, 0]).tobytes(), {"Sparsity": sparsity}))
    assert stored_tensors(path) == [
        TensorSize("w", (2, 2), "int8", 8, 4, 3), TensorSize("w.scale", (2,), "float32", 32, 2, 2),
        TensorSize("w.zero_point", (2,), "int64", 64, 2, 0), TensorSize("computed.scale", (1,), "float32", 32, 1, 1),
        TensorSize("computed.zero_point", (1,), "int64", 64, 1, 1), TensorSize("sparse", (10, 10), "float32", 32, 3, 2)]


# --- what no file may take: time and memory ---------------------------------------------------------------------------

# the promise is 5 seconds and 500 MB, half of which torch takes; a slow machine may take longer, not more
SECONDS, MEGABYTES = 20, 250
ZEROS = 600_000_000


def write_zeros(path, header=b"", end=b"", size=ZEROS):
    """A file that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
        file.seek(0, io.SEEK_END)
        file.write(end)


def safetensors_of_zeros(path, dtype="F32", width=4):
    header = json.dumps({"w": {"dtype": dtype, "shape": [ZEROS // width], "data_offsets": [0, ZEROS]}}).encode()
    write_zeros(path, len(header).to_bytes(8, "little") + header)


def safetensors_of_bytes(path, count):
    header = {f"w{index}": {"dtype": "U8", "shape": [1], "data_offsets": [index, index + 1]} for index in range(count)}
    path.write_bytes(with_header(json.dumps(header).encode(), count))


def state_dict_of_views(path, count):
    values = torch.zeros(count, dtype=torch.uint8)
    torch.save({f"w{index}": values[index:index + 1] for index in range(count)}, path)


def onnx_of_bytes(path, count):
    write_onnx(path, *(TensorProto(name=f"w{index}", data_type=TensorProto.INT8, dims=[1], raw_data=b"1")
                       for index in range(count)))


def onnx_of_messages(path, graph):
    length = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14 & 0x7F | 0x80,
                    len(graph) >> 21])
    path.write_bytes(b"\x08\x0a\x42\x02\x10\x15\x3a" + length + graph)


def onnx_beside_zeros(path, **fields):
    write_zeros(path.parent / f"{path.stem}.bin", size=10 * ZEROS)
    external(path, f"{path.stem}.bin", **fields)


# name: what writes such a file, and a part of what is said of it; None where it is counted
LARGE = {
    "zeros.safetensors": (safetensors_of_zeros, None),
    "halves.safetensors": (lambda path: safetensors_of_zeros(path, "BF16", 2), None),
    "tensors.safetensors": (lambda path: safetensors_of_bytes(path, 300_000), "enough for 10,000 tensors"),
    "more tensors.safetensors": (lambda path: safetensors_of_bytes(path, 30_000), "10,000 tensors"),
    "most tensors.safetensors": (lambda path: safetensors_of_bytes(path, 10_000), None),
    "sparse.safetensors": (lambda path: write_zeros(path, size=10 * ZEROS), "too large to be counted"),
    "lists.safetensors": (lambda path: path.write_bytes(with_header(b'{"a":[' + b"[]," * 690_000 + b"0]}")), "type"),
    "long name.safetensors": (lambda path: save_file({"w" * 2_000_000: torch.ones(1)}, path), None),
    "bomb.safetensors.xz": (lambda path: path.write_bytes(lzma.compress(bytes(ZEROS // 6), preset=0)), "larger than"),
    "sparse.safetensors.xz": (write_zeros, "too large to be counted"),
    "zeros.pt": (lambda path: write_zeros(path, b"PK\3\4"), "too large to be counted"),
    "bytes.pt": (lambda path: torch.save({"w": torch.zeros(60_000_000, dtype=BYTE)}, path), None),
    "floats.pth": (lambda path: torch.save({"w": torch.zeros(15_000_000)}, path, _use_new_zipfile_serialization=False),
                   None),
    "views.pt": (lambda path: state_dict_of_views(path, 30_000), "400,000 operations"),
    "zeros.onnx": (write_zeros, "too large to be counted"),
    "bytes.onnx": (lambda path: write_onnx(path, TensorProto(
        name="w", data_type=TensorProto.INT8, dims=[30_000_000], raw_data=bytes(30_000_000))), None),
    "tensors.onnx": (lambda path: onnx_of_bytes(path, 300_000), "of memory"),
    "more tensors.onnx": (lambda path: onnx_of_bytes(path, 30_000), "10,000 tensors"),
    "messages.onnx": (lambda path: onnx_of_messages(path, b"\x2a\0" * 16_000_000), "of memory"),
    "nodes.onnx": (lambda path: onnx_of_messages(path, b"\x0a\0" * 16_000_000), "of memory"),
    "beside.onnx": (onnx_beside_zeros, None),
    "all beside.onnx": (lambda path: onnx_beside_zeros(path, length=10 * ZEROS), "6000000000"),
    "zeros.tflite": (lambda path: write_zeros(path, b"\0\0\0\0TFL3"), "too large to be counted"),
    "tensors.tflite": (lambda path: write_shared_tflite(path, 40_000), "10,000 tensors"),
    "names.tflite": (lambda path: write_shared_tflite(path, 9_000, "w" * 30_000_000), "share their names"),
    "scales.tflite": (lambda path: write_shared_tflite(path, 9_000, scales=np.ones(10_000_000)), "too large"),
}
LOOK = """
import json, sys, time
from pathlib import Path
import onnx, torch
from task1a.complexity import measure
from task1a.complexity.__main__ import format_report
from task1a.errors import InputError
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024
told, libraries_alone = {}, peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix == ".bin":
        continue
    started, said = time.process_time(), None
    try:
        format_report(measure([path]))
    except InputError as error:
        said = str(error)
    told[path.name] = {"seconds": time.process_time() - started, "said": said}
print(json.dumps([told, peak() - libraries_alone]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory where Linux tells it")
def test_time_and_memory(tmp_path):
    for name, (write_file, _) in LARGE.items():
        write_file(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True,
                          check=True)
    for path in tmp_path.iterdir():
        path.unlink()  # pytest would keep them
    told, megabytes = json.loads(done.stdout)
    assert told.keys() == LARGE.keys() and not done.stderr
    for name, (_, expected) in LARGE.items():
        said, seconds = told[name]["said"], told[name]["seconds"]
        assert seconds < SECONDS, (name, seconds)
        assert said is None if expected is None else expected in said and "\n" not in said, (name, said)
    assert megabytes < MEGABYTES
