"""Every script as a user runs it, at a tiny size; what is reused, what goes on after a kill, and what is refused."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_common import image_folder, picture, write_numbered

import benchmark
import common
import gift
import lpqld
import synthesize

TINY = ("--width", 8, "--teacher-epochs", 2, "--device", "cpu")


def test_gift_from_nothing_to_a_result(run, tmp_path):
    done = run("gift.py", *TINY, "--ipc", 5, "--epochs", 40, "--repeats", 2, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in ("data:", "teacher:", "images:", "student:", "last epoch", "best of four checks"):
        assert line in done.stdout
    folder = tmp_path / "runs" / "fashion" / "gift-rded-ipc5-conv3-gift-adamw"
    result = json.loads((folder / "result.json").read_text())
    assert len(result["top1"]["values"]) == 2 and result["top1"]["mean"] > 15
    assert [student["seed"] for student in result["students"]] == [0, 1]
    assert [check[0] for check in result["students"][0]["checks"]] == [10, 20, 30, 40]
    assert result["students"][0]["checks"][-1][1] == result["top1"]["values"][0]  # the last epoch is the result
    assert result["settings"]["batch_size"] == 50 and result["settings"]["loss"] == "gift"
    assert {"command", "device", "torch", "date"} <= set(result["made_with"])
    assert result["made_with"]["command"].startswith("python gift.py --width 8")
    images = tmp_path / "runs" / "fashion" / "rded-ipc5"
    assert Image.open(images / "00009" / "00001.png").size == (32, 32) and (images / "grid.png").exists()
    assert json.loads((images / "settings.json").read_text())["settings"]["crops"] == 5
    leftovers = [path for path in tmp_path.rglob("*") if "progress" in path.name or path.name.startswith(".")]
    assert leftovers == []


def test_gift_reuses_what_is_finished(in_process, small_teacher):
    out, _ = small_teacher
    words = (*TINY, "--out", out, "--images", "random", "--ipc", 2, "--epochs", 2)
    status, first, err = in_process(gift, *words)
    assert status == 0, err
    status, second, _ = in_process(gift, *words, "--repeats", 2)
    assert status == 0
    for line in ("reusing", "teacher.pt", "images:   reusing", "seed0.json"):
        assert line in second
    folder = out / "fashion" / "gift-random-ipc2-conv3-gift-adamw"
    values = common.read_json(folder / "result.json")["top1"]["values"]
    assert len(values) == 2
    # other settings do not touch it
    status, third, _ = in_process(gift, *words[:-1], 3)
    assert status == 0 and common.read_json(folder / "result.json")["top1"]["values"] == values
    assert len(list((out / "fashion").glob("gift-random-ipc2-conv3-gift-adamw*"))) == 2


@pytest.mark.parametrize("loss, optimizer", [("kl", "sgd"), ("ce", "adam"), ("mse_ce", "adamw")])
def test_gift_on_somebody_elses_images(in_process, small_teacher, tmp_path, loss, optimizer):
    out, _ = small_teacher
    write_numbered(tmp_path / "theirs", "new{c:03d}/class{c:03d}_id{i:03d}.jpg", ipc=1)
    words = ("--images", tmp_path / "theirs", "--loss", loss, "--optimizer", optimizer, "--epochs", 2)
    status, shown, err = in_process(gift, *TINY, "--out", out, *words)
    assert status == 0, err
    result = common.read_json(next((out / "fashion").glob(f"gift-theirs-conv3-{loss}-{optimizer}/result.json")))
    assert result["settings"]["ipc"] == 1 and result["settings"]["batch_size"] == 10


@pytest.mark.parametrize("method", synthesize.METHODS)
def test_synthesize(in_process, small_teacher, method, monkeypatch):
    out, _ = small_teacher
    setting = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=5, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "fashion", setting)
    words = (*TINY, "--out", out, "--method", method, "--ipc", 3)
    status, shown, err = in_process(synthesize, *words)
    assert status == 0, err
    folder = out / "fashion" / f"{method}-ipc3"
    assert f"{folder}" in shown and ("teacher:" in shown) == (method != "random")
    assert len(list(folder.glob("*/*.png"))) == 30 and (folder / "grid.png").exists()
    assert not list(folder.glob("*.pt"))
    kept = common.read_json(folder / "settings.json")
    assert kept["settings"]["method"] == method and kept["made_with"]["torch"] == torch.__version__
    assert "reusing" in in_process(synthesize, *words)[1]


def test_synthesize_sre2l_from_a_resnet(in_process, tmp_path, monkeypatch):
    """ConvNets and ResNets both serve; here on a task small enough for a ResNet-18 on a CPU: dark against light."""
    root = shades(tmp_path / "shades")
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=2, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "cifar100", setting)
    monkeypatch.setitem(common.TEACHER_RECIPE, "batch_size", (8, 8))
    words = ("--dataset", root, "--teacher-arch", "resnet18_modified", "--teacher-epochs", 4, "--device", "cpu")
    status, shown, err = in_process(synthesize, *words, "--method", "sre2l", "--ipc", 2, "--out", tmp_path / "runs")
    assert status == 0, err
    assert len(list((tmp_path / "runs" / "shades" / "sre2l-ipc2").glob("*/*.png"))) == 4


def shades(root):
    """A task small enough for a ResNet-18 on a CPU: dark against light."""
    for split in ("train", "val"):
        for c, name in enumerate(("dark", "light")):
            for i in range(40):
                picture(root / split / name / f"{i}.png", 16, shade=40 + 150 * c + i)
    return root


def test_lpqld_from_nothing_to_a_result(run, tmp_path):
    done = run("lpqld.py", *TINY, "--ipc", 2, "--epochs", 60, "--repeats", 2, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = ("data:", "teacher:", "images:", "within a class", "labels:", "student:", "last epoch", "label storage")
    assert all(line in done.stdout for line in lines)
    assert "class statistics" in done.stderr and "recovering" in done.stderr and "student" in done.stderr  # bars
    folder = tmp_path / "runs" / "fashion" / "lpqld-lpld-ipc2-conv3-p0.9-k3-step-ca"
    result = json.loads((folder / "result.json").read_text())
    assert len(result["top1"]["values"]) == 2 and result["top1"]["mean"] > 15
    file = Path(result["labels"]["file"])
    assert result["label_bytes"] == file.stat().st_size and result["full_label_bytes"] == 20 * 60 * 10 * 2
    made = result["labels"]["settings"]
    sizes = (made["batch_size"], made["batches"], made["top_k"])
    assert sizes == (10, 12, 3)  # 2 batches an epoch, a tenth of 60 epochs
    history = result["students"][0]["teacher_and_student_temperatures"]
    assert history[0] == [20.0, 1.0] and history[5][0] == 14.0 and history[-1][0] == 2.0 and history[-1][1] < 1
    assert result["images"]["within_class_similarity"] > 0.3
    names = [path.name for path in tmp_path.rglob("*")]
    assert not [name for name in names if "progress" in name or name.startswith(("groups", "."))]


def test_lpqld_from_a_stored_pool_needs_no_teacher(in_process, small_teacher, tmp_path):
    out, teacher = small_teacher
    words = (*TINY, "--images", "random", "--ipc", 4, "--epochs", 20)
    status, first, err = in_process(lpqld, *words, "--out", out)
    assert status == 0, err
    made = common.read_json(out / "fashion" / "lpqld-random-ipc4-conv3-p0.9-k3-step-ca" / "result.json")
    stored = ("--images", out / "fashion" / "random-ipc4", "--labels", made["labels"]["file"], "--out", tmp_path)
    status, second, err = in_process(lpqld, "--width", 8, "--device", "cpu", *stored)
    assert status == 0, err
    assert "teacher" not in second and not list(tmp_path.glob("fashion/teacher*"))
    again = common.read_json(next(tmp_path.glob("fashion/lpqld-*/result.json")))
    assert again["top1"] == made["top1"]  # from the very same labels
    status, _, err = in_process(lpqld, *TINY, *stored, "--teacher", teacher.info["file"], "--epochs", 3)
    assert status == 0, err  # the teacher that made them may stand beside


def test_lpqld_ablation(in_process, small_teacher):
    out, _ = small_teacher
    words = (*TINY, "--out", out, "--images", "random", "--ipc", 3, "--epochs", 20, "--ablation", "--repeats", 2)
    status, shown, err = in_process(lpqld, *words)
    assert status == 0, err
    kept = common.read_json(out / "fashion" / "ablation-random-ipc3-conv3" / "ablation.json")
    assert list(kept["rows"]) == ["full labels", "P", "P + Q", "P + Q + DKR", "P + Q + DKR + CA", "P + DKR + CA"]
    assert all(line in shown for line in kept["rows"])
    assert all(len(row["top1"]["values"]) == 2 for row in kept["rows"].values())
    sizes = [row["label_bytes"] for row in kept["rows"].values()]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] == sizes[4] and sizes[5] == sizes[1]
    runs = [common.read_json(Path(row["file"]))["settings"] for row in kept["rows"].values()]
    assert [(run["reuse"], run["calibrate"]) for run in runs] == [
        ("none", False), ("none", False), ("none", False), ("step", False), ("step", True), ("step", True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, folder, arch",
    [("tinyimagenet", "tiny-imagenet-200", "resnet18_modified"), ("imagenet-21k", "imagenet-21k", "conv3")],
)
def test_lpqld_at_the_settings_of_the_papers(in_process, tmp_path, monkeypatch, name, folder, arch):
    """The presets' optimizer, views and batches; sizes as small as can be."""
    shades(tmp_path / "data" / folder)
    monkeypatch.setitem(
        synthesize.LPLD, name, synthesize.Recovery(lr=0.1, r_bn=0.05, iterations=2, roll=(0, 4), crop=True)
    )
    monkeypatch.setitem(common.TEACHER_RECIPE, "batch_size", (8, 8))
    words = ("--dataset", name, "--data-root", tmp_path / "data", "--image-size", 16, "--teacher-epochs", 4)
    more = ("--arch", arch, "--width", 16, "--ipc", 3, "--epochs", 20, "--prune", 0.9, "--top-k", 1)
    status, shown, err = in_process(lpqld, *words, *more, "--device", "cpu", "--out", tmp_path / "runs")
    assert status == 0, err
    result = common.read_json(next((tmp_path / "runs" / name).glob("lpqld-*/result.json")))
    assert result["settings"]["optimizer"] == ("sgd" if name == "tinyimagenet" else "adamw")
    assert result["labels"]["settings"]["view"]["mix"] == ("none" if name == "tinyimagenet" else "cutout")
    assert (result["labels"]["settings"]["batch_size"], result["labels"]["settings"]["batches"]) == (6, 2)


def test_lpqld_storage_table_needs_nothing(run, tmp_path):
    done = run("lpqld.py", "--storage", cwd=tmp_path)
    assert done.returncode == 0 and "ImageNet-21K, IPC 20" in done.stdout and "123x" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_benchmark_prints_a_row_for_every_stage(run, tmp_path):
    small = ("--sizes", "tiny-test", "--seconds", 0.01, "--device", "cpu")
    done = run("benchmark.py", *small, "--json", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    kept = common.read_json(tmp_path / "b.json")
    assert [row["row"] for row in kept["results"]] == ["gift", "lpqld", "labels", "recovery", "rded", "teacher"]
    for row in kept["results"]:
        assert row["row"] in done.stdout and row["ratio"] == pytest.approx(row["ours_ms"] / row["limit_ms"])
        assert row["operators"] > row["limit_operators"] > 0
        assert row["peak_bytes"] is None or row["peak_bytes"] >= row["limit_peak_bytes"] > 0
    assert kept["made_with"]["command"].startswith("python benchmark.py") and kept["made_with"]["precision"] == "fp32"


def test_benchmark_compares_with_what_one_would_have(monkeypatch, in_process):
    for name in ("gift at 32 px", "lpqld at 64 px", "recovery at 32 px"):
        found = benchmark.measure_without(name, True, "cpu", None, 0.01)
        assert found["times"] == pytest.approx(found["images_per_second"] / found["without_images_per_second"])
        assert found["loader_alone_images_per_second"] is None or found["loader_alone_images_per_second"] > 0


def test_benchmark_at_the_size_of_imagenet(in_process, monkeypatch):
    monkeypatch.setattr(lpqld, "pool_size", lambda count, size, epochs, prune: (80, 9984))  # 80 batches for 2,340
    small = ("--arch", "conv3", "--width", 2, "--image-size", 8, "--groups", 2, "--iterations", 1, "--device", "cpu")
    status, shown, err = in_process(benchmark, "--imagenet", *small)
    assert status == 0, err
    assert "IPC 200" in shown and "training h" in shown and "label pool, IPC 10, p 0.9, MR-50" in shown


def test_operators_count_what_is_done_and_no_views():
    x = torch.randn(4, 4)
    assert benchmark.operators(lambda: (x + 1).view(16).exp()) == 2


# --- killed and taken up again


class Killed(BaseException):
    pass


def kill_at(monkeypatch, epoch):
    """Keep progress after every epoch and stop right after `epoch`, as a kill between two writes would."""
    save = common.Progress.save

    def save_and_stop(self, done, beside=None):
        save(self, done, beside, every_seconds=0)
        if done == epoch:
            raise Killed

    monkeypatch.setattr(common.Progress, "save", save_and_stop)


def test_killed_stages_end_where_uninterrupted_ones_end(fashion, options, tmp_path, monkeypatch):
    args = options("--width", 8, "--teacher-epochs", 3, "--device", "cpu", "--out", tmp_path / "whole")
    teacher = common.load_teacher(args, fashion)
    args.ipc = 2
    distilled = common.load_distilled(synthesize.distil("random", args, fashion, None), fashion)
    run = {"arch": "conv3", "width": 8, "loss": "gift", "optimizer": "sgd", "lr": 0.1, "epochs": 6, "batch_size": 8}
    run |= {"view_factor": 1, "compile": False}
    student = gift.train_student(distilled, teacher, fashion, run, 0, tmp_path / "a.pt")
    del student["seconds"]
    setting = synthesize.Recovery(lr=0.1, r_bn=0.01, iterations=100, roll=(0, 4), crop=True)
    monkeypatch.setattr(synthesize, "sre2l_settings", lambda data: setting)
    images = common.load_distilled(synthesize.distil("sre2l", args, fashion, teacher), fashion).images

    args.out = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 2)
        common.load_teacher(args, fashion)
    assert not (args.out / "fashion" / "teacher-conv3" / "teacher.pt").exists()
    assert common.load_teacher(args, fashion).info["digest"] == teacher.info["digest"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        gift.train_student(distilled, teacher, fashion, run, 0, tmp_path / "b.pt")
    taken_up = gift.train_student(distilled, teacher, fashion, run, 0, tmp_path / "b.pt")
    assert taken_up.pop("seconds") > 0 and taken_up == student
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 50)
        synthesize.distil("sre2l", args, fashion, teacher)
    assert torch.equal(
        common.load_distilled(synthesize.distil("sre2l", args, fashion, teacher), fashion).images, images
    )


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import common, lpqld, synthesize
where, at = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []
synthesize.SRE2L["fashion"] = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=100, roll=(0, 4), crop=True)
save = common.Progress.save
def save_and_die(self, done, beside=None):
    save(self, done, beside, every_seconds=0)
    if where in str(self.path) and done >= at:
        os.kill(os.getpid(), signal.SIGKILL)
common.Progress.save = save_and_die
common.run_script(lpqld.main)
"""


def test_lpqld_killed_in_each_stage_ends_where_an_uninterrupted_run_ends(small_teacher, tmp_path):
    """kill -9 in squeeze, recovery, labelling and training, one after the other."""
    words = [*TINY, "--teacher", small_teacher[1].info["file"], "--ipc", 2, "--epochs", 20, "--prune", 0.5]

    def run(out, where, at):
        script = KILLED.format(root=str(Path(lpqld.__file__).parent))
        command = [sys.executable, "-c", script, where, at, *words, "--out", tmp_path / out]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)

    for where, at in (("statistics", 10), ("groups", 50), ("labels.progress", 7), ("seed0", 8)):
        done = run("killed", where, at)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert [path for path in (tmp_path / "killed").rglob("*progress*") if where in str(path)]
    for out in ("killed", "whole"):
        done = run(out, "nowhere", 0)
        assert done.returncode == 0, done.stderr
    killed, whole = (
        {p.relative_to(tmp_path / out): p for p in (tmp_path / out).rglob("*.*")} for out in ("killed", "whole")
    )
    assert set(killed) == set(whole)
    pictures = [name for name in whole if name.suffix == ".png"]
    assert len(pictures) == 21 and all(killed[name].read_bytes() == whole[name].read_bytes() for name in pictures)
    first, second = (
        common.read_json(next(path for name, path in files.items() if name.name == "result.json"))
        for files in (killed, whole)
    )
    assert first["labels"]["digest"] == second["labels"]["digest"]
    for student in first["students"] + second["students"]:
        del student["seconds"], student["made_with"]
    assert first["students"] == second["students"]


# --- bad input


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture(scope="module")
def bad(tmp_path_factory, small_teacher):
    """Bad input of every kind, and the small teacher to come as far as needed."""
    root, (out, _) = tmp_path_factory.mktemp("bad"), small_teacher
    teacher = out / "fashion" / "teacher-conv3" / "teacher.pt"
    (root / "truncated.pt").write_bytes(teacher.read_bytes())
    truncated(root / "truncated.pt")
    (root / "empty.pt").write_bytes(b"")
    torch.save({"model": common.build_model("conv3", 100, 32, 8).state_dict()}, root / "classes.pt")
    torch.save({"model": common.build_model("conv3", 10, 64, 8).state_dict()}, root / "side.pt")
    torch.save({"model": common.build_model("conv3", 10, 32, 8).state_dict()}, root / "untrained.pt")
    torch.save([1, 2, 3], root / "list.pt")
    broken = common.build_model("conv3", 10, 32, 8).state_dict()
    torch.save({"model": {name: value * float("nan") for name, value in broken.items()}}, root / "nan.pt")
    write_numbered(root / "nine", "{c:05d}/{i:05d}.png", classes=9)
    write_numbered(root / "eleven", "{c:05d}/{i:05d}.png", classes=11)
    write_numbered(root / "good", "{c:05d}/{i:05d}.png")
    for c in range(10):
        picture(root / "large" / f"{c:05d}" / "0.png", 64)
        picture(root / "named" / f"thing{c}x" / "0.png", 32)
        picture(root / "mixed" / f"{c:05d}" / "0.png", 32 if c else 16)
        picture(root / "corrupt" / f"{c:05d}" / "0.png", 32)
        (root / "hollow" / f"{c:05d}").mkdir(parents=True)
    truncated(root / "corrupt" / "00003" / "0.png")
    torch.save({"data": torch.rand(4, 3, 32, 32), "label": torch.arange(3)}, root / "lengths.pt")
    torch.save({"data": torch.rand(10, 3, 32, 32) * 3, "label": torch.arange(10)}, root / "range.pt")
    for name, label in (
        ("floats", torch.arange(10) + 0.5),
        ("negative", torch.arange(10) - 1),
        ("huge", torch.arange(10) * 10**12),
    ):
        torch.save({"data": torch.rand(10, 3, 32, 32), "label": label}, root / f"{name}.pt")
    torch.save({"data": torch.full((10, 3, 32, 32), float("nan")), "label": torch.arange(10)}, root / "nanpixels.pt")
    torch.save({"data": torch.rand(0, 3, 32, 32), "label": torch.arange(0)}, root / "none.pt")
    write_numbered(root / "twice", "{c:05d}/{i:05d}.png")
    picture(root / "twice" / "3" / "0.png")
    image_folder(root / "annotated", splits=("train", "val"))
    (root / "annotated" / "val" / "val_annotations.txt").write_text("no tabs here\n")
    image_folder(root / "rotten")
    truncated(root / "rotten" / "train" / "dog" / "3.png")
    (root / "flat").mkdir()
    image_folder(root / "uneven", splits=("train",))
    picture(root / "uneven" / "test" / "cat" / "0.png")
    image_folder(root / "single", classes=("cat",))
    image_folder(root / "trainonly", splits=("train",))
    (root / "file").write_text("no folder")
    return root, teacher


BAD = {
    # option words, what the line must say; {b} is the folder of bad things, {t} the small teacher
    "unknown data set": ("--dataset nosuch", "nosuch"),
    "missing directory": ("--dataset {b}/nowhere", "nowhere"),
    "a file as data set": ("--dataset {b}/file", "file"),
    "no train": ("--dataset {b}/flat", "train/"),
    "no test": ("--dataset {b}/trainonly", "val/"),
    "uneven classes": ("--dataset {b}/uneven", "dog"),
    "one class": ("--dataset {b}/single", "two"),
    "imagenet not there": ("--dataset imagenet-1k --data-root {b}", "fashion needs nothing"),
    "tiny not there": ("--dataset tinyimagenet --data-root {b}", "tiny-imagenet-200.zip"),
    "wrong side for a set": ("--image-size 64", "32 px"),
    "ipc 0": ("--ipc 0", "ipc"),
    "ipc negative": ("--ipc -3", "ipc"),
    "ipc words": ("--ipc ten", "ipc"),
    "ipc above what RDED looks at": ("--ipc 301", "300"),
    "ipc above the class": ("--images random --ipc 501", "500"),
    "unknown option": ("--nosuch 3", "nosuch"),
    "unknown loss": ("--loss l7", "l7"),
    "unknown optimizer": ("--optimizer lion", "lion"),
    "epochs 0": ("--epochs 0", "epochs"),
    "repeats 0": ("--repeats 0", "repeats"),
    "negative seed": ("--seed -1", "seed"),
    "a seed too large for numpy": ("--seed 4294967296", "seed"),
    "view factor that does not divide": ("--teacher {t} --images {b}/good --view-factor 500", "view-factor"),
    "width 0": ("--width 0", "width"),
    "lr 0": ("--lr 0", "lr"),
    "no such network": ("--arch conv9", "conv9"),
    "network too deep for the side": ("--arch conv6", "conv6"),
    "no such teacher network": ("--teacher-arch resnet1", "resnet1"),
    "no such device": ("--device warp", "warp"),
    "images nowhere": ("--images {b}/nowhere", "nowhere"),
    "images: a text file": ("--images {b}/file", "file"),
    "images: empty folder": ("--images {b}/flat", "no images"),
    "images: empty class folders": ("--images {b}/hollow", "no images"),
    "images: too few classes": ("--images {b}/nine", "9 classes"),
    "images: too many classes": ("--images {b}/eleven", "11 classes, the last one number 10"),
    "images: wrong side": ("--images {b}/large", "64"),
    "images: several sides": ("--images {b}/mixed", "several sizes"),
    "images: names that say nothing": ("--images {b}/named", "thing0x"),
    "images: a corrupt file": ("--images {b}/corrupt", "00003"),
    "images: another ipc": ("--images {b}/good --ipc 5", "--ipc 5"),
    "images: labels for other images": ("--images {b}/lengths.pt", "label"),
    "images: values outside 0 to 1": ("--images {b}/range.pt", "outside"),
    "images: labels between classes": ("--images {b}/floats.pt", "class index"),
    "images: negative labels": ("--images {b}/negative.pt", "class index"),
    "images: labels beyond memory": ("--images {b}/huge.pt", "9000000000000"),
    "images: pixels that are not numbers": ("--images {b}/nanpixels.pt", "outside"),
    "images: a file of none": ("--images {b}/none.pt", "none.pt"),
    "images: a class numbered twice": ("--images {b}/twice", "same number"),
    "annotations that are no table": ("--dataset {b}/annotated", "val_annotations.txt"),
    "a training image that is damaged": ("--dataset {b}/rotten --ipc 1", "3.png"),
    "more memory than there is": ("--width 4000000", "memory"),
    "teacher nowhere": ("--teacher {b}/nowhere.pt", "nowhere.pt"),
    "teacher truncated": ("--teacher {b}/truncated.pt", "truncated"),
    "teacher empty": ("--teacher {b}/empty.pt", "empty.pt"),
    "teacher: a list": ("--teacher {b}/list.pt", "state dict"),
    "teacher for other classes": ("--teacher {b}/classes.pt", "100"),
    "teacher for another side": ("--teacher {b}/side.pt", "side.pt"),
    "teacher of another network": ("--teacher {t} --teacher-arch conv4", "conv4"),
    "teacher near chance": ("--teacher {b}/untrained.pt", "chance"),
    "teacher not finite": ("--teacher {b}/nan.pt", "chance"),
    "a loss that is not finite": ("--teacher {t} --images {b}/good --loss mse --lr 1e9 --epochs 30", "diverged"),
    "out is a file": ("--teacher {t} --images {b}/good --out {b}/file", "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_status_2(case, bad, in_process, tmp_path):
    root, teacher = bad
    words, expected = BAD[case]
    words = words.format(b=root, t=teacher).split()
    if "--out" not in words:
        words += ["--out", str(tmp_path / "runs")]
    if "--width" not in words:
        words += ["--width", "8"]
    status, out, err = in_process(gift, *words, "--device", *(["cpu"] if "--device" not in words else ["warp"]))
    assert status == 2, (out, err)
    lines = [line for line in err.splitlines() if "\r" not in line and line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in err
    assert err.rstrip().endswith(lines[0])
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "settings.json"]
    assert written == []


def test_a_damaged_result_is_named(in_process, small_teacher):
    out, _ = small_teacher
    words = (*TINY, "--out", out, "--images", "random", "--ipc", 1, "--epochs", 1)
    assert in_process(gift, *words)[0] == 0
    (out / "fashion" / "gift-random-ipc1-conv3-gift-adamw" / "seed0.json").write_text('{"seed"')
    status, _, err = in_process(gift, *words)
    assert status == 2 and "seed0.json is damaged" in err


def test_bad_input_in_a_process_of_its_own(run, tmp_path):
    for script, words in (("gift.py", ["--ipc", "0"]), ("synthesize.py", ["--method", "magic"])):
        done = run(script, *words, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_synthesize_refuses(in_process, tmp_path):
    for words, expected in (
        (["--method", "rded", "--factor", "3"], "factor 3"),
        (["--method", "rded", "--factor", "2", "--ipc", "100"], "75"),
        (["--method", "sre2l", "--teacher-arch", "vgg11"], "vgg11"),
    ):
        status, _, err = in_process(synthesize, *words, "--out", tmp_path / "runs", "--device", "cpu")
        assert status == 2 and expected in err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def pools(tmp_path_factory, small_teacher, fashion, options):
    """A distilled set, its label pool, and others that do not go together."""
    root, teacher = tmp_path_factory.mktemp("pools"), small_teacher[1]
    args = options("--width", 8, "--ipc", 2, "--device", "cpu", "--out", root)
    folder = synthesize.distil("random", args, fashion, None)
    distilled = common.load_distilled(folder, fashion)
    protocol = lpqld.Protocol(batch_size=10, epochs=10, top_k=3)
    lpqld.make_pool(
        distilled, teacher, fashion, lpqld.pool_settings(protocol, fashion, distilled, teacher, 0), root / "labels.pt"
    )
    (root / "short.pt").write_bytes((root / "labels.pt").read_bytes())
    truncated(root / "short.pt")
    kept = torch.load(root / "labels.pt", weights_only=True)
    kept["values"][0, 0] += 1
    torch.save(kept, root / "altered.pt")
    for source in folder.glob("*/*.png"):
        image = Image.open(source)
        if source.parent.name == "00004" and source.name == "00001.png":
            image.putpixel((7, 9), (1, 2, 3))
        copy = root / "pixel" / source.parent.name / source.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        image.save(copy)
    other = common.build_model("conv3", 10, 32, 8)
    other.load_state_dict(teacher.model.state_dict())
    with torch.no_grad():
        other.classifier.bias[0] += 0.001
    torch.save({"model": other.state_dict()}, root / "other-teacher.pt")
    image_folder(root / "other-data")
    write_numbered(root / "other-set", "{c:05d}/{i:05d}.png", classes=2)
    write_numbered(root / "one-each", "{c:05d}/{i:05d}.png", ipc=1)
    return root, folder, teacher.info["file"]


BAD_LPQLD = {
    "top-k above C": ("--top-k 11", "10 classes"),
    "top-k 0": ("--top-k 0", "top-k"),
    "prune 1": ("--prune 1", "prune"),
    "prune below 0": ("--prune -0.1", "prune"),
    "prune not a number": ("--prune nan", "prune"),
    "a pool smaller than one epoch": ("--prune 0.999", "leaves 2 label batches of 20, and one epoch takes 5"),
    "a pool smaller than one epoch, of a given set": ("--images {i} --prune 0.999", "one epoch takes 2"),
    "batches of one": ("--batch-size 1", "batch-size"),
    "batches larger than the set": ("--batch-size 101", "100 images"),
    "a teacher without BatchNorm": ("--teacher-arch vgg11", "vgg11"),
    "an unknown schedule": ("--reuse linear", "linear"),
    "an ablation of nothing": ("--ablation --no-calibration", "--no-calibration"),
    "labels and how to make them": ("--images {i} --labels {p}/labels.pt --prune 0.5", "--prune"),
    "labels and an ablation": ("--images {i} --labels {p}/labels.pt --ablation", "--ablation"),
    "labels nowhere": ("--images {i} --labels {p}/nowhere.pt", "nowhere.pt"),
    "labels truncated": ("--images {i} --labels {p}/short.pt", "truncated"),
    "labels altered": ("--images {i} --labels {p}/altered.pt", "altered"),
    "labels: a teacher": ("--images {i} --labels {t}", "something else"),
    "one pixel changed": ("--images {p}/pixel --labels {p}/labels.pt", "images (hash)"),
    "another teacher": ("--images {i} --labels {p}/labels.pt --teacher {p}/other-teacher.pt", "teacher (hash)"),
    "another data set": (
        "--dataset {p}/other-data --images {p}/other-set --labels {p}/labels.pt --image-size 32", "data set"
    ),
    "labels for images not named": ("--labels {p}/labels.pt", "--images FOLDER"),
    "labels, and nothing pruned": ("--images {i} --labels {p}/labels.pt --prune 0", "--prune"),
    "labels for a set of another size": ("--images {p}/one-each --labels {p}/labels.pt", "number of images"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LPQLD, ids=lambda case: case.replace(" ", "-"))
def test_lpqld_refuses(case, pools, in_process, tmp_path):
    root, images, teacher = pools
    words, expected = BAD_LPQLD[case]
    words = words.format(p=root, i=images, t=teacher).split()
    status, out, err = in_process(lpqld, *words, "--width", 8, "--device", "cpu", "--out", tmp_path / "runs")
    assert status == 2, (out, err)
    lines = [line for line in err.splitlines() if "\r" not in line and line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in err
    assert err.rstrip().endswith(lines[0])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
