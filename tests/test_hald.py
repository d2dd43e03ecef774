"""experiments/hald.py: its schedule and labels by hand, and the script, which resumes."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import leftovers
from pytest import approx

import common
import lpqld
from experiments import hald


def test_phases_by_hand():
    s, h = "soft", "hard"
    assert hald.phases("soft-hard-soft", 150, 150) == [s] * 75 + [h] * 150 + [s] * 75
    assert hald.phases("soft-hard-soft", 5, 2) == [s, s, h, h, s, s, s]
    assert hald.phases("hard-soft", 2, 1) == [h, s, s]
    assert hald.phases("soft-hard", 2, 1) == [s, s, h]
    assert hald.phases("hard-soft-hard", 1, 3) == [h, s, h, h]
    assert hald.phases("soft-hard-soft", 1, 1) == [h, s]


def test_rate_of_the_released_script():
    assert hald.rate_factor(0, 300, 2) == 1
    assert hald.rate_factor(300, 300, 2) == approx(0.5)
    assert hald.rate_factor(150, 300, 1) == approx(0.5)
    assert (hald.training_for(10, order="soft-hard", soft_epochs=1, hard_epochs=1).lr) == 1e-3
    one = hald.training_for(1, order="soft-hard", soft_epochs=1, hard_epochs=1)
    assert (one.lr, one.eta) == (5e-4, 2)


def test_each_order_of_the_pool_is_without_replacement():
    """Three epochs take the pool of three passes once; a phase begins with a new order."""
    plan = hald.phases("soft-hard-soft", 8, 2)
    used = {e: hald.label_batches(plan, e, 12, 4, seed=0) for e in range(10) if plan[e] == "soft"}
    assert sorted(used[0] + used[1] + used[2]) == list(range(12))
    assert len(used[3]) == 4
    assert sorted(used[6] + used[7] + used[8]) == list(range(12))
    assert used[6] != used[0] and used[3] != used[0]


def test_smoothed_mixed_labels_by_hand():
    """Those of CutMix with torch's label smoothing: cross-entropy against them is the mix of both cross-entropies."""
    torch.manual_seed(0)
    logits = torch.randn(3, 5)
    labels, partners = torch.tensor([0, 1, 4]), torch.tensor([1, 1, 0])
    share = torch.tensor([0.75, 0.5, 1.0])
    targets = hald.smoothed_mixed_labels(labels, partners, share, 5, smoothing=0.8)
    assert targets.sum(1).tolist() == approx([1, 1, 1])
    assert targets[0].tolist() == approx([0.16 + 0.15, 0.16 + 0.05, 0.16, 0.16, 0.16])
    mixed = sum(
        w * F.cross_entropy(logits, y, label_smoothing=0.8, reduction="none")
        for w, y in ((share, labels), (1 - share, partners))
    )
    assert torch.allclose(F.cross_entropy(logits, targets, reduction="none"), mixed, atol=1e-6)


def test_targets_of_a_hard_epoch_are_of_the_pixels_that_its_views_show(fashion, monkeypatch):
    """Each image has the colour of its class; no crop. The share of a colour in the view is the label's share."""
    monkeypatch.setattr(hald, "SMOOTHING", 0.0)
    monkeypatch.setattr(hald.smoothed_mixed_labels, "__defaults__", (0.0,))
    draws = lpqld.view_draws
    monkeypatch.setattr(lpqld, "view_draws", lambda *args: draws(*args, scale=(1, 1)))
    labels = torch.arange(10)
    images = (labels * 20).byte().view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    distilled = hald.Distilled(images, labels, {})
    data = fashion._replace(colours=common.COLOURS["none"])
    for views, targets in hald.hard_batches(distilled, data, 5, 0, 3):
        shown = F.one_hot((views[:, 0] * 255 / 20).round().long(), 10).double().mean((1, 2))
        assert torch.allclose(shown, targets.double(), atol=1e-6)
        assert (targets.amax(1) < 1).any()


SMALL = "--width 8 --ipc 2 --soft-epochs 3 --hard-epochs 2 --labels-per-class 4 --images random"


@pytest.mark.slow
def test_the_script_and_how_it_resumes(in_process, small_teacher, tmp_path, monkeypatch):
    words = (*SMALL.split(), "--teacher", small_teacher[1].info["file"])
    monkeypatch.setattr(common, "KEEP_EVERY", 0)
    status, shown, complaint = in_process(hald, *words, "--out", tmp_path / "whole")
    assert status == 0, complaint
    assert "32 in batches of 16, 10 of 10 logits each" in shown

    class Killed(BaseException):
        pass

    step = lpqld.training_step
    steps = []

    def killed(*args):
        steps.append(args)
        if len(steps) == 4:  # in the hard phase
            raise Killed
        return step(*args)

    monkeypatch.setattr(lpqld, "training_step", killed)
    with pytest.raises(Killed):
        in_process(hald, *words, "--out", tmp_path / "killed")
    monkeypatch.setattr(lpqld, "training_step", step)
    assert in_process(hald, *words, "--out", tmp_path / "killed")[0] == 0
    results = [common.load(next(tmp_path.glob(f"{name}/fashion/hald-*/seed0.json"))) for name in ("whole", "killed")]
    assert results[0]["top1"] == results[1]["top1"] and results[0]["top5"] == results[1]["top5"]
    assert math.isfinite(results[0]["top1"]) and leftovers(tmp_path) == []


@pytest.mark.parametrize("option, soft", [((), 1.0), (("--squared",), 400.0)])
def test_squared_multiplies_the_loss_of_the_soft_phases_alone(
    in_process, small_teacher, tmp_path, monkeypatch, option, soft
):
    factors = []  # (temperature, factor) of each step
    step = lpqld.training_step
    monkeypatch.setattr(lpqld, "training_step", lambda *args: factors.append(args[4:]) or step(*args))
    words = (*SMALL.split(), "--teacher", small_teacher[1].info["file"], "--out", tmp_path)
    assert in_process(hald, *words, *option)[0] == 0
    assert factors == [(20.0, soft)] + 2 * [(1.0, 1.0)] + 2 * [(20.0, soft)]  # a step an epoch: 1, 2 and 2 epochs


@pytest.mark.parametrize(
    "options, complaint",
    [
        ("--labels-per-class 3", "--labels-per-class 3: 2 images of a class take a multiple of 2"),
        ("--labels-per-class 4 --top-k 11", "--top-k 11: fashion has 10 classes"),
        ("--order hard", "invalid choice: 'hard'"),
        ("--soft-epochs 1", "--soft-epochs 1: soft-hard-soft has two phases of them"),
    ],
)
def test_refusals(in_process, tmp_path, options, complaint):
    status, _, said = in_process(hald, "--ipc", 2, *options.split(), "--out", tmp_path)
    assert status == 2 and complaint in said
    assert said.startswith("error: ") and said.count("\n") == 1
