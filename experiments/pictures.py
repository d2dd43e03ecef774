"""Pictures of what figures.py has run: accuracy over bytes and over teachers, and images side by side."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image

import common
from common import UserError

NAMES = {"lpld": "LPLD", "sre2l": "SRe²L", "rded": "RDED", "random": "random"}
ONE_LABEL = "random, one label an image"
COLOURS = {
    "LPLD": "tab:red",
    "SRe²L": "tab:blue",
    "RDED": "tab:green",
    "random": "tab:gray",
    ONE_LABEL: "black",
}
FIXED_BESIDE = {  # lines of one label an image that belong beside a group of budgets
    "fashion-budget": r"fixed-random-(k\d+|teacher12)-ipc10",
    "tiny32-budget": r"tiny32-fixed-k\d+",
}


def accuracy_over_bytes(done: dict[str, dict], group: str) -> dict[str, list]:
    """For each kind of images (bytes of labels, top-1, its std), the smallest first; beside them one label an image."""
    points = {}
    for name, kept in done.items():
        if name.startswith(f"{group}-"):
            images = name.removeprefix(f"{group}-").split("-")[0]
            points.setdefault(NAMES[images], []).append(over_bytes(kept["result"]))
    if points and group in FIXED_BESIDE:
        lines = [kept for name, kept in done.items() if re.fullmatch(FIXED_BESIDE[group], name)]
        points[ONE_LABEL] = [over_bytes(kept["result"]) for kept in lines]
    return {images: sorted(some) for images, some in points.items() if some}


def over_bytes(result: dict) -> tuple:
    return result["label_bytes"], result["top1"]["mean"], result["top1"]["std"]


def accuracy_over_teachers(done: dict[str, dict], group: str) -> dict[str, list]:
    """For each IPC (the teacher's own top-1, the student's, its std): lines <group>-teacher<epochs>-ipc<ipc>."""
    points = {}
    for name, kept in done.items():
        found = re.fullmatch(rf"{group}-teacher\d+-ipc(\d+)", name)
        if found:
            result = kept["result"]
            point = (result["teacher"]["accuracy"], result["top1"]["mean"], result["top1"]["std"])
            points.setdefault(f"IPC {found[1]}", []).append(point)
    return {ipc: sorted(some) for ipc, some in points.items()}


def best_teachers(done: dict[str, dict], group: str) -> dict[str, list]:
    """(IPC, top-1 of the teacher whose students are best); on CIFAR-10 beside the published ones (2406.10485)."""
    points = {}
    for images in ("random", "rded"):
        for ipc, some in accuracy_over_teachers(done, f"{group}-{images}").items():
            teacher, _, _ = max(some, key=lambda point: point[1])
            points.setdefault(NAMES[images], []).append((int(ipc.removeprefix("IPC ")), teacher, 0.0))
    if points and group == "fixed-cifar10":
        points["published"] = [(1, 56.0, 0.0), (10, 65.1, 0.0), (50, 74.9, 0.0)]
    return points


class Picture(NamedTuple):
    name: str
    points_of: Callable  # of all that is done and the group: {series: [(x, y, std of y)]}
    group: str  # of lines
    title: str
    x: str
    y: str = "top-1 on the test set, %"
    logarithmic: bool = True


ALL_OF_LPQLD = "P + Q + DKR + CA"
BYTES = "bytes of labels, logarithmic"
TEACHERS_OWN = "the teacher's own top-1, %"
IPC = "images per class, logarithmic"
BEST_TEACHER = "top-1 of the best teacher, %"
TINY_RESNET18 = f"ResNet-18: {ALL_OF_LPQLD}"
PICTURES = [
    Picture("fashion-accuracy-over-bytes", accuracy_over_bytes, "fashion-budget",
            f"fashion, IPC 10, ConvNet-3: {ALL_OF_LPQLD}", BYTES),
    Picture("tiny-accuracy-over-bytes-ipc50", accuracy_over_bytes, "tiny-budget-ipc50",
            f"Tiny-ImageNet, IPC 50, {TINY_RESNET18}", BYTES),
    Picture("tiny-accuracy-over-bytes-ipc10", accuracy_over_bytes, "tiny-budget-ipc10",
            f"Tiny-ImageNet, IPC 10, {TINY_RESNET18}", BYTES),
    Picture("tiny32-accuracy-over-bytes", accuracy_over_bytes, "tiny32-budget",
            f"Tiny-ImageNet at 32 px, IPC 10, ConvNet-3: {ALL_OF_LPQLD}", BYTES),
    Picture("fixed-accuracy-over-teachers", accuracy_over_teachers, "fixed-random",
            "fashion, random images, one label each", TEACHERS_OWN, logarithmic=False),
    Picture("fixed-cifar10-accuracy-over-teachers", accuracy_over_teachers, "fixed-cifar10-random",
            "CIFAR-10, random images, one label each", TEACHERS_OWN, logarithmic=False),
    Picture("fixed-best-teachers", best_teachers, "fixed", "fashion, one label for each image", IPC, BEST_TEACHER),
    Picture("fixed-cifar10-best-teachers", best_teachers, "fixed-cifar10", "CIFAR-10, one label for each image",
            IPC, BEST_TEACHER),
]  # fmt: skip


def matplotlib_parts():
    try:
        from matplotlib import figure, ticker
    except ImportError:
        raise UserError("the pictures need matplotlib: pip install -r experiments/requirements.txt") from None
    return figure, ticker


def draw(points: dict[str, list], about: Picture, path: Path):
    """A line for each series, with its deviations."""
    figure, ticker = matplotlib_parts()
    picture = figure.Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = picture.subplots()
    for name, some in points.items():
        x, means, deviations = zip(*some, strict=True)
        axes.errorbar(x, means, deviations, label=name, color=COLOURS.get(name), marker="o", capsize=3)
    if about.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel(about.x)
    axes.set_ylabel(about.y)
    axes.set_title(about.title)
    axes.grid(alpha=0.3)
    axes.legend()
    common.write_atomically(path, lambda beside: picture.savefig(beside, format="png"))


SIDE_BY_SIDE = ("sre2l", "lpld", "random")  # sets of tiny32-ablation-<images>-set0
SHOWN = 6  # classes, and images of each


def draw_sets(ablations: list[dict], folders: list[Path], path: Path):
    """The first images of the same classes of each set, the sets beside each other."""
    figure, _ = matplotlib_parts()
    picture = figure.Figure(figsize=(12, 4.3), dpi=100, layout="constrained")
    columns = picture.subplots(1, len(folders))
    for images, ablation, folder, axes in zip(SIDE_BY_SIDE, ablations, folders, columns, strict=True):
        similarity = ablation["result"]["images"]["within_class_similarity"]
        axes.set_title(f"{NAMES[images]}: similarity within a class {similarity:.2f}")
        axes.imshow(first_images(folder))
        axes.axis("off")
    common.write_atomically(path, lambda beside: picture.savefig(beside, format="png"))


def first_images(folder: Path) -> np.ndarray:
    """A row for each class, as bytes [height, width, 3]."""
    shown = []
    for label in range(SHOWN):
        for number in range(SHOWN):
            image = Image.open(folder / f"{label:05d}" / f"{number:05d}.png")
            shown.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torchvision.utils.make_grid(shown, nrow=SHOWN, pad_value=255).permute(1, 2, 0).numpy()


def draw_all(shown: dict[str, dict], done: dict[str, dict], results: Path, out: Path):
    """Every picture that one of the lines shown belongs to, of all lines that are done; yields the files."""
    for about in PICTURES:
        if about.points_of(shown, about.group):
            path = results / f"{about.name}.png"
            draw(about.points_of(done, about.group), about, path)
            yield path
    ablations = [shown.get(f"tiny32-ablation-{images}-set0") for images in SIDE_BY_SIDE]
    folders = [out / "tiny-imagenet-200" / f"{images}-ipc10" for images in SIDE_BY_SIDE]
    if all(ablations) and all(folder.exists() for folder in folders):  # images are not kept with the results
        path = results / "tiny32-side-by-side.png"
        draw_sets(ablations, folders, path)
        yield path
