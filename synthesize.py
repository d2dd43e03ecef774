"""Distilled images: random (the baseline), RDED (CVPR 2024), SRe2L (NeurIPS 2023) and LPLD (NeurIPS 2024, TPAMI 2026).

    python synthesize.py --method random --ipc 10                    # real images of the embedded data set
    python synthesize.py --method rded --dataset cifar100 --ipc 10   # the teacher's favourite crops of real images
    python synthesize.py --method sre2l --dataset cifar100 --ipc 10  # optimised to the teacher's BatchNorm statistics
    python synthesize.py --method lpld --dataset cifar100 --ipc 10   # the same class by class, to class-wise statistics

Writes an ImageFolder of PNGs under --out (00000/00000.png, ...), settings.json and a picture of it, grid.png.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import common
from common import Dataset, Teacher, UserError

METHODS = ("random", "rded", "sre2l", "lpld")
RECOVERED = ("sre2l", "lpld")  # optimised to fit a teacher's BatchNorm statistics

# ---------------------------------------------------------------------------------------------------------------------
# Random real images: what every distilled set has to beat


def pick_random(data: Dataset, label: int, count: int, seed: int) -> Tensor:
    """Indices [count] of training images of a class, drawn without replacement."""
    members = (data.train.labels == label).nonzero().flatten().cpu()
    return members[torch.from_numpy(common.random_stream(seed, common.CHOICE, label).permutation(len(members))[:count])]


# ---------------------------------------------------------------------------------------------------------------------
# RDED (arXiv 2312.03526; released code: LINs-lab/RDED, synthesize/)

RDED_IMAGES = 300  # real images looked at per class
RDED_CROPS = 5  # crops tried of each


def square_crops(images: Tensor, u: np.ndarray, size: int) -> Tensor:
    """Random square crops (area scale 0.08 to 1, ratio 1) [n * crops, 3, size, size] of [n, 3, H, W], all in 0 ... 255.

    u: uniforms [n, crops, 10, 4]. Bilinear, antialiased, as released.
    """
    boxes = torch.from_numpy(common.crop_boxes(u, images.shape[2], images.shape[3], scale=(0.08, 1), ratio=(1, 1)))
    images = images.float().repeat_interleave(u.shape[1], 0)
    return common.resized_crop(images, boxes.flatten(0, 1).to(images.device), size)


@torch.no_grad()
def realism_losses(teacher: nn.Module, patches: Tensor, label: int, side: int, colours) -> Tensor:
    """The teacher's cross-entropy [n] for a class on patches [n, 3, s, s], normalised, then zero-padded to `side`."""
    losses = []
    for part in patches.split(500):
        before = (side - part.shape[-1]) // 2
        after = side - part.shape[-1] - before
        images = F.pad(common.normalize(part / 255, colours), (before, after, before, after))
        logits = teacher(images.contiguous(memory_format=torch.channels_last))  # fp32: the lowest losses are near 0
        losses.append(F.cross_entropy(logits, torch.full((len(part),), label, device=part.device), reduction="none"))
    return torch.cat(losses)


def select_patches(losses: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """RDED's choice from losses [images, crops]: of each image its best crop, of these the `count` lowest, best first.

    Returns (image indices, crop indices), each [count]; ties go to the smaller index.
    """
    best, crop = losses.min(1)
    image = best.argsort(stable=True)[:count]
    return image, crop[image]


def tile_patches(patches: Tensor, factor: int) -> Tensor:
    """Mosaics [n, 3, f * s, f * s] from ranked patches [n * f^2, 3, s, s]: image j is ranks j, j + n, ..."""
    grid = patches.unflatten(0, (factor, factor, -1))  # [row, column, n, 3, s, s]
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)


def rded(data: Dataset, teacher: Teacher, ipc: int, factor: int, seed: int) -> tuple[Tensor, Tensor]:
    """RDED's images of every class: uint8 [C * ipc, 3, S, S] and labels."""
    size, chosen = data.image_size // factor, []

    def read(label):  # crops are of the images as stored, not of their test view
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(data.train.original, pick_random(data, label, RDED_IMAGES, seed).tolist()))

    bar = tqdm(total=data.num_classes, desc="RDED", unit="class", leave=False)
    for label, images in common.read_ahead(read, range(data.num_classes)):
        u = common.random_stream(seed, common.CROPS, label).random_sample((len(images), RDED_CROPS, 10, 4))
        if len({image.shape for image in images}) == 1:
            patches = square_crops(torch.stack(images).to(data.device), u, size)
        else:
            each = [square_crops(images[i][None].to(data.device), u[i : i + 1], size) for i in range(len(images))]
            patches = torch.cat(each)
        losses = realism_losses(teacher.model, patches, label, data.image_size, data.colours)
        image, crop = select_patches(losses.view(-1, RDED_CROPS), ipc * factor**2)
        chosen.append(to_bytes(tile_patches(patches[image * RDED_CROPS + crop], factor)).cpu())
        bar.update()
    bar.close()
    return torch.cat(chosen), torch.arange(data.num_classes).repeat_interleave(ipc)


# ---------------------------------------------------------------------------------------------------------------------
# SRe2L (arXiv 2306.13092; released code: VILA-Lab/SRe2L): recover images from a teacher's BatchNorm statistics


@dataclass
class Recovery:
    """Settings of the recovery; Adam with betas (0.5, 0.9) and eps 1e-8, cosine learning rate to 0."""

    lr: float
    r_bn: float  # weight of the BatchNorm term
    iterations: int
    roll: tuple[int, int]  # pixels, inclusive
    crop: bool  # random resized crop (0.08 to 1) and flip before the roll
    first_bn: float = 10.0  # weight of the first BatchNorm layer; 1 for the others


SRE2L = {  # released scripts recover_cifar.sh, recover_tiny.sh, recover.sh
    "cifar100": Recovery(lr=0.25, r_bn=0.01, iterations=1000, roll=(0, 4), crop=False),
    "tinyimagenet": Recovery(lr=0.1, r_bn=1.0, iterations=4000, roll=(-4, 4), crop=True),
    "imagenet-1k": Recovery(lr=0.25, r_bn=0.01, iterations=4000, roll=(0, 32), crop=True),
    "fashion": Recovery(lr=0.25, r_bn=0.01, iterations=400, roll=(0, 4), crop=True),  # ours
}
SRE2L_CLASSES = 100  # classes per batch, released


def sre2l_settings(data: Dataset) -> Recovery:
    """The released settings of a data set; the nearest in side where none are released (our choice)."""
    if data.name in SRE2L:
        return SRE2L[data.name]
    return SRE2L["cifar100" if data.image_size <= 32 else "tinyimagenet" if data.image_size <= 64 else "imagenet-1k"]


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


class MeanAndVariance(torch.autograd.Function):
    """Mean and biased variance over the middle dimension of [G, N, C], each [G, C]: torch.var_mean, only faster.

    Its backward is one pass over the pixels instead of four, and its forward on a CPU takes a quarter of the time.
    """

    @staticmethod
    def forward(ctx, x):
        if x.is_cuda:
            var, avg = torch.var_mean(x, dim=1, correction=0)
        else:
            avg = x.mean(1)
            var = (x - avg[:, None]).square_().mean(1)
        ctx.save_for_backward(x, avg)
        return avg, var

    @staticmethod
    def backward(ctx, avg_grad, var_grad):
        x, avg = ctx.saved_tensors
        level, slope = avg_grad / x.shape[1], 2 * var_grad / x.shape[1]  # of avg, and of var in x - avg
        return torch.addcmul((level - slope * avg)[:, None], x, slope[:, None])


def bn_distance(x: Tensor, mean: Tensor, variance: Tensor, groups: int) -> Tensor:
    """||mean(x) - mean||_2 + ||var(x) - variance||_2 for each group of images, [groups].

    x [groups * n, C, H, W]: input of a BatchNorm layer, one group after the other; its mean and biased variance are
    taken over images and pixels of a group. mean, variance: [C], or [groups, C].
    Source: SRe2L's released code, recover/utils.py, BNFeatureHook.
    """
    pixels = x.float().permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])  # no copy in channels_last
    avg, var = MeanAndVariance.apply(pixels)
    return (avg - mean).norm(dim=1) + (var - variance).norm(dim=1)


def recover(
    teacher: nn.Module, targets: Tensor, statistics, setting: Recovery, data: Dataset, seed, ids, progress_path
):
    """Optimise groups of images from noise, all groups at once; uint8 [groups, n, 3, S, S].

    A group is one batch of the papers: targets [groups, n] are its classes, statistics its [(mean, variance)] per
    BatchNorm layer, ids[g] the number that its noise and its views are drawn from. Each iteration draws one view per
    group. Group losses are summed, the teacher is in eval mode and Adam acts on each pixel alone, so groups do not feel
    each other: this is group-by-group optimisation, only faster.
    Loss of a group: mean CE(teacher(view), class) + r_bn * sum over layers of w_l * bn_distance.
    """
    (groups, n), side, device = targets.shape, data.image_size, data.device
    low, high = (common.normalize(torch.full((1, 3, 1, 1), v, device=device), data.colours) for v in (0.0, 1.0))
    noise = np.stack([common.random_stream(seed, common.NOISE, i).standard_normal((n, 3, side, side)) for i in ids])
    canvas = nn.ParameterList([nn.Parameter(torch.from_numpy(noise.astype(np.float32)).to(device).flatten(0, 1))])
    images = canvas[0]
    views = [
        common.crop_flip_roll_draws(setting.iterations, side, setting.roll, setting.crop, seed, common.VIEW, i)
        for i in ids
    ]
    views = torch.stack(views, 1).to(device)  # [iterations, groups, 7]
    optimizer = torch.optim.Adam(canvas.parameters(), lr=setting.lr, betas=(0.5, 0.9), eps=1e-8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.iterations)
    progress = common.Progress(progress_path, canvas=canvas, optimizer=optimizer, schedule=schedule)

    layers = batchnorms(teacher)
    weights = [setting.first_bn] + [1.0] * (len(layers) - 1)
    distances = {}

    def measure(index):
        mean, variance = statistics[index]
        return lambda layer, inputs: distances.update({index: bn_distance(inputs[0], mean, variance, groups)})

    hooks = [layer.register_forward_pre_hook(measure(index)) for index, layer in enumerate(layers)]
    try:
        first, _ = progress.load()
        bar = tqdm(range(first, setting.iterations), "recovering", setting.iterations, initial=first, leave=False)
        for iteration in bar:
            view = views[iteration]
            together = images.view(groups, n * 3, side, side)  # a group's images share one view
            viewed = common.resized_crop(together, view[:, :4], side, flip=view[:, 4] > 0, roll=view[:, 5:])
            viewed = viewed.view(-1, 3, side, side).contiguous(memory_format=torch.channels_last)
            class_losses = F.cross_entropy(teacher(viewed), targets.flatten(), reduction="none")
            bn_losses = torch.stack([w * distances[index] for index, w in enumerate(weights)])  # [layers, groups]
            loss = class_losses.view(groups, n).mean(1).sum() + setting.r_bn * bn_losses.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(low, high)  # valid pixels
            if (iteration + 1) % 50 == 0:
                bar.set_postfix(loss=f"{loss.item() / groups:.3f}")
                progress.save(iteration + 1)
    finally:
        for hook in hooks:
            hook.remove()
    if not images.isfinite().all():
        raise UserError("recovery has diverged: the images are not finite")
    mean, std = common.colour_tensors(data.colours, device)
    return to_bytes((images.detach() * std + mean) * 255).view(groups, n, 3, side, side)


def bytes_per_image(teacher: nn.Module, side: int, device) -> int:
    """What the forward of one more image keeps for its backward, measured."""

    def kept(count):
        total = 0

        def add(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
            teacher(torch.zeros(count, 3, side, side, device=device, requires_grad=True))
        return total

    return kept(2) - kept(1)


def recover_chunks(data: Dataset, teacher: Teacher, targets: Tensor, statistics, setting, seed, folder, first_id=0):
    """`recover` on all groups [groups, n], as many at once as fit; finished chunks are kept in `folder`.

    A chunk fills half of a GPU's memory, or 2 GiB on a CPU, where more at once is not faster; neither depends on what
    else is running, so the same device takes the same chunks again.
    """
    device, (groups, n) = data.device, targets.shape
    memory = torch.cuda.get_device_properties(device).total_memory // 2 if device.type == "cuda" else 2 << 30
    at_once = max(1, memory // (n * bytes_per_image(teacher.model, data.image_size, device)))
    chunks = []
    for part in torch.arange(groups).split(at_once):
        ids = (part + first_id).tolist()
        file = folder / f"groups-{ids[0]}-{ids[-1]}.pt"
        if not file.exists():
            own = [[x[part.to(device)] if x.dim() == 2 else x for x in layer] for layer in statistics]
            path = file.with_suffix(".progress.pt")
            chunk = recover(teacher.model, targets[part].to(device), own, setting, data, seed, ids, path)
            common.save_tensors(file, chunk.cpu())
            path.unlink(missing_ok=True)
        chunks.append(common.load_tensors(file, "recovered images"))
    return torch.cat(chunks)


def sre2l(data: Dataset, teacher: Teacher, ipc: int, setting: Recovery, seed: int, folder: Path):
    """SRe2L's images: batches of one image of each of up to 100 classes, against the teacher's running statistics."""
    statistics = [(layer.running_mean, layer.running_var) for layer in batchnorms(teacher.model)]
    images, labels = [], []
    for block in torch.arange(data.num_classes).split(SRE2L_CLASSES):
        targets, first_id = block.expand(ipc, -1), block[0].item() // SRE2L_CLASSES * ipc
        images.append(recover_chunks(data, teacher, targets, statistics, setting, seed, folder, first_id).flatten(0, 1))
        labels.append(targets.flatten())
    images, labels = torch.cat(images), torch.cat(labels)
    order = labels.argsort(stable=True)
    return images[order], labels[order]


# ---------------------------------------------------------------------------------------------------------------------
# LPLD (arXiv 2410.15919) and LPQLD (arXiv 2604.18135, section III-B): SRe2L class by class
# (released code: he-y/soft-label-pruning-quantization-for-dataset-distillation, recover/)

LPLD = {  # released scripts tiny_recover.sh, imagenet1k_recover.sh, in21k_recover.sh
    "tinyimagenet": Recovery(lr=0.1, r_bn=0.05, iterations=4000, roll=(-4, 4), crop=True),
    "imagenet-1k": Recovery(lr=0.25, r_bn=0.01, iterations=4000, roll=(0, 32), crop=True),
    "imagenet-21k": Recovery(lr=0.05, r_bn=0.25, iterations=2000, roll=(0, 32), crop=True),
}


def lpld_settings(data: Dataset) -> Recovery:
    """The released settings; where none are, Tiny's for sides of 33 to 64 px, else SRe2L's (our choice)."""
    if data.name not in LPLD and 32 < data.image_size <= 64:
        return LPLD["tinyimagenet"]
    return LPLD.get(data.name) or sre2l_settings(data)


SQUEEZE_BATCH = 200


@torch.no_grad()
def class_statistics(teacher: nn.Module, data: Dataset, progress_path: Path) -> list[tuple[Tensor, Tensor]]:
    """Squeeze: mean and biased variance, each [classes, C], of every BatchNorm layer's input, class by class.

    Exact, over all images and pixels of a class, in one pass over the un-augmented training set, teacher in eval mode.
    The released code augments, and keeps a running average (momentum 0.1, from mean 0 and variance 1) of statistics
    within a batch and class. With many classes that is mostly one image at a time: the variance *between* images lacks.
    """
    layers, moments = batchnorms(teacher), {}
    sums = [torch.zeros(2, data.num_classes, x.num_features, dtype=torch.float64, device=data.device) for x in layers]

    def measure(index):
        def take(layer, inputs):  # about the layer's own mean, so that no digits cancel in E[x^2] - E[x]^2
            x = inputs[0] - layer.running_mean[:, None, None]
            moments[index] = torch.stack([x.mean((2, 3)), x.square().mean((2, 3))])  # [2, B, C]

        return take

    progress = common.Progress(progress_path)
    first, kept = progress.load()
    sums = [total.to(data.device) for total in kept or sums]
    hooks = [layer.register_forward_pre_hook(measure(index)) for index, layer in enumerate(layers)]
    try:
        steps = range(first, -(-len(data.train) // SQUEEZE_BATCH))
        bar = tqdm(steps, "class statistics", steps.stop, initial=first, leave=False)
        for step, (images, labels) in zip(bar, data.train.batches(SQUEEZE_BATCH, first), strict=True):
            teacher(common.normalize(images, data.colours))
            for index, total in enumerate(sums):
                total.index_add_(1, labels, moments[index].double())
            progress.save(step + 1, sums)
    finally:
        for hook in hooks:
            hook.remove()
    count = torch.bincount(data.train.labels, minlength=data.num_classes).view(-1, 1)
    statistics = []
    for layer, total in zip(layers, sums, strict=True):
        mean, square = total / count
        statistics.append(((mean + layer.running_mean).float(), (square - mean**2).clamp(min=0).float()))
    return statistics


def squeeze(args, data: Dataset, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
    """class_statistics of this teacher and data set: taken once, then read."""
    settings = {"stage": "class statistics", "data": data.describe(), "teacher": teacher.info["digest"]}
    folder = common.stage_folder(args.out / data.name, f"statistics-{teacher.info['arch']}", settings)
    file = folder / "statistics.pt"
    if not file.exists():
        common.save_tensors(file, class_statistics(teacher.model, data, folder / "progress.pt"))
        common.finish_stage(folder, data.device)
        (folder / "progress.pt").unlink(missing_ok=True)
    return [[x.to(data.device) for x in layer] for layer in common.load_tensors(file, "class statistics")]


def lpld(data: Dataset, teacher: Teacher, statistics, ipc: int, setting: Recovery, seed: int, folder: Path):
    """LPLD's images: a batch holds the images of one class, and is recovered against that class's statistics.

    That is all that parts it from SRe2L. The classes of a chunk are optimised together, as if one after the other.
    """
    targets = torch.arange(data.num_classes)[:, None].expand(-1, ipc)
    images = recover_chunks(data, teacher, targets, statistics, setting, seed, folder)
    return images.flatten(0, 1), targets.flatten()


# ---------------------------------------------------------------------------------------------------------------------
# The stage


def to_bytes(images: Tensor) -> Tensor:
    """0 ... 255 as uint8, rounded; the releases of RDED and SRe2L truncate."""
    return images.round().clamp(0, 255).to(torch.uint8)


def check_request(method: str, args, data: Dataset, factor: int | None = None):
    """Whether data set and teacher can give what is asked for; before a teacher is trained for it."""
    ipc, factor = args.ipc or 10, factor or default_factor(data)
    fewest = torch.bincount(data.train.labels.cpu(), minlength=data.num_classes).min().item()
    if method == "random" and ipc > fewest:
        raise UserError(f"--ipc {ipc}: the smallest class of {data.name} has {fewest} training images")
    if method == "rded" and data.image_size % factor:
        raise UserError(f"--factor {factor} does not divide the side of {data.image_size} px")
    if method == "rded" and ipc * factor**2 > min(fewest, RDED_IMAGES):
        most = min(fewest, RDED_IMAGES) // factor**2
        raise UserError(f"--ipc {ipc}: RDED takes one crop of each of {RDED_IMAGES} images, so at most {most} here")
    arch = args.teacher_arch or args.arch or data.default_arch
    if method in RECOVERED and not batchnorms(common.build_model(arch, data.num_classes, data.image_size)):
        raise UserError(f"{method} needs a teacher with BatchNorm layers, {arch} has none")


def default_factor(data: Dataset) -> int:
    """RDED's scripts: 2 x 2 mosaics for ImageNet-1K at 224 px and its subsets at 224 and 128, single crops below."""
    return 2 if data.image_size >= 128 else 1


def distil(method: str, args, data: Dataset, teacher: Teacher | None, factor: int | None = None) -> Path:
    """Make the distilled set, or find it again; returns its folder."""
    ipc, factor = args.ipc or 10, factor or default_factor(data)
    settings = {"stage": "images", "method": method, "ipc": ipc, "seed": args.seed, "data": data.describe()}
    if method != "random":
        settings["teacher"] = {key: teacher.info[key] for key in ("arch", "width", "digest")}
    if method == "rded":
        settings |= {"factor": factor, "images": RDED_IMAGES, "crops": RDED_CROPS}
    if method in RECOVERED:
        setting = sre2l_settings(data) if method == "sre2l" else lpld_settings(data)
        settings["recovery"] = asdict(setting)
    folder = common.stage_folder(args.out / data.name, f"{method}-ipc{ipc}", settings)
    if "made_with" in common.read_settings(folder):
        print(f"images:   reusing {folder}")
        return folder
    if method == "random":
        labels = torch.arange(data.num_classes).repeat_interleave(ipc)
        picked = [pick_random(data, label, ipc, args.seed) for label in range(data.num_classes)]
        images = data.train.pick(torch.cat(picked))
    elif method == "rded":
        images, labels = rded(data, teacher, ipc, factor, args.seed)
    elif method == "sre2l":
        images, labels = sre2l(data, teacher, ipc, setting, args.seed, folder)
    else:
        images, labels = lpld(data, teacher, squeeze(args, data, teacher), ipc, setting, args.seed, folder)
    common.save_distilled(folder, images, labels, data.device)
    for file in folder.glob("groups-*.pt"):
        file.unlink()
    print(f"images:   {method}, {ipc} per class, in {folder}")
    return folder


def main():
    parser = common.common_options(__doc__)
    parser.add_argument("--method", choices=METHODS, default="rded", help="default: rded")
    parser.add_argument(
        "--factor", type=common.at_least(1), help="RDED: an image holds factor x factor crops (default: 1 or 2)"
    )
    args = parser.parse_args()
    data = common.load_dataset(args)
    check_request(args.method, args, data, args.factor)
    teacher = None if args.method == "random" else common.load_teacher(args, data)
    folder = distil(args.method, args, data, teacher, args.factor)
    print(f"picture: {folder / 'grid.png'}")


if __name__ == "__main__":
    common.run_script(main)
