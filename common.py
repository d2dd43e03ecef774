"""What the scripts share: errors, stages, options, augmentation seeds, networks, data sets, teachers, distilled sets.

A helper stands here when two scripts need it and no paper is about it; what a paper is about stands in its own script.
The functions on plain tensors (ConvNet, resized_crop, dsa, ...) need torch and numpy alone and can be lifted out.
"""

import argparse
import ctypes
import hashlib
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as pil_transforms
from tqdm import tqdm

# ---------------------------------------------------------------------------------------------------------------------
# User errors, files, stages


class UserError(ValueError):
    """What the user can put right: a script prints it as one line on stderr and ends with status 2."""


def run_script(main):
    """Run a script's main(): bad input, or a file that cannot be read or written, is one line on stderr, status 2."""
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        sys.exit(1)
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch's ways to say that memory ran out
            raise
        print(f"error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def write_atomically(path: Path, write):
    """Call write(a path beside `path`), then rename into place: a reader finds the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def save_json(path, content):
    write_atomically(path, lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(path) -> dict:
    try:
        return json.loads(Path(path).read_text())
    except ValueError:
        raise UserError(f"{path} is damaged: delete it, and what it held is made again") from None


def save_tensors(path, content):
    write_atomically(path, lambda beside: torch.save(content, beside))


def load_tensors(path, what):
    """A torch file of plain tensors and numbers on the CPU; nothing in the file is executed (weights_only)."""
    # torchvision's training scripts, and so many published teachers, store their options beside the weights.
    torch.serialization.add_safe_globals([argparse.Namespace])
    if not Path(path).is_file():
        raise UserError(f"{what}: there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways; each means the same to the user
        raise UserError(
            f"{what}: {path} is not a whole torch file of plain tensors ({type(error).__name__}): truncated, damaged, "
            "or holding objects that would run code"
        ) from None


def digest(content) -> str:
    """Eight hex digits that name some settings, or a dict of tensors (names, types, shapes and every byte)."""
    sha = hashlib.sha256()
    if isinstance(content, dict) and any(isinstance(value, Tensor) for value in content.values()):
        for name, value in content.items():
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        sha.update(json.dumps(content, sort_keys=True).encode())
    return sha.hexdigest()[:8]


def made_with(device) -> dict:
    """Command, hardware, versions and date, to stand beside a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def read_settings(folder: Path) -> dict:
    """settings.json of a stage: {"settings": ...}, with "made_with" once the stage is finished; {} if there is none."""
    try:
        kept = read_json(folder / "settings.json")
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and isinstance(kept.get("settings"), dict) else {}


def stage_folder(parent: Path, name: str, settings: dict) -> Path:
    """The folder of the stage with these settings: `name`, or `name-<digest>` where `name` was made with others."""
    settings = json.loads(json.dumps(settings))  # as they will be read back: tuples are lists
    for folder in (parent / name, parent / f"{name}-{digest(settings)}"):
        try:
            folder.mkdir(parents=True)  # fails if it is there: of two processes at once one gets the name
            save_json(folder / "settings.json", {"settings": settings})
        except FileExistsError:
            pass
        if read_settings(folder).get("settings") == settings:
            return folder
    raise UserError(f"{folder} holds no settings.json of its own: move it away")


def finish_stage(folder: Path, device):
    save_json(folder / "settings.json", {**read_settings(folder), "made_with": made_with(device)})


class Progress:
    """Where a killed training goes on: the epoch and the states of model and optimizer, kept about once a minute."""

    def __init__(self, path: Path, **modules):
        self.path, self.modules, self.written = path, modules, time.monotonic()

    def load(self):
        """(first epoch to run, what `save` was given beside); (0, None) if nothing was kept."""
        if not self.path.exists():
            return 0, None
        kept = load_tensors(self.path, "progress of a stopped run (delete it to begin again)")
        for name, module in self.modules.items():
            module.load_state_dict(kept[name])
        return kept["epoch"], kept["beside"]

    def save(self, epoch, beside=None, every_seconds=60.0):
        """`beside`: what else is kept, or a function that makes it, called only when it is time to write."""
        if time.monotonic() - self.written >= every_seconds:
            states = {name: module.state_dict() for name, module in self.modules.items()}
            beside = beside() if callable(beside) else beside
            save_tensors(self.path, {"epoch": epoch, "beside": beside, **states})
            self.written = time.monotonic()


def repeat(train, seeds, folder: Path, device, say=print) -> list[dict]:
    """train(seed, progress path) for each seed, kept as seed<n>.json in `folder` and read from there the next time."""
    students = []
    for seed in seeds:
        kept, progress = folder / f"seed{seed}.json", folder / f"seed{seed}.progress.pt"
        if kept.exists():
            say(f"reusing {kept}")
        else:
            save_json(kept, {**train(seed, progress), "made_with": made_with(device)})
            progress.unlink(missing_ok=True)
        students.append(read_json(kept))
    return students


def mean_std(values: list[float]) -> dict:
    """Mean and population standard deviation over repeats, as GIFT's released code reports them."""
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "values": values}


def scores(students: list[dict]) -> dict:
    """Last-epoch accuracy on the test set, the result; where there are `checks`, the best of them too, which is not."""
    result = {name: mean_std([student[name] for student in students]) for name in ("top1", "top5")}
    if all("checks" in student for student in students):
        best = [max(top1 for _, top1, _ in student["checks"]) for student in students]
        result["best_check_top1"] = mean_std(best)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Options and device


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as all others here are."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the options)")


def at_least(least, kind=int, most=2**31):
    def convert(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text}")
        return value

    convert.__name__ = f"number from {least} to {most}"  # what argparse calls it in its message
    return convert


def common_options(description) -> Parser:
    """The options that every script has, with the same meaning."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="fashion", help=f"{', '.join(DATASETS)}, or a directory with train/ and val/ or test/")
    add("--image-size", type=at_least(8), help="side of the images in pixels (default: the data set's)")
    add("--colours", choices=COLOURS, help="normalisation (default: the data set's; tiny: SRe2L's for Tiny-ImageNet)")
    add("--data-root", type=Path, default=Path("data"), help="where data sets lie or are downloaded to (default: data)")
    add("--ipc", type=at_least(1), help="images per class (default: 10, or what --images holds)")
    add("--arch", help="student: conv3 ... conv6, resnet18_modified or any torchvision classification model")
    add("--teacher-arch", help="teacher (default: the student's)")
    add("--teacher", type=Path, help="teacher checkpoint, ours or a published one (default: train one, once)")
    add("--teacher-epochs", type=at_least(1), help="epochs of the teacher's training (default: by data set)")
    add("--width", type=at_least(1), help="channels of a ConvNet (default: 128 as in the papers, 64 on fashion)")
    add("--compile", action="store_true", help="students through torch.compile: for small networks on a GPU")
    add("--seed", type=at_least(0), default=0, help="of everything random (default: 0)")
    add("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    add("--precision", choices=("fp32", "bf16"), help="of training and testing (default: bf16 on cuda, else fp32)")
    add("--out", type=Path, default=Path("runs"), help="where finished stages are kept and found again (default: runs)")
    return parser


def keep_freed_memory():
    """Let glibc keep the memory that torch frees (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_MAX); no result depends on it.

    By default it gives large blocks back to the system, and a CPU run spends up to a third of its time on fresh zeroed
    pages. Nothing is done where there is no glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-4, 0)


PRECISION = None  # --precision; None: bf16 on CUDA, fp32 elsewhere


def pick_device(name=None, precision=None):
    global PRECISION
    PRECISION = precision
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":  # same seed, same device, same result: for every network that torch can do so for
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    return device


def precision_on(device) -> str:
    return PRECISION or ("bf16" if device.type == "cuda" else "fp32")


def autocast(device):
    """bf16 where --precision says so; losses are taken in fp32 outside it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_on(device) == "bf16")


def compiled(model: nn.Module, wanted: bool):
    """With --compile, the same network with the same weights through torch.compile, in fewer, larger operations.

    One compilation for each shape: a resumed run computes what an uninterrupted one does.
    """
    if not wanted:
        return model
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=next(model.parameters()).device))
    except Exception as error:  # no compiler, no Triton, a Python too new: torch has many ways to say so
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"--compile: torch.compile does not work here: {reason[0]}") from None
    return torch.compile(model, dynamic=False)


def fused(device) -> dict:
    """For torch's optimizers: one launch for all weights on CUDA, torch's default elsewhere."""
    return {"fused": True} if device.type == "cuda" else {}


@contextmanager
def written_once():
    """For a scatter that writes each place once: that is deterministic as it is; torch's deterministic version stops
    a GPU (index_put sorts the indices and reads their maximum back)."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


VIEW_PIXELS = {"cpu": 10**5, "cuda": 4 * 10**6}  # on a CPU what its cache holds


def steps_together(steps, images_per_step, side, device):
    """Lists of consecutive steps whose views are made at once: those of VIEW_PIXELS pixels.

    A view is a function of its draws alone, so this changes no view; but at small sizes the launches of a view's forty
    operations would take a GPU as long as the networks do.
    """
    at_once = max(1, VIEW_PIXELS.get(device.type, 10**6) // (images_per_step * side**2))
    steps = list(steps)
    return [steps[i : i + at_once] for i in range(0, len(steps), at_once)]


def read_ahead(read, items):
    """(item, read(item)) for each item; while one is in use the next is read, in a thread."""
    items = list(items)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, items[0]) if items else None
        for i, item in enumerate(items):
            ready = coming.result()
            coming = reader.submit(read, items[i + 1]) if i + 1 < len(items) else None
            yield item, ready


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation seeds: a view is a pure function of its seed


def random_stream(*seed: int) -> np.random.RandomState:
    """A stream of draws named by whole numbers, such as (run's seed, purpose, epoch, step).

    RandomState's streams are frozen for good (NEP 19), so a seed means the same view on every device and torch release;
    torch.Generator promises that for one release only.
    """
    return np.random.RandomState(seed)


def send(draws: Tensor, device) -> Tensor:
    """Small host tensors to the device without stopping it."""
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


# Purposes: they follow the run's seed, so that no two uses share a stream.
TEACHER, ORDER, VIEW, CHOICE, CROPS, NOISE, TILES, WEIGHTS, LABELS = range(9)


def seed_torch(*seed: int):
    """Seed torch's own generator, for fresh weights and for dropout. A student must not begin as its teacher did."""
    torch.manual_seed(int(random_stream(*seed).randint(2**31 - 1)))


def dsa_draws(batch_size: int, side: int, *seed: int) -> Tensor:
    """One DSA ("DiffAug") view for each image of a batch, as numbers: float32 [B, 12].

    Columns: flip (0 or 1), brightness, saturation, contrast, the six entries of the 2 x 3 sampling matrix, and the
    cutout's first row and column. Flip with p = 0.5; brightness U(-0.5, 0.5); saturation U(0, 2); contrast U(0.5, 1.5);
    then for the whole batch ONE of crop (integer shift in +-int(S/8 + 0.5) per axis), scale (the sampling grid times
    U(1/1.2, 1.2) per axis) or rotate (U(-15, 15) degrees); cutout of side int(S/2 + 0.5), centre uniform.
    Source: GIFT's released code, utils/transforms.py, DiffAug(color_crop_cutout_flip_scale_rotate, batch=False).
    """
    stream = random_stream(*seed)
    kind = int(3 * stream.random_sample())  # the one draw per batch
    flip, brightness, saturation, contrast, a, b, row, column = stream.random_sample((batch_size, 8)).T
    one, zero = np.ones(batch_size), np.zeros(batch_size)
    if kind == 0:
        reach = int(side / 8 + 0.5)
        down, right = (2 / side * (np.floor(u * (2 * reach + 1)) - reach) for u in (a, b))  # the grid spans 2
        matrix = [one, zero, right, zero, one, down]
    elif kind == 1:
        across, along = (1 / 1.2 + u * (1.2 - 1 / 1.2) for u in (a, b))
        matrix = [across, zero, zero, zero, along, zero]
    else:
        angle = math.radians(15) * (2 * a - 1)
        matrix = [np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero]
    hole = int(side / 2 + 0.5)
    row, column = (np.floor(u * (side + 1 - hole % 2)) - hole // 2 for u in (row, column))
    columns = [flip < 0.5, brightness - 0.5, 2 * saturation, contrast + 0.5, *matrix, row, column]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def dsa(images: Tensor, draws: Tensor) -> Tensor:
    """DSA views of normalised images [B, 3, S, S], as drawn by dsa_draws; what is empty is 0, the mean colour."""
    side = images.shape[-1]
    flip, brightness, saturation, contrast = draws[:, :4].T[:, :, None, None, None]
    x = torch.where(flip > 0, images.flip(3), images) + brightness
    pixel_mean = x.mean(1, keepdim=True)
    x = (x - pixel_mean) * saturation + pixel_mean
    image_mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - image_mean) * contrast + image_mean
    grid = F.affine_grid(draws[:, 4:10].reshape(-1, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    offset = (
        torch.arange(side, device=x.device) - draws[:, 10:, None]
    )  # [B, 2, S]: rows and columns from the hole's edge
    inside = (offset >= 0) & (offset < int(side / 2 + 0.5))
    x = x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)
    return x.contiguous(memory_format=torch.channels_last)


def crop_boxes(u: np.ndarray, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> np.ndarray:
    """Random resized crops: uniforms [..., 10, 4] -> boxes [..., 4] (top, left, height, width) in whole pixels.

    As torchvision's RandomResizedCrop draws them: area uniform in `scale`, log aspect ratio uniform, the first of ten
    tries that fits; if none does, the largest central box within `ratio`.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * u[..., 1])
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    top, left = np.floor(u[..., 2] * (height - h + 1)), np.floor(u[..., 3] * (width - w + 1))
    fits = (h >= 1) & (w >= 1) & (h <= height) & (w <= width)
    first = np.take_along_axis(np.stack([top, left, h, w], -1), fits.argmax(-1)[..., None, None], -2)[..., 0, :]
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    central = np.array([(height - h) // 2, (width - w) // 2, h, w])
    return np.where(fits.any(-1)[..., None], first, central).astype(np.int64)


def crop_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Rows [N, size, side] that resample `length` pixels from `start` to `size`: bilinear, antialiased if it shrinks.

    A crop that reaches outside the image finds zeros there.
    """
    shrink = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * shrink
    pixel = torch.arange(side, device=start.device)
    weights = (1 - (pixel + 0.5 - centre).abs() / shrink.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None]))
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6)


def resized_crop(images: Tensor, boxes: Tensor, size: int, flip=None, roll=None) -> Tensor:
    """Crop boxes [N, 4] (top, left, height, width) of float images [N, C, H, W], resized to [N, C, size, size].

    Then mirrored where flip [N] is true, and rolled by roll [N, 2] pixels down and right. All of it is linear and acts
    on rows and columns apart, so a view is rows @ image @ columns': a batched product, differentiable, on any device.
    The resize is that of torchvision's resized_crop(antialias=True).
    """
    boxes = boxes.to(torch.float32)
    rows = crop_weights(boxes[:, 0], boxes[:, 2], images.shape[-2], size)
    columns = crop_weights(boxes[:, 1], boxes[:, 3], images.shape[-1], size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    if roll is not None:
        source = (torch.arange(size, device=images.device) - roll[:, :, None]) % size  # [N, 2, size]
        rows = rows.gather(1, source[:, 0, :, None].expand_as(rows))
        columns = columns.gather(1, source[:, 1, :, None].expand_as(columns))
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def crop_flip_roll_draws(count: int, side: int, roll: tuple[int, int], crop: bool, *seed: int) -> Tensor:
    """`count` views for synthesis, int64 [count, 7]: crop box (4), flip, roll down and right (inclusive range `roll`).

    Without `crop` the box is the whole image and nothing is flipped (SRe2L on CIFAR).
    """
    u = random_stream(*seed).random_sample((count, 43))
    boxes = crop_boxes(u[:, :40].reshape(count, 10, 4), side, side) if crop else np.tile([0, 0, side, side], (count, 1))
    flip = (u[:, 40:41] < 0.5) & crop
    shift = roll[0] + np.floor(u[:, 41:] * (roll[1] - roll[0] + 1))
    return torch.from_numpy(np.concatenate([boxes, flip, shift], 1).astype(np.int64))


# ---------------------------------------------------------------------------------------------------------------------
# Networks


CONVNETS = r"conv[3-6]"


class ConvNet(nn.Module):
    """depth x [conv 3x3, BatchNorm, ReLU, 2x2 average pool], then one linear layer on the flattened map.

    Parameter names are those of RDED's and GIFT's checkpoints: layers.conv.{i}, layers.norm.{i}, classifier.
    """

    def __init__(self, depth, num_classes, image_size, width=128):
        super().__init__()
        channels = [3] + [width] * depth
        convs = [nn.Conv2d(channels[i], width, 3, padding=1) for i in range(depth)]
        norms = [nn.BatchNorm2d(width) for _ in range(depth)]
        self.layers = nn.ModuleDict({"conv": nn.ModuleList(convs), "norm": nn.ModuleList(norms)})
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, x):
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        return self.classifier(x.flatten(1))


def check_side(model: nn.Module, arch, image_size):
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"{arch} does not take images of {image_size} px: {' '.join(str(error).split())}") from None


def build_model(arch: str, num_classes: int, image_size: int, width: int = 128) -> nn.Module:
    """A network with fresh weights, in channels_last, for [B, 3, image_size, image_size] -> logits [B, num_classes].

    conv3 ... conv6 (`width` channels); <torchvision ResNet>_modified, with a 3x3 stride-1 stem and no max-pool (32 and
    64 px); or any torchvision classification model by name. UserError where there is no such model, or where it cannot
    take that side.
    """
    base = arch.removesuffix("_modified")
    if re.fullmatch(CONVNETS, arch):
        if image_size < 2 ** int(arch[-1]):
            raise UserError(f"{arch} halves the side {arch[-1]} times: images of {image_size} px are too small for it")
        model = ConvNet(int(arch[-1]), num_classes, image_size, width)
    elif base in torchvision.models.list_models(module=torchvision.models) and (arch == base or "resne" in base):
        more = {"image_size": image_size} if base.startswith("vit_") else {}
        if base in ("googlenet", "inception_v3"):
            more = {"aux_logits": False, "init_weights": True}
        try:
            model = torchvision.models.get_model(base, weights=None, num_classes=num_classes, **more)
            if arch != base:
                model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
                model.maxpool = nn.Identity()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"{arch} is not for images of {image_size} px: {' '.join(str(error).split())}") from None
        check_side(model, arch, image_size)
    else:
        raise UserError(f"there is no network '{arch}': conv3 ... conv6, resnet18_modified or a torchvision model")
    return model.train().to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------------------
# Data sets

# GIFT's code, also for Tiny-ImageNet; RDED's, on every set
IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY_COLOURS = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))  # SRe2L's and LPLD's code for Tiny-ImageNet
CIFAR_COLOURS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # GIFT's and SRe2L's code
RAW_COLOURS = ((0.0,) * 3, (1.0,) * 3)  # LPQLD's code: no normalisation for ImageNet-21K
FASHION_COLOURS = ((0.2190,) * 3, (0.3318,) * 3)  # ours: Fashion-MNIST's training images, padded to 32 px
COLOURS = {"imagenet": IMAGENET_COLOURS, "tiny": TINY_COLOURS, "cifar": CIFAR_COLOURS, "none": RAW_COLOURS}


class Defaults(NamedTuple):
    """What a data set implies unless told otherwise; sides are for ConvNets and for all other networks."""

    conv_side: int
    side: int
    arch: str
    colours: tuple
    teacher_epochs: int
    where: str  # to get it


FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]
DATASETS = {
    "fashion": Defaults(32, 32, "conv3", FASHION_COLOURS, 12, "it lies in this repository, in data/fashion"),
    "fashionmnist": Defaults(32, 32, "conv3", FASHION_COLOURS, 20, "torchvision downloads it"),
    "cifar10": Defaults(32, 32, "conv3", CIFAR_COLOURS, 60, "torchvision downloads it"),
    "cifar100": Defaults(32, 32, "conv3", CIFAR_COLOURS, 60, "torchvision downloads it"),
    "tinyimagenet": Defaults(64, 64, "conv4", IMAGENET_COLOURS, 60, "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    "imagenette": Defaults(128, 224, "resnet18", IMAGENET_COLOURS, 100, "https://github.com/fastai/imagenette"),
    "imagewoof": Defaults(128, 224, "resnet18", IMAGENET_COLOURS, 100, "https://github.com/fastai/imagenette"),
    "imagenet-10": Defaults(128, 224, "resnet18", IMAGENET_COLOURS, 100, "class folders of https://image-net.org"),
    "imagenet-100": Defaults(128, 224, "resnet18", IMAGENET_COLOURS, 100, "class folders of https://image-net.org"),
    "imagenet-1k": Defaults(64, 224, "resnet18", IMAGENET_COLOURS, 90, "https://image-net.org"),
    "imagenet-21k": Defaults(
        224, 224, "resnet18", RAW_COLOURS, 80, "https://github.com/Alibaba-MIIL/ImageNet21K (-P, as train/ and val/)"
    ),
}
FOLDERS = {  # names under --data-root that a set of folders may have
    "tinyimagenet": ("tiny-imagenet-200", "tinyimagenet"),
    "imagenette": ("imagenette2", "imagenette", "imagenette2-320"),
    "imagewoof": ("imagewoof2", "imagewoof", "imagewoof2-320"),
    "imagenet-10": ("imagenet-10",),
    "imagenet-100": ("imagenet-100",),
    "imagenet-1k": ("imagenet-1k", "imagenet"),
    "imagenet-21k": ("imagenet-21k", "imagenet21k_resized"),
}
SQUEEZED = ("imagenet-21k",)  # test views are resized to a square, without regard to their ratio (LPQLD's code)
RESIDENT_BYTES = (
    8 << 30
)  # up to this size a split is kept on the device; ImageNet-1K's training images are read as needed


def read_image(path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read: {error}") from None


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # uint8 [3, H, W]


class Split:
    """The images of one split as uint8 [N, 3, S, S] and their labels [N], on the device or read from disk as needed."""

    def __init__(self, labels, device, pixels=None, paths=None, side=None, fit="cut", stored=None):
        self.stored = stored  # bytes on disk of a set of arrays
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=device)
        self.device, self.pixels, self.paths, self.side, self.fit = device, pixels, paths, side, fit
        self.resident = paths is None or len(paths) * 3 * side**2 <= RESIDENT_BYTES

    def __len__(self):
        return len(self.labels)

    def original(self, index) -> Tensor:
        """An image as it is stored, uint8 [3, H, W]."""
        return self.pixels[index] if self.paths is None else to_tensor(read_image(self.paths[index]))

    def test_view(self, index) -> Tensor:
        """The image at the side in use: as it is if it fits, else resized by its shorter side, and the centre cut."""
        image = read_image(self.paths[index])
        if image.size != (self.side, self.side):
            # margin: 256 -> 224, 146 -> 128, 73 -> 64 for ImageNet and its subsets (GIFT's code); cut: other folders
            side = {"margin": int(self.side * 8 / 7), "cut": self.side, "squeeze": (self.side, self.side)}[self.fit]
            image = pil_transforms.center_crop(pil_transforms.resize(image, side), self.side)
        return to_tensor(image)

    def decode(self, indices, bar=None) -> Tensor:
        images = torch.empty(len(indices), 3, self.side, self.side, dtype=torch.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            views = tqdm(pool.map(self.test_view, indices), bar, len(indices), leave=False, disable=bar is None)
            for image, view in zip(images, views, strict=True):
                image.copy_(view)
        return images.to(self.device)

    @cached_property
    def images(self) -> Tensor:
        if self.paths is None:
            return self.pixels.to(self.device)
        return self.decode(range(len(self)), bar="reading images")

    def load(self, indices: Tensor) -> Tensor:
        return self.images[indices.to(self.device)] if self.resident else self.decode(indices.tolist())

    def load_each(self, parts):
        """(indices, images) of each part; from disk, the next is read during this one."""
        return ((part, self.load(part)) for part in parts) if self.resident else read_ahead(self.load, parts)

    def pick(self, indices: Tensor) -> Tensor:
        """A few images, without reading the whole split."""
        return self.load(indices) if self.paths is None else self.decode(indices.tolist())

    def batches(self, size, first=0):
        """The images in order, (uint8 [B, 3, S, S], labels [B]), from batch `first` on."""
        for chunk, images in self.load_each(torch.arange(len(self)).split(size)[first:]):
            yield images, self.labels[chunk.to(self.device)]

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the images as the data set is published: its files, or its bare arrays."""
        return self.stored if self.paths is None else sum(map(os.path.getsize, self.paths))

    @cached_property
    def fingerprint(self) -> str:
        """Of every pixel and label of a set of arrays; of file names, file sizes and labels of a set of files."""
        if self.paths is None:
            return digest({"images": self.pixels, "labels": self.labels})
        names = [(Path(p).parent.name, Path(p).name, os.path.getsize(p)) for p in self.paths]
        return digest([self.side, self.fit, self.labels.tolist(), names])


class Dataset(NamedTuple):
    name: str
    class_names: list
    image_size: int
    colours: tuple
    default_arch: str
    default_width: int
    teacher_epochs: int
    train: Split
    test: Split

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def device(self):
        return self.test.device

    def describe(self) -> dict:
        """What a stage that rests on this data set records of it."""
        prints = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        return {"dataset": self.name, "image_size": self.image_size, "colours": self.colours, "fingerprint": prints}


@lru_cache
def colour_tensors(colours, device):
    """Mean and standard deviation of the colours, each [1, 3, 1, 1]; kept, as copying them costs a GPU a stop."""
    return [torch.tensor(values, device=device).view(1, 3, 1, 1) for values in colours]


def normalize(images: Tensor, colours, memory_format=torch.channels_last) -> Tensor:
    """uint8 images, or floats in [0, 1], [B, 3, S, S] -> float32 in units of the data set's colours."""
    mean, std = colour_tensors(colours, images.device)
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return ((x - mean) / std).contiguous(memory_format=memory_format)


def read_sheets(split, count):
    """The embedded data set: contact sheets, one per class, cut into 28 x 28 tiles and padded to [N, 3, 32, 32]."""
    tiles = []
    for class_index in range(10):
        path = Path(__file__).parent / "data" / "fashion" / f"{split}-{class_index}.png"
        sheet = to_tensor(read_image(path))
        tiles.append(sheet.unfold(1, 28, 28).unfold(2, 28, 28).permute(1, 2, 0, 3, 4).reshape(-1, 3, 28, 28))
        if len(tiles[-1]) != count:
            raise UserError(f"{path} holds {len(tiles[-1])} tiles, not {count}: the file is not the one published here")
    return F.pad(torch.cat(tiles), (2, 2, 2, 2)), torch.arange(10).repeat_interleave(count)


def read_torchvision(name, data_root):
    """A set that torchvision downloads, on first use, and checks: two pairs of uint8 [N, 3, 32, 32] and labels."""
    kind = {"fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    try:
        parts = [getattr(torchvision.datasets, kind)(data_root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"{missing(name, data_root)} ({' '.join(str(error).split())})") from None
    pixels = [torch.as_tensor(part.data) for part in parts]
    if name == "fashionmnist":
        pixels = [F.pad(x, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1) for x in pixels]
    else:
        pixels = [x.permute(0, 3, 1, 2).contiguous() for x in pixels]
    return parts[0].classes, [(x, part.targets) for x, part in zip(pixels, parts, strict=True)]


def missing(name, *looked_for):
    where = f"looked in {', '.join(map(str, looked_for))}; get it: {DATASETS[name].where}"
    return f"data set {name} not found: {where}; --dataset fashion needs nothing"


def read_class_folders(folder: Path):
    """(class names, file paths, labels) of a folder of class folders; of Tiny-ImageNet's val/ by its annotations."""
    annotations = folder / "val_annotations.txt"
    if annotations.is_file():
        rows = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
        if min(map(len, rows), default=0) < 2:
            raise UserError(f"{annotations} is not a table of image and class, separated by tabs")
        classes = sorted({row[1] for row in rows})
        return classes, [str(folder / "images" / row[0]) for row in rows], [classes.index(row[1]) for row in rows]
    try:
        found = torchvision.datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no folder of class folders with images: {str(error).splitlines()[0]}") from None
    return found.classes, [path for path, _ in found.samples], found.targets


def load_dataset(args) -> Dataset:
    """The data set that --dataset names, on --device, its side and default network settled."""
    device, name = pick_device(args.device, args.precision), args.dataset
    is_conv = bool(re.fullmatch(CONVNETS, args.arch or ""))
    width = args.width or (64 if name == "fashion" else 128)
    if name in DATASETS and name not in FOLDERS:
        if args.image_size not in (None, 32):
            raise UserError(f"{name} has images of 32 px: --image-size {args.image_size} does not go with it")
        if name == "fashion":
            classes, parts = FASHION_CLASSES, [read_sheets("train", 500), read_sheets("test", 200)]
            sheets = Path(__file__).parent / "data" / "fashion"
            stored = [sum(map(os.path.getsize, sheets.glob(f"{split}-*.png"))) for split in ("train", "test")]
        else:
            classes, parts = read_torchvision(name, args.data_root)
            stored = [len(labels) * (28 * 28 if name == "fashionmnist" else 32 * 32 * 3) for _, labels in parts]
        splits = [Split(y, device, pixels=x, stored=size) for (x, y), size in zip(parts, stored, strict=True)]
        side, colours, arch, epochs = 32, DATASETS[name].colours, DATASETS[name].arch, DATASETS[name].teacher_epochs
    else:
        root = find_folders(name, args.data_root)
        classes, train_paths, train_labels = read_class_folders(root / "train")
        held_out = root / ("val" if (root / "val").is_dir() else "test")
        test_classes, test_paths, test_labels = read_class_folders(held_out)
        if classes != test_classes:
            odd, counts = sorted(set(classes) ^ set(test_classes))[0], (len(classes), len(test_classes))
            raise UserError(f"{root}: train/ and {held_out.name}/ have {counts} classes; {odd} is in one only")
        if name in DATASETS:
            conv_side, side, arch, colours, epochs, _ = DATASETS[name]
            side = conv_side if is_conv else side
        else:  # a directory: small images keep their side
            side = min(read_image(train_paths[0]).size)
            side = side if side <= 128 else 128 if is_conv else 224
            colours, epochs, arch = IMAGENET_COLOURS, 60, None
        side = args.image_size or side
        arch = arch or ("conv3" if side < 64 else "conv4" if side < 128 else "conv5" if side < 224 else "resnet18")
        fit = "squeeze" if name in SQUEEZED else "margin" if name in DATASETS and name != "tinyimagenet" else "cut"
        pairs = ((train_paths, train_labels), (test_paths, test_labels))
        splits = [Split(labels, device, paths=paths, side=side, fit=fit) for paths, labels in pairs]
        if name not in DATASETS:  # a folder called cifar10 need not be CIFAR-10
            name = root.resolve().name
            name += "-folder" * (name in DATASETS)
    colours = COLOURS[args.colours] if args.colours else colours
    if len(classes) < 2:
        raise UserError(f"{name} has {len(classes)} class: at least two are needed")
    counts = f"{len(splits[0]):,} training and {len(splits[1]):,} test images"
    print(f"data:     {name}: {counts}, {len(classes)} classes, {side} px")
    return Dataset(name, list(classes), side, colours, arch, width, epochs, *splits)


def find_folders(name, data_root) -> Path:
    """The directory with train/ and val/ or test/ that `name` means."""
    places = [data_root / folder for folder in FOLDERS.get(name, ())] or [Path(name)]
    for place in places:
        if (place / "train").is_dir() and ((place / "val").is_dir() or (place / "test").is_dir()):
            return place
    if name == "imagenette":
        try:
            torchvision.datasets.Imagenette(data_root, download=not places[0].exists())
            return places[0]
        except (OSError, RuntimeError) as error:
            raise UserError(f"{missing(name, *places)} ({' '.join(str(error).split())})") from None
    if name in DATASETS:
        raise UserError(missing(name, *places))
    if places[0].is_dir():
        raise UserError(f"--dataset {name}: it needs the folders train/ and val/ (or test/), with a folder per class")
    raise UserError(f"--dataset {name} is neither a directory nor one of {', '.join(DATASETS)}")


# ---------------------------------------------------------------------------------------------------------------------
# Scoring and teachers


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, colours, batch_size=200, enlarge=None) -> tuple[float, float]:
    """Top-1 and top-5 in percent on every image of a split (top-C where there are fewer than five classes).

    enlarge: images are first resized to this side, and their centre is cut out.
    """
    model.eval()
    hits = torch.zeros(2, device=split.device)
    for images, labels in split.batches(batch_size):
        x = normalize(images, colours)
        if enlarge:
            x, side = F.interpolate(x, size=(enlarge, enlarge), mode="bilinear", antialias=True), x.shape[-1]
            x = pil_transforms.center_crop(x, side).contiguous(memory_format=torch.channels_last)
        with autocast(split.device):
            logits = model(x).float()
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        ranked &= logits.isfinite().all(1, keepdim=True)  # a network that has diverged is right about nothing
        hits += torch.stack([ranked[:, 0].sum(), ranked.sum()])
    top1, top5 = (100 * hits / len(split)).tolist()
    return top1, top5


# As listed in GIFT's README (the same checkpoints as RDED's); top-1 in percent.
PUBLISHED_TEACHERS = {
    ("cifar10", "resnet18_modified"): 93.86,
    ("cifar10", "conv3"): 82.24,
    ("cifar100", "resnet18_modified"): 72.27,
    ("cifar100", "conv3"): 61.27,
    ("tinyimagenet", "resnet18_modified"): 61.98,
    ("tinyimagenet", "conv4"): 49.73,
    ("imagenette", "resnet18"): 90.00,
    ("imagenette", "conv5"): 89.60,
    ("imagewoof", "resnet18"): 75.00,
    ("imagewoof", "conv5"): 67.40,
    ("imagenet-10", "resnet18"): 87.40,
    ("imagenet-10", "conv5"): 85.4,
    ("imagenet-100", "resnet18"): 83.40,
    ("imagenet-100", "conv6"): 72.82,
    ("imagenet-1k", "conv4"): 43.6,
}
# Ours: SGD with Nesterov momentum, learning rate up over the first fifth of the steps and down to 0, both linearly.
# Batches of 128, of 64 below 10,000 images.
TEACHER_RECIPE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": (64, 128), "warmup": 0.2}


WRONG_ORDER = "the likely cause is a class order other than the data set's (sorted class folders)"
TOO_SHORT = "the likely cause is too short a training (--teacher-epochs)"


def judge_teacher(top1, expected, num_classes, name, cause=WRONG_ORDER):
    """A warning if a teacher is more than two points below the figure expected of it, else None.

    UserError if it is near chance: not a twentieth of the way from chance (100 / C percent) to perfect.
    """
    chance = 100 / num_classes
    if not top1 > chance + (100 - chance) / 20:
        raise UserError(f"{name} is right on {top1:.1f} % of the test images, near chance ({chance:.1f} %): {cause}")
    if expected is not None and top1 < expected - 2:
        return f"warning: {name} reaches {top1:.1f} %, well below the expected {expected:.1f} %: {cause}"
    return None


def teacher_draws(count: int, side: int, *seed: int) -> Tensor:
    """Training views of the teacher: float32 [count, 5], crop box (4) and flip. Up to 64 px the crop is a shift by up
    to S/8 (zeros come in); above, a random resized crop (scale 0.25 to 1)."""
    u = random_stream(*seed).random_sample((count, 41))
    if side <= 64:
        reach = side // 8
        shift = np.floor(u[:, :2] * (2 * reach + 1)) - reach
        boxes = np.concatenate([shift, np.full((count, 2), side)], 1)
    else:
        boxes = crop_boxes(u[:, :40].reshape(count, 10, 4), side, side, scale=(0.25, 1))
    return torch.from_numpy(np.concatenate([boxes, u[:, 40:] < 0.5], 1).astype(np.float32))


def teacher_batches(data: Dataset, batch_size: int, seed: int, epoch: int):
    """(normalised views, labels) of an epoch's steps; the last partial batch is dropped."""
    train, side = data.train, data.image_size
    order = torch.from_numpy(random_stream(seed, TEACHER, ORDER, epoch).permutation(len(train)))
    order = send(order, train.device) if train.resident else order
    together = steps_together(range(len(train) // batch_size), batch_size, side, train.device)
    parts = [order[steps[0] * batch_size : (steps[-1] + 1) * batch_size] for steps in together]
    for steps, (part, images) in zip(together, train.load_each(parts), strict=True):
        draws = [teacher_draws(batch_size, side, seed, TEACHER, VIEW, epoch, step) for step in steps]
        draws = send(torch.cat(draws), train.device)
        images = normalize(images, data.colours, torch.contiguous_format)  # as the crop's products want them
        views = resized_crop(images, draws[:, :4], side, flip=draws[:, 4] > 0)
        views = views.contiguous(memory_format=torch.channels_last)
        yield from zip(views.split(batch_size), train.labels[part.to(train.device)].split(batch_size), strict=True)


def teacher_step(model, optimizer, views: Tensor, labels: Tensor) -> Tensor:
    with autocast(views.device):
        logits = model(views)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train_teacher(model, data: Dataset, epochs, seed, progress_path):
    """Train on the full training set with hard labels, by TEACHER_RECIPE; a stopped training goes on where it was."""
    recipe, device, train = TEACHER_RECIPE, data.device, data.train
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0, momentum=recipe["momentum"], weight_decay=recipe["weight_decay"], nesterov=True,
        **fused(device),
    )  # fmt: skip
    progress = Progress(progress_path, model=model, optimizer=optimizer)
    first, _ = progress.load()
    train.load(torch.zeros(1, dtype=torch.int64))  # the images are read now, not under the bar
    batch_size = min(recipe["batch_size"][len(train) >= 10_000], len(train))
    steps = len(train) // batch_size
    bar = tqdm(range(first, epochs), "training the teacher", epochs, initial=first, unit="epoch", leave=False)
    for epoch in bar:
        model.train()
        seed_torch(seed, TEACHER, epoch)  # for networks with dropout
        epoch_loss = torch.zeros((), device=device)
        for step, (views, labels) in enumerate(teacher_batches(data, batch_size, seed, epoch)):
            done = (epoch * steps + step + 1) / (epochs * steps + 1)
            rate = recipe["lr"] * min(done / recipe["warmup"], (1 - done) / (1 - recipe["warmup"]))
            optimizer.param_groups[0]["lr"] = rate
            epoch_loss += teacher_step(model, optimizer, views, labels)
        mean_loss = epoch_loss.item() / steps
        if not math.isfinite(mean_loss):
            raise UserError(f"the teacher's loss is {mean_loss} in epoch {epoch + 1}: its training has diverged")
        bar.set_postfix(loss=f"{mean_loss:.3f}")
        progress.save(epoch + 1)


def read_teacher(path, arch, data: Dataset, width) -> tuple[nn.Module, float | None]:
    """A network from a checkpoint (ours or published) and the accuracy recorded in it, if any."""
    kept = load_tensors(path, "teacher")
    kept = kept if isinstance(kept, dict) else {}
    recorded = kept.get("accuracy") if isinstance(kept.get("accuracy"), float) else None
    state = kept.get("model", kept.get("state_dict", kept))  # RDED and GIFT: model; SRe2L's CIFAR ones: state_dict
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise UserError(f"teacher {path} holds no state dict, neither as such nor under 'model' or 'state_dict'")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    # LPLD's published teachers hold class-wise statistics besides; ours are taken anew (synthesize.class_statistics)
    state = {name: value for name, value in state.items() if ".class_running_" not in name}
    classes = list(state.values())[-1].shape[:1]
    if classes != (data.num_classes,):
        raise UserError(f"teacher {path} is for {list(classes)} classes, {data.name} has {data.num_classes}")
    if "layers.conv.0.weight" in state:
        width = len(state["layers.conv.0.weight"])
    model = build_model(arch, data.num_classes, data.image_size, width)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        odd = " ".join(str(error).split())
        raise UserError(f"teacher {path} is no {arch} for {data.image_size} px (--teacher-arch): {odd[:200]}") from None
    return model, recorded


class Teacher(NamedTuple):
    model: nn.Module  # in eval mode, on the device
    info: dict  # arch, width, accuracy, where it comes from, digest of its weights


def load_teacher(args, data: Dataset) -> Teacher:
    """The teacher of --teacher, torchvision's for ImageNet-1K, or one trained here, once. States its test accuracy."""
    arch = args.teacher_arch or args.arch or data.default_arch
    epochs = args.teacher_epochs or data.teacher_epochs
    unfinished, recorded, origin, cause = None, None, "from", WRONG_ORDER
    if args.teacher:
        model, recorded = read_teacher(args.teacher, arch, data, data.default_width)
        source = str(args.teacher)
    elif data.name == "imagenet-1k":
        model, recorded, source = torchvision_teacher(arch, data)
    else:
        settings = {
            "stage": "teacher", "data": data.describe(), "arch": arch, "width": data.default_width, "epochs": epochs,
            "seed": args.seed, "recipe": TEACHER_RECIPE, "precision": precision_on(data.device),
        }  # fmt: skip
        seed_torch(args.seed, TEACHER)
        model = build_model(arch, data.num_classes, data.image_size, data.default_width)
        folder = stage_folder(args.out / data.name, f"teacher-{arch}", settings)
        file = folder / "teacher.pt"
        source = str(file)
        if file.exists():
            origin, cause = "reusing", TOO_SHORT
            model, recorded = read_teacher(file, arch, data, data.default_width)
        else:
            unfinished, origin, cause = folder / "progress.pt", "kept in", TOO_SHORT
            train_teacher(model.to(data.device), data, epochs, args.seed, unfinished)
    model = model.to(data.device).eval().requires_grad_(False)
    top1, _ = accuracy(model, data.test, data.colours)
    if unfinished:
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        save_tensors(file, {"model": state, "accuracy": top1, "recipe": json.dumps(settings)})
        finish_stage(folder, data.device)
        unfinished.unlink(missing_ok=True)
    width = len(model.layers["conv"][0].weight) if isinstance(model, ConvNet) else None
    named = f"{arch} of width {width}" if width else arch
    expected = max(filter(None, (recorded, PUBLISHED_TEACHERS.get((data.name, arch)))), default=None)
    warning = judge_teacher(top1, expected, data.num_classes, f"the teacher ({named}, {source})", cause)
    print(f"teacher:  {named}: {top1:.1f} % of the {len(data.test):,} test images ({origin} {source})")
    if warning:
        print(warning, file=sys.stderr)
    info = {"arch": arch, "width": width, "accuracy": top1, "file": source, "digest": digest(model.state_dict())}
    return Teacher(model, info)


def torchvision_teacher(arch, data):
    """ImageNet-1K: torchvision's first weights of that name (as SRe2L, RDED and GIFT), and their stated accuracy."""
    try:
        weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
        model = torchvision.models.get_model(arch, weights=weights).to(memory_format=torch.channels_last)
    except (KeyError, ValueError):
        raise UserError(
            f"torchvision has no ImageNet-1K weights for {arch}: give a checkpoint with --teacher"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"torchvision's ImageNet-1K weights for {arch} cannot be had ({error}): --teacher FILE"
        ) from None
    check_side(model, arch, data.image_size)
    return model, weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], str(weights)


# ---------------------------------------------------------------------------------------------------------------------
# Distilled sets


class Distilled(NamedTuple):
    images: Tensor  # [N, 3, S, S], uint8 from a folder, float32 in [0, 1] from data.pt; on the device
    labels: Tensor  # int64 [N]
    info: dict  # folder, images per class, digest, and the settings recorded with it


def save_distilled(folder: Path, images: Tensor, labels: Tensor, device):
    """Write uint8 images as an ImageFolder of PNGs (00000/00000.png, ...) and as one picture, grid.png.

    The releases of RDED and SRe2L keep JPEGs.
    """
    counts = {}
    for image, label in zip(images.cpu(), labels.tolist(), strict=True):
        number = counts[label] = counts.get(label, -1) + 1
        path = folder / f"{label:05d}" / f"{number:05d}.png"
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        write_atomically(path, lambda beside, picture=picture: picture.save(beside, "PNG"))
    save_grid(folder / "grid.png", images, labels)
    finish_stage(folder, device)


def save_grid(path: Path, images: Tensor, labels: Tensor):
    """A picture of a distilled set: a row for each of the first 20 classes, up to ten images of it."""
    images = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    classes, blank = labels.unique()[:20], images.new_full((1, *images.shape[1:]), 255).cpu()
    rows = [images[labels == label][:10].cpu() for label in classes]
    width = max(map(len, rows))
    rows = [torch.cat([row, blank.expand(width - len(row), -1, -1, -1)]) for row in rows]
    grid = torchvision.utils.make_grid(torch.cat(rows), nrow=width, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
    write_atomically(path, lambda beside: picture.save(beside, "PNG"))


def load_distilled(path: Path, data: Dataset, ipc=None) -> Distilled:
    """A distilled set as found in the wild: class folders (ours, RDED's, SRe2L's, LPLD's) or GIFT's data.pt.

    The class of a folder is the number in its name (00007, new007), or the data set's class of that name.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--images {path} does not exist")
    file = path / "data.pt" if (path / "data.pt").is_file() else path
    kept = read_settings(path)
    if kept and "made_with" not in kept:
        raise UserError(f"--images {path} is unfinished: the command that makes it was stopped; run it again")
    made_for = ((kept.get("settings") or {}).get("data") or {}).get("dataset")
    images, labels, named = read_data_pt(file) if file.is_file() else (*read_distilled_folder(path, data), made_for)
    known, plain = {plain_name(name) for name in DATASETS}, plain_name(named or data.name)
    if plain in known and plain_name(data.name) in known and plain != plain_name(data.name):
        raise UserError(f"--images {path} is of the data set {named}, says the file; this is {data.name}")
    if not len(images):
        raise UserError(f"--images {path} holds no images")
    side = data.image_size
    if images.shape[1:] != (3, side, side):
        found = " x ".join(map(str, images.shape[1:]))
        raise UserError(
            f"--images {path} holds images of {found}, {data.name} has 3 x {side} x {side} here (--image-size)"
        )
    counts = torch.bincount(labels.clamp(max=data.num_classes), minlength=data.num_classes)
    if len(counts) > data.num_classes or counts.min() == 0:
        found = f"{len(labels.unique())} classes, the last one number {labels.max()}"
        raise UserError(f"--images {path} has images of {found}; {data.name} has classes 0 to {data.num_classes - 1}")
    if ipc and (counts != ipc).any():
        raise UserError(f"--images {path} has {counts.min()} to {counts.max()} images per class, not --ipc {ipc}")
    info = {
        "folder": str(path), "ipc": counts.max().item(), "count": len(images), "settings": kept.get("settings"),
        "digest": digest({"images": images, "labels": labels}),
    }  # fmt: skip
    return Distilled(images.to(data.device), labels.to(data.device), info)


def plain_name(dataset) -> str:
    return re.sub(r"[^a-z0-9]", "", str(dataset).lower())


def read_data_pt(file: Path):
    """GIFT's format: {"data": floats [N, 3, S, S] in [0, 1], "label": classes [N] or [N, 1], or soft [N, C] (DATM)}.

    And, if the file says so, under "dataset", of which data set: (images, labels, name or None).
    """
    kept = load_tensors(file, "--images")
    images, labels = (kept.get("data"), kept.get("label")) if isinstance(kept, dict) else (None, None)
    tensors = isinstance(images, Tensor) and isinstance(labels, Tensor)
    if not tensors or images.dim() != 4 or labels.dim() < 1 or not 0 < len(labels) == len(images):
        raise UserError(f"--images {file} holds no 'data' [N, 3, S, S] with a 'label' for each")
    if images.dtype != torch.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise UserError(f"--images {file}: pixel values lie outside [0, 1]")
    labels = labels.flatten(1).argmax(1) if labels.dim() > 1 and labels[0].numel() > 1 else labels.flatten()
    if not (labels == labels.long()).all() or labels.min() < 0:
        raise UserError(f"--images {file}: a label is no class index")
    return images, labels.long(), kept.get("dataset")


def read_distilled_folder(path: Path, data: Dataset):
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if set(names) <= set(data.class_names):
        class_of = {name: data.class_names.index(name) for name in names}
    else:  # sorted by number: new1000 comes after new999, not before new101
        numbers = [re.fullmatch(r"(?:new|class)?_?(\d+)", name) for name in names]
        if not all(numbers):
            odd = names[[bool(n) for n in numbers].index(False)]
            raise UserError(f"--images {path}: folder {odd} is neither numbered nor a class of {data.name}")
        class_of = {name: int(number[1]) for name, number in zip(names, numbers, strict=True)}
        if len(set(class_of.values())) < len(names):
            raise UserError(f"--images {path}: two folders have the same number")
    extensions = torchvision.datasets.folder.IMG_EXTENSIONS
    files = [
        (file, class_of[name])
        for name in sorted(names, key=class_of.get)
        for file in sorted(
            (path / name).iterdir(), key=lambda f: ([int(n) for n in re.findall(r"\d+", f.stem)], f.name)
        )
        if file.suffix.lower() in extensions
    ]
    if not files:
        raise UserError(f"--images {path} holds no images (class folders with {', '.join(extensions)} files)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(lambda entry: to_tensor(read_image(entry[0])), files))
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise UserError(f"--images {path} holds images of several sizes: {sorted(sizes)[:3]}")
    return torch.stack(images), torch.tensor([label for _, label in files])
