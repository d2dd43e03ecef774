"""Views as pure functions of their seeds: ranges, arithmetic, and agreement with torchvision."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

import common

SIDE = 32


def dsa_view(images, *seed):
    return common.dsa(images, common.dsa_draws(len(images), SIDE, *seed).to(images.device))


def teacher_view(images, *seed):
    draws = common.teacher_draws(len(images), images.shape[-1], *seed)
    return common.resized_crop(images, draws[:, :4], images.shape[-1], flip=draws[:, 4] > 0)


def dsa_columns(*seed, batch=4000, side=SIDE):
    return common.dsa_draws(batch, side, *seed).T


def of_kind(kind):
    """Draws of a batch that crops (0), scales (1) or rotates (2)."""
    for seed in range(100):
        columns = dsa_columns(seed)
        moved, off_diagonal = (columns[[6, 9]] != 0).any(), (columns[[5, 7]] != 0).any()
        if kind == (0 if moved else 2 if off_diagonal else 1):
            return columns
    raise AssertionError(f"no batch of kind {kind} in 100 seeds")


def test_the_stream_is_frozen():
    """RandomState's stream is promised for good (NEP 19); these numbers name our views, so they must never change."""
    drawn = common.random_stream(0, 1, 2).random_sample(3)
    np.testing.assert_allclose(drawn, [0.2100750248, 0.3146606464, 0.1042853081], atol=1e-9)


def test_dsa_colour_ranges_are_per_image():
    flip, brightness, saturation, contrast = dsa_columns(0)[:4]
    assert flip.mean().item() == pytest.approx(0.5, abs=0.03)
    for values, low, high in ((brightness, -0.5, 0.5), (saturation, 0.0, 2.0), (contrast, 0.5, 1.5)):
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() < high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03)


def test_dsa_crop_shifts_by_whole_pixels_up_to_an_eighth():
    columns = of_kind(0)
    right, down = columns[6] * SIDE / 2, columns[9] * SIDE / 2
    for shift in (right, down):
        assert shift.round().unique().tolist() == list(range(-4, 5))
        torch.testing.assert_close(shift, shift.round())
    assert (columns[[4, 8]] == 1).all() and (columns[[5, 7]] == 0).all()


def test_dsa_scale_is_between_its_ratio_and_the_inverse_on_each_axis():
    columns = of_kind(1)
    for scale in columns[[4, 8]]:
        assert 1 / 1.2 <= scale.min() < 0.84 and 1.19 < scale.max() <= 1.2
    assert not torch.equal(columns[4], columns[8])


def test_dsa_rotates_by_up_to_fifteen_degrees():
    columns = of_kind(2)
    degrees = torch.rad2deg(torch.atan2(columns[7], columns[4]))
    assert -15 <= degrees.min() < -14.8 and 14.8 < degrees.max() <= 15
    torch.testing.assert_close(columns[4] ** 2 + columns[7] ** 2, torch.ones(4000))


def test_dsa_chooses_one_of_three_per_batch_equally_often():
    kinds = [dsa_columns(seed, batch=1) for seed in range(900)]
    crop = sum(bool((c[[6, 9]] != 0).any()) for c in kinds)
    rotate = sum(bool((c[[5, 7]] != 0).any()) for c in kinds)
    scale = sum(bool(c[4] != 1 and c[7] == 0) for c in kinds)
    assert all(count == pytest.approx(300, abs=50) for count in (crop, rotate, scale))


def identity_draws(count):
    draws = torch.zeros(count, 12)
    draws[:, 2:5] = 1  # saturation, contrast, and the matrix's diagonal
    draws[:, 8] = 1
    draws[:, 10:] = -SIDE  # the hole lies outside
    return draws


def test_dsa_arithmetic_by_hand():
    images = torch.randn(6, 3, SIDE, SIDE)
    torch.testing.assert_close(common.dsa(images, identity_draws(6)), images, atol=1e-5, rtol=1e-5)
    draws = identity_draws(6)
    draws[0, 0] = 1  # mirrored
    draws[1, 1] = 0.25  # brighter
    draws[2, 2] = 0  # no saturation: each pixel becomes its mean over channels
    draws[3, 3] = 0.5  # half the contrast, around the image's one mean
    draws[4, 6], draws[4, 9] = 2 * 3 / SIDE, -2 * 2 / SIDE  # sampled 3 to the right and 2 higher
    draws[5, 10], draws[5, 11] = -8, 24  # a hole over the corner: a quarter of it remains
    views = common.dsa(images, draws)
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(views[0], images[0].flip(2), **close)
    torch.testing.assert_close(views[1], images[1] + 0.25, **close)
    torch.testing.assert_close(views[2], images[2].mean(0, keepdim=True).expand(3, -1, -1), **close)
    torch.testing.assert_close(views[3], 0.5 * images[3] + 0.5 * images[3].mean(), **close)
    torch.testing.assert_close(views[4, :, 2:, :-3], images[4, :, :-2, 3:], **close)
    assert (views[4, :, :2].abs() < 1e-4).all() and (views[4, :, :, -3:].abs() < 1e-4).all()
    assert (views[5, :, :8, 24:] == 0).all()
    assert (views[5] == 0).all(0).sum() == 64
    torch.testing.assert_close(views[5, :, 8:], images[5, :, 8:], **close)


def test_dsa_scale_above_one_shrinks_the_picture():
    draws = identity_draws(1)
    draws[0, 4] = draws[0, 8] = 1.2
    view = common.dsa(torch.ones(1, 3, SIDE, SIDE), draws)[0, 0]
    assert view[0].abs().max() == 0 and view[16, 16].item() == pytest.approx(1)
    assert view.sum().item() == pytest.approx((SIDE / 1.2) ** 2, rel=0.01)


def test_dsa_cutout_is_half_the_side_and_clipped_at_the_border():
    row, column = dsa_columns(3)[10:]
    for first in (row, column):
        assert first.min() == -8 and first.max() == 24 and len(first.unique()) == 33  # centres 0 ... 32
    views = dsa_view(torch.ones(500, 3, SIDE, SIDE) * 5, 3, 1)
    assert views.isfinite().all()


def test_same_seed_same_view_whatever_ran_before():
    images = torch.randn(10, 3, SIDE, SIDE)
    first = dsa_view(images, 7, 1, 20, 3)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.rand(100), np.random.rand(100)
    assert torch.equal(first, dsa_view(images, 7, 1, 20, 3))
    assert not torch.equal(first, dsa_view(images, 7, 1, 20, 4))
    # a smaller batch of the same seed sees the same views
    torch.testing.assert_close(dsa_view(images[:4], 7, 1, 20, 3), first[:4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_seed_same_view_on_cuda():
    images = torch.randn(10, 3, SIDE, SIDE)
    for step in range(6):
        here, there = dsa_view(images, 7, step), dsa_view(images.cuda(), 7, step)
        torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=1e-4)
        draws = common.crop_flip_roll_draws(10, SIDE, (0, 4), True, 7, step)
        here = common.resized_crop(images, draws[:, :4], SIDE, draws[:, 4] > 0, draws[:, 5:])
        draws = draws.cuda()
        there = common.resized_crop(images.cuda(), draws[:, :4], SIDE, draws[:, 4] > 0, draws[:, 5:])
        torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [8, 20, 64])
def test_resized_crop_is_torchvisions(size):
    """Shrinking (antialiased) and enlarging, on boxes of every shape, to fp32 accuracy."""
    images = torch.rand(20, 3, 40, 33)
    boxes = torch.from_numpy(common.crop_boxes(np.random.RandomState(0).random_sample((20, 10, 4)), 40, 33))
    ours = common.resized_crop(images, boxes, size)
    for view, image, (top, left, height, width) in zip(ours, images, boxes.tolist(), strict=True):
        args = (top, left, height, width, [size, size], InterpolationMode.BILINEAR)
        torch.testing.assert_close(view, tvf.resized_crop(image, *args, antialias=True), atol=1e-5, rtol=1e-4)


def test_resized_crop_flips_then_rolls():
    images = torch.randn(2, 3, 16, 16)
    whole = torch.tensor([[0, 0, 16, 16]] * 2)
    view = common.resized_crop(images, whole, 16, torch.tensor([True, False]), torch.tensor([[3, -2], [0, 5]]))
    torch.testing.assert_close(view[0], images[0].flip(2).roll((3, -2), (1, 2)))
    torch.testing.assert_close(view[1], images[1].roll(5, 2))


def test_resized_crop_finds_zeros_outside():
    view = common.resized_crop(torch.ones(1, 3, 8, 8), torch.tensor([[-2, 3, 8, 8]]), 8)[0, 0]
    assert (view[:2] == 0).all() and (view[:, 5:] == 0).all()
    torch.testing.assert_close(view[2:, :5], torch.ones(6, 5))


def test_crop_boxes_obey_scale_and_ratio():
    boxes = common.crop_boxes(common.random_stream(0).random_sample((5000, 10, 4)), 64, 64).T
    top, left, height, width = boxes
    area, ratio = height * width / 64**2, width / height
    assert 0.07 < area.min() < 0.1 and 0.95 < area.max() <= 1
    assert 0.7 < ratio.min() < 0.8 and 1.28 < ratio.max() < 1.4
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 64).all() and (left + width <= 64).all()
    square = common.crop_boxes(common.random_stream(1).random_sample((1000, 10, 4)), 30, 50, ratio=(1, 1))
    assert (square[:, 2] == square[:, 3]).all() and square[:, 2].max() <= 30


def test_crop_boxes_fall_back_to_the_centre():
    impossible = common.crop_boxes(np.ones((1, 10, 4)) * 0.999, 10, 100, scale=(1, 1), ratio=(1, 1))
    assert impossible.tolist() == [[0, 45, 10, 10]]


def test_synthesis_draws():
    draws = common.crop_flip_roll_draws(3000, 64, (-4, 4), True, 5)
    assert draws[:, 5:].unique().tolist() == list(range(-4, 5))
    assert draws[:, 4].float().mean().item() == pytest.approx(0.5, abs=0.05)
    plain = common.crop_flip_roll_draws(100, 32, (0, 4), False, 5)
    assert (plain[:, :5] == torch.tensor([0, 0, 32, 32, 0])).all() and plain[:, 5:].unique().tolist() == [0, 1, 2, 3, 4]


def test_teacher_views_shift_and_flip_small_images_and_crop_large_ones():
    views = teacher_view(torch.ones(400, 3, 32, 32), 0)
    empty = (views[:, 0] == 0).float().mean((1, 2))
    assert empty.max().item() <= 1 - (28 / 32) ** 2 + 1e-6 and 0 < empty.mean() < 0.2
    large = teacher_view(torch.ones(4, 3, 96, 96), 0)
    torch.testing.assert_close(large, torch.ones_like(large))
    assert math.isclose(views.max(), 1)
