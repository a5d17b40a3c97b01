import copy
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from task1a import model_file
from task1a.compression import packed
from task1a.compression.fold import merge_batch_norms
from task1a.compression.packed import Packing
from task1a.compression.prune import ratio_for_bytes
from task1a.config import BCResNetASCConfig, CompressionConfig, FeatureConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.training import compress

LABELS = tuple("abcdefghij")
SMALL = ModelSpec(BCResNetASCConfig(tau=0.4), FeatureConfig(n_mels=32), LABELS)
ASC_8 = ModelSpec(BCResNetASCConfig(tau=8.0), FeatureConfig(), LABELS)
BY_TENSOR, BY_CHANNEL = ALL_PACKINGS = [Packing("tensor"), Packing("channel")]


def vanilla(path, spec=SMALL, spread=None):
    """A model file with scales, shifts and statistics as after training: none is 0.

    ``spread``: draw the weights of every layer with this deviation, so that pruning empties no layer.
    """
    torch.manual_seed(2)
    model = spec.build()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.3, 1.5)
                layer.bias.uniform_(0.1, 0.5).copysign_(torch.randn(layer.bias.shape))
                layer.running_mean.uniform_(0.1, 2).copysign_(torch.randn(layer.bias.shape))
                layer.running_var.uniform_(0.2, 3)
            if isinstance(layer, nn.Conv2d) and spread:
                layer.weight.normal_(0, spread)
    model_file.save(path, packed.stored_state(model), spec)
    return path


def compressed(tmp_path, packing, ratio=0.6, scope="global", **settings):
    model, spec = compress.load_prepared(vanilla(tmp_path / "vanilla.safetensors", **settings), packing)
    compress.prune_to(model, ratio, scope)
    return model, spec


def stored(tmp_path, packing, *arguments, **settings):
    """The tensors of a pruned model's file."""
    model, spec = compressed(tmp_path, packing, *arguments, **settings)
    model_file.save(tmp_path / "packed.safetensors", packed.pack(model, packing), spec)
    return load_file(tmp_path / "packed.safetensors")


def counted(tensors, dtype=None):
    """Non-zero values, and their bytes, as the challenge counts them."""
    chosen = [value for value in tensors.values() if dtype in (None, value.dtype)]
    values = [int(value.count_nonzero()) for value in chosen]
    return sum(values), sum(n * value.element_size() for n, value in zip(values, chosen, strict=True))


def of_default_settings():
    settings = CompressionConfig()
    assert (settings.ratio, settings.scope, settings.schedule) == (0.89, "global", "one_shot")
    return Packing(settings.weight_scales), settings.ratio, settings.scope


def test_asc_8_has_the_published_size(tmp_path):
    """arXiv 2206.13909: pruning 0.89 of ASC-8 makes 61.0 KB; so no statistics of norms are counted there."""
    tensors = stored(tmp_path, *of_default_settings(), spec=ASC_8, spread=0.1)
    assert counted(tensors, torch.int8) == (33_035, 33_035)
    assert counted(tensors, torch.float16) == (14_650, 2 * 14_650)
    assert counted(tensors, torch.float32) == (33, 4 * 33)  # a scale a layer
    size = counted(tensors)[1]
    assert size == 62_335 + 4 * 33 == 62_467 and f"{size / 1024:.2f}" == "61.00"


def test_kept_weights_of_asc_8(tmp_path):
    """The wide layers start with small weights, and all of some may go; their scale is 0 then, and not counted."""
    tensors = stored(tmp_path, *of_default_settings(), spec=ASC_8)
    assert counted(tensors, torch.int8)[0] == 33_035
    alive = sum(bool(value.any()) for value in tensors.values() if value.dtype == torch.int8)
    assert counted(tensors, torch.float32)[0] == alive <= 33
    assert counted(tensors)[1] == 62_335 + 4 * alive


def test_asc_8_with_scales_a_channel_by_hand(tmp_path):
    tensors = stored(tmp_path, BY_CHANNEL, 0.89, "global", spec=ASC_8, spread=0.1)
    assert counted(tensors, torch.int8)[0] == 33_035
    assert sum(v.numel() for v in tensors.values() if v.dtype == torch.float16) == 14_650
    assert sum(v.numel() for v in tensors.values() if v.dtype == torch.float32) == 4_690  # channels


@pytest.mark.parametrize("scope, packing", [("global", BY_TENSOR), ("layer", BY_CHANNEL)])
def test_pruned_for_a_size(tmp_path, scope, packing):
    source = vanilla(tmp_path / "vanilla.safetensors", spread=0.5)
    for room in (300, 301, 1_234):
        model, spec = compress.load_prepared(source, packing)
        tensors = packed.pack(model, packing)
        weights = sum(value.numel() for value in tensors.values() if value.dtype == torch.int8)
        others = sum(value.numel() * value.element_size() for value in tensors.values()) - weights
        target = others + room
        ratio = ratio_for_bytes(target, weights, others)
        assert ratio == compress.choose_ratio(model, packing, CompressionConfig(target_bytes=target))
        compress.prune_to(model, ratio, scope)
        model_file.save(tmp_path / "packed.safetensors", packed.pack(model, packing), spec)
        tensors = load_file(tmp_path / "packed.safetensors")
        layers = sum(value.dtype == torch.int8 for value in tensors.values())
        # pruned channels whose scale is 0 are not counted
        unused = sum(4 * int((value == 0).sum()) for value in tensors.values() if value.dtype == torch.float32)
        size = counted(tensors)[1] + unused
        assert size == target if scope == "global" else target - layers < size <= target  # every layer rounds up


@pytest.mark.parametrize("packing", ALL_PACKINGS)
@torch.no_grad()
def test_read_back_bit_for_bit(tmp_path, packing):
    model, spec = compressed(tmp_path, packing)
    path = tmp_path / "packed.safetensors"
    model_file.save(path, packed.pack(model, packing), spec)
    again, spec_again = model_file.load(path)
    assert spec_again == spec == replace(SMALL, packing=packing) and not again.training
    assert all(value.dtype == torch.float32 for value in packed.stored_state(again).values())
    x = torch.randn(4, *SMALL.input_shape)
    outputs = again(x)
    assert torch.equal(outputs, compress.read_back(model, spec.build().eval(), packing)(x))
    # what was trained; half precision has 11 bits, and there are some 30 layers
    by_hand = copy.deepcopy(model).eval()
    torch.testing.assert_close(outputs, by_hand(x), rtol=2 ** -7, atol=2 ** -7)
    for name, value in merge_batch_norms(by_hand).state_dict().items():
        if "parametrizations" not in name:
            value.copy_(value.half())
    assert torch.equal(outputs, by_hand(x))


@pytest.mark.parametrize("packing", ALL_PACKINGS)
def test_types_and_zeros(tmp_path, packing):
    model, spec = compressed(tmp_path, packing, 0.7, "layer")
    model_file.save(tmp_path / "packed.safetensors", packed.pack(model, packing), spec)
    tensors = load_file(tmp_path / "packed.safetensors")
    form = spec.stored_form()
    assert all(value.is_meta for value in form.values())
    assert {name: (value.dtype, value.shape) for name, value in form.items()} == {
        name: (value.dtype, value.shape) for name, value in tensors.items()}
    weights, kept = packed.pruning(model)
    assert set(weights) == set(packed.convolutions(model)) and len(weights) == 33
    for name, mask in kept.items():
        steps, scale = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.weight_scale")
        assert steps.dtype == torch.int8 and torch.equal(steps != 0, mask)
        assert scale.dtype == torch.float32
        assert scale.shape == (() if packing.weight_scales == "tensor" else (len(steps), 1, 1, 1))
        assert (scale * steps - weights[name] * mask).abs().max() <= scale.max()
    assert all(value.dtype == torch.float16 for value in tensors.values())
    assert torch.equal(tensors.pop("head.bias"), model.head.bias.half())
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            scale, shift = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias")
            x = torch.randn(2, len(scale), 4, 3)
            expected = norm.eval()(x)  # 11 bits of a scale below 3.4, and of a shift below 7.3
            torch.testing.assert_close(x * scale.float()[:, None, None] + shift.float()[:, None, None], expected,
                                       rtol=0, atol=2 ** -10 * x.abs().max().item() + 2 ** -9)
    assert not tensors


def test_unpacked_values_by_hand():
    tensors = {"a.weight": torch.tensor([[3, -127], [0, 1]], dtype=torch.int8),
               "a.weight_scale": torch.tensor([[0.5], [2.0]]), "a.bias": torch.tensor([0.1]).half()}
    state = packed.unpack(tensors)
    assert list(state) == ["a.weight", "a.bias"] and all(value.dtype == torch.float32 for value in state.values())
    assert state["a.weight"].tolist() == [[1.5, -63.5], [0, 2]]
    assert state["a.bias"].item() == 0.0999755859375  # the half precision number next to 0.1


@torch.no_grad()
def test_values_that_cannot_be_stored(tmp_path):
    model, _ = compressed(tmp_path, BY_TENSOR)
    norm = "stages.2.1.frequency_norm.norm"
    for tensor, value, named in (("head.bias", -65_520, "head.bias"), ("head.bias", math.nan, "head.bias"),
                                 (f"{norm}.weight", math.inf, f"{norm}.weight"), ("stem.1.bias", 70_000, "stem.1.bias"),
                                 ("stem.1.running_mean", -math.inf, "stem.1.bias")):
        before = model.state_dict()[tensor][1].item()
        model.state_dict()[tensor][1] = value
        with pytest.raises(InputError, match=f"^{named}: .* does not fit half precision"):
            packed.pack(model, BY_TENSOR)
        model.state_dict()[tensor][1] = before
    model.state_dict()["head.bias"][1] = 65_504
    assert packed.pack(model, BY_TENSOR)["head.bias"].max() == 65_504
    for value in (math.nan, math.inf):
        packed.pruning(model)[0]["head"][3, 2] = value
        with pytest.raises(InputError, match="head"):
            packed.pack(model, BY_TENSOR)


def test_file_byte_for_byte(tmp_path):
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model, spec = compressed(tmp_path / name, BY_CHANNEL)
        tensors = packed.pack(model, spec.packing)
        path = tmp_path / name / "packed.safetensors"
        model_file.save(path, tensors if name == "a" else dict(reversed(tensors.items())), spec)
        files.append((path.read_bytes(), model_file.save_xz(path).read_bytes()))
    assert files[0] == files[1]
