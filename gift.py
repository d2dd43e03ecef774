"""GIFT: Unlocking Full Potential of Labels in Distilled Dataset at Near-zero Cost (arXiv 2405.14736, ICLR 2025).

    python gift.py                                        # embedded data set, on a CPU, a few minutes
    python gift.py --dataset cifar100 --ipc 10            # the paper's setting; --teacher FILE for the paper's teacher
    python gift.py --dataset cifar100 --images path/to/any/distilled/set --loss kl --optimizer sgd

GIFT makes no images. It takes any distilled set and changes the loss that trains the student. A soft label is the
teacher's logits on the augmented image. GIFT adds a little of the smoothed hard label to it, and pulls the student's
logits towards the sum by cosine similarity. "Released code" below is LINs-lab/GIFT.
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
from common import Dataset, Students, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The method: refined labels, and the losses that the paper compares


def smooth_labels(labels: Tensor, num_classes: int, alpha: float = 0.1) -> Tensor:
    """Smoothed hard labels [B, C]: 1 - alpha on the class, alpha / (C - 1) on each other class.

    labels: int64 [B]. Each row sums to 1. (torch's label_smoothing puts alpha / C on each other class.)
    RuntimeError if a label is not below num_classes. Source: released code, losses_benchmark.py, batch_label_smoothing.
    """
    smooth = torch.full((len(labels), num_classes), alpha / (num_classes - 1), device=labels.device)
    return smooth.scatter(1, labels.view(-1, 1), 1 - alpha)


def refine_labels(teacher_logits: Tensor, labels: Tensor, gamma: float = 0.1, alpha: float = 0.1) -> Tensor:
    """Refined soft labels [B, C]: z_T / ||z_T||_2 + gamma * smooth / ||smooth||_2, z_T the teacher's raw logits [B, C].

    gamma = 0.1 is the released code's value. The README of the release writes (1 - w) * soft + w * hard instead, with a
    weight w. Divided by 1 - w that is soft + w / (1 - w) * hard, in the same direction, and cosine similarity sees only
    the direction. So gamma = w / (1 - w), and gamma = 0.1 means w = 1 / 11.
    """
    smooth = smooth_labels(labels, teacher_logits.shape[1], alpha)
    return F.normalize(teacher_logits, dim=1) + gamma * F.normalize(smooth, dim=1)


def cosine_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """1 - mean over the batch of cos(student_logits, targets), both [B, C]. Between 0 and 2."""
    return 1 - F.cosine_similarity(student_logits, targets, dim=1).mean()


def gift_loss(student_logits, teacher_logits, labels, gamma: float = 0.1, alpha: float = 0.1) -> Tensor:
    """GIFT's loss: 1 - mean over the batch of cos(z_S, refined label), a scalar.

    student_logits, teacher_logits [B, C] are raw (no softmax); the teacher's carry no gradient. labels: int64 [B].
    Source: released code, losses_benchmark.py.
    """
    return cosine_loss(student_logits, refine_labels(teacher_logits, labels, gamma, alpha))


# The losses that the paper compares: released code, losses_benchmark.py, compute_loss. `mse` takes raw logits.
TEMPERATURE = 20  # of `kl`
HARD_WEIGHT = 0.1  # of the hard label in mse_ce and softce_ce


def kl_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(softmax(z_T / 20) || softmax(z_S / 20)), mean over the batch.

    Hinton et al. multiply it by T^2 = 400. The released code does not, so its gradients are 400 times smaller.
    """
    student = F.log_softmax(student_logits / TEMPERATURE, dim=1)
    return F.kl_div(student, F.softmax(teacher_logits / TEMPERATURE, dim=1), reduction="batchmean")


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-sum_c softmax(z_T)_c log softmax(z_S)_c, mean over the batch, at temperature 1."""
    return F.cross_entropy(student_logits, F.softmax(teacher_logits, dim=1))


LOSSES = {  # of the student's logits z_s, the teacher's z_t and the hard labels y
    "ce": lambda z_s, z_t, y: F.cross_entropy(z_s, y),
    "mse": lambda z_s, z_t, y: F.mse_loss(z_s, z_t),
    "kl": lambda z_s, z_t, y: kl_loss(z_s, z_t),
    "softce": lambda z_s, z_t, y: soft_cross_entropy(z_s, z_t),
    "mse_ce": lambda z_s, z_t, y: F.mse_loss(z_s, z_t) + HARD_WEIGHT * F.cross_entropy(z_s, y),
    "softce_ce": lambda z_s, z_t, y: soft_cross_entropy(z_s, z_t) + HARD_WEIGHT * F.cross_entropy(z_s, y),
    "cosine": lambda z_s, z_t, y: cosine_loss(z_s, z_t),
    "gift": gift_loss,
}

# ---------------------------------------------------------------------------------------------------------------------
# Views: DSA (also called DiffAug), and the tiles of RDED's mosaics


def dsa_draws(batch_size: int, side: int, *seed: int) -> Tensor:
    """One DSA view for each image of a batch, as numbers: float32 [B, 12].

    Columns: flip (0 or 1); brightness, saturation, contrast; the six entries of the 2 x 3 sampling matrix; the first
    row and column of the cutout.
    Each image draws its own numbers; only the choice of crop, scale or rotate is one for the batch. U(a, b) is uniform
    from a to b, S is the side:
      flip, in half of the cases; brightness U(-0.5, 0.5); saturation U(0, 2); contrast U(0.5, 1.5);
      one of three: crop (a shift of up to int(S/8 + 0.5) whole pixels per axis), scale
      (the sampling grid times U(1/1.2, 1.2) per axis), rotate (by U(-15, 15) degrees);
      cutout, a square of side int(S/2 + 0.5) with a uniform centre.
    Source: released code, utils/transforms.py, DiffAug(color_crop_cutout_flip_scale_rotate, batch=False).
    """
    stream = common.random_stream(*seed)
    kind = int(3 * stream.random_sample())  # the one draw per batch
    flip, brightness, saturation, contrast, a, b, row, column = stream.random_sample((batch_size, 8)).T
    one = np.ones(batch_size)
    zero = np.zeros(batch_size)
    if kind == 0:  # a moves rows, b columns
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
    """A shift of up to int(S/8 + 0.5) whole pixels, in units of the sampling grid, where the image is 2 wide."""
    reach = int(side / 8 + 0.5)
    return 2 / side * (np.floor(u * (2 * reach + 1)) - reach)


def scale_draws(u: np.ndarray) -> np.ndarray:
    """U(1/1.2, 1.2). A factor above 1 makes the picture smaller."""
    return 1 / 1.2 + u * (1.2 - 1 / 1.2)


def cutout_draws(u: np.ndarray, side: int) -> np.ndarray:
    """First row (or column) of a square of side int(S/2 + 0.5) with a uniform centre. It may lie partly outside."""
    hole = int(side / 2 + 0.5)
    return np.floor(u * (side + 1 - hole % 2)) - hole // 2


def dsa(images: Tensor, draws: Tensor) -> Tensor:
    """DSA views of normalised images [B, 3, S, S], by dsa_draws' numbers [B, 12]. Empty pixels are 0."""
    side = images.shape[-1]
    flip, brightness, saturation, contrast = draws[:, :4].T[:, :, None, None, None]
    x = torch.where(flip > 0, images.flip(3), images) + brightness
    pixel_mean = x.mean(1, keepdim=True)
    x = (x - pixel_mean) * saturation + pixel_mean
    image_mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - image_mean) * contrast + image_mean
    grid = F.affine_grid(draws[:, 4:10].reshape(-1, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # [B, 2, S]: rows and columns, counted from the hole
    offset = torch.arange(side, device=x.device) - draws[:, 10:, None]
    inside = (offset >= 0) & (offset < int(side / 2 + 0.5))
    x = x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)
    return x.contiguous(memory_format=torch.channels_last)


def tile_boxes(count: int, side: int, factor: int, *seed: int) -> Tensor:
    """Which part of each mosaic a view shows. A mosaic is an image made of factor x factor small ones (tiles).

    With probability 1 - 1 / factor^2 it is one tile, enlarged to the full side; else it is the whole mosaic.
    Returns crop boxes [count, 4] (top, left, height, width). The released code crops before the normalisation, this
    code after it. That is the same, as the weights of the resize sum to 1.
    """
    u = common.random_stream(*seed).random_sample((count, 3))
    tile = side // factor
    cell = np.concatenate([np.floor(u[:, :2] * factor) * tile, np.full((count, 2), tile)], 1)
    boxes = np.where(u[:, 2:] < 1 - 1 / factor**2, cell, np.array([0, 0, side, side]))
    return torch.from_numpy(boxes.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# The training protocol (released code, evaluator_benchmark.py)

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, weight_decay=1e-4),  # released; the decay acts on all weights
    # Ours: the release has no settings for these. The same authors' CIM has this SGD in a comment, with a rate of 0.01.
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
}


@dataclass
class Protocol:
    """How a student is trained."""

    arch: str
    loss: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    view_factor: int  # tiles per side of mosaics, see tile_boxes; 1: whole images


def learning_rate_for(optimizer: str, arch: str) -> float:
    """The learning rate. AdamW: 1e-3, and 1e-4 for ViT-B/16 and Swin-V2-T, as released. Adam's and SGD's are ours."""
    if optimizer == "adamw" and arch in ("vit_b_16", "swin_v2_t"):
        return 1e-4
    return {"adamw": 1e-3, "adam": 1e-3, "sgd": 0.1}[optimizer]


def epochs_for(dataset: str) -> int:
    """The number of epochs: 1000, and 300 for ImageNet-1K, as released. The embedded set's 300 are ours."""
    return {"imagenet-1k": 300, "fashion": 300}.get(dataset, 1000)


def batch_size_for(count: int) -> int:
    """The batch size, by the number of images in the set, as released."""
    if count <= 10:
        return 10
    if count <= 500:
        return 50
    return 100 if count <= 20_000 else 200


def view_factor_for(data: Dataset, arch: str, distilled: Distilled) -> int:
    """As released: single tiles (tile_boxes) for RDED's ImageNet-1K set and a ResNet-18, and in no other case."""
    if (data.name, arch) != ("imagenet-1k", "resnet18"):
        return 1
    if not distilled.info["settings"]:
        print("hint:     if these images are RDED's 2 x 2 mosaics, add --view-factor 2")
    return distilled.info["settings"].get("factor", 1)


def protocol_for(
    data: Dataset, distilled: Distilled, arch, loss="gift", optimizer="adamw", lr=None, epochs=None, view_factor=None
) -> Protocol:
    """GIFT's protocol for this data set, these images and this network. What is given here replaces its values."""
    return Protocol(
        arch=arch,
        loss=loss,
        optimizer=optimizer,
        lr=lr or learning_rate_for(optimizer, arch),
        epochs=epochs or epochs_for(data.name),
        batch_size=batch_size_for(len(distilled.images)),
        view_factor=view_factor or view_factor_for(data, arch, distilled),
    )


def learning_rate_factor(epoch: int, epochs: int) -> float:
    """1; from 2/3 of the epochs on 0.2; from 5/6 on 0.04. As released. Epochs count from 0."""
    return 0.2 ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def augmented_batches(distilled: Distilled, data: Dataset, protocol: Protocol, seed: int, epoch: int):
    """Yield (images, labels, numbers in the set) for each step of an epoch: shuffled, normalised, augmented.

    The order follows from (seed, epoch), the views from (seed, epoch, step).
    """
    side = data.image_size
    size = protocol.batch_size
    factor = protocol.view_factor
    order = common.shuffled(len(distilled.images), seed, common.ORDER, epoch)
    batches = common.split_batches(common.send(order, data.device), size)
    for steps in common.steps_together(range(len(batches)), size, side, data.device):
        sizes = [len(batches[step]) for step in steps]
        numbers = torch.cat([batches[step] for step in steps])
        images = common.normalize(distilled.images[numbers], data.colours)
        if factor > 1:
            boxes = [tile_boxes(len(batches[step]), side, factor, seed, common.TILES, epoch, step) for step in steps]
            images = common.resized_crop(images, common.send(torch.cat(boxes), data.device), side)
        draws = [dsa_draws(len(batches[step]), side, seed, common.VIEW, epoch, step) for step in steps]
        images = dsa(images, common.send(torch.cat(draws), data.device))
        labels = distilled.labels[numbers]
        yield from zip(images.split(sizes), labels.split(sizes), numbers.split(sizes), strict=True)


@torch.no_grad()
def soft_labels(teacher, images: Tensor) -> Tensor:
    """The teacher's logits, float32 [B, C], on exactly the views that the student sees, in the training's precision."""
    with common.autocast(images.device):
        return teacher(images).float()


def training_step(student, optimizer, images: Tensor, teacher_logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """One step of the student on augmented images [B, 3, S, S]. Returns the loss.

    The networks run in fp32 as released, or in bf16 (--precision; the default on GPUs that have it). The loss is fp32.
    """
    with common.autocast(images.device):
        student_logits = student(images)
    value = LOSSES[loss](student_logits.float(), teacher_logits, labels)
    common.descend(optimizer, value)
    return value.detach()


def train_student(data: Dataset, label, distilled: Distilled, protocol: Protocol, seed: int, progress: Path) -> dict:
    """Train one student. Test it after each quarter of the epochs; the last test is the result.

    label(images, numbers) gives the soft labels [B, C] of augmented images [B, 3, S, S], which have these numbers in
    the set. The released code tests after every E // 4 epochs, which is the same if 4 divides E.
    """
    student = common.new_student(data, protocol.arch, seed)
    optimizer = OPTIMIZERS[protocol.optimizer](student.parameters(), protocol.lr, **common.fused(data.device))
    epochs = protocol.epochs
    quarters = {epochs * quarter // 4 for quarter in range(1, 5)}
    log = {"checks": []}
    for epoch in common.student_epochs(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, protocol.lr * learning_rate_factor(epoch, epochs))
        for images, labels, numbers in augmented_batches(distilled, data, protocol, seed, epoch):
            log["loss"] = training_step(student, optimizer, images, label(images, numbers), labels, protocol.loss)
        if epoch + 1 in quarters:
            log["top1"], log["top5"] = common.accuracy(student, data.test, data.colours)
            log["checks"].append((epoch + 1, log["top1"], log["top5"]))
    return {"seed": seed, **{name: log[name] for name in ("top1", "top5", "checks", "seconds")}}


def students(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol) -> Students:
    """The settings, the folder and the training of these students; common.train_students trains them.

    The teacher labels each view when the student sees it.
    """
    settings = {"stage": "gift", **asdict(protocol)}
    name = f"gift-{distilled.name}-{protocol.arch}-{protocol.loss}-{protocol.optimizer}"
    train = partial(train_student, data, lambda views, _: soft_labels(teacher.model, views), distilled, protocol)
    return common.students_of(data, distilled, name, settings, train, teacher)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.Parser(__doc__)
    parser.add_argument("--loss", choices=LOSSES, default="gift", help="default: gift")
    add_options(parser)
    common.add_common_options(parser)
    return parser.parse_args(argv)


def add_options(parser, images="rded"):
    """The options of GIFT's protocol, but for the loss. `images` is the default of --images."""
    add = parser.add_argument
    positive = common.at_least(1)
    add("--images", default=images, help=f"{synthesize.IMAGES_HELP} (default: {images})")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw, the paper's")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: 1e-3; sgd 0.1; ViT-B/16 and "
        "Swin-V2-T with adamw 1e-4)")  # fmt: skip
    add("--epochs", type=positive, help="epochs of the student (default: 1000; ImageNet-1K and fashion 300)")
    add("--repeats", type=positive, default=1, help="students, with seeds --seed, --seed + 1 ... (default: 1)")
    add("--view-factor", type=positive, help="tiles per side of mosaics; most views show one tile (default: 2 for "
        "RDED's ImageNet-1K images and resnet18, else 1)")  # fmt: skip


def prepare(args, data: Dataset, arch: str, teacher_arch: str) -> tuple[Teacher, Distilled, Protocol]:
    """The teacher, the images and the protocol that the options ask for."""
    check_view_factor(args.view_factor, data)
    distilled = synthesize.find_images(args.images, data, args.ipc, teacher_arch)  # None: they are made below
    teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = synthesize.given_or_made(distilled, args.images, data, teacher, args.ipc, args.seed)
    protocol = protocol_for(data, distilled, arch, args.loss, args.optimizer, args.lr, args.epochs, args.view_factor)
    count = f"{len(distilled.images)} images in batches of {protocol.batch_size}"
    print(f"student:  {common.student_line(data, arch, protocol.lr)}")
    print(f"          {protocol.loss} loss, {args.optimizer}, {protocol.epochs} epochs of {count}")
    return teacher, distilled, protocol


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args, args.images)
    teacher, distilled, protocol = prepare(args, data, arch, teacher_arch)
    seeds = range(args.seed, args.seed + args.repeats)
    result = common.train_students(students(data, teacher, distilled, protocol), seeds)
    others = "--loss kl" if protocol.loss == "gift" else "--loss gift"
    others += ", --images random" * (args.images != "random")
    common.print_result(result, data, teacher, others)
    return result


def check_view_factor(factor, data: Dataset):
    if factor and data.image_size % factor:
        raise UserError(f"--view-factor {factor} does not divide the side of {data.image_size} px")


if __name__ == "__main__":
    common.run_script(main)
