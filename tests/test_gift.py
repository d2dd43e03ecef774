"""GIFT's formulas against numbers worked by hand, and its training protocol."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import common
import gift


def test_smooth_labels_by_hand():
    smooth = gift.smooth_labels(torch.tensor([2, 0]), num_classes=4, alpha=0.1)
    third = 0.1 / 3
    expected = torch.tensor([[third, third, 0.9, third], [0.9, third, third, third]])
    torch.testing.assert_close(smooth, expected)
    # not torch's label_smoothing, which gives alpha / C to every class and 1 - alpha + alpha / C to the true one
    assert smooth[0, 2] != pytest.approx(1 - 0.1 + 0.1 / 4)


def test_smooth_labels_take_a_column_of_labels_and_refuse_a_class_too_many():
    assert gift.smooth_labels(torch.tensor([[1], [0]]), 3).shape == (2, 3)
    with pytest.raises(RuntimeError):
        gift.smooth_labels(torch.tensor([3]), num_classes=3)


def test_refine_labels_by_hand():
    # z = (3, 4): z / |z| = (0.6, 0.8). smooth of class 0 of 2 = (0.9, 0.1), its norm sqrt(0.82).
    refined = gift.refine_labels(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), gamma=0.1, alpha=0.1)
    norm = math.sqrt(0.82)
    torch.testing.assert_close(refined, torch.tensor([[0.6 + 0.1 * 0.9 / norm, 0.8 + 0.1 * 0.1 / norm]]))


def test_gift_loss_by_hand():
    refined = (0.6 + 0.1 * 0.9 / math.sqrt(0.82), 0.8 + 0.1 * 0.1 / math.sqrt(0.82))
    cosine = refined[0] / math.hypot(*refined)  # with the student (1, 0)
    loss = gift.gift_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
    assert loss.shape == () and loss.item() == pytest.approx(1 - cosine, abs=1e-6)


def test_gift_loss_ignores_the_scale_of_either_network():
    student, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.arange(5)
    once, scaled = gift.gift_loss(student, teacher, labels), gift.gift_loss(30 * student, 0.2 * teacher, labels)
    torch.testing.assert_close(once, scaled)


def test_gamma_and_the_weight_of_the_readme_are_one_family():
    """The README's (1 - w) * soft + w * hard with w = gamma / (1 + gamma): gamma = 0.1 is w = 1 / 11."""
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    w = 1 / 11
    mixed = (1 - w) * F.normalize(teacher, dim=1) + w * F.normalize(gift.smooth_labels(labels, 5), dim=1)
    torch.testing.assert_close(gift.gift_loss(student, teacher, labels), gift.cosine_loss(student, mixed))


def test_the_eight_losses_by_hand():
    student, teacher, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    log_p = [math.log(math.e / (math.e + 1)), math.log(1 / (math.e + 1))]  # log softmax of the student
    q = [1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)]  # softmax of the teacher
    hard, mse, soft = -log_p[0], (1 + 4) / 2, -(q[0] * log_p[0] + q[1] * log_p[1])
    a, b = 1 / (1 + math.exp(-1 / 20)), 1 / (1 + math.exp(-2 / 20))  # at T = 20: student's class 0, teacher's class 1
    kl = (1 - b) * math.log((1 - b) / a) + b * math.log(b / (1 - a))  # no factor T^2
    refined = (0.1 * 0.9 / math.sqrt(0.82), 1 + 0.1 * 0.1 / math.sqrt(0.82))
    expected = {
        "ce": hard, "mse": mse, "kl": kl, "softce": soft, "mse_ce": mse + 0.1 * hard, "softce_ce": soft + 0.1 * hard,
        "cosine": 1.0, "gift": 1 - refined[0] / math.hypot(*refined),
    }  # fmt: skip
    measured = {name: loss(student, teacher, labels).item() for name, loss in gift.LOSSES.items()}
    assert measured == pytest.approx(expected, rel=1e-4)


def test_losses_are_scalars_with_gradients_and_average_over_the_batch():
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    labels = torch.tensor([0, 5, 2, 2])
    for name, loss in gift.LOSSES.items():
        value = loss(student, teacher, labels)
        assert value.shape == () and torch.autograd.grad(value, student)[0].abs().sum() > 0, name
        twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), labels.repeat(2))
        torch.testing.assert_close(value, twice, msg=name)


def test_protocol_of_the_release():
    assert [gift.batch_size_for(n) for n in (1, 10, 11, 100, 500, 501, 20_000, 20_001)] == [
        10, 10, 50, 50, 50, 100, 100, 200,
    ]  # fmt: skip
    assert [gift.epochs_for(name) for name in ("cifar10", "tinyimagenet", "imagenet-1k", "fashion")] == [
        1000, 1000, 300, 300,
    ]  # fmt: skip
    # 1000 epochs: torch's MultiStepLR with milestones 666 and 833, stepped after each epoch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [666, 833], gamma=0.2)
    for epoch in range(1000):
        assert gift.learning_rate_factor(epoch, 1000) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_the_last_partial_batch_is_kept():
    assert [len(batch) for batch in gift.split_batches(torch.arange(120), 50)] == [50, 50, 20]
    assert [len(batch) for batch in gift.split_batches(torch.arange(101), 50)] == [50, 51]  # none of a single image
    assert torch.cat(gift.split_batches(torch.arange(101), 50)).tolist() == list(range(101))
    assert [len(batch) for batch in gift.split_batches(torch.arange(10), 10)] == [10]


def test_optimizers():
    weights = [torch.zeros(2, requires_grad=True)]
    adamw = gift.OPTIMIZERS["adamw"](weights, gift.learning_rate_for("adamw", "conv3"))
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (1e-3, 1e-4)  # released
    assert gift.learning_rate_for("adamw", "vit_b_16") == gift.learning_rate_for("adamw", "swin_v2_t") == 1e-4
    sgd = gift.OPTIMIZERS["sgd"](weights, gift.learning_rate_for("sgd", "conv3"))
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert gift.OPTIMIZERS["adam"](weights, gift.learning_rate_for("adam", "conv3")).defaults["lr"] == 1e-3


def test_a_mosaic_shows_one_tile_three_times_in_four():
    tiles = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    views = common.resized_crop(tiles.expand(2000, 3, 8, 8), gift.tile_boxes(2000, 8, 2, 0), 8)
    whole = (views == tiles).all((1, 2, 3))
    flat = views.amax((1, 2, 3)) - views.amin((1, 2, 3)) < 1e-5
    assert (whole | flat).all() and not (whole & flat).any()
    assert whole.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert views[flat].amax((1, 2, 3)).round().unique().tolist() == [1, 2, 3, 4]
    assert torch.equal(gift.tile_boxes(2000, 8, 2, 0), gift.tile_boxes(2000, 8, 2, 0))


def test_mean_and_population_std():
    assert common.mean_std([80.0, 82.0]) == {"mean": 81.0, "std": 1.0, "values": [80.0, 82.0]}


def batches(fashion, monkeypatch, pixels, view_factor=1):
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", pixels)
    distilled = common.Distilled(fashion.train.images[:25], fashion.train.labels[:25], {})
    run = {"batch_size": 10, "view_factor": view_factor}
    return list(gift.augmented_batches(distilled, fashion, run, 3, 7))


@pytest.mark.parametrize("view_factor", [1, 2])
def test_views_made_together_are_the_views_made_one_step_at_a_time(fashion, monkeypatch, view_factor):
    alone = batches(fashion, monkeypatch, 0, view_factor)
    together = batches(fashion, monkeypatch, 20 * 32**2, view_factor)  # two steps at once, then the partial one
    assert [len(images) for images, _ in alone] == [10, 10, 5]
    for (images, labels), (same, same_labels) in zip(alone, together, strict=True):
        assert torch.equal(images, same) and torch.equal(labels, same_labels)
        assert same.is_contiguous(memory_format=torch.channels_last)


class ReadsBack(TorchDispatchMode):
    """Fails where a value is read back from the device, which stops a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", gift.LOSSES)
def test_a_step_reads_nothing_back(fashion, monkeypatch, loss):
    student, teacher = (common.build_model("conv3", 10, 32, 4) for _ in range(2))
    optimizer = gift.OPTIMIZERS["sgd"](student.parameters(), 0.1)
    distilled = common.Distilled(fashion.train.images[:20], fashion.train.labels[:20], {})
    with ReadsBack():
        for images, labels in gift.augmented_batches(distilled, fashion, {"batch_size": 10, "view_factor": 2}, 0, 0):
            gift.training_step(student, teacher, optimizer, images, labels, loss)
    with pytest.raises(AssertionError), ReadsBack():
        torch.ones(1).item()


def test_bf16_trains_what_fp32_trains(fashion, monkeypatch):
    """Networks in bf16, losses and weights in fp32."""
    teacher = common.build_model("conv3", 10, 32, 8).eval()
    images = common.normalize(fashion.train.images[::50], fashion.colours)
    losses = {}
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr(common, "PRECISION", precision)
        torch.manual_seed(0)
        student = common.build_model("conv3", 10, 32, 8)
        optimizer = gift.OPTIMIZERS["sgd"](student.parameters(), 0.1)
        for _ in range(5):
            loss = gift.training_step(student, teacher, optimizer, images, fashion.train.labels[::50], "gift")
        assert loss.dtype == torch.float32 and {x.dtype for x in student.parameters()} == {torch.float32}
        losses[precision] = loss.item()
    assert losses["bf16"] != losses["fp32"] and losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_student_is_the_student():
    student = common.build_model("conv3", 10, 8, 4)
    images, fast = torch.randn(6, 3, 8, 8), common.compiled(student, True)
    gradients = []
    for network in (student, fast):
        student.zero_grad()
        gift.cosine_loss(network(images), torch.ones(6, 10)).backward()
        gradients.append([weight.grad.clone() for weight in student.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert fast is not student and common.compiled(student, False) is student


def test_compiling_where_nothing_compiles_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no compiler\nand a page of other words")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(common.UserError, match=r"--compile: .* does not work here: no compiler$"):
        common.compiled(torch.nn.Linear(1, 1), True)
