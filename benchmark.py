"""What the methods cost beside the bare networks, on the machine it runs on.

    python benchmark.py                          # conv3, width 128, 32 px: CIFAR's scale
    python benchmark.py --arch resnet18_modified --image-size 64 --classes 200
    python benchmark.py --only pool --image-size 16 --width 16            # a label pool of ImageNet-1K's size, for real
    python benchmark.py --only pool --arch resnet18 --image-size 224      # ... as it is on a GPU

Rows, each beside its limit: `gift` and `lpqld`, a training step (batch out of the data set, views, networks, loss,
optimizer) beside the forward and backward of the same networks on one fixed batch, in channels_last and under the same
autocast; goal: at most 1.10. `lpld`, an iteration of class-wise recovery for ten classes together, beside the same
classes one at a time. Both alternate; medians over the rounds.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import common
import gift
import lpqld
import synthesize

COLOURS = common.CIFAR_COLOURS


def seconds(work, device, in_a_row=5):
    """Wall time of one of five work() in a row, the device's queue included: a stop between steps shows."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(in_a_row):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / in_a_row


def compare(ours, limit, rounds, device, in_a_row=5):
    """Median seconds of (ours, limit), in turns; the first two rounds warm up."""
    times = [(seconds(ours, device, in_a_row), seconds(limit, device, in_a_row)) for _ in range(rounds + 2)][2:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def made_up(args, device, count):
    """A data set of noise with `count` images, and it again as a distilled set."""
    torch.manual_seed(0)
    images = torch.randint(256, (count, 3, args.image_size, args.image_size), dtype=torch.uint8)
    labels = torch.arange(count) % args.classes
    split = common.Split(labels, device, pixels=images)
    names = [str(number) for number in range(args.classes)]
    data = common.Dataset("noise", names, args.image_size, COLOURS, args.arch, args.width, 1, split, split)
    info = {"folder": "noise", "digest": common.digest({"images": images}), "ipc": count // args.classes}
    return data, common.Distilled(split.images, split.labels, info)


def network(args, device):
    return common.build_model(args.arch, args.classes, args.image_size, args.width).to(device)


def frozen(args, device):
    model = network(args, device).eval().requires_grad_(False)
    return common.Teacher(model, {"arch": args.arch, "digest": common.digest(model.state_dict())})


def gift_step(args, device):
    """(gift.py's step, teacher forward and student forward and backward), seconds; images per step."""
    _, distilled = made_up(args, device, 10 * args.batch_size)
    teacher, student = frozen(args, device).model, network(args, device)
    optimizer = gift.OPTIMIZERS["adamw"](student.parameters(), 1e-3)
    order, count = torch.randperm(len(distilled.images), device=device), itertools.count()
    fixed = common.normalize(distilled.images[: args.batch_size], COLOURS)

    def bare():
        student.zero_grad(set_to_none=True)
        with common.autocast(device):
            with torch.no_grad():
                teacher(fixed)
            logits = student(fixed)
        logits.float().sum().backward()

    def step():
        batch = order[: args.batch_size]
        images = common.normalize(distilled.images[batch], COLOURS)
        view = common.dsa_view(images, 0, common.VIEW, 0, next(count))
        gift.training_step(student, teacher, optimizer, view, distilled.labels[batch], "gift")

    return compare(step, bare, args.rounds, device), args.batch_size


def lpqld_step(args, device):
    """(lpqld.py's step, the student's forward and backward), seconds; images per step. No teacher runs here."""
    data, distilled = made_up(args, device, 10 * args.batch_size)
    protocol = lpqld.Protocol(batch_size=args.batch_size, epochs=5, prune=0, top_k=max(3, args.classes // 20))
    student = network(args, device)
    optimizer = lpqld.make_optimizer(student, {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01})
    pool = make_pool(args, data, distilled, protocol, device)
    fixed, count = common.normalize(distilled.images[: args.batch_size], COLOURS), itertools.count()

    def bare():
        student.zero_grad(set_to_none=True)
        with common.autocast(device):
            logits = student(fixed)
        logits.float().sum().backward()

    def step():
        number = next(count) % pool.settings["batches"]
        images, targets = pool.view(number, distilled.images, COLOURS), pool.targets(number, 20.0)
        lpqld.training_step(student, optimizer, images, targets, 0.5)

    return compare(step, bare, args.rounds, device), args.batch_size


def make_pool(args, data, distilled, protocol, device):
    with tempfile.TemporaryDirectory() as folder:
        teacher, file = frozen(args, device), Path(folder) / "labels.pt"
        settings = lpqld.pool_settings(protocol, data, distilled, teacher, 0)
        lpqld.make_pool(distilled, teacher, data, settings, file)
        return lpqld.load_pool(file, data, distilled, teacher)


def recovery(args, device, ipc=10, classes=10, iterations=5):
    """(ten classes recovered together, the same one at a time), seconds per iteration; images per iteration."""
    data, _ = made_up(args, device, args.classes)
    teacher = frozen(args, device).model
    layers = synthesize.batchnorms(teacher)
    targets = torch.arange(classes, device=device)[:, None].expand(-1, ipc).contiguous() % args.classes
    statistic = [(x.running_mean.repeat(classes, 1), x.running_var.repeat(classes, 1)) for x in layers]
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=iterations, roll=(0, 4), crop=True)

    def recover(part):
        own = [(mean[part], variance[part]) for mean, variance in statistic]
        synthesize.recover(teacher, targets[part], own, setting, data, 0, list(range(classes))[part], Path("none"))

    def together():
        recover(slice(None))

    def one_at_a_time():
        for c in range(classes):
            recover(slice(c, c + 1))

    rounds = max(1, args.rounds // 4)
    return [x / iterations for x in compare(together, one_at_a_time, rounds, device, in_a_row=1)], ipc * classes


def pool_of_imagenet_size(args, device):
    """Write, read and train from a pool of ImageNet-1K's size: C = 1000, IPC 10, p 0.9, MR-50, B = 128, E = 300."""
    args.classes, args.batch_size = 1000, 128
    data, distilled = made_up(args, device, 10_000)
    teacher, protocol = frozen(args, device), lpqld.Protocol()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.pt"
        settings = lpqld.pool_settings(protocol, data, distilled, teacher, 0)
        started = time.perf_counter()
        lpqld.make_pool(distilled, teacher, data, settings, file)
        made, started = time.perf_counter() - started, time.perf_counter()
        pool = lpqld.load_pool(file, data, distilled, teacher)
        read, size = time.perf_counter() - started, os.path.getsize(file)
    labels, student = len(pool.order), network(args, device)
    optimizer = lpqld.make_optimizer(student, {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01})
    student.train()
    numbers, losses = lpqld.draw_label_batches(pool.settings["batches"], pool.per_epoch, 0, 300, 0.9, 0), []
    started = time.perf_counter()
    for number in numbers[: args.rounds * 5]:
        images, targets = pool.view(number, distilled.images, COLOURS), pool.targets(number, 20.0)
        losses.append(lpqld.training_step(student, optimizer, images, targets, 1.0)[0])
    losses = torch.stack(losses).tolist()
    trained = time.perf_counter() - started
    full, expected = 10_000 * 300 * 1000 * 2, lpqld.label_bytes(labels, 50, 1000)
    print(f"pool:     {pool.settings['batches']} label batches of 128, 50 of 1000 logits each, {args.image_size} px")
    print(f"          {size:,} bytes (formula {expected:,}); fp16 labels of all epochs {full:,}: {full / size:.1f} x")
    print(f"          made in {made:.1f} s ({labels / made:,.0f} labels/s), read and checked in {read:.1f} s")
    print(f"          {len(losses)} training steps: {len(losses) * 128 / trained:,.0f} images/s", end="; ")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    if device.type == "cuda":
        print(f"          peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


ROWS = {"gift": gift_step, "lpqld": lpqld_step, "lpld": recovery}


def main():
    parser = common.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    positive = common.at_least(1)
    parser.add_argument("--only", choices=[*ROWS, "pool"], help="one row (default: gift, lpqld, lpld)")
    parser.add_argument("--arch", default="conv3")
    parser.add_argument("--width", type=positive, default=128)
    parser.add_argument("--image-size", type=common.at_least(8), default=32)
    parser.add_argument("--batch-size", type=common.at_least(2), default=100)
    parser.add_argument("--classes", type=common.at_least(2), default=100)
    parser.add_argument("--rounds", type=positive, default=12)
    parser.add_argument("--device")
    args = parser.parse_args()
    device = common.pick_device(args.device)
    print(f"{common.made_with(device)['device']}, torch {torch.__version__}")
    if args.only == "pool":
        return pool_of_imagenet_size(args, device)
    print(f"{'':52}{'ours ms':>9}{'limit ms':>10}{'ratio':>8}{'images/s':>10}")
    for name in [args.only] if args.only else ROWS:
        (ours, limit), images = ROWS[name](args, device)
        words = f"{name}, {args.arch}, width {args.width}, {args.image_size} px, {images} images"
        print(f"{words:52}{1e3 * ours:9.1f}{1e3 * limit:10.1f}{ours / limit:8.3f}{images / ours:10.0f}", flush=True)
    if not args.only or args.only == "lpld":
        print("limit: the bare networks; for lpld, recovery one class at a time")


if __name__ == "__main__":
    common.run_script(main)
