"""Nothing mixes devices: on CUDA if there is one, else with tensors that only say so (torch's FakeTensorMode)."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import common
import evaluate
import gift
import lpqld
import synthesize

COLOURS = common.CIFAR_COLOURS


class Images(common.Split):
    def __init__(self, device):
        self.labels, self.device = torch.zeros(20, dtype=torch.int64, device=device), device
        self.pixels = self.images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8, device=device)
        self.paths, self.resident = None, True


@pytest.fixture
def cuda(monkeypatch):
    device = torch.device("cuda")
    if torch.cuda.is_available():
        mode = nullcontext()
    else:
        monkeypatch.setattr(common, "send", lambda draws, device: draws.to(device))  # there is nothing to pin
        mode = FakeTensorMode(allow_non_fake_inputs=True)
    common.colour_tensors.cache_clear()
    with mode, torch.no_grad():
        try:
            torch.from_numpy(np.zeros((2, 2))).to(device)[:, 0] + torch.zeros(2, device=device)
        except RuntimeError:
            pytest.skip("this torch asks the CUDA driver even for fake tensors")
        yield device
    common.colour_tensors.cache_clear()


def test_views_and_labels(cuda):
    images = Images(cuda)
    data = common.Dataset("noise", list("abcdefghij"), 32, COLOURS, "conv3", 8, 1, images, images)
    distilled = common.Distilled(images.images, images.labels, {})
    settings = {"count": 20, "batch_size": 5, "batches": 8, "images_per_pass": 20, "image_size": 32, "num_classes": 10,
                "view": lpqld.view_recipe("cutmix", True)}  # fmt: skip
    parts = [torch.zeros(40, n, dtype=kind, device=cuda) for n, kind in ((3, torch.float16), (3, torch.int16))]
    places = torch.zeros(40, dtype=torch.int32, device=cuda), torch.zeros(40, 12, dtype=torch.int16, device=cuda)
    pool = lpqld.LabelPool(settings, *parts, *places, {})
    for batches in (
        gift.augmented_batches(distilled, data, {"batch_size": 8, "view_factor": 2}, 0, 0),
        evaluate.rded_batches(distilled, data, {"batch_size": 8, "factor": 2}, 0, 0),
        common.teacher_batches(data, 5, 0, 0),
        pool.batches([3, 1, 2], distilled.images, COLOURS, 20.0),
    ):
        views, labels = next(batches)
        assert views.device.type == labels.device.type == "cuda" and views.shape[1:] == (3, 32, 32)
    for mix in lpqld.MIXES:
        draws = lpqld.view_draws(20, 32, mix, True, 0).to(cuda)
        assert lpqld.label_view(images.images, draws, mix, COLOURS).device.type == "cuda"


def test_losses_and_statistics(cuda):
    student, teacher = (torch.zeros(20, 10, device=cuda) for _ in range(2))
    labels = torch.zeros(20, dtype=torch.int64, device=cuda)
    results = [loss(student, teacher, labels) for loss in gift.LOSSES.values()]
    results.append(lpqld.alignment_loss(student, teacher.softmax(1), 0.5))
    results.extend(lpqld.quantize_labels(teacher, 3))
    images = torch.zeros(20, 3, 32, 32, device=cuda)
    mean, variance = (torch.zeros(4, 3, device=cuda) for _ in range(2))
    results.append(synthesize.bn_distance(images, mean, variance, 4))
    results.append(synthesize.square_crops(images, np.random.rand(20, 5, 10, 4), 16))
    view = common.crop_flip_roll_draws(4, 32, (0, 4), True, 0).to(cuda)
    groups = images.view(4, 15, 32, 32)
    results.append(common.resized_crop(groups, view[:, :4], 32, flip=view[:, 4] > 0, roll=view[:, 5:]))
    assert all(result.device.type == "cuda" for result in results)
