"""One honest table for any distilled set: is it better than random images, and does it hold elsewhere?

    python evaluate.py --images runs/fashion/rded-ipc10
    python evaluate.py --images A B random --losses gift kl ce --optimizers adamw sgd --archs conv3 resnet18_modified
    python evaluate.py --images rded sre2l lpld --ipc 1 --repeats 3           # made here
    python evaluate.py --images A --labels A/labels.pt                       # a stored label pool instead of a teacher
    python evaluate.py --images rded --dataset cifar10 --protocol rded --colours imagenet   # as RDED reports itself

Each cell trains students on a set: by gift.py's protocol, by RDED's own, or with --labels by lpqld.py's. A row shows
  top-1, top-5   of the last epoch on the test set, mean and population std over repeats: the result;
  best           top-1, the best of the checks on the test set that the released code chooses from; it flatters;
  IOR            improvement over random: top-1 minus that of as many random real images, trained in the same way;
  HLR            hard label recovery: top-1 of the full data minus that of the set, both with hard labels (loss ce);
                 RDED's protocol mixes images by CutMix, and their hard labels not, so there it says little;
  images, labels bytes: files of the set; and its pool, or the teacher's weights where labels are made while training;
  share          both, as a share of the original training set's bytes;
  similarity     within a class, of the teacher's features (mean cosine over pairs): what LPLD lowers;
  s              seconds of a student's training.
IOR and HLR as DD-Ranking (arXiv 2505.13300) defines them. Written: evaluate.json, evaluate.md, a picture of each set.
"""

import itertools
import math
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor

import common
import gift
import lpqld
import synthesize
from common import Dataset, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The metrics


def improvement_over_random(top1: float, random_top1: float | None) -> float | None:
    """IOR: acc(distilled) - acc(random set of the same size), same labels and training; percentage points."""
    return None if random_top1 is None else top1 - random_top1


def hard_label_recovery(full_top1: float, hard_top1: float) -> float:
    """HLR: acc(full data, hard labels) - acc(distilled, hard labels); percentage points, the smaller the better."""
    return full_top1 - hard_top1


def image_bytes(path: Path) -> int:
    """Bytes of a set's image files, or of its data.pt."""
    for file in (path, path / "data.pt"):
        if file.is_file():
            return os.path.getsize(file)
    extensions = torchvision.datasets.folder.IMG_EXTENSIONS
    return sum(os.path.getsize(file) for file in path.glob("*/*") if file.suffix.lower() in extensions)


def weight_bytes(teacher: Teacher) -> int:
    return sum(value.numel() * value.element_size() for value in teacher.model.state_dict().values())


# ---------------------------------------------------------------------------------------------------------------------
# RDED's own student protocol (arXiv 2312.03526; released code: LINs-lab/RDED, argument.py and validation/)

RDED_DECAY = {"adamw": 0.01, "sgd": 1e-4}  # sgd, momentum 0.9: an option of the release, for no published figure
RDED_RATES = {  # of AdamW by student; for all others 1e-3: ConvNets and ResNets as released, the rest ours
    "vgg11": 5e-4,
    "efficientnet_b0": 2e-3,
    "mobilenet_v2": 2.5e-3,
    "alexnet": 1e-4,
    "vit_b_16": 1e-4,
    "swin_v2_t": 1e-4,
}
RDED_SPECIAL = ("cifar100", "conv3", "conv3")  # data set, teacher, student: batches of 25 and a rate of 2e-3


@dataclass
class RdedProtocol:
    """Released: 300 epochs, KL at T = 20 against labels made online, AdamW, decay on weights of several dimensions."""

    arch: str
    loss: str
    optimizer: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    factor: int  # tiles per side of mosaics; 1: whole images
    enlarge: int | None  # test images are resized to this side, and their centre is cut out


def rded_learning_rate(dataset: str, teacher: str, arch: str, optimizer: str) -> float:
    if optimizer == "sgd":
        return 0.1
    return 2e-3 if (dataset, teacher, arch) == RDED_SPECIAL else RDED_RATES.get(arch, 1e-3)


def rded_batch_size(dataset: str, teacher: str, arch: str, ipc: int, num_classes: int) -> int:
    """10 at IPC 1, 50 at 10, 100 at 50 (between them, the one below: ours); twice that for 100 and for 1000 classes."""
    if dataset == "tinyimagenet":
        return 100
    if (dataset, teacher, arch) == RDED_SPECIAL:
        return 25
    size = 10 if ipc < 10 else 50
    size = 100 if ipc >= 50 else size
    return 2 * size if num_classes in (100, 1000) else size


def rded_protocol(
    data: Dataset, teacher: Teacher, distilled: Distilled, arch, loss, optimizer, factor=1, epochs=None
) -> RdedProtocol:
    which = data.name, teacher.info["arch"], arch
    batch_size = rded_batch_size(*which, distilled.info["ipc"], data.num_classes)
    # Released: S // 7 * 8, then the centre: 32 -> 32, 64 -> 72. Sets with a margin of their own keep it: 256 -> 224 as
    # released, 146 -> 128 as GIFT's (released: 144)
    larger = data.image_size // 7 * 8
    enlarge = larger if larger > data.image_size and data.test.fit != "margin" else None
    return RdedProtocol(
        arch=arch,
        loss=loss,
        optimizer=optimizer,
        lr=rded_learning_rate(*which, optimizer),
        weight_decay=RDED_DECAY[optimizer],
        epochs=epochs or 300,
        batch_size=min(len(distilled.images), batch_size),
        factor=factor,
        enlarge=enlarge,
    )


def rded_learning_rate_factor(epoch: int, epochs: int) -> float:
    """(1 + cos(pi * e / (2 * E))) / 2, epochs from 0, as released: a cosine that ends half way down, at one half."""
    return (1 + math.cos(math.pi * epoch / epochs / 2)) / 2


def shuffle_strips(images: Tensor, factor: int, *seed: int) -> Tensor:
    """Mosaics with their `factor` columns, then their rows, in a random order, each image its own. [B, 3, S, S]."""
    count = len(images)
    side = images.shape[-1]
    orders = common.random_stream(*seed).random_sample((2, count, factor)).argsort(-1)
    pixels = orders[..., None] * (side // factor) + np.arange(side // factor)
    pixels = common.send(torch.from_numpy(pixels), images.device)
    columns, rows = pixels.view(2, count, 1, 1, side).expand(-1, -1, 3, side, -1)
    return images.gather(3, columns).gather(2, rows.transpose(2, 3))


def rded_batches(distilled: Distilled, data: Dataset, protocol: RdedProtocol, seed: int, epoch: int):
    """(images, labels) of an epoch's steps: strips shuffled, a crop (nothing at factor 1), flip, CutMix; released."""
    side = data.image_size
    size = protocol.batch_size
    factor = protocol.factor
    order = common.shuffled(len(distilled.images), seed, common.ORDER, epoch)
    batches = common.split_batches(common.send(order, data.device), size)
    whole = [step for step, batch in enumerate(batches) if len(batch) == size]
    groups = common.steps_together(whole, size, side, data.device)
    groups += [[step] for step in range(len(whole), len(batches))]  # a last one of another size, by itself
    for steps in groups:
        count = len(batches[steps[0]])
        images = []
        draws = []
        for step in steps:
            part = distilled.images[batches[step]]
            if factor > 1:
                part = shuffle_strips(part, factor, seed, common.TILES, epoch, step)
            stream = (seed, common.VIEW, epoch, step)
            images.append(part)
            draws.append(lpqld.view_draws(count, side, "cutmix", True, *stream, scale=(1 / factor, 1)))
        draws = common.send(torch.stack(draws), data.device)
        views = lpqld.label_view(torch.cat(images), draws, "cutmix", data.colours)
        labels = [distilled.labels[batches[step]] for step in steps]
        yield from zip(views.split(count), labels, strict=True)


def train_rded_student(
    data: Dataset, teacher: Teacher, distilled: Distilled, protocol: RdedProtocol, seed: int, progress: Path
) -> dict:
    """Train one student by RDED's protocol; it is tested every tenth epoch of the last fifth, as released."""
    student = common.new_student(data, protocol.arch, seed)
    optimizer = lpqld.make_optimizer(student, protocol.optimizer, protocol.lr, protocol.weight_decay)
    epochs = protocol.epochs
    log = {"checks": []}
    for epoch in common.epochs_of(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, protocol.lr * rded_learning_rate_factor(epoch, epochs))
        for images, labels in rded_batches(distilled, data, protocol, seed, epoch):
            with torch.no_grad(), common.autocast(data.device):
                student(images)  # released, for a figure on its log: BatchNorm's statistics see the mixed images twice
            log["loss"] = gift.training_step(student, teacher.model, optimizer, images, labels, protocol.loss)
        is_last = epoch == epochs - 1
        if is_last or (epoch % 10 == 9 and epoch > 0.8 * epochs):
            log["top1"], log["top5"] = common.accuracy(student, data.test, data.colours, enlarge=protocol.enlarge)
            log["checks"].append((epoch + 1, log["top1"], log["top5"]))
    names = ("top1", "top5", "checks", "seconds")
    return {"seed": seed, **{name: log[name] for name in names}}


def train_rded_students(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: RdedProtocol, seeds) -> dict:
    settings = {"stage": "rded protocol", "teacher": teacher.info["digest"], **asdict(protocol)}

    def train(seed, progress):
        return train_rded_student(data, teacher, distilled, protocol, seed, progress)

    name = f"rded-{distilled.name}-{protocol.arch}-{protocol.loss}-{protocol.optimizer}"
    return common.run_students(data, distilled, name, settings, seeds, train, teacher=teacher.info)


# ---------------------------------------------------------------------------------------------------------------------
# Sets and cells


class Set(NamedTuple):
    name: str  # as on the command line
    distilled: Distilled
    bytes: int
    similarity: float | None

    @property
    def is_random(self) -> bool:
        return self.distilled.info["settings"].get("method") == "random"

    @property
    def is_even(self) -> bool:
        return len(self.distilled.labels.bincount().unique()) == 1


class Cell(NamedTuple):
    set: Set
    arch: str
    loss: str  # of gift.py, or the name of a label pool
    optimizer: str


class Training(NamedTuple):
    """What all cells have in common."""

    protocol: str  # gift, rded or pool
    epochs: int | None
    seeds: range
    view_factor: int | None
    fixed: int | None  # logits of the one label of each plain image, with --fixed-labels
    pools: dict  # label pool of each set, by the set's digest, with --labels


def find_images(name: str, data: Dataset, ipc, teacher_arch: str) -> Distilled | None:
    """--ipc is for the sets that are made here; the others have the number that they have."""
    return synthesize.find_images(name, data, ipc if name in synthesize.METHODS else None, teacher_arch)


def describe_set(name, distilled: Distilled, data: Dataset, teacher: Teacher | None) -> Set:
    similarity = synthesize.similarity_of(teacher, distilled, data.colours) if teacher else None
    return Set(name, distilled, image_bytes(Path(distilled.info["folder"])), similarity)


def sets_to_compare(names, given, data: Dataset, teacher: Teacher | None, ipc, seed: int) -> list[Set]:
    """These sets, made here where they are not given, and a random one of each of their sizes."""
    sets = []
    for name, distilled in zip(names, given, strict=True):
        distilled = distilled or synthesize.distil(name, data, teacher, ipc, seed)
        sets.append(describe_set(name, distilled, data, teacher))
    if teacher:
        sets = with_random_ones(sets, data, teacher, ipc or 10, seed)
    return each_once(sets)


def with_random_ones(sets: list[Set], data: Dataset, teacher: Teacher, ipc: int, seed: int) -> list[Set]:
    """The sets, and a random one for each number of images per class that they have; random ones first, none twice."""
    fewest = data.train.labels.bincount().min()
    for size in sorted({kept.distilled.info["ipc"] for kept in sets if kept.is_even}):
        if size <= fewest:
            name = "random" if len(sets) == 1 or size == ipc else f"random, {size} per class"
            distilled = synthesize.distil("random", data, None, size, seed)
            sets = [*sets, describe_set(name, distilled, data, teacher)]
    return sets


def each_once(sets: list[Set]) -> list[Set]:
    """Random sets first; of several with the same images the first."""
    found = {}
    for kept in sets:
        found.setdefault(kept.distilled.info["digest"], kept)
    return sorted(found.values(), key=lambda kept: not kept.is_random)


def train_cell(data: Dataset, teacher: Teacher | None, cell: Cell, training: Training) -> dict:
    """Students of a cell, by GIFT's or RDED's protocol or, with a label pool, LPQLD's; finished ones are read."""
    distilled = cell.set.distilled
    epochs = training.epochs
    factor = training.view_factor
    if training.protocol == "pool":
        return train_from_pool(data, cell, training)
    if training.protocol == "rded":
        protocol = rded_protocol(data, teacher, distilled, cell.arch, cell.loss, cell.optimizer, factor, epochs)
        result = train_rded_students(data, teacher, distilled, protocol, training.seeds)
    else:
        options = {"epochs": epochs, "view_factor": factor, "fixed": training.fixed}
        protocol = gift.protocol_for(data, distilled, cell.arch, cell.loss, cell.optimizer, **options)
        result = gift.train_students(data, teacher, distilled, protocol, training.seeds)
    return {"label_bytes": 0 if cell.loss == "ce" else weight_bytes(teacher), **result}


def pools_of(sets: list[Set], data: Dataset, teacher: Teacher | None, pool: lpqld.LabelPool, seed: int) -> dict:
    """The stored pool for the set that it belongs to; for a baseline one that is made in the same way."""
    pools = {pool.info["settings"]["images (hash)"]: pool}
    for kept in sets:
        digest = kept.distilled.info["digest"]
        if digest not in pools:
            pools[digest] = lpqld.label_pool(data, teacher, kept.distilled, pool.made, seed)
    return pools


def train_from_pool(data: Dataset, cell: Cell, training: Training) -> dict:
    """By lpqld.py's protocol for the data set."""
    distilled = cell.set.distilled
    pool = training.pools[distilled.info["digest"]]
    protocol = lpqld.protocol_for(data, len(distilled.images))
    protocol = lpqld.protocol_of_pool(protocol, pool, training.epochs)
    return lpqld.train_students(data, distilled, pool, protocol, cell.arch, training.seeds)


def row_of(cell: Cell, result: dict, data: Dataset, random_top1: float | None, full_top1: float | None) -> dict:
    top1 = result["top1"]["mean"]
    size = cell.set.bytes + result["label_bytes"]
    seconds = [student["seconds"] for student in result["students"]]
    return {
        **names_of(cell),
        "top1": result["top1"],
        "top5": result["top5"],
        "best_check_top1": result.get("best_check_top1"),
        "ior": None if cell.set.is_random else improvement_over_random(top1, random_top1),
        "hlr": hard_label_recovery(full_top1, top1) if cell.loss == "ce" and full_top1 is not None else None,
        "image_bytes": cell.set.bytes,
        "label_bytes": result["label_bytes"],
        "share_of_original": size / data.train.stored_bytes,
        "within_class_similarity": cell.set.similarity,
        "seconds_per_student": sum(seconds) / len(seconds),
        "result": result["file"],
    }


def names_of(cell: Cell) -> dict:
    ipc = cell.set.distilled.info["ipc"]
    return {"images": cell.set.name, "ipc": ipc, "arch": cell.arch, "loss": cell.loss, "optimizer": cell.optimizer}


# ---------------------------------------------------------------------------------------------------------------------
# The table


def number(form):
    return lambda value: "-" if value is None else form.format(value)


COLUMNS = {  # heading: (width, key of a row, how it is shown)
    "images": (22, "images", str),
    "IPC": (4, "ipc", str),
    "network": (18, "arch", str),
    "loss": (10, "loss", str),
    "optimizer": (9, "optimizer", str),
    "top-1, %": (11, "top1", common.spread),
    "top-5, %": (11, "top5", common.spread),
    "best": (5, "best_check_top1", lambda best: f"{best['mean']:.1f}" if best else "-"),
    "IOR": (6, "ior", number("{:+.1f}")),
    "HLR": (6, "hlr", number("{:.1f}")),
    "images, B": (10, "image_bytes", number("{:,}")),
    "labels, B": (11, "label_bytes", number("{:,}")),
    "share": (7, "share_of_original", number("{:.1%}")),
    "similarity": (10, "within_class_similarity", number("{:.3f}")),
    "s": (6, "seconds_per_student", number("{:.0f}")),
}


def cells_of(row: dict) -> list[str]:
    """A row as words; "-" where there is nothing to show, and what went wrong in place of a result."""
    words = [show(row[key]) for _, key, show in COLUMNS.values() if key in row]
    if "failed" in row:
        words.append(f"failed: {row['failed']}")
    return words + [""] * (len(COLUMNS) - len(words))


def print_row(words):
    widths = [width for width, _, _ in COLUMNS.values()]
    name = words[0] if len(words[0]) <= widths[0] else "…" + words[0][1 - widths[0] :]
    others = [f"{word:>{width}}" for word, width in zip(words[1:], widths[1:], strict=True)]
    print(" ".join([f"{name:{widths[0]}}", *others]).rstrip(), flush=True)


def markdown(rows: list[dict], heading: str) -> str:
    lines = [heading, "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join(lines + ["| " + " | ".join(cells_of(row)) + " |" for row in rows]) + "\n"


def heading_of(about: dict, made: dict) -> str:
    settings = about["settings"]
    labelled = "no teacher"
    if about["teacher"]:
        labelled = f"teacher {about['teacher']['arch']}, {about['teacher']['accuracy']:.1f} %"
    students = f"last epoch, {len(settings['seeds'])} students each"
    where = f"{made['device']}, torch {made['torch']}, {made['date'][:10]}"
    return f"`{made['command']}`: {settings['data']['dataset']}, {labelled}; {students}; {where}"


def write_tables(folder: Path, rows: list[dict], about: dict, device):
    """evaluate.json and evaluate.md, as far as the sweep has come."""
    made = common.made_with(device)
    text = markdown(rows, heading_of(about, made))
    common.write_atomically(folder / "evaluate.md", lambda beside: beside.write_text(text, "utf-8", "replace"))
    common.save_kept(folder / "evaluate.json", {"rows": rows, **about, "made_with": made})


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.common_options(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    methods = ", ".join(synthesize.METHODS)
    add("--images", nargs="+", required=True, help=f"distilled sets: folders, data.pt files, or {methods}, made here")
    add("--archs", nargs="+", help="students (default: --arch)")
    add(
        "--losses",
        nargs="+",
        choices=gift.LOSSES,
        help="default: gift (fixed labels: softce) and ce, for HLR; RDED: kl",
    )
    add("--protocol", choices=("gift", "rded"), help="of the students' training (default: gift)")
    add("--optimizers", nargs="+", choices=gift.OPTIMIZERS, help="default: adamw")
    add("--repeats", type=positive, default=3, help="students of each cell, seeds --seed, --seed + 1, ... (default: 3)")
    add("--epochs", type=positive, help="of the students (default: by data set)")
    add("--view-factor", type=positive, help="tiles per side of mosaics (default: by the sets)")
    add("--labels", type=common.path_of, help="a label pool of lpqld.py for the one set, instead of a teacher")
    add("--fixed-labels", type=positive, nargs="?", const=gift.ALL_LOGITS, metavar="K", help=gift.FIXED_HELP)
    args = parser.parse_args(argv)
    if args.labels:
        others = args.losses or args.optimizers or args.protocol or args.fixed_labels or args.view_factor
        if len(args.images) > 1 or others or args.images[0] in synthesize.METHODS:
            raise UserError("--labels holds the labels of one set, and lpqld.py's protocol: one folder as --images, no "
                            "--losses, --optimizers, --protocol, --fixed-labels or --view-factor")  # fmt: skip
    if args.protocol == "rded" and args.fixed_labels:
        raise UserError("--fixed-labels goes with GIFT's protocol")
    if args.protocol == "rded" and set(args.optimizers or []) - set(RDED_DECAY):
        raise UserError(f"--optimizers: RDED's protocol has {', '.join(RDED_DECAY)}")
    if args.archs and not args.arch:
        args.arch = args.archs[0]
    args.losses = args.losses or default_losses(args.labels, args.protocol, args.fixed_labels)
    args.optimizers = args.optimizers or ["(pool)" if args.labels else "adamw"]
    args.protocol = "pool" if args.labels else args.protocol or "gift"
    return args


def default_losses(labels: Path | None, protocol: str | None, fixed_labels: int | None) -> list[str]:
    if labels:
        return [labels.name]
    if protocol == "rded":
        return ["kl"]
    return ["softce", "ce"] if fixed_labels else ["gift", "ce"]


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args)
    archs = args.archs or [arch]
    for name in archs:
        common.build_model(name, data.num_classes, data.image_size)  # complains in good time
    gift.check_view_factor(args.view_factor, data)
    fixed = gift.logits_kept(args.fixed_labels, args.losses, data)
    given = [find_images(name, data, args.ipc, teacher_arch) for name in args.images]
    pool = lpqld.load_pool(args.labels, data, given[0]) if args.labels else None
    teacher = None
    if args.teacher or not args.labels:
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)

    sets = sets_to_compare(args.images, given, data, teacher, args.ipc, args.seed)
    view_factor = args.view_factor
    if args.protocol == "rded":
        view_factor = rded_factor(args.view_factor, sets, data)
    full = {}
    if "ce" in args.losses:
        full = common.once(
            lambda: {name: full_data_top1(data, teacher, name, args.teacher_epochs, args.seed) for name in archs}
        )

    seeds = range(args.seed, args.seed + args.repeats)
    pools = pools_of(sets, data, teacher, pool, args.seed) if pool else {}
    training = Training(args.protocol, args.epochs, seeds, view_factor, fixed, pools)
    settings = {
        "stage": "evaluate",
        "data": data.describe(),
        "images": [kept.distilled.info["digest"] for kept in sets],
        "teacher": teacher.info["digest"] if teacher else None,
        "archs": archs,
        "losses": args.losses,
        "optimizers": args.optimizers,
        "epochs": args.epochs,
        "seeds": list(seeds),
        "labels": pool.info["digest"] if pool else None,
        "protocol": args.protocol,
        "precision": common.precision_on(data.device),
        "view_factor": view_factor,
    }
    if fixed:
        settings["fixed labels"] = fixed
    about = {
        "full_data_hard_label_top1": full,
        "original_bytes": data.train.stored_bytes,
        "settings": settings,
        "teacher": teacher.info if teacher else None,
        "sets": {kept.name: kept.distilled.info for kept in sets},
    }
    combined = itertools.product(archs, args.losses, args.optimizers, sets)
    cells = [Cell(kept, name, loss, optimizer) for name, loss, optimizer, kept in combined]
    if common.world > 1:
        train_ahead(data, teacher, cells, training)
    folder, rows = common.once(lambda: train_cells(data, teacher, cells, training, about))
    print_end(folder, rows, full)
    return {"rows": rows, **about, "made_with": common.made_with(data.device), "file": str(folder / "evaluate.json")}


def print_end(folder: Path, rows: list[dict], full: dict):
    """Under the table: what the full data reach, where things lie, and what failed."""
    known = ", ".join(f"{name} {top1:.1f} %" for name, top1 in full.items() if top1 is not None)
    print(f"\nfull data with hard labels: {known}" if known else "")
    print(f"table:    {folder / 'evaluate.md'}, {folder / 'evaluate.json'}; pictures: {folder}/grid-*.png")
    failed = [row["failed"] for row in rows if "failed" in row]
    if len(failed) == len(rows):
        raise UserError(f"every cell failed: {failed[0]}")
    if failed:
        print(f"warning: {len(failed)} of {len(rows)} cells failed", file=sys.stderr)


def train_ahead(data: Dataset, teacher: Teacher | None, cells: list[Cell], training: Training):
    """The processes share the students of all cells; process 0 finds them then. One that fails fails there again."""

    def train(job):
        cell, seed = job
        with suppress(UserError, RuntimeError, MemoryError):
            train_cell(data, teacher, cell, training._replace(seeds=[seed]))

    common.share(list(itertools.product(cells, training.seeds)), train)


def train_cells(data: Dataset, teacher: Teacher | None, cells: list[Cell], training: Training, about: dict):
    """(folder, rows): a row is printed and written as soon as it is there; one that fails is marked, others go on."""
    folder = common.stage_folder(data.runs, "evaluate", about["settings"])
    for distilled in {cell.set.distilled.info["digest"]: cell.set.distilled for cell in cells}.values():
        path = folder / f"grid-{distilled.info['digest']}.png"
        synthesize.save_grid(path, distilled.images, distilled.labels)
    rows = []
    random_top1 = {}
    print()
    print_row(list(COLUMNS))
    for cell in cells:
        alike = (cell.set.distilled.info["ipc"], cell.arch, cell.loss, cell.optimizer)
        try:
            result = train_cell(data, teacher, cell, training)
            if cell.set.is_random:
                random_top1.setdefault(alike, result["top1"]["mean"])
            baseline = random_top1.get(alike) if cell.set.is_even else None
            rows.append(row_of(cell, result, data, baseline, about["full_data_hard_label_top1"].get(cell.arch)))
        except (UserError, RuntimeError, MemoryError) as error:
            rows.append({**names_of(cell), "failed": common.one_line(error)[:200]})
        print_row(cells_of(rows[-1]))
        write_tables(folder, rows, about, data.device)
    return folder, rows


def rded_factor(asked: int | None, sets: list[Set], data: Dataset) -> int:
    """Of every set, as a baseline is trained in the same way: what is asked for, or the most that a set says."""
    factor = asked or max(kept.distilled.info["settings"].get("factor", 1) for kept in sets)
    gift.check_view_factor(factor, data)
    print(f"          RDED's protocol, mosaics of {factor} x {factor}")
    if data.colours != common.COLOURS["imagenet"]:
        print("hint:     RDED's own figures have ImageNet's colours on every data set: --colours imagenet")
    return factor


def full_data_top1(data: Dataset, teacher: Teacher, arch: str, epochs, seed) -> float | None:
    """Top-1 of this network trained on the full data with hard labels: the teacher's, or another's of the same recipe.

    ImageNet-1K takes torchvision's weights. None, with a warning, where that network learns nothing in its epochs.
    """
    if arch == teacher.info["arch"]:
        return teacher.info["accuracy"]
    try:
        return common.load_teacher(data, arch, None, epochs, seed).info["accuracy"]
    except UserError as error:
        print(f"warning: no HLR for {arch}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    common.run_script(main)
