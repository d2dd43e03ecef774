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
  images, labels bytes: files of the set; and its pool, or the teacher's weights where labels are made while training;
  share          both, as a share of the original training set's bytes;
  similarity     within a class, of the teacher's features (mean cosine over pairs): what LPLD lowers;
  s              seconds of a student's training.
IOR and HLR as DD-Ranking (arXiv 2505.13300) defines them. Written: evaluate.json, evaluate.md, a picture of each set.
"""

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor
from tqdm import tqdm

import common
import gift
import lpqld
import synthesize
from common import Dataset, Distilled, Teacher, UserError

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
    if path.is_file() or (path / "data.pt").is_file():
        return os.path.getsize(path if path.is_file() else path / "data.pt")
    extensions = torchvision.datasets.folder.IMG_EXTENSIONS
    return sum(os.path.getsize(file) for file in path.glob("*/*") if file.suffix.lower() in extensions)


def weight_bytes(teacher: Teacher) -> int:
    return sum(value.numel() * value.element_size() for value in teacher.model.state_dict().values())


# ---------------------------------------------------------------------------------------------------------------------
# Sets and cells


class Set(NamedTuple):
    name: str  # as on the command line
    distilled: Distilled
    bytes: int
    similarity: float | None


class Cell(NamedTuple):
    set: Set
    arch: str
    loss: str  # of gift.py, or the name of a label pool
    optimizer: str


def with_options(args, **changed) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changed})


def read_sets(args, data: Dataset, teacher: Teacher | None) -> list[Set]:
    """The sets of --images, and a random one for each number of images per class that they have; random ones first."""
    found = {}

    def take(name, path):
        distilled = common.load_distilled(path, data, None if name == path else args.ipc)
        if distilled.info["digest"] not in {kept.distilled.info["digest"] for kept in found.values()}:
            similarity = None
            if teacher:
                features = lpqld.teacher_features(teacher.model, distilled.images, data.colours)
                similarity = lpqld.within_class_similarity(features, distilled.labels)
            found[name] = Set(str(name), distilled, image_bytes(Path(path)), similarity)

    for name in args.images:
        take(name, synthesize.distil(name, args, data, teacher) if name in synthesize.METHODS else name)
    if teacher or not args.labels:
        for ipc in sorted({kept.distilled.info["ipc"] for kept in found.values() if is_even(kept)}):
            if ipc <= data.train.labels.bincount().min():
                folder = synthesize.distil("random", with_options(args, ipc=ipc), data, None)
                name = "random" if len(found) == 1 or ipc == (args.ipc or 10) else f"random, {ipc} per class"
                take(name, folder)
    return sorted(found.values(), key=lambda kept: not is_random(kept))


def is_random(kept: Set) -> bool:
    return (kept.distilled.info["settings"] or {}).get("method") == "random"


def is_even(kept: Set) -> bool:
    return len(kept.distilled.labels.bincount().unique()) == 1


# ---------------------------------------------------------------------------------------------------------------------
# RDED's own student protocol (arXiv 2312.03526; released code: LINs-lab/RDED, argument.py and validation/)

RDED_DECAY = {"adamw": 0.01, "sgd": 1e-4}  # sgd, momentum 0.9: an option of the release, for no published figure
RDED_RATES = {  # of AdamW by student; for all others 1e-3: ConvNets and ResNets as released, the rest ours
    "vgg11": 5e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "alexnet": 1e-4, "vit_b_16": 1e-4,
    "swin_v2_t": 1e-4,
}  # fmt: skip
RDED_SPECIAL = ("cifar100", "conv3", "conv3")  # data set, teacher, student: batches of 25 and a rate of 2e-3


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
    return (10 if ipc < 10 else 50 if ipc < 50 else 100) * (2 if num_classes in (100, 1000) else 1)


def rded_learning_rate_factor(epoch: int, epochs: int) -> float:
    """(1 + cos(pi * e / (2 * E))) / 2, epochs from 0: a cosine that ends half way down, at one half."""
    return (1 + math.cos(math.pi * epoch / epochs / 2)) / 2


def shuffle_strips(images: Tensor, factor: int, *seed: int) -> Tensor:
    """Mosaics with their `factor` columns, then their rows, in a random order, each image its own. [B, 3, S, S]."""
    count, side = len(images), images.shape[-1]
    orders = common.random_stream(*seed).random_sample((2, count, factor)).argsort(-1)
    pixels = (orders[..., None] * (side // factor) + np.arange(side // factor)).reshape(2, count, 1, side)
    columns, rows = common.send(torch.from_numpy(pixels), images.device)[:, :, None].expand(-1, -1, 3, side, -1)
    return images.gather(3, columns).gather(2, rows.transpose(2, 3))


def rded_batches(distilled: Distilled, data: Dataset, run: dict, seed: int, epoch: int):
    """(images, labels) of an epoch's steps: strips shuffled and a crop (nothing at factor 1), flip, CutMix."""
    order = torch.from_numpy(common.random_stream(seed, common.ORDER, epoch).permutation(len(distilled.images)))
    batches = gift.split_batches(common.send(order, data.device), run["batch_size"])
    for step, batch in enumerate(batches):
        images, stream = distilled.images[batch], (seed, common.VIEW, epoch, step)
        if run["factor"] > 1:
            images = shuffle_strips(images, run["factor"], seed, common.TILES, epoch, step)
        draws = lpqld.view_draws(len(batch), data.image_size, "cutmix", True, *stream, scale=(1 / run["factor"], 1))
        views = lpqld.label_view(images, common.send(draws, data.device), "cutmix", data.colours)
        yield views, distilled.labels[batch]


def train_rded_student(distilled: Distilled, teacher: Teacher, data: Dataset, run: dict, seed: int, progress: Path):
    """Train one student by RDED's protocol; it is tested every tenth epoch of the last fifth, as released."""
    common.seed_torch(seed, common.WEIGHTS)
    student = common.build_model(run["arch"], data.num_classes, data.image_size, run["width"]).to(data.device)
    network, labeller = (common.compiled(model, run["compile"]) for model in (student, teacher.model))
    optimizer, epochs = lpqld.make_optimizer(student, run), run["epochs"]
    progress = common.Progress(progress, student=student, optimizer=optimizer)
    first, kept = progress.load()
    checks, before = kept or ([], 0.0)
    started = time.monotonic() - before
    bar = tqdm(range(first, epochs), f"student, seed {seed}", epochs, initial=first, unit="epoch", leave=False)
    for epoch in bar:
        student.train()
        common.seed_torch(seed, common.WEIGHTS, epoch)  # for networks with dropout
        for group in optimizer.param_groups:
            group["lr"] = run["lr"] * rded_learning_rate_factor(epoch, epochs)
        for images, labels in rded_batches(distilled, data, run, seed, epoch):
            with torch.no_grad(), common.autocast(data.device):
                network(images)  # released, for a figure on its log; it updates the BatchNorm statistics once more
            loss = gift.training_step(network, labeller, optimizer, images, labels, run["loss"])
        if epoch % 10 == 9 or epoch == epochs - 1:
            if not loss.isfinite():
                raise UserError(f"the loss is {loss.item()} in epoch {epoch + 1}: training diverged")
            if epoch > 0.8 * epochs or epoch == epochs - 1:
                checks.append((epoch + 1, *common.accuracy(student, data.test, data.colours, enlarge=run["enlarge"])))
            bar.set_postfix(loss=f"{loss.item():.3f}", top1=f"{checks[-1][1]:.1f}" if checks else "-")
        progress.save(epoch + 1, (checks, time.monotonic() - started))
    seconds = round(time.monotonic() - started, 1)
    return {"seed": seed, "top1": checks[-1][1], "top5": checks[-1][2], "checks": checks, "seconds": seconds}


def rded_settings(args, data: Dataset, teacher: Teacher, cell: Cell) -> dict:
    # Released: S // 7 * 8, then the centre: 32 -> 32, 64 -> 72. Sets with a margin of their own keep it: 256 -> 224 as
    # released, 146 -> 128 as GIFT's (released: 144)
    enlarged = data.image_size // 7 * 8
    info, count = cell.set.distilled.info, len(cell.set.distilled.images)
    which = data.name, teacher.info["arch"], cell.arch
    return {
        "stage": "rded protocol", "data": data.describe(), "images": info["digest"], "ipc": info["ipc"],
        "teacher": teacher.info["digest"], "arch": cell.arch, "width": data.default_width, "loss": cell.loss,
        "optimizer": cell.optimizer, "lr": rded_learning_rate(*which, cell.optimizer),
        "weight_decay": RDED_DECAY[cell.optimizer],
        "epochs": args.epochs or 300, "precision": common.precision_on(data.device), "compile": args.compile,
        "batch_size": min(count, rded_batch_size(*which, info["ipc"], data.num_classes)),
        "factor": args.view_factor or 1,
        "enlarge": enlarged if enlarged > data.image_size and data.test.fit != "margin" else None,
    }  # fmt: skip


def train_by_rded(args, data: Dataset, teacher: Teacher, cell: Cell) -> dict:
    run = rded_settings(args, data, teacher, cell)
    name = f"rded-{Path(cell.set.distilled.info['folder']).resolve().name}-{cell.arch}-{cell.loss}-{cell.optimizer}"
    folder = common.stage_folder(args.out / data.name, name, run)

    def train(seed, progress):
        return train_rded_student(cell.set.distilled, teacher, data, run, seed, progress)

    seeds = range(args.seed, args.seed + args.repeats)
    students = common.repeat(train, seeds, folder, data.device, say=lambda line: None)
    result = {"settings": run, "teacher": teacher.info, "images": cell.set.distilled.info, "students": students}
    result = {**common.scores(students), **result}
    common.save_json(folder / "result.json", {**result, "made_with": common.made_with(data.device)})
    return {**result, "file": str(folder / "result.json")}


# ---------------------------------------------------------------------------------------------------------------------
# Cells


def train_cell(args, data: Dataset, teacher: Teacher | None, cell: Cell, pool_file: Path | None) -> dict:
    """Students of a cell, by GIFT's or RDED's protocol or, with a label pool, LPQLD's; finished ones are read."""
    quiet = {"say": lambda line: None}  # a table is being shown
    options = with_options(args, arch=cell.arch, loss=cell.loss, optimizer=cell.optimizer)
    if not pool_file:
        if args.protocol == "rded":
            result = train_by_rded(args, data, teacher, cell)
        else:
            result = gift.train_and_report(options, data, teacher, cell.set.distilled, **quiet)
        return {**result, "label_bytes": 0 if cell.loss == "ce" else weight_bytes(teacher)}
    options.protocol = None
    protocol = lpqld.protocol_for(data, options, len(cell.set.distilled.images))
    if cell.set.name != str(args.images[0]):  # the baseline's labels are made as those of the pool were
        made = common.load_tensors(pool_file, "label pool")["settings"]
        names = ("epochs", "batch_size", "prune", "top_k")
        view = {name: made["view"][name] for name in ("mix", "flip")}
        protocol = replace(protocol, **{name: made[name] for name in names}, **view)
        pool = lpqld.label_pool(options, protocol, data, cell.set.distilled, teacher)
    else:
        pool = lpqld.load_pool(pool_file, data, cell.set.distilled, teacher)
    protocol = replace(protocol, epochs=args.epochs or pool.settings["epochs"])
    return lpqld.train_and_report(options, protocol, data, cell.set.distilled, pool, **quiet)


def row_of(cell: Cell, result: dict, data: Dataset, random_top1: float | None, full_top1: float | None) -> dict:
    top1, size = result["top1"]["mean"], cell.set.bytes + result["label_bytes"]
    seconds = [student["seconds"] for student in result["students"]]
    return {
        "images": cell.set.name, "ipc": cell.set.distilled.info["ipc"], "arch": cell.arch,
        "loss": cell.loss, "optimizer": cell.optimizer,
        "top1": result["top1"], "top5": result["top5"], "best_check_top1": result.get("best_check_top1"),
        "ior": None if is_random(cell.set) else improvement_over_random(top1, random_top1),
        "hlr": hard_label_recovery(full_top1, top1) if cell.loss == "ce" and full_top1 is not None else None,
        "image_bytes": cell.set.bytes, "label_bytes": result["label_bytes"],
        "share_of_original": size / data.train.stored_bytes, "within_class_similarity": cell.set.similarity,
        "seconds_per_student": sum(seconds) / len(seconds), "result": result["file"],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The table

COLUMNS = ("images", "IPC", "network", "loss", "optimizer", "top-1, %", "top-5, %", "best", "IOR", "HLR", "images, B",
           "labels, B", "share", "similarity", "s")  # fmt: skip
WIDTHS = (22, 4, 18, 10, 9, 11, 11, 5, 6, 6, 10, 11, 7, 10, 6)


def cells_of(row: dict) -> list[str]:
    """A row as words; "-" where there is nothing to show, and what went wrong in place of a result."""

    def show(value, form):
        return "-" if value is None else form.format(value)

    named = [row["images"], str(row["ipc"]), row["arch"], row["loss"], row["optimizer"]]
    if "failed" in row:
        return [*named, f"failed: {row['failed']}", *[""] * (len(COLUMNS) - len(named) - 1)]
    return [
        *named,
        "{mean:.1f} ± {std:.1f}".format(**row["top1"]), "{mean:.1f} ± {std:.1f}".format(**row["top5"]),
        show((row["best_check_top1"] or {}).get("mean"), "{:.1f}"),
        show(row["ior"], "{:+.1f}"), show(row["hlr"], "{:.1f}"), f"{row['image_bytes']:,}", f"{row['label_bytes']:,}",
        f"{100 * row['share_of_original']:.1f} %", show(row["within_class_similarity"], "{:.3f}"),
        f"{row['seconds_per_student']:.0f}",
    ]  # fmt: skip


def print_row(words):
    name, *others = words
    name = name if len(name) <= WIDTHS[0] else "…" + name[1 - WIDTHS[0] :]
    shown = [f"{name:{WIDTHS[0]}}", *(f"{word:>{width}}" for word, width in zip(others, WIDTHS[1:], strict=True))]
    print(" ".join(shown).rstrip(), flush=True)


def markdown(rows: list[dict], heading: str) -> str:
    lines = [heading, "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join(lines + ["| " + " | ".join(cells_of(row)) + " |" for row in rows]) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options():
    parser = common.common_options(__doc__)
    add, positive = parser.add_argument, common.at_least(1)
    methods = ", ".join(synthesize.METHODS)
    add("--images", nargs="+", required=True, help=f"distilled sets: folders, data.pt files, or {methods}, made here")
    add("--archs", nargs="+", help="students (default: --arch)")
    add("--losses", nargs="+", choices=gift.LOSSES, help="default: gift ce (HLR rests on ce); RDED's protocol: kl")
    add("--protocol", choices=("gift", "rded"), help="of the students' training (default: gift)")
    add("--optimizers", nargs="+", choices=gift.OPTIMIZERS, help="default: adamw")
    add("--repeats", type=positive, default=3, help="students of each cell, seeds --seed, --seed + 1, ... (default: 3)")
    add("--epochs", type=positive, help="of the students (default: by data set)")
    add("--view-factor", type=positive, help="tiles per side of mosaics (default: by the sets)")
    add("--labels", type=Path, help="a label pool of lpqld.py for the one set, instead of a teacher")
    args = parser.parse_args()
    if args.labels and (len(args.images) > 1 or args.losses or args.optimizers or args.protocol):
        raise UserError("--labels holds the labels of one set, and lpqld.py's protocol: one --images, no --losses, "
                        "no --optimizers, no --protocol")  # fmt: skip
    if args.protocol == "rded" and set(args.optimizers or []) - set(RDED_DECAY):
        raise UserError(f"--optimizers: RDED's protocol has {', '.join(RDED_DECAY)}")
    # what gift.py and lpqld.py are asked for on their own command lines, and here by data set or by the pool
    args.lr = args.batch_size = args.prune = args.top_k = args.mix = args.reuse = None
    args.no_calibration = False
    return args


def main():
    args = read_options()
    archs = args.archs or ([args.arch] if args.arch else [])
    args.arch = args.arch or (archs[0] if archs else None)
    data = common.load_dataset(args)
    archs = archs or [data.default_arch]
    for arch in archs:
        common.build_model(arch, data.num_classes, data.image_size)  # complains in good time
    made = [name for name in args.images if name in synthesize.METHODS]
    for name in made:
        synthesize.check_request(name, args, data)
    for name in set(args.images) - set(made):
        common.load_distilled(name, data)
    teacher = None if args.labels and not args.teacher and not made else common.load_teacher(args, data)
    sets = read_sets(args, data, teacher)
    labels = None
    if args.labels:  # read once more for its cell; here it complains in good time
        (given,) = (kept for kept in sets if kept.name == args.images[0])
        labels = lpqld.load_pool(args.labels, data, given.distilled, teacher).info["digest"]
    if args.protocol == "rded":
        factors = [(kept.distilled.info["settings"] or {}).get("factor", 1) for kept in sets]
        args.view_factor = args.view_factor or max(factors)  # of every set: a baseline is trained in the same way
        if data.image_size % args.view_factor:
            raise UserError(f"--view-factor {args.view_factor} does not divide the side of {data.image_size} px")
        print(f"          RDED's protocol, mosaics of {args.view_factor} x {args.view_factor}")
        if data.colours != common.IMAGENET_COLOURS:
            print("hint:     RDED's own figures have ImageNet's colours on every data set: --colours imagenet")
    losses = args.losses or (["kl"] if args.protocol == "rded" else ["gift", "ce"])
    losses = [args.labels.name] if args.labels else losses
    optimizers = ["(pool)"] if args.labels else args.optimizers or ["adamw"]
    full = {arch: full_data_top1(args, data, teacher, arch) for arch in archs} if "ce" in losses else {}

    cells = [Cell(kept, a, loss, o) for a in archs for loss in losses for o in optimizers for kept in sets]
    settings = {
        "stage": "evaluate", "data": data.describe(), "images": [kept.distilled.info["digest"] for kept in sets],
        "teacher": teacher.info["digest"] if teacher else None, "archs": archs, "losses": losses,
        "optimizers": optimizers, "epochs": args.epochs, "seed": args.seed, "repeats": args.repeats,
        "labels": labels, "protocol": args.protocol or "gift", "precision": common.precision_on(data.device),
        "compile": args.compile, "view_factor": args.view_factor,
    }  # fmt: skip
    folder = common.stage_folder(args.out / data.name, "evaluate", settings)
    for kept in sets:
        common.save_grid(
            folder / f"grid-{kept.distilled.info['digest']}.png", kept.distilled.images, kept.distilled.labels
        )
    about = {
        "full_data_hard_label_top1": full, "original_bytes": data.train.stored_bytes, "settings": settings,
        "teacher": teacher.info if teacher else None, "sets": {kept.name: kept.distilled.info for kept in sets},
    }  # fmt: skip
    rows, random_top1 = [], {}
    print()
    print_row(COLUMNS)
    for cell in cells:
        size = cell.set.distilled.info["ipc"], *cell[1:]
        try:
            result = train_cell(args, data, teacher, cell, args.labels)
            if is_random(cell.set):
                random_top1.setdefault(size, result["top1"]["mean"])
            baseline = random_top1.get(size) if is_even(cell.set) else None
            rows.append(row_of(cell, result, data, baseline, full.get(cell.arch)))
        except (UserError, RuntimeError, MemoryError) as error:  # a marked cell; the others go on
            reason = " ".join(str(error).split()) or type(error).__name__
            named = {"images": cell.set.name, "ipc": size[0], "arch": cell.arch, "loss": cell.loss}
            rows.append({**named, "optimizer": cell.optimizer, "failed": reason[:200]})
        print_row(cells_of(rows[-1]))
        write_tables(folder, rows, about, data)
    common.finish_stage(folder, data.device)
    known = ", ".join(f"{arch} {top1:.1f} %" for arch, top1 in full.items() if top1 is not None)
    print(f"\nfull data with hard labels: {known}" if known else "")
    print(f"table:    {folder / 'evaluate.md'}, {folder / 'evaluate.json'}; pictures: {folder}/grid-*.png")
    failed = sum("failed" in row for row in rows)
    if failed == len(rows):
        raise UserError(f"every cell failed: {rows[0]['failed']}")
    if failed:
        print(f"warning: {failed} of {len(rows)} cells failed", file=sys.stderr)


def full_data_top1(args, data: Dataset, teacher: Teacher, arch: str) -> float | None:
    """Top-1 of this network trained on the full data with hard labels: the teacher's, or another's of the same recipe.

    ImageNet-1K takes torchvision's weights. None, with a warning, where that network learns nothing in its epochs.
    """
    if arch == teacher.info["arch"]:
        return teacher.info["accuracy"]
    try:
        return common.load_teacher(with_options(args, teacher=None, teacher_arch=arch), data).info["accuracy"]
    except UserError as error:
        print(f"warning: no HLR for {arch}: {error}", file=sys.stderr)
        return None


def write_tables(folder: Path, rows: list[dict], about: dict, data: Dataset):
    """evaluate.json and evaluate.md, as far as the sweep has come."""
    made, teacher = common.made_with(data.device), about["teacher"]
    heading = (
        f"`{made['command']}`: {data.name}, "
        + (f"teacher {teacher['arch']}, {teacher['accuracy']:.1f} %" if teacher else "no teacher")
        + f"; last epoch, {about['settings']['repeats']} students each; "
        f"{made['device']}, torch {made['torch']}, {made['date'][:10]}"
    )
    common.write_atomically(folder / "evaluate.md", lambda beside: beside.write_text(markdown(rows, heading)))
    common.save_json(folder / "evaluate.json", {"rows": rows, **about, "made_with": made})


if __name__ == "__main__":
    common.run_script(main)
