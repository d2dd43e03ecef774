"""Fixtures: scripts run in this process and in one of their own, the embedded data set, a small teacher."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small gain nothing from more, and wait for each other

import pytest
import torch

import common

ROOT = Path(__file__).parent.parent


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Run a script's main() as `python script.py options` would; returns (exit status, stdout, stderr)."""

    def call(module, *options):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__.replace('.', '/')}.py", *map(str, options)])
        monkeypatch.setattr(common, "PRECISION", None)  # the script sets it; afterwards it is as it was
        status = 0
        try:
            common.run_script(module.main)
        except SystemExit as stop:
            status = stop.code
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


@pytest.fixture(scope="session")
def run():
    """Run a script in a process of its own, as a user does; returns what subprocess.run returns."""

    def call(script, *options, cwd=None):
        command = [sys.executable, str(ROOT / script), *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd)

    return call


@pytest.fixture(scope="session")
def fashion(tmp_path_factory):
    """The embedded data set, on the CPU."""
    out = tmp_path_factory.mktemp("fashion")
    return common.load_dataset("fashion", torch.device("cpu"), width=8, out=out)


@pytest.fixture(scope="session")
def small_teacher(fashion, tmp_path_factory):
    """A real, small teacher on the embedded data (width 8, two epochs): (folder, for --out; the Teacher)."""
    out = tmp_path_factory.mktemp("runs")
    return out, common.load_teacher(fashion._replace(runs=out / "fashion"), "conv3", epochs=2)
