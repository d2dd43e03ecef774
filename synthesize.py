"""Distilled images: random (the baseline), RDED (CVPR 2024), SRe2L (NeurIPS 2023) and LPLD (NeurIPS 2024, TPAMI 2026).

    python synthesize.py --method random --ipc 10                    # real images of the embedded data set
    python synthesize.py --method rded --dataset cifar100 --ipc 10   # crops of real images that the teacher is sure of
    python synthesize.py --method sre2l --dataset cifar100 --ipc 10  # images optimised to the teacher's BatchNorm
    python synthesize.py --method lpld --dataset cifar100 --ipc 10   # the same, class by class

It writes PNGs in class folders (00000/00000.png, ...) to --out/<data set>/<method>-ipc<N>-<hash>/, and grid.png, a
picture of the set. load_distilled reads sets for the other scripts: these, those that RDED, SRe2L and LPLD publish, and
GIFT's data.pt.
"""

import json
import os
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

import common
from common import Dataset, Split, Teacher, UserError

METHODS = ("random", "rded", "sre2l", "lpld")
RECOVERED = ("sre2l", "lpld")  # optimised to fit a teacher's BatchNorm statistics
SHARE_OF_MEMORY = 3  # a distilled set above a third of the device's memory is read from disk, batch by batch
CLASSES_PER_PIECE = 16  # at most; a killed run loses one piece, and processes share the pieces
IMAGES_HELP = f"distilled set: a folder or a data.pt file, or one of {', '.join(METHODS)} to make one"

# ---------------------------------------------------------------------------------------------------------------------
# Random real images: the baseline of every distilled set


def pick_random(data: Dataset, label: int, count: int, seed: int) -> Tensor:
    """Indices [count] of random training images of a class, without replacement; all, if the class has fewer."""
    members = (data.train.labels == label).nonzero().flatten().cpu()
    return members[common.shuffled(len(members), seed, common.CHOICE, label)[:count]]


def random_images(data: Dataset, classes: list[int], ipc: int, seed: int) -> Tensor:
    """Real images of these classes, class by class: uint8 [len(classes) * ipc, 3, S, S]."""
    return data.train[torch.cat([pick_random(data, label, ipc, seed) for label in classes])]


# ---------------------------------------------------------------------------------------------------------------------
# RDED (arXiv 2312.03526; released code: LINs-lab/RDED, synthesize/)

RDED_IMAGES = 300  # real images per class to choose from
RDED_CROPS = 5  # crops tried of each image
CROP_BYTES = 4 << 30  # a class that needs more memory than this for its crops is cropped image by image


def square_crops(images: Tensor, u: np.ndarray, size: int) -> Tensor:
    """Random square crops of images [n, 3, H, W], resized to [n * crops, 3, size, size]; pixels are 0 ... 255.

    The area is 0.08 to 1 of the image. u: uniforms [n, crops, 10, 4]. Bilinear and antialiased, as released.
    """
    height, width = images.shape[2:]
    boxes = common.crop_boxes(u, height, width, scale=(0.08, 1), ratio=(1, 1))
    boxes = torch.from_numpy(boxes).flatten(0, 1)
    images = images.float().repeat_interleave(u.shape[1], 0)
    return common.resized_crop(images, boxes.to(images.device), size)


def crops_of_each(images: list[Tensor], u: np.ndarray, size: int, device) -> Tensor:
    """square_crops of images [3, H, W], which may differ in size."""
    floats = 4 * u.shape[1] * sum(image.numel() for image in images)
    if len({image.shape for image in images}) == 1 and floats <= CROP_BYTES:
        return square_crops(torch.stack(images).to(device), u, size)
    crops = [square_crops(image[None].to(device), own[None], size) for image, own in zip(images, u, strict=True)]
    return torch.cat(crops)


@torch.no_grad()
def realism_losses(teacher: nn.Module, patches: Tensor, label: int, side: int, colours) -> Tensor:
    """The teacher's cross-entropy [n] for one class, on patches [n, 3, s, s] with pixels 0 ... 255.

    Patches are normalised with the data set's colours (released: ImageNet's for every data set), then zero-padded to
    `side`.
    """
    losses = []
    for part in patches.split(500):
        before = (side - part.shape[-1]) // 2
        after = side - part.shape[-1] - before
        images = F.pad(common.normalize(part / 255, colours), (before, after, before, after))
        logits = teacher(images.contiguous(memory_format=torch.channels_last))  # fp32: the lowest losses are near 0
        targets = torch.full((len(part),), label, device=part.device)
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses)


def select_patches(losses: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """RDED's choice from losses [images, crops]: the best crop of each image, then the `count` best of these.

    Returns (image indices, crop indices), each [count], the lowest loss first. On ties the smaller index is first.
    """
    best, crop = losses.min(1)
    image = best.argsort(stable=True)[:count]
    return image, crop[image]


def tile_patches(patches: Tensor, factor: int) -> Tensor:
    """Mosaics [n, 3, f * s, f * s] from ranked patches [n * f^2, 3, s, s]. Image j is made of ranks j, j + n, ..."""
    grid = patches.unflatten(0, (factor, factor, -1))  # [row, column, n, 3, s, s]
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)


def rded(data: Dataset, teacher: Teacher, classes: list[int], ipc: int, factor: int, seed: int) -> Tensor:
    """RDED's images of these classes, class by class: uint8 [len(classes) * ipc, 3, S, S].

    As in the released scripts: 300 images of a class, 5 crops of each, resized to side / factor.
    """
    size = data.image_size // factor
    chosen = []

    def read(label):  # the images as they are stored, not at the side in use
        with ThreadPoolExecutor(common.cores()) as pool:
            return list(pool.map(data.train.original, pick_random(data, label, RDED_IMAGES, seed).tolist()))

    for label, images in common.read_ahead(read, classes):
        u = common.random_stream(seed, common.CROPS, label).random_sample((len(images), RDED_CROPS, 10, 4))
        patches = crops_of_each(images, u, size, data.device)
        losses = realism_losses(teacher.model, patches, label, data.image_size, data.colours)
        image, crop = select_patches(losses.view(-1, RDED_CROPS), ipc * factor**2)
        chosen.append(to_bytes(tile_patches(patches[image * RDED_CROPS + crop], factor)))
    return torch.cat(chosen)


# ---------------------------------------------------------------------------------------------------------------------
# SRe2L (arXiv 2306.13092; released code: VILA-Lab/SRe2L): recover images from a teacher's BatchNorm statistics


@dataclass
class Recovery:
    """Settings of the recovery. Adam has betas (0.5, 0.9) and eps 1e-8; its learning rate falls to 0 as a cosine."""

    lr: float
    r_bn: float  # weight of the BatchNorm term
    iterations: int
    roll: tuple[int, int]  # pixels, inclusive
    crop: bool  # random resized crop (0.08 to 1) and flip before the roll
    first_bn: float = 10.0  # weight of the first BatchNorm layer; 1 for the others


SRE2L = {  # released scripts recover_cifar.sh, recover_tiny.sh, recover.sh
    "cifar100": Recovery(lr=0.25, r_bn=0.01, iterations=1000, roll=(0, 4), crop=False),
    "tinyimagenet": Recovery(lr=0.1, r_bn=1.0, iterations=4000, roll=(-4, 4), crop=True),
    "imagenet-1k": Recovery(lr=0.25, r_bn=0.01, iterations=4000, roll=(0, 32), crop=True),
    "fashion": Recovery(lr=0.25, r_bn=0.01, iterations=400, roll=(0, 4), crop=True),  # ours
}
SRE2L_CLASSES = 100  # classes per batch, released


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


class MeanAndVariance(torch.autograd.Function):
    """Mean and biased variance over the middle dimension of [G, N, C], each [G, C]. Like torch.var_mean, but faster.

    Its backward is one pass over the pixels instead of four. On a CPU its forward takes a quarter of the time.
    """

    @staticmethod
    def forward(ctx, x):
        if x.is_cuda:
            var, avg = torch.var_mean(x, dim=1, correction=0)
        else:
            avg = x.mean(1)
            var = (x - avg[:, None]).square_().mean(1)
        ctx.save_for_backward(x, avg)
        return avg, var

    @staticmethod
    def backward(ctx, avg_grad, var_grad):
        x, avg = ctx.saved_tensors
        level = avg_grad / x.shape[1]
        slope = 2 * var_grad / x.shape[1]  # in x - avg
        return torch.addcmul((level - slope * avg)[:, None], x, slope[:, None])


def bn_distance(x: Tensor, mean: Tensor, variance: Tensor, groups: int) -> Tensor:
    """||mean(x) - mean||_2 + ||var(x) - variance||_2 for each group of images, [groups].

    x [groups * n, C, H, W] is the input of a BatchNorm layer, one group after the other. mean(x) and the biased var(x)
    are over the images and pixels of a group. mean, variance: [C] for all groups, or [groups, C].
    Source: SRe2L's released code, recover/utils.py, BNFeatureHook.
    """
    pixels = x.float().permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])  # no copy in channels_last
    avg, var = MeanAndVariance.apply(pixels)
    return (avg - mean).norm(dim=1) + (var - variance).norm(dim=1)


@contextmanager
def watching(layers, take):
    """Inside, each forward pass calls take(number of the layer, its input) for each of these layers."""

    def pass_on(number, layer, inputs):
        take(number, inputs[0])

    hooks = [layer.register_forward_pre_hook(partial(pass_on, number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def recover(
    teacher: nn.Module,
    targets: Tensor,
    statistics: list,
    ids: list[int],
    setting: Recovery,
    data: Dataset,
    seed: int,
    progress: Path,
) -> Tensor:
    """Optimise groups of images from noise, all groups at once; uint8 [groups * n, 3, S, S].

    targets [groups, n]: the class of each image. statistics: (mean, variance) of each BatchNorm layer, [C] for all
    groups or [groups, C]. ids: the number of each group, from which its noise and its views are drawn.

    The loss of a group is mean CE(teacher(view), class) + r_bn * sum over layers of w_l * bn_distance. The last iterate
    is kept, as released. A group is one batch of the papers; each iteration draws one view for the group. The losses of
    the groups are summed, the teacher is in eval mode, and Adam treats each pixel alone. So the groups do not influence
    each other: this is the same as one group after the other, only faster.
    """
    groups, n = targets.shape
    side = data.image_size
    device = data.device
    canvas, views = noise_and_views(ids, n, setting, side, seed, device)
    images = canvas[0]
    low = common.normalize(torch.zeros(1, 3, 1, 1, device=device), data.colours)
    high = common.normalize(torch.ones(1, 3, 1, 1, device=device), data.colours)
    adam = {"betas": (0.5, 0.9), "eps": 1e-8, **common.fused(device)}
    optimizer = torch.optim.Adam(canvas.parameters(), setting.lr, **adam)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.iterations)
    modules = {"canvas": canvas, "optimizer": optimizer, "schedule": schedule}

    layers = batchnorms(teacher)
    weights = [setting.first_bn] + [1.0] * (len(layers) - 1)
    targets = targets.to(device).flatten()
    distances = {}
    log = {}

    def measure(number, x):
        mean, variance = statistics[number]
        distances[number] = bn_distance(x, mean, variance, groups)

    with watching(layers, measure):
        for step in common.resumable(progress, setting.iterations, "recovering", log, 50, "iteration", **modules):
            view = views[step]
            together = images.view(groups, n * 3, side, side)  # the images of a group share one view
            viewed = common.resized_crop(together, view[:, :4], side, flip=view[:, 4] > 0, roll=view[:, 5:])
            viewed = viewed.view(-1, 3, side, side).contiguous(memory_format=torch.channels_last)
            class_losses = F.cross_entropy(teacher(viewed), targets, reduction="none")
            bn_losses = torch.stack([w * distances[number] for number, w in enumerate(weights)])  # [layers, groups]
            loss = class_losses.view(groups, n).mean(1).sum() + setting.r_bn * bn_losses.sum()
            common.descend(optimizer, loss)
            schedule.step()
            with torch.no_grad():
                images.clamp_(low, high)  # valid pixels
            log["loss"] = loss.detach() / groups
    if not images.isfinite().all():
        raise UserError("recovery has diverged: the images are not finite")
    mean, std = common.colour_tensors(data.colours, device)
    return to_bytes((images.detach() * std + mean) * 255)


def noise_and_views(ids, n, setting: Recovery, side, seed, device) -> tuple[nn.ParameterList, Tensor]:
    """The noise that groups start from, as one parameter [groups * n, 3, S, S]; views [iterations, groups, 7]."""
    noise = [common.random_stream(seed, common.NOISE, i).standard_normal((n, 3, side, side)) for i in ids]
    pixels = torch.from_numpy(np.stack(noise).astype(np.float32)).to(device).flatten(0, 1)
    views = []
    for i in ids:
        stream = (seed, common.VIEW, i)
        views.append(crop_flip_roll_draws(setting.iterations, side, setting.roll, setting.crop, *stream))
    return nn.ParameterList([nn.Parameter(pixels)]), torch.stack(views, 1).to(device)


def crop_flip_roll_draws(count: int, side: int, roll: tuple[int, int], crop: bool, *seed: int) -> Tensor:
    """`count` views, int64 [count, 7]: crop box (4), flip, roll down and right (from roll[0] to roll[1] pixels).

    Without `crop` the box is the whole image, and there is no flip (SRe2L on CIFAR).
    """
    u = common.random_stream(*seed).random_sample((count, 43))
    if crop:
        boxes = common.crop_boxes(u[:, :40].reshape(count, 10, 4), side, side)
    else:
        boxes = np.tile([0, 0, side, side], (count, 1))
    flip = (u[:, 40:41] < 0.5) & crop
    shift = roll[0] + np.floor(u[:, 41:] * (roll[1] - roll[0] + 1))
    return torch.from_numpy(np.concatenate([boxes, flip, shift], 1).astype(np.int64))


def bytes_per_image(teacher: nn.Module, side: int, device) -> int:
    """Bytes that the forward pass of one more image keeps for the backward pass. Measured."""

    def kept(count):
        total = 0

        def add(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
            teacher(torch.zeros(count, 3, side, side, device=device, requires_grad=True))
        return total

    return kept(2) - kept(1)


GPU_BYTES = 16 << 30


def groups_at_once(teacher: nn.Module, n: int, side: int, device) -> int:
    """How many groups of n images are recovered at once.

    On a GPU: what fits into half of its memory, but no more than 16 GiB, as some kernels fail beyond 2^31 elements. On
    a CPU: 2 GiB, as more is not faster. It is the device's whole memory that counts, not what is free now: so each run
    on a device recovers the same groups.
    """
    memory = min(GPU_BYTES, common.memory(device) // 2) if device.type == "cuda" else 2 << 30
    return max(1, memory // (n * bytes_per_image(teacher, side, device)))


def sre2l_groups(data: Dataset, teacher: Teacher, ipc: int) -> list[tuple]:
    """SRe2L's groups: one image of each of up to 100 classes, and the teacher's running statistics.

    A list of (ids, targets, statistics), each for the groups of one block of classes.
    """
    statistics = [(layer.running_mean, layer.running_var) for layer in batchnorms(teacher.model)]
    blocks = []
    for number, block in enumerate(torch.arange(data.num_classes).split(SRE2L_CLASSES)):
        ids = list(range(number * ipc, (number + 1) * ipc))
        blocks.append((ids, block.expand(ipc, -1), statistics))
    return blocks


# ---------------------------------------------------------------------------------------------------------------------
# LPLD (arXiv 2410.15919) and LPQLD (arXiv 2604.18135, section III-B): SRe2L class by class
# (released code: he-y/soft-label-pruning-quantization-for-dataset-distillation, recover/)

LPLD = {  # released scripts tiny_recover.sh, imagenet1k_recover.sh, in21k_recover.sh
    "tinyimagenet": Recovery(lr=0.1, r_bn=0.05, iterations=4000, roll=(-4, 4), crop=True),
    "imagenet-1k": Recovery(lr=0.25, r_bn=0.01, iterations=4000, roll=(0, 32), crop=True),
    "imagenet-21k": Recovery(lr=0.05, r_bn=0.25, iterations=2000, roll=(0, 32), crop=True),
}


def recovery_settings(method: str, data: Dataset) -> Recovery:
    """The released settings of a data set. What LPLD has not released is SRe2L's.

    Ours: other data sets take CIFAR-100's up to 32 px, Tiny-ImageNet's up to 64, else ImageNet-1K's.
    """
    released = SRE2L if method == "sre2l" else SRE2L | LPLD
    if data.name in released:
        return released[data.name]
    if data.image_size <= 32:
        return released["cifar100"]
    return released["tinyimagenet" if data.image_size <= 64 else "imagenet-1k"]


SQUEEZE_BATCH = 200


@torch.no_grad()
def class_statistics(teacher: nn.Module, data: Dataset, classes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Squeeze: mean and biased variance, each [len(classes), C], of the input of every BatchNorm layer, class by class.

    classes: consecutive numbers. The statistics are exact: over all images and pixels of a class, without augmentation,
    in one pass, teacher in eval mode.
    The released code augments the images. It keeps a running average (momentum 0.1, from mean 0 and variance 1) of the
    statistics of each class within a batch. But a single image has no variance between images. On ImageNet-1K (64
    images per GPU) 97 % of the classes in a batch have one image there, on Tiny-ImageNet (256 images) 49 %.
    """
    layers = batchnorms(teacher)
    moments = {}

    def measure(number, x):  # around the layer's own mean, so that E[x^2] - E[x]^2 loses no digits
        x = x - layers[number].running_mean[:, None, None]
        moments[number] = torch.stack([x.mean((2, 3)), x.square().mean((2, 3))])  # [2, B, channels]

    members = [(data.train.labels == label).nonzero().flatten().cpu() for label in classes]
    device = "cpu" if data.device.type == "mps" else data.device  # MPS has no float64
    sums = [torch.zeros(2, len(classes), x.num_features, dtype=torch.float64, device=device) for x in layers]
    with watching(layers, measure):
        for images, labels in data.train.batches(SQUEEZE_BATCH, torch.cat(members)):
            teacher(common.normalize(images, data.colours))
            for number, total in enumerate(sums):
                total.index_add_(1, (labels - classes[0]).to(device), moments[number].to(device).double())
    count = torch.tensor([[len(numbers)] for numbers in members], device=device)
    statistics = []
    for layer, total in zip(layers, sums, strict=True):
        mean, square = total / count
        variance = (square - mean**2).clamp(min=0)
        statistics.append(((mean + layer.running_mean.to(device)).float(), variance.float()))
    return statistics


def squeeze(data: Dataset, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
    """class_statistics of all classes: computed once, then read."""
    settings = {"stage": "class statistics", "teacher": teacher.info["digest"]}
    folder = common.stage_folder(data, f"statistics-{teacher.info['arch']}", settings)
    pieces = {}
    for part in common.cut(data.num_classes, CLASSES_PER_PIECE, common.PIECES):
        file = folder / f"classes-{part[0]}-{part[-1]}.pt"
        pieces[file] = lambda _, part=part: {"layers": class_statistics(teacher.model, data, part.tolist())}

    def join(made):
        by_layer = zip(*[piece["layers"] for piece in made], strict=True)
        return {"layers": [[torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in by_layer]}

    common.make_joined(folder / "statistics.pt", pieces, join, "class statistics")
    layers = common.load(folder / "statistics.pt")["layers"]
    return [[x.to(data.device) for x in layer] for layer in layers]


def lpld_groups(data: Dataset, statistics, ipc: int) -> list[tuple]:
    """LPLD's groups: all images of a class, and that class's statistics. As sre2l_groups returns them.

    This is the difference from SRe2L. On Tiny-ImageNet r_bn differs too, on ImageNet-21K also rate and iterations.
    """
    classes = torch.arange(data.num_classes)
    return [(classes.tolist(), classes[:, None].expand(-1, ipc), statistics)]


# ---------------------------------------------------------------------------------------------------------------------
# Similarity within a class


@torch.no_grad()
def within_class_similarity(features: Tensor, labels: Tensor) -> float | None:
    """Mean cosine similarity of features [N, D] over all pairs of images of the same class; None if there is no pair.

    LPLD measures with it how little the images of a class differ. Features are the inputs of the teacher's last layer.
    """
    features = F.normalize(features.cpu().double(), dim=1)  # MPS has no float64
    labels = labels.cpu()
    sums = features.new_zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, labels, features)
    count = torch.bincount(labels)
    pairs = (count * (count - 1)).sum().item()  # (i, j) and (j, i); the sum of their cosines is ||sum||^2 - count
    return (sums.square().sum() - len(labels)).item() / pairs if pairs else None


@torch.no_grad()
def plain_logits(teacher: nn.Module, images: Tensor | Split, colours) -> Tensor:
    """The teacher's logits [N, C] of the images as they are, without augmentation, in fp32."""
    return torch.cat([teacher(common.normalize(part, colours)) for part in images.split(200)])


@torch.no_grad()
def teacher_features(teacher: nn.Module, images: Tensor | Split, colours) -> Tensor:
    """Inputs [N, D] of the last linear layer for the plain images, or the logits of a network without such a layer."""
    linear = [layer for layer in teacher.modules() if isinstance(layer, nn.Linear)]
    taken = []
    with watching(linear[-1:], lambda _, x: taken.append(x)):
        logits = plain_logits(teacher, images, colours)
    return torch.cat(taken) if taken else logits


def similarity_of(teacher: Teacher, distilled, colours) -> float | None:
    """within_class_similarity of a distilled set, by this teacher's features."""
    features = teacher_features(teacher.model, distilled.images, colours)
    return within_class_similarity(features, distilled.labels)


# ---------------------------------------------------------------------------------------------------------------------
# Distilled sets on disk


class Distilled(NamedTuple):
    # [N, 3, S, S] on the device: uint8 or, from data.pt, float32 of about [0, 1]. A set that takes more than
    # a third of the device's memory is a Split, which reads images[numbers] from disk.
    images: Tensor | Split
    labels: Tensor  # int64 [N]
    info: dict  # name, folder, ipc, count, digest, and the settings it was made with

    @property
    def name(self):
        return self.info["name"]


def digest_of(images: Tensor | Split, labels: Tensor) -> str:
    return common.digest({"images": images, "labels": labels})


def save_distilled(folder: Path, images: Tensor, labels: Tensor, written: Counter):
    """Write uint8 images as PNGs in class folders: 00000/00000.png, .... RDED's and SRe2L's code writes JPEGs.

    written: how many images of each class are on disk. The new files continue the numbers, and `written` is updated.
    """
    places = []
    for label in labels.tolist():
        places.append(folder / f"{label:05d}" / f"{written[label]:05d}.png")
        written[label] += 1
    with ThreadPoolExecutor(common.cores()) as pool:
        list(pool.map(save_picture, places, images.cpu()))


def save_picture(path: Path, image: Tensor):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    common.write_atomically(path, lambda beside: picture.save(beside, "PNG"))


def save_grid(path: Path, images: Tensor | Split, labels: Tensor):
    """A picture of a distilled set: the first 20 classes, a row each, up to ten images."""
    numbers = [(labels == label).nonzero().flatten()[:10] for label in labels.unique()[:20]]
    rows = [images[row].cpu() for row in numbers]
    rows = [row if row.dtype == torch.uint8 else to_bytes(row * 255) for row in rows]
    width = max(map(len, rows))
    blank = torch.full((width, *images.shape[1:]), 255, dtype=torch.uint8)
    rows = [torch.cat([row, blank[len(row) :]]) for row in rows]
    save_picture(path, torchvision.utils.make_grid(torch.cat(rows), nrow=width, pad_value=255))


def load_distilled(path: Path, data: Dataset, ipc=None) -> Distilled:
    """Read a distilled set: class folders (ours, RDED's, SRe2L's, LPLD's) or GIFT's data.pt.

    The class of a folder is the number in its name (00007, new007), or the data set's class of that name.
    """
    path = common.path_of(path)
    if not path.exists():
        raise UserError(f"--images {path} does not exist")
    about = read_about(path, data)
    settings = about.get("settings", {})
    file = path / "data.pt" if (path / "data.pt").exists() else path
    if file.is_dir():
        split = read_distilled_folder(path, data)
        named = settings.get("data", {}).get("dataset")
    else:
        split, named = read_data_pt(file, data.device)
        if file != path and any(map(common.is_image, path.glob("*/*"))):
            print(f"hint:     {file} is read, and not the folders beside it")
    check_fits(path, split, named, data, ipc)
    images = split.images if split.resident else split
    digest = common.from_first(lambda: digest_of(images, split.labels))
    if about.get("images", digest) != digest:
        raise UserError(
            f"--images {path} is not as it was made (an image was changed, removed or added): delete the set (or its "
            "set.json and settings.json, to take the images as they are)"
        )
    ipc_found = torch.bincount(split.labels).max().item()
    name = f"{settings['method']}-ipc{settings['ipc']}" if settings else os.path.basename(os.path.realpath(path))[:60]
    info = {"name": name, "folder": str(path), "ipc": ipc_found, "count": len(images), "settings": settings}
    return Distilled(images, split.labels, info | {"digest": digest})


def read_about(path: Path, data: Dataset) -> dict:
    """set.json of a set of ours, which is written last: its settings, classes and digest. {} for other sets."""
    file = path / "set.json"
    begun = path / "settings.json"
    if file.exists():
        words = f"delete it and {begun.name}; then the folder is made again, or read as it is"
        with common.refused(f"{file} is damaged, or not of this code: {words}"):
            about = json.loads(file.read_text())
            names = list(about["class_names"])
            settings = about["settings"]
            made_from = {key: settings["data"][key] for key in ("dataset", "fingerprint")}
            counts = settings["ipc"], settings.get("factor", 1)
            if settings["method"] not in METHODS or not all(type(count) is int and count > 0 for count in counts):
                raise ValueError("its method, IPC or factor")
        if names != data.class_names:
            pairs = enumerate(zip(names, data.class_names, strict=False))
            differ = [f"class {label} was '{was}', here '{here}'" for label, (was, here) in pairs if was != here]
            differ += [f"it has {len(names)} classes, {data.name} has {data.num_classes}"]
            raise UserError(f"--images {path} was made for other classes ({made_from['dataset']}): {differ[0]}")
        if made_from["fingerprint"] != data.describe()["fingerprint"]:
            print(f"hint:     {path} was made from other images of {data.name} than those here")
        return about
    if begun.is_file():
        content = None
        with suppress(ValueError, RecursionError):  # somebody else's
            content = json.loads(begun.read_text())
        if isinstance(content, dict) and content.get("stage") == "images":
            raise UserError(f"--images {path} is unfinished: the command that makes it was stopped; run it again")
    return {}


def check_fits(path, split: Split, named, data: Dataset, ipc):
    """UserError if these are not images for this data set: its name (if the file says one), side, classes, --ipc."""
    theirs = known_name(named or data.name)
    ours = known_name(data.name)
    if theirs and ours and theirs != ours:
        raise UserError(f"--images {path} is of the data set {named}, says the file; this is {data.name}")
    side = data.image_size
    if split.shape[1:] != (3, side, side):
        found = " x ".join(map(str, split.shape[1:]))
        wanted = f"{data.name} has 3 x {side} x {side} here (--image-size)"
        raise UserError(f"--images {path} holds images of {found}, {wanted}")
    labels = split.labels
    if labels.max() >= data.num_classes or len(labels.unique()) < data.num_classes:
        found = f"{len(labels.unique())} classes, the last one number {labels.max()}"
        raise UserError(f"--images {path} has images of {found}; {data.name} has classes 0 to {data.num_classes - 1}")
    counts = torch.bincount(labels)
    if ipc and (counts != ipc).any():
        raise UserError(f"--images {path} has {counts.min()} to {counts.max()} images per class, not --ipc {ipc}")


def known_name(dataset) -> str | None:
    """One of DATASETS, however it is spelt; None for other names. `fashion` is a part of Fashion-MNIST."""
    known = {common.letters(name): name for name in common.DATASETS} | {"fashionmnist": "fashion"}
    return known.get(common.letters(dataset))


def read_data_pt(file: Path, device) -> tuple[Split, str | None]:
    """GIFT's format: {"data": floats [N, 3, S, S] in [0, 1], "label": classes [N] or [N, 1], or soft [N, C] (DATM)}.

    "data" may be bytes, too. If the file holds "mean" and "std", the floats are normalised by them. Else floats from
    -0.5 to 1.5 are taken as they are, and others are refused. "dataset" may name the data set.
    Returns (images and labels, name or None).
    """
    kept = common.load_tensors(file, "--images")
    kept = kept if isinstance(kept, dict) else {}
    wrong = f"--images {file} holds no 'data' [N, 3, S, S] with a 'label' for each"
    with common.refused(wrong):
        images = torch.as_tensor(kept["data"]).detach()
        labels = torch.as_tensor(kept["label"])
        named = kept.get("dataset")
        if images.dim() != 4 or images.is_meta or not 0 < len(labels) == len(images) <= labels.numel():
            raise UserError(wrong)
        if images.dtype == torch.uint8 and ("mean" in kept or "std" in kept):
            raise UserError(f"--images {file}: 'mean' and 'std' are for floats, its 'data' are bytes")
        if images.dtype != torch.uint8:
            images = pixels_of(file, images, kept.get("mean"), kept.get("std"))
        if labels.numel() > len(labels):
            soft = labels.flatten(1).float()
            if not (soft.isfinite().all() and (soft.amax(1) > soft.amin(1)).all()):
                raise UserError(f"--images {file}: the entries of a soft label are all equal, or not finite")
            labels = soft.argmax(1)
        labels = labels.flatten()
        if not (labels.double() == labels.long()).all() or labels.long().min() < 0:
            raise UserError(f"--images {file}: a label is no class index")
        if not isinstance(named, str | None):
            raise UserError(f"--images {file}: its 'dataset' is no name")
        return Split(labels.long(), device, pixels=images.contiguous()), named


def pixels_of(file: Path, images: Tensor, mean, std) -> Tensor:
    """float32 pixels, 1 is white. Optimised pixels may lie outside [0, 1]; they are not clamped."""
    if not images.is_floating_point() or not images.isfinite().all():
        raise UserError(f"--images {file}: pixel values are neither bytes nor finite floats")
    images = images.float()
    if (mean is None) != (std is None):
        raise UserError(f"--images {file}: of 'mean' and 'std' it holds only one")
    if mean is not None:
        with common.refused(f"--images {file}: 'mean' and 'std' are not three numbers each, above 0 those of 'std'"):
            mean, std = (torch.as_tensor(each, dtype=torch.float32).view(1, 3, 1, 1) for each in (mean, std))
            images = images * std + mean
            if std.min() <= 0 or not images.isfinite().all():
                raise ValueError("the pixels are not finite")
    elif images.min() < -0.5 or images.max() > 1.5:
        raise UserError(f"--images {file}: pixel values are far outside [0, 1]; if they are normalised, the file must "
                        "hold 'mean' and 'std'")  # fmt: skip
    outside = ((images < -1e-4) | (images > 1 + 1e-4)).float().mean().item()  # more than rounding
    if outside:
        print(f"hint:     {outside:.1%} of the pixels of {file} lie outside [0, 1]; they are taken as they are")
    return images


def labels_of_folders(path: Path, names: list, class_names: list) -> list[int]:
    """The class of each folder: the data set's class of that name, else the number in its name (00007, new007)."""
    if all(name in class_names for name in names):
        return [class_names.index(name) for name in names]
    numbers = []
    for name in names:
        number = re.fullmatch(r"(?:(?:new|class|c)[-_ ]?)?(\d{1,9})", name, re.IGNORECASE)
        if not number:
            raise UserError(f"--images {path}: folder {name} is neither numbered nor a class of the data set")
        numbers.append(int(number[1]))
    if len(set(numbers)) < len(names):
        raise UserError(f"--images {path}: two folders have the same number")
    return numbers


def read_distilled_folder(path: Path, data: Dataset) -> Split:
    """The images of class folders, class by class, 2.png before 10.png."""
    with common.refused(f"--images {path} holds no images in class folders"):
        found = common.ClassFolders(path)
        classes = labels_of_folders(path, found.classes, data.class_names)
    samples = [(file, classes[folder]) for file, folder in found.samples]
    common.check_links(file for file, _ in samples)
    samples.sort(key=lambda sample: (sample[1], natural_order(sample[0])))
    files, labels = zip(*samples, strict=True)
    ours = {"set.json", "settings.json", "grid.png"}  # and .pt: pieces of another run
    others = {file for file in path.rglob("[!.]*") if file.is_file() and file.suffix != ".pt"} - set(map(Path, files))
    others = {file for file in others if file.name not in ours}
    if others:
        print(f"hint:     {len(others)} files in {path} are not read, for example {min(others).relative_to(path)}")
    side = data.image_size
    most = common.memory(data.device) // SHARE_OF_MEMORY
    return Split(labels, data.device, paths=files, side=side, fit="none", most=most)


def natural_order(file: str):
    """2.png before 10.png."""
    return [int(number) for number in re.findall(r"\d+", Path(file).stem)], file


# ---------------------------------------------------------------------------------------------------------------------
# The stage


def to_bytes(images: Tensor) -> Tensor:
    """Pixels 0 ... 255 as uint8, rounded. (The released code of RDED and SRe2L truncates.)"""
    return images.round().clamp(0, 255).to(torch.uint8)


def default_factor(data: Dataset) -> int:
    """As in RDED's scripts: 2 x 2 mosaics for ImageNet-1K at 224 px and its subsets at 224 and 128 px, single crops for
    CIFAR and Tiny-ImageNet. Ours: single crops for ImageNet-1K at 64 px."""
    return 2 if data.image_size >= 128 else 1


def check_request(method: str, data: Dataset, ipc: int, factor: int, teacher_arch: str):
    """UserError if such a set cannot be made. Called before a teacher is trained for it."""
    fewest = torch.bincount(data.train.labels.cpu(), minlength=data.num_classes).min().item()
    if method == "random" and ipc > fewest:
        raise UserError(f"--ipc {ipc}: the smallest class of {data.name} has {fewest} training images")
    if method == "rded" and data.image_size % factor:
        raise UserError(f"--factor {factor} does not divide the side of {data.image_size} px")
    candidates = min(fewest, RDED_IMAGES)
    most = candidates // factor**2
    if method == "rded" and ipc > most:
        takes = f"RDED chooses from {candidates} training images of a class, and takes {factor**2} for each image"
        raise UserError(f"--ipc {ipc}: {takes}: at most --ipc {most}, or take random images" if most else takes)
    if method in RECOVERED and not batchnorms(common.build_model(teacher_arch, data.num_classes, data.image_size)):
        raise UserError(f"{method} needs a teacher with BatchNorm layers, {teacher_arch} has none")


def find_images(images: str, data: Dataset, ipc, teacher_arch: str) -> Distilled | None:
    """Read the set in this folder or file. If `images` names a method, return None: `distil` must make the set."""
    if images not in METHODS:
        return load_distilled(images, data, ipc)
    check_request(images, data, ipc or common.DEFAULT_IPC, default_factor(data), teacher_arch)
    return None


def pieces_of(method: str, data: Dataset, teacher: Teacher | None, ipc: int, factor: int, seed: int) -> dict:
    """The parts that the set is made in: {name: (labels, a function of a progress file that makes the images)}."""
    pieces = {}
    if method not in RECOVERED:
        for part in common.cut(data.num_classes, CLASSES_PER_PIECE, common.PIECES):
            make = partial(random_images, data, part.tolist(), ipc, seed)  # in seconds: they keep no progress
            if method == "rded":
                make = partial(rded, data, teacher, part.tolist(), ipc, factor, seed)
            pieces[f"classes-{part[0]}-{part[-1]}"] = part.repeat_interleave(ipc), lambda _, make=make: make()
        return pieces
    setting = recovery_settings(method, data)
    groups = sre2l_groups(data, teacher, ipc) if method == "sre2l" else lpld_groups(data, squeeze(data, teacher), ipc)
    for ids, targets, statistics in groups:
        at_once = groups_at_once(teacher.model, targets.shape[1], data.image_size, data.device)
        for part in common.cut(len(ids), at_once, common.PIECES):
            theirs = [[x[part.to(x.device)] if x.dim() == 2 else x for x in layer] for layer in statistics]
            numbers = [ids[i] for i in part]
            make = partial(recover, teacher.model, targets[part], theirs, numbers, setting, data, seed)
            pieces[f"groups-{numbers[0]}-{numbers[-1]}"] = targets[part].flatten(), make
    return pieces


def distil(method: str, data: Dataset, teacher: Teacher | None, ipc=None, seed=0, factor=None) -> Distilled:
    """Make a distilled set, or find it: class folders of PNGs, and set.json, which is written last."""
    ipc = ipc or common.DEFAULT_IPC
    factor = factor or default_factor(data)
    settings = {"stage": "images", "method": method, "ipc": ipc, "seed": seed, "data": data.describe()}
    if method != "random":
        settings["teacher"] = {key: teacher.info[key] for key in ("arch", "width", "digest")}
    if method == "rded":
        settings |= {"factor": factor, "images": RDED_IMAGES, "crops": RDED_CROPS}
    if method in RECOVERED:
        settings["recovery"] = asdict(recovery_settings(method, data))
    folder = common.stage_folder(data, f"{method}-ipc{ipc}", settings)
    whole = folder / "set.json"

    def join(made):
        written = Counter()
        for (labels, _), piece in zip(pieces.values(), made, strict=True):
            save_distilled(folder, piece["images"], labels, written)
        split = read_distilled_folder(folder, data)
        save_grid(folder / "grid.png", split, split.labels)
        about = {"settings": settings, "class_names": data.class_names, "images": digest_of(split, split.labels)}
        return {**about, "made_with": common.made_with(data.device)}

    reused = common.is_made(whole, "classes", "groups")
    if not reused:
        pieces = pieces_of(method, data, teacher, ipc, factor, seed)
        jobs = {}
        for name, (_, make) in pieces.items():
            jobs[folder / f"{name}.pt"] = lambda progress, make=make: {"images": make(progress).cpu()}
        common.make_joined(whole, jobs, join, None if method == "random" else method)  # no bar for what takes a second
    how = "kept from an earlier run in" if reused else "in"
    print(f"images:   {method}, {ipc} per class, {how} {folder}")
    return load_distilled(folder, data)


def given_or_made(given: Distilled | None, images: str, data: Dataset, teacher, ipc, seed: int) -> Distilled:
    """The given set, or the one that distil makes. Of a given set, say how often the teacher agrees with its labels."""
    if given is None:
        return distil(images, data, teacher, ipc, seed)
    if teacher:
        logits = plain_logits(teacher.model, given.images, data.colours)
        agrees = 100 * (logits.argmax(1) == given.labels).float().mean().item()
        print(f"images:   {images}: {len(given.images)} images; the teacher gives {agrees:.0f} % of them their label")
        if agrees <= 100 / data.num_classes:
            words = f"warning: perhaps the classes of {images} are numbered otherwise than the data set's"
            print(words, file=sys.stderr)
    return given


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--method", choices=METHODS, default="rded", help="how the images are made (default: rded)")
    add("--factor", type=common.at_least(1), help="RDED: an image holds factor x factor crops (default: 2 from 128 px "
        "on, else 1)")  # fmt: skip
    common.add_common_options(parser)
    args = parser.parse_args(argv)
    if args.factor and args.method != "rded":
        raise UserError(f"--factor is for --method rded, not for {args.method}")
    if args.method == "random" and (args.teacher or args.teacher_epochs):
        raise UserError("--method random uses no teacher")
    data, _, teacher_arch = common.start(args)
    check_request(args.method, data, args.ipc or common.DEFAULT_IPC, args.factor or default_factor(data), teacher_arch)
    teacher = None
    if args.method != "random":
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = distil(args.method, data, teacher, args.ipc, args.seed, args.factor)
    print(f"picture:  {Path(distilled.info['folder']) / 'grid.png'}")
    return {"images": distilled.info, "teacher": teacher.info if teacher else None}


if __name__ == "__main__":
    common.run_script(main)
