"""evaluate.py: metrics by hand, its table as a user gets it, foreign formats, stopped sweeps, RDED's own protocol."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Killed, kill_at, only, picture, shades, write_numbered

import common
import evaluate
import gift
import lpqld
import synthesize
from synthesize import Distilled

# --- the metrics


def test_metrics_by_hand():
    assert evaluate.improvement_over_random(78.5, 82.4) == pytest.approx(-3.9)
    assert evaluate.improvement_over_random(78.5, None) is None
    assert evaluate.hard_label_recovery(88.8, 64.6) == pytest.approx(24.2)  # full data minus distilled


def test_bytes_of_images_and_weights(tmp_path, small_teacher):
    write_numbered(tmp_path / "folder", ipc=1)
    files = list((tmp_path / "folder").glob("*/*.png"))
    (tmp_path / "folder" / "grid.png").write_bytes(b"not one of the set")
    assert evaluate.image_bytes(tmp_path / "folder") == sum(file.stat().st_size for file in files)
    (tmp_path / "data.pt").write_bytes(b"12345")
    assert evaluate.image_bytes(tmp_path) == evaluate.image_bytes(tmp_path / "data.pt") == 5
    weights = 3 * 8 * 9 + 8 + 2 * (8 * 8 * 9 + 8) + 128 * 10 + 10  # three convolutions and a linear layer
    statistics = 3 * 4 * 8  # BatchNorm: scale, shift, mean, variance
    batches_seen = 3 * 8  # and a whole number of 8 bytes each
    assert evaluate.weight_bytes(small_teacher[1]) == 4 * (weights + statistics) + batches_seen


# --- the table, from students that are not trained


@pytest.fixture
def fake_students(monkeypatch):
    """A student's top-1 is 40 on random images and 50 on others, 10 less with hard labels, and its seed more.

    Returns what goes wrong, by loss.
    """
    failures = {
        "mse": common.UserError("the loss is nan in epoch 10: it has diverged"),
        "softce": RuntimeError("CUDA out of memory"),
    }

    def train(data, label, distilled, protocol, seed, progress):
        top1 = 40.0 if distilled.info["settings"] else 50.0
        top1 += seed - 10 * (protocol.loss == "ce")
        if protocol.loss in failures:
            raise failures[protocol.loss]
        return {"seed": seed, "top1": top1, "top5": 90.0, "checks": [(1, 60.0, 90.0), (2, top1, 90.0)], "seconds": 7.0}

    monkeypatch.setattr(gift, "train_student", train)
    return failures


def table(*words):
    return evaluate.main([str(word) for word in words])


def on_teacher(small_teacher, out, *words):
    """A table of students of the small teacher."""
    teacher = small_teacher[1].info["file"]
    return table("--width", 8, "--device", "cpu", "--teacher", teacher, "--out", out, *words)


def test_a_table(fake_students, small_teacher, tmp_path, capsys):
    theirs = write_numbered(tmp_path / "theirs", ipc=2)
    kept = on_teacher(small_teacher, tmp_path / "runs", "--images", theirs, "--repeats", 3)
    rows = kept["rows"]
    assert [(row["loss"], row["images"], row["ipc"]) for row in rows] == [
        ("gift", "random", "2"),
        ("gift", str(theirs), "2"),
        ("ce", "random", "2"),
        ("ce", str(theirs), "2"),
    ]
    assert [row["top1"]["mean"] for row in rows] == [41.0, 51.0, 31.0, 41.0]
    assert [row["ior"] for row in rows] == [None, 10.0, None, 10.0]
    full = small_teacher[1].info["accuracy"]
    assert kept["full_data_hard_label_top1"] == {"conv3": full}
    assert [row["hlr"] for row in rows] == [None, None, pytest.approx(full - 31), pytest.approx(full - 41)]
    assert rows[1]["best_check_top1"]["mean"] == 60.0
    assert rows[1]["seconds_per_student"] == 7.0
    assert rows[1]["image_bytes"] == evaluate.image_bytes(theirs)
    assert rows[1]["label_bytes"] == evaluate.weight_bytes(small_teacher[1])  # labels are made while training
    assert rows[3]["label_bytes"] == 0  # a class index is the folder's name
    share = (rows[1]["image_bytes"] + rows[1]["label_bytes"]) / kept["original_bytes"]
    assert rows[1]["share_of_original"] == pytest.approx(share)
    assert -1 <= rows[1]["within_class_similarity"] <= 1

    file = Path(kept["file"])
    assert common.load(file)["rows"] == rows
    assert len(list(file.parent.glob("grid-*.png"))) == 2
    text = file.with_name("evaluate.md").read_text()
    assert text.startswith("`python ")
    assert text.count("\n| ") == 5
    assert "| random | 2 | conv3 | gift | adamw | 41.0 ± 0.8 | 90.0 ± 0.0 | 60.0 | - | - |" in text
    shown = capsys.readouterr().out
    assert f"full data with hard labels: conv3 {full:.1f} %" in shown
    assert sum("41.0 ± 0.8" in line for line in shown.splitlines()) == 2


def test_a_failed_row_is_marked_and_tried_again(fake_students, small_teacher, tmp_path, capsys):
    words = ("--images", "random", "--ipc", 1, "--repeats", 1, "--losses", "mse", "softce", "kl")
    kept = on_teacher(small_teacher, tmp_path, *words)
    assert ["failed" in row for row in kept["rows"]] == [True, True, False]
    shown = capsys.readouterr()
    assert "2 of 3 rows failed" in shown.err
    assert "failed: the loss is nan" in shown.out
    assert "out of memory" in Path(kept["file"]).with_name("evaluate.md").read_text()
    with pytest.raises(common.UserError, match=r"every row failed: .*the loss is nan"):
        on_teacher(small_teacher, tmp_path, "--images", "random", "--ipc", 1, "--losses", "mse")
    fake_students.clear()
    kept = on_teacher(small_teacher, tmp_path, *words)
    assert ["failed" in row for row in kept["rows"]] == [False] * 3


@pytest.mark.slow
def test_uneven_sets_have_no_baseline(fake_students, small_teacher, tmp_path):
    uneven = write_numbered(tmp_path / "uneven")
    (uneven / "00003" / "00001.png").unlink()
    even = write_numbered(tmp_path / "even")
    (row,) = on_teacher(small_teacher, tmp_path / "a", "--images", uneven, "--losses", "kl")["rows"]
    assert row["ior"] is None
    rows = on_teacher(small_teacher, tmp_path / "b", "--images", uneven, even, "--losses", "kl")["rows"]
    assert [row["ior"] for row in rows] == [None, None, 10.0]  # random, uneven, even


@pytest.mark.slow
def test_sets_of_two_sizes_have_two_baselines(fake_students, small_teacher, tmp_path):
    one = write_numbered(tmp_path / "one", ipc=1)
    two = write_numbered(tmp_path / "two", ipc=2)
    words = ("--images", one, two, one, "--losses", "kl", "--repeats", 1)
    rows = on_teacher(small_teacher, tmp_path / "runs", *words)["rows"]
    names = [(row["images"], row["ipc"]) for row in rows]
    random = [("random, 1 per class", "1"), ("random, 2 per class", "2")]
    assert names == [*random, (str(one), "1"), (str(two), "2")]  # each set once
    assert [row["ior"] for row in rows] == [None, None, 10.0, 10.0]


# --- the table, from students that are


@pytest.mark.slow
def test_table_from_nothing(in_process, tmp_path, monkeypatch):
    short = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=20, roll=(0, 4), crop=True)
    monkeypatch.setitem(synthesize.SRE2L, "fashion", short)
    words = ("--width", 8, "--teacher-epochs", 2, "--device", "cpu", "--images", "rded", "lpld", "--ipc", 1)
    more = ("--epochs", 2, "--repeats", 1, "--losses", "gift", "ce", "--out", tmp_path / "runs")
    status, shown, err = in_process(evaluate, *words, *more)
    assert status == 0, err
    file = only(tmp_path, "runs/fashion/evaluate-????????/evaluate.json")
    kept = common.load(file)
    rows = kept["rows"]
    assert [(row["loss"], row["images"]) for row in rows] == [
        ("gift", "random"),
        ("gift", "rded"),
        ("gift", "lpld"),
        ("ce", "random"),
        ("ce", "rded"),
        ("ce", "lpld"),
    ]
    random, rded = rows[3:5]
    assert rded["ior"] == pytest.approx(rded["top1"]["mean"] - random["top1"]["mean"])
    full = kept["full_data_hard_label_top1"]["conv3"]
    assert full == kept["teacher"]["accuracy"]
    assert rded["hlr"] == pytest.approx(full - rded["top1"]["mean"])
    files = list(tmp_path.glob("runs/fashion/rded-ipc1-*/0*/*.png"))
    assert len(files) == 10
    assert rded["image_bytes"] == sum(file.stat().st_size for file in files)
    text = file.with_name("evaluate.md").read_text()
    assert text.count("\n| ") == 7
    assert "python evaluate.py" in text
    assert "| lpld | 1 | conv3 | gift | adamw |" in text
    assert len(list(file.parent.glob("grid-*.png"))) == 3
    assert "IOR" in shown
    assert "full data with hard labels: conv3" in shown


@pytest.mark.slow
def test_cells_are_those_of_gift_py(small_teacher, tmp_path, monkeypatch):
    """The same students as `python gift.py`: trained there, read here."""
    words = ["--width", 8, "--device", "cpu", "--teacher", small_teacher[1].info["file"], "--out", tmp_path]
    words += ["--images", "random", "--ipc", 2, "--epochs", 3, "--repeats", 2]
    theirs = gift.main([str(word) for word in [*words, "--loss", "kl", "--optimizer", "sgd"]])
    monkeypatch.setattr(gift, "train_student", lambda *_: pytest.fail("a student is trained again"))
    (row,) = table(*words, "--losses", "kl", "--optimizers", "sgd")["rows"]
    assert row["top1"] == theirs["top1"]
    assert row["result"] == theirs["file"]


@pytest.mark.slow
def test_another_network_has_a_full_data_run_of_its_own(tmp_path):
    shades(tmp_path / "shades")
    words = ("--dataset", tmp_path / "shades", "--width", 8, "--teacher-epochs", 8, "--device", "cpu")
    more = ("--archs", "conv3", "conv4", "--images", "random", "--ipc", 2, "--epochs", 2, "--losses", "ce")
    kept = table(*words, *more, "--repeats", 1, "--out", tmp_path / "runs")
    assert list(kept["full_data_hard_label_top1"]) == ["conv3", "conv4"]
    assert [row["arch"] for row in kept["rows"]] == ["conv3", "conv4"]
    assert only(tmp_path, "runs/shades/teacher-conv4-*/teacher.pt")


def test_hlr_is_of_the_width_of_the_students(fashion, small_teacher, monkeypatch):
    teacher = small_teacher[1]  # of width 8
    monkeypatch.setattr(common, "load_teacher", lambda *_: common.Teacher(None, {"accuracy": 12.5}))
    full = {w: evaluate.full_data_top1(fashion._replace(width=w), teacher, "conv3", None, 0) for w in (8, 16)}
    assert full == {8: teacher.info["accuracy"], 16: 12.5}


def foreign(root, kind):
    """A small set in somebody else's format."""
    if kind == "rded":
        return write_numbered(root, "{c:05d}/class{c:05d}_id{i:05d}.jpg", ipc=1)
    if kind == "sre2l":
        return write_numbered(root, "new{c:03d}/class{c:03d}_id{i:03d}.jpg", ipc=1)
    if kind == "ours":
        return write_numbered(root, "{c:05d}/{i:05d}.png", ipc=1)
    root.mkdir()  # GIFT's
    data = {"dataset": "fashion", "data": torch.rand(10, 3, 32, 32), "label": torch.arange(10)}
    torch.save(data, root / "data.pt")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rded", "sre2l", "ours", "gift"])
def test_foreign_formats(small_teacher, tmp_path, kind):
    root = foreign(tmp_path / f"{kind}-set", kind)
    published = tmp_path / "published.pth"  # RDED's and GIFT's checkpoints: the weights under "model"
    state = torch.load(small_teacher[1].info["file"], weights_only=True)["model"]
    torch.save({"model": state, "epoch": 300}, published)
    words = ("--width", 8, "--device", "cpu", "--teacher", published, "--images", root, "--epochs", 2, "--repeats", 1)
    random, row = table(*words, "--losses", "kl", "--out", tmp_path / "runs")["rows"]
    assert (random["images"], row["images"], row["ipc"]) == ("random", str(root), "1")
    assert row["ior"] == pytest.approx(row["top1"]["mean"] - random["top1"]["mean"])
    assert row["image_bytes"] == sum(file.stat().st_size for file in root.rglob("*.*"))


@pytest.mark.slow
def test_a_stored_pool_needs_no_teacher(small_teacher, tmp_path, capsys):
    words = ["--width", 8, "--device", "cpu", "--teacher", small_teacher[1].info["file"]]
    words += ["--images", "random", "--ipc", 4, "--epochs", 20, "--out", tmp_path / "a"]
    made = lpqld.main([str(word) for word in words])
    images, labels = made["images"]["folder"], Path(made["labels"]["file"])
    capsys.readouterr()
    words = ("--width", 8, "--device", "cpu", "--images", images, "--labels", labels, "--repeats", 1)
    (row,) = table(*words, "--out", tmp_path / "b")["rows"]
    assert "teacher" not in capsys.readouterr().out
    assert row["top1"] == made["top1"]
    assert row["label_bytes"] == labels.stat().st_size


@pytest.mark.slow
def test_with_the_teacher_at_hand_the_baseline_of_a_pool_gets_labels_made_in_the_same_way(small_teacher, tmp_path):
    theirs = write_numbered(tmp_path / "theirs", ipc=4)
    words = ["--width", 8, "--device", "cpu", "--teacher", small_teacher[1].info["file"]]
    words += ["--images", theirs, "--epochs", 20, "--out", tmp_path / "runs"]
    made = lpqld.main([str(word) for word in [*words, "--prune", 0.8]])
    random, row = table(*words, "--labels", made["labels"]["file"], "--repeats", 1)["rows"]
    assert random["images"] == "random"
    assert row["ior"] == pytest.approx(row["top1"]["mean"] - random["top1"]["mean"])
    assert random["label_bytes"] == pytest.approx(row["label_bytes"], rel=0.02)


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(small_teacher, tmp_path, monkeypatch):
    words = ("--images", "random", "--ipc", 2, "--epochs", 4, "--repeats", 2, "--losses", "kl")
    whole = on_teacher(small_teacher, tmp_path / "whole", *words)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 3)  # in the first student
        on_teacher(small_teacher, tmp_path / "killed", *words)
    killed = on_teacher(small_teacher, tmp_path / "killed", *words)
    assert [row["top1"] for row in killed["rows"]] == [row["top1"] for row in whole["rows"]]


# --- RDED's own protocol


def test_rded_protocol_of_the_release():
    size, rate, r18 = evaluate.rded_batch_size, evaluate.rded_learning_rate, "resnet18_modified"
    assert [size("cifar10", "conv3", "conv3", ipc, 10) for ipc in (1, 10, 50)] == [10, 50, 100]
    assert size("cifar100", r18, r18, 10, 100) == 100
    assert size("cifar100", r18, "conv3", 10, 100) == 100
    assert size("cifar100", "conv3", "conv3", 10, 100) == 25
    assert size("imagenet-1k", "resnet18", "resnet18", 10, 1000) == 100
    assert {size("tinyimagenet", "conv4", "conv4", ipc, 200) for ipc in (1, 10, 50)} == {100}
    assert rate("cifar100", "conv3", "conv3", "adamw") == 2e-3
    assert rate("cifar100", r18, "conv3", "adamw") == 1e-3
    assert rate("imagenet-1k", "resnet18", "mobilenet_v2", "adamw") == 2.5e-3
    assert rate("cifar10", "conv3", "conv3", "adamw") == 1e-3
    assert rate("cifar10", "conv3", "conv3", "sgd") == 0.1


def test_rded_learning_rate_ends_at_half():
    assert evaluate.rded_learning_rate_factor(0, 300) == 1
    assert evaluate.rded_learning_rate_factor(150, 300) == pytest.approx((1 + 2**-0.5) / 2)
    assert evaluate.rded_learning_rate_factor(300, 300) == pytest.approx(0.5)


def test_rded_protocol_is_filled_in(fashion, small_teacher):
    distilled = Distilled(fashion.train.images[:20], fashion.train.labels[:20], {"ipc": 2})
    protocol = evaluate.rded_protocol(fashion, small_teacher[1], distilled, "conv3", "kl", "adamw")
    assert protocol == evaluate.RdedProtocol(
        arch="conv3", loss="kl", optimizer="adamw", lr=1e-3, weight_decay=0.01,
        epochs=300, batch_size=10, factor=1, enlarge=None,
    )  # fmt: skip
    tiny = fashion._replace(name="tinyimagenet", image_size=64)
    protocol = evaluate.rded_protocol(tiny, small_teacher[1], distilled, "conv4", "kl", "sgd", 2, 7)
    assert (protocol.weight_decay, protocol.epochs, protocol.factor) == (1e-4, 7, 2)
    assert protocol.batch_size == 20  # 100, or as many as there are
    assert protocol.enlarge == 72


def test_strips_of_mosaics_are_shuffled_by_columns_then_rows():
    tiles = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    images = tiles.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(200, 3, 8, 8)
    corners = {tuple(x.flatten().tolist()) for x in evaluate.shuffle_strips(images, 2, 0)[:, 0, ::4, ::4]}
    assert corners == {(1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 1, 2), (4, 3, 2, 1)}  # not all 24 orders of four tiles
    ramp = torch.arange(8).expand(1, 3, 8, 8)
    moved = {tuple(evaluate.shuffle_strips(ramp, 2, seed)[0, 0, 0].tolist()) for seed in range(8)}
    assert moved == {(0, 1, 2, 3, 4, 5, 6, 7), (4, 5, 6, 7, 0, 1, 2, 3)}


def test_rdeds_crop_does_nothing_at_factor_one():
    draws = lpqld.view_draws(500, 32, "cutmix", True, 0, scale=(1, 1))
    assert (draws[:, :4] == torch.tensor([0, 0, 32, 32])).all()
    areas = lpqld.view_draws(500, 32, "cutmix", True, 0, scale=(1 / 2, 1))[:, 2:4].float().prod(1) / 32**2
    assert 0.45 < areas.min() < 0.6
    assert areas.max() > 0.95


def test_rdeds_test_view_is_the_centre_of_a_larger_picture(fashion):
    class Sees(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            return torch.zeros(len(x), 10)

    model = Sees()
    split = common.Split([0], torch.device("cpu"), pixels=fashion.test.images[:1])
    common.accuracy(model, split, fashion.colours, enlarge=36)
    whole = common.normalize(split.images, fashion.colours)
    larger = F.interpolate(whole, size=36, mode="bilinear", antialias=True)
    torch.testing.assert_close(model.seen, larger[:, :, 2:34, 2:34])


@pytest.mark.parametrize("factor", [1, 2])
def test_rdeds_views_made_together_are_those_made_one_step_at_a_time(fashion, monkeypatch, factor):
    distilled = Distilled(fashion.train.images[:25], fashion.train.labels[:25], {})
    protocol = evaluate.RdedProtocol("conv3", "kl", "sgd", 0.1, 0.0, 1, batch_size=10, factor=factor, enlarge=None)
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 0)
    alone = list(evaluate.rded_batches(distilled, fashion, protocol, 3, 7))
    monkeypatch.setitem(common.VIEW_PIXELS, "cpu", 20 * 32**2)  # two steps at once, then the partial one
    together = list(evaluate.rded_batches(distilled, fashion, protocol, 3, 7))
    assert [len(images) for images, _ in alone] == [10, 10, 5]
    for (images, labels), (same, same_labels) in zip(alone, together, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)


@pytest.mark.slow
def test_rded_protocol_from_the_command_line(small_teacher, tmp_path, capsys):
    words = ("--images", "rded", "--ipc", 2, "--epochs", 30, "--repeats", 1, "--protocol", "rded")
    rows = on_teacher(small_teacher, tmp_path, *words)["rows"]
    assert [(row["images"], row["loss"], row["optimizer"]) for row in rows] == [
        ("random", "kl", "adamw"),
        ("rded", "kl", "adamw"),
    ]
    result = common.load(Path(rows[1]["result"]))
    settings = result["settings"]
    assert (settings["lr"], settings["weight_decay"], settings["batch_size"]) == (1e-3, 0.01, 10)
    checks = result["students"][0]["checks"]
    assert [epoch for epoch, _, _ in checks] == [30]  # every tenth epoch of the last fifth
    assert result["top1"]["values"][0] == checks[-1][1]
    assert "best" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_student_of_rdeds_protocol_ends_as_an_uninterrupted_one(fashion, small_teacher, tmp_path, monkeypatch):
    distilled = Distilled(fashion.train.images[::100], fashion.train.labels[::100], {"ipc": 5})
    protocol = evaluate.RdedProtocol("conv3", "kl", "adamw", 1e-3, 0.01, 12, batch_size=20, factor=1, enlarge=None)

    def train(name):
        return evaluate.train_rded_student(fashion, small_teacher[1], distilled, protocol, 0, tmp_path / name)

    whole = train("whole.pt")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        train("killed.pt")
    again = train("killed.pt")
    assert again["checks"] == whole["checks"]
    assert [epoch for epoch, _, _ in again["checks"]] == [12]


def test_bytes_of_nested_pictures_count(tmp_path):
    nested = picture(tmp_path / "set" / "0" / "deeper" / "1.png")
    picture(tmp_path / "set" / "grid.png")
    assert evaluate.image_bytes(tmp_path / "set") == nested.stat().st_size
