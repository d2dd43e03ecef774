"""Several runs at once in one --out that share stages: all end well, with the files of one run alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import leftovers, what_is_there

import common

pytestmark = pytest.mark.slow
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import common, gift, lpqld
common.KEEP_EVERY, lpqld.LABELS_PER_PIECE = 0, 40
common.run_script({script}.main)
"""
COMMANDS = {
    "gift": "--ipc 2 --epochs 8",
    "lpqld": "--ipc 2 --epochs 10 --images random --repeats 2 --ablation",
}


def start(script, out):
    words = f"--width 4 --teacher-epochs 1 --device cpu {COMMANDS[script]} --out".split()
    command = [sys.executable, "-c", SCRIPT.format(root=str(Path(common.__file__).parent), script=script)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *words, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=one_thread)  # fmt: skip


@pytest.mark.parametrize("script", COMMANDS)
def test_a_command_started_twice_makes_the_files_of_one(script, tmp_path):
    """The same gift.py; and the ablation, whose rows share pools and students."""
    alone = start(script, tmp_path / "alone")
    assert alone.wait(280) == 0, alone.stderr.read()
    first = start(script, tmp_path / "twice")
    time.sleep(0.5)
    second = start(script, tmp_path / "twice")
    errors = [run.communicate(timeout=280)[1] for run in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert leftovers(tmp_path) == []
    assert what_is_there(tmp_path / "twice") == what_is_there(tmp_path / "alone")
