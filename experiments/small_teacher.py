"""Store the teacher's weights in few bits, instead of soft labels.

    python -m experiments.small_teacher                      # 8 bits a weight
    python -m experiments.small_teacher --bits 4 --loss kl

GIFT's teacher labels each view when the student sees it. For that the teacher must be stored. Its size does not grow
with the number of images. Here its weights are rounded, and then a student is trained as in gift.py.
"""

import copy

from torch import Tensor, nn

import common
import gift
from common import Dataset, Teacher, UserError

BITS = (32, 16, 8, 4)


def round_weights(weights: Tensor, bits: int) -> Tensor:
    """Weights [out, ...], rounded to whole multiples of a step of their output channel; 2^bits - 1 values.

    The step is max |w| / (2^(bits - 1) - 1) of the channel, itself in fp16. A channel of zeros stays zero.
    """
    most = 2 ** (bits - 1) - 1
    step = (weights.flatten(1).abs().amax(1) / most).half().float().clamp(min=2**-24)  # the least fp16 number above 0
    step = step.view(-1, *[1] * (weights.dim() - 1))
    return (weights / step).round().clamp(-most, most) * step


def store(model: nn.Module, bits: int) -> tuple[nn.Module, int]:
    """A copy of the network as it is after storing, and the bytes that it takes.

    32: as it is. 16: all numbers in fp16. Fewer: weights of more than one dimension by round_weights, with 2 bytes for
    the step of each channel; all other numbers in fp16. Counters of BatchNorm are not stored.
    """
    stored = copy.deepcopy(model)
    total = 0
    for value in stored.state_dict().values():
        if not value.is_floating_point():
            continue
        if bits == 32:
            total += 4 * value.numel()
        elif bits == 16 or value.dim() < 2:
            total += 2 * value.numel()
            value.copy_(value.half())
        else:
            total += -(-value.numel() * bits // 8) + 2 * len(value)
            value.copy_(round_weights(value, bits))
    return stored, total


def small_teacher(data: Dataset, teacher: Teacher, bits: int) -> tuple[Teacher, int]:
    """The teacher as it is after storing, with its own accuracy; and its bytes."""
    model, size = store(teacher.model, bits)
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise UserError(f"--bits {bits}: a weight of the teacher is too large for it")
    top1, _ = common.accuracy(model, data.test, data.colours)
    info = {**teacher.info, "bits": bits, "accuracy": top1, "digest": common.digest(model.state_dict())}
    return Teacher(model, info), size


def main(argv=None) -> dict:
    parser = common.Parser(__doc__)
    gift.add_options(parser)
    losses = [loss for loss in gift.LOSSES if loss != "ce"]  # ce needs no teacher
    parser.add_argument("--loss", choices=losses, default="gift", help="default: gift")
    parser.add_argument("--bits", type=int, choices=BITS, default=8, help="of a weight (default: 8)")
    common.add_common_options(parser)
    args = parser.parse_args(argv)

    data, arch, teacher_arch = common.start(args, args.images)
    whole, distilled, protocol = gift.prepare(args, data, arch, teacher_arch)
    teacher, size = small_teacher(data, whole, args.bits)
    print(f"labels:   the teacher in {args.bits} bits, {size:,} bytes: {teacher.info['accuracy']:.1f} %")
    students = gift.students(data, teacher, distilled, protocol)
    students.about["label_bytes"] = size
    result = common.train_students(students, range(args.seed, args.seed + args.repeats))
    common.print_result(result, data, teacher, f"--bits {8 if args.bits == 32 else 32}, lpqld.py")
    print(f"{'label storage: the teacher':38} {size:,} bytes")
    return result


if __name__ == "__main__":
    common.run_script(main)
