"""What a training step costs beside the bare networks, on the machine it runs on.

    python benchmark.py                          # conv3, width 128, batch 100: gift.py's step on CIFAR's scale
    python benchmark.py --arch resnet18_modified --image-size 64 --batch-size 100

"bare" is the teacher's forward and the student's forward and backward on one fixed batch, in channels_last and under
the same autocast; "step" is what gift.py runs: batch out of the data set, normalisation, DSA view, both networks, loss,
optimizer. Both alternate; medians over the rounds. Goal: a ratio of at most 1.10.
"""

import argparse
import itertools
import statistics
import time

import torch

import common
import gift


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


def gift_step(arch, width, side, batch_size, num_classes, loss, optimizer_name, rounds, device):
    """Median seconds of (a step of gift.py, the bare networks)."""
    torch.manual_seed(0)
    teacher = common.build_model(arch, num_classes, side, width).to(device).eval().requires_grad_(False)
    student = common.build_model(arch, num_classes, side, width).to(device)
    optimizer = gift.OPTIMIZERS[optimizer_name](student.parameters(), gift.learning_rate_for(optimizer_name, arch))
    images = torch.randint(256, (10 * batch_size, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(num_classes, (10 * batch_size,), device=device)
    order = torch.randperm(10 * batch_size, device=device)
    fixed = common.normalize(images[:batch_size], common.CIFAR_COLOURS)

    def bare():
        student.zero_grad(set_to_none=True)
        with common.autocast(device):
            with torch.no_grad():
                teacher(fixed)
            logits = student(fixed)
        logits.float().sum().backward()

    def step():
        batch = order[:batch_size]
        view = common.dsa_view(common.normalize(images[batch], common.CIFAR_COLOURS), 0, common.VIEW, 0, next(count))
        gift.training_step(student, teacher, optimizer, view, labels[batch], loss)

    count = itertools.count()
    times = [(seconds(step, device), seconds(bare, device)) for _ in range(rounds + 2)][2:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main():
    parser = common.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    positive = common.at_least(1)
    parser.add_argument("--arch", default="conv3")
    parser.add_argument("--width", type=positive, default=128)
    parser.add_argument("--image-size", type=common.at_least(8), default=32)
    parser.add_argument("--batch-size", type=positive, default=100)
    parser.add_argument("--classes", type=common.at_least(2), default=100)
    parser.add_argument("--loss", choices=gift.LOSSES, default="gift")
    parser.add_argument("--optimizer", choices=gift.OPTIMIZERS, default="adamw")
    parser.add_argument("--rounds", type=positive, default=12)
    parser.add_argument("--device")
    args = parser.parse_args()
    device = common.pick_device(args.device)
    shape = (args.arch, args.width, args.image_size, args.batch_size, args.classes)
    step, bare = gift_step(*shape, args.loss, args.optimizer, args.rounds, device)
    print(f"{common.made_with(device)['device']}, torch {torch.__version__}")
    print(f"{'':44}{'step ms':>9}{'bare ms':>9}{'ratio':>7}{'images/s':>10}")
    name = f"gift.py, {args.arch}, width {args.width}, {args.image_size} px, batch {args.batch_size}"
    print(f"{name:44}{1e3 * step:9.1f}{1e3 * bare:9.1f}{step / bare:7.3f}{args.batch_size / step:10.0f}")


if __name__ == "__main__":
    common.run_script(main)
