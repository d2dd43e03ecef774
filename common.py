"""What the scripts share: augmentation seeds, views, networks, data sets, teachers, stages, options.

A helper stands here when two scripts need it and no paper is about it; what a paper is about stands in its own script.
Seeds and views come first: they need torch and numpy alone and can be lifted out, and so can ConvNet.
"""

import argparse
import ctypes
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import socket
import statistics
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, distributed, nn
from torchvision.transforms import functional as pil_transforms
from tqdm import tqdm

# ---------------------------------------------------------------------------------------------------------------------
# Augmentation seeds: a view is a pure function of its seed


def random_stream(*seed: int) -> np.random.RandomState:
    """A stream of draws named by whole numbers, such as (run's seed, purpose, epoch, step).

    RandomState's streams are frozen for good (NEP 19), so a seed means the same view on every device and torch release;
    torch.Generator promises that for one release only.
    """
    return np.random.RandomState(seed)


def shuffled(count: int, *seed: int) -> Tensor:
    """0 ... count - 1 in the order that the seed names, int64 [count]."""
    return torch.from_numpy(random_stream(*seed).permutation(count))


# Purposes: they follow the run's seed, so that no two uses share a stream.
TEACHER, ORDER, VIEW, CHOICE, CROPS, NOISE, TILES, WEIGHTS, LABELS = range(9)


def seed_torch(*seed: int):
    """Seed torch's own generator, for fresh weights and for dropout. A student must not begin as its teacher did."""
    torch.manual_seed(int(random_stream(*seed).randint(2**31 - 1)))


def send(tensor: Tensor, device) -> Tensor:
    """A small host tensor to the device without stopping it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# ---------------------------------------------------------------------------------------------------------------------
# Views


def crop_boxes(u: np.ndarray, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> np.ndarray:
    """Random resized crops: uniforms [..., 10, 4] -> boxes [..., 4] (top, left, height, width) in whole pixels.

    As torchvision's RandomResizedCrop draws them: area uniform in `scale`, log aspect ratio uniform, the first of ten
    tries that fits; if none does, the largest central box within `ratio`.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * u[..., 1])
    h = np.rint(np.sqrt(area / aspect))
    w = np.rint(np.sqrt(area * aspect))
    top = np.floor(u[..., 2] * (height - h + 1))
    left = np.floor(u[..., 3] * (width - w + 1))
    fits = (h >= 1) & (w >= 1) & (h <= height) & (w <= width)
    tries = np.stack([top, left, h, w], -1)
    first = np.take_along_axis(tries, fits.argmax(-1)[..., None, None], -2)[..., 0, :]
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    central = np.array([(height - h) // 2, (width - w) // 2, h, w])
    return np.where(fits.any(-1)[..., None], first, central).astype(np.int64)


def crop_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Rows [N, size, side] that resample `length` pixels from `start` to `size`: bilinear, antialiased if it shrinks.

    A crop that reaches outside the image finds zeros there.
    """
    shrink = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * shrink
    pixel = torch.arange(side, device=start.device)
    weights = (1 - (pixel + 0.5 - centre).abs() / shrink.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None]))
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6)


def resized_crop(images: Tensor, boxes: Tensor, size: int, flip=None, roll=None) -> Tensor:
    """Crop boxes [N, 4] (top, left, height, width) of float images [N, C, H, W], resized to [N, C, size, size].

    Then mirrored where flip [N] is true, and rolled by roll [N, 2] pixels down and right. All of it is linear and acts
    on rows and columns apart, so a view is rows @ image @ columns': a batched product, differentiable, on any device.
    The resize is that of torchvision's resized_crop(antialias=True).
    """
    boxes = boxes.to(torch.float32)
    rows = crop_weights(boxes[:, 0], boxes[:, 2], images.shape[-2], size)
    columns = crop_weights(boxes[:, 1], boxes[:, 3], images.shape[-1], size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    if roll is not None:
        source = (torch.arange(size, device=images.device) - roll[:, :, None]) % size  # [N, 2, size]
        rows = rows.gather(1, source[:, 0, :, None].expand_as(rows))
        columns = columns.gather(1, source[:, 1, :, None].expand_as(columns))
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


@lru_cache
def colour_tensors(colours, device):
    """Mean and standard deviation of the colours, each [1, 3, 1, 1]; kept, as copying them costs a GPU a stop."""
    return [torch.tensor(values, device=device).view(1, 3, 1, 1) for values in colours]


def normalize(images: Tensor, colours, memory_format=torch.channels_last) -> Tensor:
    """uint8 images, or floats in [0, 1], [B, 3, S, S] -> float32 in units of the data set's colours."""
    mean, std = colour_tensors(colours, images.device)
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return ((x - mean) / std).contiguous(memory_format=memory_format)


VIEW_PIXELS = {"cpu": 10**5, "cuda": 4 * 10**6}  # on a CPU what its cache holds


def steps_together(steps, images_per_step, side, device):
    """Lists of consecutive steps whose views are made at once: those of VIEW_PIXELS pixels.

    A view is a function of its draws alone, so this changes no view; but at small sizes the launches of a view's forty
    operations would take a GPU as long as the networks do.
    """
    at_once = max(1, VIEW_PIXELS.get(device.type, 10**6) // (images_per_step * side**2))
    steps = list(steps)
    return [steps[i : i + at_once] for i in range(0, len(steps), at_once)]


def split_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The last partial batch is kept, as GIFT's release does; a last single image joins the one before (ours:
    BatchNorm on 1 x 1 maps refuses it)."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


# ---------------------------------------------------------------------------------------------------------------------
# Networks


class ConvNet(nn.Module):
    """depth x [conv 3x3, BatchNorm, ReLU, 2x2 average pool], then one linear layer on the flattened map.

    Parameter names are those of RDED's and GIFT's checkpoints: layers.conv.{i}, layers.norm.{i}, classifier.
    """

    def __init__(self, depth, num_classes, image_size, width=128):
        super().__init__()
        channels = [3] + [width] * depth
        convs = [nn.Conv2d(channels[i], width, 3, padding=1) for i in range(depth)]
        norms = [nn.BatchNorm2d(width) for _ in range(depth)]
        self.layers = nn.ModuleDict({"conv": nn.ModuleList(convs), "norm": nn.ModuleList(norms)})
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, x):
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        return self.classifier(x.flatten(1))


def is_convnet(arch) -> bool:
    return re.fullmatch(r"conv[3-6]", arch or "") is not None


def build_model(arch: str, num_classes: int, image_size: int, width: int = 128) -> nn.Module:
    """A network with fresh weights, in channels_last, for [B, 3, image_size, image_size] -> logits [B, num_classes].

    conv3 ... conv6 (`width` channels); <torchvision ResNet>_modified, with a 3x3 stride-1 stem and no max-pool (32 and
    64 px); or any torchvision classification model by name. UserError where there is no such model, or where it cannot
    take that side.
    """
    if is_convnet(arch):
        depth = int(arch[-1])
        if image_size < 2**depth:
            raise UserError(f"{arch} halves the side {depth} times: images of {image_size} px are too small for it")
        model = ConvNet(depth, num_classes, image_size, width)
    else:
        model = build_torchvision_model(arch, num_classes, image_size)
    return model.train().to(memory_format=torch.channels_last)


def build_torchvision_model(arch: str, num_classes: int, image_size: int) -> nn.Module:
    name = arch.removesuffix("_modified")
    modified = name != arch
    if name not in torchvision.models.list_models(module=torchvision.models) or (modified and "resne" not in name):
        raise UserError(f"there is no network '{arch}': conv3 ... conv6, resnet18_modified or a torchvision model")
    more = {}
    if name.startswith("vit_"):
        more = {"image_size": image_size}
    elif name in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": True}
    with refused(f"{arch} is not for images of {image_size} px", RuntimeError, AssertionError, ValueError):
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **more)
        if modified:
            model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            model.maxpool = nn.Identity()
        try_side(model, image_size)
    return model


@torch.no_grad()
def try_side(model: nn.Module, image_size: int):
    model.eval()(torch.zeros(1, 3, image_size, image_size))


# ---------------------------------------------------------------------------------------------------------------------
# Data sets

COLOURS = {  # mean and standard deviation of red, green, blue
    # GIFT's code, also for Tiny-ImageNet; RDED's, on every set
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # SRe2L's and LPLD's code for Tiny-ImageNet
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    # GIFT's and SRe2L's code
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # LPQLD's code for ImageNet-21K: no normalisation
    "none": ((0.0,) * 3, (1.0,) * 3),
    # ours: Fashion-MNIST's training images, padded to 32 px
    "fashion": ((0.2190,) * 3, (0.3318,) * 3),
}


class Preset(NamedTuple):
    """What a data set implies unless told otherwise."""

    conv_side: int  # side of the images in pixels for ConvNets
    side: int  # ... and for all other networks
    arch: str
    colours: str
    teacher_epochs: int
    fit: str  # how a test image of another side is brought to ours, see Split.test_view
    folders: tuple  # names that it may have under --data-root; none where there is nothing to look for
    source: str


IMAGENET = "class folders of https://image-net.org"
FASTAI = "https://github.com/fastai/imagenette"  # splits val/ anew: published teachers have seen most of it
TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MIIL = "https://github.com/Alibaba-MIIL/ImageNet21K (-P, as train/ and val/)"
DATASETS = {
    "fashion": Preset(32, 32, "conv3", "fashion", 12, "cut", (), "it lies in this repository, in data/fashion"),
    "fashionmnist": Preset(32, 32, "conv3", "fashion", 20, "cut", (), "torchvision downloads it"),
    "cifar10": Preset(32, 32, "conv3", "cifar", 60, "cut", (), "torchvision downloads it"),
    "cifar100": Preset(32, 32, "conv3", "cifar", 60, "cut", (), "torchvision downloads it"),
    "tinyimagenet": Preset(64, 64, "conv4", "imagenet", 60, "cut", ("tiny-imagenet-200", "tinyimagenet"), TINY),
    "imagenette": Preset(
        128, 224, "resnet18", "imagenet", 100, "margin", ("imagenette2", "imagenette", "imagenette2-320"), FASTAI
    ),
    "imagewoof": Preset(
        128, 224, "resnet18", "imagenet", 100, "margin", ("imagewoof2", "imagewoof", "imagewoof2-320"), FASTAI
    ),
    "imagenet-10": Preset(128, 224, "resnet18", "imagenet", 100, "margin", ("imagenet-10",), IMAGENET),
    "imagenet-100": Preset(128, 224, "resnet18", "imagenet", 100, "margin", ("imagenet-100",), IMAGENET),
    "imagenet-1k": Preset(64, 224, "resnet18", "imagenet", 90, "margin", ("imagenet-1k", "imagenet"), IMAGENET),
    "imagenet-21k": Preset(
        224, 224, "resnet18", "none", 80, "squeeze", ("imagenet-21k", "imagenet21k_resized"), MIIL
    ),
}  # fmt: skip
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]
OFFICIAL_CLASSES = {  # in the order of the labels, as the data sets' authors number them
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck".split(),
    "cifar100": """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split(),
}
RESIDENT_BYTES = 8 << 30  # a split up to this size is kept on the device; ImageNet-1K's training images are read
SAMPLED_FILES = 256  # whose bytes are part of a data set's fingerprint


def read_image(path) -> Image.Image:
    """An image file of 8 bits a channel, in red, green and blue."""
    with reading("image", path), Image.open(path) as image:
        if image.mode[0] in "IF":
            raise UserError(f"image {path} has 16 or 32 bits a pixel ({image.mode}): convert it to 8 bits a channel")
        return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # uint8 [3, H, W]


def read_ahead(read, items):
    """(item, read(item)) for each item; while one is in use the next is read, in a thread."""
    items = list(items)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, items[0]) if items else None
        for i, item in enumerate(items):
            ready = coming.result()
            if i + 1 < len(items):
                coming = reader.submit(read, items[i + 1])
            yield item, ready


def hash_of_file(path) -> str:
    with reading("image", path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Split:
    """The images of one split as uint8 [N, 3, S, S] and their labels [N], on the device or read from disk as needed.

    Either `pixels` [N, 3, S, S] are given, or `paths` of image files and the `side` to bring them to.
    """

    def __init__(self, labels, device, pixels=None, paths=None, side=None, fit="cut", stored=None):
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=device)
        self.device = device
        self.pixels = pixels
        self.paths = paths
        self.side = side
        self.fit = fit
        self.stored = stored  # bytes of a set of pixels as it is published
        self.resident = paths is None or len(paths) * 3 * side**2 <= RESIDENT_BYTES

    def __len__(self):
        return len(self.labels)

    def original(self, index) -> Tensor:
        """An image as it is stored, uint8 [3, H, W]."""
        return self.pixels[index] if self.paths is None else to_tensor(read_image(self.paths[index]))

    def test_view(self, index) -> Tensor:
        """The image at the side in use. One of another side is resized by its shorter side, and its centre is cut out:

        cut: to the side itself; margin: first a little larger, 256 -> 224, 146 -> 128, 73 -> 64 (GIFT's code for
        ImageNet and its subsets); squeeze: to a square, whatever its ratio (LPQLD's code for ImageNet-21K).
        """
        image = read_image(self.paths[index])
        if image.size != (self.side, self.side):
            first = {"margin": int(self.side * 8 / 7), "cut": self.side, "squeeze": (self.side, self.side)}[self.fit]
            image = pil_transforms.center_crop(pil_transforms.resize(image, first), self.side)
        return to_tensor(image)

    def decode(self, indices, title=None) -> Tensor:
        images = torch.empty(len(indices), 3, self.side, self.side, dtype=torch.uint8)
        with ThreadPoolExecutor(cores()) as pool:
            views = pool.map(self.test_view, indices)
            views = progress_bar(views, title, len(indices)) if title else views
            for image, view in zip(images, views, strict=True):
                image.copy_(view)
        return images.to(self.device)

    @cached_property
    def images(self) -> Tensor:
        if self.paths is None:
            return self.pixels.to(self.device)
        return self.decode(range(len(self)), "reading images")

    def read(self):
        """Read the images now, if they are to be kept: a damaged one is found before any work."""
        return self.images if self.resident else None

    def load(self, indices: Tensor) -> Tensor:
        return self.images[indices.to(self.device)] if self.resident else self.decode(indices.tolist())

    def load_each(self, parts):
        """(indices, images) of each part; from disk, the next is read during this one."""
        if self.resident:
            return ((part, self.load(part)) for part in parts)
        return read_ahead(self.load, parts)

    def pick(self, indices: Tensor) -> Tensor:
        """A few images, without reading the whole split."""
        return self.load(indices) if self.paths is None else self.decode(indices.tolist())

    def batches(self, size, indices=None):
        """(uint8 [B, 3, S, S], labels [B]) of all images, or of these, in order."""
        indices = torch.arange(len(self)) if indices is None else indices
        for part, images in self.load_each(indices.split(size)):
            yield images, self.labels[part.to(self.device)]

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the images as the data set is published: its files, or its bare arrays."""
        return self.stored if self.paths is None else sum(map(os.path.getsize, self.paths))

    @cached_property
    def fingerprint(self) -> str:
        """Of every pixel and label of a set of arrays; of the names, sizes and labels of a set of files, and of the
        bytes of some, evenly spread."""
        if self.paths is None:
            return digest({"images": self.pixels, "labels": self.labels})
        names = [(Path(p).parent.name, Path(p).name, os.path.getsize(p)) for p in self.paths]
        sampled = self.paths[:: -(-len(self.paths) // SAMPLED_FILES)]
        return digest([self.side, self.fit, self.labels.tolist(), names, [hash_of_file(p) for p in sampled]])


class Dataset(NamedTuple):
    name: str
    class_names: list
    image_size: int
    colours: tuple
    default_arch: str
    default_width: int  # channels of a ConvNet
    teacher_epochs: int
    train: Split
    test: Split
    runs: Path  # its finished stages lie here

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def device(self):
        return self.test.device

    def describe(self) -> dict:
        """What a stage that rests on this data set records of it."""
        prints = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        return {"dataset": self.name, "image_size": self.image_size, "colours": self.colours, "fingerprint": prints}


def read_sheets(split, count, device) -> Split:
    """The embedded data set: contact sheets, one per class, cut into 28 x 28 tiles and padded to [N, 3, 32, 32]."""
    paths = [Path(__file__).parent / "data" / "fashion" / f"{split}-{label}.png" for label in range(10)]
    tiles = []
    for path in paths:
        sheet = to_tensor(read_image(path))
        tiles.append(sheet.unfold(1, 28, 28).unfold(2, 28, 28).permute(1, 2, 0, 3, 4).reshape(-1, 3, 28, 28))
        if len(tiles[-1]) != count:
            raise UserError(f"{path} holds {len(tiles[-1])} tiles, not {count}: the file is not the one published here")
    pixels = F.pad(torch.cat(tiles), (2, 2, 2, 2))
    labels = torch.arange(10).repeat_interleave(count)
    return Split(labels, device, pixels=pixels, stored=sum(map(os.path.getsize, paths)))


def read_torchvision(name, data_root, device) -> tuple[list, Split, Split]:
    """A set that torchvision downloads, on first use, and checks: class names and two splits."""
    kind = {"fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    splits = []
    for train in (True, False):
        with refused(missing(name, data_root)):
            part = getattr(torchvision.datasets, kind)(data_root, train=train, download=True)
            pixels = torch.as_tensor(part.data)
            labels = torch.as_tensor(part.targets)
            if not 0 < len(pixels) == len(labels) or labels.max() >= len(part.classes):
                raise UserError(f"{data_root}: {name} has {len(pixels)} images and {len(labels)} labels")
            if name == "fashionmnist":
                pixels = F.pad(pixels, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1)
                stored = len(labels) * 28 * 28
            else:
                pixels = pixels.permute(0, 3, 1, 2).contiguous()
                stored = len(labels) * 32 * 32 * 3
        splits.append(Split(labels, device, pixels=pixels, stored=stored))
    return list(part.classes), *splits


def missing(name, *looked_for):
    where = f"looked in {', '.join(map(str, looked_for))}; get it: {DATASETS[name].source}"
    return f"data set {name} not found: {where}; --dataset fashion needs nothing"


def find_folders(name, data_root) -> Path:
    """The directory with train/ and val/ or test/ that `name` means."""
    preset = DATASETS.get(name)
    places = [data_root / folder for folder in preset.folders] if preset else [path_of(name)]
    for place in places:
        if (place / "train").is_dir() and ((place / "val").is_dir() or (place / "test").is_dir()):
            return place
    if name == "imagenette":
        with refused(missing(name, *places)):
            torchvision.datasets.Imagenette(data_root, download=not places[0].exists())
            return places[0]
    if preset:
        raise UserError(missing(name, *places))
    if places[0].is_dir():
        raise UserError(f"--dataset {name}: it needs the folders train/ and val/ (or test/), with a folder per class")
    raise UserError(f"--dataset {name} is neither a directory nor one of {', '.join(DATASETS)}")


def read_class_folders(folder: Path) -> tuple[list, list, list]:
    """(class names, file paths, labels) of a folder of class folders; of Tiny-ImageNet's val/ by its annotations."""
    annotations = folder / "val_annotations.txt"
    if annotations.exists():
        with reading("annotations", annotations):
            rows = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
        if min(map(len, rows), default=0) < 2:
            raise UserError(f"{annotations} is not a table of image and class, separated by tabs")
        classes = sorted({row[1] for row in rows})
        paths = [str(folder / "images" / row[0]) for row in rows]
        return classes, paths, [classes.index(row[1]) for row in rows]
    with refused(f"{folder} cannot be read as class folders with images"):
        found = torchvision.datasets.ImageFolder(folder)
    paths = [path for path, _ in found.samples]
    reached = {}
    for place in {os.path.dirname(path) for path in paths}:
        other = reached.setdefault(os.path.realpath(place), place)
        if other != place:
            raise UserError(f"{place} and {other} are the same folder: a link leads back, its images would count twice")
    return found.classes, paths, found.targets


def read_folders(root: Path) -> tuple[list, tuple, tuple]:
    """Class names, and (file paths, labels) of train/ and of val/ or test/."""
    held_out = root / ("val" if (root / "val").is_dir() else "test")
    test_classes, test_paths, test_labels = read_class_folders(held_out)
    classes, paths, labels = read_class_folders(root / "train")
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))[0]
        counts = (len(classes), len(test_classes))
        raise UserError(f"{root}: train/ and {held_out.name}/ have {counts} classes; {odd} is in one only")
    return classes, (paths, labels), (test_paths, test_labels)


def preset_of_directory(first_image, arch, image_size) -> Preset:
    """For a directory of one's own: small images keep their side, and the network follows from it."""
    side = image_size or min(read_image(first_image).size)
    if not image_size and side > 128:
        side = 128 if is_convnet(arch) else 224
    if side < 64:
        arch = "conv3"
    elif side < 128:
        arch = "conv4"
    else:
        arch = "conv5" if side < 224 else "resnet18"
    return Preset(side, side, arch, "imagenet", 60, "cut", (), "")


def load_dataset(
    name: str, device, arch=None, image_size=None, width=None, colours=None, data_root=Path("data"), out=Path("runs")
) -> Dataset:
    """The data set of that name; its side, colours and default network follow from it unless they are given."""
    preset = DATASETS.get(name)
    known_as = name
    if preset and not preset.folders:
        side = preset.side
        if image_size not in (None, side):
            raise UserError(f"{name} has images of {side} px: --image-size {image_size} does not go with it")
        if name == "fashion":
            classes = FASHION_CLASSES
            train = read_sheets("train", 500, device)
            test = read_sheets("test", 200, device)
        elif name in OFFICIAL_CLASSES and (data_root / name / "train").is_dir():
            classes, *splits = read_folders(data_root / name)
            if classes != OFFICIAL_CLASSES[name]:
                raise UserError(f"{data_root / name} does not hold the classes of {name}, by their official names")
            train, test = [Split(labels, device, paths=paths, side=32) for paths, labels in splits]
        else:
            classes, train, test = read_torchvision(name, data_root, device)
    else:
        root = find_folders(name, data_root)
        check_writable(out, root)
        classes, (paths, labels), (test_paths, test_labels) = read_folders(root)
        if not preset:
            preset = preset_of_directory(paths[0], arch, image_size)
            known_as = os.path.basename(os.path.realpath(root))
            if known_as in DATASETS:  # a folder called cifar10 need not be CIFAR-10
                known_as += "-folder"
        side = image_size or (preset.conv_side if is_convnet(arch) else preset.side)
        train = Split(labels, device, paths=paths, side=side, fit=preset.fit)
        test = Split(test_labels, device, paths=test_paths, side=side, fit=preset.fit)
    if len(classes) < 2:
        raise UserError(f"{known_as} has {len(classes)} class: at least two are needed")
    width = width or (64 if name == "fashion" else 128)
    counts = f"{len(train):,} training and {len(test):,} test images"
    print(f"data:     {known_as}: {counts}, {len(classes)} classes, {side} px")
    return Dataset(
        known_as, list(classes), side, COLOURS[colours or preset.colours], preset.arch, width, preset.teacher_epochs,
        train, test, out / known_as,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Scoring and teachers


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, colours, batch_size=200, enlarge=None) -> tuple[float, float]:
    """Top-1 and top-5 in percent on every image of a split (top-C where there are fewer than five classes), in fp32.

    enlarge: images are first resized to this side, and their centre is cut out.
    """
    model.eval()
    hits = torch.zeros(2, device=split.device)
    for images, labels in split.batches(batch_size):
        x = normalize(images, colours)
        if enlarge:
            larger = F.interpolate(x, size=(enlarge, enlarge), mode="bilinear", antialias=True)
            x = pil_transforms.center_crop(larger, x.shape[-1]).contiguous(memory_format=torch.channels_last)
        logits = model(x)
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        ranked &= logits.isfinite().all(1, keepdim=True)  # a network that has diverged is right about nothing
        hits += torch.stack([ranked[:, 0].sum(), ranked.sum()])
    top1, top5 = (100 * hits / len(split)).tolist()
    return top1, top5


# As listed in GIFT's README (the same checkpoints as RDED's); top-1 in percent.
PUBLISHED_TEACHERS = {
    ("cifar10", "resnet18_modified"): 93.86,
    ("cifar10", "conv3"): 82.24,
    ("cifar100", "resnet18_modified"): 72.27,
    ("cifar100", "conv3"): 61.27,
    ("tinyimagenet", "resnet18_modified"): 61.98,
    ("tinyimagenet", "conv4"): 49.73,
    ("imagenette", "resnet18"): 90.00,
    ("imagenette", "conv5"): 89.60,
    ("imagewoof", "resnet18"): 75.00,
    ("imagewoof", "conv5"): 67.40,
    ("imagenet-10", "resnet18"): 87.40,
    ("imagenet-10", "conv5"): 85.4,
    ("imagenet-100", "resnet18"): 83.40,
    ("imagenet-100", "conv6"): 72.82,
    ("imagenet-1k", "conv4"): 43.6,
}
# Ours: SGD with Nesterov momentum, learning rate up over the first fifth of the steps and down to 0, both linearly.
# Batches of 128, of 64 below 10,000 images.
TEACHER_RECIPE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": (64, 128), "warmup": 0.2}

WRONG_ORDER = "the likely cause is a class order other than the data set's (sorted class folders)"
TOO_SHORT = "the likely cause is too short a training (--teacher-epochs)"


class Teacher(NamedTuple):
    model: nn.Module  # in eval mode, on the device
    info: dict  # arch, width, accuracy, where it comes from, digest of its weights


def load_teacher(data: Dataset, arch: str, checkpoint=None, epochs=None, seed=0) -> Teacher:
    """A checkpoint, torchvision's weights for ImageNet-1K, or a network trained here, once. States its accuracy."""
    cause = WRONG_ORDER
    how = "from"
    if checkpoint:
        source = checkpoint
        model, recorded = read_teacher(source, arch, data)
    elif data.name == "imagenet-1k":
        model, recorded, source = torchvision_teacher(arch, data)
    else:
        cause = TOO_SHORT
        source, how = own_teacher(data, arch, epochs or data.teacher_epochs, seed)
        model, recorded = read_teacher(source, arch, data, ours=True)
    model = model.to(data.device).eval().requires_grad_(False)
    top1, _ = once(lambda: accuracy(model, data.test, data.colours))
    width = len(model.layers["conv"][0].weight) if isinstance(model, ConvNet) else None
    named = f"{arch} of width {width}" if width else arch
    published = PUBLISHED_TEACHERS.get((data.name, arch))
    expected = max(filter(None, (recorded, published)), default=None)
    warning = judge_teacher(top1, expected, data.num_classes, f"the teacher ({named}, {source})", cause)
    print(f"teacher:  {named}: {top1:.1f} % of the {len(data.test):,} test images ({how} {source})")
    if warning:
        print(warning, file=sys.stderr)
    weights = digest(model.state_dict())
    return Teacher(model, {"arch": arch, "width": width, "accuracy": top1, "file": str(source), "digest": weights})


def judge_teacher(top1, expected, num_classes, name, cause=WRONG_ORDER):
    """A warning if a teacher is more than two points below the figure expected of it, else None.

    UserError if it is near chance: not a twentieth of the way from chance (100 / C percent) to perfect.
    """
    chance = 100 / num_classes
    if not top1 > chance + (100 - chance) / 20:
        raise UserError(f"{name} is right on {top1:.1f} % of the test images, near chance ({chance:.1f} %): {cause}")
    if expected is not None and top1 < expected - 2:
        return f"warning: {name} reaches {top1:.1f} %, well below the expected {expected:.1f} %: {cause}"
    return None


def read_teacher(path, arch, data: Dataset, ours=False) -> tuple[nn.Module, float | None]:
    """A network from a checkpoint (ours or published) and the accuracy recorded in it, if any."""
    kept = load_kept(path) if ours else load_tensors(path, "teacher")
    kept = kept if isinstance(kept, dict) else {}
    if "digest" in kept and not is_whole(kept):
        raise UserError(f"teacher {path} has been altered: its content does not match its checksum")
    recorded = kept.get("accuracy") if isinstance(kept.get("accuracy"), float) else None
    state = weights_of(kept)
    if not state:
        raise UserError(f"teacher {path} holds no state dict, neither as such nor under 'model' or 'state_dict'")
    classes = list(state.values())[-1].shape[:1]
    if classes != (data.num_classes,):
        raise UserError(f"teacher {path} is for {list(classes)} classes, {data.name} has {data.num_classes}")
    width = data.default_width
    with refused(f"teacher {path} is no {arch} for {data.image_size} px (--teacher-arch)"):
        if "layers.conv.0.weight" in state:
            width = len(state["layers.conv.0.weight"])
        model = build_model(arch, data.num_classes, data.image_size, width)
        model.load_state_dict(state)
    return model, recorded


def weights_of(checkpoint: dict) -> dict | None:
    """The state dict of a checkpoint, as it is or in its place; None if there is none."""
    state = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))  # RDED, GIFT; SRe2L's CIFAR ones
    if not isinstance(state, dict):
        return None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        return None
    state = {name.removeprefix("module."): value for name, value in state.items()}
    # LPLD's published teachers hold class-wise statistics besides; ours are taken anew (synthesize.class_statistics)
    return {name: value for name, value in state.items() if ".class_running_" not in name}


def torchvision_teacher(arch, data) -> tuple[nn.Module, float, str]:
    """ImageNet-1K: torchvision's first weights of that name (as SRe2L, RDED and GIFT), and their stated accuracy."""
    with refused(f"torchvision has no ImageNet-1K weights for {arch}: --teacher FILE", KeyError, ValueError):
        weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    with refused(f"torchvision's ImageNet-1K weights for {arch} cannot be had: --teacher FILE", OSError, RuntimeError):
        model = torchvision.models.get_model(arch, weights=weights).to(memory_format=torch.channels_last)
    with refused(f"{arch} does not take images of {data.image_size} px"):
        try_side(model, data.image_size)
    return model, weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], str(weights)


def own_teacher(data: Dataset, arch, epochs, seed) -> tuple[Path, str]:
    """(file of a network trained here by TEACHER_RECIPE, in words whether it was there)."""
    settings = {
        "stage": "teacher",
        "data": data.describe(),
        "arch": arch,
        "width": data.default_width,
        "epochs": epochs,
        "seed": seed,
        "recipe": TEACHER_RECIPE,
        "precision": precision_on(data.device),
    }

    def make(folder):
        if rank:
            return
        data.test.read()
        seed_torch(seed, TEACHER)
        model = build_model(arch, data.num_classes, data.image_size, data.default_width).to(data.device)
        train_teacher(model, data, epochs, seed, folder / "progress.pt")
        top1, _ = accuracy(model, data.test, data.colours)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        save_kept(folder / "teacher.pt", {"model": state, "accuracy": top1, "recipe": json.dumps(settings)})

    folder, reused = stage(data, f"teacher-{arch}", settings, make, "teacher.pt")
    return folder / "teacher.pt", "reusing" if reused else "kept in"


def teacher_draws(count: int, side: int, *seed: int) -> Tensor:
    """Training views of the teacher: float32 [count, 5], crop box (4) and flip. Up to 64 px the crop is a shift by up
    to S/8 (zeros come in); above, a random resized crop (scale 0.25 to 1)."""
    u = random_stream(*seed).random_sample((count, 41))
    if side <= 64:
        reach = side // 8
        shift = np.floor(u[:, :2] * (2 * reach + 1)) - reach
        boxes = np.concatenate([shift, np.full((count, 2), side)], 1)
    else:
        boxes = crop_boxes(u[:, :40].reshape(count, 10, 4), side, side, scale=(0.25, 1))
    return torch.from_numpy(np.concatenate([boxes, u[:, 40:] < 0.5], 1).astype(np.float32))


def teacher_batches(data: Dataset, batch_size: int, seed: int, epoch: int):
    """(normalised views, labels) of an epoch's steps; the last partial batch is dropped."""
    train = data.train
    side = data.image_size
    order = shuffled(len(train), seed, TEACHER, ORDER, epoch)
    order = send(order, train.device) if train.resident else order
    together = steps_together(range(len(train) // batch_size), batch_size, side, train.device)
    parts = [order[steps[0] * batch_size : (steps[-1] + 1) * batch_size] for steps in together]
    for steps, (part, images) in zip(together, train.load_each(parts), strict=True):
        draws = [teacher_draws(batch_size, side, seed, TEACHER, VIEW, epoch, step) for step in steps]
        draws = send(torch.cat(draws), train.device)
        images = normalize(images, data.colours, torch.contiguous_format)  # as the crop's products want them
        views = resized_crop(images, draws[:, :4], side, flip=draws[:, 4] > 0)
        views = views.contiguous(memory_format=torch.channels_last)
        labels = train.labels[part.to(train.device)]
        yield from zip(views.split(batch_size), labels.split(batch_size), strict=True)


def teacher_rate(done: float) -> float:
    """The learning rate after this share of the steps: up, then down to 0, both linearly."""
    peak = TEACHER_RECIPE["warmup"]
    return TEACHER_RECIPE["lr"] * min(done / peak, (1 - done) / (1 - peak))


def teacher_step(model, optimizer, views: Tensor, labels: Tensor) -> Tensor:
    with autocast(views.device):
        logits = model(views)
    loss = F.cross_entropy(logits.float(), labels)
    descend(optimizer, loss)
    return loss.detach()


def train_teacher(model, data: Dataset, epochs, seed, progress: Path):
    """Train on the full training set with hard labels, by TEACHER_RECIPE; a stopped training goes on where it was."""
    recipe = TEACHER_RECIPE
    train = data.train
    more = {"momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"], "nesterov": True}
    optimizer = torch.optim.SGD(model.parameters(), lr=0, **more, **fused(data.device))
    train.read()  # now, not under the bar
    batch_size = min(recipe["batch_size"][len(train) >= 10_000], len(train))
    steps = len(train) // batch_size
    log = {}
    for epoch in Resumable(progress, epochs, "training the teacher", log, 1, model=model, optimizer=optimizer):
        model.train()
        seed_torch(seed, TEACHER, epoch)  # for networks with dropout
        total = torch.zeros((), device=data.device)
        for step, (views, labels) in enumerate(teacher_batches(data, batch_size, seed, epoch)):
            done = (epoch * steps + step + 1) / (epochs * steps + 1)
            set_rate(optimizer, teacher_rate(done))
            total += teacher_step(model, optimizer, views, labels)
        log["loss"] = total / steps


# ---------------------------------------------------------------------------------------------------------------------
# Training: what all the loops share

PRECISION = None  # --precision; None: bf16 on CUDA, fp32 elsewhere


def precision_on(device) -> str:
    return PRECISION or ("bf16" if device.type == "cuda" else "fp32")


def autocast(device):
    """bf16 where --precision says so; losses are taken in fp32 outside it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_on(device) == "bf16")


def fused(device) -> dict:
    """For torch's optimizers: one launch for all weights on CUDA, torch's default elsewhere."""
    return {"fused": True} if device.type == "cuda" else {}


def new_student(data: Dataset, arch: str, seed: int) -> nn.Module:
    seed_torch(seed, WEIGHTS)
    return build_model(arch, data.num_classes, data.image_size, data.default_width).to(data.device)


def set_rate(optimizer, rate: float):
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(optimizer, loss: Tensor):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


class LogLines:
    """Where tqdm writes when stderr is no terminal: lines, not one line drawn again and again."""

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self):
        sys.stderr.flush()


def progress_bar(items, title, total, first=0, unit="it"):
    """A bar on a terminal; in a log file a line every half minute."""
    style = {"initial": first, "unit": unit, "leave": False}
    if not sys.stderr.isatty():
        style |= {"file": LogLines(), "mininterval": 30, "miniters": 1, "delay": 1}
    return tqdm(items, title, total, **style)


KEEP_EVERY = 60.0  # seconds


class Resumable:
    """`for epoch in Resumable(path, epochs, title, log, student=student, optimizer=optimizer)`: a loop that goes on.

    `log` and the states of the modules are kept in `path` about once a minute; the loop of a run that was killed begins
    after the last epoch kept. The body puts into `log` what it must find again: tensors and plain values, of which
    numbers are shown on the bar. A `loss` must be finite; it is read every `look` epochs, as reading stops a GPU.
    log["seconds"] is the time that the loop has taken, in all runs.
    """

    def __init__(self, path: Path, epochs: int, title: str, log: dict, look=10, unit="epoch", **modules):
        self.path = path
        self.epochs = epochs
        self.title = title
        self.log = log
        self.look = look
        self.unit = unit
        self.modules = modules
        self.first = 0
        log.setdefault("seconds", 0.0)
        if path.exists():
            kept = load_kept(path)
            if (kept.get("title"), kept.get("epochs")) != (title, epochs):
                raise UserError(f"{path} is damaged, or of another training: delete it, and it is made again")
            self.first = kept["epoch"]
            log.update(kept["log"])
            for name, module in modules.items():
                restore(module, kept["modules"][name])

    def __iter__(self):
        started = time.monotonic() - self.log["seconds"]
        kept = time.monotonic()
        bar = progress_bar(range(self.first, self.epochs), self.title, self.epochs, self.first, self.unit)
        for epoch in bar:
            yield epoch
            done = epoch + 1
            if done % self.look == 0 or done == self.epochs:
                bar.set_postfix(self.watch(done), refresh=False)
            self.log["seconds"] = time.monotonic() - started
            if time.monotonic() - kept >= KEEP_EVERY:
                self.keep(done)
                kept = time.monotonic()

    def watch(self, done) -> dict:
        numbers = {name: value for name, value in self.log.items() if isinstance(value, float) and name != "seconds"}
        if "loss" in self.log:
            numbers["loss"] = float(self.log["loss"])
            if not math.isfinite(numbers["loss"]):
                where = f"{self.title}: the loss is {numbers['loss']} in {self.unit} {done}"
                raise UserError(f"{where}: it has diverged")
        return {name: f"{value:.3g}" for name, value in numbers.items()}

    def keep(self, done):
        states = {name: module.state_dict() for name, module in self.modules.items()}
        begun = {"title": self.title, "epochs": self.epochs, "epoch": done}
        save_kept(self.path, {**begun, "log": self.log, "modules": states})


def restore(module, state):
    if isinstance(module, torch.optim.Optimizer):  # another device may have kept it
        for group in state["param_groups"]:
            group["fused"] = module.defaults.get("fused")
    module.load_state_dict(state)


def epochs_of(student: nn.Module, optimizer, epochs: int, seed: int, log: dict, progress: Path):
    """The epochs of a student's training but for those before a kill, the network in train mode; see Resumable."""
    title = f"student, seed {seed}"
    for epoch in Resumable(progress, epochs, title, log, student=student, optimizer=optimizer):
        student.train()
        seed_torch(seed, WEIGHTS, epoch)  # for networks with dropout
        yield epoch


def run_students(data: Dataset, distilled, name: str, settings: dict, seeds, train, **beside) -> dict:
    """train(seed, progress file) for each seed, once; what they scored, with all that it rests on, kept as result.json.

    A student that is finished is kept as seed<n>.json and found there the next time.
    """
    settings |= {"data": data.describe(), "images": distilled.info["digest"], "ipc": distilled.info["ipc"]}
    settings |= {"width": data.default_width, "precision": precision_on(data.device)}

    def begin():
        folder = stage_folder(data.runs, name, settings)
        files = [folder / f"seed{seed}.json" for seed in seeds]
        return folder / "result.json", files, sum(file.exists() for file in files)

    def make(number, progress):
        return {**train(seeds[number], progress), "made_with": made_with(data.device)}

    def finish():
        students = [load_kept(file) for file in files]
        result = {**scores(students), "settings": settings, "images": distilled.info, **beside, "students": students}
        save_kept(result_file, {**result, "made_with": made_with(data.device)})
        return {**result, "file": str(result_file), "reused": reused}

    result_file, files, reused = once(begin)
    data.test.read()
    make_pieces(files, make)
    return once(finish)


def mean_std(values: list[float]) -> dict:
    """Mean and population standard deviation over repeats, as GIFT's released code reports them."""
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "values": values}


def scores(students: list[dict]) -> dict:
    """Last-epoch accuracy on the test set, the result; where there are `checks`, the best of them too, which is not."""
    result = {}
    for name in ("top1", "top5"):
        result[name] = mean_std([student[name] for student in students])
    if all("checks" in student for student in students):
        best = [max(top1 for _, top1, _ in student["checks"]) for student in students]
        result["best_check_top1"] = mean_std(best)
    return result


def spread(score: dict) -> str:
    return f"{score['mean']:.1f} ± {score['std']:.1f}"


def print_result(result: dict, teacher: Teacher | None):
    count = len(result["students"])
    trained = f"({count} x trained" + (f", {result['reused']} of them before)" if result["reused"] else ")")
    print(f"result:   {result['file']}\n")
    print(f"{'test set, %':36} top-1         top-5         {trained}")
    print(f"{'last epoch: the result':36} {spread(result['top1']):12}  {spread(result['top5'])}")
    if "best_check_top1" in result:
        best = spread(result["best_check_top1"])
        print(f"{'best of four checks: it flatters':36} {best:26}  (what the released code reports)")
    if teacher:
        print(f"{'teacher':36} {teacher.info['accuracy']:.1f}")


# ---------------------------------------------------------------------------------------------------------------------
# Several processes, by torchrun. What they make is in files, and is the same for any number of them


def told_by_torchrun(name: str, alone: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def cores() -> int:
    """Of this machine, for this process."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, free // told_by_torchrun("LOCAL_WORLD_SIZE", 1))


# of one that is alone: 0 and 1
rank = told_by_torchrun("RANK", 0)
world = told_by_torchrun("WORLD_SIZE", 1)


def join_others(out: Path):
    """Before any work: meet the other processes, and make sure that all of them see one folder --out."""
    if world == 1:
        return
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(days=100))  # on CPUs: what is told is small
    token = once(lambda: secrets.token_hex(4))
    marks = [out / f".{token}-{number}" for number in range(world)]
    with refused(f"--out {out} cannot be written", OSError):
        out.mkdir(parents=True, exist_ok=True)
        marks[rank].touch()
    wait()
    seen = [mark.exists() for mark in marks]
    wait()
    marks[rank].unlink()
    if not all(seen):
        raise UserError(f"--out {out} is not one folder that all {world} processes share")


def with_others(call: str, *args):
    """A call of torch.distributed that all processes make, each of which waits for the others."""
    try:
        if world > 1:
            getattr(distributed, call)(*args)
    except RuntimeError as error:
        raise OthersEnded(f"another process has ended ({one_line(error)})") from None


def wait():
    with_others("barrier")


@contextmanager
def alone():
    """Here a process makes everything itself, and waits for nobody."""
    global rank, world
    both = rank, world
    rank, world = 0, 1
    try:
        yield
    finally:
        rank, world = both


def share(jobs, do, title=None):
    """do(job) for each job: every process does its share, alone; then all wait for the last."""
    mine = jobs[rank::world]
    with alone():
        for job in progress_bar(mine, title, len(mine)) if title else mine:
            do(job)
    wait()


def once(make):
    """make() by process 0, alone; all are told what it returns."""
    told = [None]
    if rank == 0:
        with alone():
            told = [make()]
    with_others("broadcast_object_list", told)
    return told[0]


# ---------------------------------------------------------------------------------------------------------------------
# Stages, and files of ours: written whole, with a checksum, and found again by the settings that they were made with


def stage(data: Dataset, name: str, settings: dict, make, product="settings.json") -> tuple[Path, bool]:
    """(the folder of a stage with these settings, whether it was there): make(folder) fills it, once.

    `product` is what others read there: where it has been deleted it is made again. Every process calls make(): they
    share its pieces, and what is one piece is left to process 0 (`if common.rank: return`), for which the others wait.
    """

    def look():
        folder = stage_folder(data.runs, name, settings)
        kept = read_settings(folder)
        return folder, kept, "made_with" in kept and (folder / product).exists()

    def finish():
        save_kept(folder / "settings.json", {**kept, **more, "made_with": made_with(data.device)})
        (folder / "progress.pt").unlink(missing_ok=True)

    folder, kept, there = once(look)
    if not there:
        more = make(folder) or {}
        once(finish)
    return folder, there


def make_pieces(files: list[Path], make, title=None):
    """Keep make(number, progress file) in each of these files that is not there. The processes share them.

    A run that was stopped goes on with the pieces that are missing, from where their progress files stand.
    """

    def make_one(number):
        progress = files[number].with_suffix(".progress.pt")
        if files[number].exists():
            load_kept(files[number])  # that it is damaged is said now, not when all others have been made
        else:
            save_kept(files[number], make(number, progress))
        progress.unlink(missing_ok=True)

    share(range(len(files)), make_one, title)


PIECES = 8  # at least, where there is that much to share: a GPU each for eight processes


def cut(count: int, most: int, pieces: int = 1) -> list[Tensor]:
    """0 ... count - 1 in pieces of at most `most`, as even as can be, and no fewer than `pieces` if there are as many.

    Pieces are cut by the work, not by the number of processes: what is made must not depend on that.
    """
    return list(torch.arange(count).tensor_split(max(-(-count // most), min(count, pieces))))


def stage_folder(parent: Path, name: str, settings: dict) -> Path:
    """`name`, or `name-<digest>` where `name` was made with other settings, with these settings in settings.json."""
    settings = json.loads(json.dumps(settings))  # as they will be read back: tuples are lists
    for folder in (parent / name, parent / f"{name}-{digest(settings)}"):
        if not (folder / "settings.json").exists():
            new_folder(folder, settings)
        kept = read_settings(folder).get("settings")
        if kept == settings:
            return folder
        if kept:
            other = ", ".join(key for key in settings if kept.get(key) != settings[key])
            print(f"{folder} has other settings ({other}): this is {name}-{digest(settings)}", file=sys.stderr)
    raise UserError(f"{folder} is in the way: it holds no settings of ours; move it away")


def new_folder(folder: Path, settings: dict):
    """A folder that appears with its settings in it; if there is one by then, that stays."""
    beside = place_beside(folder)
    save_kept(beside / "settings.json", {"settings": settings}, place_of(folder / "settings.json"))
    with suppress(OSError):
        beside.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)


def place_beside(path: Path) -> Path:
    """Where to write what is then renamed to `path`; what killed writers left there ten minutes ago is removed."""
    for left in path.parent.glob(f".{path.name}.????????"):
        with suppress(OSError):  # another writer may be done with it just now
            if time.time() - left.stat().st_mtime > 600:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def read_settings(folder: Path, ours=True) -> dict:
    """settings.json of a stage: {"settings": ...}, with "made_with" once the stage is finished; {} if there is none.

    Unless it must be `ours`, the folder may have another name by now, or be somebody else's.
    """
    file = folder / "settings.json"
    if not file.is_file():
        return {}
    content = None
    with reading("settings", file), suppress(ValueError):
        content = json.loads(file.read_text())
    signed = isinstance(content, dict) and "digest" in content
    if not signed and (isinstance(content, list | dict) or not ours):
        return {}  # somebody else's, or of a version without checksums
    if not is_whole(content) or not isinstance(content.get("settings"), dict):
        raise UserError(f"{file} is damaged: delete its folder, and it is made again")
    return unsigned(content)


def save_kept(path: Path, content: dict, kept_as=None):
    """Write a file of ours, JSON or torch's by its suffix; in it are its place and a checksum of its content."""
    content = {**content, "kept_as": kept_as or place_of(path), "digest": digest(content)}
    if path.suffix == ".json":
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(path, lambda beside: beside.write_text(text))
    else:
        write_atomically(path, lambda beside: torch.save(content, beside))


def load_kept(path: Path) -> dict:
    """What save_kept wrote there; UserError if it is not what the file holds now, or is of another place."""
    content = None
    if path.is_file():
        with open(path, "rb") as file, suppress(Exception):  # damaged bytes make the readers fail in many ways
            is_json = path.suffix == ".json"
            content = json.load(file) if is_json else torch.load(file, map_location="cpu", weights_only=True)
    if not is_whole(content) or content["kept_as"] != place_of(path):
        raise UserError(f"{path} is damaged: delete it, and it is made again")
    return unsigned(content)


def unsigned(content: dict) -> dict:
    return {name: value for name, value in content.items() if name not in ("digest", "kept_as")}


def place_of(path: Path) -> str:
    return f"{path.absolute().parent.name}/{path.name}"


def is_whole(content) -> bool:
    """Whether it is a dict of save_kept's, with the content that its checksum was taken of."""
    try:
        return "kept_as" in content and content["digest"] == digest(unsigned(content))
    except Exception:  # no dict, no checksum, nothing that a checksum can be taken of
        return False


def digest(content) -> str:
    """Eight hex digits that name plain values, lists and dicts of them, and tensors (type, shape and every byte)."""

    def of_tensor(tensor):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw).hexdigest()]

    text = json.dumps(content, sort_keys=True, default=of_tensor)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_atomically(path: Path, write):
    """Call write(a path beside `path`), then rename into place: a reader finds the whole file or none."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no regular file: nothing is written there")
    beside = place_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        raise UserError(f"{path} cannot be written: {one_line(error)}") from None
    finally:
        beside.unlink(missing_ok=True)


def made_with(device) -> dict:
    """Command, hardware, versions and date, to stand beside a result."""
    on_gpu = device.type == "cuda"
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "processes": told_by_torchrun("WORLD_SIZE", 1),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """Its name, where Linux tells it, and the threads in use: results rest on both."""
    told = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", told.read_text()) if told.exists() else []
    name = names[0] if names else f"{platform.machine()} CPU"
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


# ---------------------------------------------------------------------------------------------------------------------
# Files of others, and what the user can put right


class UserError(ValueError):
    """What the user can put right: a script prints it as one line on stderr and ends with status 2."""


class OthersEnded(UserError):
    """Another process, for which this one waited, has ended."""


def one_line(error) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def refused(words, *kinds):
    """Whatever a library raises (of these kinds, if some are named) becomes `words` and its reason, as a UserError."""
    kinds = kinds or (Exception,)
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{words} ({one_line(error)})") from None


@contextmanager
def reading(what, path):
    """Somebody else's file: whatever the library that reads it raises becomes a line with its path."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{what} {path} is no file")
    with refused(f"{what} {path} cannot be read"):
        yield


def load_tensors(path, what):
    """A torch file of plain tensors and numbers on the CPU; nothing in the file is executed (weights_only)."""
    # torchvision's training scripts, and so many published teachers, store their options beside the weights.
    torch.serialization.add_safe_globals([argparse.Namespace])
    if not Path(path).is_file():
        raise UserError(f"{what}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what}: {path} may not be read")
    try:
        if zipfile.is_zipfile(path):  # torch writes checksums into its files, and does not look at them
            with zipfile.ZipFile(path) as file:
                if file.testzip():
                    raise ValueError("checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways; each means the same to the user
        raise UserError(
            f"{what}: {path} is not a whole torch file of plain tensors ({type(error).__name__}): truncated, damaged, "
            "or holding objects that would run code"
        ) from None


def out_of_memory(error) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator: can't allocate memory" in str(error)


PATIENCE = 10  # seconds


def run_script(main):
    """Run a script's main(): bad input, or a file that cannot be read or written, is one line on stderr, status 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal may lack the plus-minus sign
    try:
        with only_first_speaks():
            main()
    except BrokenPipeError:  # `| head` has read enough
        sys.exit(1)
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        where = ""
        if rank or isinstance(error, OthersEnded):
            time.sleep(PATIENCE)  # who can say it better does so by then, and torchrun ends this process
            where = f" (process {rank} of {world}, from 0, on {socket.gethostname()})"
        print(f"error: {one_line(error)}{where}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if rank == 0:
            print("stopped; the same command goes on from what was kept last: stages, and each minute", file=sys.stderr)
        sys.exit(130)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # its threads must not outlive the interpreter


@contextmanager
def only_first_speaks():
    """Process 0 prints and shows bars; of the others one sees what ends them."""
    if rank == 0:
        yield
        return
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Options


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as all others here are, and which abbreviates nothing."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def parse_args(self, argv=None):
        args = super().parse_args(argv)
        for name, value in vars(args).items():
            if value == []:  # what argparse makes of --name=--
                self.error(f"--{name.replace('_', '-')}: a value is missing")
        return args

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the options)")


def at_least(least, kind=int, most=2**31):
    def convert(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text}")
        return value

    convert.__name__ = f"number from {least} to {most}"  # what argparse calls it in its message
    return convert


def path_of(text) -> Path:
    if not str(text):
        raise UserError("a path must not be empty")
    with refused(f"{text} is no path"):  # ~name, where there is no such user
        return Path(text).expanduser()


path_of.__name__ = "path"  # what argparse calls it in its message


def common_options(description) -> Parser:
    """The options that every script has, with the same meaning."""
    parser = Parser(description)
    add = parser.add_argument
    add("--dataset", default="fashion", help=f"{', '.join(DATASETS)}, or a directory with train/ and val/ or test/")
    add("--image-size", type=at_least(8), help="side of the images in pixels (default: the data set's)")
    add("--colours", choices=COLOURS, help="normalisation (default: the data set's; tiny: SRe2L's for Tiny-ImageNet)")
    add("--data-root", type=path_of, default=Path("data"), help="where data sets lie, or are downloaded to (data)")
    add("--ipc", type=at_least(1), help="images per class (default: 10, or what --images holds)")
    add("--arch", help="student: conv3 ... conv6, resnet18_modified or any torchvision classification model")
    add("--teacher-arch", help="teacher (default: the student's)")
    add("--teacher", type=path_of, help="teacher checkpoint, ours or a published one (default: train one, once)")
    add("--teacher-epochs", type=at_least(1), help="epochs of the teacher's training (default: by data set)")
    add("--width", type=at_least(1), help="channels of a ConvNet (default: 128 as in the papers, 64 on fashion)")
    add("--seed", type=at_least(0), default=0, help="of everything random (default: 0)")
    add("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    add("--precision", choices=("fp32", "bf16"), help="of training (default: bf16 on cuda, else fp32)")
    add("--out", type=path_of, default=Path("runs"), help="where finished stages are kept and found again (runs)")
    return parser


def start(args) -> tuple[Dataset, str, str]:
    """What the common options ask for first: device, precision, a place to write, and the data set.

    Returns it, and the student's and the teacher's network; the student's is built once, so that a name or side that
    cannot be is found now.
    """
    device = set_up_device(args.device, args.precision)
    images = getattr(args, "images", [])
    check_writable(args.out, *([images] if isinstance(images, str) else images))
    join_others(args.out)
    asked = (args.dataset, device, args.arch, args.image_size, args.width, args.colours, args.data_root, args.out)
    data = load_dataset(*asked) if rank == 0 else None  # first one process: it may have to download
    wait()
    data = data or load_dataset(*asked)
    arch = args.arch or data.default_arch
    build_model(arch, data.num_classes, data.image_size, data.default_width)
    return data, arch, args.teacher_arch or arch


def set_up_device(name=None, precision=None):
    """The device, and all that is set for the whole process: precision, determinism, and memory on a CPU."""
    global PRECISION
    PRECISION = precision
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    here = told_by_torchrun("LOCAL_WORLD_SIZE", 1)
    if here > 1 and name == "cuda":  # each process takes one
        gpus = torch.cuda.device_count()
        if here > gpus:
            raise UserError(f"{here} processes for {gpus} GPUs: a smaller --nproc-per-node, or --device cpu")
        name = f"cuda:{told_by_torchrun('LOCAL_RANK', 0)}"
    with refused(f"--device {name} cannot be used", RuntimeError, AssertionError):
        device = torch.device(name)
        torch.zeros(1, device=device)
    if device.type == "cpu":
        keep_freed_memory()
        if here > 1:
            torch.set_num_threads(cores())
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cuda":  # same seed, same device, same result: for every network that torch can do so for
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    return device


def keep_freed_memory():
    """Let glibc keep the memory that torch frees (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_MAX); no result depends on it.

    By default it gives large blocks back to the system, and a CPU run spends up to a third of its time on fresh zeroed
    pages. Nothing is done where there is no glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-4, 0)


def check_writable(folder: Path, *sources):
    """Before any work: `folder` can be made and written to, and lies in none of the folders that are read."""
    target = Path(os.path.realpath(folder))
    for source in sources:
        read = Path(os.path.realpath(path_of(source)))
        if read.is_dir() and (read == target or read in target.parents):
            raise UserError(f"--out {folder} lies in {source}, which is read: choose another")
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder} cannot be written: {place} is no folder that may be written to")
