"""GIFT's formulas against numbers worked by hand, its training protocol, and its training step."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import common
import gift
from synthesize import Distilled

# --- refined labels and losses


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
    assert loss.shape == ()
    assert loss.item() == pytest.approx(1 - cosine, abs=1e-6)


def test_gift_loss_ignores_the_scale_of_either_network():
    student, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.arange(5)
    once = gift.gift_loss(student, teacher, labels)
    scaled = gift.gift_loss(30 * student, 0.2 * teacher, labels)
    torch.testing.assert_close(once, scaled)


def test_gamma_and_the_weight_of_the_released_readme_are_one_family():
    """(1 - w) * soft + w * hard with w = gamma / (1 + gamma): gamma = 0.1 is w = 1 / 11."""
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    w = 1 / 11
    mixed = (1 - w) * F.normalize(teacher, dim=1) + w * F.normalize(gift.smooth_labels(labels, 5), dim=1)
    torch.testing.assert_close(gift.gift_loss(student, teacher, labels), gift.cosine_loss(student, mixed))


def test_the_eight_losses_by_hand():
    student, teacher, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    log_p = [math.log(math.e / (math.e + 1)), math.log(1 / (math.e + 1))]  # log softmax of the student
    q = [1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)]  # softmax of the teacher
    hard = -log_p[0]
    mse = (1 + 4) / 2
    soft = -(q[0] * log_p[0] + q[1] * log_p[1])
    a = 1 / (1 + math.exp(-1 / 20))  # at T = 20: the student's class 0
    b = 1 / (1 + math.exp(-2 / 20))  # and the teacher's class 1
    kl = (1 - b) * math.log((1 - b) / a) + b * math.log(b / (1 - a))  # no factor T^2
    refined = (0.1 * 0.9 / math.sqrt(0.82), 1 + 0.1 * 0.1 / math.sqrt(0.82))
    expected = {
        "ce": hard,
        "mse": mse,
        "kl": kl,
        "softce": soft,
        "mse_ce": mse + 0.1 * hard,
        "softce_ce": soft + 0.1 * hard,
        "cosine": 1.0,
        "gift": 1 - refined[0] / math.hypot(*refined),
    }
    measured = {name: loss(student, teacher, labels).item() for name, loss in gift.LOSSES.items()}
    assert measured == pytest.approx(expected, rel=1e-4)


def test_losses_are_scalars_with_gradients_and_average_over_the_batch():
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    labels = torch.tensor([0, 5, 2, 2])
    for name, loss in gift.LOSSES.items():
        value = loss(student, teacher, labels)
        assert value.shape == (), name
        assert torch.autograd.grad(value, student)[0].abs().sum() > 0, name
        twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), labels.repeat(2))
        torch.testing.assert_close(value, twice, msg=name)


# --- the protocol


def test_batches_and_epochs_of_the_release():
    sizes = {1: 10, 10: 10, 11: 50, 100: 50, 500: 50, 501: 100, 20_000: 100, 20_001: 200}
    assert {count: gift.batch_size_for(count) for count in sizes} == sizes
    epochs = {"cifar10": 1000, "tinyimagenet": 1000, "imagenet-1k": 300, "fashion": 300}
    assert {name: gift.epochs_for(name) for name in epochs} == epochs


def test_the_learning_rate_is_that_of_the_release():
    """1000 epochs: torch's MultiStepLR with milestones 666 and 833, stepped after each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [666, 833], gamma=0.2)
    for epoch in range(1000):
        assert gift.learning_rate_factor(epoch, 1000) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_optimizers():
    weights = [torch.zeros(2, requires_grad=True)]
    adamw = gift.OPTIMIZERS["adamw"](weights, gift.learning_rate_for("adamw", "conv3")).defaults
    assert (adamw["lr"], adamw["weight_decay"]) == (1e-3, 1e-4)  # released
    assert gift.learning_rate_for("adamw", "vit_b_16") == 1e-4
    assert gift.learning_rate_for("adamw", "swin_v2_t") == 1e-4
    sgd = gift.OPTIMIZERS["sgd"](weights, gift.learning_rate_for("sgd", "conv3")).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.1, 0.9, 5e-4)
    adam = gift.OPTIMIZERS["adam"](weights, gift.learning_rate_for("adam", "conv3")).defaults
    assert adam["lr"] == 1e-3


def test_a_protocol_is_filled_in_and_what_is_given_stands(fashion):
    distilled = Distilled(fashion.train.images[:100], fashion.train.labels[:100], {"settings": {}})
    assert gift.protocol_for(fashion, distilled, "conv3") == gift.Protocol(
        arch="conv3", loss="gift", optimizer="adamw", lr=1e-3, epochs=300, batch_size=50, view_factor=1
    )
    given = gift.protocol_for(fashion, distilled, "conv3", "kl", "sgd", lr=0.5, epochs=7, view_factor=2)
    assert given == gift.Protocol("conv3", "kl", "sgd", 0.5, 7, 50, 2)


def test_mosaics_are_shown_tile_by_tile_for_rdeds_imagenet_alone(fashion):
    mosaics = Distilled(None, None, {"settings": {"factor": 2}})
    imagenet = fashion._replace(name="imagenet-1k")
    assert gift.view_factor_for(imagenet, "resnet18", mosaics) == 2
    assert gift.view_factor_for(imagenet, "conv4", mosaics) == 1
    assert gift.view_factor_for(fashion, "resnet18", mosaics) == 1


def test_a_mosaic_shows_one_tile_three_times_in_four():
    tiles = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    views = common.resized_crop(tiles.expand(2000, 3, 8, 8), gift.tile_boxes(2000, 8, 2, 0), 8)
    whole = (views == tiles).all((1, 2, 3))
    flat = views.amax((1, 2, 3)) - views.amin((1, 2, 3)) < 1e-5
    assert (whole ^ flat).all()
    assert whole.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert views[flat].amax((1, 2, 3)).round().unique().tolist() == [1, 2, 3, 4]
    assert torch.equal(gift.tile_boxes(2000, 8, 2, 0), gift.tile_boxes(2000, 8, 2, 0))


# --- training


def batches(fashion, count=25, view_factor=1):
    distilled = Distilled(fashion.train.images[:count], fashion.train.labels[:count], {})
    protocol = gift.Protocol("conv3", "gift", "sgd", 0.1, 1, batch_size=10, view_factor=view_factor)
    return gift.augmented_batches(distilled, fashion, protocol, 3, 7)


@pytest.mark.parametrize("view_factor", [1, 2])
def test_views_made_together_are_the_views_made_one_step_at_a_time(fashion, monkeypatch, view_factor):
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 0)
    alone = list(batches(fashion, view_factor=view_factor))
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 20 * 32**2)  # two steps at once, then the partial one
    together = list(batches(fashion, view_factor=view_factor))
    assert [len(images) for images, _, _ in alone] == [10, 10, 5]
    for (images, labels, numbers), (same, same_labels, same_numbers) in zip(alone, together, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
        assert torch.equal(numbers, same_numbers)
        assert same.is_contiguous(memory_format=torch.channels_last)


class ReadsBack(TorchDispatchMode):
    """Fails where a value is read back from the device, which stops a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", gift.LOSSES)
def test_a_step_reads_nothing_back(fashion, loss):
    student, teacher = (common.build_model("conv3", 10, 32, 4) for _ in range(2))
    optimizer = gift.OPTIMIZERS["sgd"](student.parameters(), 0.1)
    with ReadsBack():
        for images, labels, _ in batches(fashion, 20, view_factor=2):
            gift.training_step(student, optimizer, images, gift.soft_labels(teacher, images), labels, loss)
    with pytest.raises(AssertionError), ReadsBack():
        torch.ones(1).item()


def test_bf16_trains_what_fp32_trains(fashion, monkeypatch):
    """Networks in bf16, losses and weights in fp32."""
    teacher = common.build_model("conv3", 10, 32, 8).eval()
    images, labels = common.normalize(fashion.train.images[::50], fashion.colours), fashion.train.labels[::50]
    losses = {}
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr(common, "PRECISION", precision)
        torch.manual_seed(0)
        student = common.build_model("conv3", 10, 32, 8)
        optimizer = gift.OPTIMIZERS["sgd"](student.parameters(), 0.1)
        for _ in range(5):
            teacher_logits = gift.soft_labels(teacher, images)
            loss = gift.training_step(student, optimizer, images, teacher_logits, labels, "gift")
        assert loss.dtype == teacher_logits.dtype == torch.float32
        assert {x.dtype for x in student.parameters()} == {torch.float32}
        losses[precision] = loss.item()
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_student_of_gift(fashion, small_teacher, tmp_path, monkeypatch):
    """The teacher labels the very views that the student sees. Each quarter has a test; the last is the result."""
    data, teacher = fashion._replace(runs=tmp_path), small_teacher[1]
    info = {"name": "some", "ipc": 5, "digest": "of a test"}
    distilled = Distilled(data.train.images[::100], data.train.labels[::100], info)
    seen = []
    step = gift.training_step

    def spy(student, optimizer, images, teacher_logits, labels, loss):
        seen.append((images, teacher_logits, labels))
        return step(student, optimizer, images, teacher_logits, labels, loss)

    monkeypatch.setattr(gift, "training_step", spy)
    students = gift.students(data, teacher, distilled, gift.Protocol("conv3", "gift", "sgd", 0.1, 4, 25, 1))
    student = students.train(5, tmp_path / "progress.pt")
    assert len(seen) == 4 * 2
    for images, teacher_logits, _ in seen:
        assert torch.equal(teacher_logits, teacher.model(images))
    assert torch.cat([labels for *_, labels in seen[:2]]).bincount().tolist() == [5] * 10
    assert {"seed", "top1", "top5", "checks", "seconds"} <= set(student)
    assert student["seed"] == 5
    assert [epoch for epoch, _, _ in student["checks"]] == [1, 2, 3, 4]
    assert student["checks"][-1][1:] == (student["top1"], student["top5"])
