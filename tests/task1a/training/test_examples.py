"""Clips that are held on a device: the same numbers, and steps that copy nothing to it."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from task1a.config import TrainingConfig
from task1a.training import fit
from task1a.training.augment import Augmentation
from task1a.training.examples import HELD_SHARE, Examples
from task1a.training.train import cross_entropy

CLIPS, BINS, FRAMES = 600, 4, 6
CPU = torch.device("cpu")


@pytest.fixture
def stored():
    """Clips as the cache stores them, in half precision."""
    return np.random.default_rng(0).normal(0, 5, (CLIPS, BINS, FRAMES)).astype(np.float16).astype(np.float32)


def test_held_clips_are_those_that_are_read(stored):
    clips = Examples(lambda indices: stored[indices], np.zeros(CLIPS, np.int64))
    held = clips.hold(CPU, 2 ** 30)
    assert held.held.dtype == torch.float16
    chosen = torch.tensor([599, 0, 256, 256])
    for examples in (clips, held):
        x = examples.batch(chosen, CPU)
        assert x.dtype == torch.float32 and torch.equal(x, torch.from_numpy(stored[chosen])[:, None])


def test_clips_are_held_only_where_they_leave_memory_for_the_steps(stored):
    needed = CLIPS * BINS * FRAMES * 2
    clips = Examples(lambda indices: stored[indices], np.zeros(CLIPS, np.int64))
    assert clips.hold(CPU, int(needed / HELD_SHARE)).held is not None
    assert clips.hold(CPU, int(needed / HELD_SHARE) - 1).held is None
    nothing = Examples(lambda indices: stored[indices], np.zeros(0, np.int64))
    assert nothing.hold(CPU, 2 ** 30).held is None


def test_held_clips_train_the_same_model(tmp_path, toy_spec, examples):
    """A GPU holds the clips; nothing else may differ."""
    models = []
    for number, clips in enumerate((examples(40), examples(40).hold(CPU, 2 ** 30))):
        torch.manual_seed(0)
        rounded = Examples(lambda indices: examples(40).read(indices).astype(np.float16).astype(np.float32),
                           clips.targets, held=clips.held)
        job = fit.Job(toy_spec, TrainingConfig(epochs=5, batch_size=16), 0, rounded, examples(0),
                      tmp_path / str(number), "x", "cpu", log=lambda text: None)
        models.append(fit.fit(job, fit.launch("cpu", "32-true"), toy_spec.build(), cross_entropy).state_dict())
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)


class Watched(TorchDispatchMode):
    """Records the operators that move data between the host and the device ``meta``, or wait for it."""

    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, arguments=(), settings=None):
        result = operator(*arguments, **(settings or {}))
        name = operator.overloadpacket.__name__
        inputs = [value for value in arguments if isinstance(value, torch.Tensor)]
        if name in self.waits or (
                name in ("_to_copy", "copy_") and {value.device.type for value in (*inputs, result)} != {"meta"}):
            self.found.append(name)
        return result


@pytest.mark.parametrize("averaging", [0, 2])
@pytest.mark.parametrize("held", [True, False])
def test_steps_on_held_clips_copy_nothing_to_the_device(toy_spec, examples, held, averaging):
    """The device ``meta`` stands for a GPU: it has shapes, but no values."""
    device, clips, features = torch.device("meta"), examples(32), toy_spec.features
    recipe = TrainingConfig(epochs=5, batch_size=16, averaging_epochs=averaging, device_probability=0.5)
    with device:
        model, average = toy_spec.build().train(), toy_spec.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
    if held:
        clips = Examples(clips.read, clips.targets, held=torch.empty(32, features.n_mels, features.frames,
                                                                     dtype=torch.float16, device=device))
    augmentation = Augmentation(recipe, features.n_mels, features.frames, 5)
    targets, steps = clips.probabilities(3, device), []
    for indices in torch.arange(32).split(16):
        draws = augmentation.draw(np.arange(16), np.random.default_rng(0))
        steps.append((indices.to(device) if held else indices, draws.to(device)))
    fabric = SimpleNamespace(backward=lambda loss: loss.backward())
    with Watched() as watched:
        fit.train_epoch(0, steps, clips, targets, augmentation, fabric, model, optimizer, cross_entropy,
                        average if averaging else None)
    if held:
        assert watched.found == []
    else:  # the watch sees the copies of clips that are read
        assert watched.found.count("_to_copy") == 2
