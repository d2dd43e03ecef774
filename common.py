"""What the scripts share: augmentation seeds, views, networks, data sets, teachers, training, kept files, options.

This file holds what two or more scripts need. The methods of the papers are in the scripts. Here seeds, views and
ConvNet come first. They need only torch and numpy, so you can copy them into another project.

A run keeps every result in a file. If you stop it, the next run reads the files that are there and makes only the rest:

    folder = stage_folder(data, "teacher-conv3", settings)        # its name ends in a hash of the settings
    content = cached(folder / "teacher.pt", make)                 # read the file; if it is missing, make it first
    make_all({path: make, ...})                                   # make the missing files; several processes share them
    for epoch in resumable(progress, epochs, title, log, ...):    # a loop: after a kill it goes on from its last save

`make` is a function that returns the content of the file, a dict. Its one argument is a path for `resumable`, which
writes there how far the training has come. Two things to know: the hash is of the settings and not of the code, so take
another --out after you have changed a formula; and `make` must not call these functions, except resumable.
"""

import argparse
import ctypes
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import secrets
import shlex
import socket
import statistics
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache, partial
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
# Augmentation seeds. The random numbers of a view depend on its seed alone, not on device, torch or processes


def random_stream(*seed: int) -> np.random.RandomState:
    """A random generator for these whole numbers, for example (run's seed, purpose, epoch, step).

    numpy guarantees RandomState's numbers for good (NEP 19): a seed means the same view on every device and with every
    version of torch. torch.Generator guarantees that for one version only.
    """
    return np.random.RandomState(seed)


def shuffled(count: int, *seed: int) -> Tensor:
    """The numbers 0 ... count - 1 in random order, int64 [count]."""
    return torch.from_numpy(random_stream(*seed).permutation(count))


# Purposes. They follow the run's seed, so that no two uses get the same random numbers.
TEACHER, ORDER, VIEW, CHOICE, CROPS, NOISE, TILES, WEIGHTS, LABELS = range(9)


def seed_torch(*seed: int):
    """Seed torch's own generator, which draws initial weights and dropout."""
    torch.manual_seed(int(random_stream(*seed).randint(2**31 - 1)))


def send(tensor: Tensor, device) -> Tensor:
    """Copy a small CPU tensor to the device without waiting for the GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# ---------------------------------------------------------------------------------------------------------------------
# Views


def crop_boxes(u: np.ndarray, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> np.ndarray:
    """Boxes of random resized crops: uniforms [..., 10, 4] -> [..., 4] (top, left, height, width) in whole pixels.

    They are drawn as in torchvision's RandomResizedCrop: the area is uniform in `scale`, the logarithm of the aspect
    ratio is uniform, and the first of ten tries that fits is taken. If none fits, it is the largest central box.
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
    """Weights [N, size, side] that resize the pixels start ... start + length of a row of `side` pixels to `size`.

    Bilinear, antialiased where the row shrinks. Pixels outside the image are left out; where no other is in reach, the
    result is 0. So a shift without resizing pads with zeros.
    """
    shrink = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * shrink
    pixel = torch.arange(side, device=start.device)
    weights = (1 - (pixel + 0.5 - centre).abs() / shrink.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None]))
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6)


def resized_crop(images: Tensor, boxes: Tensor, size: int, flip=None, roll=None) -> Tensor:
    """Cut boxes [N, 4] (top, left, height, width) out of float images [N, C, H, W]; resize to [N, C, size, size].

    Then mirror the images where flip [N] is true, and roll them by roll [N, 2] pixels down and right. For boxes inside
    the image the result equals torchvision's resized_crop(antialias=True). All of it is linear and treats rows and
    columns separately, so a view is rows @ image @ columns': a batched matrix product, differentiable, on any device.
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
    """Mean and standard deviation of the colours, each [1, 3, 1, 1]. Cached: each copy would make a GPU wait."""
    return [torch.tensor(values, device=device).view(1, 3, 1, 1) for values in colours]


def normalize(images: Tensor, colours, memory_format=torch.channels_last) -> Tensor:
    """(image - mean) / standard deviation, as float32, of images [B, 3, S, S]: uint8, or floats in [0, 1]."""
    mean, std = colour_tensors(colours, images.device)
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return ((x - mean) / std).contiguous(memory_format=memory_format)


VIEW_PIXELS = {"cpu": 10**5, "cuda": 4 * 10**6}  # on a CPU: as many as its cache holds


def steps_together(steps, images_per_step, side, device):
    """Split steps into lists of consecutive steps. The views of one list are made in one go, for speed.

    A view depends on its seed alone, so this changes no view. Making views step by step would launch forty small
    operations for each step, and at small sizes those cost a GPU as much as the networks do.
    """
    at_once = max(1, VIEW_PIXELS.get(device.type, 10**6) // (images_per_step * side**2))
    steps = list(steps)
    return [steps[i : i + at_once] for i in range(0, len(steps), at_once)]


def split_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Batches of the image numbers `order` [N]. The last, smaller batch is kept, as in GIFT's released code.

    Ours: a last batch of one image joins the batch before it, as BatchNorm cannot train on a single 1 x 1 map.
    """
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


# ---------------------------------------------------------------------------------------------------------------------
# Networks


class ConvNet(nn.Module):
    """depth x [conv 3x3, BatchNorm, ReLU, 2x2 average pool], then one linear layer on the flattened map.

    Parameter names are those of RDED's and GIFT's checkpoints: layers.conv.{i}, layers.norm.{i}, classifier.
    instance_norm: in place of BatchNorm, as GroupNorm of one channel a group. DC's, DSA's, DM's and MTT's sets were
    made for such a network.
    """

    def __init__(self, depth, num_classes, image_size, width=128, instance_norm=False):
        super().__init__()
        channels = [3] + [width] * depth
        convs = [nn.Conv2d(channels[i], width, 3, padding=1) for i in range(depth)]
        norms = [nn.GroupNorm(width, width) if instance_norm else nn.BatchNorm2d(width) for _ in range(depth)]
        self.layers = nn.ModuleDict({"conv": nn.ModuleList(convs), "norm": nn.ModuleList(norms)})
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, x):
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        return self.classifier(x.flatten(1))


def is_convnet(arch) -> bool:
    return re.fullmatch(r"conv[3-6](_instance)?", arch or "") is not None


def build_model(arch: str, num_classes: int, image_size: int, width: int = 128) -> nn.Module:
    """A network with fresh weights, in channels_last: images [B, 3, image_size, image_size] -> logits [B, num_classes].

    arch: conv3 ... conv6 with `width` channels; conv3_instance ... with instance norm; <torchvision ResNet>_modified,
    with a 3x3 stride-1 first layer and no max-pool, for 32 and 64 px; or any torchvision classification model.
    UserError if there is no such network, or if it cannot take images of that side.
    """
    if is_convnet(arch):
        depth = int(arch[4])
        if image_size < 2**depth:
            raise UserError(f"{arch} halves the side {depth} times: images of {image_size} px are too small for it")
        model = ConvNet(depth, num_classes, image_size, width, arch.endswith("_instance"))
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
    with refused(f"{arch} is not for images of {image_size} px"):
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **more)
        if modified:
            model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            model.maxpool = nn.Identity()
        try_side(model, image_size)
    return model


@torch.no_grad()
def try_side(model: nn.Module, image_size: int):
    """Raise the network's own error if it cannot take images of this side."""
    model.eval()(torch.zeros(1, 3, image_size, image_size))


# ---------------------------------------------------------------------------------------------------------------------
# Data sets

COLOURS = {  # mean and standard deviation of red, green, blue
    # GIFT's code, also for Tiny-ImageNet; RDED's code, for every data set
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
    """The settings that follow from a data set, unless an option says otherwise."""

    conv_side: int  # side of the images in pixels, for ConvNets
    side: int  # ... and for all other networks
    arch: str
    colours: str
    teacher_epochs: int
    fit: str  # how an image of another side is brought to ours, see Split.at_side
    folders: tuple  # names that its folder may have under --data-root
    source: str  # where to get it; "": part of this repository, or downloaded by torchvision


SUBSET = (128, 224, "resnet18", "imagenet", 100, "margin")  # what the presets of ImageNet's subsets share
IMAGENET = "class folders of https://image-net.org"
FASTAI = "https://github.com/fastai/imagenette"  # it splits val/ anew: published teachers have seen most of it
TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MIIL = "https://github.com/Alibaba-MIIL/ImageNet21K (-P, as train/ and val/)"
DATASETS = {
    "fashion": Preset(32, 32, "conv3", "fashion", 12, "pad", (), ""),
    "fashionmnist": Preset(32, 32, "conv3", "fashion", 20, "pad", ("fashionmnist",), ""),
    # 12 epochs: a ConvNet-3 then has 61.1 % on CIFAR-100; the published teacher 59.67 % (61.27 % on enlarged images)
    "cifar10": Preset(32, 32, "conv3", "cifar", 12, "cut", ("cifar10",), ""),
    "cifar100": Preset(32, 32, "conv3", "cifar", 12, "cut", ("cifar100",), ""),
    "tinyimagenet": Preset(64, 64, "conv4", "imagenet", 60, "cut", ("tiny-imagenet-200", "tinyimagenet"), TINY),
    "imagenette": Preset(*SUBSET, ("imagenette2", "imagenette", "imagenette2-320"), FASTAI),
    "imagewoof": Preset(*SUBSET, ("imagewoof2", "imagewoof", "imagewoof2-320"), FASTAI),
    "imagenet-10": Preset(*SUBSET, ("imagenet-10",), IMAGENET),
    "imagenet-100": Preset(*SUBSET, ("imagenet-100",), IMAGENET),
    "imagenet-1k": Preset(64, 224, "resnet18", "imagenet", 90, "margin", ("imagenet-1k", "imagenet"), IMAGENET),
    "imagenet-21k": Preset(224, 224, "resnet18", "none", 80, "squeeze", ("imagenet-21k", "imagenet21k_resized"), MIIL),
}
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
# In the order in which the authors of the data sets number them.
OFFICIAL_CLASSES = {"fashionmnist": FASHION, "cifar10": CIFAR10, "cifar100": CIFAR100.split()}
DEFAULT_IPC = 10  # images per class of a set that is made here
RESIDENT_BYTES = 4 << 30  # a split of up to this size stays on the device; at 224 px, ImageNet-1K's two do not
SAMPLED_FILES = 256  # of a larger split, the fingerprint holds the bytes of this many files


def is_image(path) -> bool:
    """By its name. macOS leaves files like ._7.png beside 7.png. They are not images."""
    name = os.path.basename(path)
    return torchvision.datasets.folder.is_image_file(name) and not name.startswith(".")


def read_image(path) -> Image.Image:
    """An image file of 8 bits a channel, as red, green and blue. EXIF data turn only TIFF files, as in torchvision."""
    with reading("image", path), Image.open(path) as image:
        if image.mode[0] in "IF":
            raise UserError(f"image {path} has 16 or 32 bits a pixel ({image.mode}): convert it to 8 bits a channel")
        return image.convert("RGB")


def read_ahead(read, items):
    """Yield (item, read(item)). While you use one, a thread reads the next."""
    items = list(items)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, items[0]) if items else None
        for i, item in enumerate(items):
            ready = coming.result()
            if i + 1 < len(items):
                coming = reader.submit(read, items[i + 1])
            yield item, ready


class Split:
    """Images [N, 3, S, S] and their labels, int64 [N]: a split of a data set, or a distilled set.

    The images are uint8, from a data.pt also float32.
    Give either `pixels` [N, 3, S, S], or `paths` of image files and their `side`.
    A split of up to `most` bytes (default: RESIDENT_BYTES) stays on the device, as the tensor `images`. A larger one is
    read from disk, batch by batch. split[numbers] is on the device in both cases.
    """

    def __init__(
        self, labels, device, pixels=None, paths=None, side=None, fit="cut", stored=None, cache=None, most=None
    ):
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=device)
        self.device = device
        self.pixels = pixels
        self.paths = paths
        self.side = side
        self.fit = fit
        self.stored = stored  # bytes of the data set as it is published, for a split of pixels
        self.cache = cache  # a folder for the decoded images of a resident split
        most = RESIDENT_BYTES if most is None else most
        self.resident = paths is None or math.prod(self.shape) <= most

    def __len__(self):
        return len(self.labels)

    @property
    def dtype(self):
        return torch.uint8 if self.pixels is None else self.pixels.dtype

    @property
    def shape(self) -> tuple:
        return (len(self.paths), 3, self.side, self.side) if self.pixels is None else tuple(self.pixels.shape)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """The images with these numbers, on the device."""
        if self.resident:
            return self.images[numbers.to(self.device)]
        return self.decode(numbers.tolist()).to(self.device)

    def split(self, size):
        """Yield all images in order, `size` at a time, as Tensor.split does."""
        return (self[numbers] for numbers in torch.arange(len(self)).split(size))

    def original(self, index) -> Tensor:
        """An image as it is stored, uint8 [3, H, W]."""
        if self.paths is None:
            return self.pixels[index]
        return pil_transforms.pil_to_tensor(read_image(self.paths[index]))

    def at_side(self, index) -> Tensor:
        """The image at the side in use, uint8 [3, S, S]. If its own side differs, `fit` says what happens:

        cut: resize the shorter side to S, and cut out the centre;
        margin: the same, but first a little larger: 256 -> 224, 146 -> 128, 73 -> 64 (GIFT's code for ImageNet);
        squeeze: resize to a square, whatever the ratio (LPQLD's code for ImageNet-21K);
        pad: add black pixels on all sides of a smaller image (28 -> 32, Fashion-MNIST), else as cut;
        none: UserError.
        """
        image = read_image(self.paths[index])
        if self.fit == "none" and image.size != (self.side, self.side):
            wide, high = image.size
            raise UserError(f"image {self.paths[index]} is {wide} x {high} px, not {self.side} (--image-size)")
        with refused(f"image {self.paths[index]} cannot be brought to {self.side} px"):
            if self.fit == "pad":
                image = pil_transforms.pad(image, max(0, self.side - min(image.size)) // 2)
            if image.size != (self.side, self.side):
                first = {"margin": int(self.side * 8 / 7), "squeeze": (self.side, self.side)}.get(self.fit, self.side)
                image = pil_transforms.center_crop(pil_transforms.resize(image, first), self.side)
        return pil_transforms.pil_to_tensor(image)

    def decode(self, indices, title=None, device="cpu") -> Tensor:
        """Read these images from disk, uint8 [n, 3, S, S]."""
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8, device=device)
        with ThreadPoolExecutor(cores()) as pool:
            decoded = pool.map(self.at_side, indices)
            decoded = progress_bar(decoded, title, len(indices)) if title else decoded
            for image, pixels in zip(images, decoded, strict=True):
                image.copy_(pixels)
        return images

    @cached_property
    def decoded(self) -> Path:
        """A file with the pixels of a resident split; beside it, as JSON, their hash. Image files are decoded once.

        The file is found again by the paths, sizes and times of the image files.
        """
        files = [(path, os.path.getsize(path), os.stat(path).st_mtime_ns) for path in self.paths]
        file = self.cache / f"images-{digest([self.side, self.fit, files])}.pt"
        if not (file.exists() and file.with_suffix(".json").exists()):
            images = self.decode(range(len(self)), "reading images")
            save(file, {"images": images})
            save(file.with_suffix(".json"), {"hash": digest(images)})
        return file

    @cached_property
    def images(self) -> Tensor:
        """All images of a resident split, on the device."""
        if self.paths is None:
            return self.pixels.to(self.device)
        if self.cache:
            return load(self.decoded)["images"].to(self.device)
        return self.decode(range(len(self)), "reading images", self.device)

    def load_each(self, parts):
        """Yield (indices, images) of each part. From disk, the next part is read while you use this one."""
        if self.resident:
            return ((part, self[part]) for part in parts)
        return read_ahead(self.__getitem__, parts)

    def batches(self, size, indices=None):
        """Yield (uint8 images [B, 3, S, S], labels [B]) in order: of all images, or of these."""
        indices = torch.arange(len(self)) if indices is None else indices
        for part, images in self.load_each(indices.split(size)):
            yield images, self.labels[part.to(self.device)]

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the images as the data set is published: its files, or its arrays."""
        return self.stored if self.paths is None else sum(map(os.path.getsize, self.paths))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all pixels and labels. For a split that is read from disk: of its labels, of the names and sizes
        of its files, and of the bytes of SAMPLED_FILES of them."""
        if self.resident:
            pixels = digest(self.pixels) if self.paths is None else load(self.decoded.with_suffix(".json"))["hash"]
            return digest([pixels, self.labels.tolist()])
        names = [(Path(p).parent.name, Path(p).name, os.path.getsize(p)) for p in self.paths]
        sampled = self.paths[:: -(-len(self.paths) // SAMPLED_FILES)]
        hashes = []
        for path in sampled:
            with reading("image", path):
                hashes.append(hashlib.sha256(Path(path).read_bytes()).hexdigest())
        return digest([self.side, self.fit, self.labels.tolist(), names, hashes])


class Dataset(NamedTuple):
    name: str
    class_names: list
    image_size: int
    colours: tuple
    default_arch: str
    width: int  # channels of a ConvNet
    teacher_epochs: int
    train: Split
    test: Split
    runs: Path  # the folder of everything that a run keeps

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def device(self):
        return self.test.device

    def describe(self) -> dict:
        """What every stage records of the data set that it was made from."""
        prints = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        return {"dataset": self.name, "image_size": self.image_size, "colours": self.colours, "fingerprint": prints}


def read_sheets(split, count, device) -> Split:
    """The embedded data set: one sheet of 28 x 28 tiles for each class, cut and padded to [N, 3, 32, 32]."""
    paths = [Path(__file__).parent / "data" / "fashion" / f"{split}-{label}.png" for label in range(10)]
    tiles = []
    for path in paths:
        sheet = pil_transforms.pil_to_tensor(read_image(path))
        tiles.append(sheet.unfold(1, 28, 28).unfold(2, 28, 28).permute(1, 2, 0, 3, 4).reshape(-1, 3, 28, 28))
        if len(tiles[-1]) != count:
            raise UserError(f"{path} holds {len(tiles[-1])} tiles, not {count}: the file is not the one published here")
    pixels = F.pad(torch.cat(tiles), (2, 2, 2, 2))
    labels = torch.arange(10).repeat_interleave(count)
    return Split(labels, device, pixels=pixels, stored=sum(map(os.path.getsize, paths)))


def read_torchvision(name, data_root, device) -> list[Split]:
    """The two splits of a data set that torchvision downloads on first use, and checks."""
    kind = {"fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    folder = data_root / name
    words = f"{name} is not in {data_root}, and torchvision could not download it; without a network, put its images "
    words += f"into {folder}/train/<class>/ and {folder}/test/<class>/"
    splits = []
    for train in (True, False):
        with refused(words):
            part = getattr(torchvision.datasets, kind)(data_root, train=train, download=True)
        pixels = torch.as_tensor(part.data)
        labels = torch.as_tensor(part.targets)
        side = 28 if name == "fashionmnist" else 32
        if not 0 < len(pixels) == len(labels) or labels.max() >= len(part.classes) or pixels.shape[1:3] != (side, side):
            found = f"images {list(pixels.shape)}, {len(labels)} labels"
            raise UserError(f"the files of {name} in {data_root} are not the published ones: {found}")
        stored = pixels.numel()
        if name == "fashionmnist":
            pixels = F.pad(pixels, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1)
        else:
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
        splits.append(Split(labels, device, pixels=pixels, stored=stored))
    return splits


HELD_OUT = ("val", "test", "validation")  # names of the folder with the test images


def has_splits(folder: Path) -> bool:
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in HELD_OUT)


def find_folders(name, data_root) -> Path:
    """The directory with train/ and val/ (or test/) that `name` means."""
    preset = DATASETS.get(name)
    places = [data_root / folder for folder in preset.folders] if preset else [path_of(name)]
    for place in places:
        if has_splits(place):
            return place
    if preset:
        looked_for = ", ".join(map(str, places))
        words = f"data set {name} not found: looked for {looked_for}; get it from {preset.source}"
        if name == "imagenette" and not places[0].exists():
            with refused(words):
                torchvision.datasets.Imagenette(data_root, download=True)
            return places[0]
        raise UserError(f"{words}; --dataset fashion needs no files")
    if places[0].is_dir():
        raise UserError(f"--dataset {name}: it needs the folders train/ and val/ (or test/), with a folder per class")
    raise UserError(f"--dataset {name} is neither a directory nor one of {', '.join(DATASETS)}")


class ClassFolders(torchvision.datasets.ImageFolder):
    """torchvision's ImageFolder. Left out are folders without images, and what programs leave behind (__MACOSX)."""

    def __init__(self, folder):
        super().__init__(folder, is_valid_file=is_image)

    def find_classes(self, folder):
        names = [name for name in super().find_classes(folder)[0] if not name.startswith((".", "__"))]
        names = [name for name in names if has_images(Path(folder, name))]
        return names, {name: label for label, name in enumerate(names)}


def has_images(folder: Path) -> bool:
    """Whether there are images in a folder or below. OSError if the folder may not be read."""

    def fail(error):
        raise error

    walk = os.walk(folder, onerror=fail, followlinks=True)
    return any(is_image(name) for _, _, names in walk for name in names)


def read_class_folders(folder: Path) -> tuple[list, list, list]:
    """(class names, file paths, labels) of a folder of class folders, or of Tiny-ImageNet's val/ with annotations."""
    annotations = folder / "val_annotations.txt"
    if annotations.exists() and (folder / "images").exists():  # else the images were sorted into class folders
        with reading("annotations", annotations):
            rows = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
        if min(map(len, rows), default=0) < 2:
            raise UserError(f"{annotations} is not a table of image and class, separated by tabs")
        classes = sorted({row[1] for row in rows})
        paths = [str(folder / "images" / row[0]) for row in rows]
        return classes, paths, [classes.index(row[1]) for row in rows]
    with refused(f"{folder} cannot be read as class folders with images"):
        found = ClassFolders(folder)
    return found.classes, [path for path, _ in found.samples], found.targets


def check_links(paths):
    """UserError if a link makes two of these folders the same: its images would count twice."""
    reached = {}
    for place in sorted({os.path.dirname(path) for path in paths}):
        other = reached.setdefault(os.path.realpath(place), place)
        if other != place:
            raise UserError(f"{place} and {other} are the same folder: a link leads back, its images would count twice")


def read_folders(root: Path) -> tuple[list, tuple, tuple]:
    """Class names, and (file paths, labels) of train/ and of val/ or test/."""
    held_out = next(root / name for name in HELD_OUT if (root / name).is_dir())
    test_classes, test_paths, test_labels = read_class_folders(held_out)
    classes, paths, labels = read_class_folders(root / "train")
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))[0]
        counts = (len(classes), len(test_classes))
        raise UserError(f"{root}: train/ and {held_out.name}/ have {counts} classes; {odd} is in one only")
    check_links(paths + test_paths)
    return classes, (paths, labels), (test_paths, test_labels)


def letters(text) -> str:
    """Lower-case letters and digits alone: T-shirt/top and t_shirt_top are one name."""
    return re.sub(r"[^a-z0-9]", "", str(text).lower())


def official_labels(name: str, root: Path, classes: list, labels: list) -> list:
    """Labels by the official order of the classes; the folders may be sorted otherwise."""
    official = [letters(one) for one in OFFICIAL_CLASSES[name]]
    found = [letters(one) for one in classes]
    if sorted(found) != sorted(official):
        odd = [name for name in classes if letters(name) not in official] or ["too few"]
        raise UserError(f"{root} does not hold the {len(official)} classes of {name} ({odd[0]})")
    return [official.index(found[label]) for label in labels]


def preset_of_directory(first_image, arch, image_size) -> Preset:
    """For a directory of one's own. Small images keep their side; larger ones become 128 or 224 px."""
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
    """Load a data set by its name, or a directory. Its side, colours and network follow from it, unless given."""
    preset = DATASETS.get(name)
    known_as = name
    side = image_size or (preset and (preset.conv_side if is_convnet(arch) else preset.side))
    if name in ("fashion", *OFFICIAL_CLASSES) and side != preset.side:
        raise UserError(f"{name} has images of {preset.side} px: --image-size {image_size} does not go with it")
    if name == "fashion":
        classes = FASHION
        train = read_sheets("train", 500, device)
        test = read_sheets("test", 200, device)
    elif name in OFFICIAL_CLASSES and not has_splits(data_root / name):
        classes = OFFICIAL_CLASSES[name]
        train, test = read_torchvision(name, data_root, device)
    else:
        root = find_folders(name, data_root)
        check_writable(out, root)
        classes, *splits = read_folders(root)
        if name in OFFICIAL_CLASSES:
            splits = [(paths, official_labels(name, root, classes, labels)) for paths, labels in splits]
            classes = OFFICIAL_CLASSES[name]
        if not preset:
            preset = preset_of_directory(splits[0][0][0], arch, image_size)
            side = preset.side
            known_as = os.path.basename(os.path.realpath(root))
            if known_as in DATASETS:  # a directory that is called cifar10 need not be CIFAR-10
                known_as += "-folder"
        more = {"side": side, "fit": preset.fit, "cache": out / known_as}
        train, test = [Split(labels, device, paths=paths, **more) for paths, labels in splits]
    if len(classes) < 2:
        raise UserError(f"{known_as} has {len(classes)} class: at least two are needed")
    if len(train) == len(test) and train.fingerprint == test.fingerprint:
        raise UserError(f"{known_as}: the training and the test images are the same")
    width = width or (64 if name == "fashion" else 128)
    counts = f"{len(train):,} training and {len(test):,} test images"
    print(f"data:     {known_as}: {counts}, {len(classes)} classes, {side} px")
    return Dataset(
        known_as, list(classes), side, COLOURS[colours or preset.colours], preset.arch, width, preset.teacher_epochs,
        train, test, out / known_as,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Scoring and teachers


def enlarge_and_cut(x: Tensor, larger: int) -> Tensor:
    """Resize images [N, 3, S, S] to `larger` pixels, and cut out their centre, S x S."""
    resized = F.interpolate(x, size=(larger, larger), mode="bilinear", antialias=True)
    return pil_transforms.center_crop(resized, x.shape[-1]).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, colours, batch_size=200, enlarge=None) -> tuple[float, float]:
    """Top-1 and top-5 in percent on all images of a split, in fp32 (top-C if there are fewer than five classes).

    enlarge: resize the images to this side first, and cut out their centre (enlarge_and_cut).
    """
    model.eval()
    hits = torch.zeros(2, device=split.device)
    for images, labels in split.batches(batch_size):
        x = normalize(images, colours)
        if enlarge:
            x = enlarge_and_cut(x, enlarge)
        logits = model(x)
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        ranked &= logits.isfinite().all(1, keepdim=True)  # a network that has diverged gets no image right
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
# Ours: SGD with Nesterov momentum. The learning rate rises over the first fifth of the steps and then falls to 0, both
# linearly. Batches of 128, or of 64 below 10,000 images.
TEACHER_RECIPE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": (64, 128), "warmup": 0.2}

WRONG_ORDER = "likely it has another class order (here: sorted class folders) or other colours (--colours)"
TOO_SHORT = "likely it was trained too briefly (--teacher-epochs)"


class Teacher(NamedTuple):
    model: nn.Module  # in eval mode, on the device
    info: dict  # arch, width, accuracy, file, digest of its weights


def load_teacher(data: Dataset, arch: str, checkpoint=None, epochs=None, seed=0, cause=WRONG_ORDER) -> Teacher:
    """Load this checkpoint; or torchvision's weights (ImageNet-1K); or train a teacher, once. Prints its accuracy.

    cause: the likely reason, shown if the accuracy of a given checkpoint is low.
    """
    how = "from"
    if checkpoint:
        source = checkpoint
        model, recorded = read_teacher(source, arch, data)
    elif data.name == "imagenet-1k":
        if epochs:
            raise UserError("--teacher-epochs: ImageNet-1K's teacher is torchvision's, it is not trained here")
        model, recorded, source = torchvision_teacher(arch, data)
    else:
        cause = TOO_SHORT
        source, how = own_teacher(data, arch, epochs or data.teacher_epochs, seed)
        model, recorded = read_teacher(source, arch, data)
    model = model.to(data.device).eval().requires_grad_(False)
    weights = digest(model.state_dict())
    folder = stage_folder(data, f"accuracy-{arch}", {"stage": "accuracy", "teacher": weights})
    top1 = cached(folder / "accuracy.json", lambda _: {"top1": accuracy(model, data.test, data.colours)[0]})["top1"]
    width = len(model.layers["conv"][0].weight) if isinstance(model, ConvNet) else None
    named = f"{arch} of width {width}" if width else arch
    published = PUBLISHED_TEACHERS.get((data.name, arch))
    expected = max(filter(None, (recorded, published)), default=None)
    warning = judge_teacher(top1, expected, data.num_classes, f"the teacher ({named}, {source})", cause)
    print(f"teacher:  {named}: {top1:.1f} % of the {len(data.test):,} test images ({how} {source})")
    if warning:
        print(warning, file=sys.stderr)
    return Teacher(model, {"arch": arch, "width": width, "accuracy": top1, "file": str(source), "digest": weights})


def judge_teacher(top1, expected, num_classes, name, cause=WRONG_ORDER):
    """A warning if a teacher is more than two points below the expected figure, else None.

    UserError if it is near chance: less than a twentieth of the way from chance (100 / C percent) to 100 percent.
    """
    chance = 100 / num_classes
    if not top1 > chance + (100 - chance) / 20:
        raise UserError(f"{name} is right on {top1:.1f} % of the test images, near chance ({chance:.1f} %): {cause}")
    if expected is not None and top1 < expected - 2:
        return f"warning: {name} reaches {top1:.1f} %, well below the expected {expected:.1f} %: {cause}"
    return None


def read_teacher(path, arch, data: Dataset) -> tuple[nn.Module, float | None]:
    """A network from a checkpoint, ours or a published one, and the accuracy recorded in it, if any."""
    kept = load_tensors(path, "teacher")
    kept = kept if isinstance(kept, dict) else {}
    recorded = kept.get("accuracy") if isinstance(kept.get("accuracy"), float) else None
    state = weights_of(kept)
    if not state:
        raise UserError(f"teacher {path} holds no state dict, neither as such nor under 'model' or 'state_dict'")
    width = data.width
    with refused(f"teacher {path} is no {arch} for {data.image_size} px (--teacher-arch)"):
        if "layers.conv.0.weight" in state:
            width = len(state["layers.conv.0.weight"])
        model = build_model(arch, data.num_classes, data.image_size, width)
        last = list(model.state_dict())[-1]  # the bias of the last layer
        classes = state[last].shape[:1] if last in state else None
        if classes and classes != (data.num_classes,):
            raise UserError(f"teacher {path} is for {classes[0]} classes, {data.name} has {data.num_classes}")
        model.load_state_dict(state)
    return model, recorded


def weights_of(checkpoint: dict) -> dict | None:
    """The state dict of a checkpoint, or None. It is the checkpoint itself, or lies in it under a usual name."""
    state = checkpoint
    for name in ("model", "state_dict", "net"):  # RDED's and GIFT's; SRe2L's for CIFAR; a common third
        if isinstance(checkpoint.get(name), dict):
            state = checkpoint[name]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        return None
    state = {re.sub(r"^((module|_orig_mod|model)\.)+", "", name): value for name, value in state.items()}
    # LPLD's published teachers also hold class-wise statistics; we compute our own (synthesize.class_statistics)
    return {name: value for name, value in state.items() if ".class_running_" not in name}


def torchvision_teacher(arch, data) -> tuple[nn.Module, float, str]:
    """ImageNet-1K: torchvision's first weights of that name, as SRe2L, RDED and GIFT use, and their stated accuracy."""
    with refused(f"torchvision has no ImageNet-1K weights for {arch}: --teacher FILE"):
        weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    if data.num_classes != 1000:
        raise UserError(
            f"torchvision's weights are for 1000 classes, {data.name} has {data.num_classes} here: --teacher FILE"
        )
    with refused(f"torchvision's weights for {arch} cannot be had: delete a damaged file, or --teacher FILE"):
        model = torchvision.models.get_model(arch, weights=weights).to(memory_format=torch.channels_last)
    with refused(f"{arch} does not take images of {data.image_size} px"):
        try_side(model, data.image_size)
    return model, weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], str(weights)


def own_teacher(data: Dataset, arch, epochs, seed, stage="teacher", draw=None) -> tuple[Path, str]:
    """Train a teacher by TEACHER_RECIPE, or find it. Returns its file, and which of the two it was, in words.

    draw makes its views (default: teacher_draws); with another one, give another name of the stage.
    """
    settings = {
        "stage": stage,
        "arch": arch,
        "width": data.width,
        "epochs": epochs,
        "seed": seed,
        "recipe": TEACHER_RECIPE,
        "precision": precision_on(data.device),
    }
    file = stage_folder(data, f"{stage.replace(' ', '-')}-{arch}", settings) / "teacher.pt"

    def make(progress):
        model = train_teacher(data, arch, epochs, seed, progress, draw or teacher_draws)
        top1, _ = accuracy(model, data.test, data.colours)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        return {"model": state, "accuracy": top1, "settings": json.dumps(settings)}

    how = "kept from an earlier run in" if file.exists() else "kept in"
    cached(file, make)  # refuses a damaged file, and one of another stage
    return file, how


def teacher_draws(count: int, side: int, *seed: int) -> Tensor:
    """Training views of the teacher: float32 [count, 5], the crop box (4) and the flip.

    Up to 64 px the crop is a shift by up to S/8, with zeros at the border. Above, it is a random resized crop (scale
    0.25 to 1).
    """
    u = random_stream(*seed).random_sample((count, 41))
    if side <= 64:
        reach = side // 8
        shift = np.floor(u[:, :2] * (2 * reach + 1)) - reach
        boxes = np.concatenate([shift, np.full((count, 2), side)], 1)
    else:
        boxes = crop_boxes(u[:, :40].reshape(count, 10, 4), side, side, scale=(0.25, 1))
    return torch.from_numpy(np.concatenate([boxes, u[:, 40:] < 0.5], 1).astype(np.float32))


def teacher_batches(data: Dataset, batch_size: int, seed: int, epoch: int, draw=teacher_draws):
    """Yield (normalised views, labels) of an epoch's steps. The last, smaller batch is dropped."""
    train = data.train
    side = data.image_size
    order = shuffled(len(train), seed, TEACHER, ORDER, epoch)
    order = send(order, train.device) if train.resident else order
    together = steps_together(range(len(train) // batch_size), batch_size, side, train.device)
    parts = [order[steps[0] * batch_size : (steps[-1] + 1) * batch_size] for steps in together]
    for steps, (part, images) in zip(together, train.load_each(parts), strict=True):
        draws = [draw(batch_size, side, seed, TEACHER, VIEW, epoch, step) for step in steps]
        draws = send(torch.cat(draws), train.device)
        images = normalize(images, data.colours, torch.contiguous_format)  # the layout that the crop is fast in
        views = resized_crop(images, draws[:, :4], side, flip=draws[:, 4] > 0)
        views = views.contiguous(memory_format=torch.channels_last)
        labels = train.labels[part.to(train.device)]
        yield from zip(views.split(batch_size), labels.split(batch_size), strict=True)


def teacher_step(model, optimizer, views: Tensor, labels: Tensor) -> Tensor:
    with autocast(views.device):
        logits = model(views)
    loss = F.cross_entropy(logits.float(), labels)
    descend(optimizer, loss)
    return loss.detach()


def train_teacher(data: Dataset, arch: str, epochs: int, seed: int, progress: Path, draw=teacher_draws) -> nn.Module:
    """Train a network on the full training set with hard labels, by TEACHER_RECIPE. draw makes its views."""
    recipe = TEACHER_RECIPE
    train = data.train
    seed_torch(seed, TEACHER)
    model = build_model(arch, data.num_classes, data.image_size, data.width).to(data.device)
    more = {"momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"], "nesterov": True}
    optimizer = torch.optim.SGD(model.parameters(), lr=0, **more, **fused(data.device))
    batch_size = min(recipe["batch_size"][len(train) >= 10_000], len(train))
    steps = len(train) // batch_size
    log = {}
    for epoch in resumable(progress, epochs, "training the teacher", log, 1, model=model, optimizer=optimizer):
        model.train()
        seed_torch(seed, TEACHER, epoch)  # for networks with dropout
        total = torch.zeros((), device=data.device)
        for step, (views, labels) in enumerate(teacher_batches(data, batch_size, seed, epoch, draw)):
            done = (epoch * steps + step + 1) / (epochs * steps + 1)
            up, down = done / recipe["warmup"], (1 - done) / (1 - recipe["warmup"])
            set_rate(optimizer, recipe["lr"] * min(up, down))
            total += teacher_step(model, optimizer, views, labels)
        log["loss"] = total / steps
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Training: what all training loops share

PRECISION = None  # --precision; None means bf16 on GPUs that have it, else fp32


def precision_on(device) -> str:
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return PRECISION or ("bf16" if has_bf16 else "fp32")


def autocast(device):
    """bf16 inside, if that is the precision. Losses are computed outside, in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_on(device) == "bf16")


def fused(device) -> dict:
    """An option of torch's optimizers: on CUDA, update all weights in one launch."""
    return {"fused": True} if device.type == "cuda" else {}


def set_rate(optimizer, rate: float):
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(optimizer, loss: Tensor):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


class LogLines:
    """Where tqdm writes if stderr is no terminal: one line below the other."""

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self):
        sys.stderr.flush()


def progress_bar(items, title, total, first=0, unit="it"):
    """A bar on a terminal. In a log file: a line every half minute."""
    style = {"initial": first, "unit": unit, "leave": False}
    if not sys.stderr.isatty():
        style |= {"file": LogLines(), "mininterval": 30, "miniters": 1, "delay": 1}
    return tqdm(items, title, total, **style)


KEEP_EVERY = 60.0  # seconds


def resumable(path: Path, epochs: int, title: str, log: dict, look=10, unit="epoch", **modules):
    """Yield the numbers of the epochs that are still to do. A killed run goes on after the last epoch it kept.

    About once a minute `log` and the states of the modules are written to `path`, and read from there at the start.
    The loop's body puts into `log` what must survive: tensors and plain values. Floats in it are shown on the bar.
    Every `look` epochs log["loss"] is read; UserError if it is not finite. (Reading it makes a GPU wait.)
    log["seconds"] is the time the loop has taken, over all runs.
    """
    first = 0
    log.setdefault("seconds", 0.0)
    with suppress(FileNotFoundError):
        kept = load(path)
        first = kept["epoch"]
        log.update(kept["log"])
        for name, module in modules.items():
            state = kept["modules"][name]
            for group in state.get("param_groups", []):  # an optimizer's state may come from another kind of device
                group["fused"] = module.defaults.get("fused")
            module.load_state_dict(state)

    started = time.monotonic() - log["seconds"]
    keep_next = time.monotonic() + KEEP_EVERY
    bar = progress_bar(range(first, epochs), title, epochs, first, unit)
    for epoch in bar:
        yield epoch
        done = epoch + 1
        if done % look == 0 or done == epochs:
            shown = {name: float(value) for name, value in log.items() if name == "loss" or isinstance(value, float)}
            if not math.isfinite(shown.get("loss", 0)):
                raise UserError(f"{title}: the loss is {shown['loss']} in {unit} {done}: it has diverged")
            bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items() if name != "seconds"}, refresh=False)
        log["seconds"] = time.monotonic() - started
        if time.monotonic() >= keep_next:
            begun = time.monotonic()
            states = {name: module.state_dict() for name, module in modules.items()}
            save(path, {"epoch": done, "log": log, "modules": states})
            now = time.monotonic()
            keep_next = now + KEEP_EVERY * max(1, (now - begun) / 3)  # a large file less often: 5 % of the time


def new_student(data: Dataset, arch: str, seed: int) -> nn.Module:
    """A network with fresh weights. They differ from its teacher's, which is seeded with another purpose."""
    seed_torch(seed, WEIGHTS)
    return build_model(arch, data.num_classes, data.image_size, data.width).to(data.device)


def student_epochs(student: nn.Module, optimizer, epochs: int, seed: int, log: dict, progress: Path):
    """Yield the epochs that are still to train (see resumable). Sets train mode and the seed of dropout."""
    for epoch in resumable(progress, epochs, f"student, seed {seed}", log, student=student, optimizer=optimizer):
        student.train()
        seed_torch(seed, WEIGHTS, epoch)
        yield epoch


class Students(NamedTuple):
    """Students that differ in their seed alone: how one is trained, and where they are kept."""

    folder: Path
    settings: dict
    train: Callable  # (seed, progress file) -> {"top1": ..., "top5": ..., "seconds": ..., ...}
    about: dict  # what result.json says besides: images, teacher, bytes of the labels
    device: torch.device

    def jobs(self, seeds) -> dict:
        """For make_all: the file of each student, and the function that trains it."""
        return {self.folder / f"seed{seed}.json": partial(self.train_one, seed) for seed in seeds}

    def train_one(self, seed: int, progress: Path) -> dict:
        return {**self.train(seed, progress), "made_with": made_with(self.device)}


def students_of(
    data: Dataset, distilled, name: str, settings: dict, train: Callable, teacher: Teacher | None = None, **about
) -> Students:
    """The settings, the folder and the training of students of a distilled set.

    It adds to the settings: data, images (their hash), ipc, width, precision and, if there is one, teacher (its hash).
    train_students calls make_all, make_all calls train_one, and train_one calls train(seed, progress file).
    """
    settings = {
        **settings,
        "data": data.describe(),
        "images": distilled.info["digest"],
        "ipc": distilled.info["ipc"],
        "width": data.width,
        "precision": precision_on(data.device),
    }
    about = {"images": distilled.info, **about}
    if teacher:
        settings["teacher"] = teacher.info["digest"]
        about["teacher"] = teacher.info
    folder = stage_folder(data, name, settings)
    return Students(folder, settings, train, about, data.device)


def train_students(students: Students, seeds) -> dict:
    """Train one student for each seed, unless it is on disk already. Write result.json, and return what it says."""
    jobs = students.jobs(seeds)
    reused = sum(file.exists() for file in jobs)
    make_all(jobs)
    trained = [load(file) for file in jobs]
    result = {**scores(trained), "settings": students.settings, **students.about, "students": trained}
    result["made_with"] = made_with(students.device)
    file = students.folder / "result.json"
    if rank == 0:
        save(file, result)
    return {**result, "file": str(file), "reused": reused}


def mean_std(values: list[float]) -> dict:
    """Mean and population standard deviation over students, as GIFT's released code reports them."""
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "values": values}


def scores(students: list[dict]) -> dict:
    """Accuracy on the test set after the last epoch: the result. Also the best of the `checks`: not the result."""
    result = {}
    for name in ("top1", "top5"):
        result[name] = mean_std([student[name] for student in students])
    if all("checks" in student for student in students):
        best = [max(top1 for _, top1, _ in student["checks"]) for student in students]
        result["best_check_top1"] = mean_std(best)
    return result


def spread(score: dict) -> str:
    """ "78.7 ± 0.5"; for a single student, which has no spread, "78.7"."""
    return f"{score['mean']:.1f}" + (f" ± {score['std']:.1f}" if len(score["values"]) > 1 else "")


def number_of_students(count: int) -> str:
    return f"{count} student{'s' * (count > 1)}"


def print_result(result: dict, data: Dataset, teacher: Teacher | None, compare_with: str):
    students = number_of_students(len(result["students"]))
    if result["reused"]:
        students += f", {result['reused']} kept from an earlier run"
    print(f"result:   {result['file']}\n")
    print(f"{'test set, %':38} top-1         top-5         {students}")
    print(f"{'last epoch: the result':38} {spread(result['top1']):12}  {spread(result['top5'])}")
    if "best_check_top1" in result:
        best = spread(result["best_check_top1"])
        print(f"{'best of its checks (not the result)':38} {best:26}  what the released code reports")
    if teacher:
        print(f"{'teacher':38} {teacher.info['accuracy']:.1f}")
    print(f"{'chance':38} {100 / data.num_classes:.1f}")
    print(f"to compare: {compare_with}")


def student_line(data: Dataset, arch: str, lr: float) -> str:
    """The network with its width, rate, precision and threads, for the line that begins a training."""
    width = f" of width {data.width}" if is_convnet(arch) else ""
    where = processor().split(", ")[-1] if data.device.type == "cpu" else str(data.device)
    return f"{arch}{width}, rate {lr:g}, {precision_on(data.device)}, {where}"


# ---------------------------------------------------------------------------------------------------------------------
# Several processes, started by torchrun. They share the work; the files are the same for any number of them


def told_by_torchrun(name: str, alone: int) -> int:
    """A number that torchrun sets in the environment; without torchrun, `alone`."""
    value = os.environ.get(name, "")
    return int(value) if "TORCHELASTIC_RUN_ID" in os.environ and value.isdigit() else alone


rank = told_by_torchrun("RANK", 0)  # without torchrun: process 0 of 1
world = told_by_torchrun("WORLD_SIZE", 1)
PATIENCE = 10  # seconds


def cores() -> int:
    """The processor cores that this process may use."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, free // told_by_torchrun("LOCAL_WORLD_SIZE", 1))


def memory(device) -> int:
    """Bytes of memory of this GPU; or of this machine, shared between its processes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**60
    return of_machine // told_by_torchrun("LOCAL_WORLD_SIZE", 1)


def with_all_processes(call: str, *args):
    """A call of torch.distributed, which all processes make. Each waits for the others."""
    if world == 1:
        return
    try:
        getattr(distributed, call)(*args)
    except RuntimeError as error:
        time.sleep(PATIENCE)  # the process that failed says why, and torchrun ends this one
        raise UserError(f"another process has ended ({one_line(error)})") from None


def wait():
    """Wait until all processes are here."""
    with_all_processes("barrier")


def from_first(make):
    """Run make() in process 0, and return the result in all processes."""
    told = [make() if rank == 0 else None]
    with_all_processes("broadcast_object_list", told)
    return told[0]


def meet_others(out: Path):
    """Connect to the other processes. UserError if --out is not one folder that all of them see."""
    if world == 1:
        return
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(days=100))  # CPU messages are enough: they are small
    mark = out / f".{from_first(lambda: secrets.token_hex(4))}"
    if rank == 0:
        write_atomically(mark, lambda beside: beside.touch())
    wait()
    seen = [False] * world
    with_all_processes("all_gather_object", seen, mark.exists())
    if rank == 0:
        mark.unlink()
    if not all(seen):
        raise UserError(f"--out {out} is not one folder that all {world} processes share")


def cut(count: int, most: int, pieces: int = 1) -> list[Tensor]:
    """The numbers 0 ... count - 1 in even pieces of at most `most`; at least `pieces` pieces, if count allows it.

    The pieces depend on the work and not on the number of processes. So the results do not depend on it either.
    """
    return list(torch.arange(count).tensor_split(max(-(-count // most), min(count, pieces))))


PIECES = 8  # at least: so that eight GPUs have a piece each

# ---------------------------------------------------------------------------------------------------------------------
# Files that a run keeps


def stage_folder(data: Dataset, name: str, settings: dict) -> Path:
    """The folder <name>-<8 hex digits> for these settings. The digits are a hash of the settings and the data set.

    settings.json in it is for people.
    """
    settings = {**settings, "data": data.describe()}
    folder = data.runs / f"{name}-{digest(settings)}"
    file = folder / "settings.json"
    if rank == 0 and not file.exists():
        write_json(file, settings)
    return folder


def make_all(jobs: dict, title=None, go_on=False) -> dict:
    """Make the files that are missing: jobs[path](progress file) returns the content of `path`.

    The processes share the jobs, and then wait for each other. Must be called by all of them, and not inside a job.
    A UserError ends the run, after the other processes have finished; another error ends it at once. With go_on all
    jobs are tried, and {path: why it failed} is returned.
    """
    missing = from_first(lambda: [path for path in jobs if not path.exists()])
    if rank == 0:
        for path in set(jobs) - set(missing):  # left by a run that was killed just after it wrote the file
            path.with_suffix(".progress.pt").unlink(missing_ok=True)
    mine = missing[rank::world]
    failed = {}
    for path in progress_bar(mine, title, len(mine)) if title else mine:
        progress = path.with_suffix(".progress.pt")
        try:
            save(path, jobs[path](progress))
            progress.unlink(missing_ok=True)
        except (UserError, RuntimeError, MemoryError) as error:
            if not go_on and not isinstance(error, UserError):
                raise
            failed[path] = one_line(error)
            if not go_on:
                break
    everyone = [failed] * world
    with_all_processes("all_gather_object", everyone, failed)
    failed = {path: reason for part in everyone for path, reason in part.items()}
    if failed and not go_on:
        raise UserError(next(iter(failed.values())))
    return failed


def cached(path: Path, make: Callable) -> dict:
    """The content of a file. If it is missing, one process makes it first: make(progress file)."""
    make_all({path: make})
    return load(path)


def is_made(path: Path, *pieces: str) -> bool:
    """Whether this file of a stage exists. If so, delete the pieces <name>-0-9.pt that a killed run left beside it."""
    made = from_first(path.exists)
    if made and rank == 0:
        for file in path.parent.glob("*.pt"):
            if re.fullmatch(rf"({'|'.join(pieces)})-\d+-\d+(\.progress)?\.pt", file.name):
                file.unlink(missing_ok=True)
    return made


def make_joined(path: Path, pieces: dict, join: Callable, title=None):
    """Make a file in pieces, if it is missing: make the pieces, write join(their contents), delete the pieces.

    Several runs may do this in one folder at the same time. If a piece has gone, another run has joined them.
    """
    while from_first(lambda: not path.exists()):
        make_all(pieces, title)
        if rank == 0:
            with suppress(FileNotFoundError):
                save(path, join(map(load, pieces)))
        wait()
    if rank == 0:
        for piece in pieces:
            piece.unlink(missing_ok=True)


def save(path: Path, content: dict):
    """Write a file, JSON or torch's by its suffix. It also holds its folder and name: load() refuses it elsewhere."""
    content = {"kept as": place_of(path), **content}
    if path.suffix == ".json":
        write_json(path, content)
    else:
        write_atomically(path, lambda beside: torch.save(content, beside))


def load(path: Path) -> dict:
    """Read a file that save() wrote. UserError if it is damaged or of another stage, FileNotFoundError if missing."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise ValueError("no file")
        content = json.loads(path.read_text()) if path.suffix == ".json" else load_tensors(path, "kept file")
        place = content.pop("kept as")
    except Exception as error:  # damaged bytes make the readers fail in many ways
        if not os.path.lexists(path):  # perhaps another run has deleted it just now
            raise FileNotFoundError(f"{path} is missing") from None
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} may not be read") from None
        raise UserError(f"{path} is damaged: delete it, and it is made again ({one_line(error)})") from None
    if place != place_of(path):
        raise UserError(f"{path} belongs to another stage, {place}: delete it, and it is made again")
    return content


def place_of(path: Path) -> str:
    return f"{path.absolute().parent.name}/{path.name}"


def digest(content) -> str:
    """Eight hex digits for plain values, lists and dicts of them, and tensors or Splits (type, shape, every byte)."""

    def of_tensor(tensor):
        bytes_of = hashlib.sha256()
        for part in tensor.split(1000) if tensor.shape else [tensor]:
            bytes_of.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return [str(tensor.dtype), list(tensor.shape), bytes_of.hexdigest()]

    text = json.dumps(content, sort_keys=True, default=of_tensor)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_json(path: Path, content: dict):
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text))


def write_atomically(path: Path, write):
    """Call write(a path beside `path`), then rename: a reader finds the whole file or none."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.????????"):  # by a process that was killed while writing
            with suppress(FileNotFoundError):  # another run has renamed or deleted it
                if time.time() - left.stat().st_mtime > 600:
                    left.unlink()
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {one_line(error)}") from None
    except RuntimeError as error:  # torch's writer; it does not say why
        raise UserError(f"{path} cannot be written: {one_line(error)}. Is the disk full?") from None
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            beside.unlink()


def made_with(device) -> dict:
    """Command, hardware, versions and date. They stand beside every result."""
    on_gpu = device.type == "cuda"
    script = Path(sys.argv[0])
    how = ["-m", f"experiments.{script.stem}"] if script.parent.name == "experiments" else [script.name]
    return {
        "command": shlex.join(["python", *how, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "processes": world,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name, where Linux tells it, and the number of threads. Results depend on both."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else f"{platform.machine()} CPU"
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


# ---------------------------------------------------------------------------------------------------------------------
# Errors. If the user can put an error right, it is one line on stderr, and the script ends with status 2


class UserError(ValueError):
    """Something that the user can put right."""


def one_line(error) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 400 else f"{words[:200]} ... {words[-200:]}"


@contextmanager
def refused(words):
    """Turn whatever a library raises inside into UserError(words)."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{words} ({one_line(error)})") from None


@contextmanager
def reading(what, path):
    """While a file of the user's is read: whatever goes wrong becomes a line with its path."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{what} {path} is no file")
    with refused(f"{what} {path} cannot be read"):
        yield


def load_tensors(path, what):
    """Read a torch file of plain tensors and numbers, to the CPU. No code in the file is run (weights_only)."""
    # Many published teachers store the options of their training script beside the weights. Python 3.13 saves paths
    # under pathlib._local.
    paths = [(pathlib.PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    torch.serialization.add_safe_globals([argparse.Namespace, *paths])
    if not Path(path).is_file():
        raise UserError(f"{what}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what}: {path} may not be read")
    try:
        if zipfile.is_zipfile(path):  # torch writes checksums, but does not check them
            with zipfile.ZipFile(path) as file:
                if file.testzip():
                    raise ValueError("checksum")
                if any(part.file_size and part.external_attr & 16 for part in file.infolist()):
                    raise ValueError("folder flag")  # torch would take the part for a folder, and read nothing
        with warnings.catch_warnings():  # torch's, about files of others: what is wrong is said below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways
        raise UserError(
            f"{what}: {path} is not a whole torch file of plain tensors ({type(error).__name__}): truncated, damaged, "
            "or holding objects that would run code"
        ) from None


def run_script(main):
    """Run a script's main(). A UserError, or a file that cannot be read or written, is one line and status 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal may lack the plus-minus sign
    try:
        with ExitStack() as muted:
            if rank:  # process 0 prints and shows bars; the others print only the error that ends them
                nothing = muted.enter_context(open(os.devnull, "w"))
                muted.enter_context(redirect_stdout(nothing))
                muted.enter_context(redirect_stderr(nothing))
            main()
            sys.stdout.flush()  # here an error is caught
    except BrokenPipeError:  # `| head` has read enough
        sys.exit(1)
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        no_memory = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if isinstance(error, RuntimeError) and not no_memory:  # a fault of ours
            raise
        where = ""
        if rank:
            time.sleep(PATIENCE)  # if process 0 has the same error, it says so, and torchrun ends this process
            where = f" (process {rank} of {world}, from 0, on {socket.gethostname()})"
        print(f"error: {one_line(error)}{where}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if rank == 0:
            print("stopped. Type the same command again: it goes on from the last save", file=sys.stderr)
        sys.exit(130)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # nobody takes the rest: else Python would complain when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # its threads must not outlive the interpreter


# ---------------------------------------------------------------------------------------------------------------------
# Options


class Parser(argparse.ArgumentParser):
    """argparse, with complaints of one line and without abbreviations."""

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
    """A type for argparse: a number from `least` to `most`."""

    def convert(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text}")
        return value

    convert.__name__ = f"number from {least} to {most}"  # argparse's message shows it
    return convert


def path_of(text) -> Path:
    """A type for argparse: a path. ~ is the home folder."""
    if not str(text):
        raise UserError("a path must not be empty")
    with refused(f"{text} is no path"):  # ~name, if there is no such user
        return Path(text).expanduser()


path_of.__name__ = "path"  # argparse's message shows it


def add_common_options(parser: Parser):
    """The options that every script has. A script's own come first in --help."""
    add = parser.add_argument_group("options that every script has").add_argument
    names = ", ".join(DATASETS)
    add("--dataset", default="fashion", help=f"{names}, or a directory with train/ and val/ (default: fashion)")
    add("--data-root", type=path_of, default=Path("data"), help="folder of the data sets (default: data)")
    add("--ipc", type=at_least(1), help=f"images per class (default: {DEFAULT_IPC}, or as many as --images holds)")
    add("--arch", help="network: conv3 ... conv6, conv3_instance ... (instance norm), resnet18_modified, or any of "
        "torchvision's (default: the data set's; a directory: conv3 below 64 px, conv4 below 128, conv5 below 224, "
        "else resnet18)")  # fmt: skip
    add("--width", type=at_least(1), help="channels of a ConvNet (default: 128 as in the papers, 64 on fashion)")
    add("--teacher", type=path_of, help="a teacher's checkpoint, ours or a published one (default: train one, once)")
    add("--teacher-arch", help="network of the teacher (default: --arch)")
    add("--teacher-epochs", type=at_least(1), help="epochs of its training (default: fashion and cifar 12, "
        "fashionmnist 20, tinyimagenet and a directory 60, imagenet-21k 80, ImageNet's subsets 100)")  # fmt: skip
    add("--image-size", type=at_least(8), help="side of the images in pixels (default: the data set's)")
    add("--colours", choices=COLOURS, help="colours to normalise with (default: the data set's; a directory: imagenet)")
    add("--seed", type=at_least(0), default=0, help="seed of everything random (default: 0)")
    add("--device", help="cpu, cuda, cuda:1, mps or xpu (default: cuda if there is one, else cpu)")
    add("--precision", choices=("fp32", "bf16"), help="of training (default: bf16 on GPUs that have it, else fp32)")
    add("--out", type=path_of, default=Path("runs"), help="folder for all that is kept and reused (default: runs)")


def start(args, *images) -> tuple[Dataset, str, str]:
    """Begin a script: set up the device, check --out, load the data set. images: what --images names.

    Returns the data set and the names of the student's and the teacher's network. The student's network is built
    once, so that a wrong name or side is found now.
    """
    if args.teacher and args.teacher_epochs:
        raise UserError("--teacher-epochs is for a teacher that is trained here: it does not go with --teacher")
    device = set_up_device(args.device, args.precision)
    check_writable(args.out, *images)
    meet_others(args.out)
    options = (args.dataset, device, args.arch, args.image_size, args.width, args.colours, args.data_root, args.out)
    data = None
    if rank == 0:  # first one process: it may have to download and to decode
        data = load_dataset(*options)
        data.describe()
    wait()
    data = data or load_dataset(*options)
    arch = args.arch or data.default_arch
    build_model(arch, data.num_classes, data.image_size, data.width)
    return data, arch, args.teacher_arch or arch


def set_up_device(name=None, precision=None):
    """The device. Sets what holds for the whole process: precision, determinism, and the memory of a CPU."""
    global PRECISION
    PRECISION = precision
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    here = told_by_torchrun("LOCAL_WORLD_SIZE", 1)
    if here > 1 and name == "cuda":  # one GPU for each process
        gpus = torch.cuda.device_count()
        if here > gpus:
            raise UserError(f"{here} processes for {gpus} GPUs: a smaller --nproc-per-node, or --device cpu")
        name = f"cuda:{told_by_torchrun('LOCAL_RANK', 0)}"
    with refused(f"--device {name} cannot be used"):
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise UserError(f"--device {name}: it must be one of cpu, cuda, mps, xpu")
        torch.ones(1, device=device).item()
    if device.type == "cpu":
        keep_freed_memory()
        if here > 1:
            torch.set_num_threads(cores())
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cuda":  # same seed, same device, same result
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    return device


def keep_freed_memory():
    """Let glibc keep the memory that torch frees (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_MAX). No result depends on it.

    By default glibc gives large blocks back, and a CPU run spends up to a third of its time on fresh, zeroed pages.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-4, 0)


def check_writable(folder: Path, *sources, option="--out"):
    """UserError if `folder` cannot be made and written to, or lies in one of the folders that are read."""
    target = Path(os.path.realpath(folder))
    for source in sources:
        read = Path(os.path.realpath(path_of(source)))
        if read.is_dir() and (read == target or read in target.parents):
            raise UserError(f"{option} {folder} lies in {source}, which is read: choose another")
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{option} {folder} cannot be written: {place} is no folder that may be written to")


def check_file(file: Path, option: str):
    """UserError if this file cannot be written. Called before hours of work for it."""
    if file.exists() and not file.is_file():
        raise UserError(f"{option} {file} is no regular file")
    check_writable(file.parent, option=option)
