"""One label for each plain image: "A Label is Worth a Thousand Images" (arXiv 2406.10485).

    python -m experiments.one_label                          # random real images, all logits of each label
    python -m experiments.one_label --logits 3               # only the three largest logits of each label
    python -m experiments.one_label --teacher-epochs 2       # labels of a teacher that has learned less

GIFT's teacher labels every augmented view anew. Here the teacher labels each image once, without augmentation, and the
student sees augmented views of the image with that one label. With all logits, the label and its loss
(soft cross-entropy) are the paper's. Views and training are GIFT's, in gift.py.

This file is also the example of how to write a method of your own on these scripts: the formula, the students and their
settings, the options. Put into the settings every number that changes the result: students are found again by them.
"""

import math
from dataclasses import asdict

import torch
from torch import Tensor, nn

import common
import gift
import lpqld
import synthesize
from common import Dataset, Students, Teacher, UserError
from gift import Protocol
from synthesize import Distilled

# ---------------------------------------------------------------------------------------------------------------------
# The method


def fixed_labels(teacher_logits: Tensor, k: int) -> Tensor:
    """The k largest logits of each row of [N, C], rounded to fp16; all others are -inf. A softmax then covers the k.

    The paper's own top-K differs: it keeps the values of the softmax over all classes.
    """
    values, classes = teacher_logits.topk(k, dim=1)
    kept = torch.full_like(teacher_logits, -math.inf)
    return kept.scatter(1, classes, values.half().float())


def fixed_label_bytes(count: int, num_classes: int, k: int) -> int:
    """Bytes of `count` labels: 2 for each logit, and ceil(log2 C) bits for its class if k < C."""
    bits = lpqld.class_bits(num_classes) if k < num_classes else 0
    return count * k * 2 + -(-count * k * bits // 8)


@torch.no_grad()
def label_plain_images(teacher: nn.Module, images: Tensor, colours, k: int) -> Tensor:
    """fixed_labels [N, C] of images [N, 3, S, S] without augmentation, in fp32."""
    labels = fixed_labels(synthesize.plain_logits(teacher, images, colours), k)
    if labels.isnan().any() or (labels == math.inf).any():
        raise UserError("the teacher's logits are not finite (in fp16)")
    return labels


LOSSES_OF_A_SOFTMAX = ("softce", "kl", "softce_ce")  # the other losses need all logits of a label


def students(data: Dataset, teacher: Teacher, distilled: Distilled, protocol: Protocol, k: int) -> Students:
    """The settings, the folder and the training of these students; common.train_students trains them."""

    def train(seed, progress):
        labels = label_plain_images(teacher.model, distilled.images, data.colours, k)
        return gift.train_student(data, lambda _, numbers: labels[numbers], distilled, protocol, seed, progress)

    settings = {"stage": "one label", "logits": k, **asdict(protocol)}
    name = f"one-label-{distilled.name}-{protocol.arch}-{protocol.loss}-{protocol.optimizer}-k{k}"
    size = fixed_label_bytes(len(distilled.images), data.num_classes, k)
    return common.students_of(data, distilled, name, settings, train, teacher, label_bytes=size)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    gift.add_options(parser, images="random")
    add = parser.add_argument
    add("--loss", choices=[loss for loss in gift.LOSSES if loss != "ce"], default="softce", help="default: softce")
    add("--logits", type=common.at_least(1), help="logits kept of each label, the largest (default: all)")
    common.add_common_options(parser)
    args = parser.parse_args(argv)

    data, arch, teacher_arch = common.start(args, args.images)
    k = args.logits or data.num_classes
    if k > data.num_classes:
        raise UserError(f"--logits {k}: {data.name} has {data.num_classes} classes")
    if k < data.num_classes and args.loss not in LOSSES_OF_A_SOFTMAX:
        raise UserError(f"--logits {k}: {args.loss} needs all logits; {', '.join(LOSSES_OF_A_SOFTMAX)} do with fewer")
    teacher, distilled, protocol = gift.prepare(args, data, arch, teacher_arch)
    seeds = range(args.seed, args.seed + args.repeats)
    result = common.train_students(students(data, teacher, distilled, protocol, k), seeds)
    common.print_result(result, data, teacher, "gift.py --loss softce, a label for every view")
    print(f"{'one label for each image':38} {result['label_bytes']:,} bytes, {k} of {data.num_classes} logits")
    return result


if __name__ == "__main__":
    common.run_script(main)
