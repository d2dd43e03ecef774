"""Label storage at the paper's settings, and every way to store labels, by formula: nothing is trained or written.

    python -m experiments.storage

A test compares the formula with real label pools.
"""

import functools
from typing import NamedTuple

import common
import lpqld
from experiments import one_label, small_teacher


class Setting(NamedTuple):
    data_set: str
    classes: int
    ipc: int  # images per class
    prune: float  # p
    top_k: int  # MR-k
    batch_size: int
    published_full: float  # GB of the full labels in the released README
    published: float  # GB of LPQLD's labels there


SETTINGS = [
    Setting("ImageNet-1K", 1000, 10, 0.9, 100, 128, 5.67, 0.13),
    Setting("ImageNet-1K", 1000, 10, 0.9, 50, 128, 5.67, 0.07),
    Setting("ImageNet-1K", 1000, 10, 0.9, 10, 128, 5.67, 0.03),
    Setting("ImageNet-1K", 1000, 50, 0.9, 100, 128, 28.33, 0.63),
    Setting("ImageNet-1K", 1000, 50, 0.9, 50, 128, 28.33, 0.37),
    Setting("ImageNet-1K", 1000, 50, 0.9, 10, 128, 28.33, 0.14),
    Setting("ImageNet-1K", 1000, 200, 0.9, 100, 128, 113.33, 2.54),
    Setting("ImageNet-1K", 1000, 200, 0.9, 50, 128, 113.33, 1.47),
    Setting("ImageNet-1K", 1000, 200, 0.9, 10, 128, 113.33, 0.58),
    Setting("ImageNet-21K", 10450, 10, 0.95, 200, 32, 643, 1.6),
    Setting("ImageNet-21K", 10450, 20, 0.975, 400, 32, 1286, 2.7),  # the script's p and k; its README says MR-200
]
EPOCHS = 300

EXPLANATION = """
In brackets: as published. '16 + 16 bits' is what p and k save by themselves (the method): fp16 and a
16-bit class for each kept logit. The released files hold every box besides, and need more. The last column
is this repository's file: a seed in place of the boxes, and packed classes (the format)."""


def label_bytes(labels: int, k: int, num_classes: int, bits: int | None = None) -> int:
    """Bytes of `labels` labels: k fp16 logits and k classes of `bits` (ceil(log2 C)); no classes where k = C."""
    if k == num_classes:
        return labels * k * 2
    bits = bits or lpqld.class_bits(num_classes)
    return labels * k * 2 + bits * -(-labels * k // 8)


def sizes_of(setting: Setting) -> dict:
    """Bytes of fp16 labels of every epoch (N * E * C * 2), and of a pool with 16-bit and with packed classes."""
    count = setting.ipc * setting.classes
    batches = lpqld.pool_size(count, setting.batch_size, EPOCHS, setting.prune)
    labels = batches * setting.batch_size
    return {
        "full": count * EPOCHS * setting.classes * 2,
        "sixteen_bits": label_bytes(labels, setting.top_k, setting.classes, bits=16),
        "packed": label_bytes(labels, setting.top_k, setting.classes),
    }


def table_of_sizes() -> tuple[list[str], list[list]]:
    """Heading and rows: GB (2^30 bytes), and how many times smaller than full labels."""
    rows = []
    for each in SETTINGS:
        full, *ours = sizes_of(each).values()
        ours = [f"{size / 2**30:.3f}, {full / size:.0f}×" for size in ours]
        published = f"{each.published:.2f}, {each.published_full / each.published:.0f}×"
        setting = [each.data_set, each.ipc, each.prune, each.top_k]
        rows.append([*setting, f"{full / 2**30:.2f} ({each.published_full:g})", published, *ours])
    head = ["data", "IPC", "p", "k", "full labels (published), GB", "LPQLD, published", "16 + 16 bits", "this code"]
    return head, rows


# ---------------------------------------------------------------------------------------------------------------------
# Every way to store labels

DATA_SETS = {  # classes, teacher, side in pixels, images of a label batch
    "CIFAR-100": (100, "conv3", 32, 50),
    "ImageNet-1K": (1000, "resnet18", 224, 128),
}
IPCS = (1, 10, 50, 200)


def bytes_of_ways(data_set: str, ipc: int) -> dict[str, int]:
    """Bytes of the labels of a distilled set, for each way to store them. A teacher's do not depend on ipc."""
    classes, arch, side, batch_size = DATA_SETS[data_set]
    count = ipc * classes
    batch_size = min(batch_size, count)
    found = {"full labels": count * EPOCHS * classes * 2}
    in_pool = batch_size * lpqld.pool_size(count, batch_size, EPOCHS, 0.9)
    found["P, p = 0.9"] = label_bytes(in_pool, classes, classes)
    found["P + Q, k = C / 10"] = label_bytes(in_pool, classes // 10, classes)
    found["P + Q, k = C / 100"] = label_bytes(in_pool, classes // 100, classes)
    found["one label an image"] = one_label.fixed_label_bytes(count, classes, classes)
    found["one label an image, k = C / 10"] = one_label.fixed_label_bytes(count, classes, classes // 10)
    return found | teacher_bytes(arch, classes, side)


@functools.cache
def teacher_bytes(arch: str, classes: int, side: int) -> dict[str, int]:
    model = common.build_model(arch, classes, side)
    return {f"the teacher, {bits} bits a weight": small_teacher.store(model, bits)[1] for bits in small_teacher.BITS}


def table_of_ways() -> tuple[list[str], list[list[str]]]:
    """Heading and rows, in MB (10^6 bytes)."""
    columns = {(data_set, ipc): bytes_of_ways(data_set, ipc) for data_set in DATA_SETS for ipc in IPCS}
    head = ["MB", *(f"{data_set}, IPC {ipc}" for data_set, ipc in columns)]
    rows = []
    for way in next(iter(columns.values())):
        sizes = [found[way] / 1e6 for found in columns.values()]
        rows.append([way, *(f"{size:,.0f}" if size >= 100 else f"{size:.3g}" for size in sizes)])
    return head, rows


# ---------------------------------------------------------------------------------------------------------------------
# The script


def print_table(head: list, rows: list[list]):
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in [head, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(argv=None):
    common.Parser(__doc__).parse_args(argv)
    print("Labels, GB (2^30 bytes), and how many times smaller than fp16 labels of every epoch (N * E * C * 2)\n")
    print_table(*table_of_sizes())
    print(EXPLANATION)
    print(f"\nEvery way to store labels for {EPOCHS} epochs, MB (10^6 bytes)\n")
    print_table(*table_of_ways())


if __name__ == "__main__":
    common.run_script(main)
