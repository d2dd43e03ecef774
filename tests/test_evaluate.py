"""evaluate.py: metrics by hand, its table as a user gets it, foreign formats, stopped sweeps, bad input."""

import json

import pytest
import torch
from test_common import write_numbered
from test_scripts import TINY, Killed, kill_at, shades, truncated

import common
import evaluate
import gift
import lpqld
import synthesize


def test_metrics_by_hand():
    assert evaluate.improvement_over_random(78.5, 82.4) == pytest.approx(-3.9)
    assert evaluate.improvement_over_random(78.5, None) is None
    assert evaluate.hard_label_recovery(88.8, 64.6) == pytest.approx(24.2)  # full data minus distilled


def rows_of(out, dataset="fashion", name="evaluate*"):
    (file,) = (out / dataset).glob(f"{name}/evaluate.json")
    return json.loads(file.read_text()), file.parent


def test_table_from_nothing(run, tmp_path):
    words = (*TINY, "--images", "rded", "lpld", "--ipc", 1, "--epochs", 20, "--repeats", 2, "--losses", "gift", "ce")
    done = run("evaluate.py", *words, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept, folder = rows_of(tmp_path / "runs")
    rows = kept["rows"]
    assert [(row["images"], row["loss"]) for row in rows] == [
        (name, loss) for loss in ("gift", "ce") for name in ("random", "rded", "lpld")
    ]
    random, rded = rows[3], rows[4]
    assert rded["ior"] == pytest.approx(rded["top1"]["mean"] - random["top1"]["mean"]) and random["ior"] is None
    full = kept["full_data_hard_label_top1"]["conv3"]
    assert full == kept["teacher"]["accuracy"] and rded["hlr"] == pytest.approx(full - rded["top1"]["mean"])
    assert rows[1]["hlr"] is None  # soft labels
    files = list((tmp_path / "runs" / "fashion" / "rded-ipc1").glob("0*/*.png"))
    assert rded["image_bytes"] == sum(file.stat().st_size for file in files) and len(files) == 10
    assert rded["label_bytes"] == 0  # a class index is the folder's name
    weights = sum(v.numel() * v.element_size() for v in common.build_model("conv3", 10, 32, 8).state_dict().values())
    assert rows[1]["label_bytes"] == weights  # labels are made while training
    assert rded["share_of_original"] == pytest.approx(rded["image_bytes"] / kept["original_bytes"])
    table = (folder / "evaluate.md").read_text()
    assert table.count("\n| ") == 7 and "python evaluate.py" in table and "| lpld | 1 | conv3 | gift | adamw |" in table
    assert len(list(folder.glob("grid-*.png"))) == 3
    assert "IOR" in done.stdout and "full data with hard labels: conv3" in done.stdout


def test_cells_are_those_of_gift_py(in_process, small_teacher):
    """The same students as `python gift.py`: trained there, read here."""
    out, _ = small_teacher
    words = (*TINY, "--out", out, "--images", "random", "--ipc", 2, "--epochs", 3, "--repeats", 2)
    status, _, err = in_process(gift, *words, "--loss", "kl", "--optimizer", "sgd")
    assert status == 0, err
    status, shown, err = in_process(evaluate, *words, "--losses", "kl", "--optimizers", "sgd")
    assert status == 0, err
    theirs = common.read_json(out / "fashion" / "gift-random-ipc2-conv3-kl-sgd" / "result.json")
    kept, folder = rows_of(out)
    (row,) = kept["rows"]
    assert row["top1"] == theirs["top1"] and "student" not in err  # nothing was trained again
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_another_network_has_a_full_data_run_of_its_own(in_process, small_teacher, tmp_path):
    out, teacher = small_teacher
    shades(tmp_path / "shades")
    words = ("--dataset", tmp_path / "shades", "--width", 8, "--teacher-epochs", 8, "--device", "cpu")
    more = ("--archs", "conv3", "conv4", "--images", "random", "--ipc", 2, "--epochs", 2, "--losses", "ce")
    status, shown, err = in_process(evaluate, *words, *more, "--repeats", 1, "--out", tmp_path / "runs")
    assert status == 0, err
    kept, _ = rows_of(tmp_path / "runs", "shades")
    assert list(kept["full_data_hard_label_top1"]) == ["conv3", "conv4"]
    assert [row["arch"] for row in kept["rows"]] == ["conv3", "conv4"]
    assert (tmp_path / "runs" / "shades" / "teacher-conv4" / "teacher.pt").exists()


def foreign(root, kind):
    """A small set in somebody else's format."""
    if kind == "rded":  # 00000/class00000_id00000.jpg
        write_numbered(root, "{c:05d}/class{c:05d}_id{i:05d}.jpg", ipc=1)
    elif kind == "sre2l":  # new000/class000_id000.jpg
        write_numbered(root, "new{c:03d}/class{c:03d}_id{i:03d}.jpg", ipc=1)
    elif kind == "ours":
        write_numbered(root, "{c:05d}/{i:05d}.png", ipc=1)
    else:  # GIFT's
        root.mkdir()
        data = {"dataset": "fashion", "data": torch.rand(10, 3, 32, 32), "label": torch.arange(10)}
        torch.save(data, root / "data.pt")
    return root


@pytest.mark.parametrize("kind", ["rded", "sre2l", "ours", "gift"])
def test_foreign_formats(in_process, small_teacher, tmp_path, kind):
    root, teacher = foreign(tmp_path / f"{kind}-set", kind), small_teacher[1].info["file"]
    published = tmp_path / "published.pth"  # RDED's and GIFT's checkpoints: the weights under "model"
    torch.save({"model": torch.load(teacher, weights_only=True)["model"], "epoch": 300}, published)
    words = ("--width", 8, "--device", "cpu", "--teacher", published, "--images", root, "--epochs", 2, "--repeats", 1)
    status, shown, err = in_process(evaluate, *words, "--losses", "kl", "--out", tmp_path / "runs")
    assert status == 0, err
    kept, _ = rows_of(tmp_path / "runs")
    random, row = kept["rows"]
    assert (random["images"], row["images"], row["ipc"]) == ("random", str(root), 1) and row["ior"] is not None
    sizes = [file.stat().st_size for file in root.rglob("*.*") if file.is_file()]
    assert row["image_bytes"] == sum(sizes)


def test_a_stored_pool(in_process, small_teacher, tmp_path):
    out, teacher = small_teacher
    words = (*TINY, "--images", "random", "--ipc", 4, "--epochs", 20, "--out", tmp_path / "a")
    status, _, err = in_process(lpqld, *words, "--teacher", teacher.info["file"])
    assert status == 0, err
    images, (labels,) = tmp_path / "a" / "fashion" / "random-ipc4", (tmp_path / "a").glob("fashion/labels-*/labels.pt")
    words = ("--width", 8, "--device", "cpu", "--images", images, "--labels", labels, "--repeats", 1)
    status, shown, err = in_process(evaluate, *words, "--out", tmp_path / "b")
    assert status == 0, err
    assert "teacher" not in shown
    (row,) = rows_of(tmp_path / "b")[0]["rows"]
    made = common.read_json(next((tmp_path / "a").glob("fashion/lpqld-*/result.json")))
    assert row["top1"] == made["top1"] and row["label_bytes"] == labels.stat().st_size
    # with the teacher at hand the random baseline gets labels made in the same way
    write_numbered(tmp_path / "theirs", "{c:05d}/{i:05d}.png", ipc=4)
    words = ("--width", 8, "--device", "cpu", "--images", tmp_path / "theirs", "--teacher", teacher.info["file"])
    status, _, err = in_process(lpqld, *words, "--epochs", 20, "--prune", 0.8, "--out", tmp_path / "c")
    assert status == 0, err
    (labels,) = (tmp_path / "c").glob("fashion/labels-*/labels.pt")
    status, _, err = in_process(evaluate, *words, "--labels", labels, "--repeats", 1, "--out", tmp_path / "c")
    assert status == 0, err
    random, row = rows_of(tmp_path / "c")[0]["rows"]
    assert random["images"] == "random" and row["ior"] == pytest.approx(row["top1"]["mean"] - random["top1"]["mean"])
    assert random["label_bytes"] == pytest.approx(row["label_bytes"], rel=0.02)


def test_a_failed_cell_is_a_marked_cell(in_process, small_teacher, tmp_path, monkeypatch):
    out, teacher = small_teacher
    whole = gift.train_student

    def train(distilled, teacher, data, run, seed, progress):
        if run["loss"] == "mse":
            raise common.UserError("the loss is nan in epoch 10: training diverged")
        if run["loss"] == "softce":
            raise RuntimeError("CUDA out of memory")
        return whole(distilled, teacher, data, run, seed, progress)

    monkeypatch.setattr(gift, "train_student", train)
    words = ("--width", 8, "--device", "cpu", "--teacher", teacher.info["file"], "--images", "random", "--ipc", 1)
    more = ("--epochs", 2, "--repeats", 1, "--losses", "mse", "softce", "kl", "--out", tmp_path)
    status, shown, err = in_process(evaluate, *words, *more)
    assert status == 0 and "2 of 3 cells failed" in err
    kept, folder = rows_of(tmp_path)
    assert ["failed" in row for row in kept["rows"]] == [True, True, False]
    assert "failed: the loss is nan" in shown and "out of memory" in (folder / "evaluate.md").read_text()
    status, _, err = in_process(evaluate, *words, "--epochs", 2, "--losses", "mse", "--out", tmp_path)
    assert status == 2 and "every cell failed" in err.splitlines()[-1]
    monkeypatch.undo()  # a failed cell is tried again the next time
    status, shown, err = in_process(evaluate, *words, *more)
    assert status == 0 and "failed:" not in shown


def test_a_stopped_sweep_goes_on(in_process, small_teacher, tmp_path, monkeypatch):
    teacher = small_teacher[1].info["file"]
    words = ["--width", 8, "--device", "cpu", "--teacher", teacher, "--images", "random", "--ipc", 2, "--epochs", 6]
    words += ["--repeats", 2, "--losses", "kl", "ce"]
    assert in_process(evaluate, *words, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)  # in the first student
        in_process(evaluate, *words, "--out", tmp_path / "killed")
    status, _, err = in_process(evaluate, *words, "--out", tmp_path / "killed")
    assert status == 0, err
    whole, killed = (rows_of(tmp_path / name)[0]["rows"] for name in ("whole", "killed"))
    assert [row["top1"] for row in whole] == [row["top1"] for row in killed]


def test_uneven_sets_have_no_baseline(in_process, small_teacher, tmp_path):
    write_numbered(tmp_path / "uneven", "{c:05d}/{i:05d}.png", ipc=2)
    (tmp_path / "uneven" / "00003" / "00001.png").unlink()
    words = ("--width", 8, "--device", "cpu", "--teacher", small_teacher[1].info["file"], "--losses", "kl")
    status, _, err = in_process(
        evaluate, *words, "--images", tmp_path / "uneven", "--epochs", 2, "--repeats", 1, "--out", tmp_path / "runs"
    )
    assert status == 0, err
    (row,) = rows_of(tmp_path / "runs")[0]["rows"]
    assert row["ior"] is None


# --- bad input, for evaluate.py and synthesize.py; gift.py and lpqld.py in test_scripts.py


@pytest.fixture(scope="module")
def bad(tmp_path_factory, small_teacher):
    root = tmp_path_factory.mktemp("bad-sets")
    write_numbered(root / "good", "{c:05d}/{i:05d}.png", ipc=1)
    write_numbered(root / "nine", "{c:05d}/{i:05d}.png", classes=9, ipc=1)
    write_numbered(root / "corrupt", "{c:05d}/{i:05d}.png", ipc=1)
    truncated(root / "corrupt" / "00003" / "00000.png")
    (root / "empty").mkdir()
    (root / "file").write_text("no folder")
    data = {"data": torch.rand(10, 3, 32, 32), "label": torch.arange(10)}
    torch.save({**data, "dataset": "CIFAR10"}, root / "cifar.pt")
    torch.save({**data, "data": torch.rand(10, 3, 64, 64)}, root / "side.pt")
    torch.save(data, root / "short.pt")
    truncated(root / "short.pt")

    class Evil:
        def __reduce__(self):
            return (open, (str(root / "evil"), "w"))

    torch.save({**data, "dataset": Evil()}, root / "evil.pt")
    (root / "made-for-another").mkdir()
    write_numbered(root / "made-for-another", "{c:05d}/{i:05d}.png", ipc=1)
    settings = {"stage": "images", "method": "random", "data": {"dataset": "cifar10"}}
    common.save_json(root / "made-for-another" / "settings.json", {"settings": settings, "made_with": {}})
    return root, small_teacher[1].info["file"]


BAD = {
    "no images": ("evaluate", "", "--images"),
    "images nowhere": ("evaluate", "--images {b}/nowhere", "nowhere"),
    "images: an empty folder": ("evaluate", "--images {b}/empty", "no images"),
    "images: a text file": ("evaluate", "--images {b}/file", "file"),
    "images: one good, one bad": ("evaluate", "--images {b}/good {b}/nine", "9 classes"),
    "images: a corrupt picture": ("evaluate", "--images {b}/corrupt", "00003"),
    "images: another side": ("evaluate", "--images {b}/side.pt", "64"),
    "images: truncated": ("evaluate", "--images {b}/short.pt", "truncated"),
    "images: a pickle that would run code": ("evaluate", "--images {b}/evil.pt", "would run code"),
    "images: of another data set, says the file": ("evaluate", "--images {b}/cifar.pt", "CIFAR10"),
    "images: made for another data set": ("evaluate", "--images {b}/made-for-another", "cifar10"),
    "no such loss": ("evaluate", "--images {b}/good --losses l7", "l7"),
    "no such optimizer": ("evaluate", "--images {b}/good --optimizers lion", "lion"),
    "no such network": ("evaluate", "--images {b}/good --archs conv3 conv9", "conv9"),
    "a network too deep": ("evaluate", "--images {b}/good --archs conv6", "conv6"),
    "no repeats": ("evaluate", "--images {b}/good --repeats 0", "repeats"),
    "more than a class has": ("evaluate", "--images random --ipc 501", "500"),
    "a teacher nowhere": ("evaluate", "--images {b}/good --teacher {b}/nowhere.pt", "nowhere.pt"),
    "labels of two sets": ("evaluate", "--images {b}/good {b}/nine --labels {t}", "one --images"),
    "labels and losses": ("evaluate", "--images {b}/good --labels {t} --losses kl", "--losses"),
    "labels nowhere": ("evaluate", "--images {b}/good --labels {b}/nowhere.pt", "nowhere.pt"),
    "labels: a teacher": ("evaluate", "--images {b}/good --labels {t}", "something else"),
    "out is a file": ("evaluate", "--images {b}/good --teacher {t} --out {b}/file", "file"),
    "out cannot be made": ("evaluate", "--images {b}/good --teacher {t} --out /proc/runs", "/proc/runs"),
    "synthesize: no such method": ("synthesize", "--method magic", "magic"),
    "synthesize: no such data set": ("synthesize", "--dataset nosuch", "nosuch"),
    "synthesize: ipc 0": ("synthesize", "--ipc 0", "ipc"),
    "synthesize: factor": ("synthesize", "--factor 3", "factor 3"),
    "synthesize: lpld without BatchNorm": ("synthesize", "--method lpld --teacher-arch vgg11", "vgg11"),
    "synthesize: out cannot be made": ("synthesize", "--method random --out /proc/runs", "/proc/runs"),
    "synthesize: a truncated teacher": ("synthesize", "--method lpld --teacher {b}/short.pt", "truncated"),
    "synthesize: a teacher that runs code": ("synthesize", "--method lpld --teacher {b}/evil.pt", "would run code"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-").replace(":", ""))
def test_bad_input_is_one_line_and_status_2(case, bad, in_process, tmp_path):
    root, teacher = bad
    script, words, expected = BAD[case]
    words = words.format(b=root, t=teacher).split()
    words += [] if "--out" in words else ["--out", str(tmp_path / "runs")]
    status, out, err = in_process({"evaluate": evaluate, "synthesize": synthesize}[script], *words, "--width", 8)
    assert status == 2, (out, err)
    lines = [line for line in err.splitlines() if "\r" not in line and line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in err
    assert err.rstrip().endswith(lines[0])
    assert not (root / "evil").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "settings.json"] == []


# --- RDED's own protocol


def test_rded_protocol_of_the_release():
    size, rate, r18 = evaluate.rded_batch_size, evaluate.rded_learning_rate, "resnet18_modified"
    assert [size("cifar10", "conv3", "conv3", ipc, 10) for ipc in (1, 10, 50)] == [10, 50, 100]
    assert size("cifar100", r18, r18, 10, 100) == size("cifar100", r18, "conv3", 10, 100) == 100
    assert size("cifar100", "conv3", "conv3", 10, 100) == 25
    assert size("imagenet-1k", "resnet18", "resnet18", 10, 1000) == 100
    assert {size("tinyimagenet", "conv4", "conv4", ipc, 200) for ipc in (1, 10, 50)} == {100}
    assert rate("cifar100", "conv3", "conv3", "adamw") == 2e-3 and rate("cifar100", r18, "conv3", "adamw") == 1e-3
    assert rate("imagenet-1k", "resnet18", "mobilenet_v2", "adamw") == 2.5e-3
    assert rate("cifar10", "conv3", "conv3", "adamw") == 1e-3 and rate("cifar10", "conv3", "conv3", "sgd") == 0.1
    assert evaluate.rded_learning_rate_factor(0, 300) == 1
    assert evaluate.rded_learning_rate_factor(150, 300) == pytest.approx((1 + 2**-0.5) / 2)
    assert evaluate.rded_learning_rate_factor(300, 300) == pytest.approx(0.5)  # it ends at half


def test_strips_of_mosaics_are_shuffled_by_columns_then_rows():
    tiles = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    images = tiles.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(200, 3, 8, 8)
    corners = {tuple(x.flatten().tolist()) for x in evaluate.shuffle_strips(images, 2, 0)[:, 0, ::4, ::4]}
    assert corners == {(1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 1, 2), (4, 3, 2, 1)}  # not all 24 orders of four tiles
    ramp = torch.arange(8).expand(1, 3, 8, 8)
    moved = [evaluate.shuffle_strips(ramp, 2, seed)[0, 0, 0].tolist() for seed in range(8)]
    assert set(map(tuple, moved)) == {(0, 1, 2, 3, 4, 5, 6, 7), (4, 5, 6, 7, 0, 1, 2, 3)}


def test_rdeds_crop_does_nothing_at_factor_one():
    draws = lpqld.view_draws(500, 32, "cutmix", True, 0, scale=(1, 1))
    assert (draws[:, :4] == torch.tensor([0, 0, 32, 32])).all()
    areas = lpqld.view_draws(500, 32, "cutmix", True, 0, scale=(1 / 2, 1))[:, 2:4].float().prod(1) / 32**2
    assert 0.45 < areas.min() < 0.6 and areas.max() > 0.95


def test_rdeds_test_view_is_the_centre_of_a_larger_picture(fashion):
    class Sees(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            return torch.zeros(len(x), 10)

    model, split = Sees(), common.Split([0], torch.device("cpu"), pixels=fashion.test.images[:1])
    common.accuracy(model, split, fashion.colours, enlarge=36)
    whole = common.normalize(split.images, fashion.colours)
    larger = torch.nn.functional.interpolate(whole, size=36, mode="bilinear", antialias=True)
    torch.testing.assert_close(model.seen, larger[:, :, 2:34, 2:34])


def test_rded_protocol_from_the_command_line(in_process, small_teacher):
    out, _ = small_teacher
    words = (*TINY, "--out", out, "--images", "rded", "--ipc", 2, "--epochs", 30, "--repeats", 2, "--protocol", "rded")
    status, shown, err = in_process(evaluate, *words)
    assert status == 0, err
    kept = next(k for k in (common.read_json(f) for f in (out / "fashion").glob("evaluate*/evaluate.json"))
                if k["settings"]["protocol"] == "rded")  # fmt: skip
    assert [(row["images"], row["loss"], row["optimizer"]) for row in kept["rows"]] == [
        ("random", "kl", "adamw"), ("rded", "kl", "adamw"),
    ]  # fmt: skip
    result = common.read_json(kept["rows"][1]["result"])
    settings = result["settings"]
    assert (settings["lr"], settings["weight_decay"], settings["batch_size"]) == (1e-3, 0.01, 10)
    student = result["students"][0]
    assert [epoch for epoch, _, _ in student["checks"]] == [30]  # every tenth epoch of the last fifth
    assert result["top1"]["values"][0] == student["checks"][-1][1] and "best" in shown
    status, _, err = in_process(evaluate, *words, "--optimizers", "adam")
    assert status == 2 and "adamw, sgd" in err


def test_a_killed_student_of_rdeds_protocol_ends_as_an_uninterrupted_one(fashion, small_teacher, tmp_path, monkeypatch):
    _, teacher = small_teacher
    distilled = common.Distilled(fashion.train.images[::100], fashion.train.labels[::100], {"ipc": 5})
    run = {"arch": "conv3", "width": 4, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "epochs": 12,
           "batch_size": 20, "factor": 1, "loss": "kl", "enlarge": None, "compile": False}  # fmt: skip
    whole = evaluate.train_rded_student(distilled, teacher, fashion, run, 0, tmp_path / "whole.pt")
    kill_at(monkeypatch, 5)
    with pytest.raises(Killed):
        evaluate.train_rded_student(distilled, teacher, fashion, run, 0, tmp_path / "killed.pt")
    monkeypatch.undo()
    again = evaluate.train_rded_student(distilled, teacher, fashion, run, 0, tmp_path / "killed.pt")
    assert again["checks"] == whole["checks"] and [epoch for epoch, _, _ in again["checks"]] == [12]
