"""LPQLD: Soft Label Pruning and Quantization for Large-Scale Dataset Distillation (arXiv 2604.18135, IEEE TPAMI 2026).

    python lpqld.py                                                    # embedded data set, on a CPU, a few minutes
    python lpqld.py --dataset tinyimagenet --ipc 50 --arch resnet18_modified --prune 0.9 --top-k 20
    python lpqld.py --ablation                                         # switch on P, Q, DKR and CA, one after the other
    python lpqld.py --images path/to/set --labels path/to/labels.pt    # train from a stored pool, without a teacher

A teacher's logits for every augmented view take far more bytes than the images. LPQLD keeps the labels of few views
(P, pruning) and the k largest logits of each label (Q, quantization). Each epoch softens the kept logits anew (DKR,
dynamic knowledge reuse), and the student's softmax has its own temperature (CA, calibrated alignment). LPQLD's images
are those of `synthesize.py --method lpld`. "Released code" is
he-y/soft-label-pruning-quantization-for-dataset-distillation on GitHub.
"""

import itertools
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
import synthesize
from common import Dataset, Students, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# P: pruning. A label batch is the labels of one batch of views. The pool keeps few label batches and reuses them


def pool_size(count: int, batch_size: int, epochs: int, prune: float) -> int:
    """Number of label batches in the pool: round(E * floor(N / B) * (1 - p)), for N images, batches of B, E epochs.

    The last, smaller batch of each pass over the images is dropped (released: only if p > 0).
    The released script makes a slightly different number: see AUDIT.md.
    """
    return round(epochs * (count // batch_size) * (1 - prune))


def draw_label_batches(in_pool: int, per_epoch: int, epoch: int, epochs: int, prune: float, seed: int) -> list[int]:
    """Which label batches an epoch uses (epochs count from 0): per_epoch of the pool, at random, without replacement.

    Ours: a full pool (p = 0) that lasts for all epochs is used in order, each label batch at most once.
    """
    if prune == 0 and in_pool >= per_epoch * epochs:
        return list(range(per_epoch * epoch, per_epoch * (epoch + 1)))
    return common.shuffled(in_pool, seed, common.ORDER, epoch)[:per_epoch].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Q: quantization, by marginal re-normalization (MR-k)


def quantize_labels(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of each row and their classes, the largest first: (float16 [B, k], int64 [B, k]).

    logits [B, C] (or [..., C]): the teacher's, before the softmax. RuntimeError if k > C.
    Source: released generate_soft_label_pruning_batch.py.
    """
    values, classes = logits.topk(k, dim=-1)
    return values.half(), classes


def soft_targets(values: Tensor, classes: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Targets float32 [B, C]: the softmax of values / temperature over the k kept classes, and 0 for all others.

    This is the re-normalization of MR-k. values, classes [B, k]: as quantize_labels returns them.
    Source: released train_FKD_LPQLD.py, "MR".
    """
    probabilities = F.softmax(values.float() / temperature, dim=-1)
    targets = torch.zeros(*values.shape[:-1], num_classes, device=values.device)
    return targets.scatter_(-1, classes.long(), probabilities)


# ---------------------------------------------------------------------------------------------------------------------
# DKR: dynamic knowledge reuse. The few kept labels are used in many epochs. The temperature of their softmax falls over
# the epochs, so the same logits give other labels


INITIAL_TEMPERATURE = 20.0  # T_0, from the released scripts; without DKR the temperature of all epochs


def reuse_temperature(epoch, initial=INITIAL_TEMPERATURE, gamma=0.7, step=30, minimum=2.0) -> float:
    """DKR, step schedule: T(e) = max(T_0 * gamma^floor(e / s), T_min). Epochs e count from 1.

    Over 300 epochs: 20 in epochs 1 to 29, 14 in 30 to 59, ..., 2 from 210 on.
    Source: released train_FKD_LPQLD.py; T_0, gamma and s are from its scripts.
    """
    return max(initial * gamma ** (epoch // step), minimum)


def cosine_reuse_temperature(epoch, epochs, initial=INITIAL_TEMPERATURE, minimum=2.0) -> float:
    """DKR, cosine schedule: T(e) = T_min + (T_0 - T_min) / 2 * (1 + cos(pi * e / E)). Epochs e count from 1.

    No released script uses this schedule. The scripts pass T_min = 2; the option's own default is 1.
    """
    return minimum + (initial - minimum) / 2 * (1 + math.cos(math.pi * epoch / epochs))


def label_temperature(epoch: int, epochs: int, reuse: str) -> float:
    """T(e), epochs from 1. Without DKR it is T_0. The step is E // 10: 30 of 300 as released; for other E ours."""
    if reuse == "cosine":
        return cosine_reuse_temperature(epoch, epochs)
    if reuse == "step":
        return reuse_temperature(epoch, step=max(1, epochs // 10))
    return INITIAL_TEMPERATURE


# ---------------------------------------------------------------------------------------------------------------------
# CA: calibrated student-teacher alignment. The student's softmax has its own temperature. It is fitted to the labels of
# the last batch of the epoch before


def alignment_loss(student_logits: Tensor, targets: Tensor, student_temperature: float) -> Tensor:
    """KL(targets || softmax(z_S / tau)), mean over the batch, without a factor T^2. Both [B, C].

    Source: released train_FKD_LPQLD.py, its loss for ImageNet-1K and -21K.
    """
    return F.kl_div(F.log_softmax(student_logits / student_temperature, dim=1), targets, reduction="batchmean")


def calibrate_temperature(student_logits: Tensor, targets: Tensor) -> float:
    """CA: the student's temperature, argmin over tau in 0.01, 0.02, ..., 1.00 of KL(targets || softmax(z_S / tau)).

    student_logits, targets [B, C]; each row of targets sums to 1. On ties it is the smallest tau.
    As released, it is computed after each epoch, on the epoch's last batch, from the logits of the training step. The
    next epoch uses it. In the first epoch tau is 1.
    Source: released train_FKD_LPQLD.py. Its help calls the value a ratio to the teacher's temperature; the code uses it
    as the temperature itself, and so do we.
    """
    # This is the cross-entropy. It differs from the KL divergence by the entropy of the targets, the same for all tau.
    tau = torch.arange(1, 101, device=student_logits.device, dtype=torch.float32) / 100
    scaled = student_logits.float()[None] / tau[:, None, None]  # [100, B, C]
    cross_entropy = (scaled.logsumexp(2) - (scaled * targets).sum(2)).mean(1)
    return tau[cross_entropy.argmin()].item()


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass
class LabelSettings:
    """Settings for making labels. The values are ImageNet-1K's, from the released LPQLD_in1k yaml and script."""

    epochs: int = 300  # E of pool_size
    batch_size: int | None = 128
    prune: float = 0.9  # p, the share of the label batches that is not kept
    top_k: int | None = 50  # the paper's "x80", 80 times fewer bytes; k = 100 is its "x40", k = 10 its "x200"
    mix: str = "cutmix"  # or cutout, none
    flip: bool = True


@dataclass
class Training:
    """Settings for training a student from a pool.

    The values are ImageNet-1K's: DKR and CA from the released lpqld_in1k.sh, rate and decay from the defaults of
    train_FKD_LPQLD.py.
    """

    epochs: int = 300
    reuse: str = "step"  # DKR: step, cosine, none
    calibrate: bool = True  # CA
    smoothing: float = 0.0  # ImageNet-21K's "label smoothing", see train_student
    squared: bool = False  # multiply the loss by the square of the student's temperature, see train_student
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01  # not on biases and norms, see make_optimizer
    warmup: int = 0  # epochs, linear from 0.01 of the rate


PROTOCOLS = {
    "imagenet-1k": (LabelSettings(), Training()),
    # Released LPQLD_in21k yaml and script: p 0.95 and MR-200, the "x400" of its README.
    "imagenet-21k": (
        LabelSettings(batch_size=32, prune=0.95, top_k=200, mix="cutout", flip=False),
        Training(smoothing=0.2, lr=2e-3),
    ),
    # LPLD's own, LPLD_tiny_[4k].yaml. It has P alone; p, k, DKR and CA are ours. LPLD's "x40" is
    # --arch resnet18_modified --colours tiny --prune 0.975 --top-k 200 --reuse none --no-calibration.
    # With Q and without CA its factor T^2 = 400 makes the steps too large. Take --protocol imagenet-1k then.
    "tinyimagenet": (
        LabelSettings(epochs=100, batch_size=64, top_k=20, mix="none"),
        Training(epochs=100, squared=True, optimizer="sgd", lr=0.2, weight_decay=1e-4, warmup=5),
    ),
}
CROP_SCALE = (0.08, 1.0)  # area of the random resized crop (released yaml); its ratio is 3/4 to 4/3
MIXES = ("cutmix", "cutout", "none")


def labels_for(data: Dataset, count: int, like=None, **given) -> LabelSettings:
    """Settings of the labels for `count` images: the released ones of this data set, or of the data set `like`.

    What is given and not None replaces them. A batch is never larger than the set. Ours, without released settings:
    ImageNet-1K's, with k = C / 20 (at least 3) and batches of a fifth of the images (10 to 128). This k also stands in
    for a released one that is not below C.
    """
    labels, _ = PROTOCOLS.get(like or data.name, (LabelSettings(batch_size=None, top_k=None), None))
    size = labels.batch_size or max(10, min(128, count // 5))
    k = labels.top_k
    if k is None or k >= data.num_classes:
        k = min(max(3, data.num_classes // 20), data.num_classes)
    given = {name: value for name, value in given.items() if value is not None}
    return replace(labels, **{"batch_size": min(size, count), "top_k": k, **given})


def training_for(data: Dataset, like=None, **given) -> Training:
    """Settings of the training: the released ones of this data set, or of `like`. What is given replaces them."""
    _, training = PROTOCOLS.get(like or data.name, (None, Training()))
    return replace(training, **{name: value for name, value in given.items() if value is not None})


def check_labels(labels: LabelSettings, count: int, data: Dataset):
    """UserError if such a pool cannot be made and trained from. Called before a teacher is trained for it."""
    size = labels.batch_size
    k = labels.top_k
    if k > data.num_classes:
        raise UserError(f"--top-k {k}: {data.name} has {data.num_classes} classes")
    if not 2 <= size <= count:
        raise UserError(f"--batch-size {size}: must be from 2 (for BatchNorm) to {count} (the number of images)")
    per_epoch = count // size
    in_pool = pool_size(count, size, labels.epochs, labels.prune)
    if in_pool < per_epoch:
        enough = next(e for e in itertools.count(1) if pool_size(count, size, e, labels.prune) >= per_epoch)
        left = f"leaves {in_pool} label batches of {size}, and one epoch takes {per_epoch}"
        way_out = f"at least --epochs {enough}, or less pruning, such as --prune 0.5"
        raise UserError(f"--prune {labels.prune} of {labels.epochs} epochs {left}: {way_out}")
    per_logit = 2 if k == data.num_classes else 4  # all logits are kept without the numbers of their classes
    needed = in_pool * size * (28 + per_logit * k)  # 28: 12 int16 draws and the int32 number of an image
    memory = common.memory(data.device)
    if needed > memory:
        gigabytes = f"{needed / 2**30:,.0f} GB, {data.device} has {memory / 2**30:,.0f} for this process"
        raise UserError(f"{in_pool:,} label batches of {size} take {gigabytes}: keep fewer labels, or fewer logits")


# ---------------------------------------------------------------------------------------------------------------------
# Views. They are not stored: the same seed and number of a label batch always give the same images, crops and flips


def view_draws(batch_size: int, side: int, mix: str, flip: bool, *seed: int, scale=CROP_SCALE) -> Tensor:
    """The views of one label batch as whole numbers: int16 [B, 12]. The columns are:

    crop (top, left, height, width): area within `scale`, ratio 3/4 to 4/3; flip (0 or 1);
    hole (top, left, bottom, right). CutMix: lambda ~ Beta(1, 1), one hole for the batch, of side
    2 * (int(S * sqrt(1 - lambda)) // 2), its centre uniform, clipped. Cutout: half the side, one for each image;
    what fills the hole (3): the number of a random image of the batch (CutMix), or a colour (cutout).
    Source: released utils_fkd.py. It stores the boxes, with crops rounded to float16, so training views differ a little
    from the labelled ones.
    """
    stream = common.random_stream(*seed)
    u = stream.random_sample((batch_size, 41))  # ten tries of a crop, and the flip
    boxes = common.crop_boxes(u[:, :40].reshape(batch_size, 10, 4), side, side, scale)
    mirror = (u[:, 40:] < 0.5) & flip
    hole = np.zeros((batch_size, 4))
    fill = np.zeros((batch_size, 3))
    if mix == "cutmix":
        u = stream.random_sample(3)
        lam = u[0]  # Beta(1, 1) is uniform
        reach = int(side * math.sqrt(1 - lam)) // 2
        centre = np.floor(u[1:] * side)
        hole = np.tile(np.concatenate([centre - reach, centre + reach]), (batch_size, 1))
        fill[:, 0] = stream.permutation(batch_size)
    elif mix == "cutout":
        reach = int(side / 2 + 0.5) // 2
        centre = np.floor(stream.random_sample((batch_size, 2)) * side)
        hole = np.concatenate([centre - reach, centre + reach], 1)
        fill = np.floor(stream.random_sample((batch_size, 3)) * 256)
    columns = [boxes, mirror, hole.clip(0, side), fill]
    return torch.from_numpy(np.concatenate(columns, 1).astype(np.int16))


def mixed_views(images: Tensor, draws: Tensor, mix: str, colours) -> Tensor:
    """The views of n label batches: images [n * B, 3, S, S] (uint8, or floats in [0, 1]) -> normalised, same shape.

    draws [n, B, 12]: the numbers of view_draws. Crops interpolate the normalised floats (released: bytes).
    """
    n, size = draws.shape[:2]
    side = images.shape[-1]
    draws = draws.flatten(0, 1).float()
    x = common.normalize(images, colours, torch.contiguous_format)  # the layout that the crop is fast in
    x = common.resized_crop(x, draws[:, :4], side, flip=draws[:, 4] > 0)
    if mix != "none":
        pixel = torch.arange(side, device=x.device)
        inside = (pixel >= draws[:, 5:7, None]) & (pixel < draws[:, 7:9, None])  # [N, 2, S]
        inside = inside[:, 0, :, None] & inside[:, 1, None, :]
        if mix == "cutmix":
            first = torch.arange(n, device=x.device).repeat_interleave(size) * size
            fill = x[first + draws[:, 9].long()]
        else:
            fill = common.normalize(draws[:, 9:, None, None] / 255, colours)
        x = torch.where(inside[:, None], fill, x)
    return x.contiguous(memory_format=torch.channels_last)


class Views(NamedTuple):
    """The views of a pool's label batches, drawn from its seed."""

    settings: LabelSettings
    order: Tensor  # int32 [n, B]: which image each view shows
    draws: Tensor  # int16 [n, B, 12]: view_draws
    images: Tensor  # of the distilled set
    colours: tuple

    def groups(self, numbers) -> list[list[int]]:
        """These label batches, in groups whose views are made at once."""
        return common.steps_together(numbers, self.settings.batch_size, self.images.shape[-1], self.images.device)

    def of(self, numbers: Tensor) -> Tensor:
        """The views of these label batches, one batch after the other, [len(numbers) * B, 3, S, S]."""
        images = self.images[self.order[numbers].flatten()]
        return mixed_views(images, self.draws[numbers], self.settings.mix, self.colours)


def pool_views(in_pool: int, labels: LabelSettings, distilled: Distilled, colours, seed: int) -> Views:
    """Draw images and views of `in_pool` label batches from the pool's seed."""
    count = len(distilled.images)
    side = distilled.images.shape[-1]
    size = labels.batch_size
    per_pass = count // size
    passes = []
    for number in range(-(-in_pool // per_pass)):  # each pass over the images has its own order
        order = common.shuffled(count, seed, common.LABELS, common.ORDER, number)
        passes.append(order[: per_pass * size].view(per_pass, size))
    order = torch.cat(passes)[:in_pool].int()
    draws = torch.empty(in_pool, size, 12, dtype=torch.int16)
    for number in common.progress_bar(range(in_pool), "drawing views", in_pool):
        stream = (seed, common.LABELS, common.VIEW, number)
        draws[number] = view_draws(size, side, labels.mix, labels.flip, *stream)
    device = distilled.images.device
    return Views(labels, order.to(device), draws.to(device), distilled.images, colours)


# ---------------------------------------------------------------------------------------------------------------------
# The label pool: a student is trained from it and the images, without a teacher


@contextmanager
def without_deterministic_scatter():
    """Let scatter_ run as it is. Here it writes each place once, so its result is deterministic anyway.

    torch's deterministic version would make a GPU wait: it sorts the indices and reads their maximum back.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


class LabelPool(NamedTuple):
    """A label pool as it is used in training: the stored logits, and the views that they belong to."""

    settings: LabelSettings
    views: Views
    values: Tensor  # float16 [n, B, k], on the device
    classes: Tensor | None  # integers [n, B, k]; None if all logits are kept, in the order of the classes
    num_classes: int
    info: dict  # file, bytes, digest, and the settings that the file holds (pool_settings)

    @property
    def per_epoch(self) -> int:
        return len(self.views.images) // self.settings.batch_size

    def targets(self, numbers: Tensor, temperature: float) -> Tensor:
        """The labels of these label batches as probabilities, [len(numbers) * B, C]."""
        values = self.values[numbers].flatten(0, 1)
        if self.classes is None:  # k = C
            return F.softmax(values.float() / temperature, dim=1)
        classes = self.classes[numbers].flatten(0, 1)
        with without_deterministic_scatter():
            return soft_targets(values, classes, self.num_classes, temperature)

    def batches(self, numbers: list[int], temperature: float):
        """Yield (views, targets) of each of these label batches."""
        size = self.settings.batch_size
        for part in self.views.groups(numbers):
            index = common.send(torch.tensor(part), self.values.device)
            views = self.views.of(index)
            targets = self.targets(index, temperature)
            yield from zip(views.split(size), targets.split(size), strict=True)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learning_rate_factor(epoch: int, epochs: int, warmup: int = 0) -> float:
    """Half a cosine, from 1 to 0. Before it come `warmup` epochs, linear from 0.01. Epochs count from 0.

    Source: released train_FKD_LPQLD.py.
    """
    if epoch < warmup:
        return 0.01 + 0.99 * epoch / warmup
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


def make_optimizer(student: nn.Module, optimizer: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9.

    Weight decay acts on parameters with "weight" in their name and more than one dimension (released utils.py).
    """
    decayed = []
    free = []
    for name, weight in student.named_parameters():
        group = decayed if "weight" in name and weight.dim() > 1 else free
        group.append(weight)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0}]
    more = common.fused(next(student.parameters()).device)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=0.9, **more)
    return torch.optim.AdamW(groups, lr, **more)


def training_step(student, optimizer, images: Tensor, targets: Tensor, student_temperature: float, factor: float = 1.0):
    """One step on views [B, 3, S, S] and targets [B, C]. Returns (loss, the student's logits before the step).

    The loss is fp32, whatever --precision is.
    """
    with common.autocast(images.device):
        logits = student(images)
    logits = logits.float()
    loss = factor * alignment_loss(logits, targets, student_temperature)
    common.descend(optimizer, loss)
    return loss.detach(), logits.detach()


def train_student(data: Dataset, pool: LabelPool, training: Training, arch: str, seed: int, progress: Path) -> dict:
    """Train one student from the pool. Test it after the last epoch.

    `epoch` counts from 0. As released, DKR's e is epoch + 1, and the learning rate uses the epoch itself.
    """
    student = common.new_student(data, arch, seed)
    optimizer = make_optimizer(student, training.optimizer, training.lr, training.weight_decay)
    epochs = training.epochs
    in_pool = len(pool.values)
    log = {"tau": 1.0, "history": []}
    for epoch in common.student_epochs(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, training.lr * learning_rate_factor(epoch, epochs, training.warmup))

        # P: few label batches, used again and again
        numbers = draw_label_batches(in_pool, pool.per_epoch, epoch, epochs, pool.settings.prune, seed)
        # DKR: the temperature of the labels falls
        temperature = label_temperature(epoch + 1, epochs, training.reuse)
        # CA: the student has its own temperature
        tau = log["tau"] if training.calibrate else temperature
        # LPLD's loss on Tiny-ImageNet has the factor T^2. With CA we take tau^2. (LPQLD's loss there is NaN: AUDIT.md)
        factor = tau**2 if training.squared else 1.0
        # ImageNet-21K's "label smoothing" multiplies the logits by 1 - smoothing and adds a constant. The softmax
        # ignores the constant. The factor acts as a temperature.
        softened = temperature / (1 - training.smoothing)
        # Q: the softmax is over the k kept logits
        for images, targets in pool.batches(numbers, softened):
            log["loss"], logits = training_step(student, optimizer, images, targets, tau, factor)
        if training.calibrate:
            log["tau"] = calibrate_temperature(logits, targets)
        log["T"] = temperature
        log["history"].append((round(temperature, 4), round(tau, 4)))
    top1, top5 = common.accuracy(student, data.test, data.colours)
    history = {"teacher_and_student_temperatures": log["history"]}
    return {"seed": seed, "top1": top1, "top5": top5, **history, "seconds": log["seconds"]}


def students(data: Dataset, distilled: Distilled, pool: LabelPool, training: Training, arch: str) -> Students:
    """The settings, the folder and the training of these students; common.train_students trains them."""
    labels = pool.settings
    settings = {"stage": "lpqld", "labels": pool.info["digest"], "arch": arch, **asdict(labels), **asdict(training)}
    parts = f"p{labels.prune:g}-k{labels.top_k}-{training.reuse}" + "-ca" * training.calibrate
    full = len(distilled.images) * training.epochs * data.num_classes * 2
    size = pool.info["bytes"]
    sizes = {"label_bytes": size, "full_label_bytes": full, "times_smaller": full / size}
    train = partial(train_student, data, pool, training, arch)
    name = f"lpqld-{distilled.name}-{arch}-{parts}"
    return common.students_of(data, distilled, name, settings, train, labels=pool.info, **sizes)


# ---------------------------------------------------------------------------------------------------------------------
# The pool's file

FORMAT = "lpqld label pool 2"
LABELS_PER_PIECE = 2**11  # at most; a killed run loses one piece, and processes share the pieces


def pool_settings(labels: LabelSettings, data: Dataset, distilled: Distilled, teacher_digest, seed: int) -> dict:
    """What a pool is for and how it was made. The names are those that an error message shows."""
    return {
        "format": FORMAT,
        "data set": data.name,
        "classes (hash of their names, in order)": common.digest(data.class_names),
        "number of classes": data.num_classes,
        "side of the images": data.image_size,
        "normalisation": [list(values) for values in data.colours],
        "number of images": len(distilled.images),
        "images (hash)": distilled.info["digest"],
        "teacher (hash)": teacher_digest,
        "seed": seed,
        "crop": list(CROP_SCALE),
        **asdict(labels),
    }


def make_pool(data: Dataset, teacher: Teacher, distilled: Distilled, labels: LabelSettings, seed: int, path: Path):
    """Label every view of the pool, and write the file. The teacher sees the mixed view; labels are never mixed.

    You may call it with objects of your own. They need: data: name, class_names, num_classes, image_size, colours,
    device; distilled: images, info["digest"]; teacher: model (in eval mode), info["digest"].

    On CUDA the teacher runs in fp32 (its convolutions in TF32, torch's default), not in bf16, which has fewer digits
    than the fp16 that is stored. Pieces of the pool lie beside it until it is written.
    """
    count = len(distilled.images)
    size = labels.batch_size
    check_labels(labels, count, data)
    in_pool = pool_size(count, size, labels.epochs, labels.prune)
    views = pool_views(in_pool, labels, distilled, data.colours, seed)
    parts = common.cut(in_pool, max(1, LABELS_PER_PIECE // size))
    pieces = {}
    for part in parts:
        file = path.with_name(f"{path.stem}-{part[0]}-{part[-1]}.pt")
        pieces[file] = lambda _, part=part: label_piece(views, teacher.model, part.tolist(), data.num_classes)

    def join(contents):
        shape = (in_pool, size, labels.top_k)
        whole = {"values": torch.empty(shape, dtype=torch.float16)}
        if labels.top_k < data.num_classes:
            whole["classes"] = torch.empty(shape, dtype=index_type(data.num_classes))
        for part, piece in zip(parts, contents, strict=True):
            for name, tensor in whole.items():
                tensor[part] = piece[name]
        settings = pool_settings(labels, data, distilled, teacher.info["digest"], seed)
        content = {"settings": settings, "values": whole["values"]}
        if "classes" in whole:
            content["classes"] = pack_classes(whole["classes"], data.num_classes)
        return {**content, "digest": common.digest(content)}

    common.make_joined(path, pieces, join, "labels")


@torch.no_grad()
def label_piece(views: Views, teacher: nn.Module, numbers: list[int], num_classes: int) -> dict:
    """The labels of these label batches, on the CPU: values [n, B, k], and classes [n, B, k] unless all are kept."""
    size = views.settings.batch_size
    k = views.settings.top_k
    values = []
    classes = []
    for part in views.groups(numbers):
        index = common.send(torch.tensor(part), views.images.device)
        logits = teacher(views.of(index))
        if teacher.training or logits.shape[1:] != (num_classes,):
            found = f"it has {list(logits.shape[1:])}, training={teacher.training}"
            raise UserError(f"the teacher must be in eval mode and have {num_classes} outputs; {found}")
        if k == num_classes:
            values.append(logits.half())
        else:
            largest, indices = quantize_labels(logits, k)
            values.append(largest)
            classes.append(indices.to(index_type(num_classes)))
    piece = {"values": torch.cat(values).view(-1, size, k).cpu()}
    if classes:
        piece["classes"] = torch.cat(classes).view(-1, size, k).cpu()
    if not piece["values"].isfinite().all():
        raise UserError("the teacher's logits are not finite (in fp16)")
    return piece


def load_pool(path: Path, data: Dataset, distilled: Distilled, teacher: Teacher | None = None) -> LabelPool:
    """Read a pool and draw its views again. It must belong to these images and, if one is given, to this teacher.

    UserError that says what differs, or that the file is damaged.
    """
    kept = common.load_tensors(path, "label pool")
    settings = kept.get("settings") if isinstance(kept, dict) else None
    if not isinstance(settings, dict) or "lpqld label pool" not in str(settings.get("format")):
        raise UserError(f"label pool {path} is a torch file of something else")
    if settings["format"] != FORMAT:
        raise UserError(f"label pool {path} has the older format '{settings['format']}', which is not read any more")
    # older pools have "kept_as"
    content = {name: value for name, value in kept.items() if name not in ("digest", "kept as", "kept_as")}
    with common.refused(f"label pool {path} has been altered"):  # tensors of odd kinds have no checksum
        if kept.get("digest") != common.digest(content):
            raise UserError(f"label pool {path} has been altered: its content does not match its checksum")
    with common.refused(f"label pool {path} does not hold what its settings say"):
        labels = LabelSettings(**{name: settings[name] for name in LabelSettings.__dataclass_fields__})
        numbers = (labels.epochs, labels.batch_size, labels.top_k, settings["seed"])
        if not all(type(number) is int for number in numbers) or type(labels.flip) is not bool:
            raise ValueError("a number or flip in its settings")
        if labels.mix not in MIXES or not 0 <= labels.prune < 1:
            raise ValueError("p or mix in its settings")
        teacher_digest = teacher.info["digest"] if teacher else settings["teacher (hash)"]
        ours = pool_settings(labels, data, distilled, teacher_digest, settings["seed"])
        for name, value in ours.items():
            if settings[name] != value:
                raise UserError(f"label pool {path} does not fit: {name} is {settings[name]} in the pool, {value} here")
        check_labels(labels, len(distilled.images), data)
        values = kept["values"].to(data.device)
        classes = None
        if labels.top_k < data.num_classes:
            classes = unpack_classes(kept["classes"], values.shape, data.num_classes).to(data.device)
        in_pool = pool_size(len(distilled.images), labels.batch_size, labels.epochs, labels.prune)
        if values.shape != (in_pool, labels.batch_size, labels.top_k) or values.dtype != torch.float16:
            raise ValueError("the shape of its logits")
        if not values.isfinite().all() or (classes is not None and classes.max() >= data.num_classes):
            raise ValueError("a logit or a class")
        common.random_stream(settings["seed"])  # raises what numpy says of a wrong seed
    views = pool_views(in_pool, labels, distilled, data.colours, settings["seed"])
    info = {"file": str(path), "bytes": path.stat().st_size, "digest": kept["digest"], "settings": settings}
    return LabelPool(labels, views, values, classes, data.num_classes, info)


def label_pool(data: Dataset, teacher: Teacher, distilled: Distilled, labels: LabelSettings, seed: int) -> LabelPool:
    """The pool of these images, this teacher and these settings: made once, then read."""
    settings = pool_settings(labels, data, distilled, teacher.info["digest"], seed)
    folder = common.stage_folder(data, f"labels-{distilled.name}-p{labels.prune:g}-k{labels.top_k}", settings)
    path = folder / "labels.pt"
    if not common.is_made(path, "labels"):
        make_pool(data, teacher, distilled, labels, seed, path)
    pool = load_pool(path, data, distilled, teacher)
    if pool.info["settings"] != settings:
        raise UserError(f"{path} was made with other settings: delete it, and it is made again")
    return pool


def index_type(num_classes: int):
    return torch.int16 if num_classes <= 2**15 else torch.int32


def class_bits(num_classes: int) -> int:
    return (num_classes - 1).bit_length()  # ceil(log2 C)


def pack_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices in ceil(log2 C) bits each, as bit planes, the lowest first: uint8 [bits, ceil(number / 8)]."""
    flat = classes.flatten().numpy()
    planes = [np.packbits((flat >> bit & 1).astype(bool)) for bit in range(class_bits(num_classes))]
    return torch.from_numpy(np.stack(planes))


def unpack_classes(planes: Tensor, shape, num_classes: int) -> Tensor:
    """The inverse of pack_classes: class indices of this shape. ValueError if the planes have another size."""
    if planes.shape != (class_bits(num_classes), -(-math.prod(shape) // 8)):
        raise ValueError("the size of its classes")
    classes = torch.zeros(math.prod(shape), dtype=index_type(num_classes))
    for bit, plane in enumerate(planes.numpy()):
        classes += torch.from_numpy(np.unpackbits(plane, count=len(classes))).to(classes.dtype) << bit
    return classes.view(shape)


# ---------------------------------------------------------------------------------------------------------------------
# The ablation

ABLATION = {  # name of the row: (changes to the labels, changes to the training); top_k None: all logits
    "full labels": ({"prune": 0.0, "top_k": None}, {"reuse": "none", "calibrate": False}),
    "P": ({"top_k": None}, {"reuse": "none", "calibrate": False}),
    "P + Q": ({}, {"reuse": "none", "calibrate": False}),
    "P + Q + DKR": ({}, {"calibrate": False}),
    "P + Q + DKR + CA": ({}, {}),
    "P + DKR + CA": ({"top_k": None}, {}),
    "full + DKR + CA": ({"prune": 0.0, "top_k": None}, {}),  # ours: how much do DKR and CA gain alone?
}


def ablation(
    data: Dataset,
    teacher: Teacher,
    distilled: Distilled,
    labels: LabelSettings,
    training: Training,
    arch: str,
    seeds,
) -> dict:
    """Switch on P, Q, DKR and CA one by one. Then all without Q, and all without Q and P."""
    pools = {}
    rows = {}
    for name, (label_changes, training_changes) in ABLATION.items():
        changed = replace(labels, **label_changes)
        changed.top_k = changed.top_k or data.num_classes
        key = (changed.prune, changed.top_k)
        pools[key] = pools.get(key) or label_pool(data, teacher, distilled, changed, seeds[0])
        rows[name] = students(data, distilled, pools[key], replace(training, **training_changes), arch)
    if common.world > 1:  # the processes share the students of all rows
        common.make_all({path: make for row in rows.values() for path, make in row.jobs(seeds).items()})

    about = f"{training.epochs} epochs; p {labels.prune}, MR-{labels.top_k}"
    print(f"student:  {common.student_line(data, arch, training.lr)}, {training.optimizer}, {about}")
    each = f"{common.number_of_students(len(seeds))} each"
    print(f"\n{'labels':16}{'bytes':>12}{'smaller':>9}   top-1, %       top-5, %       ({each})")
    shown = {}
    for name, row in rows.items():
        result = common.train_students(row, seeds)
        shown[name] = {key: value for key, value in result.items() if key not in ("images", "students", "reused")}
        size = f"{result['label_bytes']:>12,}{result['times_smaller']:8.1f}x"
        print(f"{name:16}{size}   {common.spread(result['top1']):15}{common.spread(result['top5'])}", flush=True)

    settings = {
        "stage": "ablation",
        "images": distilled.info["digest"],
        "teacher": teacher.info["digest"],
        "arch": arch,
        "width": data.width,
        "labels": asdict(labels),
        "training": asdict(training),
        "seeds": list(seeds),
    }
    file = common.stage_folder(data, f"ablation-{distilled.name}-{arch}", settings) / "ablation.json"
    result = {"rows": shown, "settings": settings, "teacher": teacher.info, "images": distilled.info}
    result["made_with"] = common.made_with(data.device)
    if common.rank == 0:
        common.save(file, result)
    print(f"\nteacher:  {teacher.info['accuracy']:.1f}; chance: {100 / data.num_classes:.1f}")
    print(f"result:   {file}")
    return {**result, "file": str(file)}


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.Parser(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    add("--images", default="lpld", help=f"{synthesize.IMAGES_HELP} (default: lpld)")
    add("--labels", type=common.path_of, help="train from this stored label pool, without a teacher")
    add("--prune", type=common.at_least(0, float, 0.9999), help="p, share of the label batches to leave out (default: "
        "0.9; imagenet-21k 0.95)")  # fmt: skip
    add("--top-k", type=positive, help="logits kept of each label (default: imagenet-1k 50, imagenet-21k 200, "
        "tinyimagenet 20, else C / 20 and at least 3; C means no quantization)")  # fmt: skip
    add("--batch-size", type=positive, help="images per label batch (default: imagenet-1k 128, imagenet-21k 32, "
        "tinyimagenet 64, else a fifth of the images, 10 to 128)")  # fmt: skip
    add("--epochs", type=positive, help="epochs of the student (default: 300; tinyimagenet 100; with --labels "
        "those of the pool)")  # fmt: skip
    add("--mix", choices=MIXES, help="how views are mixed (default: cutmix; imagenet-21k cutout, tinyimagenet none)")
    add("--protocol", choices=PROTOCOLS, help="take the settings of this data set (default: those of --dataset; "
        "if it has none, imagenet-1k's, but --top-k and --batch-size as above)")  # fmt: skip
    add("--reuse", choices=("step", "cosine", "none"), help="DKR: how the labels' temperature falls (default: step)")
    add("--no-calibration", action="store_true", help="switch off CA: the student's temperature is the labels'")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: 1e-3; imagenet-21k 2e-3, "
        "tinyimagenet 0.2 with SGD)")  # fmt: skip
    add("--repeats", type=positive, help="students, with seeds --seed, --seed + 1 ... (default: 1; ablation 3)")
    add("--ablation", action="store_true", help="a table: full labels; P; P + Q; ... one after the other")
    common.add_common_options(parser)
    args = parser.parse_args(argv)
    for name in ("prune", "top_k", "batch_size", "mix", "ablation", "teacher_epochs"):
        value = getattr(args, name)
        if args.labels and value is not None and value is not False:
            raise UserError(f"--{name.replace('_', '-')} is about making labels: not with --labels {args.labels}")
    if args.labels and args.images in synthesize.METHODS:
        raise UserError(f"--labels {args.labels}: say which images it is for, --images FOLDER")
    if args.ablation and (args.no_calibration or args.reuse == "none"):
        raise UserError("--ablation switches DKR and CA itself: it goes with neither --reuse none nor --no-calibration")
    return args


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args, args.images)
    distilled = synthesize.find_images(args.images, data, args.ipc, teacher_arch)  # None: they are made below
    count = len(distilled.images) if distilled else (args.ipc or common.DEFAULT_IPC) * data.num_classes
    labels = labels_for(
        data, count, args.protocol,
        epochs=args.epochs, batch_size=args.batch_size, prune=args.prune, top_k=args.top_k, mix=args.mix,
    )  # fmt: skip
    if not args.labels:
        check_labels(labels, count, data)
    if args.ablation:  # the largest of its pools
        check_labels(replace(labels, prune=0.0, top_k=data.num_classes), count, data)
    teacher = None
    if args.teacher or not args.labels:
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = synthesize.given_or_made(distilled, args.images, data, teacher, args.ipc, args.seed)
    if teacher:
        similarity = synthesize.similarity_of(teacher, distilled, data.colours)
        distilled.info["within_class_similarity"] = similarity
        if similarity is not None:
            print(f"          cosine similarity of the teacher's features within a class: {similarity:.3f}")

    pool = load_pool(args.labels, data, distilled, teacher) if args.labels else None
    labels = pool.settings if pool else labels
    how = {"reuse": args.reuse, "calibrate": not args.no_calibration, "lr": args.lr}
    training = training_for(data, args.protocol, epochs=args.epochs or labels.epochs, **how)
    seeds = range(args.seed, args.seed + (args.repeats or (3 if args.ablation else 1)))
    if args.ablation:
        return ablation(data, teacher, distilled, labels, training, arch, seeds)

    pool = pool or label_pool(data, teacher, distilled, labels, args.seed)
    logits = f"{labels.top_k} of {data.num_classes} logits each"
    batches = f"{len(pool.values)} label batches of {labels.batch_size}"
    print(f"labels:   {batches}, {logits}: {pool.info['bytes']:,} bytes in {pool.info['file']}")
    print(f"student:  {common.student_line(data, arch, training.lr)}")
    ca = "on" if training.calibrate else "off"
    per_epoch = f"{pool.per_epoch} x {labels.batch_size} images"
    print(f"          DKR {training.reuse}, CA {ca}, {training.optimizer}, {training.epochs} epochs of {per_epoch}")
    result = common.train_students(students(data, distilled, pool, training, arch), seeds)
    others = f"--prune 0 --top-k {data.num_classes} (full labels)" + ", --images random" * (args.images != "random")
    if args.labels:
        others = "other images with --labels of their own"
    common.print_result(result, data, teacher, others)
    print(f"\n{'label storage':38}{result['label_bytes']:>12,} bytes")
    print(f"{'fp16 labels for every epoch':38}{result['full_label_bytes']:>12,} bytes: {result['times_smaller']:.1f} x")
    return result


if __name__ == "__main__":
    common.run_script(main)
