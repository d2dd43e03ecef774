"""Data sets, networks, teachers, distilled sets, stages: from real files in the formats that are out there."""

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import common


def picture(path, side=32, seed=0, shade=None, size=None):
    """A small picture file; noise, or one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size or (side, side)
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    if shade is not None:
        pixels[:] = shade
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


# --- data sets


def test_embedded_set_is_whole_balanced_and_small(fashion):
    assert fashion.train.images.shape == (5000, 3, 32, 32) and fashion.test.images.shape == (2000, 3, 32, 32)
    assert torch.bincount(fashion.train.labels).tolist() == [500] * 10
    assert torch.bincount(fashion.test.labels).tolist() == [200] * 10
    assert len(fashion.train.images.flatten(1).unique(dim=0)) > 4990  # tiles were not cut twice
    assert (fashion.train.images[:, :, :2] == 0).all() and (fashion.train.images[..., -2:] == 0).all()
    assert (fashion.train.images[:, 0] == fashion.train.images[:, 2]).all()
    folder = Path(common.__file__).parent / "data" / "fashion"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 << 20
    # every pixel: what make_sheets.py writes from the published files
    assert fashion.describe()["fingerprint"] == {"train": "7f34f645", "test": "8d2812a0"}


def test_normalize_by_hand():
    x = common.normalize(
        torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1), ((0.5, 0.5, 0.5), (0.25, 0.5, 1))
    )
    torch.testing.assert_close(x.flatten(), torch.tensor([-2.0, (128 / 255 - 0.5) / 0.5, 0.5]))
    floats = torch.rand(2, 3, 4, 4)
    assert common.normalize(floats, common.CIFAR_COLOURS).is_contiguous(memory_format=torch.channels_last)


def test_cifar100_from_an_archive_in_its_real_format(tmp_path, monkeypatch, options):
    """torchvision's own loader checks, unpacks and reads a small archive that is CIFAR-100 in all but size."""
    rng = np.random.RandomState(0)
    names = [f"class{i:02d}" for i in range(100)]
    parts = {
        "train": {"data": rng.randint(0, 256, (200, 3072), dtype=np.uint8), "fine_labels": list(range(100)) * 2},
        "test": {"data": rng.randint(0, 256, (100, 3072), dtype=np.uint8), "fine_labels": list(range(100))},
        "meta": {"fine_label_names": names, "coarse_label_names": []},
    }
    md5, archive = {}, tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in parts.items():
            data = pickle.dumps(content)
            md5[name] = hashlib.md5(data).hexdigest()
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    kind = torchvision.datasets.CIFAR100
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5["meta"]})

    data = common.load_dataset(options("--dataset", "cifar100", "--data-root", tmp_path, "--device", "cpu"))
    assert data.class_names == names and data.image_size == 32 and data.default_width == 128
    assert data.train.images.shape == (200, 3, 32, 32) and data.test.labels.tolist() == list(range(100))
    red, green = parts["test"]["data"][7].reshape(3, 32, 32)[:2]  # stored channel by channel
    assert (data.test.images[7, 0].numpy() == red).all() and (data.test.images[7, 1].numpy() == green).all()


def test_fashionmnist_is_padded_and_grey(tmp_path, monkeypatch, options):
    class Small:
        classes = tuple("abcdefghij")

        def __init__(self, root, train, download):
            assert download and root == tmp_path
            self.data = torch.full((20, 28, 28), 200, dtype=torch.uint8)
            self.targets = torch.arange(20) % 10

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Small)
    data = common.load_dataset(options("--dataset", "fashionmnist", "--data-root", tmp_path, "--device", "cpu"))
    assert data.train.images.shape == (20, 3, 32, 32)
    assert (data.train.images[:, :, 2:-2, 2:-2] == 200).all() and data.train.images.float().sum() == 20 * 3 * 784 * 200


def test_tiny_imagenet_as_published(tmp_path, options):
    """train/<wnid>/images/*.JPEG, and a flat val/images with val_annotations.txt."""
    root, wnids = tmp_path / "tiny-imagenet-200", ["n02", "n01", "n03"]
    for i, wnid in enumerate(wnids):
        for j in range(2):
            picture(root / "train" / wnid / "images" / f"{wnid}_{j}.JPEG", 64, shade=80 * i)
    rows = []
    for i, wnid in enumerate(["n03", "n01", "n02", "n01"]):
        picture(root / "val" / "images" / f"val_{i}.JPEG", 64, shade=i)
        rows.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (root / "test" / "images").mkdir(parents=True)
    data = common.load_dataset(options("--dataset", "tinyimagenet", "--data-root", tmp_path, "--device", "cpu"))
    assert data.class_names == ["n01", "n02", "n03"] and data.default_arch == "conv4" and data.image_size == 64
    assert data.test.labels.tolist() == [2, 0, 1, 0] and data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.images[:, 0, 5, 5].tolist() == [0, 1, 2, 3]
    assert data.train.images[2].max() == 0  # n02 was written black


def image_folder(root, classes=("cat", "dog"), count=6, side=32, splits=("train", "test")):
    for split in splits:
        for i, name in enumerate(classes):
            for j in range(count):
                picture(root / split / name / f"{j}.png", side, seed=100 * i + j)
    return root


def test_any_directory(tmp_path, options):
    root = image_folder(tmp_path / "pets")
    data = common.load_dataset(options("--dataset", root, "--device", "cpu"))
    assert (data.name, data.class_names, data.image_size, data.default_arch) == ("pets", ["cat", "dog"], 32, "conv3")
    assert torch.equal(data.train.images[0], common.to_tensor(Image.open(root / "train" / "cat" / "0.png")))
    larger = common.load_dataset(options("--dataset", root, "--image-size", 48, "--device", "cpu"))
    assert larger.train.images.shape == (12, 3, 48, 48)
    assert larger.train.fingerprint != data.train.fingerprint


def test_imagenet_21k_is_squeezed_and_not_normalised(tmp_path, options):
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            folder = tmp_path / "imagenet-21k" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (60, 30), (250, 0, 0)).save(folder / "0.png")
            wide = Image.new("RGB", (60, 30), (0, 250, 0))
            wide.paste((0, 0, 250), (0, 0, 10, 30))  # the left sixth: a centre cut would lose it
            wide.save(folder / "1.png")
    words = ("--dataset", "imagenet-21k", "--data-root", tmp_path, "--image-size", 30, "--device", "cpu")
    data = common.load_dataset(options(*words))
    images = common.normalize(data.test.images, data.colours)
    assert images.shape == (4, 3, 30, 30) and images.max() == 250 / 255
    assert images[1, 2, :, :4].min() > 0.9 and images[1, 1, :, 7:].min() > 0.9


def test_a_set_read_from_disk_is_the_set_in_memory(tmp_path, options, monkeypatch):
    root = image_folder(tmp_path / "pets", side=40)
    args = options("--dataset", root, "--image-size", 32, "--device", "cpu")
    resident = common.load_dataset(args)
    monkeypatch.setattr(common, "RESIDENT_BYTES", 0)
    streamed = common.load_dataset(args)
    assert resident.train.resident and not streamed.train.resident
    for a, b in zip(resident.test.batches(5), streamed.test.batches(5), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    whole = list(resident.train.batches(5))
    for split in (resident.train, streamed.train):  # a pass that goes on where it stopped
        assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[1:], split.batches(5, 1), strict=True))
        assert list(split.batches(5, 3)) == []
        assert split.stored_bytes == sum(path.stat().st_size for path in (root / "train").glob("*/*.png"))
    indices = torch.tensor([7, 0, 3])
    assert torch.equal(resident.train.load(indices), streamed.train.load(indices))
    assert "images" not in vars(streamed.train)
    assert resident.train.original(0).shape == (3, 40, 40)


def test_imagenet_test_view_is_resize_256_centre_224(tmp_path, options):
    for split in ("train", "val"):
        for name in ("a", "b"):
            picture(tmp_path / "imagenette2" / split / name / "0.JPEG", size=(500, 375))
    data = common.load_dataset(options("--dataset", "imagenette", "--data-root", tmp_path, "--device", "cpu"))
    image = Image.open(tmp_path / "imagenette2" / "val" / "a" / "0.JPEG").convert("RGB")
    view = torchvision.transforms.functional.center_crop(torchvision.transforms.functional.resize(image, 256), 224)
    assert torch.equal(data.test.images[0], common.to_tensor(view))
    conv = common.load_dataset(
        options("--dataset", "imagenette", "--data-root", tmp_path, "--arch", "conv5", "--device", "cpu")
    )
    assert conv.image_size == 128 and data.image_size == 224
    assert [int(side * 8 / 7) for side in (64, 128, 224)] == [73, 146, 256]  # GIFT's code


# --- networks


def test_parameter_names_are_those_of_published_checkpoints():
    names = list(common.build_model("conv3", 10, 32).state_dict())
    for part in ("layers.conv.0.weight", "layers.conv.2.bias", "layers.norm.1.running_var", "classifier.weight"):
        assert part in names
    # RDED's ConvNet-3 on CIFAR: 128 channels, 4 x 4 map
    assert common.build_model("conv3", 10, 32).classifier.weight.shape == (10, 2048)
    modified = common.build_model("resnet18_modified", 10, 32)
    assert modified.conv1.weight.shape == (64, 3, 3, 3) and modified.conv1.stride == (1, 1)
    assert isinstance(modified.maxpool, nn.Identity) and modified.fc.weight.shape == (10, 512)


@pytest.mark.parametrize(
    "arch, side", [("conv4", 64), ("conv5", 128), ("conv6", 128), ("mobilenet_v2", 64), ("vit_b_16", 32)]
)
def test_networks_take_their_side(arch, side):
    model = common.build_model(arch, 7, side, width=8).eval()
    assert model(torch.zeros(1, 3, side, side)).shape == (1, 7)


@pytest.mark.parametrize(
    "arch, side", [("conv6", 32), ("conv7", 32), ("resnet19", 32), ("alexnet", 32), ("vgg11_modified", 32)]
)
def test_networks_that_cannot_be(arch, side):
    with pytest.raises(common.UserError, match=arch):
        common.build_model(arch, 10, side)


# --- teachers


def test_a_teacher_is_judged_before_anything_rests_on_it():
    assert common.judge_teacher(72.0, 72.27, 100, "it") is None
    assert "well below the expected 72.3 %" in common.judge_teacher(58.6, 72.27, 100, "it")  # RDED issue 3
    assert "class order" in common.judge_teacher(58.6, 72.27, 100, "it")
    for near_chance, classes in ((1.2, 100), (11.0, 10), (float("nan"), 10), (52.0, 2)):
        with pytest.raises(common.UserError, match=r"chance.*class order"):
            common.judge_teacher(near_chance, None, classes, "it")


def test_published_checkpoint_formats(tmp_path, fashion):
    """State dict under `model`, with training options beside it (RDED, GIFT); or under `state_dict` (SRe2L)."""
    model = common.build_model("resnet18_modified", 10, 32)
    state = model.state_dict()
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "rded.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "acc": 70.0}, tmp_path / "sre2l.pth")
    torch.save(state, tmp_path / "plain.pth")
    more = {"bn1.class_running_mean": torch.zeros(10, 64), "bn1.class_running_var": torch.ones(10, 64)}
    torch.save({"model": {**more, **state}}, tmp_path / "lpld.pth")  # with class-wise statistics
    for name in ("rded.pth", "sre2l.pth", "plain.pth", "lpld.pth"):
        read, recorded = common.read_teacher(tmp_path / name, "resnet18_modified", fashion, 128)
        assert recorded is None and common.digest(read.state_dict()) == common.digest(state)
    narrow = common.build_model("conv3", 10, 32, width=5)  # the file's width wins
    torch.save({"model": narrow.state_dict(), "accuracy": 12.5}, tmp_path / "narrow.pth")
    read, recorded = common.read_teacher(tmp_path / "narrow.pth", "conv3", fashion, 128)
    assert recorded == 12.5 and read.layers["conv"][0].weight.shape[0] == 5


def test_a_teacher_is_trained_once(small_teacher, options, fashion, capsys):
    out, teacher = small_teacher
    words = ("--width", 8, "--teacher-epochs", 2, "--device", "cpu", "--out", out)
    file = out / "fashion" / "teacher-conv3" / "teacher.pt"
    written = file.stat().st_mtime_ns
    again = common.load_teacher(options(*words), fashion)
    assert again.info == teacher.info and file.stat().st_mtime_ns == written
    assert "reusing" in capsys.readouterr().out
    kept = torch.load(file, weights_only=True)
    assert kept["accuracy"] == teacher.info["accuracy"] > 50
    # other settings are another teacher, beside the first
    other = common.load_teacher(options("--seed", 1, *words), fashion)
    assert other.info["digest"] != teacher.info["digest"] and file.stat().st_mtime_ns == written


# --- distilled sets


def write_numbered(folder, name, classes=10, ipc=2, extension="png"):
    """Folder c is one shade, 20 * c, so that a class misread is a class seen."""
    for c in range(classes):
        for i in range(ipc):
            picture(folder / name.format(c=c, i=i, extension=extension), shade=20 * c + i)


@pytest.mark.parametrize(
    "name",
    [
        "{c:05d}/{i:05d}.{extension}",  # ours
        "{c:05d}/class{c:05d}_id{i:05d}.{extension}",  # RDED
        "new{c:03d}/class{c:03d}_id{i:03d}.{extension}",  # SRe2L, LPLD
        "{c}/{i}.{extension}",
    ],
)
def test_folders_in_the_wild(tmp_path, fashion, name):
    write_numbered(tmp_path, name)
    distilled = common.load_distilled(tmp_path, fashion)
    assert distilled.labels.tolist() == [c for c in range(10) for _ in range(2)] and distilled.info["ipc"] == 2
    assert distilled.images[:, 0, 0, 0].tolist() == [20 * c + i for c in range(10) for i in range(2)]


def test_folders_sort_by_number_not_by_name(tmp_path, fashion):
    wide = fashion._replace(class_names=[f"c{i}" for i in range(1002)])
    for c in range(1002):
        picture(tmp_path / f"new{c:03d}" / f"class{c:03d}_id000.png", shade=c % 251)  # new1000 sorts before new101
    distilled = common.load_distilled(tmp_path, wide)
    assert distilled.images[:, 0, 0, 0].tolist() == [c % 251 for c in range(1002)]


def test_folders_named_as_the_classes(tmp_path, fashion):
    names = fashion._replace(class_names=["dog", "ant"])
    for name, shade in (("ant", 1), ("dog", 2)):
        picture(tmp_path / name / "0.png", shade=shade)
    distilled = common.load_distilled(tmp_path, names)
    assert distilled.images[:, 0, 0, 0].tolist() == [2, 1] and distilled.labels.tolist() == [0, 1]


def test_gifts_data_pt(tmp_path, fashion):
    images, labels = torch.rand(20, 3, 32, 32), torch.arange(20) % 10
    for name, label in (("flat", labels), ("column", labels[:, None]), ("soft", torch.eye(10)[labels] * 3 - 1)):
        torch.save({"dataset": "fashion", "data": images, "label": label}, tmp_path / "data.pt")
        for path in (tmp_path, tmp_path / "data.pt"):
            distilled = common.load_distilled(path, fashion)
            assert torch.equal(distilled.images, images), name
            assert torch.equal(distilled.labels, labels), name  # DATM's two-dimensional labels crash the released code


def test_a_saved_set_is_an_image_folder_of_the_very_pixels(tmp_path, fashion):
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(10).repeat_interleave(2)
    folder = common.stage_folder(tmp_path, "mine", {"a": 1})
    with pytest.raises(common.UserError, match="unfinished"):
        common.load_distilled(folder, fashion)
    common.save_distilled(folder, images, labels, fashion.device)
    distilled = common.load_distilled(folder, fashion, ipc=2)
    assert torch.equal(distilled.images, images) and torch.equal(distilled.labels, labels)
    plain = torchvision.datasets.ImageFolder(folder)
    assert plain.classes == [f"{c:05d}" for c in range(10)] and len(plain) == 20
    assert Image.open(folder / "grid.png").size == (2 * 34 + 2, 10 * 34 + 2)


# --- stages, files


def test_stages_are_found_again_and_never_mixed_up(tmp_path):
    first = common.stage_folder(tmp_path, "stage", {"lr": 0.1, "roll": (0, 4)})
    assert first == tmp_path / "stage" == common.stage_folder(tmp_path, "stage", {"roll": (0, 4), "lr": 0.1})
    other = common.stage_folder(tmp_path, "stage", {"lr": 0.2, "roll": (0, 4)})
    assert other != first and other == common.stage_folder(tmp_path, "stage", {"lr": 0.2, "roll": (0, 4)})
    (tmp_path / "foreign").mkdir()  # somebody else's folder is left alone
    assert common.stage_folder(tmp_path, "foreign", {"a": 1}) != tmp_path / "foreign"
    assert list((tmp_path / "foreign").iterdir()) == []


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    common.save_json(path, {"a": 1})

    def fail(beside):
        beside.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        common.write_atomically(path, fail)
    assert common.read_json(path) == {"a": 1} and [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_no_code_runs_from_a_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(common.UserError, match="run code"):
        common.load_tensors(tmp_path / "bomb.pth", "teacher")
    assert not (tmp_path / "ran").exists()


def test_digest_sees_a_single_bit():
    a = {"x": torch.zeros(3, dtype=torch.uint8)}
    b = {"x": torch.tensor([0, 1, 0], dtype=torch.uint8)}
    assert common.digest(a) == common.digest({"x": torch.zeros(3, dtype=torch.uint8)}) != common.digest(b)
    assert common.digest({"x": torch.zeros(3, 1, dtype=torch.uint8)}) != common.digest(a)


def test_accuracy_counts_every_image(fashion):
    """A network that always answers 0, 1, 2, ... in this order: right on a tenth, among the first five on a half."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = -torch.arange(10.0)
    assert common.accuracy(model, fashion.test, fashion.colours, batch_size=300) == pytest.approx((10, 50))
    model[1].bias.data[:] = float("nan")
    assert common.accuracy(model, fashion.test, fashion.colours) == (0, 0)


def test_reading_ahead_is_reading():
    seen = []

    def read(item):
        seen.append(item)
        return item**2

    pairs = common.read_ahead(read, range(4))
    assert next(pairs) == (0, 0)
    assert list(pairs) == [(1, 1), (2, 4), (3, 9)] and seen == [0, 1, 2, 3]
    assert list(common.read_ahead(read, [])) == []
    with pytest.raises(common.UserError):
        list(common.read_ahead(lambda item: common.read_image("no such file"), [1]))


def test_steps_together_hold_so_many_pixels():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert common.steps_together(range(5), 100, 32, cpu) == [[0], [1], [2], [3], [4]]
    assert common.steps_together(range(5), 20, 32, cpu) == [[0, 1, 2, 3], [4]]
    assert [len(steps) for steps in common.steps_together(range(80), 100, 32, cuda)] == [39, 39, 2]
    assert common.steps_together(range(2), 128, 224, cuda) == [[0], [1]]


def test_precision_and_colours_from_the_command_line(options, monkeypatch):
    monkeypatch.setattr(common, "PRECISION", None)
    data = common.load_dataset(options("--device", "cpu", "--precision", "bf16", "--colours", "tiny"))
    assert common.precision_on(data.device) == "bf16" and data.colours == common.TINY_COLOURS
    with common.autocast(data.device):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    data = common.load_dataset(options("--device", "cpu"))
    assert common.precision_on(data.device) == "fp32" and data.colours == common.FASHION_COLOURS
    assert common.precision_on(torch.device("cuda")) == "bf16"
