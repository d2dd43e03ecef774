"""What a teacher gives its students: accuracy and confidence on test images, training images and their views.

    python -m experiments.teachers --dataset cifar100 --teacher-epochs 12
    python -m experiments.teachers --dataset cifar100 --times 2          # look at a copy with doubled logits
    python -m experiments.teachers --dataset cifar100 --views plain      # train one on other views, and look at it

Training beside test accuracy shows what the teacher has memorised. Confidence beside accuracy shows its calibration.
The spread of the logits is their standard deviation. Views: DSA as in GIFT's protocol, flip and CutMix as in RDED's.
"""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
import gift
import lpqld
from common import Dataset, Teacher, UserError

MOST = 10_000  # images of a split that are looked at, at most
BINS = 15  # of the confidence, as usual for the calibration error


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error: over bins of the confidence, the mean of |accuracy - mean confidence|; percent.

    confidence [N] between 0 and 1; right, bool [N]. Each bin counts with its share of the images.
    """
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right.double() - confidence.double())
    return 100 * gaps.abs().sum().item() / len(confidence)


def facts(logits: Tensor, labels: Tensor) -> dict:
    """top-1, mean confidence and calibration error in percent; the logits' standard deviation over the classes."""
    confidence, answer = F.softmax(logits, dim=1).max(1)
    right = answer == labels
    return {
        "top1": 100 * right.float().mean().item(),
        "confidence": 100 * confidence.mean().item(),
        "calibration_error": calibration_error(confidence, right),
        "logit_spread": logits.std(1, correction=0).mean().item(),
    }


def views_of(data: Dataset, images: Tensor, kind: str, seed: int, step: int) -> Tensor:
    """Normalised views of uint8 images: plain; enlarged (36 px -> 32 on CIFAR, as published teachers are tested);
    dsa; cutmix (flip and CutMix, without a crop, as RDED at factor 1)."""
    side = data.image_size
    stream = (seed, common.VIEW, step)
    if kind == "cutmix":
        draws = lpqld.view_draws(len(images), side, "cutmix", True, *stream, scale=(1, 1))
        return lpqld.mixed_views(images, draws[None].to(images.device), "cutmix", data.colours)
    x = common.normalize(images, data.colours)
    if kind == "enlarged":
        x = common.enlarge_and_cut(x, side * 9 // 8)
    if kind == "dsa":
        x = gift.dsa(x, gift.dsa_draws(len(images), side, *stream).to(images.device))
    return x


@torch.no_grad()
def row_of(data: Dataset, teacher: Teacher, split_name: str, kind: str, seed: int) -> dict:
    """facts() for one view of each image of a split, or of MOST random images of a larger split.

    With CutMix only the class of the first image counts as right.
    """
    split = data.test if split_name == "test" else data.train
    logits = []
    labels = []
    numbers = common.shuffled(len(split), seed, common.CHOICE)[:MOST]
    for step, (images, classes) in enumerate(split.batches(200, numbers)):
        logits.append(teacher.model(views_of(data, images, kind, seed, step)).float().cpu())
        labels.append(classes.cpu())
    return {"split": split_name, "view": kind, **facts(torch.cat(logits), torch.cat(labels))}


def multiplied(model: nn.Module, times: float) -> nn.Module:
    """A copy of the network with logits `times` as large: the same predictions, with more or with less confidence."""
    model = copy.deepcopy(model)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise UserError("--times is for a network that ends in a linear layer")
    for parameter in linear[-1].parameters():
        parameter.mul_(times)
    return model


def keep_multiplied(data: Dataset, teacher: Teacher, times: float) -> Path:
    """Write such a copy of the teacher. The file can be given to every script as --teacher."""
    state = multiplied(teacher.model, times).state_dict()
    settings = {"stage": "multiplied teacher", "teacher": teacher.info["digest"], "times": times}
    file = common.stage_folder(data, f"times{times:g}-teacher-{teacher.info['arch']}", settings) / "teacher.pt"
    common.cached(file, lambda _: {"model": state})
    return file


def no_draws(count: int, side: int, *seed: int) -> Tensor:
    """In place of common.teacher_draws: the whole image, not flipped."""
    return torch.tensor([0.0, 0.0, side, side, 0.0]).repeat(count, 1)


def crop_draws(count: int, side: int, *seed: int) -> Tensor:
    """In place of common.teacher_draws: random resized crops (scale 0.08 to 1), flips; as torchvision's script."""
    u = common.random_stream(*seed).random_sample((count, 41))
    boxes = common.crop_boxes(u[:, :40].reshape(count, 10, 4), side, side)
    flips = u[:, 40:] < 0.5
    return torch.from_numpy(np.concatenate([boxes, flips], 1).astype(np.float32))


OTHER_VIEWS = {"plain": no_draws, "crops": crop_draws}

SEEN = (("test", "plain"), ("test", "enlarged"), ("train", "plain"), ("train", "dsa"), ("train", "cutmix"))


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    parser.add_argument("--times", type=common.at_least(0.001, float, 1000), help="look at a copy of the teacher "
        "whose logits are so many times as large, and keep it for --teacher")  # fmt: skip
    parser.add_argument("--views", choices=tuple(OTHER_VIEWS), help="train a teacher on the plain images, or on random "
        "resized crops, in place of shifts")  # fmt: skip
    common.add_common_options(parser)
    args = parser.parse_args(argv)
    if args.views and args.teacher:
        parser.error("--views trains a teacher: leave out --teacher")
    data, _, arch = common.start(args)
    if args.views:
        epochs = args.teacher_epochs or data.teacher_epochs
        stage = f"{args.views} teacher"
        file, _ = common.own_teacher(data, arch, epochs, args.seed, stage, OTHER_VIEWS[args.views])
        teacher = common.load_teacher(data, arch, file, cause=f"it is trained on other views ({args.views})")
    else:
        teacher = common.load_teacher(data, arch, args.teacher, args.teacher_epochs, args.seed)
    if args.times:
        teacher = common.load_teacher(data, arch, keep_multiplied(data, teacher, args.times))
    settings = {"stage": "teacher's facts", "teacher": teacher.info["digest"], "seed": args.seed}
    file = common.stage_folder(data, f"facts-{arch}", settings) / "facts.json"

    def look(_):
        rows = [row_of(data, teacher, *seen, args.seed) for seen in SEEN]
        return {"views": rows, "teacher": teacher.info, "made_with": common.made_with(data.device)}

    found = common.cached(file, look)
    print(f"\n{'images':16}{'top-1, %':>10}{'confidence':>12}{'calibration error':>19}{'spread of logits':>18}")
    numbers = "{top1:10.1f}{confidence:12.1f}{calibration_error:19.1f}{logit_spread:18.2f}"
    for row in found["views"]:
        print(f"{row['split'] + ', ' + row['view']:16}{numbers.format(**row)}")
    print(f"result:   {file}")
    return {**found, "file": str(file)}


if __name__ == "__main__":
    common.run_script(main)
