"""The experiments: the lines of the figures, their table and pictures; the benchmark; the storage table."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import common
import gift
import lpqld
import synthesize
from experiments import benchmark, figures, hald, pictures, processes, storage, tables

CPU = torch.device("cpu")
LINES = {line.name: line for line in figures.LINES}
SHOWN = ("whole", "quarters")
FIGURE_1 = (("kl", 41.4), ("softce", 33.4), ("mse_ce", 41.7), ("gift", 44.0))  # GIFT, Tiny, RDED

# --- the lines


def test_lines_have_names_of_their_own():
    assert len(LINES) == len(figures.LINES)


def test_lines_have_the_published_figures():
    published = {name: line.published for name, line in LINES.items() if line.published is not None}
    assert published == {
        "tiny-teacher-resnet18_modified": 61.98,
        "tiny-teacher-conv4": 49.73,
        "cifar10-teacher-resnet18_modified": 93.86,
        "cifar10-teacher-conv3": 82.24,
        "tiny-rded-conv4-ipc10": 39.6,
        "tiny-rded-resnet18_modified-ipc10": 41.9,
        **{f"cifar10-rded-conv3-ipc{ipc}": top1 for ipc, top1 in ((1, 23.5), (10, 50.2), (50, 68.4))},
        "cifar10-rded-resnet18_modified-ipc10": 37.1,
        "tiny-rded-resnet18_modified-ipc50": 58.2,
        "cifar10-rded-resnet18_modified-ipc50": 62.1,
        "cpu-cifar10-teacher-conv3": 82.24,
        "cpu-cifar10-rded-conv3-ipc10": 50.2,
        "cim-teacher": 82.24,
        **{f"cim-rded-{shown}-ipc{ipc}": top1 for shown in SHOWN for ipc, top1 in ((1, 28.9), (10, 56.0), (50, 71.1))},
        **{f"cim-sre2l-whole-ipc{ipc}": top1 for ipc, top1 in ((1, 22.2), (10, 39.6), (50, 57.7))},
        **{f"cim-cifar10-{shown}": 56.0 for shown in SHOWN},
        **{f"cim-rded-teacher{epochs}-ipc10": 56.0 for epochs in (1, 3, 20)},
        **{f"cim-rded-epochs{epochs}-ipc1": 28.9 for epochs in (100, 200, 300)},
        **{f"cim-rded-epochs{epochs}-ipc10": 56.0 for epochs in (100, 200, 300)},
        **{f"cim-sre2l-epochs{epochs}-ipc1": 22.2 for epochs in (100, 200, 300)},
        **{f"cim-sre2l-epochs{epochs}-ipc10": 39.6 for epochs in (100, 200, 300)},
        "cim-rded-epochs300-ipc50": 71.1,
        "cim-sre2l-epochs300-ipc50": 57.7,
        "cpu-tiny-teacher-conv4": 49.73,
        "cpu-tiny-rded-conv4-ipc10": 39.6,
        "tiny-lpld-sre2l-ipc50-p0": 41.1,
        "tiny-lpld-lpld-ipc50-p0.975": 38.4,
        **{f"{line}-{loss}": top1 for line in ("tiny-motivation", "tiny32-motivation") for loss, top1 in FIGURE_1},
        **{
            f"fixed-cifar10-random-teacher{epochs}-ipc{ipc}": top1
            for epochs in (1, 2, 3, 6)
            for ipc, top1 in ((1, 21.1), (10, 46.3), (50, 62.1))
        },
        **{f"cifar10-cim-rded-ipc{ipc}": top1 for ipc, top1 in ((1, 28.9), (10, 56.0))},
        **{f"cifar10-cim-sre2l-ipc{ipc}": top1 for ipc, top1 in ((1, 22.2), (10, 39.6))},
        **{f"cifar100-cim-sre2l-ipc{ipc}": top1 for ipc, top1 in ((1, 12.9), (10, 34.2))},
        **{
            f"{dataset}-one-label-teacher{epochs}-ipc{ipc}": top1
            for dataset, ipc, top1 in (
                ("cifar10", 1, 21.1),
                ("cifar10", 10, 46.3),
                ("cifar100", 1, 16.0),
                ("cifar100", 10, 34.3),
            )
            for epochs in (1, 12)
        },
        "cifar100-teacher-conv3": 61.27,
        "cifar100-teacher-resnet18_modified": 72.27,
        "cifar100-rded-conv3-ipc1": 19.6,
        "cifar100-rded-conv3-ipc10": 48.1,
        "cifar100-epochs12-rded-ipc50": 57.0,
        "cifar100-rded-resnet18_modified-ipc10": 42.6,
        "cifar100-rded-resnet18_modified-ipc50": 62.6,
        **{f"cifar100-cim-conv3-ipc{ipc}": top1 for ipc, top1 in ((1, 21.8), (50, 55.3))},
        "cifar100-loss-mse-rded-ipc10": 47.0,
        "imagenet-rded-ipc10": 42.0,
        "imagenet-rded-ipc50": 56.5,
        **{f"imagenet-lpqld-ipc10-k{k}": top1 for k, top1 in ((100, 29.6), (50, 27.3), (10, 20.0))},
        **{f"imagenet-lpqld-ipc50-k{k}": top1 for k, top1 in ((100, 51.3), (50, 49.6), (10, 43.0))},
        **{f"imagenet-lpqld-ipc200-k{k}": top1 for k, top1 in ((100, 59.9), (50, 58.8), (10, 55.4))},
        "imagenet21k-lpqld-ipc10": 20.9,
        "imagenet21k-lpqld-ipc20": 24.1,
    }


def test_teachers_are_expected_to_reach_what_the_lines_say():
    for name, dataset in (("tiny", "tinyimagenet"), ("cifar10", "cifar10"), ("cifar100", "cifar100")):
        for arch in ("resnet18_modified", "conv4" if name == "tiny" else "conv3"):
            assert LINES[f"{name}-teacher-{arch}"].published == common.PUBLISHED_TEACHERS[dataset, arch]


def test_every_line_is_a_command_line_that_its_script_understands(monkeypatch):
    """Each is parsed by its script, up to where the device is set up; at full length, and as --rehearse runs it."""

    class Parsed(Exception):
        pass

    def stop(*_):
        raise Parsed

    monkeypatch.setattr(common, "set_up_device", stop)
    refused = {}
    for words in ([], ["--rehearse", "--device", "cpu"]):
        args = figures.read_options(words)
        for name, line in LINES.items():
            script, options = figures.command_line(line, args)
            outcome = "the device was never set up"
            try:
                figures.SCRIPTS[script].main(options)
            except (Parsed, common.UserError) as error:
                outcome = error
            if not isinstance(outcome, Parsed):
                refused[name] = str(outcome)
    assert refused == {}


def test_kept_results_count_as_done(tmp_path):
    """A result belongs to the line of its name, whatever the command was when it was run."""
    args = figures.read_options([])
    kept = [file.stem for file in args.results.glob("*.json") if file.stem in LINES]
    assert len(kept) >= 200
    for name in kept:
        found = figures.kept_result(LINES[name], args)
        assert found["name"] == name and found["command"]


def test_each_published_cell_of_cifar_has_its_row():
    """A line with a published number that has no row would be run, and not be shown."""
    published = {name: line.published for name, line in LINES.items() if line.published and name.startswith("cifar")}
    published = {name: top1 for name, top1 in published.items() if "teacher-" not in name and "resnet18" not in name}
    rows = {line: number for *_, number, _, line in tables.CIFAR_CELLS if number}
    assert {name: rows.get(name) for name in published} == published


def test_list_shows_every_line(in_process, tmp_path):
    status, shown, _ = in_process(figures, "--list", "--results", tmp_path)
    assert status == 0 and shown.count("\n") == len(LINES)
    assert "python -m experiments.benchmark --imagenet" in shown and "python evaluate.py --images rded" in shown
    assert "done" not in shown
    status, shown, _ = in_process(figures, "--list", "--only", "precision-*", "cpu-*")
    assert status == 0 and shown.count("done") == shown.count("\n") == 12


# --- running them


class Script:
    """A script that takes ten minutes, and is stopped while `fails`."""

    def __init__(self, monkeypatch):
        self.now, self.fails, self.commands = 0.0, False, []
        monkeypatch.setattr(figures, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(synthesize, "main", self.main)

    def main(self, options):
        self.now += 600
        self.commands.append((sys.argv, options))
        if self.fails:
            raise common.UserError("there is no such data set")
        return {"results": [], "made_with": common.made_with(CPU)}


def test_a_line_keeps_its_result_and_is_not_run_again(in_process, tmp_path, monkeypatch):
    script = Script(monkeypatch)
    words = ("--out", tmp_path / "o", "--results", tmp_path / "r", "--device", "cpu", "--only", "tiny-teacher-conv4")
    status, shown, err = in_process(figures, *words)
    assert status == 0, err
    kept = json.loads((tmp_path / "r" / "tiny-teacher-conv4.json").read_text())
    command = "synthesize.py --method rded --ipc 10 --dataset tinyimagenet --arch conv4"
    assert (kept["name"], kept["command"], kept["published"]) == ("tiny-teacher-conv4", command, 49.73)
    assert kept["minutes"] == 10 and kept["note"].startswith("published checkpoint")
    options = [*command.split()[1:], "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert script.commands == [(["synthesize.py", *options], options)]
    assert kept["result"]["made_with"]["command"] == " ".join(["python synthesize.py", *options])
    assert f"tiny-teacher-conv4: python synthesize.py {' '.join(options)}" in shown
    assert sys.argv[0] == "experiments/figures.py"  # as it was

    status, shown, _ = in_process(figures, *words)
    assert status == 0 and "tiny-teacher-conv4: done, " in shown and len(script.commands) == 1


def test_a_module_is_recorded_as_it_is_called(in_process, tmp_path, monkeypatch):
    ended = {"results": []}
    monkeypatch.setattr(hald, "main", lambda options: {**ended, "made_with": common.made_with(CPU)})
    words = ("--only", "cifar100-hald-released-rate-20", "--out", tmp_path / "o", "--results", tmp_path / "r")
    status, _, err = in_process(figures, *words)
    assert status == 0, err
    kept = json.loads((tmp_path / "r" / "cifar100-hald-released-rate-20.json").read_text())
    assert kept["result"]["made_with"]["command"].startswith("python -m experiments.hald --dataset cifar100 ")


def test_a_rehearsal_needs_no_files_of_others():
    args = SimpleNamespace(out=Path("o"), rehearse=True, device=None)
    _, options = figures.command_line(LINES["cifar10-sets-ipc1"], args)
    assert options[:4] == ["--images", "rded", "rded", "--ipc"]
    assert not any("data/sets" in option for option in options)


@pytest.mark.slow
def test_a_line_that_fails_stops_the_run_with_one_line(in_process, tmp_path, monkeypatch):
    script = Script(monkeypatch)
    script.fails = True
    words = ("--out", tmp_path / "o", "--results", tmp_path / "r", "--device", "cpu", "--only", "*-teacher-conv*")
    status, shown, err = in_process(figures, *words)
    assert status == 2 and len(script.commands) == 1
    assert err == ("error: tiny-teacher-conv4: there is no such data set; the lines after it have not been run\n")
    assert not (tmp_path / "r").exists()
    # taken up again: the minutes of all runs count
    script.fails = False
    status, _, err = in_process(figures, *words)
    assert status == 0, err
    minutes = [json.loads(file.read_text())["minutes"] for file in sorted((tmp_path / "r").glob("*teacher*.json"))]
    assert minutes == [10, 10, 10, 10, 20]
    assert not list(tmp_path.rglob("*.clock.json"))


def test_a_line_without_its_data_stops_the_run(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = in_process(figures, "--device", "cpu", "--only", "tiny-teacher-conv4")
    assert status == 2 and err.count("\n") == 1 and err.startswith("error: tiny-teacher-conv4: data set tinyimagenet")


def test_a_folder_of_another_line_must_be_there_once(in_process, tmp_path, monkeypatch):
    """A * in a command stands for the hash of a folder."""
    script = Script(monkeypatch)
    monkeypatch.setattr(gift, "main", script.main)
    words = ("--out", tmp_path / "o", "--results", tmp_path / "r", "--device", "cpu", "--only", "precision-gift-fp32")
    teacher = tmp_path / "o/precision/fashion/teacher-conv3-12345678/teacher.pt"
    teacher.parent.mkdir(parents=True)
    teacher.touch()
    status, _, err = in_process(figures, *words)
    assert status == 2 and "rded-ipc10-* fits 0 paths and must fit one" in err and err.count("\n") == 1
    (tmp_path / "o/precision/fashion/rded-ipc10-00000000").mkdir()
    status, _, err = in_process(figures, *words)
    assert status == 0, err
    options = script.commands[0][1]
    assert str(teacher) in options and f"{tmp_path}/o/precision/fashion/rded-ipc10-00000000" in options
    (tmp_path / "r" / "precision-gift-fp32.json").unlink()
    (tmp_path / "o/precision/fashion/rded-ipc10-11111111").mkdir()
    status, _, err = in_process(figures, *words)
    assert status == 2 and "fits 2 paths" in err


def test_a_damaged_result_is_named(in_process, tmp_path):
    whole = {"published": 1.0, "command": "", "minutes": 1, "result": {"top1": {}, "made_with": {}}}
    for text in ('{"name": ', "[1]", "{}", json.dumps(whole)):
        (tmp_path / "tiny-teacher-conv4.json").write_text(text)
        status, _, err = in_process(figures, "--results", tmp_path, "--only", "tiny-teacher-conv4")
        assert status == 2 and "tiny-teacher-conv4.json is damaged: delete it" in err and err.count("\n") == 1


def test_unknown_lines_and_empty_tables_are_refused(in_process, tmp_path):
    for words in (("--only", "nothing"), ("--table", "--results", tmp_path), ("--nosuch",)):
        status, _, err = in_process(figures, *words)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.slow
def test_rehearsal_runs_lines_and_makes_table_and_picture(in_process, tmp_path):
    pytest.importorskip("matplotlib", reason="the pictures need it (experiments/requirements.txt)")
    only = (
        "fashion-budget-random-p0.9-k3",
        "fashion-budget-lpld-p0.9-k10",
        "tiny-rded-conv4-ipc10",
        "precision-gift-fp32",
    )
    words = ("--rehearse", "--device", "cpu", "--out", tmp_path, "--only", *only, "precision-images")
    status, shown, err = in_process(figures, *words)
    assert status == 0, err
    kept = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "results").glob("*.json")}
    assert len(kept) == 5
    for name, content in kept.items():
        made = content["result"]["made_with"]
        assert content["minutes"] >= 0 and {"command", "device", "torch", "date"} <= set(made)
        assert made["command"].startswith(f"python {LINES[name].command.split()[0]} ")
        assert content["command"] == LINES[name].command
    assert kept["tiny-rded-conv4-ipc10"]["published"] == 39.6
    assert "teacher_and_student_temperatures" not in kept["fashion-budget-random-p0.9-k3"]["result"]["students"][0]
    assert "| tiny-rded-conv4-ipc10 rded, kl, adamw | 39.6 |" in shown and "`python evaluate.py" in shown
    assert "| precision-images |  |" in shown
    picture = tmp_path / "results" / "fashion-accuracy-over-bytes.png"
    assert f"picture:  {picture}" in shown and Image.open(picture).size == (960, 600)
    # a line that has been run is not run again
    status, again, err = in_process(figures, *words)
    assert status == 0 and again.count(": done, ") == 5 and "data:" not in again


# --- table and picture


def test_the_table_holds_each_row_beside_what_is_published():
    top1 = common.mean_std([41.0, 42.0])
    made = {"device": "a CPU", "torch": "2.10"}
    rows = [
        {"images": "random", "loss": "kl", "optimizer": "sgd", "top1": common.mean_std([30.0])},
        {"images": "rded", "loss": "kl", "optimizer": "sgd", "top1": top1, "best_check_top1": {"mean": 43.21}},
    ]
    about = {"command": "evaluate.py", "published": 40.0, "minutes": 7.4}
    done = {
        "one": {**about, "result": {"top1": top1, "made_with": made}},
        "two": {**about, "result": {"rows": rows, "made_with": made}},
        "speed": {**about, "result": {"results": [], "made_with": made}},
    }
    assert figures.table(done).splitlines()[2:] == [
        "| one | 40.0 | 41.5 ± 0.5 |  | +1.5 | 7 | a CPU, torch 2.10 | `python evaluate.py` |",
        "| two random, kl, sgd |  | 30.0 |  |  | 7 | a CPU, torch 2.10 | `python evaluate.py` |",
        "| two rded, kl, sgd | 40.0 | 41.5 ± 0.5 | 43.2 | +1.5 |  |  |  |",
    ]


def budget_result(size, top1):
    return {"result": {"label_bytes": size, "top1": common.mean_std([top1])}}


def sizes(points):
    """Without the deviations: (bytes, top-1, setting)."""
    return {name: [(size, top1["mean"], setting) for size, top1, setting in some] for name, some in points.items()}


def test_points_go_from_the_smallest_pool_to_the_largest():
    done = {
        "tiny-budget-ipc50-lpld-p0-k5": budget_result(900, 40.0),
        "tiny-budget-ipc50-lpld-p0.9-k5": budget_result(90, 30.0),
        "tiny-budget-ipc50-random-p0-k5": budget_result(900, 50.0),
        "fashion-budget-lpld-p0-k5": budget_result(4500, 60.0),
    }
    points = pictures.accuracy_over_bytes(done, "tiny-budget-ipc50")
    lpld = [(90, 30.0, "p 0.9, k 5"), (900, 40.0, "p 0, k 5")]
    assert sizes(points) == {"LPLD": lpld, "random": [(900, 50.0, "p 0, k 5")]}


def test_one_label_per_image_stands_beside_the_budgets():
    done = {
        "tiny32-budget-lpld-p0-k200": budget_result(900, 40.0),
        "tiny32-fixed-k2": budget_result(9, 20.0),
        "tiny32-fixed-k1": budget_result(5, 10.0),
        "fixed-random-k1-ipc10": budget_result(7, 99.0),
    }
    points = sizes(pictures.accuracy_over_bytes(done, "tiny32-budget"))
    assert points[pictures.ONE_LABEL] == [(5, 10.0, "k 1"), (9, 20.0, "k 2")] and len(points) == 2
    assert pictures.accuracy_over_bytes({"tiny32-fixed-k1": budget_result(5, 10.0)}, "tiny32-budget") == {}


@pytest.mark.slow
def test_every_way_to_store_labels_has_a_place_in_the_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="the pictures need it (experiments/requirements.txt)")
    lines = [name for name in LINES if name.startswith("bytes-")]
    done = {name: budget_result(100 + number, 30.0) for number, name in enumerate(lines)}
    panels = pictures.ways_to_store(done)
    assert sum(len(points) for ways in panels.values() for points in ways.values()) == len(lines)
    assert list(panels) == [(1, "random"), (1, "rded"), (10, "random"), (10, "rded")]
    ways = panels[10, "random"]
    assert ways.keys() == pictures.WAY_STYLES.keys() | {pictures.FULL_LABELS}
    assert [setting for *_, setting in ways["the teacher, KL"]] == ["32 bits", "16 bits", "8 bits", "4 bits"]
    pictures.draw_ways(done, tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (2 * 620, 2 * 520)


def test_the_findings_show_the_rate_that_is_best_on_held_out_images():
    """The test set would choose another one."""
    held_out = {"0.01": 30.0, "0.1": 29.0}
    top1 = {f"cifar10-held-out-gift-{rate}": mean for rate, mean in held_out.items()}
    top1 |= {"cifar10-sgd-gift-0.01": 20.0, "cifar10-sgd-gift-0.1": 25.0, "cifar10-adamw-gift": 31.0}
    done = {name: {"result": {"top1": common.mean_std([mean])}} for name, mean in top1.items()}
    done["cifar10-adamw-kl"] = done["cifar10-adamw-gift"]  # without a rate of SGD it is left out
    ((loss, (rate, scores)),) = pictures.losses_by_optimizer(done).items()
    assert (loss, rate, scores["sgd"]["mean"], scores["adamw"]["mean"]) == ("gift", 0.01, 20.0, 31.0)


@pytest.mark.slow
def test_the_findings_are_drawn_from_the_raw_results(tmp_path):
    pytest.importorskip("matplotlib", reason="the pictures need it (experiments/requirements.txt)")
    done = {name: tables.kept(name) for name in LINES if tables.kept(name)}
    pictures.pictures_of(done, done, tmp_path)["findings"](tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (1100, 420)


@pytest.mark.slow
def test_sets_side_by_side(tmp_path):
    """Drawn when the images of all three sets are there: their set.json has the digest of the result."""
    pytest.importorskip("matplotlib", reason="the pictures need it (experiments/requirements.txt)")
    done = {}
    for number, images in enumerate(pictures.SIDE_BY_SIDE):
        about = {"within_class_similarity": 0.1 * number, "digest": f"0000000{number}"}
        done[f"tiny32-ablation-{images}-set0"] = {"result": {"images": about}}
        assert "tiny32-side-by-side" not in pictures.pictures_of(done, done, tmp_path)
        flat = torch.full((36, 3, 8, 8), 80 * number, dtype=torch.uint8)
        folder = tmp_path / "tiny-imagenet-200" / f"{images}-ipc10-{number:08x}"
        synthesize.save_distilled(folder, flat, torch.arange(36) // 6, Counter())
        common.save(folder / "set.json", {"images": about["digest"]})
    pictures.pictures_of(done, done, tmp_path)["tiny32-side-by-side"](tmp_path / "picture.png")
    columns = np.array_split(np.array(Image.open(tmp_path / "picture.png").convert("L")), 3, axis=1)
    assert [np.median(column) for column in columns] == pytest.approx([0, 80, 160], abs=3)


def test_without_matplotlib_there_is_a_hint_and_no_picture(tmp_path, monkeypatch, capsys):
    done = {"fashion-budget-lpld-p0-k5": budget_result(90, 30.0)}
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert list(pictures.draw_all(done, done, tmp_path, tmp_path)) == [] == list(tmp_path.iterdir())
    assert "experiments/requirements.txt" in capsys.readouterr().err


# --- the documents


def test_the_documents_hold_the_tables_of_the_raw_results():
    """python -m experiments.figures --write would change nothing."""
    for file in tables.DOCUMENTS:
        text = file.read_text()
        assert tables.filled(text) == text, f"{file}: python -m experiments.figures --write"


def test_every_table_stands_in_a_document():
    marked = [name for file in tables.DOCUMENTS for _, name, _ in tables.MARKS.findall(file.read_text())]
    assert len(marked) == len(set(marked)) and set(tables.TABLES) - set(marked) <= {"beside-the-papers"}
    assert tables.beside_the_papers().count("\n| ") <= 1 + 8


def test_write_changes_what_is_between_the_marks(in_process, tmp_path, monkeypatch):
    text = "before\n<!-- table kl-rates -->\nold\n<!-- end -->\nafter\n"
    file = tmp_path / "README.md"
    file.write_text(text)
    monkeypatch.setattr(tables, "DOCUMENTS", [file])
    for expected in ("README.md\n", "nothing to write"):
        status, shown, err = in_process(figures, "--write")
        assert status == 0 and expected in shown, err
    new = file.read_text()
    assert new.startswith("before\n<!-- table kl-rates -->\n| rate of SGD | 0.01 |")
    assert new.endswith("<!-- end -->\nafter\n")
    assert "old" not in new
    file.write_text(text)
    bad = tmp_path / "bad.md"
    bad.write_text(text.replace("kl-rates", "nothing"))
    monkeypatch.setattr(tables, "DOCUMENTS", [file, bad])
    status, _, err = in_process(figures, "--write")
    assert status == 2 and "no table has the name nothing" in err and err.count("\n") == 1
    assert file.read_text() == text, "all documents are written, or none"


def test_tables_of_other_results(tmp_path, monkeypatch):
    """A number of a table is that of its file. A line that has not been run is a dash; another shape is named."""
    made = {
        "command": "python gift.py",
        "device": "x86_64 CPU, 1 thread",
        "torch": "2.15.0",
        "date": "2026-11-22T09:00:00",
    }
    result = {"top1": common.mean_std([71.0, 73.0]), "made_with": made}
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "cross-kl-sgd0.1.json").write_text(json.dumps({"result": {}}))
    tables.kept.cache_clear()
    with pytest.raises(common.UserError, match="table kl-rates cannot be made"):
        tables.filled("<!-- table kl-rates -->\n<!-- end -->")
    (tmp_path / "cross-kl-sgd0.1.json").write_text(json.dumps({"result": result}))
    tables.kept.cache_clear()
    assert "| KL | – | 72.0 ± 1.0 | – | – |" in tables.kl_rates()
    assert tables.kl_rates().endswith("` · Intel Xeon, 1 thread, fp32 · torch 2.15.0 · 22 Nov 2026")
    (tmp_path / "cross-kl-sgd1.json").write_text("{")
    tables.kept.cache_clear()
    with pytest.raises(common.UserError, match=r"cross-kl-sgd1\.json is damaged"):
        tables.kl_rates()
    (tmp_path / "cross-kl-sgd1.json").write_text(json.dumps({"name": "cross-gift-adamw", "result": result}))
    tables.kept.cache_clear()
    with pytest.raises(common.UserError, match=r"cross-kl-sgd1\.json is the result of cross-gift-adamw"):
        tables.kl_rates()
    tables.kept.cache_clear()


# --- the benchmark


@pytest.mark.slow
@pytest.mark.parametrize("row", benchmark.ROWS)
def test_a_row_is_held_against_its_limit(row):
    found = benchmark.measure(row, "tiny-test", "cpu", None, 0.01)
    assert found["row"] == row and found["ratio"] == pytest.approx(found["ours_ms"] / found["limit_ms"])
    assert found["operators"] > found["limit_operators"] > 0
    assert found["peak_bytes"] is None or found["peak_bytes"] >= found["limit_peak_bytes"] > 0
    size = benchmark.CPU_SIZES["tiny-test"]
    expected = {"recovery": size.groups * 10, "rded": size.images * synthesize.RDED_CROPS}
    assert found["images_per_step"] == expected.get(row, size.batch)


@pytest.mark.slow
def test_benchmark_prints_a_row_and_writes_it(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "in_its_own_process", lambda function, *words: function(*words))
    words = ("--sizes", "tiny-test", "--seconds", 0.01, "--device", "cpu", "--only", "recovery")
    status, shown, err = in_process(benchmark, *words, "--json", tmp_path / "new" / "b.json")
    assert status == 0, err
    kept = json.loads((tmp_path / "new" / "b.json").read_text())
    assert [row["row"] for row in kept["results"]] == ["recovery"] and "recovery        tiny-test" in shown
    assert kept["made_with"]["command"].startswith("python -m experiments.benchmark --sizes tiny-test")
    assert kept["made_with"]["precision"] == "fp32"


def test_counting_as_on_a_gpu_leaves_nothing_behind():
    before = common.VIEW_PIXELS, common.fused
    with benchmark.as_on_a_gpu():
        assert common.VIEW_PIXELS["cpu"] == common.VIEW_PIXELS["cuda"] and common.fused(CPU) == {"fused": True}
    assert before == (common.VIEW_PIXELS, common.fused) and common.fused(CPU) == {}


def test_operators_count_what_is_done_and_no_views():
    x = torch.randn(4, 4)
    assert benchmark.operators(lambda: (x + 1).view(16).exp()) == 2


def test_recovery_is_timed_without_what_it_does_once(monkeypatch):
    """Here drawing the noise takes 100 s and an iteration 1 s, by a clock of our own."""
    now = [0.0]

    def recover(teacher, targets, statistics, ids, setting, data, seed, progress):
        now[0] += 100 + setting.iterations

    monkeypatch.setattr(synthesize, "recover", recover)
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    size = benchmark.CPU_SIZES["tiny-test"]._replace(iterations=7)
    ours, _ = benchmark.compare(benchmark.recovery(size, CPU), CPU, 0.01)
    assert ours == 7
    together, one_by_one = benchmark.compare(benchmark.recovery_one_at_a_time(size, CPU, None)[0], CPU, 0.01)
    assert (together, one_by_one) == (7, 7 * size.groups)


def test_the_clock_waits_for_the_device_in_use(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    benchmark.wait(torch.device("cuda:1"))
    benchmark.wait(CPU)
    assert waited == [torch.device("cuda:1")]


def test_a_target_that_cannot_be_written_is_refused_before_measuring(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_rows", lambda args: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o500)
    cases = {tmp_path: "no regular file", tmp_path / "file" / "b.json": "no folder", "/dev/null": "no regular file"}
    for target, expected in cases.items():
        status, _, err = in_process(benchmark, "--json", target, "--device", "cpu")
        assert status == 2 and expected in err and err.startswith("error: --json ") and err.count("\n") == 1
    monkeypatch.setattr(common.os, "access", lambda *_: False)  # root may write anywhere
    status, _, err = in_process(benchmark, "--json", tmp_path / "closed" / "b.json", "--device", "cpu")
    assert status == 2 and "no folder that may be written to" in err


@pytest.mark.slow
@pytest.mark.parametrize("module", ["benchmark", "figures", "storage"])
def test_modules_run_as_a_user_runs_them(module, tmp_path):
    words = {
        "benchmark": ["--help"],
        "figures": ["--list", "--results", str(tmp_path)],
        "storage": [],
    }[module]
    command = [sys.executable, "-m", f"experiments.{module}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    shown = {"benchmark": "--without-us", "figures": "precision-images", "storage": "100×"}[module]
    assert shown in done.stdout and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gift at 32 px", "lpqld at 64 px", "recovery at 32 px"])
def test_benchmark_compares_with_what_one_would_have(name):
    found = benchmark.measure_without(name, True, "cpu", 0.01)
    assert found["times"] == pytest.approx(found["images_per_second"] / found["without_images_per_second"])
    assert (found["loader_alone_images_per_second"] is None) == name.startswith("recovery")


@pytest.mark.slow
def test_benchmark_prints_what_one_would_have(in_process, monkeypatch):
    monkeypatch.setattr(benchmark, "WITHOUT", {"recovery at 32 px": benchmark.WITHOUT["recovery at 32 px"]})
    status, shown, err = in_process(
        benchmark, "--without-us", "--sizes", "tiny-test", "--seconds", 0.01, "--device", "cpu"
    )
    assert status == 0, err
    assert "goal, large GPU" in shown and "recovery at 32 px" in shown


@pytest.mark.slow
def test_benchmark_at_the_size_of_imagenet(in_process, monkeypatch):
    """With 80 label batches for 2,340; a recovery takes 0.3 s and 0.01 s an iteration."""
    monkeypatch.setattr(lpqld, "pool_size", lambda count, size, epochs, prune: 80)
    monkeypatch.setattr(benchmark, "recover", lambda *words: time.sleep(0.3 + 0.01 * words[-1]))
    monkeypatch.setattr(benchmark, "in_its_own_process", lambda function, *words: function(*words))
    small = ("--arch", "conv3", "--width", 2, "--image-size", 8, "--groups", 2, "--iterations", 5, "--device", "cpu")
    status, shown, err = in_process(benchmark, "--imagenet", *small)
    assert status == 0, err
    assert "IPC 200" in shown and "training h" in shown and "label pool, IPC 10, p 0.9, MR-50" in shown
    iteration = float(shown.split("of ten images together: ")[1].split(" ms")[0])
    assert 5 < iteration < 30  # not the 70 ms that a sixth of a recovery takes


def test_hours_and_bytes_of_a_whole_run_are_in_proportion():
    found = {"iteration_s": 0.5, "labels_made_s": 7.2, "epoch_s": 1.2, "label_bytes": 1000}
    size = benchmark.Size("conv3", 16, 1000, 128, 20, 300, 0, 0)
    run = benchmark.whole_run(found, 50, size)
    hours = {"recovery": 0.5 * 4000 * 50 * 5 / 3600, "labels": 7.2 * 5 / 3600, "training": 1.2 * 300 * 5 / 3600}
    assert run["hours"] == pytest.approx(hours)
    assert run["images_bytes"] == 50 * 1000 * 3 * 256 and run["label_bytes"] == 5000
    assert run["full_label_bytes"] == 50 * 1000 * 300 * 1000 * 2


def test_a_network_without_batchnorm_is_refused(monkeypatch):
    monkeypatch.setattr(synthesize, "batchnorms", lambda model: [])
    with pytest.raises(common.UserError, match="conv3 has no BatchNorm layers"):
        benchmark.imagenet("conv3", 8, 2, 2, 1, "cpu", None)


# --- the storage table

STORAGE = {  # (data set, IPC, k): GB of full labels, of 16-bit classes, of packed ones
    ("ImageNet-1K", 10, 100): (5.59, 0.112, 0.091),
    ("ImageNet-1K", 10, 50): (5.59, 0.056, 0.045),
    ("ImageNet-1K", 10, 10): (5.59, 0.011, 0.009),
    ("ImageNet-1K", 50, 100): (27.94, 0.558, 0.453),
    ("ImageNet-1K", 50, 50): (27.94, 0.279, 0.227),
    ("ImageNet-1K", 50, 10): (27.94, 0.056, 0.045),
    ("ImageNet-1K", 200, 100): (111.76, 2.234, 1.815),
    ("ImageNet-1K", 200, 50): (111.76, 1.117, 0.908),
    ("ImageNet-1K", 200, 10): (111.76, 0.223, 0.182),
    ("ImageNet-21K", 10, 200): (610.22, 1.168, 1.095),
    ("ImageNet-21K", 20, 400): (1220.43, 2.336, 2.190),
}


def test_storage_at_the_papers_settings(in_process):
    status, shown, err = in_process(storage)
    assert status == 0, err
    found = {}
    for setting in storage.SETTINGS:
        sizes = storage.sizes_of(setting)
        found[setting.data_set, setting.ipc, setting.top_k] = tuple(size / 2**30 for size in sizes.values())
    assert set(found) == set(STORAGE)
    for setting, expected in STORAGE.items():
        assert found[setting] == pytest.approx(expected, abs=0.006)
        assert [round(size, 3) for size in found[setting][1:]] == list(expected[1:])
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "ImageNet-1K 10 0.9 50 5.59 (5.67) 0.07, 81× 0.056, 100× 0.045, 123×" in lines
    assert "ImageNet-21K 20 0.975 400 1220.43 (1286) 2.70, 476× 2.336, 523× 2.190, 557×" in lines


def test_every_way_to_store_labels_by_hand():
    """CIFAR-100, IPC 10: 1,000 images, 300 epochs of 20 batches of 50, 7 bits a class; a ConvNet-3 of width 128."""
    found = storage.bytes_of_ways("CIFAR-100", 10)
    labels = 1000 * 300
    assert found["full labels"] == labels * 100 * 2
    assert found["P, p = 0.9"] == labels // 10 * 100 * 2
    assert found["P + Q, k = C / 10"] == labels // 10 * 10 * 2 + 7 * labels // 10 * 10 // 8
    assert found["one label an image, k = C / 10"] == 1000 * 10 * 2 + 1000 * 10 * 7 // 8
    convs = 128 * 3 * 9 + 2 * 128 * 128 * 9 + 3 * 128
    weights = convs + 3 * 4 * 128 + 100 * 128 * 16 + 100
    assert found["the teacher, 32 bits a weight"] == 4 * weights
    assert found["the teacher, 16 bits a weight"] == 2 * weights


def test_storage_comes_near_what_is_published():
    """The released files hold boxes besides: 16-bit classes are less than published, by no more than two thirds."""
    for setting in storage.SETTINGS:
        sizes = storage.sizes_of(setting)
        assert sizes["full"] / 2**30 == pytest.approx(setting.published_full, rel=0.06)
        assert setting.published / 3 < sizes["sixteen_bits"] / 2**30 < setting.published


# --- several processes


def test_hours_by_hand():
    """Pieces are dealt out by turns: of five alike two processes get 3 and 2, so that one stands idle for a while."""
    hours, busy = processes.hours_of([3600] * 5, 1.0, 2)
    assert (hours, busy) == (3.0, 2.5)
    assert processes.hours_of([7200], 2.0, 64) == (1.0, 1 / 64)


def test_pieces_at_the_papers_sizes():
    """ImageNet-1K at IPC 50: 50,000 images x 4,000 iterations, and a tenth of 300 epochs of labels."""
    pieces = processes.pieces_of(processes.CASES[1], 2**25)  # 32 MiB an image: ten classes of 50 in 16 GiB
    assert len(pieces["recovery"]) == 100 and sum(pieces["recovery"]) == 50_000 * 4_000
    assert sum(pieces["labels"]) == 11_700 * 128  # batches of 128: 390 an epoch
    assert max(pieces["labels"]) <= lpqld.LABELS_PER_PIECE
    assert pieces["a student"] == [50_000 * 300]


@pytest.mark.slow
def test_hours_are_printed(in_process, tmp_path):
    status, shown, err = in_process(processes, "--hours", "--json", tmp_path / "hours.json")
    assert status == 0, err
    assert "imagenet-21k, IPC 10" in shown and "GPUs: 64" in shown
    kept = json.loads((tmp_path / "hours.json").read_text())
    assert len(kept["rows"]) == 20 and kept["rates"] == processes.RATES


@pytest.mark.slow
def test_stages_are_measured():
    seconds = processes.measured(1, 0.02)
    assert list(seconds) == ["class statistics", "RDED", "recovery", "labels", "four students"]
    assert all(value > 0 for value in seconds.values())


def test_the_fastest_of_the_rounds_counts(in_process, monkeypatch):
    rounds = iter([4.0, 3.0, 5.0, 2.0])  # one process, two, one, two
    monkeypatch.setattr(processes, "measured", lambda count, scale: {"labels": next(rounds)})
    status, shown, err = in_process(processes, "--rounds", 2)
    assert status == 0, err
    assert shown.splitlines()[1].split() == ["labels", "4.0", "2.0", "2.00"]


def test_students_by_the_epochs_of_their_teacher(tmp_path):
    """Lines that have not been run leave out their points."""
    done = {}
    for epochs, protocol, ipc in ((3, "rded", 1), (12, "rded", 1), (12, "gift", 1)):
        rows = [{"images": images, "top1": {"mean": epochs + shift}} for images, shift in (("random", 1), ("rded", 2))]
        found = {"teacher": {"accuracy": 50.0 + epochs}, "rows": rows}
        done[f"cifar100-epochs{epochs}-{protocol}-ipc{ipc}"] = {"result": found}
    series = pictures.students_by_teacher(done, 1)
    assert series[("rded", "rded")] == [(3, 5), (12, 14)]
    assert series[("gift", "random")] == [(12, 13)]
    assert series["teacher"] == [(3, 53.0), (12, 62.0)]
    assert pictures.students_by_teacher(done, 10) == {}
    for longer, top1 in ((300, 30), (1000, 40)):
        done[f"cifar100-slow-teacher12-student{longer}"] = {"result": {"rows": [{"top1": {"mean": top1}}]}}
    done["cifar100-slow-teacher3-student300"] = done["cifar100-slow-teacher12-student300"]
    assert pictures.longer_students(done) == {12: [(300, 30), (1000, 40)]}
    pytest.importorskip("matplotlib", reason="the pictures need it (experiments/requirements.txt)")
    pictures.pictures_of(done, done, tmp_path)["cifar100-teachers"](tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (1100, 440)


def test_a_result_that_is_no_file_or_lacks_something_is_one_line(in_process, tmp_path):
    os.mkfifo(tmp_path / "cim-rded-whole-ipc1.json")
    status, _, said = in_process(figures, "--table", "--only", "cim-rded-whole-ipc1", "--results", tmp_path)
    assert (status, said.count("\n")) == (2, 1) and "is no file" in said
    (tmp_path / "cim-rded-whole-ipc1.json").unlink()
    name = "tiny32-ablation-random-set0"
    made = {"device": "a CPU", "torch": "2", "date": "2026-01-01"}
    kept = {"published": None, "minutes": 1, "command": "", "result": {"rows": {"P": {}}, "made_with": made}}
    (tmp_path / f"{name}.json").write_text(json.dumps(kept))
    status, _, said = in_process(figures, "--table", "--only", name, "--results", tmp_path)
    assert (status, said.count("\n")) == (2, 1) and f"{name}.json is damaged" in said
