"""Distilled images: random (the baseline), RDED (CVPR 2024), SRe2L (NeurIPS 2023) and LPLD (NeurIPS 2024, TPAMI 2026).

    python synthesize.py --method random --ipc 10                    # real images of the embedded data set
    python synthesize.py --method rded --dataset cifar100 --ipc 10   # the teacher's favourite crops of real images
    python synthesize.py --method sre2l --dataset cifar100 --ipc 10  # optimised to the teacher's BatchNorm statistics
    python synthesize.py --method lpld --dataset cifar100 --ipc 10   # the same class by class, to class-wise statistics

Writes an ImageFolder of PNGs under --out (00000/00000.png, ...), settings.json and a picture of it, grid.png. Reads
distilled sets as they are found in the wild: RDED's, SRe2L's and LPLD's folders, and GIFT's data.pt.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from common import Dataset, Teacher, UserError

METHODS = ("random", "rded", "sre2l", "lpld")
RECOVERED = ("sre2l", "lpld")  # optimised to fit a teacher's BatchNorm statistics
CLASSES_PER_PIECE = 16  # at most, of what is made class by class
IMAGES_HELP = f"distilled set: a folder or data.pt, or one of {', '.join(METHODS)}, made here"

# ---------------------------------------------------------------------------------------------------------------------
# Random real images: what every distilled set has to beat


def pick_random(data: Dataset, label: int, count: int, seed: int) -> Tensor:
    """Indices [count] of training images of a class, drawn without replacement; of all, where it has fewer."""
    members = (data.train.labels == label).nonzero().flatten().cpu()
    return members[common.shuffled(len(members), seed, common.CHOICE, label)[:count]]


def random_images(data: Dataset, ipc: int, seed: int) -> Tensor:
    """Real images, uint8 [C * ipc, 3, S, S], class by class."""
    picked = [pick_random(data, label, ipc, seed) for label in range(data.num_classes)]
    return data.train.pick(torch.cat(picked))


# ---------------------------------------------------------------------------------------------------------------------
# RDED (arXiv 2312.03526; released code: LINs-lab/RDED, synthesize/)

RDED_IMAGES = 300  # real images looked at per class
RDED_CROPS = 5  # crops tried of each


def square_crops(images: Tensor, u: np.ndarray, size: int) -> Tensor:
    """Random square crops (area scale 0.08 to 1, ratio 1) [n * crops, 3, size, size] of [n, 3, H, W], all in 0 ... 255.

    u: uniforms [n, crops, 10, 4]. Bilinear, antialiased, as released.
    """
    height, width = images.shape[2:]
    boxes = common.crop_boxes(u, height, width, scale=(0.08, 1), ratio=(1, 1))
    boxes = torch.from_numpy(boxes).flatten(0, 1)
    images = images.float().repeat_interleave(u.shape[1], 0)
    return common.resized_crop(images, boxes.to(images.device), size)


def crops_of_each(images: list[Tensor], u: np.ndarray, size: int, device) -> Tensor:
    """square_crops of images [3, H, W] of one size, or of several."""
    if len({image.shape for image in images}) == 1:
        return square_crops(torch.stack(images).to(device), u, size)
    crops = []
    for number, image in enumerate(images):
        crops.append(square_crops(image[None].to(device), u[number : number + 1], size))
    return torch.cat(crops)


@torch.no_grad()
def realism_losses(teacher: nn.Module, patches: Tensor, label: int, side: int, colours) -> Tensor:
    """The teacher's cross-entropy [n] for a class on patches [n, 3, s, s], normalised, then zero-padded to `side`.

    Released: with ImageNet's colours on every data set.
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
    """RDED's choice from losses [images, crops]: of each image its best crop, of these the `count` lowest, best first.

    Returns (image indices, crop indices), each [count]; ties go to the smaller index.
    """
    best, crop = losses.min(1)
    image = best.argsort(stable=True)[:count]
    return image, crop[image]


def tile_patches(patches: Tensor, factor: int) -> Tensor:
    """Mosaics [n, 3, f * s, f * s] from ranked patches [n * f^2, 3, s, s]: image j is ranks j, j + n, ..."""
    grid = patches.unflatten(0, (factor, factor, -1))  # [row, column, n, 3, s, s]
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)


def rded(data: Dataset, teacher: Teacher, classes: list[int], ipc: int, factor: int, seed: int) -> Tensor:
    """RDED's images of some classes, one class after the other: uint8 [len(classes) * ipc, 3, S, S].

    Released scripts: 300 images of a class, 5 crops of each, resized to side / factor.
    """
    size = data.image_size // factor
    chosen = []

    def read(label):  # crops are of the images as stored, not of their test view
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
    """Settings of the recovery; Adam with betas (0.5, 0.9) and eps 1e-8, cosine learning rate to 0."""

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


def sre2l_settings(data: Dataset) -> Recovery:
    """The released settings of a data set, whatever its side; the nearest in side where none are released (ours)."""
    if data.name in SRE2L:
        return SRE2L[data.name]
    if data.image_size <= 32:
        return SRE2L["cifar100"]
    if data.image_size <= 64:
        return SRE2L["tinyimagenet"]
    return SRE2L["imagenet-1k"]


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


class MeanAndVariance(torch.autograd.Function):
    """Mean and biased variance over the middle dimension of [G, N, C], each [G, C]: torch.var_mean, only faster.

    Its backward is one pass over the pixels instead of four, and its forward on a CPU takes a quarter of the time.
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

    x [groups * n, C, H, W]: input of a BatchNorm layer, one group after the other; its mean and biased variance are
    taken over images and pixels of a group. mean, variance: [C], or [groups, C].
    Source: SRe2L's released code, recover/utils.py, BNFeatureHook.
    """
    pixels = x.float().permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])  # no copy in channels_last
    avg, var = MeanAndVariance.apply(pixels)
    return (avg - mean).norm(dim=1) + (var - variance).norm(dim=1)


@dataclass
class Groups:
    """Batches of images that are recovered together, and what each of them is recovered to."""

    targets: Tensor  # [groups, n]: classes
    statistics: list  # (mean, variance) of each BatchNorm layer, each [C], or [groups, C]
    ids: list  # the numbers that a group's noise and views are drawn from

    def part(self, some: Tensor):
        """Some of them, by their places."""
        own = []
        for layer in self.statistics:
            own.append([x[some.to(x.device)] if x.dim() == 2 else x for x in layer])
        return Groups(self.targets[some], own, [self.ids[i] for i in some.tolist()])


@contextmanager
def watching(layers, take):
    """take(number, input) for each of these layers, at every forward within."""

    def hook_of(number):
        def hook(layer, inputs):
            take(number, inputs[0])

        return hook

    hooks = [layer.register_forward_pre_hook(hook_of(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def recover(teacher: nn.Module, todo: Groups, setting: Recovery, data: Dataset, seed: int, progress: Path) -> Tensor:
    """Optimise groups of images from noise, all groups at once; uint8 [groups * n, 3, S, S].

    A group is one batch of the papers. Each iteration draws one view per group. Group losses are summed, the teacher is
    in eval mode and Adam acts on each pixel alone, so groups do not feel each other: this is group-by-group
    optimisation, only faster.
    Loss of a group: mean CE(teacher(view), class) + r_bn * sum over layers of w_l * bn_distance. The last iterate is
    kept, as released.
    """
    groups, n = todo.targets.shape
    side = data.image_size
    device = data.device
    canvas, views = noise_and_views(todo.ids, n, setting, side, seed, device)
    images = canvas[0]
    low = common.normalize(torch.zeros(1, 3, 1, 1, device=device), data.colours)
    high = common.normalize(torch.ones(1, 3, 1, 1, device=device), data.colours)
    adam = {"betas": (0.5, 0.9), "eps": 1e-8, **common.fused(device)}
    optimizer = torch.optim.Adam(canvas.parameters(), setting.lr, **adam)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.iterations)
    modules = {"canvas": canvas, "optimizer": optimizer, "schedule": schedule}

    layers = batchnorms(teacher)
    weights = [setting.first_bn] + [1.0] * (len(layers) - 1)
    targets = todo.targets.to(device).flatten()
    distances = {}
    log = {}

    def measure(number, x):
        mean, variance = todo.statistics[number]
        distances[number] = bn_distance(x, mean, variance, groups)

    with watching(layers, measure):
        for step in common.Resumable(progress, setting.iterations, "recovering", log, 50, "iteration", **modules):
            view = views[step]
            together = images.view(groups, n * 3, side, side)  # a group's images share one view
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
    """Where each group begins, as the one parameter [groups * n, 3, S, S], and its views [iterations, groups, 7]."""
    noise = [common.random_stream(seed, common.NOISE, i).standard_normal((n, 3, side, side)) for i in ids]
    pixels = torch.from_numpy(np.stack(noise).astype(np.float32)).to(device).flatten(0, 1)
    views = []
    for i in ids:
        stream = (seed, common.VIEW, i)
        views.append(crop_flip_roll_draws(setting.iterations, side, setting.roll, setting.crop, *stream))
    return nn.ParameterList([nn.Parameter(pixels)]), torch.stack(views, 1).to(device)


def crop_flip_roll_draws(count: int, side: int, roll: tuple[int, int], crop: bool, *seed: int) -> Tensor:
    """`count` views, int64 [count, 7]: crop box (4), flip, roll down and right (inclusive range `roll`).

    Without `crop` the box is the whole image and nothing is flipped (SRe2L on CIFAR).
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
    """What the forward of one more image keeps for its backward, measured."""

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
    """How many groups of n images fit: into half of a GPU's memory but no more than 16 GiB, as some kernels fail beyond
    2^31 elements, or into 2 GiB on a CPU, where more at once is not faster.

    It depends on nothing else that is running, so the same device takes the same chunks again.
    """
    memory = 2 << 30
    if device.type == "cuda":
        memory = min(GPU_BYTES, torch.cuda.get_device_properties(device).total_memory // 2)
    return max(1, memory // (n * bytes_per_image(teacher, side, device)))


def sre2l_batches(data: Dataset, teacher: Teacher, ipc: int) -> list[Groups]:
    """SRe2L's: one image of each of up to 100 classes, against the teacher's running statistics."""
    statistics = [(layer.running_mean, layer.running_var) for layer in batchnorms(teacher.model)]
    blocks = torch.arange(data.num_classes).split(SRE2L_CLASSES)
    ids = torch.arange(len(blocks) * ipc).view(-1, ipc).tolist()
    return [Groups(block.expand(ipc, -1), statistics, own) for block, own in zip(blocks, ids, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# LPLD (arXiv 2410.15919) and LPQLD (arXiv 2604.18135, section III-B): SRe2L class by class
# (released code: he-y/soft-label-pruning-quantization-for-dataset-distillation, recover/)

LPLD = {  # released scripts tiny_recover.sh, imagenet1k_recover.sh, in21k_recover.sh
    "tinyimagenet": Recovery(lr=0.1, r_bn=0.05, iterations=4000, roll=(-4, 4), crop=True),
    "imagenet-1k": Recovery(lr=0.25, r_bn=0.01, iterations=4000, roll=(0, 32), crop=True),
    "imagenet-21k": Recovery(lr=0.05, r_bn=0.25, iterations=2000, roll=(0, 32), crop=True),
}


def lpld_settings(data: Dataset) -> Recovery:
    """The released settings; where none are, Tiny's for sides of 33 to 64 px, else SRe2L's (our choice)."""
    if data.name not in LPLD and 32 < data.image_size <= 64:
        return LPLD["tinyimagenet"]
    return LPLD.get(data.name) or sre2l_settings(data)


SQUEEZE_BATCH = 200


@torch.no_grad()
def class_statistics(teacher: nn.Module, data: Dataset, classes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Squeeze: mean and biased variance, each [len(classes), C], of every BatchNorm layer's input, class by class.

    Exact, over all images and pixels of a class, in one pass over its un-augmented images, teacher in eval mode.
    The released code augments, and keeps a running average (momentum 0.1, from mean 0 and variance 1) of statistics
    within a batch and class. Of the classes in a batch 97 % have a single image there on ImageNet-1K (64 images per
    GPU) and 49 % on Tiny-ImageNet (256): the variance *between* images is missing.
    """
    layers = batchnorms(teacher)
    moments = {}

    def measure(number, x):  # about the layer's own mean, so that no digits cancel in E[x^2] - E[x]^2
        x = x - layers[number].running_mean[:, None, None]
        moments[number] = torch.stack([x.mean((2, 3)), x.square().mean((2, 3))])  # [2, B, channels]

    members = [(data.train.labels == label).nonzero().flatten().cpu() for label in classes]
    sums = [torch.zeros(2, len(classes), x.num_features, dtype=torch.float64, device=data.device) for x in layers]
    with watching(layers, measure):
        for images, labels in data.train.batches(SQUEEZE_BATCH, torch.cat(members)):
            teacher(common.normalize(images, data.colours))
            for number, total in enumerate(sums):
                total.index_add_(1, labels - classes[0], moments[number].double())
    count = torch.tensor([[len(own)] for own in members], device=data.device)
    statistics = []
    for layer, total in zip(layers, sums, strict=True):
        mean, square = total / count
        statistics.append(((mean + layer.running_mean).float(), (square - mean**2).clamp(min=0).float()))
    return statistics


def squeeze(data: Dataset, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
    """class_statistics of this teacher and data set, for all classes: taken once, then read."""
    settings = {"stage": "class statistics", "data": data.describe(), "teacher": teacher.info["digest"]}
    parts = common.cut(data.num_classes, CLASSES_PER_PIECE, common.PIECES)

    def make_piece(number, _):
        return {"layers": class_statistics(teacher.model, data, parts[number].tolist())}

    def make(folder):
        files = [folder / f"classes-{part[0]}-{part[-1]}.pt" for part in parts]
        common.make_pieces(files, make_piece, "class statistics")
        if common.rank:
            return
        kept = [common.load_kept(file)["layers"] for file in files]
        layers = []
        for layer in zip(*kept, strict=True):
            layers.append([torch.cat(own) for own in zip(*layer, strict=True)])
        common.save_kept(folder / "statistics.pt", {"layers": layers})
        for file in files:
            file.unlink()

    folder, _ = common.stage(data, f"statistics-{teacher.info['arch']}", settings, make, "statistics.pt")
    layers = common.load_kept(folder / "statistics.pt")["layers"]
    return [[x.to(data.device) for x in layer] for layer in layers]


def lpld_batches(data: Dataset, statistics, ipc: int) -> list[Groups]:
    """LPLD's: all images of a class, against that class's statistics.

    That, and r_bn on Tiny-ImageNet, is all that parts it from SRe2L.
    """
    classes = torch.arange(data.num_classes)
    return [Groups(classes[:, None].expand(-1, ipc), statistics, classes.tolist())]


# ---------------------------------------------------------------------------------------------------------------------
# How little the images of a class differ


@torch.no_grad()
def within_class_similarity(features: Tensor, labels: Tensor) -> float | None:
    """Mean cosine similarity of features [N, D] over all pairs of different images of a class; None if there is none.

    LPLD's measure of how little the images of a class differ; features are inputs of the teacher's last linear layer.
    """
    features = F.normalize(features.double(), dim=1)
    sums = features.new_zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, labels, features)
    count = torch.bincount(labels)
    pairs = (count * (count - 1)).sum().item()  # (i, j) and (j, i); the sum of their cosines is ||sum||^2 - count
    return (sums.square().sum() - len(labels)).item() / pairs if pairs else None


@torch.no_grad()
def teacher_features(teacher: nn.Module, images: Tensor, colours) -> Tensor:
    """Inputs [N, D] of the last linear layer for the plain images; the logits of a network without one."""
    linear = [layer for layer in teacher.modules() if isinstance(layer, nn.Linear)]
    taken = []
    with watching(linear[-1:], lambda _, x: taken.append(x)):
        logits = [teacher(common.normalize(part, colours)) for part in images.split(200)]
    return torch.cat(taken or logits)


def similarity_of(teacher: Teacher, distilled, colours) -> float | None:
    """within_class_similarity of a set, by this teacher's features."""
    features = teacher_features(teacher.model, distilled.images, colours)
    return within_class_similarity(features, distilled.labels)


# ---------------------------------------------------------------------------------------------------------------------
# Distilled sets on disk


class Distilled(NamedTuple):
    images: Tensor  # [N, 3, S, S], uint8 from a folder, float32 of about [0, 1] from data.pt; on the device
    labels: Tensor  # int64 [N]
    info: dict  # folder, images per class, digest, and the settings recorded with it

    @property
    def name(self):
        return os.path.basename(os.path.realpath(self.info["folder"]))


def digest_of(images: Tensor, labels: Tensor) -> str:
    return common.digest({"images": images, "labels": labels})


def save_distilled(folder: Path, images: Tensor, labels: Tensor):
    """Write uint8 images as an ImageFolder of PNGs (00000/00000.png, ...) and as one picture, grid.png.

    The releases of RDED and SRe2L keep JPEGs.
    """
    counts = {}
    for image, label in zip(images.cpu(), labels.tolist(), strict=True):
        number = counts[label] = counts.get(label, -1) + 1
        save_picture(folder / f"{label:05d}" / f"{number:05d}.png", image)
    save_grid(folder / "grid.png", images, labels)


def save_picture(path: Path, image: Tensor):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    common.write_atomically(path, lambda beside: picture.save(beside, "PNG"))


def save_grid(path: Path, images: Tensor, labels: Tensor):
    """A picture of a distilled set: a row for each of the first 20 classes, up to ten images of it."""
    images = images if images.dtype == torch.uint8 else to_bytes(images * 255)
    rows = [images[labels == label][:10].cpu() for label in labels.unique()[:20]]
    width = max(map(len, rows))
    blank = torch.full((width, *images.shape[1:]), 255, dtype=torch.uint8)
    rows = [torch.cat([row, blank[len(row) :]]) for row in rows]
    save_picture(path, torchvision.utils.make_grid(torch.cat(rows), nrow=width, pad_value=255))


def load_distilled(path: Path, data: Dataset, ipc=None) -> Distilled:
    """A distilled set as found in the wild: class folders (ours, RDED's, SRe2L's, LPLD's) or GIFT's data.pt.

    The class of a folder is the number in its name (00007, new007), or the data set's class of that name.
    """
    path = common.path_of(path)
    if not path.exists():
        raise UserError(f"--images {path} does not exist")
    kept = common.read_settings(path, ours=False)
    settings = kept.get("settings", {})
    if kept and "made_with" not in kept:
        raise UserError(f"--images {path} is unfinished: the command that makes it was stopped; run it again")
    file = path / "data.pt" if (path / "data.pt").exists() else path
    if file.is_dir():
        images, labels = read_distilled_folder(path, data)
        named = settings.get("data", {}).get("dataset")
    else:
        images, labels, named = read_data_pt(file)
    check_fits(path, images, labels, named, data, ipc)
    digest = digest_of(images, labels)
    if kept.get("images", digest) != digest:
        raise UserError(f"--images {path} is not as it was made: an image is changed, missing or too many; delete it")
    count = torch.bincount(labels).max().item()
    info = {"folder": str(path), "ipc": count, "count": len(images), "settings": settings, "digest": digest}
    return Distilled(images.to(data.device), labels.to(data.device), info)


def check_fits(path, images: Tensor, labels: Tensor, named, data: Dataset, ipc):
    """Whether these are images for this data set: its name (if the file says one), side, classes, and --ipc."""
    known = {plain_name(name) for name in common.DATASETS}
    theirs = plain_name(named or data.name)
    ours = plain_name(data.name)
    if theirs in known and ours in known and theirs != ours:
        raise UserError(f"--images {path} is of the data set {named}, says the file; this is {data.name}")
    side = data.image_size
    if images.shape[1:] != (3, side, side):
        found = " x ".join(map(str, images.shape[1:]))
        wanted = f"{data.name} has 3 x {side} x {side} here (--image-size)"
        raise UserError(f"--images {path} holds images of {found}, {wanted}")
    if labels.max() >= data.num_classes or len(labels.unique()) < data.num_classes:
        found = f"{len(labels.unique())} classes, the last one number {labels.max()}"
        raise UserError(f"--images {path} has images of {found}; {data.name} has classes 0 to {data.num_classes - 1}")
    counts = torch.bincount(labels)
    if ipc and (counts != ipc).any():
        raise UserError(f"--images {path} has {counts.min()} to {counts.max()} images per class, not --ipc {ipc}")


def plain_name(dataset) -> str:
    return re.sub(r"[^a-z0-9]", "", str(dataset).lower())


def read_data_pt(file: Path) -> tuple[Tensor, Tensor, str | None]:
    """GIFT's format: {"data": floats [N, 3, S, S] in [0, 1], "label": classes [N] or [N, 1], or soft [N, C] (DATM)}.

    And, if the file says so, under "dataset", of which data set: (images, labels, name or None).
    """
    kept = common.load_tensors(file, "--images")
    kept = kept if isinstance(kept, dict) else {}
    images = kept.get("data")
    labels = kept.get("label")
    named = kept.get("dataset")
    with common.refused(f"--images {file} holds no 'data' [N, 3, S, S] with a 'label' for each"):
        images = images.detach()
        low = float(images.min())
        high = float(images.max())
        if images.dim() != 4 or not 0 < len(labels) == len(images) <= labels.numel():
            raise UserError(f"--images {file} holds no 'data' [N, 3, S, S] with a 'label' for each")
        if images.dtype != torch.uint8:
            # optimised pixels may lie a little outside, as in CIM's files; bytes as floats, or normalised ones, lie far
            if not images.is_floating_point() or not (low >= -0.5 and high <= 1.5):
                raise UserError(f"--images {file}: pixel values are no bytes, and far outside [0, 1] or no floats")
            images = images.float()
        labels = labels.flatten(1).argmax(1) if labels.numel() > len(labels) else labels.flatten()
        if not (labels == labels.long()).all() or labels.min() < 0:
            raise UserError(f"--images {file}: a label is no class index")
        if not isinstance(named, str | None):
            raise UserError(f"--images {file}: its 'dataset' is no name")
        return images.contiguous(), labels.long(), named


def read_distilled_folder(path: Path, data: Dataset) -> tuple[Tensor, Tensor]:
    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    label_of = labels_of_folders(path, folders, data)
    extensions = torchvision.datasets.folder.IMG_EXTENSIONS
    files = []
    labels = []
    for folder in sorted(folders, key=label_of.get):
        pictures = [file for file in folder.iterdir() if file.suffix.lower() in extensions]
        files += sorted(pictures, key=by_numbers)
        labels += [label_of[folder]] * len(pictures)
    if not files:
        raise UserError(f"--images {path} holds no images (class folders with {', '.join(extensions)} files)")
    with ThreadPoolExecutor(common.cores()) as pool:
        images = list(pool.map(lambda file: common.to_tensor(common.read_image(file)), files))
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise UserError(f"--images {path} holds images of several sizes: {sorted(sizes)[:3]}")
    return torch.stack(images), torch.tensor(labels)


def by_numbers(file: Path):
    """2.png before 10.png."""
    return [int(number) for number in re.findall(r"\d+", file.stem)], file.name


def labels_of_folders(path, folders, data: Dataset) -> dict:
    """The class of each folder: by name, or by number: new1000 comes after new999, not before new101."""
    if all(folder.name in data.class_names for folder in folders):
        return {folder: data.class_names.index(folder.name) for folder in folders}
    label_of = {}
    for folder in sorted(folders):
        number = re.fullmatch(r"(?:new|class)?_?(\d{1,9})", folder.name)
        if not number:
            raise UserError(f"--images {path}: folder {folder.name} is neither numbered nor a class of {data.name}")
        label_of[folder] = int(number[1])
    if len(set(label_of.values())) < len(folders):
        raise UserError(f"--images {path}: two folders have the same number")
    return label_of


# ---------------------------------------------------------------------------------------------------------------------
# The stage


def to_bytes(images: Tensor) -> Tensor:
    """0 ... 255 as uint8, rounded; the releases of RDED and SRe2L truncate."""
    return images.round().clamp(0, 255).to(torch.uint8)


def default_factor(data: Dataset) -> int:
    """RDED's scripts: 2 x 2 mosaics for ImageNet-1K at 224 px and its subsets at 224 and 128, single crops for CIFAR
    and Tiny-ImageNet; for ImageNet-1K at 64 px too (ours)."""
    return 2 if data.image_size >= 128 else 1


def check_request(method: str, data: Dataset, ipc: int, factor: int, teacher_arch: str):
    """Whether data set and teacher can give what is asked for; before a teacher is trained for it."""
    fewest = torch.bincount(data.train.labels.cpu(), minlength=data.num_classes).min().item()
    if method == "random" and ipc > fewest:
        raise UserError(f"--ipc {ipc}: the smallest class of {data.name} has {fewest} training images")
    if method == "rded" and data.image_size % factor:
        raise UserError(f"--factor {factor} does not divide the side of {data.image_size} px")
    most = min(fewest, RDED_IMAGES) // factor**2
    if method == "rded" and ipc > most:
        raise UserError(f"--ipc {ipc}: RDED takes one crop of each of {RDED_IMAGES} images, so at most {most} here")
    if method in RECOVERED and not batchnorms(common.build_model(teacher_arch, data.num_classes, data.image_size)):
        raise UserError(f"{method} needs a teacher with BatchNorm layers, {teacher_arch} has none")


def find_images(images: str, data: Dataset, ipc, teacher_arch: str) -> Distilled | None:
    """The set in this folder or file; None if `images` names a method: then the set is to be made, and can be."""
    if images not in METHODS:
        return load_distilled(images, data, ipc)
    check_request(images, data, ipc or 10, default_factor(data), teacher_arch)
    return None


def recovery_settings(method: str, data: Dataset) -> Recovery:
    return sre2l_settings(data) if method == "sre2l" else lpld_settings(data)


class Piece(NamedTuple):
    """A part of a set that one process makes in one go."""

    name: str  # of the file that keeps it until the set is whole
    labels: Tensor
    make: Callable[[Path], Tensor]  # from a progress file to its images, uint8


def pieces_of(method: str, data: Dataset, teacher: Teacher | None, ipc: int, factor: int, seed: int) -> list[Piece]:
    each = torch.arange(data.num_classes).repeat_interleave(ipc)
    if method == "random":
        return [Piece("random", each, lambda _: random_images(data, ipc, seed))]
    pieces = []
    if method == "rded":
        for part in common.cut(data.num_classes, CLASSES_PER_PIECE, common.PIECES):
            make = partial(rded, data, teacher, part.tolist(), ipc, factor, seed)
            labels = part.repeat_interleave(ipc)
            pieces.append(Piece(f"classes-{part[0]}-{part[-1]}", labels, lambda _, make=make: make()))
        return pieces
    batches = sre2l_batches(data, teacher, ipc)
    if method == "lpld":
        batches = lpld_batches(data, squeeze(data, teacher), ipc)
    for todo in batches:
        groups, n = todo.targets.shape
        at_once = groups_at_once(teacher.model, n, data.image_size, data.device)
        for places in common.cut(groups, at_once, common.PIECES):
            part = todo.part(places)
            make = partial(recover, teacher.model, part, recovery_settings(method, data), data, seed)
            pieces.append(Piece(f"groups-{part.ids[0]}-{part.ids[-1]}", part.targets.flatten(), make))
    return pieces


def distil(method: str, data: Dataset, teacher: Teacher | None, ipc=None, seed=0, factor=None) -> Distilled:
    """Make the distilled set, or find it again."""
    ipc = ipc or 10
    factor = factor or default_factor(data)
    settings = {"stage": "images", "method": method, "ipc": ipc, "seed": seed, "data": data.describe()}
    if method != "random":
        settings["teacher"] = {key: teacher.info[key] for key in ("arch", "width", "digest")}
    if method == "rded":
        settings |= {"factor": factor, "images": RDED_IMAGES, "crops": RDED_CROPS}
    if method in RECOVERED:
        settings["recovery"] = asdict(recovery_settings(method, data))

    def make(folder):
        pieces = pieces_of(method, data, teacher, ipc, factor, seed)
        files = [folder / f"{piece.name}.pt" for piece in pieces]

        def make_piece(number, progress):
            return {"images": pieces[number].make(progress).cpu(), "labels": pieces[number].labels}

        common.make_pieces(files, make_piece, method if len(files) > 1 else None)
        if common.rank:
            return None
        kept = [common.load_kept(file) for file in files]
        labels = torch.cat([piece["labels"] for piece in kept])
        order = labels.argsort(stable=True)
        labels = labels[order]
        images = torch.cat([piece["images"] for piece in kept])[order]
        save_distilled(folder, images, labels)
        for file in folder.glob("*.pt"):  # those too that a run on another device has cut otherwise
            file.unlink()
        return {"images": digest_of(images, labels)}

    folder, reused = common.stage(data, f"{method}-ipc{ipc}", settings, make, "grid.png")
    print(f"images:   {f'reusing {folder}' if reused else f'{method}, {ipc} per class, in {folder}'}")
    return load_distilled(folder, data)


def main(argv=None) -> dict:
    parser = common.common_options(__doc__)
    parser.add_argument("--method", choices=METHODS, default="rded", help="default: rded")
    parser.add_argument("--factor", type=common.at_least(1), help="RDED: an image holds factor x factor crops (1 or 2)")
    args = parser.parse_args(argv)
    data, arch, teacher_arch = common.start(args)
    check_request(args.method, data, args.ipc or 10, args.factor or default_factor(data), teacher_arch)
    teacher = None
    if args.method != "random":
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = distil(args.method, data, teacher, args.ipc, args.seed, args.factor)
    print(f"picture:  {Path(distilled.info['folder']) / 'grid.png'}")
    return {"images": distilled.info, "teacher": teacher.info if teacher else None}


if __name__ == "__main__":
    common.run_script(main)
