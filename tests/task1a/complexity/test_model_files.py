"""What every reader promises: types, shapes and non-zero values of each format, and one line for what is no model."""
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

import flatbuffers
import h5py
import ml_dtypes
import numpy as np
import onnx
import pytest
import tflite
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from task1a import model_file
from task1a.complexity.model_files import read_tensors, stored_tensors
from task1a.complexity.tensors import TYPES, TensorSize, count_non_zero
from task1a.errors import InputError
from task1a.safetensors_file import printable

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


# --- files written by hand --------------------------------------------------------------------------------------------

def write_onnx(path, *tensors, nodes=(), sparse=(), functions=(), **fields):
    graph = helper.make_graph(nodes, "g", [], [], initializer=tensors, sparse_initializer=sparse)
    onnx.save_model(helper.make_model(graph, functions=functions, **fields), path)
    return path


def onnx_tensor(name, values, kind=TensorProto.FLOAT):
    return helper.make_tensor(name, kind, np.shape(values), np.ravel(values))


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


def write_tflite(path, *tensors, graphs=1, times=1):
    """Each tensor: name, shape, type, bytes (or the index of a buffer), and further fields by their names."""
    builder, buffers, tables = flatbuffers.Builder(), [b""], []
    for name, shape, kind, data, fields in tensors:
        if isinstance(data, bytes):
            buffers.append(data)
            data = len(buffers) - 1
        tables.append(table(builder, "Tensor", Name=builder.CreateString(name), Shape=vector(builder, shape, "int32"),
                            Type=kind, Buffer=data, **{key: value(builder) for key, value in fields.items()}))
    graph = table(builder, "SubGraph", Tensors=references(builder, tables * times))
    contents = [vector(builder, np.frombuffer(data, np.uint8), "uint8") for data in buffers]
    held = references(builder, [table(builder, "Buffer", Data=content) for content in contents])
    builder.Finish(table(builder, "Model", Version=3, Subgraphs=references(builder, [graph] * graphs), Buffers=held),
                   file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def quantization(scale, zero_point):
    return lambda builder: table(builder, "QuantizationParameters", Scale=vector(builder, scale, "float32"),
                                 ZeroPoint=vector(builder, zero_point, "int64"))


def write_keras(path, tensors, **groups):
    """As Keras writes a file: an HDF5 file, in a ``.keras`` archive with the configuration."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in {**tensors, **groups}.items():
            file.create_dataset(name, data=value)
    if path.suffix == ".h5":
        path.write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content.getvalue())
    return path


def write(path, tensors):
    """Tensors in the format that the name asks for."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix in (".pt", ".bin"):
        torch.save(OrderedDict(tensors), path)
    elif suffix == ".pth":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif suffix == ".ckpt":
        torch.save({"epoch": 3, "state_dict": tensors, "hyper_parameters": {"lr": 0.1}}, path)
    elif suffix == ".onnx":
        write_onnx(path, *(numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()))
    elif suffix == ".tflite":
        kinds = {BYTE: tflite.TensorType.INT8, HALF: tflite.TensorType.FLOAT16, FLOAT: tflite.TensorType.FLOAT32}
        write_tflite(path, ("input", (1, 40, 500, 1), 0, 0, {}), *(
            (name, value.shape, kinds[value.dtype], value.numpy().tobytes(), {}) for name, value in tensors.items()))
    else:
        write_keras(path, {name: value.numpy() for name, value in tensors.items()})
    return path


FORMATS = ("m.safetensors", "m.pt", "m.pth", "m.bin", "m.ckpt", "M.PT", "m.onnx", "m.tflite", "m.h5", "m.keras")


def refusal(path, key=None, read=read_tensors):
    with pytest.raises(InputError) as raised:
        read(path, key)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 700
    return said


# --- every format -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FORMATS)
def test_small_network_by_hand(tmp_path, name):
    sizes = {t.name: (t.shape, t.dtype, t.bits, t.values, t.non_zero, t.bytes)
             for t in read_tensors(write(tmp_path / name, SMALL))}
    assert sizes == BY_HAND


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_file(tmp_path, name):
    whole = write(tmp_path / name, SMALL).read_bytes()
    # of a flatbuffer, only what is read can be found missing: not the last letters of a name
    last = len(whole) - (16 if name.endswith(".tflite") else 1)
    for kept in (0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 64, last):
        (tmp_path / name).write_bytes(whole[:kept])
        refusal(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "m.h5"])  # HDF5 can end the process
def test_changed_byte(tmp_path, name):
    path = write(tmp_path / name, SMALL)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1:])
        try:
            read_tensors(path)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["m.pt", "m.ckpt", "m.keras"])
def test_changed_value_in_a_zip(tmp_path, name):
    path, marked = write(tmp_path / name, {"w": torch.full((9,), 1.2345)}), np.float32(1.2345).tobytes()
    assert marked in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(marked, bytes(4)))
    refusal(path)


class Disguised:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))],
                         ids=["torch", "pickle"])
def test_code_is_not_run(tmp_path, name, save):
    save({"weight": torch.ones(3), "more": Disguised(tmp_path / "run")}, tmp_path / name)
    refusal(tmp_path / name)
    assert not (tmp_path / "run").exists()


def of_onnx(**fields):
    return lambda path: write_onnx(path, TensorProto(name="a.w", **fields))


def of_tflite(shape, data, kind=tflite.TensorType.FLOAT32, **fields):
    return lambda path: write_tflite(path, ("a.w", shape, kind, data, fields))


def content(data):
    return lambda path: path.write_bytes(data)


UNKNOWN = "tensor a.w is of type {}, whose width is not known"
F32, INT4 = TensorProto.FLOAT, TensorProto.INT4


@pytest.mark.parametrize(("name", "write_file", "said"), [
    *((name, content(b"something"), "the formats are .safetensors, .safetensors.xz, .pt, .pth, .ckpt, .bin, .onnx, ")
      for name in ("model.pb", "model", "model.pt.zip", "model.ckpt.index")),
    # types of unknown width
    ("m.onnx", lambda path: write_onnx(path, onnx_tensor("a.w", [b"x"], TensorProto.STRING)), UNKNOWN.format("STRING")),
    ("m.onnx", of_onnx(dims=[1], raw_data=b"1234"), UNKNOWN.format("UNDEFINED")),
    ("m.onnx", of_onnx(data_type=99, dims=[1], raw_data=b"1234"), UNKNOWN.format("99")),
    ("m.tflite", of_tflite((1,), b"abcd", tflite.TensorType.STRING), UNKNOWN.format("STRING")),
    ("m.tflite", of_tflite((1,), b"abcd", 99), UNKNOWN.format("99")),
    ("m.h5", lambda path: write_keras(path, {"a.w": "text"}), UNKNOWN.format("object")),
    # nothing to count
    ("m.onnx", lambda path: write_onnx(path), "no tensor"),
    ("m.tflite", lambda path: write_tflite(path), "no tensor"),
    ("m.tflite", content(b"\0\0\0\0TFL3"), "m.tflite"),
    ("m.tflite", content(b"\0\0\0\0TFL3" + bytes(100)), "no tensor"),
    ("m.safetensors", lambda path: save_file({}, path), "no tensor"),
    ("m.h5", lambda path: write_keras(path, {}), "no tensor"),
    ("m.h5", lambda path: write_keras(path, {"optimizer/vars/0": np.ones(3)}), "no tensor"),
    # other content than the suffix says
    *(("m.onnx", content(data), "ONNX model") for data in (b"", b"\x08\x07", b"no model at all", b"\x00" * 100)),
    ("m.tflite", content(b"\x1c\x00\x00\x00TFL2" + bytes(100)), "not a TFLite model"),
    # shapes that do not fit the values
    ("m.onnx", of_onnx(data_type=F32, dims=[10**6, 10**6], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=INT4, dims=[10**12], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=F32, dims=[-1], raw_data=bytes(16)), "tensor a.w"),
    ("m.onnx", of_onnx(data_type=F32, dims=[5], float_data=[1.0]), "tensor a.w"),
    *(("m.tflite", of_tflite(shape, data), "tensor a.w") for shape, data in (
        ((4,), bytes(15)), ((4,), bytes(17)), ((10**6, 10**3), bytes(16)), ((-4,), bytes(16)))),
    ("m.tflite", of_tflite((4,), 7), "buffer 7"),
    ("m.tflite", of_tflite((4,), 0, external=lambda builder: 1), "in another file"),
])
def test_refused(tmp_path, name, write_file, said):
    write_file(tmp_path / name)
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize(("name", "package", "extra"), [
    ("m.onnx", "onnx", "onnx"), ("m.tflite", "tflite", "tflite"), ("m.h5", "h5py", "keras"),
    ("m.keras", "h5py", "keras")])
def test_missing_package(tmp_path, monkeypatch, name, package, extra):
    path = write(tmp_path / name, SMALL)
    for module in ("onnx_file", "tflite_file", "keras_file"):
        monkeypatch.delitem(sys.modules, f"task1a.complexity.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"the package {package} is needed to read it: pip install -e '.[{extra}]'" in refusal(path)


@pytest.mark.parametrize("name", FORMATS)
def test_control_characters_in_names(tmp_path, name):
    path = write(tmp_path / name, {"a\nb\x1b[2J": torch.ones(2)})
    assert [t.name for t in read_tensors(path)] == ["a?b?[2J"]
    if path.suffix == ".onnx":
        refusal(write_onnx(path, TensorProto(name="a\nb", data_type=99)))


# --- types ------------------------------------------------------------------------------------------------------------

def codes(dtype, repeated):
    """Bytes of the values 0, 1, 0, 1, 1, the first -0.0 where the type has it, ``repeated`` times; and their number."""
    if dtype == "float8_e8m0fnu":  # 2^(code - 127): there is no zero
        return bytes([0, 127, 0, 127, 127]) * repeated, 5
    values = np.array([0, 1, 0, 1, 1] * repeated)
    if dtype in ("bool", *(f"{u}int{bits}" for u in ("u", "") for bits in (8, 16, 32, 64))):
        return values.astype(dtype).tobytes(), 3
    if dtype.startswith(("float", "bfloat", "complex")):
        values = np.where(np.arange(len(values)) % 5 == 0, -0.0, values)
        if dtype.endswith("fnuz"):  # whose NaN has the code that is -0.0 in other types
            values = np.where(np.arange(len(values)) % 5 == 1, np.nan, values)
        values = values.astype(getattr(ml_dtypes, dtype, None) or dtype)
    bits = TYPES[dtype]
    if bits >= 8:
        return values.tobytes(), 3
    raw = values.view(np.uint8) if values.itemsize == 1 else values.astype(np.uint8)
    unpacked = np.unpackbits(raw[:, None], axis=1, bitorder="little")[:, :bits]
    return np.packbits(unpacked.reshape(-1), bitorder="little").tobytes(), 3


SAFETENSORS_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F4": "float4_e2m1fn", "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64"}


@pytest.mark.parametrize("kind", SAFETENSORS_TYPES)
def test_types_of_safetensors(tmp_path, kind):
    dtype = SAFETENSORS_TYPES[kind]
    for repeated in (8, 400_000):  # within a block, and several
        data, non_zero = codes(dtype, repeated)
        header = {"w": {"dtype": kind, "shape": [repeated, 5], "data_offsets": [0, len(data)]}}
        (tmp_path / "m.safetensors").write_bytes(with_header(json.dumps(header).encode(), 0) + data)
        assert read_tensors(tmp_path / "m.safetensors") == [
            TensorSize("w", (repeated, 5), dtype, TYPES[dtype], 5 * repeated, non_zero * repeated)]


TORCH_TYPES = [name for name in TYPES if hasattr(torch, name) and TYPES[name] >= 8 and not name.startswith("q")]


@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("name", ["m.pt", "m.tflite", "m.h5"])
def test_types_of_torch_tflite_and_keras(tmp_path, name, dtype):
    data, non_zero = codes(dtype, 1)
    if name == "m.pt":
        torch.save({"w": torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype))}, tmp_path / name)
    elif name == "m.tflite":
        if not hasattr(tflite.TensorType, dtype.upper()):
            pytest.skip("TFLite has no such type")
        write_tflite(tmp_path / name, ("w", (5,), getattr(tflite.TensorType, dtype.upper()), data, {}))
    else:
        with h5py.File(tmp_path / name, "w") as file:
            known = hasattr(np, dtype) or dtype == "bool"
            values = np.frombuffer(data, dtype if known else f"V{TYPES[dtype] // 8}")
            file.create_dataset("w", data=values).attrs["dtype"] = dtype
    assert read_tensors(tmp_path / name) == [TensorSize("w", (5,), dtype, TYPES[dtype], 5, non_zero)]


def test_two_values_in_a_byte_of_torch(tmp_path):
    torch.save({"w": torch.tensor([0x10, 0x80, 0x21], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
               tmp_path / "m.pt")
    assert read_tensors(tmp_path / "m.pt") == [TensorSize("w", (3,), "float4_e2m1fn", 4, 6, 3)]


ONNX_TYPES = [kind for kind in TensorProto.DataType.keys() if kind not in ("UNDEFINED", "STRING")]


@pytest.mark.parametrize("kind", ONNX_TYPES)
@pytest.mark.parametrize("raw", [False, True])
def test_types_of_onnx(tmp_path, kind, raw):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
    values = np.array([0, 1, 0, 1, 1]).astype(dtype)
    tensor = numpy_helper.from_array(values, "w") if raw else onnx_tensor("w", values, getattr(TensorProto, kind))
    size, = read_tensors(write_onnx(tmp_path / "m.onnx", tensor))
    assert size == TensorSize("w", (5,), dtype.name, TYPES[dtype.name], 5, 5 if kind == "FLOAT8E8M0" else 3)
    assert size.bytes == math.ceil(size.non_zero * size.bits / 8)


@pytest.mark.parametrize(("data", "values", "non_zero"), [
    ([0x10, 0xF0, 0xF3], 5, 3),  # 0, 1, 0, -1, 3, and half a byte that is no value
    ([0x10, 0xF0, 0xF3], 6, 4)])
def test_int4(tmp_path, data, values, non_zero):
    assert count_non_zero(bytes(data), "int4", values) == non_zero
    path = write_tflite(tmp_path / "m.tflite", ("w", (values, 1), tflite.TensorType.INT4, bytes(data), {}))
    assert read_tensors(path) == [TensorSize("w", (values, 1), "int4", 4, values, non_zero)]


# --- safetensors ------------------------------------------------------------------------------------------------------

W = b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'


def with_header(header, size=16, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize("data", [
    *(with_header(b"{" + W + b"}", length=length) for length in (0, 1, 2**24, 2**31, 2**64 - 1)),
    *(with_header(header) for header in (
        b"", b"[]", b"{" + W, b"{" + W + b"}{}", b"{\xff}", b'{"a":' * 100_000,
        b'{"__metadata__":{"a":1},' + W + b"}")),
    *(with_header(b"{" + W.replace(old, new) + b"}") for old, new in (
        (b'"F32"', b'"F4"'), (b'"F32"', b'"F33"'), (b"[4]", b"[-2,-2]"), (b"[4]", b"[4294967296,4294967296]"),
        (b"[0,16]", b"[-16,0]"), (b"[0,16]", b"[0,1000000000000]"))),
    with_header(b"{" + W + b"}", 15), with_header(b"{" + W + b"}", 17), with_header(b"{}", 1),
    with_header(b"{" + W + b"," + W.replace(b"w", b"v") + b"}"),  # the same place twice
    with_header(b"{" + W + b"," + W.replace(b"w", b"v").replace(b"[0,16]", b"[20,36]") + b"}", 36),  # bytes between
], ids=lambda data: repr(data[8:60]))
def test_unsound_safetensors(tmp_path, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(b"{" + W + b"}"))
    assert [t.values for t in read_tensors(path)] == [4]
    for name, stored in (("m.safetensors", data), ("m.safetensors.xz", lzma.compress(data, preset=0))):
        (tmp_path / name).write_bytes(stored)
        refusal(tmp_path / name)
        for read in (model_file.load, model_file.stated_spec):
            with pytest.raises(InputError, match="not a readable safetensors file"):
                read(tmp_path / name)


def test_safetensors_are_read_as_their_library_reads_them(tmp_path):
    path = write(tmp_path / "m.safetensors", SMALL)
    whole, rng, compared = path.read_bytes(), np.random.default_rng(0), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(600):
        changed = bytearray(whole)
        for place in rng.integers(0, header if rng.random() < 0.8 else len(whole), rng.integers(1, 4)):
            changed[place] = rng.choice([changed[place] ^ 1 << rng.integers(8), *b'0123456789{}[]",:\0'])
        path.write_bytes(changed)
        try:
            expected = {name: int((value != 0).sum()) for name, value in load(bytes(changed)).items()}
        except (SafetensorError, ValueError, KeyError):
            refusal(path)
        else:
            compared += 1
            assert {t.name: t.non_zero for t in read_tensors(path)} == {
                printable(name): count for name, count in expected.items()}
    assert compared > 20


# --- ONNX -------------------------------------------------------------------------------------------------------------

def test_everything_that_onnx_stores(tmp_path):
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
        helper.make_node("Constant", [], ["c.text"], value_string="abc"),
        helper.make_node("Constant", [], ["c.sparse"], sparse_value=sparse),
        helper.make_node("If", ["x"], ["if"], then_branch=body, else_branch=body),
        helper.make_node("Conv", ["x", "y"], ["conv"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("LinearClassifier", ["x"], ["l"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 0.0]),
        # more integers and letters than any setting has
        helper.make_node("Own", ["x"], ["hidden"], domain="own", codes=[0, *range(99)], text="\0" + 99 * "w",
                         texts=10 * ["weights"]),
    ]
    function = helper.make_function("own", "f", [], ["y"], [helper.make_node("Constant", [], ["f.c"], value_float=1.0)],
                                    [helper.make_opsetid("", 20)],
                                    attribute_protos=[helper.make_attribute("default", [1.0, 2.0])])
    path = write_onnx(tmp_path / "m.onnx", onnx_tensor("w", [1.0]), nodes=nodes, sparse=[sparse], functions=[function])
    found = [(t.name, t.bits, t.values, t.non_zero) for t in read_tensors(path)]
    assert sorted(found) == sorted([
        ("w", 32, 1, 1), ("sparse.w", 32, 3, 2), ("c.tensor", 8, 2, 1), ("c.float", 32, 1, 0), ("c.floats", 32, 3, 2),
        ("c.int", 64, 1, 1), ("c.ints", 64, 2, 1), ("c.text", 8, 3, 3), ("c.sparse", 32, 3, 2),
        *2 * [("inner.w", 32, 2, 2)], *2 * [("inner.c", 32, 2, 1)], ("l.coefficients", 32, 3, 2), ("f.c", 32, 1, 1),
        (".default", 32, 2, 2), ("hidden.codes", 64, 100, 98), ("hidden.text", 8, 100, 99),
        ("hidden.texts", 8, 70, 70)])


def external(path, location, **fields):
    tensor = TensorProto(name="a.w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    return write_onnx(path, tensor)


def test_external_data_of_onnx(tmp_path, monkeypatch):
    values = np.float32([1, 0, 2, 3])
    (tmp_path / "weights.bin").write_bytes(b"12345678" + values.tobytes() + b"rest")
    path = external(tmp_path / "m.onnx", "weights.bin", offset=8, length=16)
    assert [(t.values, t.non_zero) for t in read_tensors(path)] == [(4, 3)]
    monkeypatch.chdir(tmp_path)
    assert [(t.values, t.non_zero) for t in stored_tensors("m.onnx")] == [(4, 3)]  # read in another process


@pytest.mark.parametrize("fields", [
    {"location": "../weights.bin"}, {"location": "sub/../../weights.bin"}, {"location": "gone.bin"}, {"location": ""},
    {"location": "weights.bin", "length": 10**15}, {"location": "weights.bin", "offset": 10**15},
    {"location": "weights.bin", "length": 12}, {"location": "weights.bin", "offset": -1},
    {"location": "link.bin"}, {"location": "absolute"},
], ids=lambda fields: " ".join(map(str, fields.values())))
def test_external_data_outside_the_folder(tmp_path, fields):
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


def test_network_exported_to_onnx(tmp_path, network):
    torch.manual_seed(0)
    model, path = network().eval(), tmp_path / "m.onnx"
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    for value in state.values():  # the exporter merges equal tensors, such as fresh running means
        value.uniform_(0.5, 1.5)
    model.head.weight.data[0] = 0
    with warnings.catch_warnings():  # this exporter needs no more than onnx, and says that it is the old one
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 1, 256, 32),), path, dynamo=False, do_constant_folding=False)
    sizes = read_tensors(path)
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


# --- TFLite and Keras -------------------------------------------------------------------------------------------------

def test_scales_sparse_and_shared_buffers_of_tflite(tmp_path):
    path = write_tflite(
        tmp_path / "m.tflite",
        ("w", (2, 2), tflite.TensorType.INT8, bytes([1, 0, 2, 3]), {"Quantization": quantization([0.5, 0.25], [0, 0])}),
        ("same", (4,), tflite.TensorType.INT8, 1, {}),
        ("computed", (9,), tflite.TensorType.INT8, 0, {"Quantization": quantization([0.5], [-128])}),
        ("sparse", (10, 10), tflite.TensorType.FLOAT32, np.float32([1, 2, 0]).tobytes(),
         {"Sparsity": lambda builder: table(builder, "SparsityParameters")}))
    assert read_tensors(path) == [
        TensorSize("w", (2, 2), "int8", 8, 4, 3), TensorSize("w.scale", (2,), "float32", 32, 2, 2),
        TensorSize("w.zero_point", (2,), "int64", 64, 2, 0), TensorSize("computed.scale", (1,), "float32", 32, 1, 1),
        TensorSize("computed.zero_point", (1,), "int64", 64, 1, 1), TensorSize("sparse", (10, 10), "float32", 32, 3, 2)]


# the network of the organisers' baseline, which their tool counts as 46,246 parameters, all of them in layers
BASELINE = {"conv2d": (7, 7, 1, 16), "conv2d_1": (7, 7, 16, 16), "conv2d_2": (7, 7, 16, 32), "dense": (64, 100),
            "dense_1": (100, 10)}


@pytest.mark.parametrize(("name", "layer", "optimizer"), [
    ("m.h5", "model_weights/{0}/{0}/{1}:0", "optimizer_weights/training/Adam/{0}/{1}/m:0"),  # Keras 2, whole model
    ("weights.h5", "{0}/{0}/{1}:0", None),  # Keras 2, weights alone
    ("m.weights.h5", "layers/{0}/vars/{1}", "optimizer/vars/{0}{1}"),  # Keras 3
    ("m.keras", "layers/{0}/vars/{1}", "optimizer/vars/{0}{1}"),
    ("old.keras", "_layer_checkpoint_dependencies/{0}/vars/{1}", "metrics/mean/vars/{0}{1}"),  # Keras 2.13
])
def test_baseline_of_the_organisers_in_keras(tmp_path, name, layer, optimizer):
    tensors, next_to = {}, {}
    for index, (title, shape) in enumerate(BASELINE.items()):
        tensors[layer.format(title, "kernel")] = np.ones(shape, np.float16)
        tensors[layer.format(title, "bias")] = np.ones(shape[-1], np.float16)
        if title.startswith("conv"):
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                tensors[layer.format(f"batch_normalization_{index}", part)] = np.ones(shape[-1], np.float32)
        if optimizer:
            next_to[optimizer.format(title, "kernel")] = np.ones(shape, np.float32)
    if "layers/" in layer:
        next_to["layers/dropout/seed_generator/vars/0"] = np.uint32([1, 2])
    sizes = read_tensors(write_keras(tmp_path / name, tensors, **next_to))
    counted = [tensor for tensor in sizes if not tensor.excluded]
    assert sum(t.non_zero for t in counted) == 46_246 and sum(t.bytes for t in counted) == 93_004
    assert sum(t.values for t in counted if not t.statistics) == 46_246 - (128 if "{1}" in layer else 0)
    assert len(sizes) - len(counted) == len(next_to)


def test_pruned_and_shared_weights_of_keras(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        kernel = file.create_dataset("conv/kernel:0", data=np.float32([[0, -0.0, 1], [2, 0, 0]]))
        file["tied/kernel:0"] = kernel
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "w")
        file["soft"] = h5py.SoftLink("conv/kernel:0")
        file.create_dataset("chunks", data=np.eye(1000, dtype=">f4"), chunks=(10, 1000), compression="gzip")
    assert read_tensors(tmp_path / "m.h5") == [
        TensorSize("chunks", (1000, 1000), "float32", 32, 1_000_000, 1000),
        TensorSize("conv/kernel", (2, 3), "float32", 32, 6, 2)]


@pytest.mark.parametrize("create", [
    lambda file, other: file.create_dataset("w", (4,), "f4", external=[(other, 0, 16)]),
    lambda file, other: file.create_virtual_dataset("w", virtual(other)),
    lambda file, other: file.create_dataset("w", (10**12,), "f4"),
    lambda file, other: file.create_dataset("w", (1000,), "f4", chunks=(10,)),
], ids=["external", "virtual", "not stored", "chunks not stored"])
def test_values_that_are_not_in_the_keras_file(tmp_path, create):
    (tmp_path / "other").write_bytes(bytes(16))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        create(file, str(tmp_path / "other"))
    refusal(tmp_path / "m.h5")


def virtual(other):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(other, "w", (4,))
    return layout


def test_compressed_archive_of_keras(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**8))
    assert "compressed" in refusal(tmp_path / "m.keras")


# --- what no file may take: time and memory ---------------------------------------------------------------------------

# the promise is 5 seconds of the processor after the start and 500 MB, half of which torch takes; a slow machine may
# take longer, and its libraries more
SECONDS, MEGABYTES = 20, 600
ZEROS = 600_000_000


def write_zeros(path, header=b"", size=ZEROS):
    """A file that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def safetensors_of_zeros(path, dtype, bits):
    header = json.dumps({"w": {"dtype": dtype, "shape": [8 * ZEROS // bits], "data_offsets": [0, ZEROS]}}).encode()
    write_zeros(path, with_header(header, 0))


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
    length = bytes([len(graph) >> shift & 0x7F | (0x80 if shift < 21 else 0) for shift in (0, 7, 14, 21)])
    path.write_bytes(b"\x08\x0a\x42\x02\x10\x15\x3a" + length + graph)


def onnx_beside_zeros(path, **fields):
    write_zeros(path.parent / f"{path.stem}.bin", size=10 * ZEROS)
    external(path, f"{path.stem}.bin", **fields)


def keras_of_zeros(path, count):
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=np.zeros(count, np.int8), chunks=(count,), compression="gzip")


INT8 = tflite.TensorType.INT8
# name: what writes such a file, and a part of what is said of it; None where it is counted
LARGE = {
    "zeros.safetensors": (lambda path: safetensors_of_zeros(path, "F32", 32), None),
    "sixths.safetensors": (lambda path: safetensors_of_zeros(path, "F6_E2M3", 6), None),
    "tensors.safetensors": (lambda path: safetensors_of_bytes(path, 300_000), "enough for 10,000 tensors"),
    "most tensors.safetensors": (lambda path: safetensors_of_bytes(path, 10_000), None),
    "sparse.safetensors": (lambda path: write_zeros(path, size=10 * ZEROS), "too large to be counted"),
    "long name.safetensors": (lambda path: save_file({"w" * 2_000_000: torch.ones(1)}, path), None),
    "bomb.safetensors.xz": (lambda path: path.write_bytes(lzma.compress(bytes(ZEROS // 6), preset=0)), "larger than"),
    "sparse.pt": (lambda path: write_zeros(path, b"PK\3\4"), "not a readable PyTorch file"),
    "floats.pth": (lambda path: torch.save({"w": torch.zeros(15_000_000)}, path, _use_new_zipfile_serialization=False),
                   None),
    "views.pt": (lambda path: state_dict_of_views(path, 30_000), "10,000 tensors"),
    "tensors.onnx": (lambda path: onnx_of_bytes(path, 30_000), "10,000 tensors"),
    "nodes.onnx": (lambda path: onnx_of_messages(path, b"\x0a\0" * 16_000_000), "of memory"),
    "beside.onnx": (onnx_beside_zeros, None),
    "all beside.onnx": (lambda path: onnx_beside_zeros(path, length=10 * ZEROS), "6000000000"),
    "tensors.tflite": (lambda path: write_tflite(path, ("w", (4,), INT8, b"1234", {}), times=40_000, graphs=1000),
                       "takes more than 5 s"),
    "zeros.h5": (lambda path: keras_of_zeros(path, 500_000_000), "of memory"),
}
LOOK = """
import json, resource, sys, time
from pathlib import Path
from task1a.complexity.measure import measure
from task1a.complexity.__main__ import format_report
from task1a.errors import InputError
told = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix == ".bin":
        continue
    started, said = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) + time.process_time(), None
    try:
        format_report(measure([path]))
    except InputError as error:
        said = str(error)
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) + time.process_time() - started
    told[path.name] = {"seconds": seconds, "said": said}
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([told, max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_time_and_memory(tmp_path):
    for name, (write_file, _) in LARGE.items():
        write_file(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], capture_output=True, text=True, check=True)
    for path in tmp_path.iterdir():
        path.unlink()  # pytest would keep them
    told, megabytes = json.loads(done.stdout)
    assert told.keys() == LARGE.keys() and not done.stderr
    for name, (_, expected) in LARGE.items():
        said, seconds = told[name]["said"], told[name]["seconds"]
        assert seconds < SECONDS, (name, seconds)
        assert said is None if expected is None else expected in said and "\n" not in said, (name, said)
    assert megabytes < MEGABYTES
