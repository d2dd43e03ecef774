"""What the methods cost beside the bare networks, and what a user would have without them, on the machine it runs on.

    python benchmark.py                                         # every row at every size, as one table
    python benchmark.py --sizes conv3-32 --only gift lpqld      # some of them
    python benchmark.py --without-us                            # PIL crops in a DataLoader; one class at a time
    python benchmark.py --imagenet                              # ImageNet-1K's size with made-up images: hours, GB

Rows, each beside its limit, the forward and backward of the same networks on one fixed batch, in channels_last and in
the same precision; the goal is a ratio of at most 1.10:
  gift      a training step of gift.py: batch, views, teacher and student, loss, optimizer
  lpqld     a training step of lpqld.py: views and labels out of a stored pool, student, loss, optimizer
  labels    making a label pool, its file included; the limit is the teacher's forward, in fp32
  recovery  an iteration of class-wise recovery, classes together; forward and backward to the images, in fp32
  rded      choosing RDED's crops; the teacher's forward on them, in fp32
  teacher   a step of a teacher's epoch
  gift --compile, lpqld --compile: the same steps with --compile, which takes a minute at first; limit as above
Both alternate; seconds are medians over rounds. Peak memory is what torch took on a GPU, the whole process on a CPU.
"operators" counts torch operators per step that are no mere views, about the launches of a GPU (optimizer fused, as it
is there); for labels, recovery and rded all they do, divided by the batches.
"""

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as transforms
from tqdm import tqdm

import common
import gift
import lpqld
import synthesize

COLOURS = common.CIFAR_COLOURS


class Size(NamedTuple):
    """A network at a side; batches as large as a GPU and a CPU of two cores can take many of."""

    arch: str
    side: int
    classes: int
    batch: tuple[int, int]  # images per step: CUDA, elsewhere
    groups: tuple[int, int]  # classes of ten images recovered together
    images: tuple[int, int]  # images per class that RDED looks at (released: 300)
    width: int = 128


SIZES = {
    "conv3-32": Size("conv3", 32, 100, (100, 100), (100, 10), (300, 300)),
    "resnet18-32": Size("resnet18_modified", 32, 100, (100, 50), (100, 2), (300, 100)),
    "resnet18-64": Size("resnet18_modified", 64, 200, (100, 20), (40, 2), (300, 20)),
    "resnet18-224": Size("resnet18", 224, 1000, (128, 16), (20, 2), (300, 20)),
    "tiny-test": Size("conv3", 8, 3, (4, 4), (2, 2), (4, 4), 4),  # for the tests
}


class Work(NamedTuple):
    ours: callable
    limit: callable
    images: int  # in one call of either
    steps: int  # in one call of either


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work, device, in_a_row=1):
    """Wall time of one of several work() in a row, the device's queue included: a stop between steps shows."""
    wait(device)
    started = time.perf_counter()
    for _ in range(in_a_row):
        work()
    wait(device)
    return (time.perf_counter() - started) / in_a_row


def compare(ours, limit, device, budget):
    """Median seconds of (ours, limit), in turns, after a warm-up of both, for about `budget` seconds."""
    once = sum(max(seconds(work, device) for _ in range(2)) for work in (limit, ours))
    in_a_row = max(1, math.ceil(0.2 / once))
    rounds = int(min(30, max(3, budget / (once * in_a_row))))
    times = [(seconds(ours, device, in_a_row), seconds(limit, device, in_a_row)) for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak_memory(device):
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
        self.count += not is_view and "empty" not in func._schema.name and "detach" not in func._schema.name
        return func(*args, **(kwargs or {}))


def operators(work) -> int:
    with Operators() as mode:
        work()
    return mode.count


# ---------------------------------------------------------------------------------------------------------------------
# Made-up sets and networks


def made_up(size: Size, device, count, classes=None):
    """A data set of noise with `count` images, and it again as a distilled set."""
    torch.manual_seed(0)
    classes = classes or size.classes
    images = torch.randint(256, (count, 3, size.side, size.side), dtype=torch.uint8)
    split = common.Split(torch.arange(count) % classes, device, pixels=images)
    names = [str(number) for number in range(classes)]
    data = common.Dataset("noise", names, size.side, COLOURS, size.arch, size.width, 1, split, split)
    info = {"folder": "noise", "digest": "noise", "ipc": max(1, count // classes)}
    return data, common.Distilled(split.images, split.labels, info)


def together(batch, size, device):
    """The steps whose views are made at once, of an epoch of ten (CIFAR-100 at IPC 10)."""
    return common.steps_together(range(10), batch, size.side, device)[0]


def network(size, device):
    return common.build_model(size.arch, size.classes, size.side, size.width).to(device)


def frozen(size, device):
    model = network(size, device).eval().requires_grad_(False)
    return common.Teacher(model, {"arch": size.arch, "digest": "frozen"})


def with_fused_kernels(optimizer):
    """The optimizer with torch's fused kernels, as common.fused makes it on CUDA: for counting on a CPU."""
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def make_pool(data, distilled, teacher, protocol, keep=None):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.pt"
        settings = lpqld.pool_settings(protocol, data, distilled, teacher, 0)
        lpqld.make_pool(distilled, teacher, data, settings, file)
        return lpqld.load_pool(file, data, distilled, teacher) if keep else file.stat().st_size


def forward_backward(model, images):
    model.zero_grad(set_to_none=True)
    with common.autocast(images.device):
        logits = model(images)
    logits.float().sum().backward()


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def gift_steps(size, device, at, counting, compile=False):
    batch = size.batch[at]
    steps = together(batch, size, device)
    data, distilled = made_up(size, device, batch * len(steps))
    teacher, student = frozen(size, device).model, network(size, device)
    fast_student, fast_teacher = (common.compiled(model, compile) for model in (student, teacher))
    optimizer = gift.OPTIMIZERS["adamw"](student.parameters(), 1e-3, **common.fused(device))
    optimizer = with_fused_kernels(optimizer) if counting else optimizer
    fixed, run = common.normalize(distilled.images[:batch], COLOURS), {"batch_size": batch, "view_factor": 1}

    def limit():
        for _ in steps:
            with torch.no_grad(), common.autocast(device):
                teacher(fixed)
            forward_backward(student, fixed)

    def ours():
        for images, labels in gift.augmented_batches(distilled, data, run, 0, 0):
            gift.training_step(fast_student, fast_teacher, optimizer, images, labels, "gift")

    return Work(ours, limit, batch * len(steps), len(steps))


def lpqld_steps(size, device, at, counting, compile=False):
    batch = size.batch[at]
    steps = together(batch, size, device)
    data, distilled = made_up(size, device, batch * len(steps))
    top_k = min(size.classes, max(3, size.classes // 20))
    protocol = lpqld.Protocol(batch_size=batch, epochs=1, prune=0, top_k=top_k)
    student = network(size, device)
    fast_student = common.compiled(student, compile)
    optimizer = lpqld.make_optimizer(student, {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01})
    optimizer = with_fused_kernels(optimizer) if counting else optimizer
    pool = make_pool(data, distilled, frozen(size, device), protocol, keep=True)
    fixed = common.normalize(distilled.images[:batch], COLOURS)

    def limit():
        for _ in steps:
            forward_backward(student, fixed)

    def ours():
        for images, targets in pool.batches(list(steps), distilled.images, COLOURS, 20.0):
            lpqld.training_step(fast_student, optimizer, images, targets, 0.5)

    return Work(ours, limit, batch * len(steps), len(steps))


def label_pool(size, device, at, counting):
    batch, steps = size.batch[at], 2 if counting else (100, 8)[at]
    data, distilled = made_up(size, device, batch * 2)
    teacher, top_k = frozen(size, device), min(size.classes, max(3, size.classes // 20))
    protocol = lpqld.Protocol(batch_size=batch, epochs=steps // 2, prune=0, top_k=top_k)
    groups = common.steps_together(range(steps), batch, size.side, device)  # that the teacher sees at once
    some = distilled.images[torch.arange(batch * len(groups[0]), device=device) % (batch * 2)]
    fixed = common.normalize(some, COLOURS)

    def limit():
        with torch.no_grad():
            for group in groups:
                teacher.model(fixed[: batch * len(group)])

    def ours():
        make_pool(data, distilled, teacher, protocol)

    return Work(ours, limit, batch * steps, steps)


def recovery(size, device, at, counting, ipc=10):
    groups, iterations = size.groups[at], 2 if counting else (100, 4)[at]
    data, _ = made_up(size, device, 1)
    teacher = frozen(size, device).model
    fixed = torch.zeros(groups * ipc, 3, size.side, size.side, device=device)
    fixed = fixed.contiguous(memory_format=torch.channels_last).requires_grad_()

    def limit():
        for _ in range(iterations):
            teacher(fixed).sum().backward()

    def ours():
        recover(teacher, data, groups, ipc, iterations)

    return Work(ours, limit, groups * ipc * iterations, iterations)


def recover(teacher, data, groups, ipc, iterations, first=0):
    """Class-wise recovery of `groups` classes at once."""
    ids = list(range(first, first + groups))
    targets = torch.tensor(ids, device=data.device)[:, None].expand(-1, ipc) % data.num_classes
    statistics_ = [
        (x.running_mean.repeat(groups, 1), x.running_var.repeat(groups, 1)) for x in synthesize.batchnorms(teacher)
    ]
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=iterations, roll=(0, 4), crop=True)
    with tempfile.TemporaryDirectory() as folder:  # no progress is found there
        synthesize.recover(teacher, targets, statistics_, setting, data, 0, ids, Path(folder) / "progress.pt")


def rded(size, device, at, counting, classes=2):
    images = size.images[at]
    data, distilled = made_up(size, device, classes * images, classes)
    teacher, patches = frozen(size, device), images * synthesize.RDED_CROPS
    count = min(patches, 500)
    fixed = common.normalize(distilled.images[torch.arange(count, device=device) % (classes * images)], COLOURS)
    sizes = [min(count, patches - first) for first in range(0, patches, count)] * classes

    def limit():
        with torch.no_grad():
            for n in sizes:
                teacher.model(fixed[:n])

    def ours():
        synthesize.rded(data, teacher, min(10, images), 1, 0)

    return Work(ours, limit, patches * classes, len(sizes))


def teacher_epoch(size, device, at, counting):
    batch = min(128, size.batch[at])
    steps = together(batch, size, device)
    data, distilled = made_up(size, device, batch * len(steps))
    model = network(size, device)
    recipe = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, **common.fused(device)}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, **recipe)
    optimizer = with_fused_kernels(optimizer) if counting else optimizer
    fixed = common.normalize(distilled.images[:batch], COLOURS)

    def limit():
        for _ in steps:
            forward_backward(model, fixed)

    def ours():
        for views, labels in common.teacher_batches(data, batch, 0, 0):
            common.teacher_step(model, optimizer, views, labels)

    return Work(ours, limit, batch * len(steps), len(steps))


ROWS = {
    "gift": gift_steps, "lpqld": lpqld_steps, "labels": label_pool, "recovery": recovery, "rded": rded,
    "teacher": teacher_epoch, "gift --compile": partial(gift_steps, compile=True),
    "lpqld --compile": partial(lpqld_steps, compile=True),
}  # fmt: skip


def measure(row, name, device, precision, budget):
    """A row at a size; in a process of its own, so that its memory is its own too."""
    device, size = common.pick_device(device, precision), SIZES[name]
    at = int(device.type != "cuda")  # which of a size's two numbers
    work = ROWS[row](size, device, at, False)
    peak_memory(device)
    work.limit()
    limit_memory = peak_memory(device)
    work.ours()
    memory = peak_memory(device)
    ours, limit = compare(work.ours, work.limit, device, budget)
    common.VIEW_PIXELS["cpu"] = common.VIEW_PIXELS["cuda"]  # counted as on a GPU
    counted = ROWS[row.removesuffix(" --compile")](size, device, at, True)
    counts = [operators(part) / counted.steps for part in (counted.ours, counted.limit)]
    if "--compile" in row:
        counts[0] = None  # what is compiled is not seen
    return {
        "row": row, "size": name, "images_per_step": work.images // work.steps,
        "ours_ms": 1e3 * ours / work.steps, "limit_ms": 1e3 * limit / work.steps, "ratio": ours / limit,
        "images_per_second": work.images / ours, "peak_bytes": memory, "limit_peak_bytes": limit_memory,
        "operators": counts[0], "limit_operators": counts[1],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Without us, in fp32, with a DataLoader of four workers: JPEGs from disk, cropped by PIL, and labels from a file per
# batch, as the released code for LPQLD trains; tensors in memory, normalised one by one, DSA on the device, as GIFT's;
# recovery of one class after the other


class Files(torch.utils.data.Dataset):
    """JPEGs and their stored views."""

    def __init__(self, paths, side, seed=0):
        self.paths, self.side = paths, side
        self.draws = lpqld.view_draws(len(paths), side, "none", True, seed)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        top, left, height, width, flip = self.draws[index, :5].tolist()
        image = transforms.resized_crop(image, top, left, height, width, [self.side, self.side])
        image = transforms.hflip(image) if flip else image
        return transforms.normalize(transforms.to_tensor(image), *COLOURS)


class Tensors(torch.utils.data.Dataset):
    """Images in memory, as of a data.pt."""

    def __init__(self, images):
        self.images = images.cpu().float() / 255

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return transforms.normalize(self.images[index], *COLOURS)


def loader_of(dataset, batch):
    return torch.utils.data.DataLoader(dataset, batch, num_workers=4, pin_memory=True, persistent_workers=True)


def files_and_loader(folder: Path, size, batch, count):
    generator = np.random.RandomState(0)
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    for path in paths:
        noise = Image.fromarray(generator.randint(256, size=(8, 8, 3), dtype=np.uint8))  # smooth, as pictures are
        noise.resize((size.side, size.side), Image.Resampling.BICUBIC).save(path, quality=95)
    files = Files(paths, size.side)
    for number in range(count // batch):
        torch.save(torch.zeros(batch, size.classes, dtype=torch.float16), folder / f"{number}.pt")
    return loader_of(files, batch)


def gift_by_loader(size, device, at, folder):
    work, batch = gift_steps(size, device, at, False), size.batch[at]
    loader = loader_of(Tensors(made_up(size, device, work.images)[1].images), batch)
    teacher = network(size, device).eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    student = network(size, device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=1e-4)
    labels = torch.arange(batch, device=device) % size.classes

    def theirs():
        for step, images in enumerate(loader):
            draws = common.dsa_draws(batch, size.side, 0, step).to(device)
            images = common.dsa(images.to(device), draws).contiguous()
            with torch.no_grad():
                teacher_logits = teacher(images)
            loss = gift.gift_loss(student(images), teacher_logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return work.ours, theirs, lambda: [None for _ in loader], work.images


def lpqld_by_loader(size, device, at, folder):
    work, batch = lpqld_steps(size, device, at, False), size.batch[at]
    loader = files_and_loader(folder, size, batch, work.images)
    student = network(size, device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=0.01)

    def theirs():
        for step, images in enumerate(loader):
            images = images.to(device)
            half = size.side // 2  # CutMix, with a stored box and order
            images[:, :, :half, :half] = images.flip(0)[:, :, :half, :half]
            logits = torch.load(folder / f"{step}.pt", weights_only=True).to(device).float()
            loss = F.kl_div(F.log_softmax(student(images) / 20, 1), F.softmax(logits / 20, 1), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return work.ours, theirs, lambda: [None for _ in loader], work.images


def recovery_one_at_a_time(size, device, at, folder, ipc=10):
    work, groups = recovery(size, device, at, False), size.groups[at]
    data, iterations = made_up(size, device, 1)[0], work.steps
    teacher = frozen(size, device).model

    def theirs():
        for number in range(groups):
            recover(teacher, data, 1, ipc, iterations, first=number)

    return work.ours, theirs, None, work.images


WITHOUT = {
    "gift at 32 px": (gift_by_loader, "conv3-32", 5),
    "gift at 32 px, ResNet-18": (gift_by_loader, "resnet18-32", 5),
    "lpqld at 64 px": (lpqld_by_loader, "resnet18-64", 10),
    "recovery at 32 px": (recovery_one_at_a_time, "conv3-32", 5),
    "recovery at 64 px": (recovery_one_at_a_time, "resnet18-64", 5),
}  # what is compared, at which size, and how many times as fast we want to be on a large GPU


def measure_without(name, small, device, precision, budget):
    function, size, goal = WITHOUT[name]
    device = common.pick_device(device, precision)
    with tempfile.TemporaryDirectory() as folder:
        size = SIZES["tiny-test" if small else size]
        ours, theirs, loader, images = function(size, device, int(device.type != "cuda"), Path(folder))
        fast, slow = compare(ours, theirs, device, budget)
        alone = images / statistics.median(seconds(loader, device) for _ in range(3)) if loader else None
    return {
        "row": name, "images_per_second": images / fast, "without_images_per_second": images / slow,
        "times": slow / fast, "goal": goal, "loader_alone_images_per_second": alone,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# ImageNet-1K's size: 1000 classes, with made-up images


def imagenet(arch, side, width, groups, iterations, device, precision):
    """A real pool of labels, an epoch of training, some iterations of recovery; and what a whole run then takes."""
    device = common.pick_device(device, precision)
    size = Size(arch, side, 1000, (128, 128), (groups, groups), (300, 300), width)
    if not synthesize.batchnorms(network(size, "cpu")):
        raise common.UserError(f"--arch {arch} has no BatchNorm layers: nothing to recover images from")
    data, distilled = made_up(size, device, 10_000)
    teacher, protocol, found = frozen(size, device), lpqld.Protocol(), {}
    with tempfile.TemporaryDirectory() as folder:
        file, started = Path(folder) / "labels.pt", time.perf_counter()
        settings = lpqld.pool_settings(protocol, data, distilled, teacher, 0)
        lpqld.make_pool(distilled, teacher, data, settings, file)
        found["labels_made_s"], started = time.perf_counter() - started, time.perf_counter()
        pool = lpqld.load_pool(file, data, distilled, teacher)
        found["labels_read_s"], found["label_bytes"] = time.perf_counter() - started, file.stat().st_size
    student = network(size, device)
    optimizer = lpqld.make_optimizer(student, {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01})
    numbers = lpqld.draw_label_batches(pool.settings["batches"], pool.per_epoch, 0, 300, 0.9, 0)

    def epoch():
        for images, targets in tqdm(pool.batches(numbers, distilled.images, COLOURS, 20.0), total=len(numbers)):
            lpqld.training_step(student, optimizer, images, targets, 1.0)

    found["first_epoch_s"], found["epoch_s"] = seconds(epoch, device), seconds(epoch, device)
    recover(teacher.model, data, groups, 10, 1)
    found["iteration_s"] = seconds(lambda: recover(teacher.model, data, groups, 10, iterations), device) / iterations
    found |= {"classes_together": groups, "peak_bytes": peak_memory(device)}
    found["formula_label_bytes"] = lpqld.label_bytes(len(pool.order), 50, 1000)
    for ipc in (10, 50, 200):
        hours = {
            "recovery": found["iteration_s"] * 4000 * 1000 / groups * ipc / 10,
            "labels": found["labels_made_s"] * ipc / 10,
            "training": found["epoch_s"] * 300 * ipc / 10,
        }
        found[f"ipc{ipc}"] = {
            "hours": {name: value / 3600 for name, value in hours.items()},
            "images_bytes": ipc * 1000 * 3 * side**2,
            "label_bytes": found["label_bytes"] * ipc / 10,
            "full_label_bytes": ipc * 1000 * 300 * 1000 * 2,
        }
    return found


def print_imagenet(found):
    sizes = f"{found['label_bytes']:,} bytes (formula {found['formula_label_bytes']:,})"
    times = f"made in {found['labels_made_s']:.1f} s, read and checked in {found['labels_read_s']:.1f} s"
    print(f"label pool, IPC 10, p 0.9, MR-50: {sizes}, {times}")
    print(f"an epoch of 78 batches of 128: {found['epoch_s']:.2f} s (the first one {found['first_epoch_s']:.2f} s)")
    together = f"{found['classes_together']} classes of ten images together"
    print(f"an iteration of recovery, {together}: {1e3 * found['iteration_s']:.1f} ms")
    print(f"peak memory {gigabytes(found['peak_bytes'])}\n")
    columns = ("recovery h", "labels h", "training h", "images GB", "labels GB", "full labels GB")
    print("a whole run takes" + "".join(f"{column:>16}" for column in columns))
    for ipc in (10, 50, 200):
        at = found[f"ipc{ipc}"]
        sizes = [at[name] / 2**30 for name in ("images_bytes", "label_bytes", "full_label_bytes")]
        print(f"IPC {ipc:<13}" + "".join(f"{value:16.2f}" for value in [*at["hours"].values(), *sizes]))
    print("(4000 iterations of recovery, 300 epochs; extrapolated from what is above, in proportion to IPC)")


# ---------------------------------------------------------------------------------------------------------------------
# The script


def gigabytes(count):
    return "-" if count is None else f"{count / 2**30:.2f} GiB"


def in_its_own_process(function, *arguments):
    """function(*arguments) in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise common.UserError(f"{arguments[0]}: its process was killed; was memory too small?") from None


def print_rows(args):
    print(f"\n{'':16}{'size':14}{'images':>7}{'ours ms':>10}{'limit ms':>10}{'ratio':>7}{'images/s':>10}", end="")
    print(f"{'peak':>12}{'its limit':>12}{'operators':>11}{'limit':>7}")
    for name in args.sizes:
        for row in args.only or [row for row in ROWS if "--compile" not in row]:
            found = in_its_own_process(measure, row, name, args.device, args.precision, args.seconds)
            numbers = "{images_per_step:7}{ours_ms:10.2f}{limit_ms:10.2f}{ratio:7.3f}{images_per_second:10.0f}"
            print(f"{row:16}{name:14}" + numbers.format(**found), end="")
            print(f"{gigabytes(found['peak_bytes']):>12}{gigabytes(found['limit_peak_bytes']):>12}", end="")
            counted = "-" if found["operators"] is None else f"{found['operators']:.0f}"
            print(f"{counted:>11}{found['limit_operators']:7.0f}", flush=True)
            yield found


def print_without(args):
    print(f"\n{'images/s':28}{'ours':>10}{'without us':>12}{'times':>8}{'goal, large GPU':>17}{'loader alone':>14}")
    for name in WITHOUT:
        small = "tiny-test" in args.sizes
        found = in_its_own_process(measure_without, name, small, args.device, args.precision, args.seconds)
        alone = found["loader_alone_images_per_second"]
        print(f"{name:28}{found['images_per_second']:10.0f}{found['without_images_per_second']:12.0f}", end="")
        print(f"{found['times']:8.2f}{found['goal']:17}{'-' if alone is None else f'{alone:.0f}':>14}", flush=True)
        yield found


def main():
    parser = common.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, positive = parser.add_argument, common.at_least(1)
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES)[:-1], help="default: all but tiny-test")
    add("--only", nargs="+", choices=ROWS, help="rows (default: all but those with --compile)")
    add("--without-us", action="store_true", help="compare with a DataLoader, and with one class at a time")
    add("--imagenet", action="store_true", help="ImageNet-1K's size: labels, an epoch, recovery of some classes")
    add("--arch", default="resnet18", help="--imagenet: network (default: resnet18)")
    add("--image-size", type=common.at_least(8), default=224, help="--imagenet: side (default: 224)")
    add("--width", type=positive, default=128, help="--imagenet: of a ConvNet")
    add("--groups", type=positive, default=20, help="--imagenet: classes recovered together (default: 20)")
    add("--iterations", type=positive, default=20, help="--imagenet: of the recovery (default: 20)")
    add("--seconds", type=common.at_least(0.01, float), default=10.0, help="of measuring for each row (default: 10)")
    add("--precision", choices=("fp32", "bf16"), help="of training (default: bf16 on cuda, else fp32)")
    add("--device", help="default: cuda if there is one")
    add("--json", type=Path, help="write the results there too")
    args = parser.parse_args()
    device = common.pick_device(args.device, args.precision)
    print(f"{common.made_with(device)['device']}, torch {torch.__version__}, {common.precision_on(device)}")
    if args.imagenet:
        options = (args.arch, args.image_size, args.width, args.groups, args.iterations, args.device, args.precision)
        found = imagenet(*options)
        print_imagenet(found)
    else:
        found = list((print_without if args.without_us else print_rows)(args))
    if args.json:
        made = {**common.made_with(device), "precision": common.precision_on(device)}
        common.save_json(args.json, {"results": found, "made_with": made})


if __name__ == "__main__":
    common.run_script(main)
