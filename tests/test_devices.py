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
from synthesize import Distilled

COLOURS = common.COLOURS["cifar"]


class Images(common.Split):
    def __init__(self, device):
        self.labels = torch.zeros(20, dtype=torch.int64, device=device)
        self.images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8, device=device)
        self.device = device
        self.pixels = self.images
        self.paths = None
        self.resident = True


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


@pytest.fixture
def noise(cuda, tmp_path):
    images = Images(cuda)
    data = common.Dataset("noise", list("abcdefghij"), 32, COLOURS, "conv3", 8, 1, images, images, tmp_path)
    return data, Distilled(images.images, images.labels, {})


def test_batches_of_every_script_stay_on_the_device(noise, cuda):
    data, distilled = noise
    mosaics = gift.Protocol("conv3", "gift", "sgd", 0.1, 1, batch_size=8, view_factor=2)
    strips = evaluate.RdedProtocol("conv3", "kl", "sgd", 0.1, 0.0, 1, batch_size=8, factor=2, enlarge=None)
    values = torch.zeros(8, 5, 3, dtype=torch.float16, device=cuda)
    classes = torch.zeros(8, 5, 3, dtype=torch.int16, device=cuda)
    order = torch.zeros(8, 5, dtype=torch.int32, device=cuda)
    draws = torch.zeros(8, 5, 12, dtype=torch.int16, device=cuda)
    labels = lpqld.LabelSettings(batch_size=5, top_k=3)
    label_views = lpqld.Views(labels, order, draws, distilled.images, COLOURS)
    pool = lpqld.LabelPool(labels, label_views, values, classes, 10, {})
    for batches in (
        gift.augmented_batches(distilled, data, mosaics, 0, 0),
        evaluate.rded_batches(distilled, data, strips, 0, 0),
        common.teacher_batches(data, 5, 0, 0),
        pool.batches([3, 1, 2], 20.0),
    ):
        views, labels = next(batches)[:2]
        assert views.device.type == "cuda"
        assert labels.device.type == "cuda"
        assert views.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("mix", lpqld.MIXES)
def test_views_of_label_batches_stay_on_the_device(noise, cuda, mix):
    draws = lpqld.view_draws(20, 32, mix, True, 0)[None].to(cuda)
    assert lpqld.mixed_views(noise[1].images, draws, mix, COLOURS).device.type == "cuda"


def test_losses_and_statistics_stay_on_the_device(cuda):
    student, teacher = (torch.zeros(20, 10, device=cuda) for _ in range(2))
    labels = torch.zeros(20, dtype=torch.int64, device=cuda)
    results = [loss(student, teacher, labels) for loss in gift.LOSSES.values()]
    results.append(lpqld.alignment_loss(student, teacher.softmax(1), 0.5))
    results.extend(lpqld.quantize_labels(teacher, 3))
    images = torch.zeros(20, 3, 32, 32, device=cuda)
    mean, variance = (torch.zeros(4, 3, device=cuda) for _ in range(2))
    results.append(synthesize.bn_distance(images, mean, variance, 4))
    results.append(synthesize.square_crops(images, np.random.rand(20, 5, 10, 4), 16))
    view = synthesize.crop_flip_roll_draws(4, 32, (0, 4), True, 0).to(cuda)
    groups = images.view(4, 15, 32, 32)
    results.append(common.resized_crop(groups, view[:, :4], 32, flip=view[:, 4] > 0, roll=view[:, 5:]))
    assert all(result.device.type == "cuda" for result in results)


def test_an_optimizer_kept_on_a_cpu_goes_on_on_a_gpu(cuda, monkeypatch, tmp_path):
    def adam(device):
        weight = torch.nn.Parameter(torch.ones(3, device=device))
        weight.grad = torch.ones(3, device=device)
        return weight, torch.optim.Adam([weight], 0.1, **common.fused(device))

    _, kept = adam(torch.device("cpu"))
    kept.step()
    weight, here = adam(cuda)
    progress = {"epoch": 1, "log": {}, "modules": {"optimizer": kept.state_dict()}}
    monkeypatch.setattr(common, "load", lambda path: progress)
    assert next(common.resumable(tmp_path / "progress.pt", 3, "training", {}, optimizer=here)) == 1
    assert {name: x.device.type for name, x in here.state[weight].items()} == {
        "step": "cuda",
        "exp_avg": "cuda",
        "exp_avg_sq": "cuda",
    }
