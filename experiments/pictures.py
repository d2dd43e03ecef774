"""The pictures: how the methods work, what we found, accuracy over bytes, images side by side.

`draw_all` draws them from the results that figures.py keeps; every number in a picture comes from there.
"""

import io
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import common
from experiments.lines import CIFAR100_TEACHERS, FULL_LABELS, LONGER, SGD_RATES, chosen_rate, way_of

NAMES = {"random": "random", "rded": "RDED", "lpld": "LPLD", "sre2l": "SRe²L"}  # kinds of images
ONE_LABEL = "random, one label per image"
STYLES = {  # colour and marker of a line
    "random": ("tab:gray", "o"),
    "RDED": ("tab:green", "s"),
    "LPLD": ("tab:red", "^"),
    "SRe²L": ("tab:blue", "D"),
    ONE_LABEL: ("black", "o"),
}
HINT = "hint: pictures need matplotlib: pip install -r experiments/requirements.txt"
BLUE, PALE_BLUE, ORANGE, PALE_ORANGE = "#1f4e8c", "#e8f0fa", "#b34700", "#fdeee0"


def new_figure(width: int, height: int, dpi: int = 100, **options):
    """An empty figure of width x height pixels."""
    from matplotlib.figure import Figure  # imported here: the rest of the repository runs without matplotlib

    return Figure(figsize=(width / dpi, height / dpi), dpi=dpi, **options)


def save(figure, path: Path):
    """Write a PNG of 256 colours: a small file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    image = Image.open(content).convert("RGB").quantize(256, kmeans=1)
    common.write_atomically(path, lambda beside: image.save(beside, format="PNG", optimize=True))


# --- the method

# fmt: off
PATH = [  # left and right edge, name, what it is
    (12, 118, "images", "distilled:\nfew per class\n(IPC)"),
    (142, 264, "views", "random crop,\nflip, colours,\nmix"),
    (288, 378, "teacher", "a network\ntrained on\nreal images"),
    (406, 620, "soft labels", "for each view, the\nteacher's logits: a number\nfor each class"),
    (650, 880, "student", "a new network, trained\non the views\nand their labels"),
]
LANES = [  # top and bottom edge, colours, name, what it does
    (154, 346, BLUE, PALE_BLUE, "LPQLD", "The teacher labels few batches\nof views. They serve all epochs."),
    (360, 462, ORANGE, PALE_ORANGE, "GIFT", "A loss that compares\nthe direction of logits."),
]
CHANGES = [  # step of the path, top edge, colour, name, what it does
    (3, 166, BLUE, "P: pruning", "keep the labels of few\nbatches: the label pool"),
    (3, 256, BLUE, "Q: quantization", "keep the k largest logits\nof each label"),
    (4, 166, BLUE, "DKR: knowledge reuse", "divide the labels by T,\nwhich falls over the epochs"),
    (4, 256, BLUE, "CA: calibrated alignment", "divide the student's logits\nby τ, which fits the labels"),
    (3, 372, ORANGE, "refined label", "add a little of the\nsmoothed hard label"),
    (4, 372, ORANGE, "cosine loss", "turn the student's logits\ntowards the refined label"),
]
# fmt: on


def draw_method(path: Path):
    """The path from images to student; under each step, what LPQLD and GIFT change there."""
    figure = new_figure(1800, 944, dpi=200)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 900), ylim=(472, 0))  # in pixels of a picture 900 wide
    axes.axis("off")
    for left, right, name, about in PATH:
        draw_box(axes, left, 36, right, 136, "black", "white")
        axes.text((left + right) / 2, 54, name, ha="center", va="center", fontsize=12.5, weight="bold")
        axes.text((left + right) / 2, 98, about, ha="center", va="center", fontsize=9.5)
    for start, end in pairwise(PATH):
        draw_arrow(axes, (start[1], 86), (end[0], 86))
    axes.plot([203, 203, 765], [36, 16, 16], color="black", linewidth=1.5)  # from the views to the student
    draw_arrow(axes, (765, 16), (765, 36))
    for top, bottom, colour, pale, name, about in LANES:
        draw_box(axes, 12, top, 892, bottom, colour, pale)
        name_at = (top + bottom) / 2 - 26
        axes.text(30, name_at, name, va="center", fontsize=17, weight="bold", color=colour)
        axes.text(30, (top + bottom) / 2 + 18, about, va="center", fontsize=12, linespacing=1.3)
    for step, top, colour, name, about in CHANGES:
        left, right = PATH[step][:2]
        draw_box(axes, left, top, right, top + 78, colour, "white")
        axes.text(left + 12, top + 17, name, va="center", fontsize=10.5, weight="bold", color=colour)
        axes.text(left + 12, top + 51, about, va="center", fontsize=10)
    save(figure, path)


def draw_box(axes, left, top, right, bottom, edge, face):
    from matplotlib.patches import FancyBboxPatch

    round_box = "round,pad=0,rounding_size=8"
    axes.add_patch(FancyBboxPatch((left, top), right - left, bottom - top, round_box, ec=edge, fc=face, lw=1.2))


def draw_arrow(axes, start, end):
    look = {"arrowstyle": "-|>", "linewidth": 1.5, "color": "black", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look)


# --- the findings

LOSSES = {"gift": "GIFT", "cosine": "cosine", "kl": "KL", "mse": "MSE", "softce": "soft CE", "ce": "hard CE",
          "mse_ce": "MSE + hard CE", "softce_ce": "soft + hard CE"}  # fmt: skip
OPTIMIZERS = {  # name, colour, marker, place in the row of a loss
    "adamw": ("AdamW, rate 0.001", "black", "o", -0.15),
    "sgd": ("SGD, the rate in brackets:\nbest on held-out images", "tab:red", "s", 0.15),
}
STEPS = {"full labels": "full\nlabels", "P": "P\n", "P + Q": "P + Q\n", "P + Q + DKR": "P + Q\n+ DKR",
         "P + Q + DKR + CA": "P + Q +\nDKR + CA", "P + DKR + CA": "P + DKR\n+ CA",
         "full + DKR + CA": "full +\nDKR + CA"}  # fmt: skip
ABLATIONS = {f"cifar100-ablation-{images}-ipc1": name for images, name in NAMES.items()}
MANY_IMAGES = "cifar100-ablation-random-ipc10"


def losses_by_optimizer(done: dict[str, dict]) -> dict[str, tuple]:
    """{loss: (SGD's rate, {optimizer: top-1})}: the rate that is best on held-out images. The best loss comes first."""
    top1 = {name: kept["result"]["top1"] for name, kept in done.items() if "top1" in kept["result"]}
    found = {}
    for loss in LOSSES:
        rate = chosen_rate({rate: top1.get(f"cifar10-held-out-{loss}-{rate}") for rate in SGD_RATES})
        lines = {"adamw": f"cifar10-adamw-{loss}", "sgd": f"cifar10-sgd-{loss}-{rate}"}
        if set(lines.values()) <= top1.keys():
            found[loss] = rate, {name: top1[line] for name, line in lines.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1][1]["adamw"]["mean"]))


def draw_findings(done: dict[str, dict], path: Path):
    """Left: eight losses, AdamW and SGD. Right: LPQLD step by step, with the bytes of the labels."""
    figure = new_figure(1100, 420, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    draw_losses(left, losses_by_optimizer(done))
    draw_steps(right, {name: done[line]["result"]["rows"] for line, name in ABLATIONS.items()})
    if MANY_IMAGES in done:
        plot_steps(right, done[MANY_IMAGES]["result"]["rows"], "random", "random, 10 per class", "--")
    right.legend(loc="upper center", ncols=2, fontsize=9)
    save(figure, path)


def draw_losses(axes, losses: dict[str, tuple]):
    for optimizer, (name, colour, marker, shift) in OPTIMIZERS.items():
        means, deviations = means_and_stds([scores[optimizer] for _, scores in losses.values()])
        rows = np.arange(len(losses)) + shift
        axes.errorbar(means, rows, xerr=deviations, color=colour, fmt=marker, capsize=2, label=name)
    names = [f"{LOSSES[loss]} ({rate:g})" for loss, (rate, _) in losses.items()]
    axes.set_yticks(range(len(losses)), names, fontsize=11)
    gift = list(losses).index("gift")
    axes.axhspan(gift - 0.5, gift + 0.5, color=PALE_ORANGE, zorder=0)
    axes.get_yticklabels()[gift].set(weight="bold", color=ORANGE)
    axes.set(ylim=(len(losses) - 0.5, -0.5))
    axes.set_xlabel("top-1 on the test set, %: mean ± std of 3 students", fontsize=11)
    two_titles(axes, "Eight losses, AdamW and SGD", "CIFAR-10, RDED's images, 1 per class")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="center left", fontsize=9)


def draw_steps(axes, series: dict[str, dict]):
    for name, rows in series.items():
        plot_steps(axes, rows, name, f"{name}, 1 per class")
    end = len(STEPS) - 2.5
    axes.axvline(end, color="black", linestyle=":", linewidth=1)
    axes.text(end + 0.1, 3, "without Q", fontsize=11)
    rows = next(iter(series.values()))
    names = [f"{name}\n{rows[step]['label_bytes'] / 1e6:.2g} MB" for step, name in STEPS.items()]
    axes.set_xticks(range(len(names)), names, fontsize=9.5)
    axes.set(xlim=(-0.4, len(names) - 0.5), ylim=(0, 85))
    axes.set_ylabel("top-1, %: one student", fontsize=11)
    two_titles(axes, "LPQLD step by step", "CIFAR-100; below: the bytes of the labels at 1 per class")
    axes.grid(axis="y", alpha=0.3)


def plot_steps(axes, rows: dict, name: str, label: str, style="-"):
    scores = [rows[step]["top1"] for step in STEPS]
    x = np.arange(len(scores))
    plot_line(axes, x[:-2], scores[:-2], name, label=label, linestyle=style)
    plot_line(axes, x[-2:], scores[-2:], name, linestyle="none")  # these are no further steps


def means_and_stds(scores: list[dict]) -> tuple[list, list | None]:
    """The stds are None where each score is that of one student, on one set."""
    is_single = all(len(score["values"]) == 1 for score in scores)
    return [score["mean"] for score in scores], None if is_single else [score["std"] for score in scores]


def plot_line(axes, x, scores: list[dict], name: str, **options):
    colour, marker = STYLES[name]
    axes.errorbar(x, *means_and_stds(scores), color=colour, marker=marker, capsize=3, **options)


def two_titles(axes, title: str, about: str):
    axes.set_title(f"{title}\n", fontsize=13, weight="bold")
    axes.text(0.5, 1.03, about, transform=axes.transAxes, ha="center", fontsize=11)


# --- CIFAR-100: teachers that were trained for fewer and for more epochs

PROTOCOLS = {"rded": ("RDED's protocol", "-"), "gift": ("GIFT's protocol", "--")}


def students_by_teacher(done: dict[str, dict], ipc: int) -> dict[tuple, list]:
    """{(protocol, kind of images): [(epochs of the teacher, top-1)]}; under "teacher" the teacher's own top-1."""
    series = {}
    teachers = {}
    for epochs in CIFAR100_TEACHERS:
        for protocol in PROTOCOLS:
            line = done.get(f"cifar100-epochs{epochs}-{protocol}-ipc{ipc}")
            if protocol == "rded":
                line = line or done.get(f"cifar100-epochs{epochs}-random-ipc{ipc}")
            if line:
                teachers[epochs] = line["result"]["teacher"]["accuracy"]
                for row in line["result"]["rows"]:
                    series.setdefault((protocol, row["images"]), []).append((epochs, row["top1"]["mean"]))
    return {**series, "teacher": list(teachers.items())} if len(teachers) > 1 else {}  # one teacher: no trend


def longer_students(done: dict[str, dict]) -> dict[int, list]:
    """{epochs of the teacher: [(epochs of the student, top-1)]} of students that were trained for longer."""
    series = {}
    for epochs in CIFAR100_TEACHERS:
        lines = {longer: done.get(f"cifar100-slow-teacher{epochs}-student{longer}") for longer in LONGER}
        points = [(longer, line["result"]["rows"][0]["top1"]["mean"]) for longer, line in lines.items() if line]
        if len(points) > 1:  # a trend
            series[epochs] = points
    return series


def draw_teachers(done: dict[str, dict], path: Path):
    """Left: teachers and their students, over the epochs of the teacher. Right: students over their own epochs."""
    figure = new_figure(1100, 440, layout="constrained")
    left, right = figure.subplots(1, 2)
    for ipc, thickness in ((1, 1.5), (10, 3)):
        for key, points in students_by_teacher(done, ipc).items():
            if key == "teacher":
                if ipc == 1:
                    left.plot(*zip(*points, strict=True), "k:", marker="*", label="the teacher")
                    ticks = [epochs for epochs, _ in points]
            elif len(points) > 1:  # a trend
                name, style = PROTOCOLS[key[0]]
                colour, marker = STYLES[NAMES[key[1]]]
                label = f"{ipc} per class, {name}, {NAMES[key[1]]} images"
                left.plot(*zip(*points, strict=True), style, color=colour, marker=marker, lw=thickness, label=label)
    two_titles(
        left, "Training the teacher for longer", "CIFAR-100, ConvNet-3; the teacher sees shifted, mirrored images"
    )
    over_epochs(left, "teacher", ticks)
    for (epochs, points), style in zip(longer_students(done).items(), ("s-", "o--", "^-.", "v:"), strict=False):
        right.plot(*zip(*points, strict=True), style, label=f"teacher of {epochs} epochs")
    two_titles(right, "Training the student for longer", "1 per class, RDED's protocol, random images")
    over_epochs(right, "student", LONGER)
    save(figure, path)


def over_epochs(axes, network: str, ticks):
    from matplotlib import ticker

    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{epochs:,}" for epochs in ticks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set(xlabel=f"epochs of the {network} (logarithmic)", ylim=(0, 75))
    axes.set_ylabel("top-1 on the test set, %: one student")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


# --- accuracy over the bytes of the labels

BYTES = {  # group of lines: title
    "fashion-budget": "fashion, 10 images per class, ConvNet-3",
    "tiny-budget-ipc50": "Tiny-ImageNet, 50 images per class, ResNet-18",
    "tiny32-budget": "Tiny-ImageNet at 32 px, 10 images per class, ConvNet-3",
}
ONE_LABEL_LINES = {  # lines of one label per image that stand beside a group
    "fashion-budget": r"fixed-random-(?:k(\d+)|teacher12)-ipc10",
    "tiny32-budget": r"tiny32-fixed-k(\d+)",
}


def accuracy_over_bytes(done: dict[str, dict], group: str) -> dict[str, list]:
    """{kind of images: [(bytes of the labels, top-1, "p 0.9, k 10")]}, and one label per image beside them."""
    series = {}
    for name, kept in done.items():
        pool = re.fullmatch(rf"{group}-(\w+)-p([\d.]+)-k(\d+)", name)
        alone = group in ONE_LABEL_LINES and re.fullmatch(ONE_LABEL_LINES[group], name)
        if pool or alone:
            setting = f"p {pool[2]}, k {pool[3]}" if pool else f"k {alone[1]}" if alone[1] else "all"
            point = (kept["result"]["label_bytes"], kept["result"]["top1"], setting)
            series.setdefault(NAMES[pool[1]] if pool else ONE_LABEL, []).append(point)
    if series.keys() == {ONE_LABEL}:
        return {}
    return {name: sorted(points, key=lambda point: (point[0], point[2])) for name, points in series.items()}


def best_of_equal_bytes(points: list[tuple]) -> list[tuple]:
    best = {point[0]: point for point in sorted(points, key=lambda point: point[1]["mean"])}
    return [best[size] for size in sorted(best)]


def full_labels(done: dict[str, dict], group: str) -> dict[str, float]:
    """{kind of images: top-1 with full labels, without DKR and CA}, where the very same images were trained so."""
    lines = {name: done.get(f"tiny32-ablation-{images}-set0") for images, name in NAMES.items()}
    rows = {name: line["result"]["rows"] for name, line in lines.items() if line and group == "tiny32-budget"}
    return {name: found["full labels"]["top1"]["mean"] for name, found in rows.items()}


def draw_bytes(done: dict[str, dict], group: str, path: Path):
    """The curve goes through the best of equal bytes. Of two settings with equal bytes, the second is hollow."""
    from matplotlib import ticker

    figure = new_figure(960, 600, dpi=120, layout="constrained")
    axes = figure.subplots()
    settings = {}  # {bytes: settings of pools}
    series = accuracy_over_bytes(done, group)
    for name, points in series.items():
        sizes, scores, _ = zip(*best_of_equal_bytes(points), strict=True)
        plot_line(axes, sizes, scores, name, label=name)
        colour, marker = STYLES[name]
        for size, top1, setting in points:
            if name == ONE_LABEL:
                axes.annotate(setting, (size, top1["mean"]), (5, -13), textcoords="offset points", fontsize=9)
                continue
            known = settings.setdefault(size, [])
            known += [setting] if setting not in known else []
            inside = colour if setting == known[0] else "white"
            axes.plot(size, top1["mean"], marker, color=colour, markerfacecolor=inside, zorder=3)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.3 * (top - bottom), top)  # room for the settings
    for size, (first, *others) in settings.items():
        words = "\n".join([first, *(f"○ {other}" for other in others)])
        axes.text(size, 0.02, words, transform=axes.get_xaxis_transform(), ha="center", rotation=90, fontsize=9)
    for name, top1 in full_labels(done, group).items():
        axes.hlines(top1, min(settings), max(settings), color=STYLES[name][0], linestyle="--", linewidth=1)
    if full_labels(done, group):
        axes.errorbar([], [], linestyle="--", linewidth=1, color="black", label="full labels without DKR and CA")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    students = max(len(top1["values"]) for points in series.values() for _, top1, _ in points)
    axes.set_xlabel("bytes of the labels (p: share pruned, k: logits kept)")
    axes.set_ylabel(f"top-1, %: {f'mean ± std of {students} students' if students > 1 else 'one student'}")
    two_titles(axes, "Accuracy over the bytes of the labels", f"{BYTES[group]}; pools with DKR and CA")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.22), fontsize=9)
    save(figure, path)


# --- every way to store labels

WAY_STYLES = {  # colour, marker, place of a point's words in points
    "LPQLD's pool, DKR and CA": ("tab:blue", "o", (6, -12)),
    "HALD": ("tab:red", "s", (3, 5)),
    "HALD, its soft loss times T²": ("tab:pink", "P", (3, 5)),
    "one label an image": ("tab:green", "^", (3, 5)),
    "the teacher, GIFT's loss": ("tab:orange", "D", (-14, 7)),
    "the teacher, KL": ("tab:purple", "v", (8, -4)),
}


def ways_to_store(done: dict[str, dict]) -> dict[tuple, dict]:
    """{(IPC, images): {way to store labels: [(bytes, top-1, setting)]}} of the lines bytes-*, by the bytes.

    Sets with fewer than four points are left out.
    """
    found = {}
    for line, kept in done.items():
        if way_of(line):
            ipc, images, way, setting = way_of(line)
            point = kept["result"]["label_bytes"], kept["result"]["top1"]["mean"], setting
            found.setdefault((ipc, images), {}).setdefault(way, []).append(point)
    found = {key: ways for key, ways in sorted(found.items()) if sum(map(len, ways.values())) > 3}
    return {key: {way: sorted(points) for way, points in ways.items()} for key, ways in found.items()}


def draw_ways(done: dict[str, dict], path: Path):
    """Accuracy over bytes, a panel for each set of images, two panels in a row."""
    from matplotlib import ticker

    panels = ways_to_store(done)
    rows = (len(panels) + 1) // 2
    figure = new_figure(1240, 520 * rows, layout="constrained")
    for number, ((ipc, images), ways) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, 2, number)
        for way, points in ways.items():
            sizes, top1, settings = zip(*points, strict=True)
            if way == FULL_LABELS:
                axes.axhline(top1[0], color="black", linestyle="--", linewidth=1, label=way)
                continue
            colour, marker, place = WAY_STYLES[way]
            axes.plot(sizes, top1, marker=marker, color=colour, label=way)
            for *point, setting in points:
                axes.annotate(setting, point, place, textcoords="offset points", fontsize=8, color=colour)
        axes.set(xscale="log", xlabel="bytes of the labels", ylabel="top-1 on the test set, %: one to three students")
        about = f"CIFAR-100, {NAMES[images]} images, {ipc} per class, ConvNet-3, 300 epochs"
        two_titles(axes, "Where should the bytes go?", about)
        axes.grid(alpha=0.3)
        axes.margins(0.12)  # room for the settings
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=9)
    save(figure, path)


# --- images side by side

SIDE_BY_SIDE = ("sre2l", "lpld", "random")  # sets of tiny32-ablation-<images>-set0
SHOWN = 6  # classes, and images of each


def set_folder(line: dict | None, images: str, out: Path) -> Path | None:
    """The folder of the images that this line was run on: its set.json names their hash."""
    for file in sorted((out / "tiny-imagenet-200").glob(f"{images}-ipc10*/set.json")):
        if line and line["result"]["images"]["digest"] in file.read_text():
            return file.parent
    return None


def draw_sets(lines: list[dict], folders: list[Path], path: Path):
    """The same classes of each set, the sets beside each other."""
    figure = new_figure(900, 330, layout="constrained")
    for images, line, folder, axes in zip(SIDE_BY_SIDE, lines, folders, figure.subplots(1, 3), strict=True):
        similarity = line["result"]["images"]["within_class_similarity"]
        axes.set_title(f"{NAMES[images]}: similarity within a class {similarity:.2f}", fontsize=10)
        axes.imshow(first_images(folder), interpolation="nearest")
        axes.axis("off")
    save(figure, path)


def first_images(folder: Path) -> np.ndarray:
    """The first images of the first classes, a row for each class, as bytes [height, width, 3]."""
    files = [folder / f"{label:05d}" / f"{number:05d}.png" for label in range(SHOWN) for number in range(SHOWN)]
    images = [pil_to_tensor(common.read_image(file)) for file in files]
    return torchvision.utils.make_grid(images, nrow=SHOWN, pad_value=255).permute(1, 2, 0).numpy()


# --- all of them


def pictures_of(shown: dict[str, dict], done: dict[str, dict], out: Path) -> dict:
    """{name: draw(path)} of the pictures that the lines shown belong to."""
    found = {}
    if shown == done:  # no line belongs to it
        found["method"] = draw_method
    if shown == done and len(losses_by_optimizer(done)) == len(LOSSES) and ABLATIONS.keys() <= done.keys():
        found["findings"] = partial(draw_findings, done)
    if ways_to_store(shown):
        found["cifar100-bytes"] = partial(draw_ways, done)
    if students_by_teacher(done, 1) and any(line.startswith(("cifar100-epochs", "cifar100-slow")) for line in shown):
        found["cifar100-teachers"] = partial(draw_teachers, done)
    for group in BYTES:
        if accuracy_over_bytes(shown, group):
            found[group.replace("budget", "accuracy-over-bytes")] = partial(draw_bytes, done, group)
    lines = [shown.get(f"tiny32-ablation-{images}-set0") for images in SIDE_BY_SIDE]
    folders = [set_folder(line, images, out) for line, images in zip(lines, SIDE_BY_SIDE, strict=True)]
    if all(folders):  # the images themselves are not among the results
        found["tiny32-side-by-side"] = partial(draw_sets, lines, folders)
    return found


def draw_all(shown: dict[str, dict], done: dict[str, dict], results: Path, out: Path):
    """Draw the pictures that the lines shown belong to, with all lines that are done; yields the files."""
    shape = f"a result in {results} has another shape"
    with common.refused(f"the pictures cannot be drawn: {shape}"):
        draws = pictures_of(shown, done, out)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        if draws:
            print(HINT, file=sys.stderr)
        return
    for name, draw in draws.items():
        path = results / f"{name}.png"
        with common.refused(f"{path} cannot be drawn: {shape}"):
            draw(path)
        yield path
