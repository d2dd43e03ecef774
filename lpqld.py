"""LPQLD: Soft Label Pruning and Quantization for Large-Scale Dataset Distillation (arXiv 2604.18135, IEEE TPAMI 2026).

    python lpqld.py                                                    # embedded data set, CPU, a few minutes
    python lpqld.py --dataset tinyimagenet --ipc 50 --arch resnet18_modified --prune 0.9 --top-k 20
    python lpqld.py --ablation                                         # P, Q, DKR, CA switched on one after the other
    python lpqld.py --images path/to/set --labels path/to/labels.pt    # from a stored pool, without a teacher

The teacher's logits for every augmented view outweigh the images many times over. LPQLD keeps the labels of few views
(P, pruning), of each label the k largest logits (Q, quantization), softens them anew in each epoch (DKR, dynamic
knowledge reuse) and gives the student's softmax a temperature of its own (CA, calibrated alignment). Its images are
those of `synthesize.py --method lpld`. "Released code" is he-y/soft-label-pruning-quantization-for-dataset-distillation
on GitHub.
"""

import itertools
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
import synthesize
from common import Dataset, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# P: pruning. A label batch is the labels of one batch of views; the pool keeps few of them, and they are used again


def pool_size(count: int, batch_size: int, epochs: int, prune: float) -> int:
    """Label batches in the pool: round(E * floor(N / B) * (1 - p)), N images in batches of B over E epochs.

    The last partial batch of a pass over the images is dropped, with p = 0 too (ours; released: with p > 0). The
    released script does not make exactly that many: AUDIT.md.
    """
    return round(epochs * (count // batch_size) * (1 - prune))


def draw_label_batches(in_pool: int, per_epoch: int, epoch: int, epochs: int, prune: float, seed: int) -> list[int]:
    """Numbers of an epoch's label batches, epochs from 0: per_epoch of the pool, at random, without replacement.

    A pool that holds labels for each epoch (p = 0) is gone through in order (ours), each label batch once.
    """
    if prune == 0 and in_pool >= per_epoch * epochs:
        return list(range(per_epoch * epoch, per_epoch * (epoch + 1)))
    return common.shuffled(in_pool, seed, common.ORDER, epoch)[:per_epoch].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Q: quantization, by marginal re-normalization (MR-k)


def quantize_labels(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """MR-k: the k largest logits of each row and their classes, largest first: (float16 [B, k], int64 [B, k]).

    logits [B, C], or [..., C], are the teacher's before the softmax. RuntimeError if k > C.
    Source: released generate_soft_label_pruning_batch.py.
    """
    values, classes = logits.topk(k, dim=-1)
    return values.half(), classes


def soft_targets(values: Tensor, classes: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Targets float32 [B, C]: the softmax of values / temperature over the k kept classes, exactly 0 elsewhere.

    values, classes [B, k] as quantize_labels gives them. Source: released train_FKD_LPQLD.py, "MR".
    """
    kept = F.softmax(values.float() / temperature, dim=-1)
    targets = torch.zeros(*values.shape[:-1], num_classes, device=values.device)
    return targets.scatter_(-1, classes.long(), kept)


# ---------------------------------------------------------------------------------------------------------------------
# DKR: dynamic knowledge reuse. The kept logits are softened anew in each epoch


INITIAL = 20.0  # T_0, released scripts


def reuse_temperature(epoch, initial: float = INITIAL, gamma: float = 0.7, step=30, minimum: float = 2.0) -> float:
    """DKR, step schedule: T(e) = max(T_0 * gamma^floor(e / s), T_min), epochs e from 1.

    Over 300 epochs: 20 for epochs 1 to 29, 14 for 30 to 59, ..., 2 from 210 on; for E epochs take step = E // 10.
    Source: released train_FKD_LPQLD.py; T_0, gamma and s from its scripts.
    """
    return max(initial * gamma ** (epoch // step), minimum)


def cosine_reuse_temperature(epoch, epochs, initial: float = INITIAL, minimum: float = 2.0) -> float:
    """DKR, cosine schedule: T(e) = T_min + (T_0 - T_min) / 2 * (1 + cos(pi * e / E)), epochs e from 1.

    No released script uses this schedule: T_min = 2 is what they would pass, its option has 1.
    """
    return minimum + (initial - minimum) / 2 * (1 + math.cos(math.pi * epoch / epochs))


def label_temperature(epoch: int, epochs: int, reuse: str) -> float:
    """T(e), epochs from 1; T_0 without DKR. The step is E / 10: 30 of 300 as released, for other E ours."""
    if reuse == "cosine":
        return cosine_reuse_temperature(epoch, epochs)
    if reuse == "step":
        return reuse_temperature(epoch, step=max(1, epochs // 10))
    return INITIAL


# ---------------------------------------------------------------------------------------------------------------------
# CA: calibrated student-teacher alignment. The student's softmax has a temperature of its own


def alignment_loss(student_logits: Tensor, targets: Tensor, student_temperature: float) -> Tensor:
    """KL(targets || softmax(z_S / tau)), mean over the batch, [B, C] each; without a factor T^2.

    Source: released train_FKD_LPQLD.py, as for ImageNet-1K and -21K.
    """
    return F.kl_div(F.log_softmax(student_logits / student_temperature, dim=1), targets, reduction="batchmean")


def calibrate_temperature(student_logits: Tensor, targets: Tensor) -> float:
    """CA: the student's temperature, argmin over tau in 0.01, 0.02, ..., 1.00 of KL(targets || softmax(z_S / tau)).

    student_logits, targets [B, C], rows of targets sum to 1; the smallest tau on ties. Released: of an epoch's last
    batch, the logits as computed in its training step; it serves the next epoch, and in the first tau is 1.
    Source: released train_FKD_LPQLD.py, where the option is documented as a ratio to the teacher's temperature and used
    as the temperature, as here.
    """
    # The cross-entropy: it differs from the KL divergence by the targets' entropy, which does not depend on tau.
    tau = torch.arange(1, 101, device=student_logits.device, dtype=torch.float32) / 100
    scaled = student_logits.float()[None] / tau[:, None, None]  # [100, B, C]
    cross_entropy = (scaled.logsumexp(2) - (scaled * targets).sum(2)).mean(1)
    return tau[cross_entropy.argmin()].item()


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass
class Protocol:
    """How labels are made and a student is trained. The values are those of ImageNet-1K: batch, epochs and views from
    LPQLD_in1k's yaml, p, k, DKR and CA from lpqld_in1k.sh, rate and decay from train_FKD_LPQLD.py's defaults."""

    # labels
    epochs: int = 300  # of the student; the pruning counts from them
    batch_size: int | None = 128
    prune: float = 0.9  # p, the share of the label batches that is not kept
    top_k: int | None = 50  # "x80" in the paper's table; MR-100 is "x40" and MR-10 "x200"
    mix: str = "cutmix"  # or cutout, none
    flip: bool = True
    # training
    reuse: str = "step"  # DKR: step, cosine, none
    calibrate: bool = True  # CA
    smoothing: float = 0.0  # acts as a temperature of T / (1 - smoothing), see train_student
    squared: bool = False  # the loss times the square of the student's temperature, see train_student
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01  # on weights of more than one dimension only
    warmup: int = 0  # epochs, linear from 0.01 of the rate


LABEL_SETTINGS = ("epochs", "batch_size", "prune", "top_k", "mix", "flip")  # what a pool of labels rests on
PROTOCOLS = {
    "imagenet-1k": Protocol(),
    # Released LPQLD_in21k yaml and script: p 0.95 and MR-200, the "x400" of its README.
    "imagenet-21k": Protocol(
        batch_size=32, prune=0.95, top_k=200, mix="cutout", flip=False, smoothing=0.2, lr=2e-3
    ),
    # LPLD's own, LPLD_tiny_[4k].yaml. It was made for P alone: p, k, DKR and CA are ours here. LPLD's "x40" is
    # --arch resnet18_modified --colours tiny --prune 0.975 --top-k 200 --reuse none --no-calibration. With Q but
    # without CA the factor T^2 = 400 is too much for the sharper targets: --protocol imagenet-1k serves better. There
    # each epoch draws its label batches with replacement, here without.
    "tinyimagenet": Protocol(
        epochs=100, batch_size=64, top_k=20, mix="none", squared=True,
        optimizer="sgd", lr=0.2, weight_decay=1e-4, warmup=5,
    ),
}  # fmt: skip
CROP_SCALE = (0.08, 1.0)  # area of the random resized crop (released yaml); its ratio is 3/4 to 4/3
MIXES = ("cutmix", "cutout", "none")


def protocol_for(data: Dataset, count: int, like=None, **given) -> Protocol:
    """The protocol of a data set (or `like` another), with what is given in its place; `count` images.

    Sets without a released one take ImageNet-1K's, with k = C / 20 (at least 3) as there, and batches of a fifth of the
    images, from 10 to 128 (ours).
    """
    protocol = PROTOCOLS.get(like or data.name) or Protocol(top_k=None, batch_size=None)
    given = {name: value for name, value in given.items() if value is not None}
    protocol = replace(protocol, **given)
    if "batch_size" not in given:
        protocol.batch_size = min(protocol.batch_size or max(10, min(128, count // 5)), count)
    fits = protocol.top_k and protocol.top_k < data.num_classes
    if "top_k" not in given and not fits:  # none is released, or it is not below C
        protocol.top_k = min(max(3, data.num_classes // 20), data.num_classes)
    return protocol


def check_protocol(protocol: Protocol, count: int, data: Dataset):
    """Whether such a pool can be had and trained from; before a teacher is trained for it."""
    size = protocol.batch_size
    if protocol.top_k > data.num_classes:
        raise UserError(f"--top-k {protocol.top_k}: {data.name} has {data.num_classes} classes")
    if not 2 <= size <= count:
        raise UserError(f"--batch-size {size}: from 2 (BatchNorm) to the {count} images there are")
    in_pool = pool_size(count, size, protocol.epochs, protocol.prune)
    if in_pool < count // size:
        left = f"leaves {in_pool} label batches of {size}, and one epoch takes {count // size}"
        raise UserError(f"--prune {protocol.prune} of {protocol.epochs} epochs {left}")


# ---------------------------------------------------------------------------------------------------------------------
# Views: a label batch is a number; image order, crops, flips and mixing are redrawn from (seed, number)


def view_draws(batch_size: int, side: int, mix: str, flip: bool, *seed: int, scale=CROP_SCALE) -> Tensor:
    """One label batch's views as whole numbers: int16 [B, 12], in these columns:

    crop (top, left, height, width): area 0.08 to 1, ratio 3/4 to 4/3; flip (0 or 1);
    hole (top, left, bottom, right). CutMix: lambda ~ Beta(1, 1), one hole for the batch, of side
    2 * (int(S * sqrt(1 - lambda)) // 2), its centre uniform, clipped. Cutout: half the side, one for each image;
    what fills the hole (3): the number of another image of the batch (CutMix), or a colour (cutout).
    Source: released utils_fkd.py. It stores the boxes, crops rounded to float16: its views cannot be redrawn exactly.
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


def label_view(images: Tensor, draws: Tensor, mix: str, colours) -> Tensor:
    """Views [n * B, 3, S, S], normalised, of images [n * B, 3, S, S] (uint8, or floats in [0, 1]), of n label batches.

    draws [n, B, 12] as of view_draws. Crops interpolate the normalised floats; released: bytes.
    """
    batches, size = draws.shape[:2]
    side = images.shape[-1]
    draws = draws.flatten(0, 1).float()
    x = common.normalize(images, colours, torch.contiguous_format)  # as the crop's products want them
    x = common.resized_crop(x, draws[:, :4], side, flip=draws[:, 4] > 0)
    if mix != "none":
        pixel = torch.arange(side, device=x.device)
        inside = (pixel >= draws[:, 5:7, None]) & (pixel < draws[:, 7:9, None])  # [N, 2, S]
        inside = inside[:, 0, :, None] & inside[:, 1, None, :]
        if mix == "cutmix":
            first = torch.arange(batches, device=x.device).repeat_interleave(size) * size
            fill = x[first + draws[:, 9].long()]
        else:
            fill = common.normalize(draws[:, 9:, None, None] / 255, colours)
        x = torch.where(inside[:, None], fill, x)
    return x.contiguous(memory_format=torch.channels_last)


def draw_views(in_pool: int, count: int, protocol: Protocol, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """The image of every label of a pool, int32 [n, B], and its view, int16 [n, B, 12], from the pool's seed."""
    size = protocol.batch_size
    per_pass = count // size
    passes = []
    for number in range(-(-in_pool // per_pass)):  # each pass over the images in an order of its own
        order = common.shuffled(count, seed, common.LABELS, common.ORDER, number)
        passes.append(order[: per_pass * size].view(per_pass, size))
    order = torch.cat(passes)[:in_pool].int()
    draws = torch.empty(in_pool, size, 12, dtype=torch.int16)
    for number in common.progress_bar(range(in_pool), "drawing views", in_pool):
        stream = (seed, common.LABELS, common.VIEW, number)
        draws[number] = view_draws(size, side, protocol.mix, protocol.flip, *stream)
    return order, draws


# ---------------------------------------------------------------------------------------------------------------------
# The label pool: what a student is trained from


@contextmanager
def written_once():
    """For a scatter that writes each place once: that is deterministic as it is; torch's deterministic version stops
    a GPU (index_put sorts the indices and reads their maximum back)."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


class LabelPool(NamedTuple):
    made: Protocol  # how its labels were made: LABEL_SETTINGS of it
    values: Tensor | None  # float16 [n, B, k], on the device; None while they are being made
    classes: Tensor | None  # integers [n, B, k]; None where all logits are kept, in the order of the classes
    order: Tensor  # int32 [n, B]: the image of each label
    draws: Tensor  # int16 [n, B, 12]: its view
    data: Dataset
    images: Tensor  # of the distilled set
    info: dict  # file, bytes, digest, settings

    @property
    def per_epoch(self) -> int:
        return len(self.images) // self.made.batch_size

    def together(self, numbers) -> list[list[int]]:
        return common.steps_together(numbers, self.made.batch_size, self.images.shape[-1], self.images.device)

    def view(self, numbers) -> Tensor:
        """The views of label batches, one batch after the other, [len(numbers) * B, 3, S, S]."""
        images = self.images[self.order[numbers].flatten()]
        return label_view(images, self.draws[numbers], self.made.mix, self.data.colours)

    def targets(self, numbers, temperature: float) -> Tensor:
        """Their labels as probabilities, [len(numbers) * B, C]."""
        values = self.values[numbers].flatten(0, 1)
        if self.classes is None:  # k = C
            return F.softmax(values.float() / temperature, dim=1)
        classes = self.classes[numbers].flatten(0, 1)
        with written_once():
            return soft_targets(values, classes, self.data.num_classes, temperature)

    def batches(self, numbers: list[int], temperature: float):
        """(views, targets) of each label batch."""
        size = self.made.batch_size
        for some in self.together(numbers):
            index = common.send(torch.tensor(some), self.images.device)
            views = self.view(index)
            targets = self.targets(index, temperature)
            yield from zip(views.split(size), targets.split(size), strict=True)

    def sketch(self) -> Tensor:
        """Fingerprint of a redrawn view: the last label batch, two images of it, averaged over 4 x 4 fields."""
        return F.adaptive_avg_pool2d(self.view([len(self.order) - 1])[:2], 4).cpu()


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learning_rate_factor(epoch: int, epochs: int, warmup: int = 0) -> float:
    """Half a cosine, stepped after each epoch, epochs from 0; before it `warmup` epochs, linear from 0.01 of the rate.

    Source: released train_FKD_LPQLD.py.
    """
    if epoch < warmup:
        return 0.01 + 0.99 * epoch / warmup
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


def make_optimizer(student: nn.Module, optimizer: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9; weight decay on weights with more than one dimension (released utils.py)."""
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
    """One step on views [B, 3, S, S] and targets [B, C] of a label batch: (loss, student's logits before the step).

    The loss is fp32, whatever --precision is.
    """
    with common.autocast(images.device):
        logits = student(images)
    logits = logits.float()
    loss = factor * alignment_loss(logits, targets, student_temperature)
    common.descend(optimizer, loss)
    return loss.detach(), logits.detach()


def train_student(data: Dataset, pool: LabelPool, protocol: Protocol, arch: str, seed: int, progress: Path) -> dict:
    """Train one student from the pool alone, and score it after the last epoch: top1, top5, temperatures, seconds.

    Epochs count from 0. DKR's e is epoch + 1, while the learning rate goes by the epoch itself, both as released.
    """
    student = common.new_student(data, arch, seed)
    optimizer = make_optimizer(student, protocol.optimizer, protocol.lr, protocol.weight_decay)
    epochs = protocol.epochs
    in_pool = len(pool.values)
    log = {"tau": 1.0, "history": []}
    for epoch in common.epochs_of(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, protocol.lr * learning_rate_factor(epoch, epochs, protocol.warmup))

        # P: few label batches, again and again
        numbers = draw_label_batches(in_pool, pool.per_epoch, epoch, epochs, pool.made.prune, seed)
        # DKR: the labels' temperature falls
        temperature = label_temperature(epoch + 1, epochs, protocol.reuse)
        # CA: the student has a temperature of its own
        tau = log["tau"] if protocol.calibrate else temperature
        # LPLD's loss on Tiny-ImageNet is times T^2. With CA that is tau^2 here (ours; released: T(e)^2, on a loss that
        # is NaN)
        factor = tau**2 if protocol.squared else 1.0
        # ImageNet-21K's "label smoothing" mixes a constant into the logits: a shift, which softmax ignores, and a
        # factor 1 - smoothing, which is a temperature
        softened = temperature / (1 - protocol.smoothing)
        # Q: the softmax over the k kept logits
        for images, targets in pool.batches(numbers, softened):
            log["loss"], logits = training_step(student, optimizer, images, targets, tau, factor)
        if protocol.calibrate:
            log["tau"] = calibrate_temperature(logits, targets)
        log["T"] = temperature
        log["history"].append((round(temperature, 4), round(tau, 4)))
    top1, top5 = common.accuracy(student, data.test, data.colours)
    history = {"teacher_and_student_temperatures": log["history"]}
    return {"seed": seed, "top1": top1, "top5": top5, **history, "seconds": log["seconds"]}


def train_students(data: Dataset, distilled: Distilled, pool: LabelPool, protocol: Protocol, arch: str, seeds) -> dict:
    """Students from this pool, one for each seed: their results, kept in a folder of their own; their labels' bytes."""
    made = pool.made
    settings = {"stage": "lpqld", "labels": pool.info["digest"], "arch": arch, **asdict(protocol)}
    ways = f"p{made.prune:g}-k{made.top_k}-{protocol.reuse}" + "-ca" * protocol.calibrate
    full = len(distilled.images) * made.epochs * data.num_classes * 2
    sizes = {
        "label_bytes": pool.info["bytes"],
        "full_label_bytes": full,
        "times_smaller": full / pool.info["bytes"],
    }

    def train(seed, progress):
        return train_student(data, pool, protocol, arch, seed, progress)

    name = f"lpqld-{distilled.name}-{arch}-{ways}"
    return common.run_students(data, distilled, name, settings, seeds, train, **sizes, labels=pool.info)


# ---------------------------------------------------------------------------------------------------------------------
# The pool's file

FORMAT = "lpqld label pool 2"
LABELS_PER_PIECE = 2**11  # at most: what a killed run may lose, and what processes share


def pool_settings(protocol: Protocol, data: Dataset, distilled: Distilled, teacher_digest, seed: int) -> dict:
    """What a pool belongs to and how it was made, in the words of a refusal."""
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
        **{name: getattr(protocol, name) for name in LABEL_SETTINGS},
    }


def make_pool(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, seed: int, path: Path):
    """Label every view of the pool, and write it. The teacher sees the mixed view; labels are never mixed.

    Of data it takes name, class_names, num_classes, image_size, colours and device; of distilled images and
    info["digest"]; of teacher the model, in eval mode, and info["digest"]: any objects that have these will do.

    On CUDA the teacher runs in fp32 (its convolutions in TF32, torch's default), not in bf16, which has fewer digits
    than the fp16 that is stored. Finished pieces of the pool are kept beside it until it is written.
    """
    count = len(distilled.images)
    size = protocol.batch_size
    side = distilled.images.shape[-1]
    check_protocol(protocol, count, data)
    in_pool = pool_size(count, size, protocol.epochs, protocol.prune)
    drawn = draw_views(in_pool, count, protocol, side, seed)
    order, draws = (x.to(data.device) for x in drawn)
    views = LabelPool(protocol, None, None, order, draws, data, distilled.images, {})  # no labels yet

    pieces = common.cut(in_pool, max(1, LABELS_PER_PIECE // size))
    files = [path.with_name(f"{path.stem}-{piece[0]}-{piece[-1]}.pt") for piece in pieces]

    def make(number, progress):
        return label_piece(views, teacher.model, pieces[number].tolist())

    common.make_pieces(files, make, "labels")
    if common.rank:
        return
    made = [common.load_kept(file) for file in files]
    values = torch.cat([piece["values"] for piece in made])
    settings = pool_settings(protocol, data, distilled, teacher.info["digest"], seed)
    content = {"settings": settings, "values": values, "sketch": views.sketch()}
    if protocol.top_k < data.num_classes:
        classes = torch.cat([piece["classes"] for piece in made])
        content["classes"] = pack_classes(classes, data.num_classes)
    common.save_kept(path, content)
    for file in files:
        file.unlink()


@torch.no_grad()
def label_piece(views: LabelPool, teacher: nn.Module, numbers: list[int]) -> dict:
    """The labels of some label batches: values [n, B, k], and, unless all are kept, classes [n, B, k]; on the CPU."""
    size = views.made.batch_size
    k = views.made.top_k
    num_classes = views.data.num_classes
    values = []
    classes = []
    for some in views.together(numbers):
        logits = teacher(views.view(some))
        if teacher.training or logits.shape[1:] != (num_classes,):
            raise UserError(f"a teacher in eval mode, with {num_classes} classes, makes labels: not {logits.shape[1:]}")
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
    """Read a pool, redraw its views, and make sure that it belongs to these images and, if one is given, this teacher.

    UserError that says what differs, or that the file is not whole.
    """
    kept = common.load_tensors(path, "label pool")
    settings = kept.get("settings") if isinstance(kept, dict) else None
    if not isinstance(settings, dict) or "lpqld label pool" not in str(settings.get("format")):
        raise UserError(f"label pool {path} is a torch file of something else")
    if settings["format"] != FORMAT:
        raise UserError(
            f"label pool {path} has the older format '{settings['format']}', not read any more: make it anew"
        )
    if not common.is_whole(kept):
        raise UserError(f"label pool {path} has been altered: its content does not match its checksum")
    made = Protocol(**{name: settings[name] for name in LABEL_SETTINGS})
    teacher_digest = teacher.info["digest"] if teacher else settings["teacher (hash)"]
    ours = pool_settings(made, data, distilled, teacher_digest, settings["seed"])
    for name, value in ours.items():
        if settings[name] != value:
            raise UserError(f"label pool {path} is not for these: {name}: {settings[name]}, here {value}")
    values = kept["values"].to(data.device)
    classes = None
    if made.top_k < data.num_classes:
        classes = unpack_classes(kept["classes"], kept["values"].shape, data.num_classes).to(data.device)
    drawn = draw_views(len(values), len(distilled.images), made, distilled.images.shape[-1], settings["seed"])
    order, draws = (x.to(data.device) for x in drawn)
    info = {"file": str(path), "bytes": path.stat().st_size, "digest": kept["digest"], "settings": settings}
    pool = LabelPool(made, values, classes, order, draws, data, distilled.images, info)
    if not torch.allclose(pool.sketch(), kept["sketch"], atol=1e-2):
        raise UserError(f"label pool {path}: its views, redrawn here, are not those that were labelled")
    return pool


def protocol_of_pool(protocol: Protocol, pool: LabelPool, epochs) -> Protocol:
    """For a student of a stored pool: the protocol, with the pool's settings for its labels."""
    labels = {name: getattr(pool.made, name) for name in LABEL_SETTINGS}
    labels["epochs"] = epochs or pool.made.epochs
    return replace(protocol, **labels)


def label_pool(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, seed: int) -> LabelPool:
    """The pool of these images, teacher and settings: made once, then read."""
    settings = pool_settings(protocol, data, distilled, teacher.info["digest"], seed)

    def make(folder):
        make_pool(data, teacher, distilled, protocol, seed, folder / "labels.pt")

    name = f"labels-{distilled.name}-p{protocol.prune:g}-k{protocol.top_k}"
    folder, _ = common.stage(data, name, settings, make, "labels.pt")
    return load_pool(folder / "labels.pt", data, distilled, teacher)


def index_type(num_classes: int):
    return torch.int16 if num_classes <= 2**15 else torch.int32


def class_bits(num_classes: int) -> int:
    return (num_classes - 1).bit_length()  # ceil(log2 C)


def pack_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices in ceil(log2 C) bits each, as bit planes, lowest first: uint8 [bits, ceil(number / 8)]."""
    flat = classes.flatten().numpy()
    planes = [np.packbits((flat >> bit & 1).astype(bool)) for bit in range(class_bits(num_classes))]
    return torch.from_numpy(np.stack(planes))


def unpack_classes(planes: Tensor, shape, num_classes: int) -> Tensor:
    """The indices of pack_classes, in their shape."""
    classes = torch.zeros(math.prod(shape), dtype=index_type(num_classes))
    for bit, plane in enumerate(planes.numpy()):
        classes += torch.from_numpy(np.unpackbits(plane, count=len(classes))).to(classes.dtype) << bit
    return classes.view(shape)


# ---------------------------------------------------------------------------------------------------------------------
# The ablation


ABLATION = {  # P pruning, Q quantization, DKR dynamic knowledge reuse, CA calibrated alignment
    "full labels": {"prune": 0.0, "top_k": None, "reuse": "none", "calibrate": False},
    "P": {"top_k": None, "reuse": "none", "calibrate": False},
    "P + Q": {"reuse": "none", "calibrate": False},
    "P + Q + DKR": {"calibrate": False},
    "P + Q + DKR + CA": {},  # all of it: the protocol as it stands
    "P + DKR + CA": {"top_k": None},
}


def ablation(
    data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, arch: str, seeds, seed: int
) -> dict:
    """P, Q, DKR and CA switched on one after the other, then without Q, which says what Q costs; a row is printed as
    soon as it is there."""
    settings = {
        "stage": "ablation",
        "data": data.describe(),
        "images": distilled.info["digest"],
        "teacher": teacher.info["digest"],
        "arch": arch,
        "width": data.default_width,
        "protocol": asdict(protocol),
        "seeds": list(seeds),
    }
    protocols = {name: replace(protocol, **parts) for name, parts in ABLATION.items()}
    for row in protocols.values():
        row.top_k = row.top_k or data.num_classes

    def train_row(name, seeds):
        pool = label_pool(data, teacher, distilled, protocols[name], seed)
        return train_students(data, distilled, pool, protocols[name], arch, seeds)

    def table():
        folder = common.stage_folder(data.runs, f"ablation-{distilled.name}-{arch}", settings)
        of_all = f"{protocol.epochs} epochs; p {protocol.prune}, MR-{protocol.top_k}"
        print(f"students: {arch}, {protocol.optimizer}, {of_all}")
        print(f"\n{'labels':16}{'bytes':>12}{'smaller':>9}   top-1, %       top-5, %       ({len(seeds)} x trained)")
        rows = {}
        for name in protocols:
            result = train_row(name, seeds)
            left_out = ("images", "students", "reused")
            rows[name] = {key: value for key, value in result.items() if key not in left_out}
            size = f"{result['label_bytes']:>12,}{result['times_smaller']:8.1f}x"
            print(f"{name:16}{size}   {common.spread(result['top1']):15}{common.spread(result['top5'])}", flush=True)
        result = {"rows": rows, "settings": settings, "teacher": teacher.info, "images": distilled.info}
        file = folder / "ablation.json"
        common.save_kept(file, {**result, "made_with": common.made_with(data.device)})
        print(f"\nresult:   {file}")
        return {**result, "file": str(file)}

    if common.world > 1:  # the processes share the labels of each row, then the students of all; table() finds them
        for row in protocols.values():
            label_pool(data, teacher, distilled, row, seed)
        jobs = itertools.product(protocols, seeds)
        common.share(list(jobs), lambda job: train_row(job[0], [job[1]]))
    return common.once(table)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.common_options(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    add("--images", default="lpld", help=synthesize.IMAGES_HELP)
    add("--labels", type=common.path_of, help="a stored label pool, instead of a teacher (default: made here, once)")
    add("--prune", type=common.at_least(0, float, 0.9999), help="share of the label batches pruned away (default: 0.9)")
    add("--top-k", type=positive, help="logits kept of each label (default: by data set; all classes: no quantization)")
    add("--batch-size", type=positive, help="images per label batch (default: by data set)")
    add("--epochs", type=positive, help="of the student, and those that the pruning counts from (default: by data set)")
    add("--mix", choices=MIXES, help="how views are mixed (default: by data set, mostly cutmix)")
    add("--protocol", choices=PROTOCOLS, help="released settings to start from (default: those of the data set)")
    add("--reuse", choices=("step", "cosine", "none"), help="DKR's schedule of the labels' temperature (default: step)")
    add("--no-calibration", action="store_true", help="the student's temperature is the labels' (default: CA)")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: by data set)")
    add("--repeats", type=positive, help="students, with seeds --seed, --seed + 1, ... (default: 1, ablation 3)")
    add("--ablation", action="store_true", help="full labels; P; P + Q; ... one after the other, as a table")
    args = parser.parse_args(argv)
    about_making = {name: getattr(args, name) for name in ("prune", "top_k", "batch_size", "mix", "ablation")}
    for name, value in about_making.items():
        if args.labels and value is not None and value is not False:
            raise UserError(f"--{name.replace('_', '-')} is about making labels: not with --labels {args.labels}")
    if args.labels and args.images in synthesize.METHODS:
        raise UserError(f"--labels {args.labels}: say which images it is for, --images FOLDER")
    if args.ablation and (args.no_calibration or args.reuse == "none"):
        raise UserError("--ablation switches DKR and CA itself: it goes with neither --reuse none nor --no-calibration")
    return args


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args)
    names = ("epochs", "batch_size", "prune", "top_k", "mix", "reuse", "lr")
    given = {name: getattr(args, name) for name in names}
    given["calibrate"] = not args.no_calibration

    distilled = synthesize.find_images(args.images, data, args.ipc, teacher_arch)  # None: they are to be made
    count = len(distilled.images) if distilled else (args.ipc or 10) * data.num_classes
    protocol = protocol_for(data, count, args.protocol, **given)
    if not args.labels:
        check_protocol(protocol, count, data)
    teacher = None
    if args.teacher or not args.labels:
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = distilled or synthesize.distil(args.images, data, teacher, args.ipc, args.seed)
    if teacher:
        similarity = synthesize.similarity_of(teacher, distilled, data.colours)
        distilled.info["within_class_similarity"] = similarity
        if similarity is not None:
            print(f"          cosine similarity of the teacher's features within a class: {similarity:.3f}")
    seeds = range(args.seed, args.seed + (args.repeats or (3 if args.ablation else 1)))
    if args.ablation:
        return ablation(data, teacher, distilled, protocol, arch, seeds, args.seed)

    if args.labels:
        pool = load_pool(args.labels, data, distilled, teacher)
        protocol = protocol_of_pool(protocol, pool, args.epochs)
    else:
        pool = label_pool(data, teacher, distilled, protocol, args.seed)
    made = pool.made
    logits = f"{made.top_k} of {data.num_classes} logits each"
    print(f"labels:   {len(pool.values)} label batches of {made.batch_size}, {logits}: {pool.info['bytes']:,} bytes in "
          f"{pool.info['file']}")  # fmt: skip
    result = train_students(data, distilled, pool, protocol, arch, seeds)
    ways = f"DKR {protocol.reuse}, CA {'on' if protocol.calibrate else 'off'}"
    per_epoch = f"{pool.per_epoch} x {made.batch_size} images"
    print(f"student:  {arch}: {ways}, {protocol.optimizer}, {protocol.epochs} epochs of {per_epoch}")
    common.print_result(result, teacher)
    print(f"\n{'label storage':36}{result['label_bytes']:>12,} bytes")
    print(f"{'fp16 labels for every epoch':36}{result['full_label_bytes']:>12,} bytes: {result['times_smaller']:.1f} x")
    return result


if __name__ == "__main__":
    common.run_script(main)
