import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small gain nothing from more, and wait for each other

import pytest

import common

ROOT = Path(__file__).parent.parent


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Run a script's main() as `python script.py options` would; returns (exit status, stdout, stderr)."""

    def call(module, *options):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, options)])
        status = 0
        try:
            common.run_script(module.main)
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="session")
def run():
    """Run a script in a process of its own, as a user does; returns what subprocess.run returns."""

    def call(script, *options, cwd=None):
        command = [sys.executable, str(ROOT / script), *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd)

    return call


@pytest.fixture(scope="session")
def options():
    """Options of the common parser, as a script gets them."""

    def parse(*words):
        return common.common_options("test").parse_args([str(word) for word in words])

    return parse


@pytest.fixture(scope="session")
def fashion(options):
    return common.load_dataset(options("--width", 8, "--device", "cpu"))


@pytest.fixture(scope="session")
def small_teacher(fashion, options, tmp_path_factory):
    """A real, small teacher on the embedded data (width 8, two epochs): its folder, for --out, and what it is."""
    out = tmp_path_factory.mktemp("runs")
    args = options("--width", 8, "--teacher-epochs", 2, "--device", "cpu", "--out", out)
    return out, common.load_teacher(args, fashion)
