import numpy as np
import torch

from task1a.config import TrainingConfig
from task1a.training.augment import Augmentation, draw_masks, mixup, spec_augment, time_roll

OFF = TrainingConfig(epochs=5, mixup_alpha=0, frequency_masks=0, time_masks=0)


def augmented(x, targets, recipe, roll_frames=0, seed=0):
    clips, _, bins, frames = x.shape
    augmentation = Augmentation(recipe, bins, frames, roll_frames)
    return augmentation(x, targets, augmentation.draw(np.arange(clips), np.random.default_rng(seed)))


def test_time_roll_is_numpys_roll_clip_by_clip():
    x = torch.randn(3, 1, 4, 11)
    shifts = [0, 3, -12]
    expected = np.stack([np.roll(clip, shift, axis=-1) for clip, shift in zip(x.numpy(), shifts, strict=True)])
    np.testing.assert_array_equal(time_roll(x, torch.tensor(shifts)), expected)


def test_mixup_by_hand():
    x, targets = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1), torch.eye(2)
    mixed, soft = mixup(x, targets, torch.tensor([0.75, 0.5], dtype=torch.float64), torch.tensor([1, 0]))
    torch.testing.assert_close(mixed.flatten(), torch.tensor([0.75 * 1 + 0.25 * 5, 3.0]))
    torch.testing.assert_close(soft, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


def test_masks_have_every_width_up_to_the_greatest_and_lie_anywhere():
    masks = draw_masks(20_000, 1, 4, 10, np.random.default_rng(0))
    widths = masks.sum(axis=1)
    np.testing.assert_allclose(np.bincount(widths) / len(masks), 1 / 5, atol=0.01)
    runs = (np.diff(masks.astype(int), axis=1, prepend=0) == 1).sum(axis=1)
    assert set(runs[widths > 0]) == {1}
    assert masks.any(axis=0).all()
    assert masks[widths == 4].mean(axis=0)[0] < masks[widths == 4].mean(axis=0)[5]  # a mask never sticks out


def test_a_mask_wider_than_the_axis_still_fits():
    assert draw_masks(50, 2, 80, 6, np.random.default_rng(0)).shape == (50, 6)


def test_spec_augment_fills_rows_and_columns_of_each_clip():
    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    rows, columns = torch.zeros(2, 3, dtype=bool), torch.zeros(2, 4, dtype=bool)
    rows[0, 1], columns[1, 3] = True, True
    y = spec_augment(x, rows, columns, torch.tensor([-1.0, -2.0]).reshape(2, 1, 1, 1))
    expected = x.clone()
    expected[0, 0, 1, :], expected[1, 0, :, 3] = -1, -2
    torch.testing.assert_close(y, expected)


def test_the_same_seed_augments_alike_and_another_does_not():
    x, targets = torch.randn(4, 1, 64, 100), torch.eye(4)
    recipe = TrainingConfig(epochs=5)
    first, again, other = (augmented(x, targets, recipe, 20, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first[0], other[0])
    torch.testing.assert_close(first[1].sum(dim=1), torch.ones(4))


def test_masks_hold_the_clips_mean_or_zero():
    x = torch.randn(2, 1, 64, 100) + 7
    for value in ("mean", "zero"):
        recipe = TrainingConfig(epochs=5, mixup_alpha=0, mask_value=value)
        y, _ = augmented(x, torch.eye(2), recipe)
        for clip, masked in zip(x, y, strict=True):
            assert set(masked[masked != clip].tolist()) == {clip.mean().item() if value == "mean" else 0.0}


def test_nothing_is_left_out_of_a_recipe_that_asks_for_nothing():
    x = torch.randn(2, 1, 8, 9)
    y, targets = augmented(x, torch.eye(2), OFF)
    assert torch.equal(x, y) and torch.equal(targets, torch.eye(2))
