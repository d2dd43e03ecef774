"""GIFT: Unlocking Full Potential of Labels in Distilled Dataset at Near-zero Cost (arXiv 2405.14736, ICLR 2025).

    python gift.py                                                # embedded data set, CPU, a few minutes
    python gift.py --dataset cifar100 --ipc 10                    # the paper's setting; --teacher FILE: its teacher
    python gift.py --dataset cifar100 --images path/to/any/distilled/set --loss kl --optimizer sgd
    python gift.py --images random --fixed-labels --teacher-epochs 2   # one label an image (arXiv 2406.10485)

GIFT makes no images. It takes any distilled set and changes the loss that trains the student: soft labels (the
teacher's logits on the augmented image) are refined with the smoothed hard label, and the student's logits are pulled
towards them by cosine similarity. "Released code" below is LINs-lab/GIFT.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import common
import synthesize
from common import Dataset, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The method: refined labels, and the losses that the paper compares


def smooth_labels(labels: Tensor, num_classes: int, alpha: float = 0.1) -> Tensor:
    """Smoothed hard labels [B, C]: 1 - alpha on the class, alpha / (C - 1) on each other class.

    labels: int64 [B]. Rows sum to 1. torch's label_smoothing puts alpha / C everywhere instead.
    RuntimeError if a label is not below num_classes. Source: released code, losses_benchmark.py, batch_label_smoothing.
    """
    smooth = torch.full((len(labels), num_classes), alpha / (num_classes - 1), device=labels.device)
    return smooth.scatter(1, labels.view(-1, 1), 1 - alpha)


def refine_labels(teacher_logits: Tensor, labels: Tensor, gamma: float = 0.1, alpha: float = 0.1) -> Tensor:
    """Refined soft labels [B, C]: z_T / ||z_T||_2 + gamma * smooth / ||smooth||_2, z_T the teacher's raw logits [B, C].

    gamma = 0.1 is the released code's. Its README shows (1 - w) * soft + w * hard instead: as cosine similarity ignores
    scale that is the same family with gamma = w / (1 - w), and gamma = 0.1 is w = 1 / 11.
    """
    smooth = smooth_labels(labels, teacher_logits.shape[1], alpha)
    return F.normalize(teacher_logits, dim=1) + gamma * F.normalize(smooth, dim=1)


def cosine_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """1 - mean over the batch of cos(student_logits, targets), both [B, C]; between 0 and 2."""
    return 1 - F.cosine_similarity(student_logits, targets, dim=1).mean()


def gift_loss(student_logits, teacher_logits, labels, gamma: float = 0.1, alpha: float = 0.1) -> Tensor:
    """GIFT: 1 - mean cos(z_S, refined label), a scalar.

    student_logits, teacher_logits [B, C], raw (no softmax), the teacher's without gradient; labels int64 [B].
    Source: released losses_benchmark.py.
    """
    return cosine_loss(student_logits, refine_labels(teacher_logits, labels, gamma, alpha))


# The losses that the paper compares; released code, losses_benchmark.py, compute_loss. `mse` is on raw logits.
TEMPERATURE = 20  # of `kl`
HARD_WEIGHT = 0.1  # of the hard label in mse_ce and softce_ce


def kl_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(softmax(z_T / 20) || softmax(z_S / 20)), mean over the batch; without the factor T^2 of Hinton et al."""
    student = F.log_softmax(student_logits / TEMPERATURE, dim=1)
    return F.kl_div(student, F.softmax(teacher_logits / TEMPERATURE, dim=1), reduction="batchmean")


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-sum_c softmax(z_T)_c log softmax(z_S)_c, mean over the batch, at temperature 1."""
    return F.cross_entropy(student_logits, F.softmax(teacher_logits, dim=1))


def with_hard_label(loss: Tensor, student_logits: Tensor, labels: Tensor) -> Tensor:
    """loss + 0.1 * cross-entropy with the hard label."""
    return loss + HARD_WEIGHT * F.cross_entropy(student_logits, labels)


LOSSES = {
    "ce": lambda student, teacher, labels: F.cross_entropy(student, labels),
    "mse": lambda student, teacher, labels: F.mse_loss(student, teacher),
    "kl": lambda student, teacher, labels: kl_loss(student, teacher),
    "softce": lambda student, teacher, labels: soft_cross_entropy(student, teacher),
    "mse_ce": lambda student, teacher, labels: with_hard_label(F.mse_loss(student, teacher), student, labels),
    "softce_ce": lambda student, teacher, labels: with_hard_label(
        soft_cross_entropy(student, teacher), student, labels
    ),
    "cosine": lambda student, teacher, labels: cosine_loss(student, teacher),
    "gift": gift_loss,
}

# ---------------------------------------------------------------------------------------------------------------------
# One label for each plain image, instead of one for each view: "A Label is Worth a Thousand Images" (arXiv 2406.10485)

ALL_LOGITS = -1
FIXED_HELP = "one label for each plain image, made once, with its K largest logits (default: all)"
WITH_FEWER_LOGITS = ("kl", "softce", "softce_ce")  # losses that see a label through a softmax


def fixed_labels(teacher_logits: Tensor, k: int) -> Tensor:
    """Logits [N, C] with the k largest of each row in fp16, the others -inf: a softmax is over the k, as MR-k's."""
    values, classes = teacher_logits.topk(k, dim=1)
    kept = torch.full_like(teacher_logits, -math.inf)
    return kept.scatter(1, classes, values.half().float())


def fixed_label_bytes(count: int, num_classes: int, k: int) -> int:
    """2 bytes for each logit, and, where k < C, ceil(log2 C) bits for its class."""
    bits = (num_classes - 1).bit_length() if k < num_classes else 0
    return count * k * 2 + -(-count * k * bits // 8)


@torch.no_grad()
def label_plain_images(teacher: Teacher, distilled: Distilled, colours, k: int) -> Tensor:
    logits = [teacher.model(common.normalize(part, colours)) for part in distilled.images.split(200)]
    return fixed_labels(torch.cat(logits).float(), k)


# ---------------------------------------------------------------------------------------------------------------------
# Views: DSA ("DiffAug"), and the tiles of mosaics


def dsa_draws(batch_size: int, side: int, *seed: int) -> Tensor:
    """One DSA view for each image of a batch, as numbers: float32 [B, 12].

    Columns: flip (0 or 1), brightness, saturation, contrast, the six entries of the 2 x 3 sampling matrix, and the
    cutout's first row and column. Flip with p = 0.5; brightness U(-0.5, 0.5); saturation U(0, 2); contrast U(0.5, 1.5);
    then for the whole batch ONE of crop (integer shift in +-int(S/8 + 0.5) per axis), scale (the sampling grid times
    U(1/1.2, 1.2) per axis) or rotate (U(-15, 15) degrees); cutout of side int(S/2 + 0.5), centre uniform.
    Source: released code, utils/transforms.py, DiffAug(color_crop_cutout_flip_scale_rotate, batch=False).
    """
    stream = common.random_stream(*seed)
    kind = int(3 * stream.random_sample())  # the one draw per batch
    flip, brightness, saturation, contrast, a, b, row, column = stream.random_sample((batch_size, 8)).T
    one = np.ones(batch_size)
    zero = np.zeros(batch_size)
    if kind == 0:  # a moves the rows, b the columns
        matrix = [one, zero, shift_draws(b, side), zero, one, shift_draws(a, side)]
    elif kind == 1:
        matrix = [scale_draws(a), zero, zero, zero, scale_draws(b), zero]
    else:
        angle = math.radians(15) * (2 * a - 1)
        matrix = [np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero]
    colours = [brightness - 0.5, 2 * saturation, contrast + 0.5]
    columns = [flip < 0.5, *colours, *matrix, cutout_draws(row, side), cutout_draws(column, side)]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def shift_draws(u: np.ndarray, side: int) -> np.ndarray:
    """Whole pixels in +-int(S/8 + 0.5), in units of the sampling grid, which spans 2."""
    reach = int(side / 8 + 0.5)
    return 2 / side * (np.floor(u * (2 * reach + 1)) - reach)


def scale_draws(u: np.ndarray) -> np.ndarray:
    """U(1/1.2, 1.2); above 1 the picture shrinks."""
    return 1 / 1.2 + u * (1.2 - 1 / 1.2)


def cutout_draws(u: np.ndarray, side: int) -> np.ndarray:
    """First row (or column) of a hole of side int(S/2 + 0.5), its centre uniform: it may begin outside the image."""
    hole = int(side / 2 + 0.5)
    return np.floor(u * (side + 1 - hole % 2)) - hole // 2


def dsa(images: Tensor, draws: Tensor) -> Tensor:
    """DSA views of normalised images [B, 3, S, S], as drawn by dsa_draws; what is empty is 0, the mean colour."""
    side = images.shape[-1]
    flip, brightness, saturation, contrast = draws[:, :4].T[:, :, None, None, None]
    x = torch.where(flip > 0, images.flip(3), images) + brightness
    pixel_mean = x.mean(1, keepdim=True)
    x = (x - pixel_mean) * saturation + pixel_mean
    image_mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - image_mean) * contrast + image_mean
    grid = F.affine_grid(draws[:, 4:10].reshape(-1, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    offset = torch.arange(side, device=x.device) - draws[:, 10:, None]  # [B, 2, S]: rows and columns from the hole
    inside = (offset >= 0) & (offset < int(side / 2 + 0.5))
    x = x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)
    return x.contiguous(memory_format=torch.channels_last)


def tile_boxes(count: int, side: int, factor: int, *seed: int) -> Tensor:
    """RDED's mosaics: with probability 1 - 1 / factor^2 an image shows one of its factor^2 tiles at the full side.

    Crop boxes [count, 4] (top, left, height, width). Released: before normalisation, here after it, which is the same,
    as the weights of the resize sum to 1.
    """
    u = common.random_stream(*seed).random_sample((count, 3))
    tile = side // factor
    cell = np.concatenate([np.floor(u[:, :2] * factor) * tile, np.full((count, 2), tile)], 1)
    boxes = np.where(u[:, 2:] < 1 - 1 / factor**2, cell, np.array([0, 0, side, side]))
    return torch.from_numpy(boxes.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# The training protocol (released code, evaluator_benchmark.py)

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, weight_decay=1e-4),  # released; decays all weights
    # Ours: the release has no settings. The same authors' CIM has, commented out, this SGD with a rate of 0.01.
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
}


@dataclass
class Protocol:
    """How a student is trained; protocol_for fills in what follows from the data set, the images and the network."""

    arch: str
    loss: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    view_factor: int  # tiles per side of mosaics, shown one by one; 1: whole images
    fixed: int | None = None  # logits kept of the one soft label of each plain image; None: a label for every view


def learning_rate_for(optimizer: str, arch: str) -> float:
    """AdamW 1e-3, 1e-4 for ViT-B/16 and Swin-V2-T, as released; Adam's and SGD's are ours."""
    if optimizer == "adamw" and arch in ("vit_b_16", "swin_v2_t"):
        return 1e-4
    return {"adamw": 1e-3, "adam": 1e-3, "sgd": 0.1}[optimizer]


def epochs_for(dataset: str) -> int:
    """1000, ImageNet-1K 300, as released; the embedded set's 300 are ours."""
    return {"imagenet-1k": 300, "fashion": 300}.get(dataset, 1000)


def batch_size_for(count: int) -> int:
    """By the number of images of the set, as released."""
    if count <= 10:
        return 10
    if count <= 500:
        return 50
    return 100 if count <= 20_000 else 200


def view_factor_for(data: Dataset, arch: str, distilled: Distilled) -> int:
    """Released: tiles are shown one by one for RDED's ImageNet-1K set of a ResNet-18, and for no other set."""
    if (data.name, arch) != ("imagenet-1k", "resnet18"):
        return 1
    if not distilled.info["settings"]:
        print("hint:     nothing says whether these images are RDED's mosaics; if they are: --view-factor 2")
    return distilled.info["settings"].get("factor", 1)


def protocol_for(
    data: Dataset,
    distilled: Distilled,
    arch,
    loss=None,
    optimizer="adamw",
    lr=None,
    epochs=None,
    view_factor=None,
    fixed=None,
) -> Protocol:
    return Protocol(
        arch=arch,
        loss=loss or ("softce" if fixed else "gift"),
        optimizer=optimizer,
        lr=lr or learning_rate_for(optimizer, arch),
        epochs=epochs or epochs_for(data.name),
        batch_size=batch_size_for(len(distilled.images)),
        view_factor=view_factor or view_factor_for(data, arch, distilled),
        fixed=None if loss == "ce" else fixed,
    )


def learning_rate_factor(epoch: int, epochs: int) -> float:
    """x 0.2 from 2/3 and again from 5/6 of the epochs on, as released; epochs count from 0."""
    return 0.2 ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def augmented_batches(distilled: Distilled, data: Dataset, protocol: Protocol, seed: int, epoch: int):
    """(images, labels, numbers of the images) of an epoch's steps, shuffled, normalised and augmented as (seed, epoch,
    step) say."""
    side = data.image_size
    size = protocol.batch_size
    factor = protocol.view_factor
    order = common.shuffled(len(distilled.images), seed, common.ORDER, epoch)
    batches = common.split_batches(common.send(order, data.device), size)
    for steps in common.steps_together(range(len(batches)), size, side, data.device):
        sizes = [len(batches[step]) for step in steps]
        batch = torch.cat([batches[step] for step in steps])
        images = common.normalize(distilled.images[batch], data.colours)
        if factor > 1:
            boxes = [tile_boxes(len(batches[k]), side, factor, seed, common.TILES, epoch, k) for k in steps]
            images = common.resized_crop(images, common.send(torch.cat(boxes), data.device), side)
        draws = [dsa_draws(len(batches[k]), side, seed, common.VIEW, epoch, k) for k in steps]
        images = dsa(images, common.send(torch.cat(draws), data.device))
        labels = distilled.labels[batch]
        yield from zip(images.split(sizes), labels.split(sizes), batch.split(sizes), strict=True)


def training_step(
    student, teacher, optimizer, images: Tensor, labels: Tensor, loss: str, teacher_logits: Tensor | None = None
) -> Tensor:
    """One step on augmented images; the teacher labels exactly what the student sees, unless its logits are given.

    Both run in fp32 as released, or in bf16 (--precision, the default on CUDA); the loss is fp32.
    """
    with common.autocast(images.device):
        if teacher_logits is None:
            with torch.no_grad():
                teacher_logits = teacher(images)
        student_logits = student(images)
    value = LOSSES[loss](student_logits.float(), teacher_logits.float(), labels)
    common.descend(optimizer, value)
    return value.detach()


def train_student(
    data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, seed: int, progress: Path
) -> dict:
    """Train one student, and score it on the test set after each quarter of the epochs; the last one is the result.

    Released: after every E // 4 epochs, which is the same for its E.
    """
    fixed = label_plain_images(teacher, distilled, data.colours, protocol.fixed) if protocol.fixed else None
    student = common.new_student(data, protocol.arch, seed)
    optimizer = OPTIMIZERS[protocol.optimizer](student.parameters(), protocol.lr, **common.fused(data.device))
    epochs = protocol.epochs
    quarters = {epochs * quarter // 4 for quarter in range(1, 5)}
    log = {"checks": []}
    for epoch in common.epochs_of(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, protocol.lr * learning_rate_factor(epoch, epochs))
        for images, labels, numbers in augmented_batches(distilled, data, protocol, seed, epoch):
            given = None if fixed is None else fixed[numbers]
            log["loss"] = training_step(student, teacher.model, optimizer, images, labels, protocol.loss, given)
        if epoch + 1 in quarters:
            log["top1"], log["top5"] = common.accuracy(student, data.test, data.colours)
            log["checks"].append((epoch + 1, log["top1"], log["top5"]))
    names = ("top1", "top5", "checks", "seconds")
    return {"seed": seed, **{name: log[name] for name in names}}


def train_students(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, seeds) -> dict:
    """Students of this protocol, one for each seed: their results, kept in a folder of their own."""
    settings = {"stage": "gift", "teacher": teacher.info["digest"], **asdict(protocol)}
    name = f"gift-{distilled.name}-{protocol.arch}-{protocol.loss}-{protocol.optimizer}"
    sizes = {}
    if protocol.fixed:
        name += f"-fixed{protocol.fixed}"
        sizes["label_bytes"] = fixed_label_bytes(len(distilled.images), data.num_classes, protocol.fixed)
    else:
        del settings["fixed"]

    def train(seed, progress):
        return train_student(data, teacher, distilled, protocol, seed, progress)

    return common.run_students(data, distilled, name, settings, seeds, train, teacher=teacher.info, **sizes)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.common_options(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    add("--images", default="rded", help=synthesize.IMAGES_HELP)
    add("--loss", choices=LOSSES, help="default: gift; with --fixed-labels softce")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw, the paper's")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: 1e-3; sgd 0.1)")
    add("--epochs", type=positive, help="of the student (default: 1000; ImageNet-1K and fashion 300)")
    add("--repeats", type=positive, default=1, help="students, with seeds --seed, --seed + 1, ... (default: 1)")
    add("--view-factor", type=positive, help="tiles per side of mosaics, shown one by one (default: by the set)")
    add("--fixed-labels", type=positive, nargs="?", const=ALL_LOGITS, metavar="K", help=FIXED_HELP)
    return parser.parse_args(argv)


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args)
    check_view_factor(args.view_factor, data)
    fixed = logits_kept(args.fixed_labels, [args.loss or "softce"], data)
    distilled = synthesize.find_images(args.images, data, args.ipc, teacher_arch)  # None: they are to be made
    teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = distilled or synthesize.distil(args.images, data, teacher, args.ipc, args.seed)
    protocol = protocol_for(
        data, distilled, arch, args.loss, args.optimizer, args.lr, args.epochs, args.view_factor, fixed
    )

    result = train_students(data, teacher, distilled, protocol, range(args.seed, args.seed + args.repeats))
    count = f"{len(distilled.images)} images in batches of {protocol.batch_size}"
    print(f"student:  {arch}: {protocol.loss} loss, {args.optimizer}, {protocol.epochs} epochs of {count}")
    common.print_result(result, teacher)
    if protocol.fixed:
        print(f"{'one label for each image':36}{result['label_bytes']:,} bytes, {fixed} of {data.num_classes} logits")
    return result


def logits_kept(asked: int | None, losses: list[str], data: Dataset) -> int | None:
    """K of --fixed-labels, for these losses."""
    if asked is None or asked == ALL_LOGITS:
        return data.num_classes if asked else None
    if asked > data.num_classes:
        raise UserError(f"--fixed-labels {asked}: {data.name} has {data.num_classes} classes")
    others = [loss for loss in losses if loss not in ("ce", *WITH_FEWER_LOGITS)]
    if asked < data.num_classes and others:
        fitting = ", ".join(WITH_FEWER_LOGITS)
        raise UserError(f"--fixed-labels {asked}: {others[0]} takes all logits of a label; with fewer go {fitting}")
    return asked


def check_view_factor(factor, data: Dataset):
    if factor and data.image_size % factor:
        raise UserError(f"--view-factor {factor} does not divide the side of {data.image_size} px")


if __name__ == "__main__":
    common.run_script(main)
