"""LPQLD's formulas on numbers worked by hand, its schedules, its storage to the byte, and the pool's file."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Killed, made_up, truncated

import common
import lpqld
from common import Split, UserError
from experiments import storage
from synthesize import Distilled

# --- P: pruning


@pytest.mark.parametrize(
    "count, batch_size, epochs, prune, batches",
    [
        (10_000, 128, 300, 0.9, 2340),  # ImageNet-1K, IPC 10: 78 batches per epoch, a tenth of 300 epochs
        (10_000, 128, 300, 0.0, 23_400),  # all labels: the partial batch is dropped too
        (104_500, 32, 300, 0.95, 48_975),  # ImageNet-21K, IPC 10
        (10_000, 64, 100, 0.975, 390),  # Tiny-ImageNet, IPC 50
        (100, 20, 300, 0.9, 150),
        (101, 20, 300, 0.0, 1500),
    ],
)
def test_pool_size(count, batch_size, epochs, prune, batches):
    assert lpqld.pool_size(count, batch_size, epochs, prune) == batches


def test_an_epoch_draws_without_replacement():
    drawn = lpqld.draw_label_batches(150, 5, 3, 300, 0.9, seed=0)
    assert len(set(drawn)) == 5
    assert max(drawn) < 150
    assert drawn == lpqld.draw_label_batches(150, 5, 3, 300, 0.9, seed=0)
    assert drawn != lpqld.draw_label_batches(150, 5, 4, 300, 0.9, seed=0)
    assert drawn != lpqld.draw_label_batches(150, 5, 3, 300, 0.9, seed=1)
    assert sorted(lpqld.draw_label_batches(5, 5, 0, 300, 0.9, seed=0)) == list(range(5))
    # a pruned pool for fewer epochs: at random
    assert lpqld.draw_label_batches(150, 5, 0, 10, 0.9, seed=0) != list(range(5))


def test_full_labels_go_in_order():
    whole = [number for epoch in range(4) for number in lpqld.draw_label_batches(20, 5, epoch, 4, 0.0, 0)]
    assert whole == list(range(20))
    # for more epochs than they were made for: at random
    assert lpqld.draw_label_batches(20, 5, 0, 5, 0.0, 0) != list(range(5))


# --- Q: marginal re-normalization


def test_mr_k_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, -1.0, 5.0, -2.0]])
    values, classes = lpqld.quantize_labels(logits, 2)
    assert values.dtype == torch.float16
    assert not classes.is_floating_point()
    assert values.tolist() == [[4.0, 3.0], [5.0, 0.0]]
    assert classes.tolist() == [[1, 3], [2, 0]]
    # T = 1: e^4 / (e^4 + e^3) = 1 / (1 + 1 / e); T = 2: 1 / (1 + e^-0.5)
    targets = lpqld.soft_targets(values, classes, 4, 1.0)
    torch.testing.assert_close(targets[0], torch.tensor([0, 0.7310586, 0, 0.2689414]))
    softer = lpqld.soft_targets(values, classes, 4, 2.0)
    torch.testing.assert_close(softer[0], torch.tensor([0, 0.6224593, 0, 0.3775407]))
    assert targets.dtype == torch.float32
    assert (targets[0, [0, 2]] == 0).all()
    assert (targets[1, [1, 3]] == 0).all()


@pytest.mark.parametrize("num_classes, k", [(10, 3), (200, 20), (1000, 50), (7, 7)])
def test_soft_targets_are_the_softmax_renormalised_over_the_kept_classes(num_classes, k):
    logits = torch.randn(16, num_classes, generator=torch.Generator().manual_seed(0)).half().float() * 4
    targets = lpqld.soft_targets(*lpqld.quantize_labels(logits, k), num_classes, 20.0)
    kept = torch.where(targets > 0, F.softmax(logits / 20, dim=1), 0.0)
    assert ((targets > 0).sum(1) == k).all()
    torch.testing.assert_close(targets, kept / kept.sum(1, keepdim=True))


def test_k_above_c_is_refused():
    with pytest.raises(RuntimeError):
        lpqld.quantize_labels(torch.zeros(2, 4), 5)


# --- DKR: dynamic knowledge reuse


def test_step_schedule():
    expected = {1: 20, 29: 20, 30: 14, 59: 14, 60: 9.8, 90: 6.86, 180: 2.35298, 209: 2.35298, 210: 2, 300: 2}
    assert {epoch: lpqld.reuse_temperature(epoch) for epoch in expected} == pytest.approx(expected)
    assert lpqld.label_temperature(30, 300, "step") == 14
    assert lpqld.label_temperature(300, 300, "none") == 20
    assert lpqld.label_temperature(9, 100, "step") == 20
    assert lpqld.label_temperature(10, 100, "step") == 14


def test_cosine_schedule():
    assert lpqld.cosine_reuse_temperature(300, 300) == pytest.approx(2)
    assert lpqld.cosine_reuse_temperature(150, 300) == pytest.approx(11)
    assert lpqld.cosine_reuse_temperature(100, 300) == pytest.approx(15.5)  # cos(pi / 3) = 1/2
    assert lpqld.label_temperature(150, 300, "cosine") == pytest.approx(11)


# --- CA: calibrated alignment


def test_alignment_loss_by_hand_has_no_factor_t_squared():
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # softmax([1, 0]) = 0.7310586, 0.2689414
    first = 0.5 * math.log(0.5 / 0.7310586) + 0.5 * math.log(0.5 / 0.2689414)
    assert lpqld.alignment_loss(logits, targets, 2.0).item() == pytest.approx((first + math.log(2)) / 2)


def test_calibration_finds_a_known_optimum():
    targets = F.softmax(torch.randn(32, 10, generator=torch.Generator().manual_seed(0)), dim=1)
    for tau in (0.05, 0.37, 1.0):  # softmax(tau * log t / tau) = t
        assert lpqld.calibrate_temperature(tau * targets.log(), targets) == pytest.approx(tau)
    assert lpqld.calibrate_temperature(5 * targets.log(), targets) == 1.0  # the grid ends at 1
    assert lpqld.calibrate_temperature(torch.zeros(4, 10), targets[:4]) == pytest.approx(0.01)  # ties: the smallest
    hard = F.one_hot(torch.arange(10), 10).float()
    assert lpqld.calibrate_temperature(hard, hard) == pytest.approx(0.01)  # nothing is sharp enough


def test_calibration_is_the_argmin_of_the_kl_divergence():
    generator = torch.Generator().manual_seed(3)
    logits = 0.3 * torch.randn(16, 50, generator=generator)
    targets = lpqld.soft_targets(*lpqld.quantize_labels(torch.randn(16, 50, generator=generator) * 3, 5), 50, 4.0)
    losses = [lpqld.alignment_loss(logits, targets, step / 100).item() for step in range(1, 101)]
    assert lpqld.calibrate_temperature(logits, targets) == pytest.approx((losses.index(min(losses)) + 1) / 100)


# --- the protocol


def test_protocols_are_the_released_ones():
    released = {
        "imagenet-1k": (
            lpqld.LabelSettings(epochs=300, batch_size=128, prune=0.9, top_k=50, mix="cutmix", flip=True),
            lpqld.Training(
                epochs=300, reuse="step", calibrate=True, smoothing=0.0, squared=False,
                optimizer="adamw", lr=1e-3, weight_decay=0.01, warmup=0,
            ),
        ),
        "imagenet-21k": (
            lpqld.LabelSettings(epochs=300, batch_size=32, prune=0.95, top_k=200, mix="cutout", flip=False),
            lpqld.Training(
                epochs=300, reuse="step", calibrate=True, smoothing=0.2, squared=False,
                optimizer="adamw", lr=2e-3, weight_decay=0.01, warmup=0,
            ),
        ),
        "tinyimagenet": (
            lpqld.LabelSettings(epochs=100, batch_size=64, prune=0.9, top_k=20, mix="none", flip=True),
            lpqld.Training(
                epochs=100, reuse="step", calibrate=True, smoothing=0.0, squared=True,
                optimizer="sgd", lr=0.2, weight_decay=1e-4, warmup=5,
            ),
        ),
    }  # fmt: skip
    assert released == lpqld.PROTOCOLS


def test_settings_are_filled_in_and_what_is_given_stands(fashion):
    labels = lpqld.labels_for(fashion, 100)
    assert (labels.batch_size, labels.top_k) == (20, 3)  # a fifth of the images; a twentieth of the classes, or 3
    assert replace(labels, batch_size=128, top_k=50) == lpqld.PROTOCOLS["imagenet-1k"][0]
    assert lpqld.labels_for(fashion, 40, "imagenet-21k").batch_size == 32
    assert lpqld.labels_for(fashion, 20, "tinyimagenet").batch_size == 20  # no more than there are
    assert lpqld.labels_for(fashion, 100, "imagenet-1k").top_k == 3  # 50 of 10 classes are not possible
    given = lpqld.labels_for(fashion, 100, "tinyimagenet", epochs=7, top_k=10, prune=None)
    assert given == lpqld.LabelSettings(epochs=7, batch_size=64, prune=0.9, top_k=10, mix="none")
    assert lpqld.training_for(fashion) == lpqld.PROTOCOLS["imagenet-1k"][1]
    training = lpqld.training_for(fashion, "tinyimagenet", epochs=7, lr=None)
    assert (training.epochs, training.lr, training.optimizer) == (7, 0.2, "sgd")
    assert lpqld.PROTOCOLS["tinyimagenet"][0].epochs == 100


@pytest.mark.parametrize("prune, epochs, enough", [(0.9, 1, 9), (0.975, 10, 35), (0.5, 1, 2)])
def test_the_message_says_how_many_epochs_are_enough(fashion, prune, epochs, enough):
    labels = lpqld.LabelSettings(epochs=epochs, batch_size=25, prune=prune, top_k=3)
    with pytest.raises(UserError, match=f"one epoch takes 4: at least --epochs {enough}, or less pruning"):
        lpqld.check_labels(labels, 100, fashion)
    lpqld.check_labels(replace(labels, epochs=enough), 100, fashion)
    with pytest.raises(UserError, match=r"leaves [0-3] label batches of 25"):
        lpqld.check_labels(replace(labels, epochs=enough - 1), 100, fashion)


def test_epochs_whose_labels_memory_cannot_hold_are_refused(fashion, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "memory", lambda device: 2**39)
    status, _, complaint = in_process(lpqld, "--epochs", 2**31, "--top-k", 3, "--out", tmp_path)
    assert (status, list(tmp_path.rglob("teacher*"))) == (2, [])  # before a teacher is trained
    needed = "1,073,741,824 label batches of 20 take 800 GB, cpu has 512 for this process"
    assert complaint == f"error: {needed}: keep fewer labels, or fewer logits\n"
    monkeypatch.setattr(common, "memory", lambda device: 2**40)
    lpqld.check_labels(lpqld.LabelSettings(epochs=2**31, batch_size=20, top_k=3), 100, fashion)
    status, _, complaint = in_process(lpqld, "--epochs", 2**31, "--top-k", 3, "--ablation", "--out", tmp_path)
    assert (status, list(tmp_path.rglob("teacher*"))) == (2, [])  # its pool of full labels
    assert complaint.startswith("error: 10,737,418,240 label batches of 20 take 9,600 GB")  # 28 + 2 * 10 bytes a label


def test_learning_rates():
    assert lpqld.learning_rate_factor(0, 300) == 1
    assert lpqld.learning_rate_factor(150, 300) == pytest.approx(0.5)
    assert 0 < lpqld.learning_rate_factor(299, 300) < 1e-4
    warmed = [lpqld.learning_rate_factor(epoch, 100, 5) for epoch in (0, 1, 5, 99)]
    assert warmed[:3] == pytest.approx([0.01, 0.208, 1.0])
    assert warmed[3] < 1e-3


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_weight_decay_is_on_weights_with_more_than_one_dimension(kind):
    student = common.build_model("conv3", 10, 32, 8)
    optimizer = lpqld.make_optimizer(student, kind, 0.1, 0.01)
    decayed, free = optimizer.param_groups
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0)
    assert len(decayed["params"]) + len(free["params"]) == len(list(student.parameters()))


def test_label_smoothing_of_imagenet_21k_is_a_temperature():
    logits, s = torch.randn(4, 200), lpqld.PROTOCOLS["imagenet-21k"][1].smoothing
    released = F.softmax(((1 - s) * logits + s / 200) / 14, dim=1)
    torch.testing.assert_close(released, F.softmax(logits / (14 / (1 - s)), dim=1))
    assert s == 0.2


# --- views


def test_a_view_is_redrawn_from_its_seed():
    one, same, other = (lpqld.view_draws(8, 32, "cutmix", True, 3, 7, number) for number in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # a change of these numbers would make every stored pool worthless
    assert one[:2].tolist() == [
        [5, 0, 27, 32, 0, 0, 19, 4, 27, 2, 0, 0],
        [0, 3, 22, 25, 1, 0, 19, 4, 27, 3, 0, 0],
    ]


def test_cutmix_box_is_that_of_the_paper():
    areas = []
    for number in range(300):
        draws = lpqld.view_draws(16, 32, "cutmix", True, 0, number)
        hole, partner = draws[:, 5:9], draws[:, 9]
        assert (hole == hole[0]).all()  # one box for the batch
        assert sorted(partner.tolist()) == list(range(16))  # a permutation
        top, left, bottom, right = hole[0].tolist()
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 32
        if min(top, left) > 0 and max(bottom, right) < 32:  # not clipped: a square of an even side
            assert bottom - top == right - left
            assert (bottom - top) % 2 == 0
        areas.append((bottom - top) * (right - left) / 32**2)
    # E[1 - lambda] is 1/2 for Beta(1, 1); clipping at the border keeps a good half of it
    assert 0.2 < sum(areas) / len(areas) < 0.4


def test_views_are_mirrored_half_the_time():
    flips = torch.cat([lpqld.view_draws(16, 32, "cutmix", True, 0, number)[:, 4] for number in range(50)])
    assert 0.4 < flips.float().mean() < 0.6
    assert not lpqld.view_draws(64, 32, "cutmix", False, 0)[:, 4].any()


def test_mixed_views_mix_images_not_labels():
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    colours = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    draws = lpqld.view_draws(6, 16, "cutmix", True, 11)
    plain = lpqld.mixed_views(images, draws[None], "none", colours)
    mixed = lpqld.mixed_views(images, draws[None], "cutmix", colours)
    top, left, bottom, right = draws[0, 5:9].tolist()
    assert (bottom - top) * (right - left) > 0
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(mixed[..., inside], plain[draws[:, 9].long()][..., inside])
    assert torch.equal(mixed[..., ~inside], plain[..., ~inside])
    for view, image, draw in zip(plain, common.normalize(images, colours), draws, strict=True):
        y, x, h, w = draw[:4].tolist()  # the crop is torchvision's
        crop = F.interpolate(image[None, :, y : y + h, x : x + w], (16, 16), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(view, crop.flip(2) if draw[4] else crop, atol=1e-5, rtol=1e-4)


def test_cutout_of_imagenet_21k():
    draws = lpqld.view_draws(64, 32, "cutout", False, 5)
    height, width = draws[:, 7] - draws[:, 5], draws[:, 8] - draws[:, 6]
    for length in (height, width):  # half a side; clipped
        assert length.max() == 16
        assert length.min() >= 8
    assert len(draws[:, 5:9].unique(dim=0)) > 50  # each image its own
    assert len(draws[:, 9:].unique(dim=0)) == 64
    black = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    view = lpqld.mixed_views(black, draws[None], "cutout", common.COLOURS["none"])
    top, left = draws[0, 5:7].tolist()
    torch.testing.assert_close(view[0, :, top, left], draws[0, 9:] / 255)
    assert (view[0, 0] != 0).sum() == height[0] * width[0]


def drawn(in_pool, images, **labels) -> lpqld.Views:
    distilled = Distilled(images, None, {})
    return lpqld.pool_views(in_pool, lpqld.LabelSettings(**labels), distilled, common.COLOURS["cifar"], 0)


def bytes_of(count):
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8)


def test_each_pass_shows_each_image_once():
    order, draws = drawn(15, bytes_of(100), batch_size=20)[1:3]
    assert order.shape == (15, 20)
    for first in (0, 5, 10):
        assert order[first : first + 5].flatten().sort().values.tolist() == list(range(100))
    # a change of these numbers would make every stored pool worthless
    second = common.random_stream(0, common.LABELS, common.ORDER, 1).permutation(100)
    assert order[5:10].flatten().tolist() == second.tolist()
    assert torch.equal(draws[7], lpqld.view_draws(20, 8, "cutmix", True, 0, common.LABELS, common.VIEW, 7))


def test_the_last_partial_batch_of_a_pass_is_dropped():
    order, draws = drawn(6, bytes_of(100), batch_size=30)[1:3]
    assert order.shape == (6, 30)
    assert draws.shape == (6, 30, 12)
    for number in (0, 1):  # others are left out in the next pass
        images = common.random_stream(0, common.LABELS, common.ORDER, number).permutation(100)
        assert order[3 * number : 3 * number + 3].flatten().tolist() == images[:90].tolist()


def test_the_views_of_many_label_batches_at_once_are_those_of_each():
    """More labels than int16 counts to: a partner's number within the group must not wrap around."""
    images = bytes_of(2000)
    views = drawn(17, images, batch_size=2000)
    together = views.of(torch.arange(17)).split(2000)
    assert sum(map(len, together)) > 2**15
    for number in (0, 1, 9, 16):
        assert torch.equal(together[number], views.of(torch.tensor([number])))
    assert views.draws.dtype == torch.int16
    assert torch.equal(views.draws, drawn(17, images, batch_size=2000).draws)  # nothing was added to them


# --- storage


@pytest.mark.parametrize(
    "num_classes, bits",
    [(2, 1), (4, 2), (5, 3), (10, 4), (200, 8), (1000, 10), (10450, 14), (2**15, 15), (2**15 + 1, 16), (65536, 16)],
)
def test_class_indices_take_ceil_log2_bits(num_classes, bits):
    assert bits == math.ceil(math.log2(num_classes))
    classes = torch.randint(num_classes, (143, 7, 3), generator=torch.Generator().manual_seed(1))
    classes[0] = num_classes - 1
    packed = lpqld.pack_classes(classes, num_classes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (bits, math.ceil(3003 / 8))
    assert torch.equal(lpqld.unpack_classes(packed, (143, 7, 3), num_classes).long(), classes)
    assert storage.label_bytes(3003, 1, num_classes) == 3003 * 2 + packed.numel()


def test_bit_planes_by_hand():
    """5, 1 and 7: a plane for each bit, the lowest first; in a plane the first class is the highest bit."""
    planes = lpqld.pack_classes(torch.tensor([5, 1, 7]), 8)
    assert planes.tolist() == [[0b11100000], [0b00100000], [0b10100000]]


def test_storage_at_the_papers_settings():
    full, labels = 10_000 * 300 * 1000 * 2, 2340 * 128  # ImageNet-1K, IPC 10
    assert full / 2**30 == pytest.approx(5.67, rel=0.02)  # published: 5.67 GB, with the boxes
    assert full / storage.label_bytes(labels, 50, 1000, bits=16) == pytest.approx(100, rel=0.01)  # published: 78
    assert full / storage.label_bytes(labels, 50, 1000) == pytest.approx(123, rel=0.01)
    full, labels = 104_500 * 300 * 10_450 * 2, 48_975 * 32  # ImageNet-21K, IPC 10
    assert full / storage.label_bytes(labels, 200, 10_450, bits=16) == pytest.approx(520, rel=0.01)  # published: 500


def test_label_bytes_by_hand():
    assert storage.label_bytes(128, 50, 1000) == 128 * 50 * 2 + 128 * 50 * 10 // 8
    assert storage.label_bytes(7, 10, 10) == 7 * 10 * 2  # all logits: no classes needed


# --- the pool


def made(folder, num_classes=20, ipc=5, side=8, **more):
    """A pool of 20 batches of 25 labels, and what it is for."""
    data, distilled, teacher = made_up(num_classes, ipc, side, folder)
    labels = lpqld.LabelSettings(**{"batch_size": 25, "epochs": 10, "prune": 0.5, "top_k": 4, **more})
    lpqld.make_pool(data, teacher, distilled, labels, 0, folder / "labels.pt")
    return data, distilled, teacher, lpqld.load_pool(folder / "labels.pt", data, distilled, teacher)


def test_the_pool_is_regular(tmp_path):
    *_, pool = made(tmp_path)
    numbers = torch.tensor([3, 5])
    assert (pool.values.shape, pool.values.dtype) == ((20, 25, 4), torch.float16)
    assert (pool.classes.shape, pool.classes.dtype) == ((20, 25, 4), torch.int16)
    assert (pool.views.order.shape, pool.views.order.dtype) == ((20, 25), torch.int32)
    assert (pool.views.draws.shape, pool.views.draws.dtype) == ((20, 25, 12), torch.int16)
    assert pool.per_epoch == 4
    assert pool.views.of(numbers).shape == (50, 3, 8, 8)
    assert pool.targets(numbers, 20.0).shape == (50, 20)


def test_full_labels_have_no_classes_and_drop_the_partial_batch_too(tmp_path):
    *_, pool = made(tmp_path, batch_size=30, prune=0.0, epochs=2, top_k=20)
    assert pool.values.shape == (6, 30, 20)
    assert pool.classes is None
    assert pool.per_epoch == 3


@pytest.mark.parametrize("mix", lpqld.MIXES)
@pytest.mark.parametrize("top_k", [4, 20])
def test_the_pool_holds_the_teachers_logits_of_the_redrawn_views(tmp_path, mix, top_k):
    *_, teacher, pool = made(tmp_path, top_k=top_k, mix=mix)
    numbers = torch.tensor([0, 7, 19])
    logits = teacher.model(pool.views.of(numbers)).half().float()
    expected = F.softmax(logits / 2, dim=1)
    if top_k == 4:
        expected = lpqld.soft_targets(*lpqld.quantize_labels(logits, 4), 20, 2.0)
    torch.testing.assert_close(pool.targets(numbers, 2.0), expected, atol=2e-3, rtol=0)


def test_batches_made_together_are_those_made_one_by_one(tmp_path, monkeypatch):
    *_, pool = made(tmp_path)
    numbers = [7, 0, 19, 3, 3]
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 0)
    alone = list(pool.batches(numbers, 5.0))
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 2 * 25 * 8**2)
    together = list(pool.batches(numbers, 5.0))
    assert len(alone) == len(together) == 5
    for number, one, other in zip(numbers, alone, together, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[0], pool.views.of(torch.tensor([number])))


def test_the_file_has_the_bytes_of_the_storage_table(tmp_path):
    """ImageNet-1K's C, B and k, with fewer label batches: within 1 %."""
    *_, pool = made(tmp_path / "some", 1000, 1, batch_size=128, epochs=10, prune=0.1, top_k=50)
    expected = storage.label_bytes(63 * 128, 50, 1000)
    assert expected <= pool.info["bytes"] <= 1.01 * expected
    *_, pool = made(tmp_path / "all", 1000, 1, batch_size=125, epochs=2, prune=0.0, top_k=1000)
    assert pool.info["bytes"] == pytest.approx(1000 * 2 * 1000 * 2, rel=0.01)  # N * E * C * 2


def test_labels_are_made_in_fp32_whatever_the_precision(tmp_path, monkeypatch):
    *_, teacher, pool = made(tmp_path)
    seen = []
    teacher.model.linear.register_forward_hook(lambda layer, inputs, logits: seen.extend([*inputs, logits]))
    monkeypatch.setattr(common, "PRECISION", "bf16")
    lpqld.label_piece(pool.views, teacher.model, [0], 20)
    assert {x.dtype for x in seen} == {torch.float32}


def test_logits_beyond_fp16_are_refused(tmp_path):
    data, distilled, teacher = made_up(20, 5, 8, tmp_path)
    teacher.model.linear.weight.mul_(1e9)
    labels = lpqld.LabelSettings(batch_size=25, epochs=2, top_k=4, prune=0)
    with pytest.raises(UserError, match="not finite"):
        lpqld.make_pool(data, teacher, distilled, labels, 0, tmp_path / "labels.pt")
    assert list(tmp_path.iterdir()) == []


# --- its pieces, and its stage


def killed_at(monkeypatch, piece):
    """Stop before this piece is labelled; the numbers of those that are."""
    label_piece, labelled = lpqld.label_piece, []

    def label_or_stop(views, teacher, numbers, num_classes):
        if len(labelled) == piece:
            raise Killed
        labelled.append(numbers)
        return label_piece(views, teacher, numbers, num_classes)

    monkeypatch.setattr(lpqld, "label_piece", label_or_stop)
    return labelled


def test_a_pool_killed_between_two_pieces_is_the_pool_of_an_uninterrupted_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lpqld, "LABELS_PER_PIECE", 75)  # three batches a piece, and two in the last
    *_, whole = made(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        first = killed_at(patch, 3)
        made(tmp_path / "killed")
    assert first == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    files = sorted(file.name for file in (tmp_path / "killed").iterdir())
    assert files == ["labels-0-2.pt", "labels-3-5.pt", "labels-6-8.pt"]
    with monkeypatch.context() as patch:
        rest = killed_at(patch, None)
        *_, again = made(tmp_path / "killed")
    assert rest == [[9, 10, 11], [12, 13, 14], [15, 16, 17], [18, 19]]
    assert again.info["digest"] == whole.info["digest"]
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["labels.pt"]


def test_a_damaged_piece_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lpqld, "LABELS_PER_PIECE", 75)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 2)
        made(tmp_path)
    truncated(tmp_path / "labels-3-5.pt")
    with pytest.raises(UserError, match=r"labels-3-5.pt is damaged: delete it, and it is made again"):
        made(tmp_path)


def stage(folder):
    """A stage's pool, and how it is asked for."""
    data, distilled, teacher = made_up(20, 5, 8, folder)
    labels = lpqld.LabelSettings(batch_size=25, epochs=10, prune=0.5, top_k=4)

    def ask(seed=0, **changed):
        return lpqld.label_pool(data, teacher, distilled, replace(labels, **changed), seed)

    return ask


def test_a_pool_is_made_once(tmp_path, monkeypatch):
    ask = stage(tmp_path)
    first = ask()
    (folder,) = tmp_path.glob("labels-made-up-p0.5-k4-*")
    assert Path(first.info["file"]) == folder / "labels.pt"
    with monkeypatch.context() as patch:
        killed_at(patch, 0)
        for name in ("labels-0-5.pt", "labels-0-5.progress.pt", "mine.pt"):
            shutil.copy(folder / "labels.pt", folder / name)
        assert ask().info == first.info
    assert {file.name for file in folder.glob("*.pt")} == {"labels.pt", "mine.pt"}  # pieces alone are deleted
    assert ask(seed=1).info["digest"] != first.info["digest"]


def test_a_pool_of_another_stage_is_refused(tmp_path):
    """Whole files for the same images and the same teacher, put into the folder of other labels by hand."""
    ask = stage(tmp_path)
    folder = Path(ask().info["file"]).parent
    for other in ({"seed": 1}, {"prune": 0.75}, {"top_k": 5}, {"mix": "none"}, {"epochs": 12}):
        shutil.copy(ask(**other).info["file"], folder / "labels.pt")
        with pytest.raises(UserError, match=r"labels.pt was made with other settings: delete it"):
            ask()


# --- pools that do not belong


def test_no_code_runs_from_a_pool(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "evil"), "w")

    data, distilled, teacher = made_up(20, 5, 8, tmp_path)
    torch.save({"settings": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="would run code"):
        lpqld.load_pool(tmp_path / "evil.pt", data, distilled, teacher)
    assert not (tmp_path / "evil").exists()


def test_what_a_pool_is_not_for_is_named(tmp_path):
    data, distilled, teacher, _ = made(tmp_path)

    def refused(match, data=data, distilled=distilled, teacher=teacher):
        with pytest.raises(UserError, match=match) as refusal:
            lpqld.load_pool(tmp_path / "labels.pt", data, distilled, teacher)
        assert "labels.pt does not fit: " in str(refusal.value)

    assert lpqld.load_pool(tmp_path / "labels.pt", data, distilled).values.shape == (20, 25, 4)  # no teacher is needed
    refused("data set is made-up in the pool, other here", data=data._replace(name="other"))
    refused("normalisation", data=data._replace(colours=common.COLOURS["imagenet"]))
    refused("hash of their names", data=data._replace(class_names=data.class_names[::-1]))
    refused("side of the images is 8 in the pool, 16 here", data=data._replace(image_size=16))
    refused("images .hash.", distilled=distilled._replace(info={**distilled.info, "digest": "0"}))
    refused("number of images is 100 in the pool, 50 here", distilled=distilled._replace(images=distilled.images[:50]))
    refused("teacher .hash.", teacher=teacher._replace(info={"digest": "0"}))


def test_pools_that_are_not_whole_are_refused(tmp_path):
    data, distilled, teacher, pool = made(tmp_path)
    file = tmp_path / "labels.pt"
    whole = file.read_bytes()

    def refused(match):
        with pytest.raises(UserError, match=match):
            lpqld.load_pool(file, data, distilled, teacher)

    def altered(match, **changed):
        file.write_bytes(whole)
        kept = torch.load(file, weights_only=True)
        kept["settings"].update(changed.pop("settings", {}))
        torch.save({**kept, **changed}, file)
        refused(match)

    altered("altered", values=pool.values + 1)
    altered("altered", values=pool.values[:-1])
    altered("altered", values=torch.tensor(1.0))
    altered("altered", classes=torch.full((5, 250), 255, dtype=torch.uint8))
    altered("altered", settings={"seed": 1})
    altered("altered", settings={"seed": torch.zeros(2)})
    altered("altered", settings={"epochs": 0})
    altered("altered", digest="12345678")
    altered("something else", settings={"format": "mine"})
    torch.save([1, 2], file)
    refused("something else")
    torch.save({"settings": 3}, file)
    refused("something else")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1  # among the values
    file.write_bytes(flipped)
    refused("altered|whole")
    truncated(file)
    refused("label pool.* .*labels.pt")
    file.unlink()
    refused("there is no file")


@pytest.mark.parametrize(
    "changed, complaint",
    [
        ({"format": "lpqld label pool 1"}, "has the older format 'lpqld label pool 1', which is not read any more"),
        ({"crop": [0.5, 1.0]}, r"crop is \[0.5, 1.0\] in the pool, \[0.08, 1.0\] here"),
    ],
)
def test_a_pool_of_another_version_is_refused(tmp_path, changed, complaint):
    """Its checksum is right; but its format is an older one, or its views were drawn in another way."""
    data, distilled, teacher, pool = made(tmp_path)
    content = {**common.load(tmp_path / "labels.pt"), "settings": {**pool.info["settings"], **changed}}
    del content["digest"]
    common.save(tmp_path / "labels.pt", {**content, "digest": common.digest(content)})
    with pytest.raises(UserError, match=complaint):
        lpqld.load_pool(tmp_path / "labels.pt", data, distilled, teacher)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_pool_made_on_a_cpu_serves_a_gpu(tmp_path):
    """The views that a GPU redraws are those that the CPU labelled."""
    data, distilled, teacher, pool = made(tmp_path)
    there = torch.device("cuda")
    split = Split(data.test.labels, there, pixels=data.test.pixels)
    moved = distilled._replace(images=distilled.images.to(there), labels=distilled.labels.to(there))
    again = lpqld.load_pool(tmp_path / "labels.pt", data._replace(train=split, test=split), moved, teacher)
    numbers = torch.tensor([0, 19])
    views, targets = again.views.of(numbers.to(there)), again.targets(numbers.to(there), 2.0)
    torch.testing.assert_close(views.cpu(), pool.views.of(numbers), atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.cpu(), pool.targets(numbers, 2.0))


# --- training


def test_a_step_is_on_the_alignment_loss(tmp_path):
    _, distilled, student = made_up(20, 5, 8, tmp_path)
    student = student.model.requires_grad_(True)
    images = distilled.images[:10].float() / 255
    targets = F.softmax(torch.randn(10, 20), dim=1)
    before = student(images).detach()
    optimizer = torch.optim.SGD(student.parameters(), 0.01)
    loss, logits = lpqld.training_step(student, optimizer, images, targets, 0.5, factor=4.0)
    assert torch.equal(logits, before)
    torch.testing.assert_close(loss, 4 * lpqld.alignment_loss(before, targets, 0.5))
    assert lpqld.alignment_loss(student(images), targets, 0.5) < loss / 4


def train(pool, data, path, **more):
    training = lpqld.Training(epochs=10, lr=0.01, **more)
    return lpqld.train_student(data, pool, training, "conv3", 0, path)["teacher_and_student_temperatures"]


def test_the_temperatures_of_a_training(tmp_path):
    data, _, _, pool = made(tmp_path)
    history = train(pool, data, tmp_path / "progress.pt")
    assert [t for t, _ in history] == [14.0, 9.8, 6.86, 4.802, 3.3614, 2.353, 2.0, 2.0, 2.0, 2.0]
    taus = [tau for _, tau in history]
    assert taus[0] == 1.0  # before the first calibration
    assert all(0.01 <= tau <= 1 for tau in taus)
    assert len(set(taus)) > 1
    # neither DKR nor CA: both are T_0
    history = train(pool, data, tmp_path / "progress.pt", reuse="none", calibrate=False)
    assert history == [(20.0, 20.0)] * 10
    # DKR without CA: the student's temperature is the labels'
    history = train(pool, data, tmp_path / "progress.pt", calibrate=False)
    assert [tau for _, tau in history] == [t for t, _ in history]
