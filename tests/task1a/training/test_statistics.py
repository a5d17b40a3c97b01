"""Batch-norm statistics that are re-estimated after the training, against means by hand and by another loop."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from task1a import model_file
from task1a.config import CompressionConfig, TrainingConfig
from task1a.training import compress as compressing
from task1a.training import fit
from task1a.training import train as training
from task1a.training.batch_norms import reestimate
from task1a.training.examples import Examples

CPU = torch.device("cpu")
RECIPE = TrainingConfig(epochs=2, batch_size=15, warmup_epochs=0, learning_rate=0.05, frequency_mask_bins=4,
                        time_mask_frames=3, roll_seconds=0.1, mixup_alpha=1)


def clips(values):
    stored = np.asarray(values, np.float32)
    return Examples(lambda indices: stored[indices], np.zeros(len(stored), int))


def test_statistics_by_hand():
    norm = nn.BatchNorm2d(1)
    norm.running_mean += 7
    reestimate(norm, clips([[[1.0, 2.0]], [[3.0, 6.0]]]), 2, 0, CPU)
    assert norm.running_mean.item() == 3
    assert norm.running_var.item() == pytest.approx((4 + 1 + 0 + 9) / 3)  # as in training, of the population
    assert norm.momentum == 0.1 and not norm.training


def test_every_clip_counts_once_and_batches_are_random():
    values = np.arange(12.0).reshape(12, 1, 1).repeat(2, axis=2)
    norms = []
    for seed in (0, 1):
        norms.append(nn.BatchNorm2d(1))
        reestimate(norms[-1], clips(values), 4, seed, CPU)
        assert norms[-1].running_mean.item() == 5.5 and norms[-1].num_batches_tracked == 3
        # of batches in the order of the clips it is that of four successive numbers
        assert norms[-1].running_var.item() > 1.5 * np.repeat(np.arange(4), 2).var(ddof=1)
    assert norms[0].running_var != norms[1].running_var


def test_no_clip_counts_more_than_others():
    """Five clips, at most four at once: three and two, not four and one."""
    norm = nn.BatchNorm2d(1)
    values = np.array([0.0, 0, 0, 0, 60]).reshape(5, 1, 1).repeat(2, axis=2)
    reestimate(norm, clips(values), 4, 0, CPU)
    assert norm.running_mean.item() in (pytest.approx(60 / 3 / 2), pytest.approx(60 / 2 / 2))


def test_nothing_else_is_in_training_mode():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1)).train()
    weight = model[2].weight.clone()
    reestimate(model, clips([[[1.0, 2.0]], [[3.0, 6.0]]]), 2, 0, CPU)
    assert model[1].running_mean.item() == 3 and not any(layer.training for layer in model.modules())
    assert torch.equal(model[2].weight, weight)


@pytest.fixture
def jobs(tmp_path, toy_spec, examples):
    def make(name, **settings):
        (tmp_path / name).mkdir()
        return fit.Job(toy_spec, replace(RECIPE, **settings), 0, examples(30), examples(0), tmp_path / name, name,
                       "cpu", log=lambda text: None)
    return make


@torch.no_grad()
def normalized_means(path, examples):
    """Means of the outputs of the first two norms over all clips, by the layers of the network itself."""
    model, _ = model_file.load(path)
    stem = model.stem[1](model.stem[0](torch.from_numpy(examples.read(np.arange(len(examples)))).unsqueeze(1)))
    expand = model.stages[0][0].expand
    expanded = expand[1](expand[0](torch.relu(stem)))
    return [x.mean(dim=(0, 2, 3)) for x in (stem, expanded)]


def test_trained_and_compressed_models_have_the_statistics_of_clips_without_augmentation(jobs, examples, toy_spec):
    plain, better = jobs("plain"), jobs("better", reestimate_norms=True, batch_size=30)
    for job in (plain, better):
        training.train(replace(job, config=replace(job.config, batch_size=30)))
    packed = replace(better, folder=better.folder.with_name("packed"), identity="packed")
    packed.folder.mkdir()
    compressing.compress(packed, CompressionConfig(epochs=1, warmup_epochs=0, ratio=0.5, teachers=()),
                         better.folder / "model.safetensors", [])

    files = better.folder / "model.safetensors", packed.folder / "packed.safetensors"
    for path, tolerance in zip(files, (1e-4, 5e-3), strict=True):  # half precision
        # with the statistics of all clips, the mean of the outputs is the shift that was trained
        trained = torch.load(path.with_name("checkpoint.pt"), weights_only=True)["model"]
        for name, mean in zip(("stem.1", "stages.0.0.expand.1"), normalized_means(path, examples(30)), strict=True):
            torch.testing.assert_close(mean, trained[f"{name}.bias"], rtol=tolerance, atol=tolerance)
    before, after = load_file(plain.folder / "model.safetensors"), load_file(files[0])
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "running" in name}
