"""What several test files need: files to read, a kill, and sets of any size."""

import json
import re

import numpy as np
import torch
from PIL import Image
from torch import nn

import common
import synthesize
from common import Dataset, Split, Teacher
from synthesize import Distilled

# --- files


def picture(path, side=32, seed=0, shade=None, size=None):
    """A small picture file; noise, or one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size or (side, side)
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    if shade is not None:
        pixels[:] = shade
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def image_folder(root, classes=("cat", "dog"), count=6, side=32, splits=("train", "test"), extension="png"):
    """A data set of class folders, all pictures noise."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                picture(root / split / name / f"{i}.{extension}", side, seed=1000 * s + 100 * c + i)
    return root


def shades(root):
    """A data set small enough for a ResNet-18 on a CPU: dark against light."""
    for s, split in enumerate(("train", "val")):
        for c, name in enumerate(("dark", "light")):
            for i in range(40):
                picture(root / split / name / f"{i}.png", 16, shade=40 + 150 * c + i + s)
    return root


def write_numbered(folder, name="{c:05d}/{i:05d}.{extension}", classes=10, ipc=2, extension="png"):
    """A distilled set. Image i of class c is of the shade 20 * c + i, so that a class misread is a class seen."""
    for c in range(classes):
        for i in range(ipc):
            picture(folder / name.format(c=c, i=i, extension=extension), shade=20 * c + i)
    return folder


def truncated(path):
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def only(folder, pattern):
    """The one path that matches. Folders of stages end in a hash."""
    (path,) = folder.glob(pattern)
    return path


# --- a kill


class Killed(BaseException):
    pass


def kill_at(monkeypatch, epoch):
    """Keep progress after every epoch, and stop right after the progress of `epoch` is written, as a kill would."""
    save = common.save

    def save_and_stop(path, content):
        save(path, content)
        if content.get("epoch") == epoch:
            raise Killed

    monkeypatch.setattr(common, "KEEP_EVERY", 0)
    monkeypatch.setattr(common, "save", save_and_stop)


# --- what a run leaves


def what_is_there(out) -> dict:
    """Every file that a run leaves and what it holds, without dates and seconds."""
    there = {}
    for path in out.rglob("*"):
        name = path.relative_to(out)
        if path.suffix == ".json":
            there[name] = timeless(json.loads(path.read_text()), str(out))
        elif path.suffix == ".pt":
            there[name] = timeless(common.load_tensors(path, "file"), str(out))
        elif path.is_file():
            there[name] = path.read_bytes() if path.suffix == ".png" else "written"
    return there


def leftovers(out) -> list:
    """Files that a finished run must have deleted: progress, pieces, half-written files."""
    piece = re.compile(r"\..*|(classes|groups|labels)-\d+-\d+\.pt|random\.pt|.*progress\.pt")
    return [path for path in out.rglob("*") if piece.fullmatch(path.name)]


def timeless(content, out):
    if isinstance(content, dict):
        passing = ("made_with", "seconds", "seconds_per_student")
        return {key: timeless(value, out) for key, value in content.items() if key not in passing}
    if isinstance(content, (list, tuple)):
        return [timeless(value, out) for value in content]
    if isinstance(content, torch.Tensor):
        return common.digest(content)
    return content.replace(out, "") if isinstance(content, str) else content


# --- sets of any size


class LinearTeacher(nn.Module):
    def __init__(self, num_classes, side):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * side * side, num_classes)

    def forward(self, x):
        return self.linear(x.flatten(1))


def made_up(num_classes, ipc, side, runs):
    """A data set, a distilled set (of the same images) and a teacher of any size; stages lie in `runs`."""
    torch.manual_seed(0)
    images = torch.randint(256, (num_classes * ipc, 3, side, side), dtype=torch.uint8)
    labels = torch.arange(num_classes).repeat_interleave(ipc)
    split = Split(labels, torch.device("cpu"), pixels=images, stored=images.numel())
    names = [f"class {c}" for c in range(num_classes)]
    data = Dataset("made-up", names, side, common.COLOURS["cifar"], "conv3", 8, 1, split, split, runs)
    digest = synthesize.digest_of(images, labels)
    info = {"name": "made-up", "folder": "made-up", "ipc": ipc, "count": len(images), "settings": {}, "digest": digest}
    model = LinearTeacher(num_classes, side).eval().requires_grad_(False)
    about = {"arch": "linear", "width": None, "accuracy": 0.0, "digest": common.digest(model.state_dict())}
    return data, Distilled(images, labels, info), Teacher(model, about)
