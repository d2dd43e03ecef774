"""RDED's choice and mosaics on worked examples; SRe2L's statistics, and groups that do not feel each other."""

import pytest
import torch
from torch import nn

import common
import synthesize


def test_rded_takes_the_best_crop_of_each_image_then_the_lowest_losses():
    losses = torch.tensor(
        [
            [0.9, 0.5, 0.7],  # image 0: crop 1
            [0.1, 0.2, 0.3],  # image 1: crop 0, though its other crops beat every other image
            [2.0, 1.5, 0.4],  # image 2: crop 2
            [0.6, 0.6, 3.0],  # image 3: crop 0, the first of the two
        ]
    )
    image, crop = synthesize.select_patches(losses, 3)
    assert image.tolist() == [1, 2, 0] and crop.tolist() == [0, 2, 1]


def test_rded_mosaic_j_holds_ranks_j_and_j_plus_ipc():
    ranks = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)  # ipc 2, factor 2
    images = synthesize.tile_patches(ranks, 2)
    assert images.shape == (2, 3, 4, 4)
    assert images[0, 0, ::2, ::2].tolist() == [[0, 2], [4, 6]]
    assert images[1, 0, ::2, ::2].tolist() == [[1, 3], [5, 7]]
    assert torch.equal(synthesize.tile_patches(ranks, 1), ranks)


def test_rded_scores_are_the_teachers_cross_entropy_on_centred_patches():
    seen = []

    def teacher(images):
        seen.append(images)
        return torch.tensor([[2.0, 0.0]]).expand(len(images), 2)

    patches = torch.full((3, 3, 4, 4), 255.0)
    losses = synthesize.realism_losses(teacher, patches, 1, 8, ((0.5,) * 3, (0.5,) * 3))
    torch.testing.assert_close(losses, torch.full((3,), 2.126928))  # log(1 + e^2)
    assert (seen[0][:, :, 2:6, 2:6] == 1).all() and seen[0].sum() == 3 * 3 * 16  # zeros around


def test_rded_images_are_chosen_by_the_teacher(fashion, small_teacher):
    _, teacher = small_teacher
    images, labels = synthesize.rded(fashion, teacher, ipc=2, factor=1, seed=0)
    assert images.shape == (20, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [c for c in range(10) for _ in range(2)]
    logits = teacher.model(common.normalize(images, fashion.colours))
    assert (logits.argmax(1) == labels).float().mean() > 0.9  # real images reach 0.7 or so with this teacher
    again, _ = synthesize.rded(fashion, teacher, ipc=2, factor=1, seed=0)
    other, _ = synthesize.rded(fashion, teacher, ipc=2, factor=1, seed=1)
    assert torch.equal(images, again) and not torch.equal(images, other)
    mosaics, _ = synthesize.rded(fashion, teacher, ipc=2, factor=2, seed=0)
    assert mosaics.shape == images.shape


def test_random_images_are_training_images_of_the_class(fashion):
    for label in (0, 9):
        picked = synthesize.pick_random(fashion, label, 10, seed=3)
        assert (fashion.train.labels[picked] == label).all() and len(picked.unique()) == 10
    assert not torch.equal(synthesize.pick_random(fashion, 0, 10, 3), synthesize.pick_random(fashion, 0, 10, 4))


def test_bn_distance_by_hand():
    # one group of two images of one channel: values 1, 3 and 5, 7: mean 4, biased variance 5
    x = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    distance = synthesize.bn_distance(x, torch.tensor([1.0]), torch.tensor([1.0]), groups=1)
    torch.testing.assert_close(distance, torch.tensor([3.0 + 4.0]))
    # the same images as two groups, each against its own statistics: means 2 and 6, variances 1 and 1
    means, variances = torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0], [4.0]])
    torch.testing.assert_close(synthesize.bn_distance(x, means, variances, groups=2), torch.tensor([0.0, 2.0 + 3.0]))


def test_bn_distance_is_two_norms_over_channels():
    x = torch.randn(4, 3, 5, 5)
    mean, variance = torch.zeros(3), torch.ones(3)
    own = x.permute(1, 0, 2, 3).flatten(1)
    expected = own.mean(1).norm() + (own.var(1, unbiased=False) - 1).norm()
    torch.testing.assert_close(synthesize.bn_distance(x, mean, variance, 1), expected[None])


@pytest.mark.parametrize("arch", ["conv3", "resnet18_modified"])
def test_groups_recovered_together_are_those_recovered_alone(arch, fashion, tmp_path):
    """Summed group losses, per-group statistics and draws: joint optimisation is one group at a time, up to rounding
    (which Adam turns into whole steps where a gradient is nearly zero)."""
    torch.manual_seed(0)
    teacher = common.build_model(arch, 10, 32, 4).eval().requires_grad_(False)
    layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    statistics = [(layer.running_mean, layer.running_var) for layer in layers]
    setting = synthesize.Recovery(lr=0.1, r_bn=0.05, iterations=3, roll=(-2, 2), crop=True)
    targets = torch.arange(4).expand(3, 4)

    def recover(targets, ids):
        return synthesize.recover(teacher, targets, statistics, setting, fashion, 0, ids, tmp_path / "progress.pt")

    together = recover(targets, [0, 1, 2]).int()
    for group in range(3):
        alone = recover(targets[:1], [group])[0].int()
        assert ((alone - together[group]).abs() <= 1).float().mean() > 0.999
    assert (together[0] - together[1]).abs().float().mean() > 10  # groups differ from each other


def test_recovery_lowers_both_terms(fashion, small_teacher, tmp_path):
    """After a few iterations the images fit the teacher's statistics better than noise, and the teacher names them."""
    _, teacher = small_teacher
    layers = [layer for layer in teacher.model.modules() if isinstance(layer, nn.BatchNorm2d)]
    statistics = [(layer.running_mean, layer.running_var) for layer in layers]
    setting = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=60, roll=(0, 4), crop=False)
    targets = torch.arange(10)[None]
    path = tmp_path / "progress.pt"
    images = synthesize.recover(teacher.model, targets, statistics, setting, fashion, 0, [0], path)
    x = common.normalize(images[0], fashion.colours)
    noise = torch.randn_like(x)
    assert (teacher.model(x).argmax(1) == targets[0]).float().mean() >= 0.8
    first = [synthesize.bn_distance(teacher.model.layers["conv"][0](v), *statistics[0], 1) for v in (x, noise)]
    assert first[0] < first[1] / 2


def recorded_inputs(teacher, x):
    """The input of every BatchNorm layer for images x."""
    taken = []
    layers = synthesize.batchnorms(teacher)
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0])) for layer in layers]
    teacher(x)
    for hook in hooks:
        hook.remove()
    return taken


@pytest.mark.parametrize("arch", ["conv3", "resnet18_modified"])
def test_class_statistics_are_the_exact_ones(arch, tmp_path, monkeypatch):
    """Mean and biased variance over all images and pixels of a class, whatever the batches and their order."""
    torch.manual_seed(0)
    pixels, labels = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8), torch.randint(3, (50,))
    pixels = (pixels * torch.rand(50, 1, 1, 1)).byte()  # images of a class differ in brightness
    split = common.Split(labels, torch.device("cpu"), pixels=pixels)
    data = common.Dataset("made-up", ["a", "b", "c"], 32, common.CIFAR_COLOURS, arch, 4, 1, split, split)
    teacher = common.build_model(arch, 3, 32, 4)
    teacher(common.normalize(pixels, data.colours))  # running statistics that are not 0 and 1
    teacher.eval().requires_grad_(False)
    monkeypatch.setattr(synthesize, "SQUEEZE_BATCH", 7)
    statistics = synthesize.class_statistics(teacher, data, tmp_path / "progress.pt")
    again = synthesize.class_statistics(teacher, data, tmp_path / "progress.pt")
    assert all(torch.equal(a, b) for x, y in zip(statistics, again, strict=True) for a, b in zip(x, y, strict=True))
    for label in range(3):
        inputs = recorded_inputs(teacher, common.normalize(pixels[labels == label], data.colours))
        assert len(inputs) == len(statistics) == (3 if arch == "conv3" else 20)
        for x, (mean, variance) in zip(inputs, statistics, strict=True):
            flat = x.double().transpose(0, 1).flatten(1)
            torch.testing.assert_close(mean[label], flat.mean(1).float(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(variance[label], flat.var(1, correction=0).float(), atol=1e-5, rtol=1e-3)
        x, variance = inputs[0], statistics[0][1][label]
        within = x.double().var((2, 3), correction=0).mean(0)  # what statistics of single images would give
        assert (variance >= within - 1e-6).all() and variance.sum() > 1.05 * within.sum()


@pytest.mark.parametrize("arch", ["conv3", "resnet18_modified"])
def test_classes_recovered_together_are_those_recovered_alone(arch, fashion, tmp_path):
    """LPLD: class-wise batches and statistics, class losses summed: joint is class-by-class optimisation, up to
    rounding (which Adam turns into whole steps where a gradient is nearly zero)."""
    torch.manual_seed(0)
    data = fashion._replace(class_names=fashion.class_names[:3])
    model = common.build_model(arch, 3, 32, 4).eval().requires_grad_(False)
    teacher = common.Teacher(model, {})
    statistics = [
        (torch.randn(3, x.num_features), 2 * torch.rand(3, x.num_features)) for x in synthesize.batchnorms(model)
    ]
    setting = synthesize.Recovery(lr=0.1, r_bn=0.05, iterations=3, roll=(-2, 2), crop=True)
    together, labels = synthesize.lpld(data, teacher, statistics, 3, setting, 0, tmp_path)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for c in range(3):
        own = [(mean[c : c + 1], variance[c : c + 1]) for mean, variance in statistics]
        alone = synthesize.recover(model, torch.full((1, 3), c), own, setting, data, 0, [c], tmp_path / "alone.pt")
        difference = (alone[0].int() - together[labels == c].int()).abs()
        assert (difference <= 1).float().mean() > 0.999
    # and each class has felt its own statistics
    swapped = [(mean.flip(0), variance.flip(0)) for mean, variance in statistics]
    (tmp_path / "groups-0-2.pt").unlink()
    others, _ = synthesize.lpld(data, teacher, swapped, 3, setting, 0, tmp_path)
    assert (others.int() - together.int()).abs().float().mean() > 0.1


def test_chunks_give_what_all_at_once_gives(fashion, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = common.build_model("conv3", 10, 32, 4).eval().requires_grad_(False)
    teacher, setting = common.Teacher(model, {}), synthesize.Recovery(0.1, 0.05, 2, (-2, 2), True)
    statistics = synthesize.class_statistics(model, fashion, tmp_path / "progress.pt")
    together, _ = synthesize.lpld(fashion, teacher, statistics, 2, setting, 0, tmp_path / "a")
    monkeypatch.setattr(synthesize, "bytes_per_image", lambda *_: 2**30 // 4)  # 2 GiB: eight images, four classes
    chunked, _ = synthesize.lpld(fashion, teacher, statistics, 2, setting, 0, tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").glob("*.pt")) == ["groups-0-3.pt", "groups-4-7.pt", "groups-8-9.pt"]
    assert ((chunked.int() - together.int()).abs() <= 1).float().mean() > 0.999


def test_bytes_per_image_is_what_a_forward_keeps():
    """At the least the inputs of three convolutions (3, 8 and 8 channels at 32, 16 and 8 px), and what BatchNorm, ReLU
    and pooling keep of their outputs; independent of how many images there are."""
    model = common.build_model("conv3", 10, 32, 8).eval().requires_grad_(False)
    small = synthesize.bytes_per_image(model, 32, torch.device("cpu"))
    floor = 4 * 8 * (32**2 + 16**2 + 8**2)
    assert floor < small < 8 * floor
    wide = common.build_model("conv3", 10, 32, 16).eval().requires_grad_(False)
    assert synthesize.bytes_per_image(wide, 32, torch.device("cpu")) == pytest.approx(2 * small, rel=0.05)


def test_released_settings():
    cifar, tiny, imagenet = (synthesize.SRE2L[name] for name in ("cifar100", "tinyimagenet", "imagenet-1k"))
    assert (cifar.lr, cifar.r_bn, cifar.iterations, cifar.roll, cifar.crop) == (0.25, 0.01, 1000, (0, 4), False)
    assert (tiny.lr, tiny.r_bn, tiny.iterations, tiny.roll, tiny.crop) == (0.1, 1.0, 4000, (-4, 4), True)
    assert (imagenet.lr, imagenet.r_bn, imagenet.iterations, imagenet.roll) == (0.25, 0.01, 4000, (0, 32))
    assert (synthesize.RDED_IMAGES, synthesize.RDED_CROPS) == (300, 5)
    one, many, tiny = (synthesize.LPLD[name] for name in ("imagenet-1k", "imagenet-21k", "tinyimagenet"))
    assert (one.lr, one.r_bn, one.iterations, one.roll) == (0.25, 0.01, 4000, (0, 32))
    assert (many.lr, many.r_bn, many.iterations, many.roll) == (0.05, 0.25, 2000, (0, 32))
    assert (tiny.lr, tiny.r_bn, tiny.iterations, tiny.roll) == (0.1, 0.05, 4000, (-4, 4))
    assert all(setting.crop and setting.first_bn == 10 for setting in (one, many, tiny))


def test_mean_and_variance_and_their_gradients():
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    avg, var = synthesize.MeanAndVariance.apply(x)
    torch.testing.assert_close((avg, var), (x.mean(1), x.var(1, correction=0)))
    assert torch.autograd.gradcheck(synthesize.MeanAndVariance.apply, (x,))
    far = 1000 + torch.randn(1, 5000, 2)  # no digits cancel
    torch.testing.assert_close(synthesize.MeanAndVariance.apply(far)[1], far.double().var(1, correction=0).float())
