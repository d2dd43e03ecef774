"""LPQLD: Soft Label Pruning and Quantization for Large-Scale Dataset Distillation (arXiv 2604.18135, IEEE TPAMI 2026).

    python lpqld.py                                                    # embedded data set, CPU, a few minutes
    python lpqld.py --dataset tinyimagenet --ipc 50 --arch resnet18_modified --prune 0.9 --top-k 20
    python lpqld.py --ablation                                         # P, Q, DKR, CA switched on one after the other
    python lpqld.py --images path/to/set --labels path/to/labels.pt    # from a stored pool, without a teacher
    python lpqld.py --storage                                          # bytes at the paper's settings, nothing is run

The teacher's logits for every augmented view outweigh the images many times over. LPQLD keeps the labels of few views
(P, pruning), of each label the k largest logits (Q, quantization), softens them anew in each epoch (DKR, dynamic
knowledge reuse) and gives the student's softmax a temperature of its own (CA, calibrated alignment). Its images are
those of `synthesize.py --method lpld`. "Released code" is he-y/soft-label-pruning-quantization-for-dataset-distillation
on GitHub.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import common
import synthesize
from common import Dataset, Distilled, Teacher, UserError

# ---------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass
class Protocol:
    """How labels are made and a student is trained; the values are those of ImageNet-1K (released LPQLD_in1k yaml)."""

    epochs: int = 300
    batch_size: int | None = 128
    prune: float = 0.9  # share of the label batches that is not kept
    top_k: int | None = 50  # "x80" in the paper's table; MR-100 is "x40" and MR-10 "x200"
    mix: str = "cutmix"  # or cutout, none
    flip: bool = True
    reuse: str = "step"  # DKR: step, cosine, none
    calibrate: bool = True  # CA
    smoothing: float = 0.0  # acts as a temperature of T / (1 - smoothing), see train_student
    squared: bool = False  # the loss times the student's temperature squared
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01  # on weights of more than one dimension only
    warmup: int = 0  # epochs, linear from 0.01 of the learning rate


PROTOCOLS = {
    "imagenet-1k": Protocol(),
    # released LPQLD_in21k yaml and script; p 0.95 with MR-200 is its "x400"
    "imagenet-21k": Protocol(
        batch_size=32, prune=0.95, top_k=200, mix="cutout", flip=False, smoothing=0.2, lr=2e-3
    ),
    # LPLD's protocol for Tiny-ImageNet, made for P alone: T^2 and the warm-up stand in the released script; batch,
    # epochs, rate and decay in LPLD's own repository (not read here); k is ours. The factor T^2 = 400 on the loss is
    # too much for the sharper targets of Q; with CA the factor is tau^2, at most 1 (ours)
    "tinyimagenet": Protocol(
        epochs=100, batch_size=64, top_k=20, mix="none", squared=True,
        optimizer="sgd", lr=0.2, weight_decay=1e-4, warmup=5,
    ),
}  # fmt: skip
INITIAL, GAMMA, STEP, MINIMUM = 20.0, 0.7, 30, 2.0  # DKR's step schedule over 300 epochs (released scripts)
CROP_SCALE = (0.08, 1.0)  # area of the random resized crop (released yaml); its ratio is 3/4 to 4/3


def protocol_for(data: Dataset, args, count: int) -> Protocol:
    """The protocol of a data set, with the options that are given. Sets without a released one take ImageNet-1K's,
    with k = C / 20 (at least 3) as there, and batches of a fifth of the images, from 10 to 128 (ours)."""
    kept = PROTOCOLS.get(args.protocol or data.name) or Protocol(top_k=None, batch_size=None)
    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "prune", "top_k", "mix", "reuse", "lr")}
    kept = replace(kept, **{name: value for name, value in given.items() if value is not None})
    if args.batch_size is None:
        kept = replace(kept, batch_size=min(kept.batch_size or max(10, min(128, count // 5)), count))
    if args.top_k is None and not (kept.top_k and kept.top_k < data.num_classes):  # a released k may exceed C
        kept = replace(kept, top_k=min(max(3, data.num_classes // 20), data.num_classes))
    return replace(kept, calibrate=not args.no_calibration)


# ---------------------------------------------------------------------------------------------------------------------
# Q: marginal re-normalization


def quantize_labels(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """MR-k: the k largest logits of each row and their classes, largest first: (float16 [B, k], int64 [B, k]).

    logits [B, C] are the teacher's before the softmax. RuntimeError if k > C.
    Source: released generate_soft_label_pruning_batch.py.
    """
    values, classes = logits.topk(k, dim=1)
    return values.half(), classes


def soft_targets(values: Tensor, classes: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Targets float32 [B, C]: the softmax of values / temperature over the k kept classes, exactly 0 elsewhere.

    values, classes [B, k] as quantize_labels gives them. Source: released train_FKD_LPQLD.py, "MR".
    """
    kept = F.softmax(values.float() / temperature, dim=1)
    return torch.zeros(len(values), num_classes, device=values.device).scatter_(1, classes.long(), kept)


def pack_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices in ceil(log2 C) bits each, one after the other, highest bit first: uint8 of one dimension."""
    shifts = np.arange((num_classes - 1).bit_length())[::-1]
    parts = classes.flatten().split(2**20)  # a multiple of 8: each part but the last fills its bytes
    return torch.from_numpy(np.concatenate([np.packbits((part.numpy()[:, None] >> shifts) & 1) for part in parts]))


def unpack_classes(packed: Tensor, count: int, num_classes: int) -> Tensor:
    """The `count` indices of pack_classes; int16, or int32 where classes need it."""
    bits = (num_classes - 1).bit_length()
    place, parts = 1 << np.arange(bits)[::-1], packed.split(2**17 * bits)  # 2^20 indices each
    counts = [min(2**20, count - 2**20 * i) for i in range(len(parts))]
    classes = [
        np.unpackbits(part.numpy(), count=n * bits).reshape(n, bits) @ place
        for part, n in zip(parts, counts, strict=True)
    ]
    kind = np.int16 if num_classes <= 2**15 else np.int32
    return torch.from_numpy(np.concatenate([part.astype(kind) for part in classes]))


# ---------------------------------------------------------------------------------------------------------------------
# Views: a label batch is a number; image order, crops, flips and mixing are redrawn from (seed, number)


def view_draws(batch_size: int, side: int, mix: str, flip: bool, *seed: int, scale=CROP_SCALE) -> Tensor:
    """One label batch's views as whole numbers: int16 [B, 12].

    Columns: crop (top, left, height, width); flip; hole (top, left, bottom, right); what fills the hole: the number of
    another image of the batch (CutMix), or a colour (cutout). CutMix: lambda ~ Beta(1, 1), one hole for the batch, of
    side 2 * (int(S * sqrt(1 - lambda)) // 2), its centre uniform, clipped. Cutout: half the side, one for each image.
    Source: released utils_fkd.py. It stores the boxes, crops rounded to float16: its views cannot be redrawn exactly.
    """
    stream = common.random_stream(*seed)
    u = stream.random_sample((batch_size, 41))
    boxes = common.crop_boxes(u[:, :40].reshape(batch_size, 10, 4), side, side, scale)
    mirror = (u[:, 40:] < 0.5) & flip
    hole, fill = np.zeros((batch_size, 4)), np.zeros((batch_size, 3))
    if mix == "cutmix":
        share, *centre = stream.random_sample(3)  # Beta(1, 1) is uniform
        reach, centre = int(side * math.sqrt(1 - share)) // 2, np.floor(np.array(centre) * side)
        hole = np.tile(np.concatenate([centre - reach, centre + reach]), (batch_size, 1))
        fill[:, 0] = stream.permutation(batch_size)
    elif mix == "cutout":
        reach, centre = int(side / 2 + 0.5) // 2, np.floor(stream.random_sample((batch_size, 2)) * side)
        hole = np.concatenate([centre - reach, centre + reach], 1)
        fill = np.floor(stream.random_sample((batch_size, 3)) * 256)
    columns = [boxes, mirror, hole.clip(0, side), fill]
    return torch.from_numpy(np.concatenate(columns, 1).astype(np.int16))


def label_view(images: Tensor, draws: Tensor, mix: str, colours) -> Tensor:
    """Views [B, 3, S, S], normalised, of images (uint8, or floats in [0, 1]) as drawn by view_draws [B, 12]."""
    side, draws = images.shape[-1], draws.float()
    x = common.normalize(images, colours, torch.contiguous_format)  # as the crop's products want them
    x = common.resized_crop(x, draws[:, :4], side, flip=draws[:, 4] > 0)
    if mix != "none":
        pixel = torch.arange(side, device=x.device)
        inside = (pixel >= draws[:, 5:7, None]) & (pixel < draws[:, 7:9, None])  # [B, 2, S]
        inside = inside[:, 0, :, None] & inside[:, 1, None, :]
        fill = x[draws[:, 9].long()] if mix == "cutmix" else common.normalize(draws[:, 9:, None, None] / 255, colours)
        x = torch.where(inside[:, None], fill, x)
    return x.contiguous(memory_format=torch.channels_last)


def label_batch_rows(number: int, images_per_pass: int, batch_size: int) -> slice:
    """Which labels are those of a label batch: passes over the images follow each other, each cut into batches."""
    whole, within = divmod(number, -(-images_per_pass // batch_size))
    start = whole * images_per_pass + within * batch_size
    return slice(start, min(start + batch_size, (whole + 1) * images_per_pass))


def draw_views(settings: dict) -> tuple[Tensor, Tensor]:
    """The image of every label of a pool, int32 [labels], and its view, int16 [labels, 12], from the pool's seed."""
    seed, size, per_pass = settings["seed"], settings["batch_size"], settings["images_per_pass"]
    view, order, draws = settings["view"], [], []
    for number in tqdm(range(settings["batches"]), "drawing views", leave=False, delay=2):
        rows = label_batch_rows(number, per_pass, size)
        whole = rows.start // per_pass
        if rows.start % per_pass == 0:
            shuffled = common.random_stream(seed, common.LABELS, common.ORDER, whole).permutation(settings["count"])
        order.append(torch.from_numpy(shuffled[rows.start - whole * per_pass : rows.stop - whole * per_pass]))
        more = (seed, common.LABELS, common.VIEW, number)
        draws.append(view_draws(len(order[-1]), settings["image_size"], view["mix"], view["flip"], *more))
    return torch.cat(order).int(), torch.cat(draws)


# ---------------------------------------------------------------------------------------------------------------------
# P: the label pool, one file


class LabelPool(NamedTuple):
    settings: dict
    values: Tensor  # float16 [labels, k], on the device
    classes: Tensor | None  # integers [labels, k]; None where all logits are kept, in the order of the classes
    order: Tensor  # int32 [labels]: the image of each label
    draws: Tensor  # int16 [labels, 12]: its view
    info: dict  # file, bytes, digest

    @property
    def per_epoch(self) -> int:
        return -(-self.settings["images_per_pass"] // self.settings["batch_size"])

    def rows(self, numbers) -> list[slice]:
        per_pass, size = self.settings["images_per_pass"], self.settings["batch_size"]
        return [label_batch_rows(number, per_pass, size) for number in numbers]

    def together(self, numbers) -> list[list[int]]:
        settings = self.settings
        return common.steps_together(numbers, settings["batch_size"], settings["image_size"], self.values.device)

    def view(self, numbers: list[int], images: Tensor, colours) -> Tensor:
        """The views of label batches, one batch after the other."""
        rows, mix = self.rows(numbers), self.settings["view"]["mix"]
        order, draws = torch.cat([self.order[r] for r in rows]), torch.cat([self.draws[r] for r in rows]).int()
        if mix == "cutmix":  # the number of another image of the batch
            start = 0
            for r in rows:
                draws[start : start + r.stop - r.start, 9] += start
                start += r.stop - r.start
        return label_view(images[order], draws, mix, colours)

    def targets(self, numbers: list[int], temperature: float) -> Tensor:
        rows = self.rows(numbers)
        values = torch.cat([self.values[r] for r in rows])
        if self.classes is None:
            return F.softmax(values.float() / temperature, dim=1)
        classes = torch.cat([self.classes[r] for r in rows])
        with common.written_once():
            return soft_targets(values, classes, self.settings["num_classes"], temperature)

    def batches(self, numbers: list[int], images: Tensor, colours, temperature: float):
        """(views, targets) of each label batch."""
        for some in self.together(numbers):
            sizes = [r.stop - r.start for r in self.rows(some)]
            views, targets = self.view(some, images, colours), self.targets(some, temperature)
            yield from zip(views.split(sizes), targets.split(sizes), strict=True)


def pool_size(count: int, batch_size: int, epochs: int, prune: float) -> tuple[int, int]:
    """(label batches in the pool, images in each pass over the set).

    round(E * floor(N / B) * (1 - p)) batches; the last partial batch of a pass is dropped unless p = 0, where each
    epoch has labels of its own for all N images (but for a last single image, which BatchNorm may refuse).
    The released generate script makes a few less: 2310 for a nominal 2340.
    """
    whole = prune > 0 or count % batch_size == 1
    per_pass = count // batch_size * batch_size if whole else count
    return round(epochs * -(-per_pass // batch_size) * (1 - prune)), per_pass


def label_bytes(labels: int, k: int, num_classes: int, class_bits: int | None = None) -> int:
    """Bytes of `labels` labels of k fp16 logits and k classes of ceil(log2 C) bits; no classes where k = C."""
    bits = (num_classes - 1).bit_length() if class_bits is None else class_bits
    return labels * num_classes * 2 if k == num_classes else labels * k * 2 + -(-labels * k * bits // 8)


def check_labels(protocol: Protocol, count: int, data: Dataset):
    """Whether such a pool can be had and trained from; before a teacher is trained for it."""
    if protocol.top_k > data.num_classes:
        raise UserError(f"--top-k {protocol.top_k}: {data.name} has {data.num_classes} classes")
    if not 2 <= protocol.batch_size <= count:
        raise UserError(f"--batch-size {protocol.batch_size}: from 2 (BatchNorm) to the {count} images there are")
    batches, per_pass = pool_size(count, protocol.batch_size, protocol.epochs, protocol.prune)
    if batches < -(-per_pass // protocol.batch_size):
        raise UserError(
            f"--prune {protocol.prune} of {protocol.epochs} epochs leaves {batches} label batches of "
            f"{protocol.batch_size}, and one epoch takes {-(-per_pass // protocol.batch_size)}"
        )


BELONGS = {  # what a pool belongs to, in the words of a refusal
    "dataset": "data set", "classes": "classes (hash of their names, in order)", "num_classes": "number of classes",
    "image_size": "side of the images", "colours": "normalisation", "count": "number of images",
    "images": "images (hash)", "teacher": "teacher (hash)",
}  # fmt: skip


MIXES = ("cutmix", "cutout", "none")


def view_recipe(mix: str, flip: bool) -> dict:
    return {"crop": list(CROP_SCALE), "flip": flip, "mix": mix}


def belongs_to(data: Dataset, distilled: Distilled, teacher: Teacher | None) -> dict:
    return {
        "dataset": data.name, "classes": common.digest(data.class_names), "num_classes": data.num_classes,
        "image_size": data.image_size, "colours": [list(values) for values in data.colours],
        "count": len(distilled.images), "images": distilled.info["digest"],
        "teacher": teacher.info["digest"] if teacher else None,
    }  # fmt: skip


def pool_settings(protocol: Protocol, data: Dataset, distilled: Distilled, teacher: Teacher, seed: int) -> dict:
    batches, per_pass = pool_size(len(distilled.images), protocol.batch_size, protocol.epochs, protocol.prune)
    return {
        "format": "lpqld label pool 1",
        **belongs_to(data, distilled, teacher),
        "view": view_recipe(protocol.mix, protocol.flip),
        "seed": seed, "batch_size": protocol.batch_size, "batches": batches, "images_per_pass": per_pass,
        "epochs": protocol.epochs, "prune": float(protocol.prune), "top_k": protocol.top_k,
    }  # fmt: skip


@torch.no_grad()
def make_pool(distilled: Distilled, teacher: Teacher, data: Dataset, settings: dict, path: Path):
    """Label every view of the pool, and write it. The teacher sees the mixed view; labels are never mixed.

    On CUDA the teacher runs in fp32 (its convolutions in TF32, torch's default), not in bf16, which has fewer digits
    than the fp16 that is stored.
    """
    order, draws = (x.to(data.device) for x in draw_views(settings))
    k, full = settings["top_k"], settings["top_k"] == data.num_classes
    kind = torch.int16 if data.num_classes <= 2**15 else torch.int32
    values = torch.empty(len(order), k, dtype=torch.float16, device=data.device)
    classes = torch.empty(0 if full else len(order), k, dtype=kind, device=data.device)
    progress = common.Progress(path.with_suffix(".progress.pt"))
    first, kept = progress.load()
    for whole, part in zip((values, classes), kept or (), strict=kept is not None):
        whole[: len(part)] = part.to(data.device)
    pool = LabelPool(settings, values, classes, order, draws, {})
    bar = tqdm(total=settings["batches"], desc="labels", initial=first, leave=False)
    for numbers in pool.together(range(first, settings["batches"])):
        first_rows, *_, last_rows = 2 * pool.rows(numbers)
        rows = slice(first_rows.start, last_rows.stop)
        logits = teacher.model(pool.view(numbers, distilled.images, data.colours))
        if full:
            values[rows] = logits.half()
        else:
            values[rows], classes[rows] = quantize_labels(logits, k)
        bar.update(len(numbers))
        progress.save(numbers[-1] + 1, lambda made=rows.stop: (values[:made].clone(), classes[:made].clone()))
    bar.close()
    if not values.isfinite().all():
        progress.path.unlink(missing_ok=True)
        raise UserError("the teacher's logits are not finite (in fp16)")
    content = {"settings": settings, "values": values.cpu(), "classes": torch.empty(0, dtype=torch.uint8)}
    if not full:
        content["classes"] = pack_classes(classes.cpu(), data.num_classes)
    content["sketch"] = sketch(pool, distilled, data)
    common.save_tensors(path, {**content, "digest": pool_digest(content)})
    progress.path.unlink(missing_ok=True)


def pool_digest(content: dict) -> str:
    tensors = {name: content[name] for name in ("values", "classes", "sketch")}
    return common.digest([content["settings"], common.digest(tensors)])


def sketch(pool: LabelPool, distilled: Distilled, data: Dataset) -> Tensor:
    """Fingerprint of a redrawn view: the pool's last one, two images of it, averaged over 4 x 4 fields."""
    view = pool.view([pool.settings["batches"] - 1], distilled.images, data.colours)[:2]
    return F.adaptive_avg_pool2d(view, 4).cpu()


def holds_what_it_says(settings: dict, values: Tensor, classes: Tensor) -> bool:
    """Whether a pool's tensors have the sizes that its settings imply."""
    names = ("seed", "count", "num_classes", "batch_size", "batches", "images_per_pass", "top_k")
    seed, count, num_classes, size, batches, per_pass, k = (settings.get(name) for name in names)
    numbers = (seed, size, batches, per_pass, k, settings.get("epochs"))
    if not all(isinstance(x, int) for x in numbers) or seed < 0 or settings["epochs"] < 1:
        return False
    if not isinstance(settings.get("prune"), float) or not 0 <= settings["prune"] < 1:
        return False
    if not (1 <= k <= num_classes and 2 <= size <= per_pass <= count and batches >= -(-per_pass // size)):
        return False
    labels = label_batch_rows(batches - 1, per_pass, size).stop
    packed = label_bytes(labels, k, num_classes) - 2 * labels * k
    shapes = values.shape == (labels, k) and classes.shape == (packed,)
    return shapes and values.dtype == torch.float16 and classes.dtype == torch.uint8


def load_pool(path: Path, data: Dataset, distilled: Distilled, teacher: Teacher | None = None) -> LabelPool:
    """Read a pool, redraw its views, and make sure that it belongs to these images and, if one is given, this teacher.

    UserError that says what differs, or that the file is not whole.
    """
    kept = common.load_tensors(path, "label pool")
    tensors = isinstance(kept, dict) and all(isinstance(kept.get(x), Tensor) for x in ("values", "classes", "sketch"))
    if not tensors or not isinstance(kept.get("settings"), dict) or "lpqld" not in str(kept["settings"].get("format")):
        raise UserError(f"label pool {path} is a torch file of something else")
    settings = kept["settings"]
    try:
        sealed = kept.get("digest") == pool_digest(kept)
    except TypeError:  # settings that are no plain numbers, words and lists
        sealed = False
    if not sealed:
        raise UserError(f"label pool {path} has been altered: its content does not match its checksum")
    ours = belongs_to(data, distilled, teacher)
    for name, words in BELONGS.items():
        if settings.get(name) != ours[name] and not (name == "teacher" and teacher is None):
            raise UserError(f"label pool {path} is for another {words}: {settings.get(name)}, here {ours[name]}")
    if settings.get("view") not in [view_recipe(mix, flip) for mix in MIXES for flip in (True, False)]:
        raise UserError(f"label pool {path} is for views that are not drawn here: {settings.get('view')}")
    values, classes, k = kept["values"], kept["classes"], settings.get("top_k")
    if not holds_what_it_says(settings, values, classes):
        raise UserError(f"label pool {path} does not hold the labels that its settings speak of")
    if k == data.num_classes:
        classes = None
    else:
        classes = unpack_classes(classes, values.numel(), data.num_classes).view(-1, k).to(data.device)
        if classes.max() >= data.num_classes:
            raise UserError(f"label pool {path} has a label of class {classes.max()}, {data.name} has no such class")
    order, draws = (x.to(data.device) for x in draw_views(settings))
    info = {"file": str(path), "bytes": path.stat().st_size, "digest": kept["digest"]}
    pool = LabelPool(settings, values.to(data.device), classes, order, draws, info)
    redrawn = sketch(pool, distilled, data)
    if redrawn.shape != kept["sketch"].shape or not torch.allclose(redrawn, kept["sketch"].float(), atol=1e-2):
        raise UserError(f"label pool {path}: its views, redrawn here, are not those that were labelled")
    return pool


def label_pool(args, protocol: Protocol, data: Dataset, distilled: Distilled, teacher: Teacher) -> LabelPool:
    """The pool of these images, teacher and settings: made once, then read."""
    settings = pool_settings(protocol, data, distilled, teacher, args.seed)
    name = f"labels-{Path(distilled.info['folder']).resolve().name}-p{protocol.prune:g}-k{protocol.top_k}"
    folder = common.stage_folder(args.out / data.name, name, settings)
    file = folder / "labels.pt"
    if not file.exists():
        make_pool(distilled, teacher, data, settings, file)
        common.finish_stage(folder, data.device)
    return load_pool(file, data, distilled, teacher)


# ---------------------------------------------------------------------------------------------------------------------
# DKR and CA


def reuse_temperature(epoch, initial: float = 20.0, gamma: float = 0.7, step=30, minimum: float = 2.0) -> float:
    """DKR, step schedule: T(e) = max(T_0 * gamma^floor(e / s), T_min), epochs e from 1.

    Over 300 epochs: 20 for epochs 1 to 29, 14 for 30 to 59, ..., 2 from 210 on. Source: released train_FKD_LPQLD.py.
    """
    return max(initial * gamma ** (epoch // step), minimum)


def cosine_reuse_temperature(epoch, epochs, initial: float = 20.0, minimum: float = 2.0) -> float:
    """DKR, cosine schedule: T(e) = T_min + (T_0 - T_min) / 2 * (1 + cos(pi * e / E)), epochs e from 1."""
    return minimum + (initial - minimum) / 2 * (1 + math.cos(math.pi * epoch / epochs))


def label_temperature(epoch: int, epochs: int, reuse: str) -> float:
    """T(e) for an epoch from 1. The step of 30 is a tenth of 300 epochs, and is one of other numbers too (ours)."""
    if reuse == "cosine":
        return cosine_reuse_temperature(epoch, epochs, INITIAL, MINIMUM)
    if reuse == "step":
        return reuse_temperature(epoch, INITIAL, GAMMA, max(1, STEP * epochs // 300), MINIMUM)
    return INITIAL


def calibrate_temperature(student_logits: Tensor, targets: Tensor) -> float:
    """CA: the student's temperature, argmin over tau in 0.01, 0.02, ..., 1.00 of KL(targets || softmax(z_S / tau)).

    student_logits, targets [B, C], rows of targets sum to 1; the smallest tau on ties.
    The KL divergence differs by a constant from the cross-entropy taken here. Source: released train_FKD_LPQLD.py,
    where the option is documented as a ratio to the teacher's temperature and used as the temperature, as here.
    """
    tau = torch.arange(1, 101, device=student_logits.device, dtype=torch.float32) / 100
    scaled = student_logits.float()[None] / tau[:, None, None]  # [100, B, C]
    cross_entropy = (scaled.logsumexp(2) - (scaled * targets).sum(2)).mean(1)
    return tau[cross_entropy.argmin()].item()


def draw_label_batches(batches: int, per_epoch: int, epoch: int, epochs: int, prune: float, seed: int) -> list[int]:
    """The label batches of an epoch (from 0): per_epoch of the pool, at random, without replacement.

    A pool that holds labels for each epoch (p = 0) is gone through in order.
    """
    if prune == 0 and batches >= per_epoch * epochs:
        return list(range(per_epoch * epoch, per_epoch * (epoch + 1)))
    return common.random_stream(seed, common.ORDER, epoch).permutation(batches)[:per_epoch].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learning_rate_factor(epoch: int, epochs: int, warmup: int = 0) -> float:
    """Half a cosine, stepped after each epoch, epochs from 0; before it `warmup` epochs, linear from 0.01."""
    if epoch < warmup:
        return 0.01 + 0.99 * epoch / warmup
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


def make_optimizer(student: nn.Module, run: dict) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9; weight decay on weights with more than one dimension (released utils.py)."""
    decays, more = {True: [], False: []}, common.fused(next(student.parameters()).device)
    for name, weight in student.named_parameters():
        decays["weight" in name and weight.dim() > 1].append(weight)
    groups = [
        {"params": decays[True], "weight_decay": run["weight_decay"]},
        {"params": decays[False], "weight_decay": 0},
    ]
    if run["optimizer"] == "sgd":
        return torch.optim.SGD(groups, run["lr"], momentum=0.9, **more)
    return torch.optim.AdamW(groups, run["lr"], **more)


def alignment_loss(student_logits: Tensor, targets: Tensor, student_temperature: float) -> Tensor:
    """KL(targets || softmax(z_S / tau)), mean over the batch; without a factor T^2."""
    return F.kl_div(F.log_softmax(student_logits / student_temperature, dim=1), targets, reduction="batchmean")


def training_step(student, optimizer, images: Tensor, targets: Tensor, student_temperature: float, factor: float = 1.0):
    """One step on the views of a label batch: (loss, student's logits). The loss is fp32 whatever --precision is."""
    with common.autocast(images.device):
        logits = student(images)
    logits = logits.float()
    loss = factor * alignment_loss(logits, targets, student_temperature)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


def train_student(
    distilled: Distilled, pool: LabelPool, data: Dataset, run: dict, seed: int, progress_path: Path
) -> dict:
    """Train one student from the pool alone, as the settings `run` say; score it after the last epoch."""
    common.seed_torch(seed, common.WEIGHTS)
    student = common.build_model(run["arch"], data.num_classes, data.image_size, run["width"]).to(data.device)
    optimizer = make_optimizer(student, run)
    network, epochs, batches = common.compiled(student, run["compile"]), run["epochs"], pool.settings["batches"]
    progress = common.Progress(progress_path, student=student, optimizer=optimizer)
    first, kept = progress.load()
    tau, history, before = kept or (1.0, [], 0.0)  # CA: tau is 1 at first
    started = time.monotonic() - before
    bar = tqdm(range(first, epochs), f"student, seed {seed}", epochs, initial=first, unit="epoch", leave=False)
    for epoch in bar:
        student.train()
        common.seed_torch(seed, common.WEIGHTS, epoch)  # for networks with dropout
        for group in optimizer.param_groups:
            group["lr"] = run["lr"] * learning_rate_factor(epoch, epochs, run["warmup"])
        temperature = label_temperature(epoch + 1, epochs, run["reuse"])
        tau = tau if run["calibrate"] else temperature
        factor = tau**2 if run["squared"] else 1.0  # with CA ours: the release's loss for Tiny-ImageNet is NaN
        # ImageNet-21K's "label smoothing" mixes a constant into the logits: a shift, which softmax ignores, and a
        # factor 1 - smoothing, which is a temperature
        label_temp = temperature / (1 - run["smoothing"])
        numbers = draw_label_batches(batches, pool.per_epoch, epoch, epochs, pool.settings["prune"], seed)
        for images, targets in pool.batches(numbers, distilled.images, data.colours, label_temp):
            loss, logits = training_step(network, optimizer, images, targets, tau, factor)
        history.append((round(temperature, 4), round(tau, 4)))
        if run["calibrate"]:
            tau = calibrate_temperature(logits, targets)
        if epoch % 10 == 9 or epoch == epochs - 1:
            if not loss.isfinite():
                raise UserError(f"the loss is {loss.item()} in epoch {epoch + 1}: training diverged (a smaller --lr?)")
            bar.set_postfix(loss=f"{loss.item():.3f}", T=f"{temperature:.1f}", tau=f"{tau:.2f}")
        progress.save(epoch + 1, (tau, history, time.monotonic() - started))
    top1, top5 = common.accuracy(student, data.test, data.colours)
    seconds = round(time.monotonic() - started, 1)
    return {"seed": seed, "top1": top1, "top5": top5, "teacher_and_student_temperatures": history, "seconds": seconds}


# ---------------------------------------------------------------------------------------------------------------------
# What is reported


@torch.no_grad()
def within_class_similarity(features: Tensor, labels: Tensor) -> float | None:
    """Mean cosine similarity of features [N, D] over all pairs of different images of a class; None if there is none.

    LPLD's measure of how little the images of a class differ; features are inputs of the teacher's last linear layer.
    """
    features = F.normalize(features.double(), dim=1)
    sums = features.new_zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, labels, features)
    count = torch.bincount(labels)
    pairs = (count * (count - 1)).sum().item()  # (i, j) and (j, i); the sum of their cosines is ||sum||^2 - count
    return (sums.square().sum() - len(labels)).item() / pairs if pairs else None


@torch.no_grad()
def teacher_features(teacher: nn.Module, images: Tensor, colours) -> Tensor:
    """Inputs [N, D] of the last linear layer for the plain images; the logits of a network without one."""
    linear, taken = [layer for layer in teacher.modules() if isinstance(layer, nn.Linear)], []
    hook = linear[-1].register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0])) if linear else None
    logits = [teacher(common.normalize(part, colours)) for part in images.split(200)]
    if hook:
        hook.remove()
    return torch.cat(taken or logits)


PAPER_SETTINGS = [  # data set, classes, IPC, epochs, p, k, batch, GB in the released README: full labels and LPQLD's
    *[("ImageNet-1K", 1000, ipc, 300, 0.9, k, 128, full, kept) for ipc, full, sizes in (
        (10, 5.67, (0.13, 0.07, 0.03)), (50, 28.33, (0.63, 0.37, 0.14)), (200, 113.33, (2.54, 1.47, 0.58)),
    ) for k, kept in zip((100, 50, 10), sizes, strict=True)],
    ("ImageNet-21K", 10450, 10, 300, 0.95, 200, 32, 643, 1.6),
    ("ImageNet-21K", 10450, 20, 300, 0.95, 200, 32, 1286, 2.7),
]  # fmt: skip


def print_storage():
    """Label storage at the paper's settings, by formula (tested against real files)."""
    print(
        "Label storage, GB (2^30 bytes), and how many times smaller than fp16 labels of every epoch (N * E * C * 2):\n"
    )
    print(f"{'':37}{'full labels':>20}{'LPQLD, published':>20}{'16 + 16 bits':>17}{'16 + ceil(log2 C)':>19}")
    for name, classes, ipc, epochs, prune, k, batch, published_full, published in PAPER_SETTINGS:
        batches, _ = pool_size(ipc * classes, batch, epochs, prune)
        full = ipc * classes * epochs * classes * 2
        plain, ours = (label_bytes(batches * batch, k, classes, bits) for bits in (16, None))
        setting = f"{name}, IPC {ipc}, p {prune}, MR-{k}"
        cells = f"{full / 2**30:9.2f} ({published_full:7.2f})", f"{published:.2f} {published_full / published:5.0f}x"
        more = (f"{size / 2**30:8.3f} {full / size:4.0f}x" for size in (plain, ours))
        print("{:37}{:>20}{:>20}{:>17}{:>19}".format(setting, *cells, *more))
    print(
        "\nIn brackets: as published. '16 + 16 bits' is what p and k save by themselves (the method): fp16 and a\n"
        "16-bit class for each kept logit. The released files hold every box besides, and need more. The last column\n"
        "is this repository's file: a seed in place of the boxes, and packed classes (the format)."
    )


ABLATION = {  # P pruning, Q quantization, DKR dynamic knowledge reuse, CA calibrated alignment
    "full labels": {"prune": 0.0, "top_k": None, "reuse": "none", "calibrate": False},
    "P": {"top_k": None, "reuse": "none", "calibrate": False},
    "P + Q": {"reuse": "none", "calibrate": False},
    "P + Q + DKR": {"calibrate": False},
    "P + Q + DKR + CA": {},  # all of it: the protocol as it stands
    "P + DKR + CA": {"top_k": None},
}


def run_settings(args, protocol: Protocol, data: Dataset, distilled: Distilled, pool: LabelPool, arch: str) -> dict:
    """All that a student's training rests on, but for its seed."""
    names = ("epochs", "optimizer", "lr", "weight_decay", "warmup", "reuse", "calibrate", "smoothing", "squared")
    return {
        "stage": "lpqld", "data": data.describe(), "images": distilled.info["digest"], "ipc": distilled.info["ipc"],
        "labels": pool.info["digest"], "arch": arch, "width": data.default_width,
        "precision": common.precision_on(data.device), "compile": args.compile,
        "temperatures": [INITIAL, GAMMA, STEP, MINIMUM], **{name: getattr(protocol, name) for name in names},
    }  # fmt: skip


def train_and_report(args, protocol: Protocol, data: Dataset, distilled: Distilled, pool: LabelPool, say=print) -> dict:
    """Students from this pool: their results, kept in a folder of their own; what they cost in labels."""
    arch, made = args.arch or data.default_arch, pool.settings
    run = run_settings(args, protocol, data, distilled, pool, arch)
    ways = f"p{made['prune']:g}-k{made['top_k']}-{protocol.reuse}" + "-ca" * protocol.calibrate
    name = f"lpqld-{Path(distilled.info['folder']).resolve().name}-{arch}-{ways}"
    folder = common.stage_folder(args.out / data.name, name, run)

    def train(seed, progress):
        return train_student(distilled, pool, data, run, seed, progress)

    students = common.repeat(train, range(args.seed, args.seed + args.repeats), folder, data.device, say)
    full = made["count"] * made["epochs"] * data.num_classes * 2
    result = {
        **common.scores(students),
        "label_bytes": pool.info["bytes"],
        "full_label_bytes": full,
        "times_smaller": full / pool.info["bytes"],
    }
    parts = {"settings": run, "labels": {**pool.info, "settings": made}, "images": distilled.info, "students": students}
    common.save_json(folder / "result.json", {**result, **parts, "made_with": common.made_with(data.device)})
    return {**result, **parts, "file": str(folder / "result.json")}


def read_options():
    parser = common.common_options(__doc__)
    add, methods, positive = parser.add_argument, synthesize.METHODS, common.at_least(1)
    add("--images", default="lpld", help=f"distilled set: folder or data.pt, or one of {', '.join(methods)}, made here")
    add("--labels", type=Path, help="a stored label pool; no teacher is needed then (default: made here, once)")
    add("--prune", type=common.at_least(0, float, 0.9999), help="share of the label batches pruned away (default: 0.9)")
    add("--top-k", type=positive, help="logits kept of each label (default: by data set; all classes: no quantization)")
    add("--batch-size", type=positive, help="images per label batch (default: by data set)")
    add("--epochs", type=positive, help="of the student, and those that the pruning counts from (default: by data set)")
    add("--mix", choices=MIXES, help="how views are mixed (default: by data set, mostly cutmix)")
    add("--protocol", choices=PROTOCOLS, help="released settings to start from (default: those of the data set)")
    add("--reuse", choices=("step", "cosine", "none"), help="DKR's schedule of the labels' temperature (default: step)")
    add("--no-calibration", action="store_true", help="the student's temperature is the labels' (default: CA)")
    add("--lr", type=common.at_least(1e-9, float), help="learning rate (default: by data set)")
    add("--repeats", type=positive, help="students, with seeds --seed, --seed + 1, ... (default: 1, ablation 3)")
    add("--ablation", action="store_true", help="full labels; P; P + Q; ... one after the other, as a table")
    add("--storage", action="store_true", help="print label storage at the paper's settings, and end")
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.ablation else 1)
    for name in ("prune", "top_k", "batch_size", "mix", "ablation"):
        if args.labels and getattr(args, name) is not None and getattr(args, name) is not False:
            raise UserError(f"--{name.replace('_', '-')} is about making labels: not with --labels {args.labels}")
    if args.labels and args.images in synthesize.METHODS:
        raise UserError(f"--labels {args.labels}: say which images it is for, --images FOLDER")
    if args.ablation and (args.no_calibration or args.reuse == "none"):
        raise UserError("--ablation switches DKR and CA itself: it goes with neither --reuse none nor --no-calibration")
    return args


def images_and_teacher(args, data: Dataset) -> tuple[Distilled, Teacher | None]:
    """The distilled set, found or made; the teacher, unless stored labels do without. Complains early."""
    if args.images in synthesize.METHODS:
        synthesize.check_request(args.images, args, data)
        count = (args.ipc or 10) * data.num_classes
        check_labels(protocol_for(data, args, count), count, data)
        teacher = common.load_teacher(args, data)
        return common.load_distilled(synthesize.distil(args.images, args, data, teacher), data), teacher
    distilled = common.load_distilled(args.images, data, args.ipc)
    if args.labels and not args.teacher:
        return distilled, None
    if not args.labels:
        check_labels(protocol_for(data, args, len(distilled.images)), len(distilled.images), data)
    return distilled, common.load_teacher(args, data)


def main():
    args = read_options()
    if args.storage:
        return print_storage()
    data = common.load_dataset(args)
    arch = args.arch or data.default_arch
    common.build_model(arch, data.num_classes, data.image_size)  # complains in good time
    distilled, teacher = images_and_teacher(args, data)
    protocol = protocol_for(data, args, len(distilled.images))
    if teacher:
        features = teacher_features(teacher.model, distilled.images, data.colours)
        similarity = within_class_similarity(features, distilled.labels)
        distilled.info["within_class_similarity"] = similarity
        if similarity is not None:
            print(f"          cosine similarity of the teacher's features within a class: {similarity:.3f}")
    if args.ablation:
        return ablation(args, protocol, data, distilled, teacher)

    if args.labels:
        pool = load_pool(args.labels, data, distilled, teacher)
        protocol = replace(protocol, epochs=args.epochs or pool.settings["epochs"])
    else:
        pool = label_pool(args, protocol, data, distilled, teacher)
    made = pool.settings
    kept = f"{made['batches']} label batches of {made['batch_size']}, {made['top_k']} of {data.num_classes} logits each"
    print(f"labels:   {kept}: {pool.info['bytes']:,} bytes in {pool.info['file']}")

    result = train_and_report(args, protocol, data, distilled, pool)
    ways = f"DKR {protocol.reuse}, CA {'on' if protocol.calibrate else 'off'}"
    per_epoch = f"{pool.per_epoch} x {made['batch_size']} images"
    print(f"student:  {arch}: {ways}, {protocol.optimizer}, {protocol.epochs} epochs of {per_epoch}")
    print(f"result:   {result['file']}\n")
    top1, top5 = ("{mean:5.1f} ± {std:.1f}".format(**result[name]) for name in ("top1", "top5"))
    print(f"{'test set, %':36} top-1         top-5         ({args.repeats} x trained)")
    print(f"{'last epoch: the result':36}{top1}   {top5}")
    if teacher:
        print(f"{'teacher':36}{teacher.info['accuracy']:5.1f}")
    print(f"\n{'label storage':36}{result['label_bytes']:>12,} bytes")
    print(f"{'fp16 labels for every epoch':36}{result['full_label_bytes']:>12,} bytes: {result['times_smaller']:.1f} x")


def ablation(args, protocol: Protocol, data: Dataset, distilled: Distilled, teacher: Teacher):
    """P, Q, DKR and CA switched on one after the other; a row is printed as soon as it is there."""
    arch = args.arch or data.default_arch
    settings = {
        "stage": "ablation", "data": data.describe(), "images": distilled.info["digest"],
        "teacher": teacher.info["digest"], "arch": arch, "width": data.default_width, "protocol": asdict(protocol),
    }  # fmt: skip
    name = f"ablation-{Path(distilled.info['folder']).resolve().name}-{arch}"
    folder = common.stage_folder(args.out / data.name, name, settings)
    file = folder / "ablation.json"
    print(f"students: {arch}, {protocol.optimizer}, {protocol.epochs} epochs; p {protocol.prune}, MR-{protocol.top_k}")
    print(f"\n{'labels':16}{'bytes':>12}{'smaller':>9}   top-1, %       top-5, %       ({args.repeats} x trained)")
    rows = {}
    for name, parts in ABLATION.items():
        parts = {**parts, **({"top_k": data.num_classes} if "top_k" in parts else {})}
        row = replace(protocol, **parts)
        pool = label_pool(args, row, data, distilled, teacher)
        result = train_and_report(args, row, data, distilled, pool, say=lambda line: None)  # a table is being shown
        pool = None  # before the next one is made
        rows[name] = {key: value for key, value in result.items() if key not in ("images", "students")}  # in its file
        top1, top5 = ("{mean:5.1f} ± {std:.1f}".format(**rows[name][figure]) for figure in ("top1", "top5"))
        size = f"{rows[name]['label_bytes']:>12,}{rows[name]['times_smaller']:8.1f}x"
        print(f"{name:16}{size}   {top1:12}   {top5}", flush=True)
    more = {"settings": settings, "teacher": teacher.info, "images": distilled.info}
    common.save_json(file, {"rows": rows, **more, "made_with": common.made_with(data.device)})
    print(f"\nresult:   {file}")


if __name__ == "__main__":
    common.run_script(main)
