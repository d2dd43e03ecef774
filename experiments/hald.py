"""HALD: Hard Labels In! (arXiv 2512.15647, ICML 2026): soft labels, then hard labels, then soft labels again.

    python -m experiments.hald                               # 100 soft labels per class, 150 + 150 epochs
    python -m experiments.hald --labels-per-class 20         # a smaller pool
    python -m experiments.hald --order hard-soft
    python -m experiments.hald --squared                     # ours: the soft phases' loss times T^2 = 400

A small pool has soft labels for few crops of each image. The student drifts towards these crops. Hard labels need no
storage, and every crop has one. So the student learns from the pool, then from hard labels on new views, then from the
pool again.
"Released code" is Jiacheng8/HALD at ffbca04, validate/train_fkd.py. The pool is lpqld.py's, without P, DKR and CA.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import common
import lpqld
import synthesize
from common import Dataset, Students, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The method

TEMPERATURE = 20.0  # of the soft phases, for labels and student; released script: -T 20
SMOOTHING = 0.8  # of the hard labels; released default
WEIGHT_DECAY = 0.01  # AdamW, only on weights of more than one dimension; released default
BATCH_SIZE = 16  # of both phases; released script
ORDERS = ("soft-hard-soft", "hard-soft", "soft-hard", "hard-soft-hard")  # released settings S6 (the method), S1, S8, S7


def phases(order: str, soft_epochs: int, hard_epochs: int) -> list[str]:
    """What each epoch learns from, "soft" or "hard". The first half of a kind that comes twice is rounded down."""
    kinds = order.split("-")
    epochs = {"soft": soft_epochs, "hard": hard_epochs}
    plan = []
    for place, kind in enumerate(kinds):
        count = epochs[kind]
        if kinds.count(kind) == 2:
            count = count // 2 if place == 0 else count - count // 2
        plan += [kind] * count
    return plan


def smoothed_mixed_labels(labels: Tensor, partners: Tensor, share: Tensor, num_classes: int, smoothing=SMOOTHING):
    """Hard labels of CutMix views, [..., C]: share * smooth(label) + (1 - share) * smooth(partner's label).

    labels, partners: int64 [...], the classes of both images. share [...]: the part of the view with the first image.
    smooth puts 1 - smoothing + smoothing / C on the class and smoothing / C on the others (timm's Mixup, torch's
    label_smoothing; GIFT's smooth_labels is another one).
    """
    own = F.one_hot(labels, num_classes) * share[..., None]
    other = F.one_hot(partners, num_classes) * (1 - share[..., None])
    return (1 - smoothing) * (own + other) + smoothing / num_classes


def rate_factor(epoch: int, epochs: int, eta: float) -> float:
    """(1 + cos(pi * e / E / eta)) / 2; epochs count from 0. With eta = 2 the rate ends at half."""
    return (1 + math.cos(math.pi * epoch / epochs / eta)) / 2


def label_batches(plan: list[str], epoch: int, in_pool: int, per_epoch: int, seed: int) -> list[int]:
    """Which label batches a soft epoch uses: the next ones of a random order of the pool.

    A new order is drawn when the old one is used up, and when a phase begins. in_pool is a multiple of per_epoch.
    """
    begin = epoch
    while begin > 0 and plan[begin - 1] == plan[epoch]:
        begin -= 1
    rounds, done = divmod((epoch - begin) * per_epoch, in_pool)
    order = common.shuffled(in_pool, seed, common.ORDER, begin, rounds)
    return order[done : done + per_epoch].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Training


@dataclass
class Training:
    """How a student is trained."""

    order: str
    soft_epochs: int
    hard_epochs: int
    lr: float
    eta: float  # the larger, the less the learning rate falls
    squared: bool = False  # ours: multiply the loss of the soft phases by T^2, see train_student


def training_for(ipc: int, lr=None, eta=None, **more) -> Training:
    """The rate and eta of the released hyper.yaml for ResNet-18; IPC 1 as on CIFAR-100. What is given replaces them."""
    return Training(lr=lr or (5e-4 if ipc < 10 else 1e-3), eta=eta or (1.0 if ipc >= 50 else 2.0), **more)


def hard_batches(distilled: Distilled, data: Dataset, batch_size: int, seed: int, epoch: int):
    """Yield (views, targets) of a hard epoch: new crops, flips and CutMix; smoothed hard labels of both images.

    Ours: the last, smaller batch is dropped, as in the pool. CutMix's partner is a random image of the batch (released:
    the batch in reverse).
    """
    side = data.image_size
    count = len(distilled.images) // batch_size
    order = common.shuffled(len(distilled.images), seed, common.ORDER, epoch)[: count * batch_size]
    order = common.send(order.view(count, batch_size), data.device)
    for steps in common.steps_together(range(count), batch_size, side, data.device):
        streams = [(seed, common.VIEW, epoch, step) for step in steps]
        draws = torch.stack([lpqld.view_draws(batch_size, side, "cutmix", True, *stream) for stream in streams])
        draws = common.send(draws, data.device)
        numbers = order[steps[0] : steps[-1] + 1]
        views = lpqld.mixed_views(distilled.images[numbers.flatten()], draws, "cutmix", data.colours)
        labels = distilled.labels[numbers]
        top, left, bottom, right, partner = draws[..., 5:10].long().unbind(-1)
        share = 1 - (bottom - top) * (right - left) / side**2
        targets = smoothed_mixed_labels(labels, labels.gather(1, partner), share, data.num_classes)
        yield from zip(views.split(batch_size), targets, strict=True)


def train_student(
    data: Dataset, distilled: Distilled, pool: lpqld.LabelPool, training: Training, arch: str, seed: int, progress: Path
) -> dict:
    """Train one student. Test it after the last epoch.

    Both losses are lpqld.alignment_loss: KL at T = 20 without T^2, and at T = 1. The latter differs from the released
    cross-entropy by the entropy of the targets, which has no gradient.

    Without T^2 the gradients of a soft phase are some 400 times as small as those of the hard phase. AdamW divides them
    by the root of a mean of squared gradients, of which each step keeps 0.999. So the hard phase dominates this mean
    until 0.999^steps = 1 / 400^2, for 12,000 steps. A soft phase is shorter: with 1,000 images, 75 epochs of 62 steps.
    """
    student = common.new_student(data, arch, seed)
    optimizer = lpqld.make_optimizer(student, "adamw", training.lr, WEIGHT_DECAY)
    plan = phases(training.order, training.soft_epochs, training.hard_epochs)
    log = {}
    for epoch in common.student_epochs(student, optimizer, len(plan), seed, log, progress):
        common.set_rate(optimizer, training.lr * rate_factor(epoch, len(plan), training.eta))
        if plan[epoch] == "soft":
            numbers = label_batches(plan, epoch, len(pool.values), pool.per_epoch, seed)
            batches = pool.batches(numbers, TEMPERATURE)
            temperature, factor = TEMPERATURE, TEMPERATURE**2 if training.squared else 1.0
        else:
            batches = hard_batches(distilled, data, pool.settings.batch_size, seed, epoch)
            temperature, factor = 1.0, 1.0
        for views, targets in batches:
            log["loss"], _ = lpqld.training_step(student, optimizer, views, targets, temperature, factor)
    top1, top5 = common.accuracy(student, data.test, data.colours)
    return {"seed": seed, "top1": top1, "top5": top5, "seconds": log["seconds"]}


def students(data: Dataset, distilled: Distilled, pool: lpqld.LabelPool, training: Training, arch: str) -> Students:
    """The settings, the folder and the training of these students; common.train_students trains them."""
    settings = {"stage": "hald", "labels": pool.info["digest"], "arch": arch, **asdict(training)}
    train = partial(train_student, data, distilled, pool, training, arch)
    name = f"hald-{distilled.name}-{arch}-{training.order}"
    return common.students_of(data, distilled, name, settings, train, labels=pool.info, label_bytes=pool.info["bytes"])


# ---------------------------------------------------------------------------------------------------------------------
# The script


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    add("--images", default="rded", help=f"{synthesize.IMAGES_HELP} (default: rded)")
    add("--labels-per-class", type=positive, default=100, help="soft labels, a multiple of --ipc (default: 100)")
    add("--top-k", type=positive, help="logits kept of each soft label (default: all)")
    add("--order", choices=ORDERS, default=ORDERS[0], help=f"of the phases (default: {ORDERS[0]})")
    add("--soft-epochs", type=positive, default=150, help="default: 150")
    add("--hard-epochs", type=positive, default=150, help="default: 150")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: 1e-3; below IPC 10 5e-4)")
    add("--eta", type=common.at_least(1, float), help="1: the rate falls to 0; 2: to half (default: 2; IPC 50: 1)")
    add("--squared", action="store_true", help="multiply the loss of the soft phases by T^2 = 400 (ours)")
    add("--repeats", type=positive, default=1, help="students, with seeds --seed, --seed + 1 ... (default: 1)")
    common.add_common_options(parser)
    args = parser.parse_args(argv)
    for kind, epochs in (("soft", args.soft_epochs), ("hard", args.hard_epochs)):
        if args.order.split("-").count(kind) > epochs:
            raise UserError(f"--{kind}-epochs {epochs}: {args.order} has two phases of them")

    data, arch, teacher_arch = common.start(args, args.images)
    distilled = synthesize.find_images(args.images, data, args.ipc, teacher_arch)  # None: they are made below
    ipc = distilled.info["ipc"] if distilled else args.ipc or common.DEFAULT_IPC
    if args.labels_per_class % ipc:
        raise UserError(f"--labels-per-class {args.labels_per_class}: {ipc} images of a class take a multiple of {ipc}")
    count = len(distilled.images) if distilled else ipc * data.num_classes
    k = args.top_k or data.num_classes
    size = min(BATCH_SIZE, count)
    labels = lpqld.LabelSettings(epochs=args.labels_per_class // ipc, batch_size=size, prune=0.0, top_k=k)
    lpqld.check_labels(labels, count, data)
    teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    distilled = synthesize.given_or_made(distilled, args.images, data, teacher, args.ipc, args.seed)
    pool = lpqld.label_pool(data, teacher, distilled, labels, args.seed)
    epochs = {"soft_epochs": args.soft_epochs, "hard_epochs": args.hard_epochs}
    training = training_for(ipc, order=args.order, lr=args.lr, eta=args.eta, squared=args.squared, **epochs)
    stored = f"{pool.values[..., 0].numel():,} in batches of {size}"  # the last, smaller batch of a pass is dropped
    print(f"labels:   {stored}, {k} of {data.num_classes} logits each: {pool.info['bytes']:,} bytes")
    print(f"student:  {common.student_line(data, arch, training.lr)}")
    print(f"          {args.order}, {args.soft_epochs} epochs of soft and {args.hard_epochs} of hard labels")
    seeds = range(args.seed, args.seed + args.repeats)
    result = common.train_students(students(data, distilled, pool, training, arch), seeds)
    common.print_result(result, data, teacher, "lpqld.py, --order soft-hard")
    print(f"{'label storage':38} {result['label_bytes']:,} bytes")
    return result


if __name__ == "__main__":
    common.run_script(main)
