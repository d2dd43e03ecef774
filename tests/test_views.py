"""Views as pure functions of their seeds: ranges, arithmetic, and agreement with torchvision."""

import numpy as np
import pytest
import torch
from helpers import made_up
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

import common
import gift
import lpqld
import synthesize

SIDE = 32


def test_the_stream_never_changes():
    """RandomState's stream is promised for good (NEP 19); these numbers name our views, so they must never change."""
    drawn = common.random_stream(0, 1, 2).random_sample(3)
    np.testing.assert_allclose(drawn, [0.2100750248, 0.3146606464, 0.1042853081], atol=1e-9)


# --- DSA


def dsa_view(images, *seed):
    return gift.dsa(images, gift.dsa_draws(len(images), SIDE, *seed).to(images.device))


def dsa_columns(*seed, batch=4000):
    return gift.dsa_draws(batch, SIDE, *seed).T


def kind_of(columns):
    """What a batch's draws do: crop, scale or rotate."""
    if (columns[[6, 9]] != 0).any():
        return "crop"
    return "rotate" if (columns[[5, 7]] != 0).any() else "scale"


def of_kind(kind):
    return next(columns for columns in map(dsa_columns, range(100)) if kind_of(columns) == kind)


def test_dsa_colour_ranges_are_per_image():
    flip, brightness, saturation, contrast = dsa_columns(0)[:4]
    assert flip.mean().item() == pytest.approx(0.5, abs=0.03)
    for values, low, high in ((brightness, -0.5, 0.5), (saturation, 0.0, 2.0), (contrast, 0.5, 1.5)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() < high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03)


def test_dsa_crop_shifts_by_whole_pixels_up_to_an_eighth():
    columns = of_kind("crop")
    for shift in columns[[6, 9]] * SIDE / 2:
        assert shift.round().unique().tolist() == list(range(-4, 5))
        torch.testing.assert_close(shift, shift.round())
    assert (columns[[4, 8]] == 1).all()
    assert (columns[[5, 7]] == 0).all()


def test_dsa_scale_is_between_its_ratio_and_the_inverse_on_each_axis():
    columns = of_kind("scale")
    for scale in columns[[4, 8]]:
        assert 1 / 1.2 <= scale.min() < 0.84
        assert 1.19 < scale.max() <= 1.2
    assert not torch.equal(columns[4], columns[8])


def test_dsa_rotates_by_up_to_fifteen_degrees():
    columns = of_kind("rotate")
    degrees = torch.rad2deg(torch.atan2(columns[7], columns[4]))
    assert -15 <= degrees.min() < -14.8
    assert 14.8 < degrees.max() <= 15
    torch.testing.assert_close(columns[4] ** 2 + columns[7] ** 2, torch.ones(4000))


def test_dsa_chooses_one_of_three_per_batch_equally_often():
    kinds = [kind_of(dsa_columns(seed, batch=8)) for seed in range(600)]
    for kind in ("crop", "scale", "rotate"):
        assert kinds.count(kind) == pytest.approx(200, abs=40)


def identity_draws(count):
    draws = torch.zeros(count, 12)
    draws[:, 2:5] = 1  # saturation, contrast, and the matrix's diagonal
    draws[:, 8] = 1
    draws[:, 10:] = -SIDE  # the hole lies outside
    return draws


def test_dsa_does_what_its_numbers_say():
    images = torch.randn(6, 3, SIDE, SIDE)
    torch.testing.assert_close(gift.dsa(images, identity_draws(6)), images, atol=1e-5, rtol=1e-5)
    draws = identity_draws(6)
    draws[0, 0] = 1  # mirrored
    draws[1, 1] = 0.25  # brighter
    draws[2, 2] = 0  # no saturation: each pixel becomes its mean over channels
    draws[3, 3] = 0.5  # half the contrast, around the image's one mean
    draws[4, 6] = 2 * 3 / SIDE  # sampled 3 to the right
    draws[4, 9] = -2 * 2 / SIDE  # and 2 higher
    draws[5, 10:] = torch.tensor([-8, 24])  # a hole over the corner: a quarter of it remains
    views = gift.dsa(images, draws)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(views[0], images[0].flip(2), **close)
    torch.testing.assert_close(views[1], images[1] + 0.25, **close)
    torch.testing.assert_close(views[2], images[2].mean(0, keepdim=True).expand(3, -1, -1), **close)
    torch.testing.assert_close(views[3], 0.5 * images[3] + 0.5 * images[3].mean(), **close)
    torch.testing.assert_close(views[4, :, 2:, :-3], images[4, :, :-2, 3:], **close)
    assert (views[4, :, :2].abs() < 1e-4).all()
    assert (views[4, :, :, -3:].abs() < 1e-4).all()
    assert (views[5, :, :8, 24:] == 0).all()
    assert (views[5] == 0).all(0).sum() == 64
    torch.testing.assert_close(views[5, :, 8:], images[5, :, 8:], **close)


def test_dsa_scale_above_one_shrinks_the_picture():
    draws = identity_draws(1)
    draws[0, [4, 8]] = 1.2
    view = gift.dsa(torch.ones(1, 3, SIDE, SIDE), draws)[0, 0]
    assert view[0].abs().max() == 0
    assert view[16, 16].item() == pytest.approx(1)
    assert view.sum().item() == pytest.approx((SIDE / 1.2) ** 2, rel=0.01)


def test_dsa_cutout_is_half_the_side_and_clipped_at_the_border():
    for first in dsa_columns(3)[10:]:
        assert first.unique().tolist() == list(range(-8, 25))  # centres 0 ... 32
    images = 5 * torch.ones(500, 3, SIDE, SIDE)
    assert dsa_view(images, 3, 1).isfinite().all()


def test_a_seed_gives_the_same_view_whatever_ran_before():
    images = torch.randn(10, 3, SIDE, SIDE)
    first = dsa_view(images, 7, 1, 20, 3)
    np.random.seed(1)
    np.random.rand(100)
    torch.manual_seed(1)
    torch.rand(100)
    assert torch.equal(first, dsa_view(images, 7, 1, 20, 3))
    assert not torch.equal(first, dsa_view(images, 7, 1, 20, 4))
    # a smaller batch of the same seed sees the same views
    torch.testing.assert_close(dsa_view(images[:4], 7, 1, 20, 3), first[:4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_seed_gives_the_same_view_on_cuda():
    images = torch.randn(10, 3, SIDE, SIDE)
    for step in range(6):
        there = dsa_view(images.cuda(), 7, step)
        torch.testing.assert_close(dsa_view(images, 7, step), there.cpu(), atol=1e-4, rtol=1e-4)
        draws = synthesize.crop_flip_roll_draws(10, SIDE, (0, 4), True, 7, step)
        here = common.resized_crop(images, draws[:, :4], SIDE, draws[:, 4] > 0, draws[:, 5:])
        draws = draws.cuda()
        there = common.resized_crop(images.cuda(), draws[:, :4], SIDE, draws[:, 4] > 0, draws[:, 5:])
        torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=1e-4)


# --- crops


@pytest.mark.parametrize("size", [8, 20, 64])
def test_resized_crop_gives_what_torchvision_gives(size):
    """Shrinking (antialiased) and enlarging, on boxes of every shape, to fp32 accuracy."""
    images = torch.rand(20, 3, 40, 33)
    boxes = torch.from_numpy(common.crop_boxes(np.random.RandomState(0).random_sample((20, 10, 4)), 40, 33))
    ours = common.resized_crop(images, boxes, size)
    for view, image, box in zip(ours, images, boxes.tolist(), strict=True):
        theirs = tvf.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
        torch.testing.assert_close(view, theirs, atol=1e-5, rtol=1e-4)


def test_resized_crop_flips_then_rolls():
    images = torch.randn(2, 3, 16, 16)
    whole = torch.tensor([[0, 0, 16, 16]] * 2)
    view = common.resized_crop(images, whole, 16, torch.tensor([True, False]), torch.tensor([[3, -2], [0, 5]]))
    torch.testing.assert_close(view[0], images[0].flip(2).roll((3, -2), (1, 2)))
    torch.testing.assert_close(view[1], images[1].roll(5, 2))


def test_resized_crop_finds_zeros_outside():
    view = common.resized_crop(torch.ones(1, 3, 8, 8), torch.tensor([[-2, 3, 8, 8]]), 8)[0, 0]
    assert (view[:2] == 0).all()
    assert (view[:, 5:] == 0).all()
    torch.testing.assert_close(view[2:, :5], torch.ones(6, 5))


def test_crop_boxes_obey_scale_and_ratio():
    top, left, height, width = common.crop_boxes(common.random_stream(0).random_sample((5000, 10, 4)), 64, 64).T
    area = height * width / 64**2
    ratio = width / height
    assert 0.07 < area.min() < 0.1
    assert 0.95 < area.max() <= 1
    assert 0.7 < ratio.min() < 0.8
    assert 1.28 < ratio.max() < 1.4
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 64
    square = common.crop_boxes(common.random_stream(1).random_sample((1000, 10, 4)), 30, 50, ratio=(1, 1))
    assert (square[:, 2] == square[:, 3]).all()
    assert square[:, 2].max() <= 30


def test_crop_boxes_fall_back_to_the_centre():
    impossible = common.crop_boxes(np.full((1, 10, 4), 0.999), 10, 100, scale=(1, 1), ratio=(1, 1))
    assert impossible.tolist() == [[0, 45, 10, 10]]


def test_synthesis_crops_flips_and_rolls():
    draws = synthesize.crop_flip_roll_draws(3000, 64, (-4, 4), True, 5)
    assert draws[:, 5:].unique().tolist() == list(range(-4, 5))
    assert draws[:, 4].float().mean().item() == pytest.approx(0.5, abs=0.05)
    plain = synthesize.crop_flip_roll_draws(100, 32, (0, 4), False, 5)
    assert (plain[:, :5] == torch.tensor([0, 0, 32, 32, 0])).all()
    assert plain[:, 5:].unique().tolist() == [0, 1, 2, 3, 4]


def teacher_view(images, *seed):
    draws = common.teacher_draws(len(images), images.shape[-1], *seed)
    return common.resized_crop(images, draws[:, :4], images.shape[-1], flip=draws[:, 4] > 0)


def test_teacher_views_shift_small_images_and_crop_large_ones():
    views = teacher_view(torch.ones(400, 3, 32, 32), 0)
    empty = (views[:, 0] == 0).float().mean((1, 2))
    assert empty.max().item() <= 1 - (28 / 32) ** 2 + 1e-6
    assert 0 < empty.mean() < 0.2
    assert views.max().item() == pytest.approx(1)
    large = teacher_view(torch.ones(4, 3, 96, 96), 0)
    torch.testing.assert_close(large, torch.ones_like(large))


def test_teacher_views_are_mirrored_half_the_time():
    for side in (32, 96):
        flip = common.teacher_draws(2000, side, 0)[:, 4]
        assert flip.mean().item() == pytest.approx(0.5, abs=0.05)


# --- a stored pool


@pytest.mark.parametrize("mix", lpqld.MIXES)
def test_views_drawn_again_from_a_stored_pool_are_those_that_were_labelled(tmp_path, mix):
    data, distilled, teacher = made_up(5, 4, 16, tmp_path)
    labelled = []
    teacher.model.register_forward_pre_hook(lambda model, inputs: labelled.append(inputs[0].clone()))
    labels = lpqld.LabelSettings(epochs=6, batch_size=6, prune=0.5, top_k=3, mix=mix)
    lpqld.make_pool(data, teacher, distilled, labels, 7, tmp_path / "labels.pt")

    np.random.seed(1)  # no other generator has a say
    torch.manual_seed(1)
    pool = lpqld.load_pool(tmp_path / "labels.pt", data, distilled)
    labelled = torch.cat(labelled)
    drawn_again = torch.cat([views for views, _ in pool.batches(range(9), 1.0)])
    assert labelled.shape == (54, 3, 16, 16)
    assert torch.equal(drawn_again, labelled)
    for number in (8, 2):  # alone and in another order
        views, _ = next(pool.batches([number], 1.0))
        torch.testing.assert_close(views, labelled[6 * number : 6 * number + 6])


# --- many at once


def test_steps_together_hold_so_many_pixels():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert common.steps_together(range(5), 100, 32, cpu) == [[0], [1], [2], [3], [4]]
    assert common.steps_together(range(5), 20, 32, cpu) == [[0, 1, 2, 3], [4]]
    assert [len(steps) for steps in common.steps_together(range(80), 100, 32, cuda)] == [39, 39, 2]
    assert common.steps_together(range(2), 128, 224, cuda) == [[0], [1]]


def test_the_last_partial_batch_is_kept():
    assert [len(batch) for batch in common.split_batches(torch.arange(120), 50)] == [50, 50, 20]
    assert [len(batch) for batch in common.split_batches(torch.arange(10), 10)] == [10]
    batches = common.split_batches(torch.arange(101), 50)
    assert [len(batch) for batch in batches] == [50, 51]  # none of a single image
    assert torch.cat(batches).tolist() == list(range(101))
