"""What several processes gain: measured on this machine's cores, and computed for the sizes of the papers.

python -m experiments.processes             # one process against two, of one thread each, on the embedded data set
python -m experiments.processes --hours     # hours on 1, 8 and 64 GPUs, and the share of time that they stand idle
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

import common
import gift
import lpqld
import synthesize
from common import Teacher, UserError

# ---------------------------------------------------------------------------------------------------------------------
# Measured


def work(out: Path, scale: float) -> dict:
    """Seconds of each stage, from its first process that begins to its last that ends; start-up is not counted."""
    device = common.set_up_device("cpu")
    torch.set_num_threads(1)
    common.meet_others(out)
    data = common.load_dataset("fashion", device, out=out)
    common.seed_torch(0)
    model = common.build_model("conv3", 10, 32, data.width).eval().requires_grad_(False)
    teacher = Teacher(model, {"arch": "conv3", "width": data.width, "accuracy": 0.0, "digest": "untrained"})
    setting = synthesize.SRE2L["fashion"]
    setting.iterations = max(2, int(80 * scale))
    synthesize.RDED_IMAGES = max(20, int(300 * scale))
    labels = lpqld.labels_for(data, 100, epochs=int(600 * scale), prune=0.5)
    seconds = {}

    def timed(name, stage):
        common.wait()
        begun = time.perf_counter()
        result = stage()
        common.wait()
        seconds[name] = time.perf_counter() - begun
        return result

    timed("class statistics", lambda: synthesize.squeeze(data, teacher))
    timed("RDED", lambda: synthesize.distil("rded", data, teacher, 10))
    images = timed("recovery", lambda: synthesize.distil("lpld", data, teacher, 10))
    timed("labels", lambda: lpqld.label_pool(data, teacher, images, labels, 0))
    protocol = gift.protocol_for(data, images, "conv3", epochs=max(1, int(40 * scale)))
    students = gift.students(data, teacher, images, protocol)
    timed("four students", lambda: common.train_students(students, range(4)))
    return seconds


def measured(processes: int, scale: float) -> dict:
    """work() by this many processes, of one thread each."""
    command = ["-m", "experiments.processes", "--scale", str(scale)]
    if processes > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, *command, "--work", folder]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        root = Path(common.__file__).parent
        done = subprocess.run(words, capture_output=True, text=True, env=one_thread, cwd=root)
        if done.returncode:
            raise UserError(f"{processes} processes: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(processes: int, rounds: int, scale: float) -> dict:
    """The least seconds of each stage over the rounds, by one process and by several, which take turns."""
    one, several = {}, {}
    for _ in range(rounds):
        for count, least in ((1, one), (processes, several)):
            for name, seconds in measured(count, scale).items():
                least[name] = min(seconds, least.get(name, seconds))
    print(f"{'seconds':20}{'1 process':>12}{f'{processes} processes':>14}{'times as fast':>15}")
    for name, seconds in one.items():
        print(f"{name:20}{seconds:>12.1f}{several[name]:>14.1f}{seconds / several[name]:>15.2f}")
    return {"one": one, "several": several, "processes": processes}


# ---------------------------------------------------------------------------------------------------------------------
# Computed

GPUS = (1, 8, 64)
RATES = {  # images per second of one GPU: assumed, not measured; a ResNet-18 at 224 px
    "recovery": 2000,  # forward and backward to the images, in fp32 with TF32
    "class statistics": 5000,  # forward, with images read from disk
    "labels": 5000,  # forward, fp32
    "a student": 2500,  # forward and backward, bf16, with views
}


class Case(NamedTuple):
    name: str
    classes: int
    training_images: int
    ipc: int


CASES = [
    Case("imagenet-1k", 1000, 1_281_167, 10),
    Case("imagenet-1k", 1000, 1_281_167, 50),
    Case("imagenet-1k", 1000, 1_281_167, 200),
    Case("imagenet-21k", 10450, 11_060_223, 10),
]


def pieces_of(case: Case, kept_bytes: int) -> dict[str, list[int]]:
    """Images that pass through the network for each piece of each stage of LPQLD, in the order of sharing.

    kept_bytes: of an image, between forward and backward.
    """
    labels, training = lpqld.PROTOCOLS[case.name]
    recovery = synthesize.LPLD[case.name]
    at_once = max(1, synthesize.GPU_BYTES // (case.ipc * kept_bytes))
    blocks = common.cut(case.classes, synthesize.CLASSES_PER_PIECE, common.PIECES)
    groups = common.cut(case.classes, at_once, common.PIECES)
    count = case.classes * case.ipc
    batches = lpqld.pool_size(count, labels.batch_size, labels.epochs, labels.prune)
    pieces = common.cut(batches, lpqld.LABELS_PER_PIECE // labels.batch_size)
    return {
        "class statistics": [case.training_images * len(block) // case.classes for block in blocks],
        "recovery": [len(group) * case.ipc * recovery.iterations for group in groups],
        "labels": [len(part) * labels.batch_size for part in pieces],
        "a student": [count * training.epochs],
    }


def hours_of(pieces: list[int], rate: float, gpus: int) -> tuple[float, float]:
    """Hours until the last of the GPUs is done, and hours that a GPU works on average."""
    shares = [sum(pieces[number::gpus]) for number in range(gpus)]
    return max(shares) / rate / 3600, sum(shares) / gpus / rate / 3600


def show(case: Case, name: str, pieces: int | None, found: list[tuple[float, float]]) -> dict:
    """A row of the table, printed."""
    found = [(hours, 1 - busy / hours) for hours, busy in found]
    shown = "".join(f"{hours:>11.2f} ({idle:4.0%})" for hours, idle in found)
    print(f"{f'{case.name}, IPC {case.ipc}':24}{name:18}{pieces or '':>8}{shown}")
    return {**case._asdict(), "stage": name, "pieces": pieces, "hours_and_idle": found}


def compute_hours() -> dict:
    model = common.build_model("resnet18", 1000, 224).eval().requires_grad_(False)
    kept_bytes = synthesize.bytes_per_image(model, 224, torch.device("cpu"))
    print(f"assumed images/s of a GPU: {', '.join(f'{name} {rate:,}' for name, rate in RATES.items())}")
    print(f"\n{'hours (share that GPUs stand idle)':42}{'pieces':>8}" + "".join(f"{f'GPUs: {n}':>18}" for n in GPUS))
    rows = []
    for case in CASES:
        stages = {}
        for name, pieces in pieces_of(case, kept_bytes).items():
            stages[name] = [hours_of(pieces, RATES[name], gpus) for gpus in GPUS]
            rows.append(show(case, name, len(pieces), stages[name]))
        total = [tuple(torch.tensor(each).sum(0).tolist()) for each in zip(*stages.values(), strict=True)]
        rows.append(show(case, "all", None, total))
    return {"rates": RATES, "gpus": GPUS, "bytes_per_image": kept_bytes, "rows": rows}


# ---------------------------------------------------------------------------------------------------------------------
# The script


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--hours", action="store_true", help="compute the hours on GPUs; measure nothing")
    add("--processes", type=common.at_least(2), default=2, help="against one (default: 2)")
    add("--rounds", type=common.at_least(1), default=3, help="of which the fastest counts (default: 3)")
    add("--scale", type=common.at_least(0.01, float), default=1.0, help="of the work (default: 1)")
    add("--json", type=common.path_of, help="where to keep the result")
    add("--work", type=common.path_of, help="(what is measured, in a process of its own)")
    args = parser.parse_args(argv)
    if args.work:
        seconds = work(args.work, args.scale)
        print(json.dumps(seconds))
        return seconds
    if args.json:
        common.check_file(args.json, "--json")
    torch.set_num_threads(1)  # as each process has, for the name of the hardware
    result = compute_hours() if args.hours else compare(args.processes, args.rounds, args.scale)
    if args.json:
        common.write_json(args.json, {**result, "made_with": common.made_with(torch.device("cpu"))})
    return result


if __name__ == "__main__":
    common.run_script(main)
