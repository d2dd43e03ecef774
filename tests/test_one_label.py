"""One label for each plain image: its formula and bytes, the views it is used for, the script, what it refuses."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import common
import gift
from experiments import one_label
from synthesize import Distilled


def test_fixed_labels_by_hand():
    """The k largest logits stay, in fp16. A softmax is over them alone, as MR-k renormalises."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    kept = one_label.fixed_labels(logits, 2)
    assert kept.tolist() == [[-math.inf, 3.0, 2.0, -math.inf]]
    expected = torch.tensor([[0.0, math.e, 1.0, 0.0]]) / (math.e + 1)
    torch.testing.assert_close(torch.softmax(kept, 1), expected)
    assert torch.equal(one_label.fixed_labels(logits / 3, 4), (logits / 3).half().float())


@pytest.mark.parametrize(
    "count, num_classes, k, size",
    [
        (100, 10, 10, 100 * 10 * 2),  # all logits: no classes needed
        (100, 10, 3, 100 * 3 * 2 + 300 * 4 // 8),
        (7, 200, 1, 7 * 2 + 7),
        (3, 5, 1, 3 * 2 + 2),  # 9 bits are 2 bytes
    ],
)
def test_bytes_by_hand(count, num_classes, k, size):
    assert one_label.fixed_label_bytes(count, num_classes, k) == size


@pytest.mark.parametrize("loss", one_label.LOSSES_OF_A_SOFTMAX)
def test_losses_of_fewer_logits_are_finite(loss):
    """Where the target is 0 the student is pushed down, by a finite gradient."""
    student = torch.randn(5, 10, requires_grad=True)
    teacher = one_label.fixed_labels(torch.randn(5, 10), 3)
    value = gift.LOSSES[loss](student, teacher, torch.arange(5))
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_every_view_has_the_label_of_its_plain_image(fashion, small_teacher, tmp_path, monkeypatch):
    data, teacher = fashion._replace(runs=tmp_path), small_teacher[1]
    info = {"name": "some", "ipc": 5, "digest": "of a test"}
    distilled = Distilled(data.train.images[::100], data.train.labels[::100], info)
    seen = []
    step = gift.training_step

    def spy(student, optimizer, images, given, labels, loss):
        seen.append((labels, given))
        return step(student, optimizer, images, given, labels, loss)

    monkeypatch.setattr(gift, "training_step", spy)
    protocol = gift.protocol_for(data, distilled, "conv3", "softce", epochs=2, view_factor=1)
    one_label.students(data, teacher, distilled, protocol, 10).train(0, tmp_path / "progress.pt")
    logits = teacher.model(common.normalize(distilled.images, data.colours))
    rows = {tuple(row.tolist()): label for row, label in zip(logits.half().float(), distilled.labels, strict=True)}
    assert seen
    for labels, given in seen:
        assert [rows[tuple(row.tolist())] for row in given] == labels.tolist()


def test_logits_beyond_fp16_are_refused(fashion):
    model = common.build_model("conv3", 10, 32, 8).eval().requires_grad_(False)
    model.classifier.weight.mul_(1e9)
    with pytest.raises(common.UserError, match="not finite"):
        one_label.label_plain_images(model, fashion.train.images[:2], fashion.colours, 3)


TINY = ("--width", 8, "--teacher-epochs", 2, "--ipc", 2, "--epochs", 1)


def test_the_script(in_process, small_teacher):
    out, _ = small_teacher
    shown = {}
    for options in ((), ("--logits", 3), ("--logits", 3, "--loss", "kl")):
        status, shown[options], complaint = in_process(one_label, *TINY, "--out", out, *options)
        assert status == 0, complaint
    lines = [text.splitlines()[-1].split(maxsplit=5)[-1] for text in shown.values()]
    assert lines == ["400 bytes, 10 of 10 logits", "150 bytes, 3 of 10 logits", "150 bytes, 3 of 10 logits"]
    results = [common.load(file) for file in sorted(out.glob("fashion/one-label-random-ipc2-*/result.json"))]
    found = {(result["settings"]["loss"], result["settings"]["logits"], result["label_bytes"]) for result in results}
    assert found == {("softce", 10, 400), ("softce", 3, 150), ("kl", 3, 150)}
    status, again, _ = in_process(one_label, *TINY, "--out", out)
    assert "1 student, 1 kept from an earlier run" in again


@pytest.mark.slow
def test_the_script_as_a_user_runs_it(small_teacher):
    command = [sys.executable, "-m", "experiments.one_label", *map(str, TINY), "--logits", "5"]
    root = Path(one_label.__file__).parent.parent
    done = subprocess.run([*command, "--out", small_teacher[0]], capture_output=True, text=True, timeout=280, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("250 bytes, 5 of 10 logits")


@pytest.mark.parametrize(
    "options, complaint",
    [
        ("--logits 11", "--logits 11: fashion has 10 classes"),
        ("--logits 3 --loss gift", "--logits 3: gift needs all logits; softce, kl, softce_ce do with fewer"),
        ("--logits 9 --loss mse", "--logits 9: mse needs all logits"),
        ("--loss ce", "invalid choice: 'ce'"),
    ],
)
def test_refusals(in_process, tmp_path, options, complaint):
    status, shown, said = in_process(one_label, *options.split(), "--out", tmp_path)
    assert status == 2
    assert complaint in said
    assert said.startswith("error: ") and said.count("\n") == 1
