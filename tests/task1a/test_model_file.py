import hashlib
import json
import lzma
import pickle
import tracemalloc
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from task1a import model_file, safetensors_file
from task1a.complexity.measure import measure
from task1a.compression import packed
from task1a.compression.packed import Packing, stored_state
from task1a.config import BCResNetASCConfig, CPResNetConfig, FeatureConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec

SPEC = ModelSpec(BCResNetASCConfig(tau=0.2), FeatureConfig(n_mels=32), ("bus", "metro", "tram"))
PACKED = replace(SPEC, packing=Packing("channel"))


def write(path, spec=SPEC):
    torch.manual_seed(0)
    model = spec.build()
    if spec.packing:
        packed.prepare(model, spec.packing)
    model_file.save(path, packed.pack(model, spec.packing) if spec.packing else stored_state(model), spec)
    return path


@pytest.fixture
def stored(tmp_path):
    return write(tmp_path / "model.safetensors")


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(path, metadata):
    """Other metadata around the same tensors."""
    save_file(load_file(path), path, metadata=metadata)


def respecify(path, **settings):
    """Other settings around the same tensors, with the digest that belongs to them."""
    model_file.save(path, load_file(path), replace(SPEC, **settings))


def retensor(path, **tensors):
    """Other tensors (None: no such one), with the digest that belongs to them."""
    content = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    model_file.save(path, {name: value for name, value in content.items() if value is not None}, SPEC)


def say(path, **said):
    """Other settings in the metadata, and the digest as it was."""
    content = json.loads(metadata_of(path)[model_file.FORMAT])
    rewrite(path, {model_file.FORMAT: json.dumps(content | {"spec": content["spec"] | said})})


def refused(path, message=None):
    with pytest.raises(InputError, match=message) as error:
        model_file.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    model = SPEC.build()
    model(torch.randn(4, 1, 32, 40))  # moves the running statistics
    model_file.save(tmp_path / "m.safetensors", stored_state(model), SPEC)
    again, spec = model_file.load(tmp_path / "m.safetensors")
    assert spec == SPEC and not again.training
    x = torch.randn(3, 1, 32, 50)
    assert torch.equal(again(x), model.eval()(x))


def test_step_counters_are_not_stored(stored):
    assert {name for name in SPEC.build().state_dict() if "num_batches" not in name} == set(load_file(stored))


def digest_by_hand(plain, tensors):
    text = json.dumps(plain, sort_keys=True).encode()
    kinds = {np.dtype("float32"): "float32", np.dtype("float16"): "float16", np.dtype("int8"): "int8"}
    for name, value in sorted(tensors.items()):
        value = value.numpy()
        text += f"\n{name} {kinds[value.dtype]} {list(value.shape)}\n".encode() + value.tobytes()
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("spec", [SPEC, PACKED])
def test_the_digest_by_hand(tmp_path, spec):
    path = write(tmp_path / "m.safetensors", spec)
    assert set(metadata_of(path)) == {model_file.FORMAT}
    said = json.loads(metadata_of(path)[model_file.FORMAT])
    assert said["spec"] == json.loads(json.dumps(asdict(spec)))
    assert said["sha256"] == digest_by_hand(asdict(spec), load_file(path))


def test_foreign_tensors_are_no_model(tmp_path, stored):
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"})
    assert model_file.stated_spec(stored) == SPEC and model_file.stated_spec(path) is None
    refused(path, "foreign.safetensors: not a model file of this project")


@pytest.mark.parametrize("spec", [SPEC, PACKED])
def test_xz_is_read(tmp_path, spec):
    stored = write(tmp_path / "model.safetensors", spec)
    small = model_file.save_xz(stored)
    assert small.name == "model.safetensors.xz" and small.stat().st_size < stored.stat().st_size
    assert lzma.decompress(small.read_bytes()) == stored.read_bytes()
    (first, spec), (again, small_spec) = model_file.load(stored), model_file.load(small)
    assert spec == small_spec == model_file.stated_spec(small)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "no such model file"),
    (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
    (lambda path: path.write_bytes(pickle.dumps({"stem.0.weight": 1})), "not a readable safetensors file"),
    (lambda path: torch.save(load_file(path), path), "not a readable safetensors file"),
    (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "not a readable safetensors file"),
    (lambda path: rewrite(path, {"format": "pt"}), "not a model file of this project"),
    (lambda path: rewrite(path, {model_file.FORMAT: "{"}), "damaged metadata"),
    (lambda path: rewrite(path, {model_file.FORMAT: "[]"}), "damaged metadata"),
    (lambda path: rewrite(path, {model_file.FORMAT: "[" * 100_000}), "damaged metadata"),
    (lambda path: rewrite(path, {model_file.FORMAT: "{}"}), "damaged metadata"),
    (lambda path: rewrite(path, {model_file.FORMAT: json.dumps({"spec": asdict(SPEC)})}), "damaged: the digest"),
    (lambda path: rewrite(path, {model_file.FORMAT: json.dumps({"spec": 3, "sha256": ""})}), "damaged metadata"),
    (lambda path: say(path, model={"tau": "wide"}), "damaged metadata: .*tau"),
    (lambda path: say(path, labels=None), "damaged metadata: .*labels"),
    (lambda path: say(path, packing={"weight_scales": "row"}), "damaged metadata: .*weight_scales"),
    (lambda path: say(path, labels=["metro", "bus", "tram"]), "damaged: the digest"),
    (lambda path: say(path, remark="none"), "damaged: the digest"),
    (lambda path: retensor(path, head__bias=None), "tensor head.bias is missing"),
    (lambda path: retensor(path, extra=torch.zeros(1)), "tensor extra is not part of the architecture"),
    (lambda path: retensor(path, head__bias=torch.zeros(4)), r"head.bias is float32 \[4\], the architecture needs "
                                                             r"float32 \[3\]"),
    (lambda path: retensor(path, head__bias=torch.zeros(3).half()), "head.bias is float16"),
    (lambda path: retensor(path, head__bias=torch.zeros(3).int()), "head.bias is int32"),
    (lambda path: retensor(path, head__bias=torch.zeros(())), r"head.bias is float32 \[\]"),
    (lambda path: respecify(path, model=BCResNetASCConfig(tau=0.4)), "the architecture needs"),
    (lambda path: respecify(path, labels=("bus", "tram")), "head.weight is .*, the architecture needs"),
    (lambda path: respecify(path, packing=Packing("tensor")), "head.weight_scale is missing"),
    (lambda path: respecify(path, labels=("bus", "tram", "bus")), "labels: a label is repeated"),
    (lambda path: respecify(path, labels=("bus", "", "tram")), "labels.1: .* at least 1 character"),
    (lambda path: respecify(path, labels=("bus", "x" * 1_000_000, "tram")), "labels.1: .* at most 1000 characters"),
    (lambda path: respecify(path, labels=("filename", "bus", "tram")), "labels.0: .* the name of a column"),
    (lambda path: respecify(path, labels=("bus", "\x1b[2J", "tram")), r"labels.1: .* no control .*'\\x1b\[2J'"),
    (lambda path: respecify(path, labels=("bus ", "metro", "tram")), "labels.0: .* no .* spaces around it"),
    (lambda path: retensor(path, head__bias=torch.tensor([0, torch.nan, 0])), "head.bias holds .* not finite"),
    (lambda path: retensor(path, stem__1__running_mean=torch.full((4,), -torch.inf)), "stem.1.running_mean holds"),
    (lambda path: retensor(path, stem__1__running_var=torch.tensor([1, 0, -1e-9, 1])), "running_var .* negative"),
])
def test_damaged_files(stored, damage, message):
    damage(stored)
    refused(stored, message)


def test_other_packing(tmp_path):
    path = write(tmp_path / "m.safetensors", PACKED)
    model_file.save(path, load_file(path), SPEC)
    refused(path, "the architecture needs|the file was made for another model")
    path = write(tmp_path / "m.safetensors", PACKED)
    model_file.save(path, load_file(path), replace(PACKED, packing=Packing("tensor")))
    refused(path, "the architecture needs")


@pytest.mark.parametrize(("name", "value"), [
    ("head.weight_scale", torch.inf), ("head.weight_scale", 3e37), ("stem.1.weight", torch.nan)])
def test_packed_values_that_are_not_finite(tmp_path, name, value):
    path = write(tmp_path / "m.safetensors", PACKED)
    tensors = load_file(path)
    model_file.save(path, tensors | {name: torch.full_like(tensors[name], value)}, PACKED)
    refused(path, f"tensor {name.removesuffix('_scale')}.* holds values that are not finite")


@pytest.mark.parametrize(("network", "features"), [
    (BCResNetASCConfig(tau=8.0), FeatureConfig(n_mels=1024, n_fft=16384, clip_seconds=300.0)),
    (CPResNetConfig(width=128), FeatureConfig(n_mels=512, n_fft=8192, clip_seconds=300.0)),
], ids=["memory", "operations"])
def test_clips_that_would_exhaust_the_machine(tmp_path, network, features):
    path = write(tmp_path / "m.safetensors", ModelSpec(network, features, SPEC.labels))
    refused(path, "a clip of 300 s would take [0-9.]+ billion multiply-accumulates and about [0-9.]+ GB")


def test_packed_file_with_statistics(tmp_path):
    """They were, in files of older versions."""
    path = write(tmp_path / "m.safetensors", PACKED)
    statistics = {"stem.1.running_mean": torch.zeros(4).half(), "stem.1.running_var": torch.ones(4).half()}
    model_file.save(path, load_file(path) | statistics, PACKED)
    refused(path, "stem.1.running_mean is not part of the architecture; .* another version of this project")


def test_flipped_bits(tmp_path):
    path = write(tmp_path / "m.safetensors", PACKED)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    metadata = content.index(b"}}", content.index(b"sha256"))
    rng = np.random.default_rng(0)
    flips = [(place, bit) for place in range(8) for bit in range(8)]  # the length of the header
    # of the metadata; bit 5 parts large letters from small ones, so its flip changes the least
    flips += [(place, 5) for place in range(8, metadata + 3) if content[place:place + 1].isalpha()]
    flips += [(place, rng.integers(8)) for place in rng.integers(8, metadata + 3, 50)]
    flips += [(place, bit) for place in range(header - 4, header) for bit in range(8)]
    flips += [(place, rng.integers(8)) for place in rng.integers(metadata, header, 75)]
    flips += [(place, rng.integers(8)) for place in rng.integers(header, len(content), 75)]
    accepted = []
    for place, bit in flips:
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            model_file.load(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            accepted.append((place, content[place - 12:place + 8], bytes(flipped[place - 12:place + 8])))
    assert not accepted


def test_a_cut_off_file_is_refused(stored):
    small = model_file.save_xz(stored)
    for path, message in ((stored, "not a readable safetensors file"), (small, "truncated|not a readable xz file")):
        content = path.read_bytes()
        for kept in (1, 7, 8, 9, 500, len(content) // 2, len(content) - 500, len(content) - 9, len(content) - 1):
            path.write_bytes(content[:kept])
            refused(path, message)


def test_flipped_bits_of_xz(stored):
    small = model_file.save_xz(stored)
    content = small.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(40), *range(len(content) - 60, len(content)), *rng.integers(0, len(content), 100)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        small.write_bytes(flipped)
        refused(small)
    for more in (b"\0", b"more", lzma.compress(b"more")):
        small.write_bytes(content + more)
        refused(small)


@pytest.mark.parametrize("content, message", [
    (b"", "truncated|not a readable xz file"),
    (b"\0" * 100, "not a readable xz file"),
    (b"BZh91AY&SY", "truncated|not a readable xz file"),
    (lzma.compress(b"", format=lzma.FORMAT_ALONE), "not a readable xz file"),
    (lzma.compress(b""), "not a readable safetensors file"),
    (lzma.compress(bytes(range(256)) * 20), "not a readable safetensors file"),
    (lzma.compress(pickle.dumps({"stem.0.weight": 1})), "not a readable safetensors file"),
])
def test_junk_as_xz(tmp_path, content, message):
    path = tmp_path / "model.safetensors.xz"
    path.write_bytes(content)
    refused(path, message)


def peak_of(function):
    """Bytes allocated at the same time while ``function`` runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_xz_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "model.safetensors.xz"
    path.write_bytes(lzma.compress(bytes(1 << 24), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    assert path.stat().st_size < 10_000
    peak = peak_of(lambda: refused(path, "larger than 1,048,576 B when unpacked"))
    assert peak < 4 << 20  # not the 16 MiB that are in it


def test_xz_memory(tmp_path):
    content = bytearray(lzma.compress(b"small"))
    assert content[12:16] == b"\x02\x00\x21\x01"  # the header of the block: its size, no options, LZMA2, one property
    content[16] = 39  # a dictionary of 3 GiB
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")
    path = tmp_path / "model.safetensors.xz"
    path.write_bytes(content)
    refused(path, "not a readable xz file .*[Mm]emory")


EXTREMES = [7, 0, -1, 10**18, 10**30, 1e-308, 1e308, float("nan"), float("inf"), "x", "x" * 100_000, [], {}]
WIDE = {"n_mels": 1024, "clip_seconds": 300.0, "sample_rate": 192_000, "window": 16, "hop": 16}


@pytest.mark.parametrize("packing", [None, {"weight_scales": "tensor", "folded": True}])
@pytest.mark.parametrize(("section", "settings"), [
    *(("features", {key: value}) for key in ("n_mels", "hop", "clip_seconds")
      for value in EXTREMES if (key, value) != ("clip_seconds", 7)),
    *(("model", {key: value}) for key in ("name", "tau", "sub_bands") for value in EXTREMES),
    ("features", {"n_mels": 1}), ("features", WIDE | {"n_mels": 7}), ("model", {"tau": 100.0, "sub_bands": 100_000}),
    ("model", {"tau": 20_000.0}), ("labels", []), ("labels", [str(number) for number in range(100_000)]),
    ("labels", ["\ud800", 1, None]), ("packing", {"weight_scales": "row"}), ("packing", [[]]),
], ids=lambda value: str(value)[:40])
def test_impossible_models(stored, section, settings, packing):
    """At tau = 1e6 one layer alone has 2.5 PB."""
    plain = json.loads(metadata_of(stored)[model_file.FORMAT])["spec"] | {"packing": packing}
    plain[section] = plain[section] | settings if section in ("features", "model") else settings
    tensors = load_file(stored)
    rewrite(stored, {model_file.FORMAT: json.dumps({"sha256": digest_by_hand(plain, tensors), "spec": plain})})
    for read in (model_file.load, lambda path: measure([path])):
        with pytest.raises(InputError) as error:
            read(stored)
        assert str(stored) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000
