"""Every script as a user runs it, at a tiny size: what it prints, writes and returns, and what it finds again."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import leftovers, only, shades, write_numbered
from PIL import Image

import common
import evaluate
import gift
import lpqld
import synthesize
from experiments import one_label

TINY = ("--width", 8, "--teacher-epochs", 2, "--device", "cpu")


@pytest.fixture
def returned(monkeypatch, capsys):
    """Call a script's main() with options: (what it returns, as JSON would hold it; stdout; stderr)."""

    def call(module, *options):
        words = [str(option) for option in options]
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
        monkeypatch.setattr(common, "PRECISION", None)  # the script sets it; afterwards it is as it was
        result = module.main(words)
        shown = capsys.readouterr()
        return json.loads(json.dumps(result)), shown.out, shown.err

    return call


@pytest.fixture
def short_recovery(monkeypatch):
    """SRe2L and LPLD with a few iterations."""
    setting = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=5, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "fashion", setting)


def without(content: dict, *names) -> dict:
    return {name: value for name, value in content.items() if name not in names}


def in_order(shown: str, *words) -> bool:
    """Whether each of the words stands behind the one before."""
    place = 0
    for word in words:
        place = shown.find(word, place)
        if place < 0:
            return False
    return True


# --- each script once


def test_gift_from_nothing_to_a_result_and_again(returned, tmp_path):
    words = ("--width", 4, "--teacher-epochs", 1, "--device", "cpu", "--ipc", 2, "--epochs", 40)
    result, shown, log = returned(gift, *words, "--out", tmp_path / "runs")
    folder = only(tmp_path, "runs/fashion/gift-rded-ipc2-conv3-gift-adamw-????????")
    assert result["file"] == str(folder / "result.json") and result["reused"] == 0
    assert (folder / "settings.json").exists()
    kept = common.load(folder / "result.json")
    assert kept == without(result, "file", "reused")

    (student,) = result["students"]
    assert [check[0] for check in student["checks"]] == [10, 20, 30, 40] and student["seed"] == 0
    assert student["checks"][-1][1:] == [student["top1"], student["top5"]]  # the last epoch is the result
    assert result["top1"] == {"mean": student["top1"], "std": 0.0, "values": [student["top1"]]}
    assert result["best_check_top1"]["mean"] == max(check[1] for check in student["checks"]) > 15
    assert result["settings"]["batch_size"] == 50 and result["settings"]["loss"] == "gift"
    assert {"command", "device", "torch", "date"} <= set(student["made_with"])
    assert re.fullmatch(r".+, \d+ threads?", student["made_with"]["device"])
    assert student["made_with"]["command"].startswith("python gift.py --width 4")

    assert in_order(shown, "data:", "5,000 training and 2,000 test images", "teacher:", "kept in", "images:", "rded")
    assert in_order(shown, "student:", "40 epochs of 20 images in batches of 50", "result:", str(folder))
    assert in_order(
        shown, "1 student", "last epoch", f"{student['top1']:.1f}  ", "best of its checks", "teacher", "chance"
    )
    assert f"{result['teacher']['accuracy']:.1f} %" in shown and "±" not in shown
    assert "\r" not in log and len(log.splitlines()) <= 10

    images = only(tmp_path, "runs/fashion/rded-ipc2-????????")
    assert Image.open(images / "00009" / "00001.png").size == (32, 32) and (images / "grid.png").exists()
    assert common.load(images / "set.json")["settings"]["crops"] == 5
    assert leftovers(tmp_path) == []

    # what is finished is found again
    again, shown, _ = returned(gift, *words, "--out", tmp_path / "runs")
    earlier = "kept from an earlier run"
    assert in_order(shown, "teacher:", earlier, "images:", earlier, "1 student, 1 kept from an earlier run")
    assert without(again, "made_with") == {**without(result, "made_with"), "reused": 1}


@pytest.mark.slow
def test_one_label_for_each_image(returned, small_teacher, tmp_path):
    """The bytes of the labels are printed, with all logits and with three."""
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--ipc", 2, "--epochs", 8, "--out", tmp_path)
    result, shown, _ = returned(one_label, *words)
    assert (result["settings"]["loss"], result["settings"]["logits"], result["label_bytes"]) == ("softce", 10, 400)
    assert "400 bytes, 10 of 10 logits" in shown and "/one-label-random-ipc2-conv3-softce-adamw-k10-" in result["file"]
    fewer, shown, _ = returned(one_label, *words, "--logits", 3, "--loss", "kl")
    assert fewer["label_bytes"] == 150 and "150 bytes, 3 of 10 logits" in shown
    views, _, _ = returned(gift, *words, "--images", "random")  # labels for every view are another stage
    assert "label_bytes" not in views and len({views["file"], result["file"], fewer["file"]}) == 3


def test_lpqld(returned, small_teacher, tmp_path, short_recovery):
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--ipc", 2, "--epochs", 60, "--repeats", 2)
    result, shown, log = returned(lpqld, *words, "--out", tmp_path)
    folder = only(tmp_path, "fashion/lpqld-lpld-ipc2-conv3-p0.9-k3-step-ca-????????")
    assert result["file"] == str(folder / "result.json")
    kept = common.load(folder / "result.json")
    assert kept == without(result, "file", "reused")

    pool = Path(result["labels"]["file"])
    assert result["label_bytes"] == pool.stat().st_size and result["full_label_bytes"] == 20 * 60 * 10 * 2
    assert result["times_smaller"] == result["full_label_bytes"] / result["label_bytes"]
    made = result["labels"]["settings"]
    assert (made["batch_size"], made["prune"], made["top_k"]) == (10, 0.9, 3)
    assert "12 label batches of 10" in shown  # 2 batches an epoch, a tenth of 60 epochs
    history = result["students"][0]["teacher_and_student_temperatures"]
    assert len(history) == 60 and history[0] == [20.0, 1.0] and history[5][0] == 14.0
    assert history[-1][0] == 2.0 and history[-1][1] < 1
    similarity = result["images"]["within_class_similarity"]
    assert similarity > 0.2 and f"within a class: {similarity:.3f}" in shown

    assert in_order(shown, "data:", "teacher:", "images:", "within a class", "labels:", "student:", "result:")
    assert in_order(shown, "last epoch", common.spread(result["top1"]), "label storage", "fp16 labels for every epoch")
    assert "\r" not in log and len(log.splitlines()) <= 10
    assert leftovers(tmp_path) == []


def test_synthesize(returned, small_teacher, short_recovery):
    out, teacher = small_teacher
    result, shown, log = returned(synthesize, *TINY, "--out", out, "--method", "sre2l", "--ipc", 3)
    folder = only(out, "fashion/sre2l-ipc3-????????")
    assert in_order(shown, "data:", "teacher:", "earlier", "images:", "sre2l, 3 per class", str(folder), "grid.png")
    check_set(result, folder, "sre2l")
    assert result["teacher"] == teacher.info
    assert "\r" not in log and len(log.splitlines()) <= 5


def check_set(result, folder, method):
    assert result["images"]["folder"] == str(folder) and result["images"]["ipc"] == 3
    assert len(list(folder.glob("*/*.png"))) == 30 and (folder / "grid.png").exists()
    assert not list(folder.glob("*.pt"))
    kept = common.load(folder / "set.json")
    assert kept["settings"] == result["images"]["settings"] and kept["settings"]["method"] == method
    assert kept["images"] == result["images"]["digest"] and kept["made_with"]["torch"] == torch.__version__
    assert kept["class_names"] == common.FASHION


def test_evaluate(returned, small_teacher, tmp_path):
    teacher = small_teacher[1].info["file"]
    write_numbered(tmp_path / "theirs", ipc=1)
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--images", tmp_path / "theirs")
    result, shown, log = returned(evaluate, *words, "--epochs", 1, "--repeats", 1, "--out", tmp_path / "runs")
    folder = only(tmp_path, "runs/fashion/evaluate-????????")
    assert result["file"] == str(folder / "evaluate.json")
    kept = common.load(folder / "evaluate.json")
    assert without(kept, "made_with") == without(result, "made_with", "file")
    assert [(row["images"], row["loss"]) for row in result["rows"]] == [
        (name, loss) for loss in ("gift", "ce") for name in ("random", str(tmp_path / "theirs"))
    ]
    lines = [line for line in shown.splitlines() if "adamw" in line]
    assert len(lines) == 4 and all(common.spread(row["top1"]) in shown for row in result["rows"])
    assert in_order(shown, "IOR", "HLR", "full data with hard labels: conv3", "table:", "evaluate.md")
    assert (folder / "evaluate.md").read_text().count("\n| ") == 5
    assert len(list(folder.glob("grid-*.png"))) == 2
    assert "\r" not in log and len(log.splitlines()) <= 5
    assert leftovers(tmp_path) == []


# --- other ways to run them


@pytest.mark.slow
def test_more_students_join_those_on_disk(returned, small_teacher, tmp_path):
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--images", "random", "--out", tmp_path)
    first, _, _ = returned(gift, *words, "--epochs", 8)
    more, shown, _ = returned(gift, *words, "--epochs", 8, "--repeats", 3)
    assert "3 students, 1 kept from an earlier run" in shown and common.spread(more["top1"]) in shown
    assert more["reused"] == 1 and more["students"][0] == first["students"][0] and more["file"] == first["file"]
    assert [student["seed"] for student in more["students"]] == [0, 1, 2] and len(set(more["top1"]["values"])) == 3
    best = [max(check[1] for check in student["checks"]) for student in more["students"]]
    assert more["best_check_top1"]["values"] == best
    other, _, _ = returned(gift, *words, "--epochs", 2)
    assert other["file"] != first["file"] and common.load(Path(first["file"]))["top1"] == more["top1"]


@pytest.mark.slow
@pytest.mark.parametrize("method", synthesize.METHODS)
def test_synthesize_by_every_method(returned, small_teacher, method, short_recovery, tmp_path):
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--method", method, "--ipc", 3, "--out", tmp_path)
    words += () if method == "random" else ("--teacher", teacher)
    result, shown, _ = returned(synthesize, *words)
    folder = only(tmp_path, f"fashion/{method}-ipc3-????????")
    assert f"{folder}" in shown and ("teacher:" in shown) == (method != "random")
    assert (result["teacher"] is None) == (method == "random")
    check_set(result, folder, method)
    again, shown, _ = returned(synthesize, *words)
    assert "3 per class, kept from an earlier run in" in shown and again == result


@pytest.mark.slow
@pytest.mark.parametrize("loss, optimizer", [("kl", "sgd"), ("ce", "adam"), ("mse_ce", "adamw")])
def test_gift_on_somebody_elses_images(returned, small_teacher, tmp_path, loss, optimizer):
    teacher = small_teacher[1].info["file"]
    write_numbered(tmp_path / "theirs", "new{c:03d}/class{c:03d}_id{i:03d}.jpg", ipc=1)
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--images", tmp_path / "theirs")
    more = ("--loss", loss, "--optimizer", optimizer, "--epochs", 2, "--out", tmp_path / "runs")
    result, shown, _ = returned(gift, *words, *more)
    assert f"/gift-theirs-conv3-{loss}-{optimizer}-" in result["file"]
    assert result["settings"]["ipc"] == 1 and result["settings"]["batch_size"] == 10
    assert f"{loss} loss, {optimizer}" in shown


@pytest.mark.slow
def test_lpqld_from_a_stored_pool_needs_no_teacher(returned, small_teacher, tmp_path):
    out, teacher = small_teacher
    made, _, _ = returned(lpqld, *TINY, "--images", "random", "--ipc", 4, "--epochs", 20, "--out", out)
    stored = ("--images", made["images"]["folder"], "--labels", made["labels"]["file"], "--out", tmp_path)
    again, shown, _ = returned(lpqld, "--width", 8, "--device", "cpu", *stored)
    assert "teacher" not in shown and not list(tmp_path.glob("fashion/teacher*"))
    assert again["top1"] == made["top1"]  # from the very same labels
    # the teacher that made them may stand beside
    words = ("--width", 8, "--device", "cpu", *stored, "--teacher", teacher.info["file"], "--epochs", 3)
    beside, shown, _ = returned(lpqld, *words)
    assert "teacher:" in shown and beside["settings"]["epochs"] == 3


# --- the ablation, other networks, the papers' settings


@pytest.mark.slow
def test_lpqld_ablation(returned, small_teacher, tmp_path):
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--images", "random", "--ipc", 3, "--epochs", 20)
    result, shown, _ = returned(lpqld, *words, "--ablation", "--repeats", 2, "--out", tmp_path)
    assert result["file"] == str(only(tmp_path, "fashion/ablation-random-ipc3-conv3-????????/ablation.json"))
    kept = common.load(Path(result["file"]))
    assert kept == without(result, "file")
    names = ["full labels", "P", "P + Q", "P + Q + DKR", "P + Q + DKR + CA", "P + DKR + CA", "full + DKR + CA"]
    assert list(result["rows"]) == names and in_order(shown, *[f"\n{name} " for name in names])
    rows = result["rows"].values()
    assert all(len(row["top1"]["values"]) == 2 for row in rows)
    assert all(common.spread(row["top1"]) in shown and f"{row['label_bytes']:,}" in shown for row in rows)
    sizes = [row["label_bytes"] for row in rows]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] == sizes[4] and sizes[5:] == [sizes[1], sizes[0]]
    runs = [common.load(Path(row["file"]))["settings"] for row in rows]
    assert [(run["reuse"], run["calibrate"]) for run in runs] == [
        ("none", False), ("none", False), ("none", False), ("step", False), *[("step", True)] * 3
    ]  # fmt: skip


@pytest.mark.slow
def test_synthesize_sre2l_from_a_resnet(in_process, tmp_path, monkeypatch):
    """ConvNets and ResNets both serve; here on a task small enough for a ResNet-18 on a CPU: dark against light."""
    root = shades(tmp_path / "shades")
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=2, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "cifar100", setting)
    monkeypatch.setitem(common.TEACHER_RECIPE, "batch_size", (8, 8))
    words = ("--dataset", root, "--teacher-arch", "resnet18_modified", "--teacher-epochs", 4, "--device", "cpu",
             "--image-size", 8)  # fmt: skip
    status, _, err = in_process(synthesize, *words, "--method", "sre2l", "--ipc", 2, "--out", tmp_path / "runs")
    assert status == 0, err
    assert len(list(tmp_path.glob("runs/shades/sre2l-ipc2-*/*/*.png"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, folder, arch",
    [("tinyimagenet", "tiny-imagenet-200", "resnet18_modified"), ("imagenet-21k", "imagenet-21k", "conv3")],
)
def test_lpqld_at_the_settings_of_the_papers(returned, tmp_path, monkeypatch, name, folder, arch):
    """The presets' optimizer, views and batches; sizes as small as can be."""
    shades(tmp_path / "data" / folder)
    setting = synthesize.Recovery(lr=0.1, r_bn=0.05, iterations=2, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.LPLD, name, setting)
    monkeypatch.setitem(common.TEACHER_RECIPE, "batch_size", (8, 8))
    words = ("--dataset", name, "--data-root", tmp_path / "data", "--image-size", 8, "--teacher-epochs", 4)
    more = ("--arch", arch, "--width", 16, "--ipc", 3, "--epochs", 20, "--prune", 0.9, "--top-k", 1)
    result, shown, _ = returned(lpqld, *words, *more, "--device", "cpu", "--out", tmp_path / "runs")
    assert result["settings"]["optimizer"] == ("sgd" if name == "tinyimagenet" else "adamw")
    made = result["labels"]["settings"]
    assert made["mix"] == ("none" if name == "tinyimagenet" else "cutout")
    assert made["batch_size"] == 6 and "2 label batches of 6" in shown


# --- what stands on stderr, and a process of its own


@pytest.mark.slow
def test_bars_on_a_terminal(in_process, small_teacher, tmp_path, short_recovery, monkeypatch):
    """Each of the longer parts has a bar with its name."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--ipc", 1, "--epochs", 10, "--out", tmp_path)
    status, _, err = in_process(lpqld, *words)
    assert status == 0 and "\r" in err
    for title in ("class statistics: ", "recovering: ", "drawing views: ", "labels: ", "student, seed 0: "):
        assert title in err


def test_a_log_has_whole_lines(in_process, small_teacher, tmp_path, monkeypatch):
    """No terminal: a line now and then, each whole. Here at once, instead of each half minute."""
    bar = common.tqdm

    def hasty(*items, **style):
        assert style["mininterval"] == 30 and style["delay"] == 1  # so a run of minutes writes few lines
        return bar(*items, **{**style, "mininterval": 0, "delay": 0})

    monkeypatch.setattr(common, "tqdm", hasty)
    teacher = small_teacher[1].info["file"]
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher, "--images", "random", "--ipc", 1, "--epochs", 2)
    status, _, err = in_process(gift, *words, "--out", tmp_path)
    assert status == 0 and "\r" not in err
    lines = err.splitlines()
    assert lines and all(line.startswith(("reading images: ", "student, seed 0: ")) for line in lines)
    assert any("loss=" in line and "/2 [" in line for line in lines)


@pytest.mark.slow
def test_scripts_in_a_process_of_their_own(run, tmp_path):
    """From another folder, with no --out: what is made lies in runs/ there."""
    tiny = ("--width", 4, "--teacher-epochs", 1, "--device", "cpu", "--ipc", 1)
    for script, words in (
        ("gift.py", ("--epochs", 4)),
        ("lpqld.py", ("--images", "random", "--epochs", 10)),
    ):
        done = run(script, *tiny, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("data:     fashion") and "\r" not in done.stderr
        assert len(done.stderr.splitlines()) <= 10
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("script", [gift, lpqld, synthesize, evaluate], ids=lambda script: script.__name__)
def test_help(script, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown, err = in_process(script, "--help")
    assert (status, err) == (0, "")
    assert f"python {script.__name__}.py" in shown and "--teacher-epochs" in shown and "--out" in shown
    assert list(tmp_path.iterdir()) == []
