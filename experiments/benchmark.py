"""What the methods cost beside the bare networks, and what a user would have without them, on the machine it runs on.

    python -m experiments.benchmark                                     # every row at every size, as one table
    python -m experiments.benchmark --sizes conv3-32 --only gift lpqld  # some of them
    python -m experiments.benchmark --without-us                        # PIL crops, a DataLoader, class after class
    python -m experiments.benchmark --imagenet                          # ImageNet-1K's size, made-up images: hours, GB

Rows, each beside its limit, the forward and backward of the same networks on one fixed batch, in channels_last and in
the same precision; the goal is a ratio of at most 1.10:
  gift      a training step of gift.py: batch, views, teacher and student, loss, optimizer
  lpqld     a training step of lpqld.py: views and labels out of a stored pool, student, loss, optimizer
  labels    making a label pool, its file included; the limit is the teacher's forward, in fp32
  recovery  an iteration of class-wise recovery, classes together; forward and backward to the images, in fp32
  rded      choosing RDED's crops; the teacher's forward on them, in fp32
  teacher   a step of a teacher's epoch
Both alternate; seconds are medians over rounds. What a recovery does once, such as drawing its noise, is left out: a
run of one iteration is taken off a run of several. Peak memory is what torch took on a GPU, the whole process on a CPU.
"operators" counts torch operators per step that are no mere views, about the launches of a GPU (views of many steps
made together and optimizers fused, as they are there). For labels and rded it is all they do, also on the CPU, divided
by the batches.
"""

import math
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

import common
import gift
import lpqld
import synthesize
from common import Dataset, Teacher, UserError
from experiments import storage
from synthesize import Distilled

COLOURS = common.COLOURS["cifar"]
IPC = 10  # images per class


class Size(NamedTuple):
    """A network and a side, and how much work of each row a device measures."""

    arch: str
    side: int
    classes: int
    batch: int  # images per step
    groups: int  # classes of ten images recovered together
    images: int  # images per class that RDED looks at (released: 300)
    label_batches: int  # of a pool
    iterations: int  # of a recovery
    width: int = 128


GPU_SIZES = {
    "conv3-32": Size("conv3", 32, 100, 100, 100, 300, 100, 100),
    "resnet18-32": Size("resnet18_modified", 32, 100, 100, 100, 300, 100, 100),
    "resnet18-64": Size("resnet18_modified", 64, 200, 100, 40, 300, 100, 100),
    "resnet18-224": Size("resnet18", 224, 1000, 128, 20, 300, 100, 100),
    "tiny-test": Size("conv3", 8, 3, 4, 2, 4, 2, 2, width=4),
}
CPU_SIZES = {  # for two cores
    "conv3-32": Size("conv3", 32, 100, 100, 10, 300, 8, 4),
    "resnet18-32": Size("resnet18_modified", 32, 100, 50, 2, 100, 8, 4),
    "resnet18-64": Size("resnet18_modified", 64, 200, 20, 2, 20, 8, 4),
    "resnet18-224": Size("resnet18", 224, 1000, 16, 2, 20, 8, 4),
    "tiny-test": Size("conv3", 8, 3, 4, 2, 4, 2, 2, width=4),
}


def size_of(name: str, device) -> Size:
    return GPU_SIZES[name] if device.type == "cuda" else CPU_SIZES[name]


def nothing():
    pass


class Work(NamedTuple):
    """The same steps by our code and by its limit; the time of what a call does once is subtracted."""

    ours: callable
    limit: callable
    images: int  # in the steps
    steps: int
    ours_once: callable = nothing
    limit_once: callable = nothing


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work, device, in_a_row=1) -> float:
    """Wall time of one of several work() in a row, the device's queue included: a stop between steps shows."""
    wait(device)
    started = time.perf_counter()
    for _ in range(in_a_row):
        work()
    wait(device)
    return (time.perf_counter() - started) / in_a_row


def compare(work: Work, device, budget) -> tuple[float, float]:
    """Median seconds of (ours, limit), in turns, after a warm-up of both, for about `budget` seconds."""
    parts = {"limit": work.limit, "ours": work.ours, "limit once": work.limit_once, "ours once": work.ours_once}
    once = 0.0
    for part in parts.values():
        seconds(part, device)
        once += seconds(part, device)
    in_a_row = max(1, math.ceil(0.2 / once))
    rounds = int(min(30, max(3, budget / (once * in_a_row))))
    times = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            times[name].append(seconds(part, device, in_a_row))
    median = {name: statistics.median(values) for name, values in times.items()}
    return median["ours"] - median["ours once"], median["limit"] - median["limit once"]


def peak_memory(device) -> int | None:
    """Bytes: torch's on a GPU since the last call; of the process since its start on Linux; else None."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


class Operators(TorchDispatchMode):
    """Counts the operators that do something: no views, no bookkeeping."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returned)
        name = func._schema.name
        self.count += not is_view and "empty" not in name and "detach" not in name
        return func(*args, **(kwargs or {}))


def operators(work) -> int:
    with Operators() as mode:
        work()
    return mode.count


@contextmanager
def as_on_a_gpu():
    """Views of many steps are made together and optimizers are fused, on any device: for counting."""
    view_pixels, fused = common.VIEW_PIXELS, common.fused
    common.VIEW_PIXELS = dict.fromkeys(view_pixels, view_pixels["cuda"])
    common.fused = lambda device: {"fused": True}
    try:
        yield
    finally:
        common.VIEW_PIXELS, common.fused = view_pixels, fused


def measure(row: str, name: str, device: str | None, precision: str | None, budget: float) -> dict:
    """Measure a row at a size. Call it in a fresh process: peak memory is that of the process."""
    device = common.set_up_device(device, precision)
    size = size_of(name, device)
    work = ROWS[row](size, device)
    peak_memory(device)
    work.limit()
    limit_memory = peak_memory(device)
    work.ours()
    memory = peak_memory(device)
    ours, limit = compare(work, device, budget)
    with as_on_a_gpu():
        counted = ROWS[row](size._replace(iterations=2), device)
        our_operators = operators(counted.ours) - operators(counted.ours_once)
        limit_operators = operators(counted.limit) - operators(counted.limit_once)
    return {
        "row": row, "size": name, "images_per_step": work.images // work.steps,
        "ours_ms": 1e3 * ours / work.steps, "limit_ms": 1e3 * limit / work.steps, "ratio": ours / limit,
        "images_per_second": work.images / ours, "peak_bytes": memory, "limit_peak_bytes": limit_memory,
        "operators": our_operators / counted.steps, "limit_operators": limit_operators / counted.steps,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Made-up sets and networks


def made_up(size: Size, device, count: int, classes=None) -> tuple[Dataset, Distilled]:
    """A data set of noise with `count` images, and it again as a distilled set."""
    torch.manual_seed(0)
    classes = classes or size.classes
    images = torch.randint(256, (count, 3, size.side, size.side), dtype=torch.uint8)
    split = common.Split(torch.arange(count) % classes, device, pixels=images)
    names = [str(number) for number in range(classes)]
    nowhere = Path("noise")  # no stage is made
    data = Dataset("noise", names, size.side, COLOURS, size.arch, size.width, 1, split, split, nowhere)
    info = {"folder": "noise", "digest": "noise", "ipc": max(1, count // classes), "count": count, "settings": {}}
    return data, Distilled(split.images, split.labels, info)


def steps_together(size: Size, device) -> list[int]:
    """The steps whose views are made at once, of an epoch of ten (CIFAR-100 at IPC 10)."""
    return common.steps_together(range(10), size.batch, size.side, device)[0]


def network(size: Size, device):
    return common.build_model(size.arch, size.classes, size.side, size.width).to(device)


def frozen(size: Size, device) -> Teacher:
    model = network(size, device).eval().requires_grad_(False)
    return Teacher(model, {"arch": size.arch, "digest": "frozen"})


def labels_of(size: Size, epochs: int) -> lpqld.LabelSettings:
    """Settings of full labels (p = 0) with a twentieth of the logits, at least three."""
    top_k = min(size.classes, max(3, size.classes // 20))
    return lpqld.LabelSettings(batch_size=size.batch, epochs=epochs, prune=0, top_k=top_k)


def forward_backward(model, images):
    model.zero_grad(set_to_none=True)
    with common.autocast(images.device):
        logits = model(images)
    logits.float().sum().backward()


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def bare_networks(steps, fixed: Tensor, student, teacher=None):
    """The limit: forward and backward of the student, forward of a teacher, on one fixed batch at each step."""

    def limit():
        for _ in steps:
            if teacher:
                with torch.no_grad(), common.autocast(fixed.device):
                    teacher(fixed)
            forward_backward(student, fixed)

    return limit


def gift_steps(size: Size, device) -> Work:
    steps = steps_together(size, device)
    data, distilled = made_up(size, device, size.batch * len(steps))
    teacher = frozen(size, device).model
    student = network(size, device)
    protocol = replace(gift.protocol_for(data, distilled, size.arch), batch_size=size.batch)
    optimizer = gift.OPTIMIZERS[protocol.optimizer](student.parameters(), protocol.lr, **common.fused(device))
    fixed = common.normalize(distilled.images[: size.batch], COLOURS)

    def ours():
        for images, labels, _ in gift.augmented_batches(distilled, data, protocol, 0, 0):
            teacher_logits = gift.soft_labels(teacher, images)
            gift.training_step(student, optimizer, images, teacher_logits, labels, protocol.loss)

    return Work(ours, bare_networks(steps, fixed, student, teacher), size.batch * len(steps), len(steps))


def lpqld_steps(size: Size, device) -> Work:
    steps = steps_together(size, device)
    data, distilled = made_up(size, device, size.batch * len(steps))
    student = network(size, device)
    optimizer = lpqld.make_optimizer(student, "adamw", lr=1e-3, weight_decay=0.01)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.pt"
        lpqld.make_pool(data, frozen(size, device), distilled, labels_of(size, epochs=1), 0, file)
        pool = lpqld.load_pool(file, data, distilled)
    fixed = common.normalize(distilled.images[: size.batch], COLOURS)

    def ours():
        for images, targets in pool.batches(steps, 20.0):
            lpqld.training_step(student, optimizer, images, targets, 0.5)

    return Work(ours, bare_networks(steps, fixed, student), size.batch * len(steps), len(steps))


def label_pool(size: Size, device) -> Work:
    steps = size.label_batches
    data, distilled = made_up(size, device, size.batch * 2)
    teacher = frozen(size, device)
    labels = labels_of(size, epochs=steps // 2)
    groups = common.steps_together(range(steps), size.batch, size.side, device)  # that the teacher sees at once
    places = torch.arange(size.batch * len(groups[0]), device=device) % (size.batch * 2)
    fixed = common.normalize(distilled.images[places], COLOURS)

    def limit():
        with torch.no_grad():
            for group in groups:
                teacher.model(fixed[: size.batch * len(group)])

    def ours():
        with tempfile.TemporaryDirectory() as folder:
            lpqld.make_pool(data, teacher, distilled, labels, 0, Path(folder) / "labels.pt")

    return Work(ours, limit, size.batch * steps, steps)


def recovery(size: Size, device) -> Work:
    groups, iterations = size.groups, size.iterations
    data, _ = made_up(size, device, 1)
    teacher = frozen(size, device).model
    fixed = torch.zeros(groups * IPC, 3, size.side, size.side, device=device)
    fixed = fixed.contiguous(memory_format=torch.channels_last).requires_grad_()

    def limit(count=1 + iterations):
        for _ in range(count):
            teacher(fixed).sum().backward()

    def ours(count=1 + iterations):
        recover(teacher, data, range(groups), count)

    images = groups * IPC * iterations
    return Work(ours, limit, images, iterations, ours_once=lambda: ours(1), limit_once=lambda: limit(1))


def recover(teacher, data: Dataset, classes: range, iterations: int):
    """Class-wise recovery of ten images of each of these classes, all classes at once."""
    targets = torch.tensor(classes)[:, None].expand(-1, IPC) % data.num_classes
    class_statistics = []
    for layer in synthesize.batchnorms(teacher):
        class_statistics.append((layer.running_mean.repeat(len(classes), 1), layer.running_var.repeat(len(classes), 1)))
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=iterations, roll=(0, 4), crop=True)
    with tempfile.TemporaryDirectory() as folder:  # no progress is found there
        progress = Path(folder) / "progress.pt"
        synthesize.recover(teacher, targets, class_statistics, list(classes), setting, data, 0, progress)


def rded(size: Size, device, classes=2) -> Work:
    data, distilled = made_up(size, device, classes * size.images, classes)
    teacher = frozen(size, device)
    patches = size.images * synthesize.RDED_CROPS  # of a class; the teacher sees 500 at once
    count = min(patches, 500)
    fixed = common.normalize(distilled.images[torch.arange(count, device=device) % len(distilled.images)], COLOURS)
    sizes = [min(count, patches - first) for first in range(0, patches, count)] * classes

    def limit():
        with torch.no_grad():
            for count in sizes:
                teacher.model(fixed[:count])

    def ours():
        synthesize.rded(data, teacher, list(range(classes)), min(10, size.images), 1, 0)

    return Work(ours, limit, patches * classes, len(sizes))


def teacher_epoch(size: Size, device) -> Work:
    steps = steps_together(size, device)
    data, distilled = made_up(size, device, size.batch * len(steps))
    model = network(size, device)
    recipe = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, **recipe, **common.fused(device))
    fixed = common.normalize(distilled.images[: size.batch], COLOURS)

    def ours():
        for views, labels in common.teacher_batches(data, size.batch, 0, 0):
            common.teacher_step(model, optimizer, views, labels)

    return Work(ours, bare_networks(steps, fixed, model), size.batch * len(steps), len(steps))


ROWS = {
    "gift": gift_steps,
    "lpqld": lpqld_steps,
    "labels": label_pool,
    "recovery": recovery,
    "rded": rded,
    "teacher": teacher_epoch,
}

# ---------------------------------------------------------------------------------------------------------------------
# Without us, in fp32, with a DataLoader of four workers: JPEGs from disk, cropped by PIL, and labels from a file per
# batch, as the released code for LPQLD trains (its crops are stored, here they are drawn); tensors in memory,
# normalised one by one, DSA on the device, as GIFT's; recovery of one class after the other


class Tensors(torch.utils.data.Dataset):
    """Images in memory, as of a data.pt."""

    def __init__(self, images):
        self.images = images.cpu().float() / 255

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return transforms.functional.normalize(self.images[index], *COLOURS)


def loader_of(dataset, batch):
    pinned = torch.cuda.is_available()
    return torch.utils.data.DataLoader(dataset, batch, num_workers=4, pin_memory=pinned, persistent_workers=True)


def write_files(folder: Path, size: Size, count: int):
    """JPEGs of smooth noise, as pictures are, in a class folder; and a file of labels for each batch of them."""
    stream = np.random.RandomState(0)
    (folder / "images" / "class").mkdir(parents=True)
    for number in range(count):
        noise = Image.fromarray(stream.randint(256, size=(8, 8, 3), dtype=np.uint8))
        picture = noise.resize((size.side, size.side), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / "class" / f"{number:05d}.jpg", quality=95)
    for number in range(count // size.batch):
        torch.save(torch.zeros(size.batch, size.classes, dtype=torch.float16), folder / f"{number}.pt")


def plain_step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()


def gift_by_loader(size: Size, device, folder: Path):
    work = gift_steps(size, device)
    _, distilled = made_up(size, device, work.images)
    loader = loader_of(Tensors(distilled.images), size.batch)
    teacher = frozen(size, device).model.to(memory_format=torch.contiguous_format)
    student = network(size, device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=1e-4)
    labels = torch.arange(size.batch, device=device) % size.classes

    def theirs():
        for step, images in enumerate(loader):
            draws = gift.dsa_draws(size.batch, size.side, 0, step).to(device)
            images = gift.dsa(images.to(device), draws).contiguous()
            with torch.no_grad():
                teacher_logits = teacher(images)
            plain_step(optimizer, gift.gift_loss(student(images), teacher_logits, labels))

    return work._replace(limit=theirs), loader


def lpqld_by_loader(size: Size, device, folder: Path):
    work = lpqld_steps(size, device)
    write_files(folder, size, work.images)
    views = transforms.Compose(
        [
            transforms.RandomResizedCrop(size.side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*COLOURS),
        ]
    )
    loader = loader_of(torchvision.datasets.ImageFolder(folder / "images", views), size.batch)
    student = network(size, device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=0.01)
    half = size.side // 2

    def theirs():
        for step, (images, _) in enumerate(loader):
            images = images.to(device)
            images[:, :, :half, :half] = images.flip(0)[:, :, :half, :half]  # CutMix, with a stored box and order
            logits = torch.load(folder / f"{step}.pt", weights_only=True).to(device).float()
            scores = F.log_softmax(student(images) / 20, 1)
            plain_step(optimizer, F.kl_div(scores, F.softmax(logits / 20, 1), reduction="batchmean"))

    return work._replace(limit=theirs), loader


def recovery_one_at_a_time(size: Size, device, folder: Path):
    work = recovery(size, device)
    data, _ = made_up(size, device, 1)
    teacher = frozen(size, device).model

    def theirs(count=1 + size.iterations):
        for number in range(size.groups):
            recover(teacher, data, range(number, number + 1), count)

    return work._replace(limit=theirs, limit_once=lambda: theirs(1)), None


WITHOUT = {  # what is compared, at which size, and how many times as fast we want to be on a large GPU
    "gift at 32 px": (gift_by_loader, "conv3-32", 5),
    "gift at 32 px, ResNet-18": (gift_by_loader, "resnet18-32", 5),
    "lpqld at 64 px": (lpqld_by_loader, "resnet18-64", 10),
    "recovery at 32 px": (recovery_one_at_a_time, "conv3-32", 5),
    "recovery at 64 px": (recovery_one_at_a_time, "resnet18-64", 5),
}


def measure_without(name: str, small: bool, device: str | None, budget: float) -> dict:
    function, size_name, goal = WITHOUT[name]
    device = common.set_up_device(device, "fp32")
    size = size_of("tiny-test" if small else size_name, device)
    with tempfile.TemporaryDirectory() as folder:
        work, loader = function(size, device, Path(folder))
        ours, theirs = compare(work, device, budget)
        alone = None
        if loader:
            alone = statistics.median(seconds(lambda: sum(1 for _ in loader), device) for _ in range(3))
    return {
        "row": name, "images_per_second": work.images / ours, "without_images_per_second": work.images / theirs,
        "times": theirs / ours, "goal": goal, "loader_alone_images_per_second": work.images / alone if alone else None,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# ImageNet-1K's size: 1000 classes, with made-up images

IMAGENET_IPCS = (10, 50, 200)


def imagenet(arch, side, width, groups, iterations, device, precision) -> dict:
    """A real pool of labels, an epoch of training, some iterations of recovery; and what a whole run then takes."""
    device = common.set_up_device(device, precision)
    size = Size(arch, side, 1000, batch=128, groups=groups, images=300, label_batches=0, iterations=0, width=width)
    if not synthesize.batchnorms(network(size, "cpu")):
        raise UserError(f"--arch {arch} has no BatchNorm layers: nothing to recover images from")
    data, distilled = made_up(size, device, 1000 * IPC)
    teacher = frozen(size, device)
    labels = lpqld.LabelSettings()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.pt"
        started = time.perf_counter()
        lpqld.make_pool(data, teacher, distilled, labels, 0, file)
        found["labels_made_s"] = time.perf_counter() - started
        started = time.perf_counter()
        pool = lpqld.load_pool(file, data, distilled)
        found["labels_read_s"] = time.perf_counter() - started
        found["label_bytes"] = file.stat().st_size
    student = network(size, device)
    optimizer = lpqld.make_optimizer(student, "adamw", lr=1e-3, weight_decay=0.01)
    numbers = lpqld.draw_label_batches(len(pool.values), pool.per_epoch, 0, labels.epochs, labels.prune, 0)

    def epoch():
        batches = pool.batches(numbers, 20.0)
        for images, targets in common.progress_bar(batches, "an epoch", len(numbers)):
            lpqld.training_step(student, optimizer, images, targets, 1.0)

    def recovered(count):
        recover(teacher.model, data, range(groups), count)

    found["first_epoch_s"] = seconds(epoch, device)
    found["epoch_s"] = seconds(epoch, device)
    recovered(1)
    once = seconds(lambda: recovered(1), device)  # with what is done once: noise, optimizer
    found["iteration_s"] = (seconds(lambda: recovered(1 + iterations), device) - once) / iterations
    found["classes_together"] = groups
    found["peak_bytes"] = peak_memory(device)
    found["formula_label_bytes"] = storage.label_bytes(len(pool.values) * size.batch, labels.top_k, size.classes)
    for ipc in IMAGENET_IPCS:
        found[f"ipc{ipc}"] = whole_run(found, ipc, size)
    return found


def whole_run(found: dict, ipc: int, size: Size) -> dict:
    """Hours and bytes of all of ImageNet-1K, in proportion to the images per class."""
    share = ipc / IPC
    hours = {
        "recovery": found["iteration_s"] * 4000 * size.classes / size.groups * share / 3600,
        "labels": found["labels_made_s"] * share / 3600,
        "training": found["epoch_s"] * 300 * share / 3600,
    }
    return {
        "hours": hours,
        "images_bytes": ipc * size.classes * 3 * size.side**2,
        "label_bytes": found["label_bytes"] * share,
        "full_label_bytes": ipc * size.classes * 300 * size.classes * 2,
    }


def print_imagenet(found: dict):
    sizes = f"{found['label_bytes']:,} bytes (formula {found['formula_label_bytes']:,})"
    times = f"made in {found['labels_made_s']:.1f} s, read and checked in {found['labels_read_s']:.1f} s"
    print(f"label pool, IPC 10, p 0.9, MR-50: {sizes}, {times}")
    print(f"an epoch of 78 batches of 128: {found['epoch_s']:.2f} s (the first one {found['first_epoch_s']:.2f} s)")
    together = f"{found['classes_together']} classes of ten images together"
    print(f"an iteration of recovery, {together}: {1e3 * found['iteration_s']:.1f} ms")
    print(f"peak memory {gigabytes(found['peak_bytes'])}\n")
    columns = ("recovery h", "labels h", "training h", "images GB", "labels GB", "full labels GB")
    print("a whole run takes" + "".join(f"{column:>16}" for column in columns))
    for ipc in IMAGENET_IPCS:
        run = found[f"ipc{ipc}"]
        sizes = [run[name] / 2**30 for name in ("images_bytes", "label_bytes", "full_label_bytes")]
        print(f"IPC {ipc:<13}" + "".join(f"{number:16.2f}" for number in [*run["hours"].values(), *sizes]))
    print("(4000 iterations of recovery, 300 epochs; extrapolated from what is above, in proportion to IPC)")


# ---------------------------------------------------------------------------------------------------------------------
# The script


def gigabytes(count) -> str:
    return "-" if count is None else f"{count / 2**30:.2f} GiB"


def in_its_own_process(function, *arguments):
    """function(*arguments) in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError(f"{arguments[0]}: its process was killed; was memory too small?") from None


def measure_rows(args) -> list[dict]:
    """Every row at every size, printed as it comes."""
    print(f"\n{'':16}{'size':14}{'images':>7}{'ours ms':>10}{'limit ms':>10}{'ratio':>7}{'images/s':>10}", end="")
    print(f"{'peak':>12}{'its limit':>12}{'operators':>11}{'limit':>7}")
    numbers = "{images_per_step:7}{ours_ms:10.2f}{limit_ms:10.2f}{ratio:7.3f}{images_per_second:10.0f}"
    counts = "{operators:11.0f}{limit_operators:7.0f}"
    rows = []
    for name in args.sizes:
        for row in args.only or ROWS:
            found = in_its_own_process(measure, row, name, args.device, args.precision, args.seconds)
            memory = f"{gigabytes(found['peak_bytes']):>12}{gigabytes(found['limit_peak_bytes']):>12}"
            print(f"{row:16}{name:14}{numbers.format(**found)}{memory}{counts.format(**found)}", flush=True)
            rows.append(found)
    return rows


def measure_rows_without(args) -> list[dict]:
    print(f"\n{'images/s':28}{'ours':>10}{'without us':>12}{'times':>8}{'goal, large GPU':>17}{'loader alone':>14}")
    small = "tiny-test" in args.sizes
    rows = []
    for name in WITHOUT:
        found = in_its_own_process(measure_without, name, small, args.device, args.seconds)
        alone = found["loader_alone_images_per_second"]
        alone = "-" if alone is None else f"{alone:.0f}"
        numbers = "{images_per_second:10.0f}{without_images_per_second:12.0f}{times:8.2f}{goal:17}"
        print(f"{name:28}{numbers.format(**found)}{alone:>14}", flush=True)
        rows.append(found)
    return rows


def read_options(argv):
    parser = common.Parser(__doc__)
    add, positive = parser.add_argument, common.at_least(1)
    sizes = [name for name in GPU_SIZES if name != "tiny-test"]
    add("--sizes", nargs="+", choices=GPU_SIZES, default=sizes, help="default: all but tiny-test, which is for tests")
    add("--only", nargs="+", choices=ROWS, help="rows (default: all)")
    add("--without-us", action="store_true", help="compare with a DataLoader, and with one class at a time")
    add("--imagenet", action="store_true", help="ImageNet-1K's size: labels, an epoch, recovery of some classes")
    add("--arch", default="resnet18", help="--imagenet: network (default: resnet18)")
    add("--image-size", type=common.at_least(8), default=224, help="--imagenet: side (default: 224)")
    add("--width", type=positive, default=128, help="--imagenet: of a ConvNet")
    add("--groups", type=positive, default=20, help="--imagenet: classes recovered together (default: 20)")
    add("--iterations", type=positive, default=20, help="--imagenet: of the recovery (default: 20)")
    add("--seconds", type=common.at_least(0.01, float), default=10.0, help="of measuring for each row (default: 10)")
    add("--precision", choices=("fp32", "bf16"), help="of training (default: as in the scripts)")
    add("--device", help="default: cuda if there is one")
    add("--json", type=common.path_of, help="write the results there too")
    return parser.parse_args(argv)


def main(argv=None) -> dict:
    args = read_options(argv)
    if args.without_us and (args.only or args.precision == "bf16"):
        raise UserError("--without-us compares all it knows, in fp32: not with --only or --precision bf16")
    if args.imagenet and (args.only or args.without_us):
        raise UserError("--imagenet goes with neither --only nor --without-us")
    if args.json:
        common.check_file(args.json, "--json")
    device = common.set_up_device(args.device, args.precision)
    made = {**common.made_with(device), "precision": common.precision_on(device)}
    print(f"{made['device']}, torch {made['torch']}, {made['precision']}")
    if args.imagenet:
        found = in_its_own_process(
            imagenet, args.arch, args.image_size, args.width, args.groups, args.iterations, args.device, args.precision
        )
        print_imagenet(found)
    else:
        found = measure_rows_without(args) if args.without_us else measure_rows(args)
    result = {"results": found, "made_with": made}
    if args.json:
        common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    common.run_script(main)
