"""Make the contact sheets of this folder from the four .gz files of Fashion-MNIST:

    python data/fashion/make_sheets.py FOLDER_WITH_THE_GZ_FILES [OUT]

The first 500 training and the first 200 test images of each class, in the order of the published files, as lossless
grey PNGs, one per class and split: 28 x 28 tiles, 25 (train) or 20 (test) to a row, left to right, top to bottom.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {
    "train": ("train", 500, 25),
    "test": ("t10k", 200, 20),
}  # split: (published name, images per class, tiles per row)


def read_idx(path, header):
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=header)


def main(source, out):
    for split, (published, count, per_row) in SPLITS.items():
        images = read_idx(source / f"{published}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        labels = read_idx(source / f"{published}-labels-idx1-ubyte.gz", header=8)
        for class_index in range(10):
            tiles = images[labels == class_index][:count].reshape(-1, per_row, 28, 28)
            sheet = tiles.transpose(0, 2, 1, 3).reshape(-1, per_row * 28)
            Image.fromarray(sheet).save(out / f"{split}-{class_index}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
