"""A table for any distilled set: is it better than random images, and does it hold with other networks and losses?

    python evaluate.py --images rded sre2l lpld --ipc 1                       # sets made here
    python evaluate.py --images A B random --losses gift kl ce --optimizers adamw sgd --archs conv3 resnet18_modified
    python evaluate.py --images A --labels A/labels.pt                        # a stored label pool, without a teacher
    python evaluate.py --images rded --dataset cifar10 --protocol rded --colours imagenet     # as RDED reports itself

Each row trains students on one set: by gift.py's protocol, by RDED's own, or with --labels by lpqld.py's. It shows
  top-1, top-5   on the test set after the last epoch, mean ± population std over the students: the result;
  best           the best top-1 of the checks on the test set, which the released code reports; not the result;
  IOR            improvement over random: top-1 minus that of as many random real images, trained in the same way;
  HLR            hard label recovery: top-1 of the full data minus that of the set, both with hard labels (loss ce);
                 RDED's protocol mixes images by CutMix but not their hard labels, so there HLR says little;
  images, B      bytes of the set's files;
  labels, B      bytes of the pool, or of the teacher's weights if it labels online; 0 with loss ce.
evaluate.md and evaluate.json, which are written too, show three more columns:
  share          bytes of images and labels together, divided by those of the original training set;
  similarity     of the images of a class: mean cosine of the teacher's features over pairs. LPLD lowers it;
  s              seconds to train one student.
IOR and HLR are defined as in DD-Ranking (arXiv 2505.13300). A picture of each set is written as well.

gift.py and lpqld.py are files to be read alone. So both have a `train_student`, a `training_step` and a
`learning_rate_factor` of their own, for different protocols. RDED's protocol is in this file.
"""

import itertools
import math
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import common
import gift
import lpqld
import synthesize
from common import Dataset, Students, Teacher, UserError
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The metrics


def improvement_over_random(top1: float, random_top1: float | None) -> float | None:
    """IOR: acc(distilled) - acc(random set of the same size), same labels and training; percentage points."""
    return None if random_top1 is None else top1 - random_top1


def hard_label_recovery(full_top1: float, hard_top1: float) -> float:
    """HLR: acc(full data, hard labels) - acc(distilled, hard labels); percentage points. Smaller is better."""
    return full_top1 - hard_top1


def image_bytes(path: Path) -> int:
    """Bytes of a set's image files, or of its data.pt."""
    for file in (path, path / "data.pt"):
        if file.is_file():
            return file.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*/**/*") if common.is_image(file))


def weight_bytes(teacher: Teacher) -> int:
    return sum(value.numel() * value.element_size() for value in teacher.model.state_dict().values())


# ---------------------------------------------------------------------------------------------------------------------
# RDED's own student protocol (arXiv 2312.03526; released code: LINs-lab/RDED, argument.py and validation/)

RDED_DECAY = {"adamw": 0.01, "sgd": 1e-4}  # sgd, momentum 0.9, is an option of the release; no published figure uses it
RDED_RATES = {  # of AdamW, by student. All others have 1e-3: ConvNets and ResNets as released, the rest is ours
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
    """RDED's training. Released: 300 epochs, KL at T = 20, labels made online, AdamW, no decay on biases and norms."""

    arch: str
    loss: str
    optimizer: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    factor: int  # tiles per side of mosaics; 1: whole images
    enlarge: int | None  # resize test images to this side, and cut out their centre


def rded_learning_rate(dataset: str, teacher: str, arch: str, optimizer: str) -> float:
    if optimizer == "sgd":
        return 0.1
    return 2e-3 if (dataset, teacher, arch) == RDED_SPECIAL else RDED_RATES.get(arch, 1e-3)


def rded_batch_size(dataset: str, teacher: str, arch: str, ipc: int, num_classes: int) -> int:
    """10 at IPC 1, 50 at 10, 100 at 50, and twice that for 100 and 1000 classes; Tiny-ImageNet 100. CIFAR-100 with a
    ConvNet-3 as teacher and student: 25. Ours: between two of these IPCs, the value of the lower one.
    """
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
    # Released: resize to S // 7 * 8 and cut out the centre: 32 -> 32, 64 -> 72. Data sets that have a margin already
    # keep it: 256 -> 224 as released, 146 -> 128 as GIFT (released: 144).
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
    """(1 + cos(pi * e / (2 * E))) / 2, as released: a cosine that ends half way down. Epochs count from 0."""
    return (1 + math.cos(math.pi * epoch / epochs / 2)) / 2


def shuffle_strips(images: Tensor, factor: int, *seed: int) -> Tensor:
    """Put the `factor` columns of each mosaic, then its rows, in a random order. [B, 3, S, S] -> [B, 3, S, S]."""
    count = len(images)
    side = images.shape[-1]
    orders = common.random_stream(*seed).random_sample((2, count, factor)).argsort(-1)
    pixels = orders[..., None] * (side // factor) + np.arange(side // factor)
    pixels = common.send(torch.from_numpy(pixels), images.device)
    columns, rows = pixels.view(2, count, 1, 1, side).expand(-1, -1, 3, side, -1)
    return images.gather(3, columns).gather(2, rows.transpose(2, 3))


def rded_batches(distilled: Distilled, data: Dataset, protocol: RdedProtocol, seed: int, epoch: int):
    """Yield (images, labels) of each step: strips shuffled, crop (none at factor 1), flip, CutMix, all as released."""
    side = data.image_size
    size = protocol.batch_size
    factor = protocol.factor
    order = common.shuffled(len(distilled.images), seed, common.ORDER, epoch)
    batches = common.split_batches(common.send(order, data.device), size)
    whole = [step for step, batch in enumerate(batches) if len(batch) == size]
    groups = common.steps_together(whole, size, side, data.device)
    groups += [[step] for step in range(len(whole), len(batches))]  # the last batch, if its size differs
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
        views = lpqld.mixed_views(torch.cat(images), draws, "cutmix", data.colours)
        labels = [distilled.labels[batches[step]] for step in steps]
        yield from zip(views.split(count), labels, strict=True)


def train_rded_student(
    data: Dataset, teacher: Teacher, distilled: Distilled, protocol: RdedProtocol, seed: int, progress: Path
) -> dict:
    """Train one student by RDED's protocol. Test it every tenth epoch of the last fifth, as released."""
    student = common.new_student(data, protocol.arch, seed)
    optimizer = lpqld.make_optimizer(student, protocol.optimizer, protocol.lr, protocol.weight_decay)
    epochs = protocol.epochs
    log = {"checks": []}
    for epoch in common.student_epochs(student, optimizer, epochs, seed, log, progress):
        common.set_rate(optimizer, protocol.lr * rded_learning_rate_factor(epoch, epochs))
        for images, labels in rded_batches(distilled, data, protocol, seed, epoch):
            with torch.no_grad(), common.autocast(data.device):
                student(images)  # released, for its log: BatchNorm's statistics see the mixed images twice
            teacher_logits = gift.soft_labels(teacher.model, images)
            log["loss"] = gift.training_step(student, optimizer, images, teacher_logits, labels, protocol.loss)
        is_last = epoch == epochs - 1
        if is_last or (epoch % 10 == 9 and epoch > 0.8 * epochs):
            log["top1"], log["top5"] = common.accuracy(student, data.test, data.colours, enlarge=protocol.enlarge)
            log["checks"].append((epoch + 1, log["top1"], log["top5"]))
    return {"seed": seed, **{name: log[name] for name in ("top1", "top5", "checks", "seconds")}}


def rded_students(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: RdedProtocol) -> Students:
    """The settings, the folder and the training of these students; common.train_students trains them."""
    settings = {"stage": "rded protocol", **asdict(protocol)}
    name = f"rded-{distilled.name}-{protocol.arch}-{protocol.loss}-{protocol.optimizer}"
    train = partial(train_rded_student, data, teacher, distilled, protocol)
    return common.students_of(data, distilled, name, settings, train, teacher)


def rded_factor(asked: int | None, sets: list, data: Dataset) -> int:
    """One factor for all sets: the given one, or the largest of the sets. The baseline is trained in the same way."""
    factor = asked or max(compared.distilled.info["settings"].get("factor", 1) for compared in sets)
    gift.check_view_factor(factor, data)
    print(f"          RDED's protocol, mosaics of {factor} x {factor}")
    if data.colours != common.COLOURS["imagenet"]:
        print("hint:     RDED's own figures have ImageNet's colours on every data set: --colours imagenet")
    return factor


# ---------------------------------------------------------------------------------------------------------------------
# The sets


class ComparedSet(NamedTuple):
    name: str  # as on the command line
    distilled: Distilled
    bytes: int
    similarity: float | None

    @property
    def is_random(self) -> bool:
        return self.distilled.info["settings"].get("method") == "random"

    @property
    def counts(self) -> list[int]:
        """The numbers of images per class that occur."""
        return sorted(set(self.distilled.labels.bincount().tolist()))


def describe_set(name, distilled: Distilled, data: Dataset, teacher: Teacher | None) -> ComparedSet:
    similarity = synthesize.similarity_of(teacher, distilled, data.colours) if teacher else None
    return ComparedSet(name, distilled, image_bytes(Path(distilled.info["folder"])), similarity)


def sets_to_compare(names, given, data: Dataset, teacher: Teacher | None, ipc, seed: int) -> list[ComparedSet]:
    """The sets, made here if they are not given; if there is a teacher, also random_baselines."""
    sets = []
    for name, distilled in zip(names, given, strict=True):
        distilled = synthesize.given_or_made(distilled, name, data, teacher, ipc, seed)
        sets.append(describe_set(name, distilled, data, teacher))
    if teacher:
        sets += random_baselines(sets, data, teacher, ipc or common.DEFAULT_IPC, seed)
    found = {}
    for compared in sets:  # of several sets with the same images, the first
        found.setdefault(compared.distilled.info["digest"], compared)
    return sorted(found.values(), key=lambda compared: not compared.is_random)  # random ones first


def random_baselines(sets: list[ComparedSet], data: Dataset, teacher: Teacher, ipc: int, seed: int) -> list:
    """A random set for each number of images per class.

    None for uneven sets, nor for more images than the smallest class has.
    """
    fewest = data.train.labels.bincount().min()
    baselines = []
    for size in sorted({compared.counts[0] for compared in sets if len(compared.counts) == 1}):
        if size <= fewest:
            name = "random" if len(sets) == 1 or size == ipc else f"random, {size} per class"
            distilled = synthesize.distil("random", data, None, size, seed)
            baselines.append(describe_set(name, distilled, data, teacher))
    return baselines


def pools_of(sets: list[ComparedSet], data: Dataset, teacher: Teacher | None, pool: lpqld.LabelPool, seed: int) -> dict:
    """{digest of a set: its pool}. The stored pool belongs to one set; a baseline gets one that is made alike."""
    pools = {pool.info["settings"]["images (hash)"]: pool}
    for compared in sets:
        digest = compared.distilled.info["digest"]
        if digest not in pools:
            pools[digest] = lpqld.label_pool(data, teacher, compared.distilled, pool.settings, seed)
    return pools


# ---------------------------------------------------------------------------------------------------------------------
# The table


class PlannedRow(NamedTuple):
    """A row of the table: a set, a network, a loss, an optimizer, and the students to train with them."""

    set: ComparedSet
    arch: str
    loss: str  # of gift.py, or the name of a label pool
    optimizer: str
    students: Students
    label_bytes: int

    def names(self) -> dict:
        ipc = "-".join(map(str, sorted({self.set.counts[0], self.set.counts[-1]})))
        return {"images": self.set.name, "ipc": ipc, "arch": self.arch, "loss": self.loss, "optimizer": self.optimizer}


def plan_row(data, teacher, args, view_factor, pools, arch, loss, optimizer, compared: ComparedSet) -> PlannedRow:
    """The students of a row, by GIFT's or RDED's protocol or, if there are pools, by LPQLD's."""
    distilled = compared.distilled
    if pools:
        pool = pools[distilled.info["digest"]]
        training = lpqld.training_for(data, epochs=args.epochs or pool.settings.epochs)
        students = lpqld.students(data, distilled, pool, training, arch)
        return PlannedRow(compared, arch, loss, optimizer, students, pool.info["bytes"])
    if args.protocol == "rded":
        how = rded_protocol(data, teacher, distilled, arch, loss, optimizer, view_factor, args.epochs)
        students = rded_students(data, teacher, distilled, how)
    else:
        how = gift.protocol_for(data, distilled, arch, loss, optimizer, epochs=args.epochs, view_factor=view_factor)
        students = gift.students(data, teacher, distilled, how)
    size = 0 if loss == "ce" else weight_bytes(teacher)
    return PlannedRow(compared, arch, loss, optimizer, students, size)


def row_of(
    planned: PlannedRow, result: dict, data: Dataset, random_top1: float | None, full_top1: float | None
) -> dict:
    top1 = result["top1"]["mean"]
    seconds = [student["seconds"] for student in result["students"]]
    return {
        **planned.names(),
        "top1": result["top1"],
        "top5": result["top5"],
        "best_check_top1": result.get("best_check_top1"),
        "ior": None if planned.set.is_random else improvement_over_random(top1, random_top1),
        "hlr": hard_label_recovery(full_top1, top1) if planned.loss == "ce" and full_top1 is not None else None,
        "image_bytes": planned.set.bytes,
        "label_bytes": planned.label_bytes,
        "share_of_original": (planned.set.bytes + planned.label_bytes) / data.train.stored_bytes,
        "within_class_similarity": planned.set.similarity,
        "seconds_per_student": sum(seconds) / len(seconds),
        "result": result["file"],
    }


def number(form):
    return lambda value: "-" if value is None else form.format(value)


COLUMNS = {  # heading: (width on a terminal, 0 for none; key of a row; how it is shown)
    "images": (18, "images", str),
    "IPC": (3, "ipc", str),
    "network": (17, "arch", str),
    "loss": (9, "loss", str),
    "optimizer": (9, "optimizer", str),
    "top-1, %": (10, "top1", common.spread),
    "top-5, %": (10, "top5", common.spread),
    "best": (4, "best_check_top1", lambda best: f"{best['mean']:.1f}" if best else "-"),
    "IOR": (5, "ior", number("{:+.1f}")),
    "HLR": (4, "hlr", number("{:.1f}")),
    "images, B": (9, "image_bytes", number("{:,}")),
    "labels, B": (10, "label_bytes", number("{:,}")),
    "share": (0, "share_of_original", number("{:.1%}")),
    "similarity": (0, "within_class_similarity", number("{:.3f}")),
    "s": (0, "seconds_per_student", number("{:.0f}")),
}


def cells_of(row: dict) -> list[str]:
    """A row as words. "-" stands where there is nothing to show, the reason stands in place of a missing result."""
    words = [show(row[key]) for _, key, show in COLUMNS.values() if key in row]
    if "failed" in row:
        words.append(f"failed: {row['failed']}")
    words = [" ".join(word.replace("|", "/").split()) for word in words]  # a bar would end a cell of evaluate.md
    return words + [""] * (len(COLUMNS) - len(words))


def print_row(words):
    widths = [width for width, _, _ in COLUMNS.values()]
    name = words[0] if len(words[0]) <= widths[0] else "…" + words[0][1 - widths[0] :]
    others = [f"{word:>{width}}" for word, width in zip(words[1:], widths[1:], strict=True) if width]
    print(" ".join([f"{name:{widths[0]}}", *others]).rstrip(), flush=True)


def heading_of(about: dict, made: dict) -> str:
    labelled = "no teacher"
    if about["teacher"]:
        labelled = f"teacher {about['teacher']['arch']}, {about['teacher']['accuracy']:.1f} %"
    students = f"last epoch, {common.number_of_students(len(about['settings']['seeds']))} each"
    where = f"{made['device']}, torch {made['torch']}, {made['date'][:10]}"
    return f"`{made['command']}`: {about['data set']}, {labelled}; {students}; {where}"


def write_tables(folder: Path, rows: list[dict], about: dict, device):
    """Write evaluate.json and evaluate.md, as far as the rows are there."""
    made = common.made_with(device)
    lines = [heading_of(about, made), "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    text = "\n".join(lines + ["| " + " | ".join(cells_of(row)) + " |" for row in rows]) + "\n"
    common.write_atomically(folder / "evaluate.md", lambda beside: beside.write_text(text, "utf-8", "replace"))
    common.save(folder / "evaluate.json", {"rows": rows, **about, "made_with": made})


def fill_table(folder: Path, data: Dataset, plan: list[PlannedRow], seeds, full: dict, about: dict) -> list[dict]:
    """Train the students of all rows. Print and write each row. A row that fails is marked, and the others go on."""
    failed = {}
    if common.world > 1:  # the processes share the students of all rows
        jobs = {path: make for planned in plan for path, make in planned.students.jobs(seeds).items()}
        failed = common.make_all(jobs, go_on=True)
    print()
    print_row(list(COLUMNS))
    rows = []
    random_top1 = {}
    for planned in plan:
        jobs = planned.students.jobs(seeds)
        if common.world == 1:
            failed = common.make_all(jobs, go_on=True)
        reasons = [failed[path] for path in jobs if path in failed]
        if reasons:
            rows.append({**planned.names(), "failed": reasons[0][:200]})
        else:
            result = common.train_students(planned.students, seeds)
            alike = (*planned.set.counts, planned.arch, planned.loss, planned.optimizer)
            if planned.set.is_random:
                random_top1.setdefault(alike, result["top1"]["mean"])
            rows.append(row_of(planned, result, data, random_top1.get(alike), full.get(planned.arch)))
        print_row(cells_of(rows[-1]))
        if common.rank == 0:
            write_tables(folder, rows, about, data.device)
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.Parser(__doc__)
    add = parser.add_argument
    positive = common.at_least(1)
    methods = ", ".join(synthesize.METHODS)
    losses = ", ".join(gift.LOSSES)
    add("--images", nargs="+", required=True, help=f"distilled sets: folders, data.pt files, or {methods} to make them")
    add("--archs", nargs="+", help="students (default: --arch)")
    add("--losses", nargs="+", choices=gift.LOSSES, metavar="LOSS", help=f"of {losses} (default: gift, and ce for "
        "HLR; with --protocol rded: kl)")  # fmt: skip
    add("--protocol", choices=("gift", "rded"), help="how students are trained (default: gift)")
    add("--optimizers", nargs="+", choices=gift.OPTIMIZERS, help="default: adamw")
    add("--repeats", type=positive, default=3, help="students a row, with seeds --seed, --seed + 1 ... (default: 3)")
    add("--epochs", type=positive, help="epochs of the students (default: the protocol's)")
    add("--view-factor", type=positive, help="tiles per side of mosaics (default: what the sets say with "
        "--protocol rded; else as gift.py)")  # fmt: skip
    add("--labels", type=common.path_of, help="a label pool of lpqld.py for the one set, instead of a teacher")
    common.add_common_options(parser)
    args = parser.parse_args(argv)
    if args.labels:
        others = args.losses or args.optimizers or args.protocol or args.view_factor or args.teacher_epochs
        if len(args.images) > 1 or others or args.images[0] in synthesize.METHODS:
            raise UserError("--labels holds the labels of one set, and lpqld.py's protocol: one folder as --images, no "
                            "--losses, --optimizers, --protocol, --view-factor or --teacher-epochs")  # fmt: skip
    if args.protocol == "rded" and set(args.optimizers or []) - set(RDED_DECAY):
        raise UserError(f"--optimizers: RDED's protocol has {', '.join(RDED_DECAY)}")
    if args.ipc and not set(args.images) & set(synthesize.METHODS):
        raise UserError("--ipc is only for sets that are made here; a given set keeps its own number of images")
    if args.archs and not args.arch:
        args.arch = args.archs[0]
    default = ["kl"] if args.protocol == "rded" else ["gift", "ce"]
    args.losses = [args.labels.name] if args.labels else args.losses or default
    args.optimizers = args.optimizers or ["(pool)" if args.labels else "adamw"]
    return args


def main(argv=None) -> dict:
    args = read_options(argv)
    data, arch, teacher_arch = common.start(args, *args.images)
    archs = args.archs or [arch]
    for name in archs:
        common.build_model(name, data.num_classes, data.image_size)  # complains in good time
    gift.check_view_factor(args.view_factor, data)
    given = []
    for name in args.images:  # --ipc is for the sets that are made here
        given.append(synthesize.find_images(name, data, args.ipc if name in synthesize.METHODS else None, teacher_arch))
    teacher = None
    if args.teacher or not args.labels:
        teacher = common.load_teacher(data, teacher_arch, args.teacher, args.teacher_epochs, args.seed)
    pool = lpqld.load_pool(args.labels, data, given[0], teacher) if args.labels else None
    sets = sets_to_compare(args.images, given, data, teacher, args.ipc, args.seed)
    view_factor = args.view_factor
    if args.protocol == "rded":
        view_factor = rded_factor(args.view_factor, sets, data)
    full = {}
    if "ce" in args.losses and teacher and not pool:  # a pool may be called ce
        full = {name: full_data_top1(data, teacher, name, args.teacher_epochs, args.seed) for name in archs}
    pools = pools_of(sets, data, teacher, pool, args.seed) if pool else {}

    cells = itertools.product(archs, args.losses, args.optimizers, sets)
    plan = [plan_row(data, teacher, args, view_factor, pools, *cell) for cell in cells]
    seeds = range(args.seed, args.seed + args.repeats)
    settings = {
        "stage": "evaluate",
        "students": [planned.students.folder.name for planned in plan],
        "losses": args.losses,
        "optimizers": args.optimizers,
        "archs": archs,
        "seeds": list(seeds),
    }
    folder = common.stage_folder(data, "evaluate", settings)
    about = {
        "data set": data.name,
        "full_data_hard_label_top1": full,
        "original_bytes": data.train.stored_bytes,
        "settings": settings,
        "teacher": teacher.info if teacher else None,
        "sets": {compared.name: compared.distilled.info for compared in sets},
    }
    if common.rank == 0:
        for compared in sets:
            distilled = compared.distilled
            synthesize.save_grid(folder / f"grid-{distilled.info['digest']}.png", distilled.images, distilled.labels)
    rows = fill_table(folder, data, plan, seeds, full, about)

    known = ", ".join(f"{name} {top1:.1f} %" for name, top1 in full.items() if top1 is not None)
    print(f"\nfull data with hard labels: {known}" if known else "")
    print(f"chance:   {100 / data.num_classes:.1f} %")
    print(f"table:    {folder / 'evaluate.md'}, {folder / 'evaluate.json'}; pictures: {folder}/grid-*.png")
    failed = [row["failed"] for row in rows if "failed" in row]
    if len(failed) == len(rows):
        raise UserError(f"every row failed: {failed[0]}")
    if failed:
        print(f"warning: {len(failed)} of {len(rows)} rows failed", file=sys.stderr)
    return {"rows": rows, **about, "made_with": common.made_with(data.device), "file": str(folder / "evaluate.json")}


def full_data_top1(data: Dataset, teacher: Teacher, arch: str, epochs, seed) -> float | None:
    """Top-1 of this network trained on the full data with hard labels: the teacher's, or that of one trained alike.

    ImageNet-1K takes torchvision's weights. None, with a warning, if the network learns nothing in its epochs.
    """
    if arch == teacher.info["arch"] and teacher.info["width"] in (None, data.width):
        return teacher.info["accuracy"]
    try:
        return common.load_teacher(data, arch, None, epochs, seed).info["accuracy"]
    except UserError as error:
        print(f"warning: no HLR for {arch}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    common.run_script(main)
