"""LPQLD's formulas on numbers worked by hand, its schedules, its storage to the byte, and the pool's file."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import common
import lpqld
from common import Dataset, Distilled, Split, Teacher, UserError

# --- Q: marginal re-normalization


def test_mr_k_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, -1.0, 5.0, -2.0]])
    values, classes = lpqld.quantize_labels(logits, 2)
    assert values.dtype == torch.float16 and not classes.is_floating_point()
    assert values.tolist() == [[4.0, 3.0], [5.0, 0.0]] and classes.tolist() == [[1, 3], [2, 0]]
    # T = 1: e^4 / (e^4 + e^3) = 1 / (1 + 1 / e); T = 2: 1 / (1 + e^-0.5)
    targets = lpqld.soft_targets(values, classes, 4, 1.0)
    torch.testing.assert_close(targets[0], torch.tensor([0, 0.7310586, 0, 0.2689414]))
    softer = lpqld.soft_targets(values, classes, 4, 2.0)
    torch.testing.assert_close(softer[0], torch.tensor([0, 0.6224593, 0, 0.3775407]))
    assert targets.dtype == torch.float32 and (targets[0, [0, 2]] == 0).all() and (targets[1, [1, 3]] == 0).all()


@pytest.mark.parametrize("num_classes, k", [(10, 3), (200, 20), (1000, 50), (7, 7)])
def test_soft_targets_are_the_softmax_renormalised_over_the_kept_classes(num_classes, k):
    logits = torch.randn(16, num_classes, generator=torch.Generator().manual_seed(0)).half().float() * 4
    targets = lpqld.soft_targets(*lpqld.quantize_labels(logits, k), num_classes, 20.0)
    full = F.softmax(logits / 20, dim=1)
    kept = torch.where(targets > 0, full, 0.0)
    assert ((targets > 0).sum(1) == k).all()
    torch.testing.assert_close(targets, kept / kept.sum(1, keepdim=True))


def test_k_above_c_is_refused():
    with pytest.raises(RuntimeError):
        lpqld.quantize_labels(torch.zeros(2, 4), 5)


@pytest.mark.parametrize("num_classes, bits", [(2, 1), (3, 2), (10, 4), (200, 8), (1000, 10), (10450, 14), (65536, 16)])
def test_class_indices_take_ceil_log2_bits(num_classes, bits):
    assert bits == math.ceil(math.log2(num_classes))
    classes = torch.randint(num_classes, (1001, 3), generator=torch.Generator().manual_seed(1))
    classes[0] = num_classes - 1
    packed = lpqld.pack_classes(classes, num_classes)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(3003 * bits / 8)
    assert torch.equal(lpqld.unpack_classes(packed, 3003, num_classes).view(-1, 3).long(), classes)


def test_packing_by_hand_and_over_the_seam_of_its_parts():
    assert lpqld.pack_classes(torch.tensor([5, 1, 7]), 8).tolist() == [0b10100111, 0b10000000]
    classes = torch.arange(2**20 + 5) % 1000
    packed = lpqld.pack_classes(classes, 1000)
    assert len(packed) == math.ceil(len(classes) * 10 / 8)
    assert torch.equal(lpqld.unpack_classes(packed, len(classes), 1000).long(), classes)


# --- views


def test_a_view_is_redrawn_from_its_seed():
    one, same, other = (lpqld.view_draws(8, 32, "cutmix", True, 3, 7, number) for number in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
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
        assert (hole == hole[0]).all() and sorted(partner.tolist()) == list(range(16))  # one box; a permutation
        top, left, bottom, right = hole[0].tolist()
        assert 0 <= top <= bottom <= 32 and 0 <= left <= right <= 32
        inner = min(top, left) > 0 and max(bottom, right) < 32
        assert not inner or (bottom - top == right - left and (bottom - top) % 2 == 0)
        areas.append((bottom - top) * (right - left) / 32**2)
    # E[1 - lambda] is 1/2 for Beta(1, 1); clipping at the border keeps a good half of it
    assert 0.2 < sum(areas) / len(areas) < 0.4
    assert (
        0.4 < torch.cat([lpqld.view_draws(16, 32, "cutmix", True, 0, n)[:, 4] for n in range(50)]).float().mean() < 0.6
    )


def test_label_view_mixes_images_not_labels():
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    colours = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    draws = lpqld.view_draws(6, 16, "cutmix", True, 11)
    plain = lpqld.label_view(images, draws, "none", colours)
    mixed = lpqld.label_view(images, draws, "cutmix", colours)
    top, left, bottom, right = draws[0, 5:9].tolist()
    assert (bottom - top) * (right - left) > 0
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(mixed[..., inside], plain[draws[:, 9].long()][..., inside])
    assert torch.equal(mixed[..., ~inside], plain[..., ~inside])
    i, (y, x, h, w) = 2, draws[2, :4].tolist()  # the crop is torchvision's
    crop = F.interpolate(
        common.normalize(images, colours)[i : i + 1, :, y : y + h, x : x + w], (16, 16), mode="bilinear", antialias=True
    )
    crop = crop.flip(3) if draws[2, 4] else crop
    torch.testing.assert_close(plain[i], crop[0], atol=1e-5, rtol=1e-4)


def test_cutout_of_imagenet_21k():
    draws = lpqld.view_draws(64, 32, "cutout", False, 5)
    assert not draws[:, 4].any()  # no flip
    height, width = draws[:, 7] - draws[:, 5], draws[:, 8] - draws[:, 6]
    assert height.max() == 16 and width.max() == 16 and height.min() >= 8 and width.min() >= 8  # half a side; clipped
    assert len(draws[:, 5:9].unique(dim=0)) > 50 and len(draws[:, 9:].unique(dim=0)) == 64  # each image its own
    view = lpqld.label_view(torch.zeros(64, 3, 32, 32, dtype=torch.uint8), draws, "cutout", common.RAW_COLOURS)
    top, left = draws[0, 5:7].tolist()
    torch.testing.assert_close(view[0, :, top, left], draws[0, 9:] / 255)
    torch.testing.assert_close((view[0, 0] != 0).sum(), (height[0] * width[0]).long())


# --- P: sizes and storage


@pytest.mark.parametrize(
    "count, batch_size, epochs, prune, batches, per_pass",
    [
        (10_000, 128, 300, 0.9, 2340, 9984),  # ImageNet-1K, IPC 10: 78 batches per epoch, a tenth of 300 epochs
        (10_000, 128, 300, 0.0, 23_700, 10_000),  # all labels: the partial batch is kept
        (104_500, 32, 300, 0.95, 48_975, 104_480),  # ImageNet-21K, IPC 10
        (10_000, 64, 100, 0.975, 390, 9984),  # Tiny-ImageNet, IPC 50
        (100, 20, 300, 0.9, 150, 100),
        (101, 20, 300, 0.0, 1500, 100),  # no batch of one image
    ],
)
def test_pool_size(count, batch_size, epochs, prune, batches, per_pass):
    assert lpqld.pool_size(count, batch_size, epochs, prune) == (batches, per_pass)


def test_storage_at_the_papers_settings():
    full = 10_000 * 300 * 1000 * 2
    assert full / 2**30 == pytest.approx(5.67, rel=0.02)  # published: 5.67 GB, with the boxes
    labels = 2340 * 128
    assert full / lpqld.label_bytes(labels, 50, 1000, class_bits=16) == pytest.approx(100, rel=0.01)  # published: 78
    assert full / lpqld.label_bytes(labels, 50, 1000) == pytest.approx(123, rel=0.01)
    assert lpqld.label_bytes(128, 50, 1000) == 128 * 50 * 2 + 128 * 50 * 10 // 8
    assert lpqld.label_bytes(7, 10, 10) == 7 * 10 * 2  # all logits: no classes needed
    full, labels = 104_500 * 300 * 10_450 * 2, 48_975 * 32
    assert full / lpqld.label_bytes(labels, 200, 10_450, class_bits=16) == pytest.approx(
        520, rel=0.01
    )  # published: 500


def test_label_batches_cover_each_pass_once():
    for per_pass, size in ((100, 20), (103, 20)):
        per_epoch = -(-per_pass // size)
        rows = [lpqld.label_batch_rows(number, per_pass, size) for number in range(3 * per_epoch)]
        assert rows[0].start == 0 and rows[-1].stop == 3 * per_pass
        assert all(a.stop == b.start for a, b in itertools.pairwise(rows))
        assert {row.stop - row.start for row in rows} <= {size, per_pass % size}


# --- DKR and CA


def test_step_schedule():
    expected = {1: 20, 29: 20, 30: 14, 59: 14, 60: 9.8, 90: 6.86, 180: 2.35298, 209: 2.35298, 210: 2, 300: 2}
    assert {e: pytest.approx(lpqld.reuse_temperature(e)) for e in expected} == expected
    assert lpqld.label_temperature(30, 300, "step") == 14 and lpqld.label_temperature(300, 300, "none") == 20
    assert lpqld.label_temperature(9, 100, "step") == 20 and lpqld.label_temperature(10, 100, "step") == 14


def test_cosine_schedule():
    assert lpqld.cosine_reuse_temperature(300, 300) == pytest.approx(2)
    assert lpqld.cosine_reuse_temperature(150, 300) == pytest.approx(11)
    assert lpqld.cosine_reuse_temperature(100, 300) == pytest.approx(15.5)  # cos(pi / 3) = 1/2
    assert lpqld.label_temperature(150, 300, "cosine") == pytest.approx(11)


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


def test_alignment_loss_by_hand_has_no_factor_t_squared():
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # softmax([1, 0]) = 0.7310586, 0.2689414
    first = 0.5 * math.log(0.5 / 0.7310586) + 0.5 * math.log(0.5 / 0.2689414)
    assert lpqld.alignment_loss(logits, targets, 2.0).item() == pytest.approx((first + math.log(2)) / 2)


def test_label_smoothing_of_imagenet_21k_is_a_temperature():
    logits, s = torch.randn(4, 200), lpqld.PROTOCOLS["imagenet-21k"].smoothing
    released = F.softmax(((1 - s) * logits + s / 200) / 14, dim=1)
    torch.testing.assert_close(released, F.softmax(logits / (14 / (1 - s)), dim=1))
    assert s == 0.2


def test_an_epoch_draws_without_replacement_and_full_labels_go_in_order():
    drawn = lpqld.draw_label_batches(150, 5, 3, 300, 0.9, seed=0)
    assert len(set(drawn)) == 5 and max(drawn) < 150
    assert drawn == lpqld.draw_label_batches(150, 5, 3, 300, 0.9, 0) != lpqld.draw_label_batches(150, 5, 4, 300, 0.9, 0)
    assert sorted(lpqld.draw_label_batches(5, 5, 0, 300, 0.9, 0)) == list(range(5))
    assert lpqld.draw_label_batches(150, 5, 0, 10, 0.9, 0) != list(
        range(5)
    )  # a pruned pool for fewer epochs: at random
    whole = [number for epoch in range(4) for number in lpqld.draw_label_batches(20, 5, epoch, 4, 0.0, 0)]
    assert whole == list(range(20))


# --- protocol


def test_learning_rates():
    assert lpqld.learning_rate_factor(0, 300) == 1 and lpqld.learning_rate_factor(150, 300) == pytest.approx(0.5)
    assert 0 < lpqld.learning_rate_factor(299, 300) < 1e-4
    tiny = [lpqld.learning_rate_factor(epoch, 100, 5) for epoch in (0, 1, 5, 52, 99)]
    assert tiny[:3] == pytest.approx([0.01, 0.208, 1.0]) and tiny[4] < 1e-3


def test_protocols_are_the_released_ones():
    one, many, tiny = (lpqld.PROTOCOLS[name] for name in ("imagenet-1k", "imagenet-21k", "tinyimagenet"))
    assert (one.epochs, one.batch_size, one.lr, one.weight_decay, one.mix, one.flip) == (
        300,
        128,
        1e-3,
        0.01,
        "cutmix",
        1,
    )
    assert (one.prune, one.top_k, one.reuse, one.calibrate, one.smoothing, one.squared) == (
        0.9,
        50,
        "step",
        True,
        0,
        False,
    )
    assert (many.batch_size, many.lr, many.mix, many.flip, many.prune, many.top_k) == (
        32,
        2e-3,
        "cutout",
        False,
        0.95,
        200,
    )
    assert (tiny.epochs, tiny.batch_size, tiny.optimizer, tiny.lr, tiny.weight_decay) == (100, 64, "sgd", 0.2, 1e-4)
    assert (tiny.warmup, tiny.squared, tiny.mix) == (5, True, "none")
    assert (lpqld.INITIAL, lpqld.GAMMA, lpqld.STEP, lpqld.MINIMUM) == (20, 0.7, 30, 2)


def test_weight_decay_is_on_weights_with_more_than_one_dimension():
    student = common.build_model("conv3", 10, 32, 8)
    for kind in ("adamw", "sgd"):
        optimizer = lpqld.make_optimizer(student, {"optimizer": kind, "lr": 0.1, "weight_decay": 0.01})
        decayed, free = optimizer.param_groups
        assert {p.dim() for p in decayed["params"]} == {2, 4} and {p.dim() for p in free["params"]} == {1}
        assert decayed["weight_decay"] == 0.01 and free["weight_decay"] == 0
        assert len(decayed["params"]) + len(free["params"]) == len(list(student.parameters()))


def test_within_class_similarity_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0], [5.0, 0.0]])
    # class 0: cos 0, 1/sqrt 2, 1/sqrt 2; class 1: cos 1; pairs of both classes count alike
    expected = (2 / math.sqrt(2) + 1) / 4
    assert lpqld.within_class_similarity(features, torch.tensor([0, 0, 0, 1, 1])) == pytest.approx(expected)
    assert lpqld.within_class_similarity(features, torch.arange(5)) is None


def test_features_are_what_the_last_linear_layer_is_given():
    model = common.build_model("conv3", 10, 32, 8).eval()
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    features = lpqld.teacher_features(model, images, common.CIFAR_COLOURS)
    torch.testing.assert_close(model.classifier(features), model(common.normalize(images, common.CIFAR_COLOURS)))


# --- the pool's file


class LinearTeacher(nn.Module):
    def __init__(self, num_classes, side):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * side * side, num_classes)

    def forward(self, x):
        return self.linear(x.flatten(1))


def made_up(num_classes, ipc, side):
    """A data set, a distilled set and a teacher of any size."""
    images = torch.randint(256, (num_classes * ipc, 3, side, side), dtype=torch.uint8)
    labels = torch.arange(num_classes).repeat_interleave(ipc)
    split = Split(labels, torch.device("cpu"), pixels=images)
    names = [f"class {c}" for c in range(num_classes)]
    data = Dataset("made-up", names, side, common.CIFAR_COLOURS, "conv3", 8, 1, split, split)
    info = {"digest": common.digest({"images": images}), "folder": "made-up", "ipc": ipc}
    model = LinearTeacher(num_classes, side).eval().requires_grad_(False)
    teacher = Teacher(model, {"digest": common.digest(model.state_dict())})
    return data, Distilled(images, labels, info), teacher


def make(tmp_path, num_classes=20, ipc=5, side=8, name="labels.pt", **more):
    data, distilled, teacher = made_up(num_classes, ipc, side)
    protocol = lpqld.Protocol(**{"batch_size": 25, "epochs": 10, "prune": 0.5, "top_k": 4, **more})
    settings = lpqld.pool_settings(protocol, data, distilled, teacher, 0)
    lpqld.make_pool(distilled, teacher, data, settings, tmp_path / name)
    return data, distilled, teacher, lpqld.load_pool(tmp_path / name, data, distilled, teacher)


def test_file_size_is_the_formula_of_the_storage_table(tmp_path):
    """ImageNet-1K's C, B and k, with fewer label batches: within 1 %."""
    *_, pool = make(tmp_path, 1000, 1, batch_size=128, epochs=10, prune=0.1, top_k=50)
    labels = len(pool.order)
    assert labels == 63 * 128
    expected = lpqld.label_bytes(labels, 50, 1000)
    assert expected <= pool.info["bytes"] <= 1.01 * expected
    *_, pool = make(tmp_path, 1000, 1, batch_size=128, epochs=2, prune=0.0, top_k=1000)
    assert pool.info["bytes"] == pytest.approx(1000 * 2 * 1000 * 2, rel=0.01)  # N * E * C * 2


@pytest.mark.parametrize("mix", lpqld.MIXES)
@pytest.mark.parametrize("top_k", [4, 20])
def test_the_pool_holds_the_teachers_logits_of_the_redrawn_views(tmp_path, mix, top_k):
    data, distilled, teacher, pool = make(tmp_path, top_k=top_k, mix=mix)
    assert pool.settings["batches"] == 20 and pool.per_epoch == 4
    for number in (0, 7, 19):
        logits = teacher.model(pool.view([number], distilled.images, data.colours))
        values, classes = lpqld.quantize_labels(logits.half().float(), 4)
        whole = F.softmax(logits.half().float() / 2, dim=1)
        expected = lpqld.soft_targets(values, classes, 20, 2.0) if top_k == 4 else whole
        torch.testing.assert_close(pool.targets([number], 2.0), expected, atol=2e-3, rtol=0)
    for start in range(0, len(pool.order), 100):  # each pass shows each image once
        assert pool.order[start : start + 100].sort().values.tolist() == list(range(100))


def test_a_pool_from_other_torch_objects_is_loaded_without_running_code(tmp_path):
    data, distilled, teacher, _ = make(tmp_path)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    torch.save({"settings": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="would run code"):
        lpqld.load_pool(tmp_path / "evil.pt", data, distilled, teacher)
    assert not (tmp_path / "evil").exists()


def test_pools_that_do_not_belong_are_refused(tmp_path):
    data, distilled, teacher, pool = make(tmp_path)
    file = tmp_path / "labels.pt"

    def refused(match, data=data, distilled=distilled, teacher=teacher, file=file):
        with pytest.raises(UserError, match=match):
            lpqld.load_pool(file, data, distilled, teacher)

    assert lpqld.load_pool(file, data, distilled).values.shape == (500, 4)  # no teacher is needed
    refused("another data set: made-up, here other", data=data._replace(name="other"))
    refused("normalisation", data=data._replace(colours=common.IMAGENET_COLOURS))
    refused("hash of their names", data=data._replace(class_names=data.class_names[::-1]))
    refused("side", data=data._replace(image_size=16))
    refused("images .hash.", distilled=distilled._replace(info={**distilled.info, "digest": "0"}))
    refused("number of images", distilled=distilled._replace(images=distilled.images[:50]))
    refused("teacher", teacher=teacher._replace(info={"digest": "0"}))

    def altered(match, seal=True, **changes):
        kept = torch.load(file, weights_only=True)
        kept["settings"].update(changes.pop("settings", {}))
        kept.update(changes)
        if seal:  # by somebody who knows the checksum
            kept["digest"] = lpqld.pool_digest(kept)
        torch.save(kept, tmp_path / "altered.pt")
        refused(match, file=tmp_path / "altered.pt")

    altered("altered", seal=False, values=pool.values + 1)
    altered("altered", seal=False, settings={"seed": 1})
    altered("views, redrawn here", settings={"seed": 1})  # the fingerprint of a view
    altered("not drawn here", settings={"view": {"crop": [0.5, 1.0], "flip": True, "mix": "cutmix"}})
    altered("does not hold", settings={"batches": 10**12})
    altered("does not hold", settings={"batches": "many"})
    altered("does not hold", settings={"batches": 3})
    altered("does not hold", settings={"epochs": 0})
    altered("does not hold", settings={"prune": 1.0})
    altered("does not hold", values=torch.tensor(1.0))
    altered("does not hold", values=pool.values[:-1])
    altered("does not hold", values=pool.values.float())
    altered("class 31", classes=torch.full((500 * 4 * 5 // 8,), 255, dtype=torch.uint8))
    altered("something else", seal=False, values=3)
    altered("altered", seal=False, settings={"seed": torch.zeros(2)})
    altered("views, redrawn here", sketch=torch.zeros(3))
    whole = file.read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    refused("truncated", file=tmp_path / "short.pt")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1  # among the values
    (tmp_path / "flipped.pt").write_bytes(flipped)
    refused("altered|whole", file=tmp_path / "flipped.pt")


def test_logits_beyond_fp16_are_refused(tmp_path):
    data, distilled, teacher = made_up(20, 5, 8)
    teacher.model.linear.weight.mul_(1e9)
    settings = lpqld.pool_settings(
        lpqld.Protocol(batch_size=25, epochs=2, top_k=4, prune=0), data, distilled, teacher, 0
    )
    with pytest.raises(UserError, match="not finite"):
        lpqld.make_pool(distilled, teacher, data, settings, tmp_path / "labels.pt")
    assert not list(tmp_path.glob("labels.pt"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_pool_made_on_a_cpu_serves_a_gpu(tmp_path):
    """The views that a GPU redraws are those that the CPU labelled, and the fingerprint says so."""
    data, distilled, teacher, pool = make(tmp_path)
    there = torch.device("cuda")
    split = Split(data.test.labels, there, pixels=data.test.pixels)
    moved = distilled._replace(images=distilled.images.to(there), labels=distilled.labels.to(there))
    again = lpqld.load_pool(tmp_path / "labels.pt", data._replace(train=split, test=split), moved, teacher)
    for number in (0, 19):
        view = pool.view([number], distilled.images, data.colours)
        torch.testing.assert_close(again.view(number, moved.images, data.colours).cpu(), view, atol=1e-4, rtol=0)
        torch.testing.assert_close(again.targets([number], 2.0).cpu(), pool.targets([number], 2.0))


def test_the_views_of_many_label_batches_at_once_are_those_of_each():
    """More labels than int16 counts to: a partner's number within the group must not wrap around."""
    settings = {"count": 40, "batch_size": 20, "batches": 1700, "images_per_pass": 40, "image_size": 8, "seed": 0,
                "view": lpqld.view_recipe("cutmix", True)}  # fmt: skip
    order, draws = lpqld.draw_views(settings)
    pool = lpqld.LabelPool(settings, torch.empty(0), None, order, draws, {})
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    together = pool.view(list(range(1700)), images, common.CIFAR_COLOURS)
    for number in (0, 1, 900, 1699):
        alone = pool.view([number], images, common.CIFAR_COLOURS)
        assert torch.equal(together[20 * number : 20 * number + 20], alone)
    assert draws.dtype == torch.int16 and torch.equal(draws, lpqld.draw_views(settings)[1])  # nothing added to it
