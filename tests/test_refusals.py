"""Bad input, for all scripts: one line on stderr that says what is wrong, status 2, and nothing written.

Below: odd input that is taken.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import image_folder, only, picture, truncated, write_numbered
from PIL import Image

import common
import evaluate
import gift
import lpqld
import synthesize
from experiments import one_label

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about the odd tensors made here
SCRIPTS = {"gift": gift, "lpqld": lpqld, "synthesize": synthesize, "evaluate": evaluate, "one_label": one_label}


class Hung(BaseException):
    pass


@pytest.fixture(autouse=True)
def within_forty_seconds():
    """What waits for ever is a failure too."""

    def stop(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def short_recovery(monkeypatch):
    setting = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=3, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "fashion", setting)


# --- bad things of every kind


class Evil:
    """A pickle of it writes a file where it is loaded by a reader that runs code."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


def bad_teachers(root, teacher):
    shutil.copy(teacher, root / "truncated.pt")
    truncated(root / "truncated.pt")
    shutil.copy(teacher, root / "flipped.pt")
    flip_a_bit(root / "flipped.pt")
    (root / "empty.pt").write_bytes(b"")
    state = common.build_model("conv3", 10, 32, 8).state_dict()
    nan = {name: value * float("nan") for name, value in state.items()}
    weight = state["layers.conv.1.weight"]
    states = {
        "classes": common.build_model("conv3", 100, 32, 8).state_dict(),
        "side": common.build_model("conv3", 10, 64, 8).state_dict(),
        "untrained": state,
        "nan": nan,
        "quantized": state | {"layers.conv.1.weight": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)},
        "sparse": state | {"layers.conv.1.weight": weight.to_sparse()},
        "meta": state | {"layers.conv.1.weight": weight.to("meta")},
        "scalar": state | {"layers.conv.0.weight": torch.tensor(1.0)},
        "no-channels": state | {"layers.conv.0.weight": torch.zeros(0, 3, 3, 3)},
        "numbers": {number: value for number, value in enumerate(state.values())},
        "nothing": {},
    }
    for name, content in states.items():
        torch.save({"model": content}, root / f"{name}.pt")
    torch.save([1, 2, 3], root / "list.pt")
    torch.save({"model": {"evil": Evil(root / "evil")}}, root / "evil.pt")
    ours = torch.load(teacher, weights_only=True)["model"]
    large = {name: value * 1e30 if "classifier" in name else value for name, value in ours.items()}
    torch.save(large, root / "large.pt")  # logits beyond fp16
    torch.save({"model": ours, "accuracy": 99.0}, root / "once-better.pt")  # as with other colours
    for prefix in ("model.", "_orig_mod.module."):
        state = {prefix + name: ours[name] for name in sorted(ours)}
        about = {"args": argparse.Namespace(data=Path("data")), "digest": "of their own"}
        torch.save({"net": state, **about}, root / f"under-net-{prefix}pt")


def bad_sets(root):
    """Distilled sets as class folders."""
    write_numbered(root / "good", ipc=1)
    write_numbered(root / "nine", classes=9, ipc=1)
    write_numbered(root / "eleven", classes=11, ipc=1)
    for name in ("mixed", "corrupt", "16-bit", "floats", "fifo", "twice", "huge-number", "not-utf8", "hollow-class"):
        write_numbered(root / name, ipc=1)
    picture(root / "mixed" / "00000" / "00000.png", 16)
    truncated(root / "corrupt" / "00003" / "00000.png")
    depth = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60
    Image.fromarray(depth).save(root / "16-bit" / "00003" / "00000.png")
    Image.fromarray(depth.astype(np.float32)).save(root / "floats" / "00003" / "00001.tif")
    (root / "fifo" / "00003" / "00000.png").unlink()
    os.mkfifo(root / "fifo" / "00003" / "00000.png")
    picture(root / "twice" / "3" / "0.png")
    picture(root / "huge-number" / f"{10**19}" / "0.png")
    picture(root / "not-utf8" / os.fsdecode(b"caf\xe9") / "0.png")
    (root / "hollow-class" / "00003" / "00000.png").unlink()
    for c in range(10):
        picture(root / "large" / f"{c:05d}" / "0.png", 64)
        picture(root / "named" / f"thing{c}x" / "0.png", 32)
        (root / "hollow" / f"{c:05d}").mkdir(parents=True)
        picture(root / "many-spellings" / f"{('Class', 'class ', 'c', 'class-', 'new')[c % 5]}{c}" / "0.png")
    (root / "many-spellings" / "logs").mkdir()
    picture(root / "many-spellings" / "__MACOSX" / "0.png", 8)
    picture(root / "many-spellings" / ".ipynb_checkpoints" / "0.png", 8)
    (root / "many-spellings" / "c2" / "._0.png").write_bytes(b"macOS")
    write_numbered(root / "a|b", ipc=1)
    write_numbered(root / "of-cifar10", ipc=1)
    made_from = {"dataset": "cifar10", "fingerprint": None}
    about = {"settings": {"method": "random", "ipc": 1, "data": made_from}, "class_names": common.FASHION}
    (root / "of-cifar10" / "set.json").write_text(json.dumps(about))
    for name, stage in (("unfinished", "images"), ("student", "gift")):
        (root / name).mkdir()
        (root / name / "settings.json").write_text(json.dumps({"stage": stage}))
    write_numbered(root / "damaged-set", ipc=1)
    (root / "damaged-set" / "set.json").write_text("{")
    write_numbered(root / "escaping", ipc=1)
    data = {"dataset": "fashion", "fingerprint": None}
    about = {"class_names": common.FASHION, "settings": {"method": "x/../../up", "ipc": 1, "data": data}}
    (root / "escaping" / "set.json").write_text(json.dumps(about))
    write_numbered(root / "linked", ipc=1)
    (root / "linked" / "00003" / "again").symlink_to("../00004")
    write_numbered(root / "set-of-others", ipc=1)
    others = {"class_names": common.FASHION, "settings": {"data": {"dataset": "fashion"}}}
    (root / "set-of-others" / "set.json").write_text(json.dumps(others))
    (root / "flat").mkdir()
    (root / "file").write_text("no folder")
    os.mkfifo(root / "fifo.pt")
    (root / "loop").symlink_to("loop")


def bad_data_files(root):
    """Distilled sets as data.pt."""
    images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)
    files = {
        "lengths": (images[:4], labels[:3]),
        "range": (images * 3, labels),
        "between": (images, labels + 0.5),
        "negative": (images, labels - 1),
        "huge": (images, labels * 10**12),
        "nan-pixels": (images * float("nan"), labels),
        "nan-labels": (images, torch.full((10, 10), float("nan"))),
        "none": (images[:0], labels[:0]),
        "large": (torch.rand(10, 3, 64, 64), labels),
        "grey": (images[:, :1], labels),
        "integers": (torch.randint(256, (10, 3, 32, 32)), labels),
        "complex": (images + 0j, labels),
        "sparse": (images.to_sparse(), labels),
        "quantized": (torch.quantize_per_tensor(images, 0.1, 0, torch.quint8), labels),
        "meta": (images.to("meta"), labels),
        "meta-labels": (images, labels.to("meta")),
        "no-class": (images, torch.zeros(10, 10)),
        "lists": (images.tolist(), labels.tolist()),
        "one-hot": (images, torch.eye(10).bool()),
        "uint16": (images, labels.to(torch.uint16)),
        "words": (images, [f"class {c}" for c in range(10)]),
    }
    for name, (data, label) in files.items():
        torch.save({"data": data, "label": label}, root / f"data-{name}.pt")
    torch.save({"data": images, "label": labels, "mean": [0.5] * 3}, root / "data-mean.pt")
    for name, mean, std in (
        ("std", [0.5] * 3, [0.0] * 3),
        ("short", [0.5] * 2, [0.2] * 3),
        ("words", ["a"] * 3, [1] * 3),
    ):
        content = {"data": images, "label": labels, "mean": mean, "std": std}
        torch.save(content, root / f"data-mean-{name}.pt")
    content = {"data": (images * 255).byte(), "label": labels, "mean": [0.5] * 3, "std": [0.2] * 3}
    torch.save(content, root / "data-mean-bytes.pt")
    torch.save({"data": images}, root / "data-alone.pt")
    torch.save([images, labels], root / "data-list.pt")
    torch.save({"data": images, "label": labels, "dataset": "CIFAR10"}, root / "data-cifar.pt")
    torch.save({"data": images, "label": labels, "dataset": "FashionMNIST"}, root / "data-spelt.pt")
    torch.save({"data": images, "label": labels, "dataset": Evil(root / "evil")}, root / "data-evil.pt")
    torch.save({"data": images, "label": labels}, root / "data-short.pt")
    truncated(root / "data-short.pt")
    write_numbered(root / "both", ipc=1)
    torch.save({"data": images, "label": labels}, root / "both" / "data.pt")


def bad_data_sets(root):
    """Data sets as class folders, of two classes."""
    image_folder(root / "pets")
    image_folder(root / "annotated", splits=("train", "val"))
    (root / "annotated" / "val" / "images").mkdir()
    (root / "annotated" / "val" / "val_annotations.txt").write_text("no tabs here\n")
    image_folder(root / "fifo-annotated", splits=("train", "val"))
    (root / "fifo-annotated" / "val" / "images").mkdir()
    os.mkfifo(root / "fifo-annotated" / "val" / "val_annotations.txt")
    truncated(image_folder(root / "rotten") / "train" / "dog" / "3.png")
    truncated(image_folder(root / "rotten-test") / "test" / "dog" / "3.png")
    image_folder(root / "uneven", splits=("train",))
    picture(root / "uneven" / "test" / "cat" / "0.png")
    image_folder(root / "single", classes=("cat",))
    image_folder(root / "train-only", splits=("train",))
    image_folder(root / "hollow-pets")
    for picture_file in (root / "hollow-pets" / "train" / "dog").iterdir():
        picture_file.unlink()
    image_folder(root / "deep")
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(root / "deep" / "test" / "dog" / "3.png")
    for split in ("train", "test"):
        image_folder(root / f"fifo-{split}")
        (root / f"fifo-{split}" / split / "dog" / "3.png").unlink()
        os.mkfifo(root / f"fifo-{split}" / split / "dog" / "3.png")
    for copied in (False, True):
        same = image_folder(root / f"same-{copied}", splits=("train",))
        if copied:
            shutil.copytree(same / "train", same / "val")
        else:
            (same / "val").symlink_to("train")
    Image.new("RGB", (10**7, 1)).save(image_folder(root / "wide") / "test" / "dog" / "3.png")
    image_folder(root / "validated", splits=("train", "validation"))
    (root / "validated" / "train" / "logs").mkdir()
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 6), ("t10k", 4)):
        for kind, shape in (("images-idx3", (count, 20, 20)), ("labels-idx1", (count,))):
            sizes = b"".join(size.to_bytes(4, "big") for size in shape)
            head = bytes([0, 0, 8, len(shape)]) + sizes
            (raw / f"{split}-{kind}-ubyte").write_bytes(head + bytes(np.prod(shape)))
    shared = image_folder(root / "shared", splits=("train", "test"))
    shutil.rmtree(shared / "test" / "dog")
    (shared / "test" / "dog").symlink_to("../train/dog")
    image_folder(root / "circle")
    (root / "circle" / "train" / "dog" / "again").symlink_to(root / "circle" / "train" / "dog")


def bad_pools(root, fashion, teacher):
    """A distilled set (images), its label pool (labels.pt), and others that do not go together."""
    data = fashion._replace(runs=root / "runs")
    distilled = synthesize.distil("random", data, None, 2)
    images = root / "images"
    shutil.copytree(distilled.info["folder"], images)
    labels = lpqld.LabelSettings(batch_size=10, epochs=10, top_k=3)
    lpqld.make_pool(data, teacher, distilled, labels, 0, root / "labels.pt")
    shutil.copytree(images, root / "other-order")
    about = json.loads((images / "set.json").read_text())
    about["class_names"].reverse()
    (root / "other-order" / "set.json").write_text(json.dumps(about))
    shutil.copy(root / "labels.pt", root / "labels-short.pt")
    truncated(root / "labels-short.pt")
    kept = torch.load(root / "labels.pt", weights_only=True)
    kept["values"][0, 0] += 1
    torch.save(kept, root / "labels-altered.pt")
    torch.save({**kept, "values": kept["values"].to_sparse()}, root / "labels-sparse.pt")
    shutil.copy(root / "labels.pt", root / "ce")
    torch.save({"settings": {"format": "lpqld label pool 1"}}, root / "labels-older.pt")
    torch.save({"settings": {"format": None}}, root / "labels-odd.pt")
    kept["values"][0, 0] -= 1
    odd = {  # changes to the settings, and to the rest
        "words": ({"top_k": "3"}, {}),
        "none": ({"batch_size": None}, {}),
        "epochs": ({"epochs": 20}, {}),
        "seed": ({"seed": -1}, {}),
        "mix": ({"mix": "mixup"}, {}),
        "p": ({"prune": 1.0}, {}),
        "flip": ({"flip": 2}, {}),
        "nan": ({}, {"values": kept["values"] * float("nan")}),
        "flat": ({}, {"values": kept["values"].flatten()}),
        "planes": ({}, {"classes": kept["classes"] | 255}),
        "few": ({}, {"classes": kept["classes"][:, :-1]}),
    }
    for name, (settings, more) in odd.items():
        content = {
            "settings": kept["settings"] | settings,
            "values": kept["values"],
            "classes": kept["classes"],
            **more,
        }
        torch.save({**content, "digest": common.digest(content)}, root / f"labels-odd-{name}.pt")
    shutil.copytree(images, root / "pixel")
    for name in ("set.json", "settings.json"):
        (root / "pixel" / name).unlink()
    changed = root / "pixel" / "00004" / "00001.png"
    image = Image.open(changed)
    image.putpixel((7, 9), (1, 2, 3))
    image.save(changed)
    other = common.build_model("conv3", 10, 32, 8)
    other.load_state_dict(teacher.model.state_dict())
    with torch.no_grad():
        other.classifier.bias[0] += 0.001
    torch.save({"model": other.state_dict()}, root / "other-teacher.pt")
    write_numbered(root / "two-classes", classes=2)


@pytest.fixture(scope="module")
def bad(tmp_path_factory, small_teacher, fashion):
    root, teacher = tmp_path_factory.mktemp("bad"), small_teacher[1]
    bad_teachers(root, teacher.info["file"])
    bad_sets(root)
    bad_data_files(root)
    bad_data_sets(root)
    bad_pools(root, fashion, teacher)
    return root, teacher.info["file"]


# --- what lies under --out is damaged before the script runs


def flip_a_bit(file):
    """In the middle of the largest tensor of a torch file, which is an archive of plain bytes."""
    largest = max(zipfile.ZipFile(file).infolist(), key=lambda record: record.file_size)
    tensor = zipfile.ZipFile(file).read(largest)
    content = bytearray(file.read_bytes())
    content[content.index(tensor) + len(tensor) // 2] ^= 4
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


def of_another_stage(file):
    """A file of this name and of another stage."""
    content = common.load(file)
    common.save(file.parent.parent / "elsewhere" / file.name, content)
    shutil.move(file.parent.parent / "elsewhere" / file.name, file)


def of_another_seed(file):
    """Labels of another seed, whole in themselves."""
    kept = common.load(file)
    content = {name: kept[name] for name in kept if name != "digest"}
    content["settings"]["seed"] = 1
    common.save(file, {**content, "digest": common.digest(content)})


def one_more(folder):
    picture(folder / "00003" / "00002.png")


def link_to_nowhere(path):
    path.symlink_to(path.parent / "nowhere")


def broken_link(folder):
    link_to_nowhere(folder / "00003" / "2.png")


def folder_instead(file):
    file.unlink()
    file.mkdir()


def file_instead(folder):
    shutil.rmtree(folder)
    folder.write_text("")


def link_instead(folder):
    shutil.rmtree(folder)
    link_to_nowhere(folder)


def left(name):
    """As a killed run leaves a stage, but for the content of this file."""

    def leave(folder):
        for whole in ("teacher.pt", "set.json", "statistics.pt", "labels.pt", "seed0.json"):
            (folder / whole).unlink(missing_ok=True)
        (folder / name).write_bytes(b"garbage")

    return leave


RUN_GIFT = "gift --images random --ipc 2 --epochs 1 --teacher-epochs 2"
RUN_LPQLD = "lpqld --images random --ipc 2 --epochs 10 --teacher-epochs 2"
RUN_LPLD = "synthesize --method lpld --ipc 2 --teacher-epochs 2"
STATISTICS = "synthesize --method lpld --ipc 1 --teacher-epochs 2"  # reads them; lpld-ipc2 does not, it is there


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An --out with every kind of stage: what the three commands make."""
    out = tmp_path_factory.mktemp("finished")
    setting = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=3, roll=(0, 4), crop=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(synthesize.SRE2L, "fashion", setting)
        for command in (RUN_GIFT, RUN_LPQLD, RUN_LPLD):
            script, *words = command.split()
            SCRIPTS[script].main([*words, "--width", "8", "--device", "cpu", "--out", str(out)])
    assert len(list((out / "fashion").iterdir())) == 8
    return out


# --- the table: what is wrong: (the command, what the line must say, what is done to which path under --out)
# {b} is the folder of bad things, {t} the small teacher; --out is empty, or finished() if something is done to it

REFUSED = {
    # options
    "unknown option": ("gift --nosuch 3", "nosuch"),
    "abbreviated: gift": ("gift --epoch 3", "--epoch"),
    "abbreviated: lpqld": ("lpqld --repeat 3", "--repeat"),
    "abbreviated: synthesize": ("synthesize --meth random", "--meth"),
    "abbreviated: evaluate": ("evaluate --images {b}/good --loss kl", "--loss"),
    "ipc 0": ("gift --ipc 0", "ipc"),
    "ipc 0, synthesize": ("synthesize --ipc 0", "ipc"),
    "ipc negative": ("gift --ipc -3", "ipc"),
    "ipc words": ("gift --ipc ten", "ipc"),
    "epochs 0": ("gift --epochs 0", "epochs"),
    "repeats 0": ("gift --repeats 0", "repeats"),
    "repeats 0, evaluate": ("evaluate --images {b}/good --repeats 0", "repeats"),
    "negative seed": ("gift --seed -1", "seed"),
    "a seed too large for numpy": ("gift --seed 4294967296", "seed"),
    "width 0": ("gift --width 0", "width"),
    "lr 0": ("gift --lr 0", "lr"),
    "lr not a number": ("gift --lr nan", "lr"),
    "side 7": ("gift --image-size 7", "image-size"),
    "top-k 0": ("lpqld --top-k 0", "top-k"),
    "prune 1": ("lpqld --prune 1", "prune"),
    "prune below 0": ("lpqld --prune -0.1", "prune"),
    "prune not a number": ("lpqld --prune nan", "prune"),
    "prune is two dashes": ("lpqld --prune=--", "prune"),
    "an unknown schedule": ("lpqld --reuse linear", "linear"),
    "an unknown mix": ("lpqld --mix mixup", "mixup"),
    "an unknown protocol": ("lpqld --protocol cifar10", "cifar10"),
    "an unknown method": ("synthesize --method magic", "magic"),
    "an unknown loss": ("gift --loss l7", "l7"),
    "an unknown loss, evaluate": ("evaluate --images {b}/good --losses l7", "l7"),
    "an unknown optimizer": ("gift --optimizer lion", "lion"),
    "an unknown optimizer, evaluate": ("evaluate --images {b}/good --optimizers lion", "lion"),
    "unknown colours": ("gift --colours sepia", "sepia"),
    "an unknown precision": ("gift --precision fp8", "fp8"),
    "no such device": ("gift --device warp", "warp"),
    "no such GPU": ("gift --device cuda:99", "cuda:99"),
    "a device that cannot compute": ("gift --device meta", "cpu, cuda, mps, xpu"),
    "a device that cannot compute, lpqld": ("lpqld --device hpu", "cpu, cuda, mps, xpu"),
    "a device that cannot compute, synthesize": ("synthesize --device privateuseone", "cpu, cuda, mps, xpu"),
    "a device that cannot compute, evaluate": ("evaluate --images rded --device meta", "cpu, cuda, mps, xpu"),
    "a teacher and how to train it": ("gift --teacher {t} --teacher-epochs 2", "--teacher-epochs"),
    "a teacher for random images": ("synthesize --method random --teacher {t}", "--method random"),
    "a factor without mosaics": ("synthesize --method sre2l --factor 2", "--factor"),
    "ipc of a set that is there": ("evaluate --images {b}/good --ipc 1", "--ipc"),
    "evaluate without images": ("evaluate", "--images"),
    "an ablation of nothing": ("lpqld --ablation --no-calibration", "--no-calibration"),
    "an ablation without reuse": ("lpqld --ablation --reuse none", "--reuse"),
    "RDED's protocol with adam": ("evaluate --images {b}/good --protocol rded --optimizers adam", "adamw, sgd"),
    # what is asked for cannot be had: all of it is found before a teacher is trained
    "wrong side for a set": ("gift --image-size 64", "32 px"),
    "ipc above what RDED looks at": ("gift --ipc 301", "300"),
    "ipc above the class": ("gift --images random --ipc 501", "500"),
    "ipc above the class, evaluate": ("evaluate --images random --ipc 501", "500"),
    "mosaics of more than there is": ("synthesize --method rded --factor 2 --ipc 100", "75"),
    "factor that does not divide": ("synthesize --method rded --factor 3", "factor 3"),
    "view factor that does not divide": ("gift --images {b}/good --view-factor 3", "view-factor 3"),
    "view factor that does not divide, evaluate": ("evaluate --images {b}/good --view-factor 3", "view-factor 3"),
    "no such network": ("gift --arch conv9", "conv9"),
    "no such network, evaluate": ("evaluate --images {b}/good --archs conv3 conv9", "conv9"),
    "network too deep for the side": ("gift --arch conv6", "conv6"),
    "network too deep for the side, evaluate": ("evaluate --images {b}/good --archs conv3 conv6", "conv6"),
    "network too deep for the side, lpqld": ("lpqld --arch conv6", "conv6"),
    "no such teacher network": ("gift --teacher-arch resnet1", "resnet1"),
    "teacher network too deep for the side": ("gift --teacher-arch conv6", "conv6"),
    "LPLD without BatchNorm": ("synthesize --method lpld --teacher-arch vgg11", "vgg11"),
    "SRe2L without BatchNorm": ("synthesize --method sre2l --teacher-arch vgg11", "vgg11"),
    "LPQLD without BatchNorm": ("lpqld --teacher-arch vgg11", "vgg11"),
    "top-k above C": ("lpqld --top-k 11", "10 classes"),
    "one label: more logits than classes": ("one_label --logits 11", "fashion has 10 classes"),
    "one label: a loss of all logits": ("one_label --logits 3 --loss gift", "gift needs all logits"),
    "one label: a view factor that does not divide": ("one_label --view-factor 3", "view-factor 3"),
    "one label: images nowhere": ("one_label --images {b}/nowhere", "nowhere"),
    "more labels than memory": ("lpqld --epochs 2147483648", "GB"),
    "a pool smaller than one epoch": ("lpqld --prune 0.999", "leaves 2 label batches of 20, and one epoch takes 5"),
    "a pool smaller than one epoch, of a set": ("lpqld --images {b}/images --prune 0.999", "one epoch takes 2"),
    "batches of one": ("lpqld --batch-size 1", "batch-size"),
    "batches larger than the set": ("lpqld --batch-size 101", "to 100 (the number of images)"),
    "more memory than there is": ("gift --width 4000000", "memory"),
    "a damaged test image": ("gift --dataset {b}/rotten-test --ipc 1", "test/dog/3.png"),
    "a damaged training image": ("gift --dataset {b}/rotten --ipc 1", "train/dog/3.png"),
    "a test image of 16 bits": ("gift --dataset {b}/deep --ipc 1", "I;16"),
    "a training image that is a FIFO": ("gift --dataset {b}/fifo-train --ipc 1", "train/dog/3.png"),
    "a test image that is a FIFO": ("gift --dataset {b}/fifo-test --ipc 1", "test/dog/3.png"),
    # data sets
    "unknown data set": ("gift --dataset nosuch", "nosuch"),
    "unknown data set, synthesize": ("synthesize --dataset nosuch", "nosuch"),
    "missing directory": ("gift --dataset {b}/nowhere", "nowhere"),
    "a file as data set": ("gift --dataset {b}/file", "file"),
    "a FIFO as data set": ("gift --dataset {b}/fifo.pt", "fifo.pt"),
    "a link to itself as data set": ("gift --dataset {b}/loop", "loop"),
    "a data set in nobody's home": ("gift --dataset ~nobody-here/x", "nobody-here"),
    "no train": ("gift --dataset {b}/flat", "train/"),
    "no test": ("gift --dataset {b}/train-only", "val/"),
    "uneven classes": ("gift --dataset {b}/uneven", "dog"),
    "one class": ("gift --dataset {b}/single", "two"),
    "a class without images": ("gift --dataset {b}/hollow-pets", "dog"),
    "a link that leads back": ("gift --dataset {b}/circle", "again"),
    "test images of one class by a link to train": ("gift --dataset {b}/shared", "same folder"),
    "test images by a link to train": ("gift --dataset {b}/same-False", "same folder"),
    "test images copied from train": ("gift --dataset {b}/same-True", "images are the same"),
    "an image ten million pixels wide": ("gift --dataset {b}/wide --image-size 32", "test/dog/3.png"),
    "fashionmnist of another side": ("gift --dataset fashionmnist --data-root {b}", "[6, 20, 20]"),
    "annotations that are no table": ("gift --dataset {b}/annotated", "val_annotations.txt"),
    "annotations that are a FIFO": ("gift --dataset {b}/fifo-annotated", "val_annotations.txt"),
    "imagenet not there": ("gift --dataset imagenet-1k --data-root {b}", "fashion needs no files"),
    "tiny not there": ("gift --dataset tinyimagenet --data-root {b}", "tiny-imagenet-200.zip"),
    # distilled sets: class folders
    "images nowhere": ("gift --images {b}/nowhere", "nowhere"),
    "images nowhere, lpqld": ("lpqld --images {b}/nowhere", "nowhere"),
    "images nowhere, evaluate": ("evaluate --images {b}/nowhere", "nowhere"),
    "images: a text file": ("gift --images {b}/file", "file"),
    "images: an empty folder": ("gift --images {b}/flat", "no images"),
    "images: empty class folders": ("gift --images {b}/hollow", "no images"),
    "images: an empty class folder": ("gift --images {b}/hollow-class", "9 classes"),
    "images: too few classes": ("gift --images {b}/nine", "9 classes"),
    "images: one good, one bad": ("evaluate --images {b}/good {b}/nine", "9 classes"),
    "images: too many classes": ("gift --images {b}/eleven", "11 classes, the last one number 10"),
    "images: wrong side": ("gift --images {b}/large", "64"),
    "images: several sides": ("gift --images {b}/mixed", "px, not 32 (--image-size)"),
    "images: names that say nothing": ("gift --images {b}/named", "thing0x"),
    "images: a name that is not UTF-8": ("gift --images {b}/not-utf8", "not-utf8"),
    "images: a class of twenty digits": ("gift --images {b}/huge-number", "10000000000000000000"),
    "images: a class numbered twice": ("gift --images {b}/twice", "same number"),
    "images: a corrupt file": ("gift --images {b}/corrupt", "00003"),
    "images: a file of 16 bits": ("gift --images {b}/16-bit", "I;16"),
    "images: a file of floats": ("gift --images {b}/floats", "(F)"),
    "images: a FIFO": ("gift --images {b}/fifo", "00003/00000.png is no file"),
    "images: another ipc": ("gift --images {b}/good --ipc 5", "--ipc 5"),
    "images: of another data set, say the settings": ("evaluate --images {b}/of-cifar10", "cifar10"),
    "images: of other classes": ("gift --images {b}/other-order", "class 0 was 'Ankle boot', here 'T-shirt/top'"),
    "images: a damaged set.json": ("gift --images {b}/damaged-set", "set.json is damaged"),
    "images: a set.json that leads out of --out": ("gift --images {b}/escaping", "its method, IPC or factor"),
    "images: a link to another class": ("gift --images {b}/linked", "same folder"),
    "images: a set.json of others": ("gift --images {b}/set-of-others", "or not of this code"),
    "images: a student's folder": ("gift --images {b}/student", "no images"),
    "images: unfinished": ("gift --images {b}/unfinished", "unfinished"),
    "images: a link to itself": ("gift --images {b}/loop", "loop"),
    "images in nobody's home": ("gift --images ~nobody-here/x", "nobody-here"),
    "images in nobody's home, evaluate": ("evaluate --images ~nobody-here/x", "nobody-here"),
    # distilled sets: data.pt
    "data.pt: a FIFO": ("gift --images {b}/fifo.pt", "fifo.pt"),
    "data.pt: truncated": ("evaluate --images {b}/data-short.pt", "truncated"),
    "data.pt: a pickle that would run code": ("evaluate --images {b}/data-evil.pt", "would run code"),
    "data.pt: of another data set": ("evaluate --images {b}/data-cifar.pt", "CIFAR10"),
    "data.pt: labels for other images": ("gift --images {b}/data-lengths.pt", "label"),
    "data.pt: values outside 0 to 1": ("gift --images {b}/data-range.pt", "outside"),
    "data.pt: integers of 64 bits": ("gift --images {b}/data-integers.pt", "neither bytes nor finite floats"),
    "data.pt: pixels that are not numbers": ("gift --images {b}/data-nan-pixels.pt", "neither bytes nor finite floats"),
    "data.pt: complex pixels": ("gift --images {b}/data-complex.pt", "data-complex.pt"),
    "data.pt: labels between classes": ("gift --images {b}/data-between.pt", "class index"),
    "data.pt: negative labels": ("gift --images {b}/data-negative.pt", "class index"),
    "data.pt: labels beyond memory": ("gift --images {b}/data-huge.pt", "9000000000000"),
    "data.pt: soft labels that are not numbers": ("gift --images {b}/data-nan-labels.pt", "data-nan-labels.pt"),
    "data.pt: soft labels without a largest class": ("gift --images {b}/data-no-class.pt", "all equal"),
    **{
        f"data.pt: mean and std, {name}": (f"gift --images {{b}}/data-mean-{name}.pt", "not three numbers each")
        for name in ("std", "short", "words")
    },
    "data.pt: mean and std of bytes": ("gift --images {b}/data-mean-bytes.pt", "are for floats"),
    "data.pt: a mean without std": ("gift --images {b}/data-mean.pt", "only one"),
    "data.pt: of none": ("gift --images {b}/data-none.pt", "data-none.pt"),
    "data.pt: another side": ("evaluate --images {b}/data-large.pt", "64"),
    "data.pt: one colour": ("gift --images {b}/data-grey.pt", "1 x 32 x 32"),
    "data.pt: sparse pixels": ("gift --images {b}/data-sparse.pt", "data-sparse.pt"),
    "data.pt: quantized pixels": ("gift --images {b}/data-quantized.pt", "data-quantized.pt"),
    "data.pt: pixels on no device": ("gift --images {b}/data-meta.pt", "data-meta.pt"),
    "data.pt: labels on no device": ("gift --images {b}/data-meta-labels.pt", "data-meta-labels.pt"),
    "data.pt: words for labels": ("gift --images {b}/data-words.pt", "data-words.pt"),
    "data.pt: no labels": ("gift --images {b}/data-alone.pt", "data-alone.pt"),
    "data.pt: a list": ("gift --images {b}/data-list.pt", "data-list.pt"),
    # teachers
    "teacher nowhere": ("gift --teacher {b}/nowhere.pt", "nowhere.pt"),
    "teacher nowhere, evaluate": ("evaluate --images {b}/good --teacher {b}/nowhere.pt", "nowhere.pt"),
    "teacher: a folder": ("gift --teacher {b}", "no file"),
    "teacher: a FIFO": ("gift --teacher {b}/fifo.pt", "no file"),
    "teacher: a link to itself": ("gift --teacher {b}/loop", "loop"),
    "teacher in nobody's home": ("gift --teacher ~nobody-here/x", "nobody-here"),
    "teacher truncated": ("gift --teacher {b}/truncated.pt", "truncated"),
    "teacher truncated, synthesize": ("synthesize --method lpld --teacher {b}/truncated.pt", "truncated"),
    "teacher with a flipped bit": ("gift --teacher {b}/flipped.pt", "flipped.pt"),
    "teacher empty": ("gift --teacher {b}/empty.pt", "empty.pt"),
    "teacher that would run code": ("synthesize --method lpld --teacher {b}/evil.pt", "would run code"),
    "teacher: a list": ("gift --teacher {b}/list.pt", "state dict"),
    "teacher: numbers for names": ("gift --teacher {b}/numbers.pt", "state dict"),
    "teacher: nothing": ("gift --teacher {b}/nothing.pt", "state dict"),
    "teacher for other classes": ("gift --teacher {b}/classes.pt", "100"),
    "teacher for another side": ("gift --teacher {b}/side.pt", "side.pt"),
    "teacher of another network": ("gift --teacher {t} --teacher-arch conv4", "conv4"),
    "teacher near chance": ("gift --teacher {b}/untrained.pt", "chance"),
    "teacher not finite": ("gift --teacher {b}/nan.pt", "chance"),
    "teacher: quantized weights": ("gift --teacher {b}/quantized.pt", "quantized.pt"),
    "teacher: sparse weights": ("gift --teacher {b}/sparse.pt", "sparse.pt"),
    "teacher: weights on no device": ("gift --teacher {b}/meta.pt", "meta.pt"),
    "teacher: one number for a layer": ("gift --teacher {b}/scalar.pt", "scalar.pt"),
    "teacher: a layer without channels": ("gift --teacher {b}/no-channels.pt", "no-channels.pt"),
    # label pools
    "teacher: logits beyond fp16": ("lpqld --teacher {b}/large.pt --images {b}/good --prune 0", "fp16"),
    "teacher: logits beyond fp16, one label": ("one_label --teacher {b}/large.pt --images {b}/good", "fp16"),
    "labels and how to make them": ("lpqld --images {b}/images --labels {b}/labels.pt --prune 0.5", "--prune"),
    "labels, and nothing pruned": ("lpqld --images {b}/images --labels {b}/labels.pt --prune 0", "--prune"),
    "labels and an ablation": ("lpqld --images {b}/images --labels {b}/labels.pt --ablation", "--ablation"),
    "labels for images not named": ("lpqld --labels {b}/labels.pt", "--images FOLDER"),
    "labels of two sets": ("evaluate --images {b}/good {b}/nine --labels {b}/labels.pt", "one folder as --images"),
    "labels and losses": ("evaluate --images {b}/images --labels {b}/labels.pt --losses kl", "--losses"),
    "labels and factor": ("evaluate --images {b}/images --labels {b}/labels.pt --view-factor 2", "--view-factor"),
    "labels nowhere": ("lpqld --images {b}/images --labels {b}/nowhere.pt", "nowhere.pt"),
    "labels nowhere, evaluate": ("evaluate --images {b}/good --labels {b}/nowhere.pt", "nowhere.pt"),
    "labels: a FIFO": ("lpqld --images {b}/images --labels {b}/fifo.pt", "no file"),
    "labels truncated": ("lpqld --images {b}/images --labels {b}/labels-short.pt", "truncated"),
    "labels altered": ("lpqld --images {b}/images --labels {b}/labels-altered.pt", "altered"),
    "labels: sparse tensors": ("lpqld --images {b}/images --labels {b}/labels-sparse.pt", "altered"),
    "labels of an older format": ("lpqld --images {b}/images --labels {b}/labels-older.pt", "label pool 1"),
    **{
        f"labels with odd {name}": (
            f"lpqld --images {{b}}/images --labels {{b}}/labels-odd-{name}.pt", "does not hold what its settings say"
        )
        for name in ("words", "none", "epochs", "seed", "mix", "p", "flip", "nan", "flat", "planes", "few")
    },
    "labels of no format": ("lpqld --images {b}/images --labels {b}/labels-odd.pt", "something else"),
    "labels: a teacher": ("lpqld --images {b}/images --labels {t}", "something else"),
    "labels: a teacher, evaluate": ("evaluate --images {b}/good --labels {t}", "something else"),
    "labels: images of one pixel changed": ("lpqld --images {b}/pixel --labels {b}/labels.pt", "images (hash)"),
    "labels of another set": ("lpqld --images {b}/good --labels {b}/labels.pt", "number of images"),
    "labels of another set, evaluate": ("evaluate --images {b}/good --labels {b}/labels.pt", "number of images"),
    "labels of another teacher": (
        "lpqld --images {b}/images --labels {b}/labels.pt --teacher {b}/other-teacher.pt", "teacher (hash)"
    ),
    "labels of another teacher, evaluate": (
        "evaluate --images {b}/images --labels {b}/labels.pt --teacher {b}/other-teacher.pt", "teacher (hash)"
    ),
    "labels, and a teacher to train": (
        "lpqld --images {b}/images --labels {b}/labels.pt --teacher-epochs 2", "--teacher-epochs"
    ),
    "labels, and a teacher to train, evaluate": (
        "evaluate --images {b}/images --labels {b}/labels.pt --teacher-epochs 2", "--teacher-epochs"
    ),
    "labels of another data set": (
        "lpqld --dataset {b}/pets --images {b}/two-classes --labels {b}/labels.pt", "data set"
    ),
    # where nothing can be written
    "out is empty": ("gift --out=", "--out"),
    "out is a file": ("gift --teacher {t} --images {b}/good --out {b}/file", "file"),
    "out is a file, evaluate": ("evaluate --images {b}/good --teacher {t} --out {b}/file", "file"),
    "out is a FIFO": ("gift --out {b}/fifo.pt", "fifo.pt"),
    "out is a link to itself": ("gift --out {b}/loop", "loop"),
    "out in nobody's home": ("gift --out ~nobody-here/x", "nobody-here"),
    "out below a file": ("gift --out {b}/file/runs", "file"),
    "out below a device": ("lpqld --out /dev/full/x", "/dev/full"),
    "out cannot be made": ("synthesize --method random --out /proc/runs", "/proc/runs"),
    "out in the data set": ("gift --dataset {b}/pets --out {b}/pets/runs", "lies in"),
    "out in a class": ("synthesize --dataset {b}/pets --method random --ipc 1 --out {b}/pets/train/cat", "lies in"),
    "out is the distilled set": ("gift --teacher {t} --images {b}/good --epochs 1 --out {b}/good", "good"),
    "out in the distilled set": ("evaluate --teacher {t} --images {b}/good --epochs 1 --out {b}/good/runs", "good"),
    # what goes wrong on the way
    "a loss that is not finite": (
        "gift --teacher {t} --images {b}/good --loss mse --lr 1e9 --epochs 30", "diverged"
    ),
    # what lies under --out
    "under out: a flipped bit": (RUN_GIFT, "teacher.pt is damaged", flip_a_bit, "teacher-*/teacher.pt"),
    "under out: a teacher cut short": (RUN_GIFT, "teacher.pt is damaged", truncated, "teacher-*/teacher.pt"),
    "under out: an empty teacher": (RUN_LPQLD, "teacher.pt is damaged", emptied, "teacher-*/teacher.pt"),
    "under out: a folder for a teacher": (RUN_GIFT, "teacher.pt is damaged", folder_instead, "teacher-*/teacher.pt"),
    "under out: another teacher": (RUN_GIFT, "another stage", of_another_stage, "teacher-*/teacher.pt"),
    "under out: a teacher's progress": (RUN_GIFT, "progress.pt is damaged", left("teacher.progress.pt"), "teacher-*"),
    "under out: a student cut short": (RUN_GIFT, "seed0.json is damaged", truncated, "gift-*/seed0.json"),
    "under out: an empty student": (RUN_GIFT, "seed0.json is damaged", emptied, "gift-*/seed0.json"),
    "under out: another student": (RUN_GIFT, "another stage", of_another_stage, "gift-*/seed0.json"),
    "under out: a student's progress": (RUN_GIFT, "progress.pt is damaged", left("seed0.progress.pt"), "gift-*"),
    "under out: a folder for a result": (RUN_GIFT, "cannot be written", folder_instead, "gift-*/result.json"),
    "under out: an accuracy": (RUN_GIFT, "accuracy.json is damaged", truncated, "accuracy-*/accuracy.json"),
    "under out: statistics": (STATISTICS, "statistics.pt is damaged", truncated, "statistics-*/statistics.pt"),
    "under out: a piece of them": (STATISTICS, "classes-0-1.pt is damaged", left("classes-0-1.pt"), "statistics-*"),
    "under out: recovered groups": (RUN_LPLD, "groups-0-1.pt is damaged", left("groups-0-1.pt"), "lpld-*"),
    "under out: a recovery's progress": (
        RUN_LPLD, "groups-0-1.progress.pt is damaged", left("groups-0-1.progress.pt"), "lpld-*"
    ),
    "under out: labels with a flipped bit": (RUN_LPQLD, "labels.pt", flip_a_bit, "labels-*/labels.pt"),
    "under out: labels cut short": (RUN_LPQLD, "labels.pt", truncated, "labels-*/labels.pt"),
    "under out: labels of another seed": (RUN_LPQLD, "other settings", of_another_seed, "labels-*/labels.pt"),
    "under out: a piece of labels": (RUN_LPQLD, "labels-0-1.pt is damaged", left("labels-0-1.pt"), "labels-*"),
    "under out: a picture missing": (RUN_GIFT, "not as it was made", Path.unlink, "random-*/00003/00000.png"),
    "under out: a picture too many": (RUN_LPQLD, "not as it was made", one_more, "random-*"),
    "under out: a picture changed": (RUN_GIFT, "not as it was made", picture, "random-*/00003/00000.png"),
    "under out: a picture cut short": (RUN_GIFT, "00003/00000.png", truncated, "random-*/00003/00000.png"),
    "under out: a link to no picture": (RUN_GIFT, "00003/2.png", broken_link, "random-*"),
    "under out: a set.json cut short": (RUN_GIFT, "set.json is damaged", truncated, "random-*/set.json"),
    "under out: a file for a stage": (RUN_GIFT, "cannot be written", file_instead, "random-*"),
    "under out: a link to nowhere for a stage": (RUN_GIFT, "cannot be written", link_instead, "random-*"),
    "under out: a file for the data set's folder": (RUN_GIFT, "cannot be written", file_instead, ""),
    "under out: a link to nowhere for the data set's folder": (RUN_GIFT, "cannot be written", link_instead, ""),
}  # fmt: skip
QUICK = {  # of every group one or two; the others are slow together
    "abbreviated: gift",
    "view factor that does not divide",
    "a pool smaller than one epoch",
    "a damaged test image",
    "images: one good, one bad",
    "images: a corrupt file",
    "data.pt: a pickle that would run code",
    "teacher truncated, synthesize",
    "labels: images of one pixel changed",
    "out in the data set",
}


def cases() -> list:
    rows = []
    for what in REFUSED:
        marks = [] if what in QUICK else [pytest.mark.slow]
        rows.append(pytest.param(what, marks=marks, id=what.replace(" ", "-").replace(":", "")))
    return rows


# finished work of the stages before the one that complains; images-....pt are decoded pictures
MADE_BEFORE = re.compile(r"(settings|accuracy)\.json|(images-\w+|(classes|groups)-\d+-\d+)\.(pt|json)")


def contents(*folders) -> dict:
    """Every regular file there, and what it holds."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def prepare(command, bad, out) -> tuple:
    """(script, words) of a row."""
    root, teacher = bad
    script, *words = command.format(b=root, t=teacher).split()
    given = {word.partition("=")[0] for word in words}
    for option, value in (("--out", out), ("--width", 8), ("--device", "cpu")):
        if option not in given:
            words += [option, str(value)]
    return SCRIPTS[script], words


@pytest.mark.parametrize("what", cases())
def test_bad_input_is_one_line_and_status_2(what, bad, in_process, tmp_path, request):
    command, expected, *damage = REFUSED[what]
    out = tmp_path / "runs"
    if damage:
        shutil.copytree(request.getfixturevalue("finished"), out)
        change, where = damage
        change(only(out, f"*/{where}"))
    script, words = prepare(command, bad, out)
    before = contents(tmp_path, bad[0])
    status, shown, err = in_process(script, *words)
    assert status == 2, (shown, err)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in err, err
    assert err.splitlines()[-1] == lines[0]
    after = contents(tmp_path, bad[0])
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert [path for path in changed if not MADE_BEFORE.fullmatch(path.name)] == []
    assert not (bad[0] / "evil").exists()


def test_every_quick_row_is_in_the_table():
    assert set(REFUSED) >= QUICK


@pytest.mark.slow
def test_a_table_of_which_every_row_fails(bad, in_process, tmp_path):
    command = "evaluate --teacher {b}/large.pt --images random --ipc 1 --losses mse --epochs 1 --repeats 1"
    script, words = prepare(command, bad, tmp_path)
    status, _, err = in_process(script, *words)
    assert status == 2 and "error: every row failed" in err.splitlines()[-1] and "diverged" in err


@pytest.mark.slow
def test_in_a_process_of_its_own(run, tmp_path):
    for script, words in (("gift.py", ["--ipc", "0"]), ("synthesize.py", ["--method", "magic"])):
        done = run(script, *words, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(in_process, tmp_path):
    tmp_path.chmod(0o500)
    status, _, err = in_process(gift, "--out", tmp_path / "runs", "--device", "cpu")
    assert status == 2 and "cannot be written" in err and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--images", "--dataset"])
def test_a_class_folder_that_may_not_be_read(in_process, tmp_path, monkeypatch, option):
    """It is no class without images. (Root may read everything: here the system's answer is made up.)"""
    place = write_numbered(tmp_path / "set") if option == "--images" else image_folder(tmp_path / "set")
    closed = str(next(place.glob("**/dog" if option == "--dataset" else "00003")))
    scandir = os.scandir

    def refuse(path="."):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, _, err = in_process(gift, option, place, "--device", "cpu", "--out", tmp_path / "runs")
    assert status == 2 and "Permission denied" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_disk_that_is_full(in_process, bad, tmp_path):
    """Here: files may have 4 kB, and labels.pt has more. When there is room again, the same command goes on."""
    _, teacher = bad
    words = ("--teacher", teacher, "--width", 8, "--device", "cpu", "--images", "random", "--ipc", 5, "--epochs", 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        status, _, err = in_process(lpqld, *words, "--out", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and "cannot be written" in err.splitlines()[-1] and "Is the disk full?" in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".")]
    status, _, err = in_process(lpqld, *words, "--out", tmp_path)
    assert status == 0, err


# --- odd input that is taken: what: (the command, what is shown); {b} and {t} as above

GIFT = "gift --teacher {t} --epochs 1 --images "
TAKEN = {
    "a teacher sorted by name, with prefixes, beside a path": (GIFT + "{b}/good --teacher {b}/under-net-model.pt", ""),
    "a teacher that was compiled": (GIFT + "{b}/good --teacher {b}/under-net-_orig_mod.module.pt", ""),
    "a teacher that was better": (GIFT + "{b}/good --teacher {b}/once-better.pt", "or other colours (--colours)"),
    "data.pt: lists": (GIFT + "{b}/data-lists.pt", ""),
    "data.pt: labels as one-hot bools": (GIFT + "{b}/data-one-hot.pt", ""),
    "data.pt: labels of 16 bits": (GIFT + "{b}/data-uint16.pt", ""),
    "data.pt: the data set's name in another spelling": (GIFT + "{b}/data-spelt.pt", ""),
    "data.pt: class folders beside it": (GIFT + "{b}/both", "not the folders beside it"),
    "class folders spelt in many ways, files that are no images": (GIFT + "{b}/many-spellings", "2 files"),
    "validation/ and an empty folder": ("synthesize --method random --ipc 1 --dataset {b}/validated", "picture:"),
    "a bar in a set's name": ("evaluate --teacher {t} --epochs 1 --repeats 1 --losses ce --images {b}/a|b", "table:"),
    "a pool that is called ce": ("evaluate --images {b}/images --labels {b}/ce --epochs 1 --repeats 1", "table:"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", TAKEN)
def test_odd_input_is_taken(what, bad, in_process, tmp_path):
    command, expected = TAKEN[what]
    script, words = prepare(command, bad, tmp_path)
    status, shown, err = in_process(script, *words)
    assert status == 0 and expected in shown + err, (shown, err)
    for table in tmp_path.rglob("evaluate.md"):
        (bars,) = {line.count("|") for line in table.read_text().splitlines()[2:]}
        assert bars == 16


ODD_RUNS = ["{} >&-", "{} --help >&-", "{} 2>&-", "TORCHELASTIC_RUN_ID=x {}", "TORCHELASTIC_RUN_ID=x RANK=x {}"]


@pytest.mark.slow
@pytest.mark.parametrize("line", ODD_RUNS)
def test_closed_streams_and_half_of_torchruns_variables(line, tmp_path):
    script = Path(synthesize.__file__)
    command = f"{sys.executable} {script} --method random --ipc 1 --width 8 --device cpu --out {tmp_path}"
    done = subprocess.run(["bash", "-c", line.format(command)], capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == b""


# --- what is somebody else's, and no fault


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"[1, 2]", b"no JSON", b"\xff\xfe", b'{"lr": 0.1}', b"", None])
def test_settings_of_another_program_are_left_alone(content, bad, in_process, tmp_path):
    """Beside a set lies a settings.json that is none of ours; None: a FIFO of that name."""
    write_numbered(tmp_path / "theirs", ipc=1)
    file = tmp_path / "theirs" / "settings.json"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    words = ("--teacher", bad[1], "--images", tmp_path / "theirs", "--width", 8, "--device", "cpu", "--epochs", 1)
    status, shown, err = in_process(gift, *words, "--out", tmp_path / "runs")
    assert status == 0 and "last epoch" in shown, err
    assert content is None or file.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("script", ["gift", "evaluate"])
def test_names_that_are_not_utf8(script, bad, in_process, tmp_path):
    """Of files and folders: a name is bytes on Linux."""
    theirs = write_numbered(tmp_path / os.fsdecode(b"caf\xe9"), "{c:05d}/" + os.fsdecode(b"\xff") + "{i}.png", ipc=1)
    words = ("--teacher", bad[1], "--images", theirs, "--width", 8, "--device", "cpu", "--epochs", 1)
    status, _, err = in_process(SCRIPTS[script], *words, "--out", tmp_path / "runs")
    assert status == 0, err
    assert list((tmp_path / "runs").rglob("result.json"))


@pytest.mark.slow
def test_classes_whose_names_are_not_utf8(in_process, tmp_path):
    classes = [os.fsdecode(b"caf\xe9"), "dog"]
    for split in ("train", "test"):
        for c, name in enumerate(classes):
            for i in range(20):
                picture(tmp_path / "places" / split / name / f"{i}.png", 16, shade=40 + 150 * c + i + (split == "test"))
    words = ("--dataset", tmp_path / "places", "--teacher-epochs", 8, "--images", "random", "--ipc", 2)
    more = ("--epochs", 1, "--width", 8, "--device", "cpu", "--out", tmp_path / "runs")
    status, _, err = in_process(gift, *words, *more)
    assert status == 0, err


@pytest.mark.slow
def test_what_is_deleted_is_made_again(finished, in_process, tmp_path):
    """A file of a stage that is finished, and not its folder."""
    for file, command in (
        ("teacher-*/teacher.pt", RUN_GIFT),
        ("accuracy-*/accuracy.json", RUN_GIFT),
        ("random-*/set.json", RUN_GIFT),
        ("gift-*/seed0.json", RUN_GIFT),
        ("labels-*/labels.pt", RUN_LPQLD),
        ("statistics-*/statistics.pt", STATISTICS),
    ):
        out = tmp_path / file / "runs"
        shutil.copytree(finished, out)
        lost = only(out / "fashion", file)
        lost.unlink()
        script, words = prepare(command, (None, None), out)
        status, _, err = in_process(script, *words)
        assert status == 0 and lost.exists(), (file, err)
