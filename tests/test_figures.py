"""figures.py: the lines, their rehearsal, the table and the picture."""

import json

import pytest
from PIL import Image

import common
import evaluate
import figures
import gift
import lpqld
import synthesize

LINES = {figure.name: figure for figure in figures.figures()}


def test_lines_have_names_of_their_own_and_the_published_figures():
    assert len(LINES) == len(figures.figures())
    published = {name: figure.published for name, figure in LINES.items() if figure.published is not None}
    assert published["tiny-rded-conv4-ipc10"] == 39.6 and published["tiny-rded-resnet18_modified-ipc10"] == 41.9
    assert published["cifar10-rded-conv3-ipc10"] == 50.2 and published["cifar10-rded-resnet18_modified-ipc10"] == 37.1
    assert published["tiny-teacher-resnet18_modified"] == 61.98 and published["tiny-teacher-conv4"] == 49.73
    assert published["tiny-lpld-sre2l-ipc50-p0"] == 41.1 and published["tiny-lpld-lpld-ipc50-p0.975"] == 38.4


@pytest.mark.parametrize("name", LINES)
def test_every_line_is_a_command_line_that_its_script_understands(name, in_process, monkeypatch):
    """Each is parsed by its script, up to where the data are read."""
    script, *words = LINES[name].command.split()
    if script == "benchmark.py":
        return  # run in test_scripts.py

    class Parsed(Exception):
        pass

    def stop(args):
        raise Parsed

    monkeypatch.setattr(common, "load_dataset", stop)
    module = {"gift.py": gift, "lpqld.py": lpqld, "evaluate.py": evaluate, "synthesize.py": synthesize}[script]
    with pytest.raises(Parsed):
        in_process(module, *words)


def test_rehearsal_runs_lines_and_makes_table_and_picture(in_process, tmp_path):
    only = ("fashion-budget-random-p0.9-k3", "fashion-budget-random-p0.9-k10", "tiny-rded-conv4-ipc10")
    words = ("--rehearse", "--device", "cpu", "--out", tmp_path, "--only", *only, "tiny-teacher-conv4")
    status, shown, err = in_process(figures, *words)
    assert status == 0, err
    kept = json.loads((tmp_path / "results" / "tiny-rded-conv4-ipc10.json").read_text())
    assert kept["published"] == 39.6 and kept["minutes"] >= 0
    assert {"command", "device", "torch", "date"} <= set(kept["result"]["made_with"])
    assert "| tiny-rded-conv4-ipc10 rded, kl, adamw | 39.6 |" in shown and "python evaluate.py" in shown
    assert "| tiny-teacher-conv4 | 49.7 |" in shown
    assert Image.open(tmp_path / "results" / "fashion-accuracy-over-bytes.png").size == (900, 560)
    # a line that has been run is not run again
    status, again, err = in_process(figures, *words)
    assert status == 0 and again.count(": done, ") == 4 and "data:" not in again


def test_a_line_that_fails_stops_the_run_with_one_line(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--out", tmp_path, "--results", tmp_path / "r", "--device", "cpu", "--only", "tiny-teacher-conv4")
    status, _, err = in_process(figures, *words)  # there is no Tiny-ImageNet here
    assert status == 2 and err.strip().count("\n") == 0 and "tiny-teacher-conv4 ended with status 2" in err
    assert not (tmp_path / "r").exists()


def test_unknown_lines_and_empty_tables_are_refused(in_process, tmp_path):
    for words in (("--only", "nothing"), ("--table", "--results", tmp_path)):
        status, _, err = in_process(figures, *words)
        assert status == 2 and err.startswith("error: ")


def test_list_shows_every_line(in_process, tmp_path):
    status, shown, _ = in_process(figures, "--list", "--results", tmp_path)
    assert status == 0 and shown.count("\n") == len(LINES) and "python benchmark.py --imagenet" in shown
