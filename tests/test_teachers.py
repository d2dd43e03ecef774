"""experiments/teachers.py: accuracy, confidence and calibration by hand, and the script."""

import math

import pytest
import torch
from pytest import approx
from torchvision.transforms import RandomResizedCrop

import common
from experiments import teachers


def test_facts_by_hand():
    """Two images of two classes: sure to 75 % and right, sure to 50 % and wrong (the first of equal ones counts)."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    found = teachers.facts(logits, torch.tensor([0, 1]))
    assert found["top1"] == approx(50)
    assert found["confidence"] == approx((75 + 50) / 2)
    assert found["calibration_error"] == approx((25 + 50) / 2)
    assert found["logit_spread"] == approx(math.log(3) / 4)


def test_calibration_error_is_of_bins():
    """In one bin, over- and underconfidence cancel. A teacher that is as sure as it is right has no error."""
    sure = torch.full((4,), 0.75)
    assert teachers.calibration_error(sure, torch.tensor([True, True, True, False])) == approx(0)
    assert teachers.calibration_error(torch.ones(2), torch.tensor([True, False])) == approx(50)


def test_views(fashion):
    images = fashion.test.images[:8]
    plain = common.normalize(images, fashion.colours)
    assert torch.equal(teachers.views_of(fashion, images, "plain", 0, 0), plain)
    for kind in ("enlarged", "dsa", "cutmix"):
        views = teachers.views_of(fashion, images, kind, 0, 0)
        assert views.shape == plain.shape and not torch.equal(views, plain)
        assert torch.equal(views, teachers.views_of(fashion, images, kind, 0, 0))
    larger = torch.zeros_like(plain)
    larger[:, :, 12:20, 12:20] = 1.0
    black = (larger * 255).byte()
    grown = teachers.views_of(fashion._replace(colours=common.COLOURS["none"]), black, "enlarged", 0, 0)
    assert grown[0, 0, 16, 11] > 0.3  # the square is larger than it was


@pytest.mark.slow
def test_a_multiplied_teacher_predicts_the_same(in_process, small_teacher, tmp_path):
    """Its logits are so many times as large; it can be given as --teacher."""
    model = small_teacher[1].model
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(teachers.multiplied(model, 2.0)(images), 2 * model(images), atol=1e-5)
    words = ("--width", 8, "--device", "cpu", "--out", tmp_path)
    own = ("--teacher", small_teacher[1].info["file"])
    assert in_process(teachers, *words, *own)[0] == 0
    assert in_process(teachers, *words, *own, "--times", 0.5)[0] == 0
    (file,) = tmp_path.rglob("times0.5-*/teacher.pt")
    assert in_process(teachers, *words, "--teacher", file)[0] == 0
    once, half = sorted(
        (common.load(f)["views"][0] for f in tmp_path.rglob("facts.json")), key=lambda r: -r["logit_spread"]
    )
    assert half["top1"] == once["top1"] and half["logit_spread"] == approx(once["logit_spread"] / 2)


def test_a_network_without_a_linear_layer_cannot_be_multiplied():
    with pytest.raises(common.UserError, match="--times is for a network that ends in a linear layer"):
        teachers.multiplied(torch.nn.Conv2d(3, 10, 1), 2.0)


@pytest.mark.slow
def test_a_plain_teacher_sees_the_images_as_they_are(in_process, fashion, tmp_path):
    """It is trained once, and can be given as --teacher."""
    views, _ = next(common.teacher_batches(fashion, 8, 0, 0, teachers.no_draws))
    first = fashion.train.images[common.shuffled(len(fashion.train), 0, common.TEACHER, common.ORDER, 0)[:8]]
    assert torch.allclose(views, common.normalize(first, fashion.colours), atol=1e-6)
    words = ("--width", 4, "--device", "cpu", "--out", tmp_path)
    tables = [
        in_process(teachers, *words, "--teacher-epochs", 1, "--views", "plain")[1].split("\n\n")[1] for _ in range(2)
    ]
    (file,) = tmp_path.rglob("plain-teacher-*/teacher.pt")
    assert tables[0] == tables[1] == in_process(teachers, *words, "--teacher", file)[1].split("\n\n")[1]


def test_crops_are_those_of_torchvisions_script():
    """Random resized crops inside the image, as large as torchvision's, and half of them flipped."""
    draws = teachers.crop_draws(2000, 32, 0)
    top, left, height, width, flip = draws.T
    assert draws[:, :2].min() >= 0 and (top + height).max() <= 32 and (left + width).max() <= 32
    common.seed_torch(0)
    image = torch.zeros(3, 32, 32)
    theirs = [RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(2000)]
    _, _, their_height, their_width = torch.tensor(theirs).float().T
    for ours, other in ((height, their_height), (width, their_width), (height * width, their_height * their_width)):
        assert ours.mean().item() == approx(other.mean().item(), rel=0.03)
        assert ours.std().item() == approx(other.std().item(), rel=0.05)
    assert flip.mean().item() == approx(0.5, abs=0.05)


@pytest.mark.slow
def test_the_script(in_process, small_teacher, tmp_path):
    words = ("--width", 8, "--device", "cpu", "--teacher", small_teacher[1].info["file"], "--out", tmp_path)
    status, shown, _ = in_process(teachers, *words)
    assert status == 0
    again = in_process(teachers, *words)[1]
    table = shown.split("\n\n")[1]
    assert again.split("\n\n")[1] == table
    rows = common.load(next(tmp_path.rglob("facts.json")))["views"]
    assert rows[0]["top1"] == approx(small_teacher[1].info["accuracy"])
    assert [(row["split"], row["view"]) for row in rows] == list(teachers.SEEN)
    assert len(table.splitlines()) == 7


@pytest.mark.parametrize(
    "options, words",
    [
        (("--teacher", "/nowhere.pt"), "there is no file"),
        (("--teacher", "/nowhere.pt", "--views", "plain"), "leave out --teacher"),
        (("--loss", "kl"), "help"),
    ],
)
def test_refusals(in_process, tmp_path, options, words):
    status, _, complaint = in_process(teachers, *options, "--out", tmp_path)
    assert status == 2 and words in complaint and complaint.count("\n") == 1
