"""RDED's choice and mosaics on worked examples; SRe2L's statistics, and groups that do not feel each other; distilled
sets as they are found."""

import math
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from helpers import image_folder, made_up, picture, truncated, write_numbered
from PIL import Image

import common
import evaluate
import gift
import lpqld
import synthesize
from common import Dataset, Split, Teacher, UserError
from synthesize import Recovery

# --- random images and RDED


def test_random_images_are_training_images_of_the_class(fashion):
    for label in (0, 9):
        picked = synthesize.pick_random(fashion, label, 10, seed=3)
        assert (fashion.train.labels[picked] == label).all()
        assert len(picked.unique()) == 10
    assert not torch.equal(synthesize.pick_random(fashion, 0, 10, 3), synthesize.pick_random(fashion, 0, 10, 4))


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
    assert image.tolist() == [1, 2, 0]
    assert crop.tolist() == [0, 2, 1]


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
    assert (seen[0][:, :, 2:6, 2:6] == 1).all()
    assert seen[0].sum() == 3 * 3 * 16  # zeros around


def test_rded_images_are_chosen_by_the_teacher(fashion, small_teacher):
    _, teacher = small_teacher
    few = fashion._replace(class_names=fashion.class_names[:4])
    images = synthesize.rded(few, teacher, [0, 1, 2, 3], ipc=5, factor=1, seed=0)
    assert images.shape == (20, 3, 32, 32)
    assert images.dtype == torch.uint8
    labels = torch.arange(4).repeat_interleave(5)
    logits = teacher.model(common.normalize(images, fashion.colours))
    assert (logits.argmax(1) == labels).float().mean() > 0.9  # real images reach 0.7 or so with this teacher


@pytest.mark.slow
def test_rded_images_follow_from_the_seed(fashion, small_teacher):
    few = fashion._replace(class_names=fashion.class_names[:2])
    rded = partial(synthesize.rded, few, small_teacher[1], ipc=2)
    images = rded([0, 1], factor=1, seed=0)
    again = [rded([label], factor=1, seed=0) for label in (0, 1)]  # a class does not feel the others
    other = rded([0, 1], factor=1, seed=1)
    mosaics = rded([0, 1], factor=2, seed=0)
    assert torch.equal(images, torch.cat(again))
    assert not torch.equal(images, other)
    assert mosaics.shape == images.shape


# --- statistics


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
    own = x.permute(1, 0, 2, 3).flatten(1)
    expected = own.mean(1).norm() + (own.var(1, unbiased=False) - 1).norm()
    torch.testing.assert_close(synthesize.bn_distance(x, torch.zeros(3), torch.ones(3), 1), expected[None])


def test_mean_and_variance_and_their_gradients():
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    avg, var = synthesize.MeanAndVariance.apply(x)
    torch.testing.assert_close((avg, var), (x.mean(1), x.var(1, correction=0)))
    assert torch.autograd.gradcheck(synthesize.MeanAndVariance.apply, (x,))
    far = 1000 + torch.randn(1, 5000, 2)  # no digits cancel
    torch.testing.assert_close(synthesize.MeanAndVariance.apply(far)[1], far.double().var(1, correction=0).float())


def recorded_inputs(teacher, x):
    """The input of every BatchNorm layer for images x."""
    taken = []
    layers = synthesize.batchnorms(teacher)
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0])) for layer in layers]
    teacher(x)
    for hook in hooks:
        hook.remove()
    return taken


WITH_RESNET = pytest.mark.parametrize("arch", ["conv3", pytest.param("resnet18_modified", marks=pytest.mark.slow)])


@WITH_RESNET
def test_class_statistics_are_the_exact_ones(arch, tmp_path, monkeypatch):
    """Mean and biased variance over all images and pixels of a class, whatever the batches and their order."""
    torch.manual_seed(0)
    pixels, labels = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8), torch.randint(3, (50,))
    pixels = (pixels * torch.rand(50, 1, 1, 1)).byte()  # images of a class differ in brightness
    split = Split(labels, torch.device("cpu"), pixels=pixels)
    data = Dataset("made-up", ["a", "b", "c"], 32, common.COLOURS["cifar"], arch, 4, 1, split, split, tmp_path)
    teacher = common.build_model(arch, 3, 32, 4)
    teacher(common.normalize(pixels, data.colours))  # running statistics that are not 0 and 1
    teacher.eval().requires_grad_(False)
    monkeypatch.setattr(synthesize, "SQUEEZE_BATCH", 7)
    statistics = synthesize.squeeze(data, Teacher(teacher, {"arch": arch, "digest": "of a test"}))
    for label in range(3):
        inputs = recorded_inputs(teacher, common.normalize(pixels[labels == label], data.colours))
        assert len(inputs) == len(statistics) == (3 if arch == "conv3" else 20)
        for x, (mean, variance) in zip(inputs, statistics, strict=True):
            flat = x.double().transpose(0, 1).flatten(1)
            torch.testing.assert_close(mean[label], flat.mean(1).float(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(variance[label], flat.var(1, correction=0).float(), atol=1e-5, rtol=1e-3)
        variance = statistics[0][1][label]
        within = inputs[0].double().var((2, 3), correction=0).mean(0)  # what statistics of single images would give
        assert (variance >= within - 1e-6).all()
        assert variance.sum() > 1.05 * within.sum()


# --- recovery


def running_statistics(teacher):
    return [(layer.running_mean, layer.running_var) for layer in synthesize.batchnorms(teacher)]


def untrained(arch, num_classes=10):
    torch.manual_seed(0)
    return common.build_model(arch, num_classes, 32, 4).eval().requires_grad_(False)


def nearly_equal(one, other):
    """Up to rounding, which Adam turns into whole steps where a gradient is nearly zero."""
    return ((one.int() - other.int()).abs() <= 1).float().mean() > 0.999


@WITH_RESNET
def test_groups_recovered_together_are_those_recovered_alone(arch, fashion, tmp_path):
    """Summed group losses, per-group statistics and draws: joint optimisation is one group at a time."""
    teacher = untrained(arch)
    setting = Recovery(lr=0.1, r_bn=0.05, iterations=3, roll=(-2, 2), crop=True)
    targets = torch.arange(4).expand(3, 4)

    def recover(targets, ids):
        statistics = running_statistics(teacher)
        return synthesize.recover(teacher, targets, statistics, ids, setting, fashion, 0, tmp_path / "progress.pt")

    together = recover(targets, [0, 1, 2])
    for group in range(3):
        assert nearly_equal(recover(targets[:1], [group]), together[4 * group : 4 * group + 4])
    assert (together[:4].int() - together[4:8].int()).abs().float().mean() > 10  # groups differ from each other


@WITH_RESNET
def test_classes_recovered_together_are_those_recovered_alone(arch, fashion, tmp_path):
    """LPLD: class-wise batches and statistics, class losses summed: joint is class-by-class optimisation."""
    data = fashion._replace(class_names=fashion.class_names[:3])
    model = untrained(arch, 3)
    widths = [layer.num_features for layer in synthesize.batchnorms(model)]
    statistics = [(torch.randn(3, width), 2 * torch.rand(3, width)) for width in widths]
    setting = Recovery(lr=0.1, r_bn=0.05, iterations=3, roll=(-2, 2), crop=True)
    ((ids, targets, given),) = synthesize.lpld_groups(data, statistics, 3)
    labels = targets.flatten()
    assert (ids, given) == ([0, 1, 2], statistics)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    def recover(ids, targets, statistics):
        return synthesize.recover(model, targets, statistics, ids, setting, data, 0, tmp_path / "progress.pt")

    together = recover(ids, targets, statistics)
    for c in range(3):
        own = [(mean[c : c + 1], variance[c : c + 1]) for mean, variance in statistics]
        assert nearly_equal(recover([c], targets[c : c + 1], own), together[labels == c])
    # and each class has felt its own statistics
    swapped = [(mean.flip(0), variance.flip(0)) for mean, variance in statistics]
    others = recover(ids, targets, swapped)
    assert (others.int() - together.int()).abs().float().mean() > 0.1


@pytest.mark.slow
def test_recovery_lowers_both_terms(fashion, small_teacher, tmp_path):
    """After a few iterations the images fit the teacher's statistics better than noise, and the teacher names them."""
    model = small_teacher[1].model
    setting = Recovery(lr=0.25, r_bn=0.01, iterations=150, roll=(0, 4), crop=False)
    targets, statistics = torch.arange(10)[None], running_statistics(model)
    images = synthesize.recover(model, targets, statistics, [0], setting, fashion, 0, tmp_path / "progress.pt")
    x = common.normalize(images, fashion.colours)
    assert (model(x).argmax(1) == torch.arange(10)).float().mean() >= 0.8

    def first_distance(x):
        return synthesize.bn_distance(model.layers["conv"][0](x), *statistics[0], 1)

    assert first_distance(x) < first_distance(torch.randn_like(x)) / 2


def names_of_pieces(method, data, teacher, ipc) -> list[str]:
    return list(synthesize.pieces_of(method, data, teacher, ipc, 1, 0))


def test_pieces_are_cut_by_the_work(fashion, small_teacher, tmp_path, monkeypatch):
    """As many groups as fit into memory; and no fewer than eight pieces where there are eight groups."""
    data, teacher = fashion._replace(runs=tmp_path), small_teacher[1]
    eight = ["0-1", "2-3", "4-4", "5-5", "6-6", "7-7", "8-8", "9-9"]
    assert names_of_pieces("rded", data, teacher, 2) == [f"classes-{part}" for part in eight]
    assert names_of_pieces("lpld", data, teacher, 2) == [f"groups-{part}" for part in eight]
    assert names_of_pieces("sre2l", data, teacher, 3) == ["groups-0-0", "groups-1-1", "groups-2-2"]
    monkeypatch.setattr(synthesize, "bytes_per_image", lambda *_: 2**30 // 2)  # 2 GiB: four images, two groups
    monkeypatch.setattr(common, "PIECES", 1)
    assert names_of_pieces("lpld", data, teacher, 2) == [
        "groups-0-1",
        "groups-2-3",
        "groups-4-5",
        "groups-6-7",
        "groups-8-9",
    ]


def test_a_set_is_that_of_its_pieces(fashion, small_teacher, tmp_path, monkeypatch):
    """SRe2L's batches hold one image of each of up to 100 classes (here 4); the set is sorted by class."""
    monkeypatch.setattr(synthesize, "SRE2L_CLASSES", 4)
    monkeypatch.setitem(synthesize.SRE2L, "fashion", Recovery(0.1, 0.01, 1, (0, 4), False))
    data, teacher = fashion._replace(runs=tmp_path), small_teacher[1]
    distilled = synthesize.distil("sre2l", data, teacher, 2)
    assert distilled.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert len(distilled.images.flatten(1).unique(dim=0)) == 20
    pieces = synthesize.pieces_of("sre2l", data, teacher, 2, 1, 0)
    assert list(pieces) == [f"groups-{number}-{number}" for number in range(6)]
    labels, make = pieces["groups-3-3"]
    assert labels.tolist() == [4, 5, 6, 7]
    assert torch.equal(make(tmp_path / "progress.pt"), distilled.images[9:16:2])  # the second of each
    (folder,) = tmp_path.glob("sre2l-ipc2-*")
    written = {f"{c:05d}/{i:05d}.png" for c in range(10) for i in range(2)} | {"grid.png", "set.json", "settings.json"}
    assert {str(file.relative_to(folder)) for file in folder.rglob("*.*")} == written  # and no pieces


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
    tables = synthesize.SRE2L, synthesize.LPLD
    sre2l, lpld = ({name: (s.lr, s.r_bn, s.iterations, s.roll, s.crop) for name, s in t.items()} for t in tables)
    assert sre2l["cifar100"] == (0.25, 0.01, 1000, (0, 4), False)
    assert sre2l["tinyimagenet"] == (0.1, 1.0, 4000, (-4, 4), True)
    assert sre2l["imagenet-1k"] == (0.25, 0.01, 4000, (0, 32), True)
    assert lpld == {
        "tinyimagenet": (0.1, 0.05, 4000, (-4, 4), True),
        "imagenet-1k": (0.25, 0.01, 4000, (0, 32), True),
        "imagenet-21k": (0.05, 0.25, 2000, (0, 32), True),
    }
    assert {setting.first_bn for table in tables for setting in table.values()} == {10}
    assert (synthesize.RDED_IMAGES, synthesize.RDED_CROPS) == (300, 5)


# --- how little the images of a class differ


def test_within_class_similarity_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0], [5.0, 0.0]])
    # class 0: cos 0, 1/sqrt 2, 1/sqrt 2; class 1: cos 1; pairs of both classes count alike
    expected = (2 / math.sqrt(2) + 1) / 4
    similarity = synthesize.within_class_similarity(features, torch.tensor([0, 0, 0, 1, 1]))
    assert similarity == pytest.approx(expected)
    assert synthesize.within_class_similarity(features, torch.arange(5)) is None


def test_features_are_what_the_last_linear_layer_is_given():
    model = common.build_model("conv3", 10, 32, 8).eval()
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    features = synthesize.teacher_features(model, images, common.COLOURS["cifar"])
    logits = model(common.normalize(images, common.COLOURS["cifar"]))
    torch.testing.assert_close(model.classifier(features), logits)


# --- distilled sets as they are found


@pytest.mark.parametrize(
    "name",
    [
        "{c:05d}/{i:05d}.png",  # ours
        "{c:05d}/class{c:05d}_id{i:05d}.png",  # RDED
        "new{c:03d}/class{c:03d}_id{i:03d}.png",  # SRe2L, LPLD
        "{c}/{i}.png",
        "Class{c}/{i}.jpg",
        "class {c}/{i}.png",
        "class-{c}/{i}.png",
        "class_{c}/{i}.png",
        "c{c}/{i}.PNG",
    ],
)
def test_folders_in_the_wild(tmp_path, fashion, name):
    distilled = synthesize.load_distilled(write_numbered(tmp_path, name), fashion)
    assert distilled.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert distilled.info["ipc"] == 2
    assert distilled.images[:, 0, 0, 0].tolist() == [20 * c + i for c in range(10) for i in range(2)]


def test_images_sort_by_number_not_by_name(tmp_path, fashion):
    write_numbered(tmp_path, "{c}/{i}.png", ipc=11)  # 10.png sorts before 2.png
    distilled = synthesize.load_distilled(tmp_path, fashion)
    assert distilled.images[:11, 0, 0, 0].tolist() == list(range(11))


@pytest.mark.slow
def test_folders_sort_by_number_not_by_name(tmp_path, fashion):
    wide = fashion._replace(class_names=[f"c{i}" for i in range(1002)], image_size=4)
    for c in range(1002):
        picture(tmp_path / f"new{c:03d}" / f"class{c:03d}_id000.png", 4, shade=c % 251)  # new1000 sorts before new101
    distilled = synthesize.load_distilled(tmp_path, wide)
    assert distilled.images[:, 0, 0, 0].tolist() == [c % 251 for c in range(1002)]


def test_folders_named_as_the_classes(tmp_path, fashion):
    names = fashion._replace(class_names=["dog", "ant"])
    for name, shade in (("ant", 1), ("dog", 2)):
        picture(tmp_path / name / "0.png", shade=shade)
    distilled = synthesize.load_distilled(tmp_path, names)
    assert distilled.images[:, 0, 0, 0].tolist() == [2, 1]
    assert distilled.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", [str(10**19), "-1", "1e3", "class", "new", "class9b", "tree"])
def test_folders_that_are_no_class_are_refused(tmp_path, fashion, name):
    (write_numbered(tmp_path) / "00009").rename(tmp_path / name)
    with pytest.raises(UserError, match=f"folder {name} is neither numbered nor a class of the data set"):
        synthesize.load_distilled(tmp_path, fashion)


def test_what_programs_leave_is_ignored(tmp_path, fashion, capsys, monkeypatch):
    write_numbered(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        assert len(synthesize.load_distilled(path, fashion).images) == 20
    assert "hint" not in capsys.readouterr().out
    (tmp_path / "logs" / "empty").mkdir(parents=True)
    left = (".ipynb_checkpoints/0.png", "__MACOSX/00003/0.png", "00003/._00000.png", "._7.png")
    for name in left:
        picture(tmp_path / name)
    (tmp_path / "logs" / "train.txt").write_text("done")
    distilled = synthesize.load_distilled(tmp_path, fashion)
    assert distilled.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert f"hint:     3 files in {tmp_path} are not read, for example " in capsys.readouterr().out


def test_a_fifo_among_the_images_is_refused(tmp_path, fashion):
    write_numbered(tmp_path)
    (tmp_path / "00003" / "00001.png").unlink()
    os.mkfifo(tmp_path / "00003" / "00001.png")
    with pytest.raises(UserError, match=r"00001.png is no file"):
        synthesize.load_distilled(tmp_path, fashion)


# --- data.pt


def in_data_pt(path, **changed):
    labels = torch.arange(20) % 10
    torch.save({"dataset": "fashion", "data": torch.rand(20, 3, 32, 32), "label": labels, **changed}, path)
    return path


LABELS = torch.arange(20) % 10
SOFT = torch.eye(10)[LABELS]
LABEL_FORMS = {
    "numbers": LABELS,
    "a column": LABELS[:, None],
    "floats": LABELS.float(),
    "bytes": LABELS.to(torch.uint8),
    "uint16": LABELS.to(torch.uint16),
    "a list": LABELS.tolist(),
    "soft labels": SOFT * 3 - 1,  # DATM's, which crash the released code
    "one-hot": SOFT.bool(),
    "a list of soft labels": SOFT.tolist(),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_gifts_data_pt(tmp_path, fashion, form):
    images = torch.rand(20, 3, 32, 32)
    in_data_pt(tmp_path / "data.pt", data=images, label=LABEL_FORMS[form])
    for path in (tmp_path, tmp_path / "data.pt"):
        distilled = synthesize.load_distilled(path, fashion)
        assert torch.equal(distilled.images, images)
        assert torch.equal(distilled.labels, LABELS)


@pytest.mark.parametrize("name", ["FashionMNIST", "Fashion-MNIST", "fashion", "mine", None])
def test_data_sets_by_the_names_of_others(tmp_path, fashion, name):
    """Fashion-MNIST is the data set that `fashion` is a part of. A name that is not known says nothing."""
    assert len(synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", dataset=name), fashion).images) == 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_pixels_of_another_precision_become_fp32(tmp_path, fashion, dtype):
    images = torch.rand(20, 3, 32, 32).to(dtype)
    distilled = synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", data=images), fashion)
    assert distilled.images.dtype == torch.float32
    assert torch.equal(distilled.images, images.float())


def test_pixels_may_be_bytes(tmp_path, fashion):
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    distilled = synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", data=images), fashion)
    assert torch.equal(distilled.images, images)


def test_optimised_pixels_may_lie_a_little_outside(tmp_path, fashion, capsys):
    images = torch.rand(20, 3, 32, 32) * 1.25 - 0.125
    distilled = synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", data=images), fashion)
    assert torch.equal(distilled.images, images)
    hint = re.search(r"hint: +(.+)% of the pixels of .*data.pt lie outside \[0, 1\]", capsys.readouterr().out)
    assert float(hint[1]) == pytest.approx(20, abs=1)
    synthesize.save_grid(tmp_path / "grid.png", distilled.images, distilled.labels)
    synthesize.save_grid(tmp_path / "within.png", images.clamp(0, 1), distilled.labels)
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "within.png").read_bytes()


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_pixels_normalised_with_the_files_own_colours(tmp_path, fashion, kind, capsys, recwarn):
    images = torch.rand(20, 3, 32, 32) * 3 - 1  # also far outside
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    normalised = common.normalize(images, (mean, std))
    file = in_data_pt(tmp_path / "data.pt", data=normalised, mean=kind(mean), std=kind(std))
    torch.testing.assert_close(synthesize.load_distilled(file, fashion).images, images)
    assert "lie outside [0, 1]; they are taken as they are" in capsys.readouterr().out
    assert not recwarn.list
    with pytest.raises(UserError, match="if they are normalised, the file must hold 'mean' and 'std'"):
        synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", data=normalised), fashion)


def test_pixels_that_ask_for_gradients_are_plain(tmp_path, fashion):
    """As a method saves them that has learned them."""
    images = torch.rand(20, 3, 32, 32, requires_grad=True)
    distilled = synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", data=images), fashion)
    assert not distilled.images.requires_grad


def quantized(x):
    return torch.quantize_per_tensor(x, 1 / 255, 0, torch.quint8)


PIXELS = torch.rand(20, 3, 32, 32)
BYTES = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
ODD = {
    "integer pixels": {"data": BYTES.long()},
    "boolean pixels": {"data": BYTES.bool()},
    "complex pixels": {"data": PIXELS + 0j},
    "sparse pixels": {"data": PIXELS.to_sparse()},
    "sparse bytes": {"data": BYTES.to_sparse()},
    "meta pixels": {"data": PIXELS.to("meta")},
    "pixels far above 1": {"data": PIXELS + 1},
    "pixels of no images": {"data": PIXELS[:0], "label": LABELS[:0]},
    "pixels of one image": {"data": PIXELS[0]},
    "no pixels": {"data": None},
    "a list of pixels": {"data": [1, 2, 3]},
    "labels [N, 0]": {"label": torch.zeros(20, 0)},
    "labels []": {"label": torch.tensor(3)},
    "too few labels": {"label": LABELS[:19]},
    "labels between classes": {"label": LABELS + 0.5},
    "labels below 0": {"label": LABELS - 1},
    "labels that are no number": {"label": LABELS + math.nan},
    "labels without end": {"label": LABELS + math.inf},
    "labels of 10**18": {"label": LABELS * 10**17},
    "soft labels with NaN": {"label": SOFT.where(SOFT > 0, math.nan)},
    "soft labels with -inf": {"label": SOFT.log()},
    "soft labels of zeros": {"label": SOFT * (LABELS > 3)[:, None]},
    "sparse labels": {"label": LABELS.to_sparse()},
    "meta labels": {"label": LABELS.to("meta")},
    "a list of names": {"label": ["a"] * 20},
    "colours of two channels": {"mean": [0.5, 0.5], "std": [0.5, 0.5]},
    "no labels": {"label": None},
    "another data set": {"dataset": "CIFAR10"},
    "several data sets": {"dataset": ["cifar10"]},
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("case", ODD)
def test_odd_data_pt_is_refused(tmp_path, fashion, case):
    file = in_data_pt(tmp_path / "data.pt", **ODD[case])
    with pytest.raises(UserError, match=r"^--images .*data.pt"):
        synthesize.load_distilled(file, fashion)


@pytest.mark.filterwarnings("ignore:TypedStorage", "ignore:torch.quantize")
def test_quantized_data_pt_is_refused(tmp_path, fashion):
    for changed in ({"data": quantized(PIXELS)}, {"label": quantized(LABELS / 255)}):
        with pytest.raises(UserError, match=r"^--images .*data.pt"):
            synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", **changed), fashion)


@pytest.mark.parametrize("changed", [{"data": BYTES.to("meta")}, {"dataset": torch.zeros(3)}])
def test_odder_data_pt_is_refused(tmp_path, fashion, changed):
    with pytest.raises(UserError, match=r"^--images .*data.pt"):
        synthesize.load_distilled(in_data_pt(tmp_path / "data.pt", **changed), fashion)


# --- distilled sets of ours


def test_a_saved_set_is_an_image_folder_of_the_very_pixels(tmp_path, fashion):
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(10).repeat_interleave(2)
    folder = tmp_path / "mine"
    common.save(folder / "settings.json", {"stage": "images"})
    with pytest.raises(UserError, match="mine is unfinished: the command that makes it was stopped; run it again"):
        synthesize.load_distilled(folder, fashion)
    (folder / "settings.json").write_text("[somebody else's")
    synthesize.save_distilled(folder, images, labels, Counter())
    distilled = synthesize.load_distilled(folder, fashion, ipc=2)
    assert torch.equal(distilled.images, images)
    assert torch.equal(distilled.labels, labels)
    plain = torchvision.datasets.ImageFolder(folder)
    assert plain.classes == [f"{c:05d}" for c in range(10)]
    assert len(plain) == 20
    synthesize.save_grid(tmp_path / "grid.png", images, labels)
    assert Image.open(tmp_path / "grid.png").size == (2 * 34 + 2, 10 * 34 + 2)


@pytest.mark.slow
def test_a_set_that_the_device_cannot_hold_is_read_from_disk(tmp_path, monkeypatch, fashion):
    """The same digest, pictures, labels and students."""

    def results(out):
        data = fashion._replace(runs=out)
        teacher = Teacher(common.build_model("conv3", 10, 32, 4).eval(), {"digest": "0", "arch": "conv3"})
        distilled = synthesize.distil("random", data, None, ipc=2)
        made = lpqld.labels_for(data, 20, epochs=10, top_k=3)
        pool = lpqld.label_pool(data, teacher, distilled, made, 0)
        by_rded = evaluate.rded_protocol(data, teacher, distilled, "conv3", "kl", "adamw", epochs=2)
        trained = [
            gift.students(data, teacher, distilled, gift.protocol_for(data, distilled, "conv3", epochs=2)),
            evaluate.rded_students(data, teacher, distilled, by_rded),
            lpqld.students(data, distilled, pool, lpqld.training_for(data, epochs=10), "conv3"),
        ]
        top1 = [common.train_students(students, [0])["top1"] for students in trained]
        grid = Path(distilled.info["folder"], "grid.png").read_bytes()
        return distilled, top1, grid, synthesize.similarity_of(teacher, distilled, data.colours)

    torch.manual_seed(0)
    resident, *expected = results(tmp_path / "resident")
    assert isinstance(resident.images, torch.Tensor)
    monkeypatch.setattr(synthesize, "SHARE_OF_MEMORY", 2**60)
    torch.manual_seed(0)
    on_disk, *found = results(tmp_path / "disk")
    assert isinstance(on_disk.images, Split)
    assert "images" not in vars(on_disk.images)  # nothing keeps all of them
    assert on_disk.info["digest"] == resident.info["digest"]
    assert found == expected


def test_a_set_is_made_once(tmp_path):
    data, _, _ = made_up(4, 3, 8, tmp_path)
    first = synthesize.distil("random", data, None, ipc=2, seed=3)
    assert first.info["settings"]["method"] == "random"
    assert (first.info["ipc"], first.info["count"], first.name) == (2, 8, "random-ipc2")
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")}
    again = synthesize.distil("random", data, None, ipc=2, seed=3)
    assert torch.equal(again.images, first.images)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")} == written
    assert synthesize.distil("random", data, None, ipc=2, seed=4).info["digest"] != first.info["digest"]


def changed(file):
    pixels = Image.open(file)
    pixels.putpixel((1, 2), (1, 2, 3))
    pixels.save(file)


def swapped(file):
    other = file.with_name("00000.png")
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


@pytest.mark.parametrize("harm", [changed, swapped, os.unlink, lambda file: picture(file.with_name("7.png"), 8)])
def test_a_set_that_is_not_as_it_was_made_is_refused(tmp_path, harm):
    data, _, _ = made_up(4, 3, 8, tmp_path)
    folder = Path(synthesize.distil("random", data, None, ipc=2).info["folder"])
    harm(folder / "00003" / "00001.png")
    with pytest.raises(
        UserError, match=r"is not as it was made \(an image was changed, removed or added\): delete the set"
    ):
        synthesize.load_distilled(folder, data)


def test_a_set_of_ours_may_lie_elsewhere(tmp_path):
    data, _, _ = made_up(4, 3, 8, tmp_path)
    distilled = synthesize.distil("random", data, None, ipc=2)
    Path(distilled.info["folder"]).rename(tmp_path / "elsewhere")
    moved = synthesize.load_distilled(tmp_path / "elsewhere", data)
    assert torch.equal(moved.images, distilled.images)
    assert moved.info["settings"] == distilled.info["settings"]
    truncated(tmp_path / "elsewhere" / "set.json")
    with pytest.raises(UserError, match=r"set.json is damaged, or not of this code: delete it"):
        synthesize.load_distilled(tmp_path / "elsewhere", data)


def directory(root, *classes):
    """A directory of a user's own as a data set; with these classes, if it is new."""
    for split, count in (("train", 4), ("test", 3)):
        image_folder(root, classes, count, 16, [split])
    return common.load_dataset(str(root), torch.device("cpu"), out=root.parent / "runs")


def test_a_set_of_other_classes_is_refused(tmp_path):
    """The classes of a directory are its folders, sorted: a folder renamed may be another number."""
    animals = tmp_path / "animals"
    folder = synthesize.distil("random", directory(animals, "cat", "dog", "fox"), None, ipc=2).info["folder"]

    def refused(data, complaint):
        with pytest.raises(UserError, match=rf"random-ipc2-\w+ was made for other classes \(animals\): {complaint}$"):
            synthesize.load_distilled(folder, data)

    refused(directory(tmp_path / "trees", "elm", "fir", "oak"), "class 0 was 'cat', here 'elm'")
    refused(directory(tmp_path / "more", "cat", "dog", "fox", "owl"), "it has 3 classes, more has 4")
    for split in ("train", "test"):
        (animals / split / "dog").rename(animals / split / "hound")
    refused(directory(animals), "class 1 was 'dog', here 'fox'")


def test_a_set_made_from_other_images_of_these_classes_is_taken_with_a_hint(tmp_path, capsys):
    data = directory(tmp_path / "animals", "cat", "dog")
    folder = synthesize.distil("random", data, None, ipc=2).info["folder"]
    picture(tmp_path / "animals" / "train" / "cat" / "0.png", 16, seed=77)
    assert len(synthesize.load_distilled(folder, directory(tmp_path / "animals")).images) == 4
    assert "was made from other images of animals than those here" in capsys.readouterr().out


def test_folders_of_another_directorys_classes_are_refused(tmp_path):
    trees = directory(tmp_path / "trees", "elm", "fir", "oak")
    with pytest.raises(UserError, match="folder cat0 is neither numbered nor a class of the data set"):
        synthesize.load_distilled(write_numbered(tmp_path / "cats", "cat{c}/{i}.png", 3), trees)
