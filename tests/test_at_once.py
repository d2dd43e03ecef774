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
import common, lpqld
common.KEEP_EVERY, lpqld.LABELS_PER_PIECE = 0, 40
common.run_script(lpqld.main)
"""


def start(out):
    words = "--width 4 --teacher-epochs 1 --device cpu --images rded --ipc 2 --epochs 10 --ablation --repeats 1 --out"
    command = [sys.executable, "-c", SCRIPT.format(root=str(Path(common.__file__).parent))]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += [*words.split(), str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=one_thread)


def test_a_command_started_twice_makes_the_files_of_one(tmp_path):
    """The same ablation: teacher, RDED's images, and rows that share pools and students."""
    alone = start(tmp_path / "alone")
    assert alone.wait(280) == 0, alone.stderr.read()
    first = start(tmp_path / "twice")
    time.sleep(0.5)
    second = start(tmp_path / "twice")
    errors = [run.communicate(timeout=280)[1] for run in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert leftovers(tmp_path) == []
    assert what_is_there(tmp_path / "twice") == what_is_there(tmp_path / "alone")
