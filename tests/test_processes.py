"""Several processes, started by torchrun: they make what one makes, and end together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import leftovers, only, what_is_there

import common

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed"),
]
DRIVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
import common, evaluate, gift, lpqld, synthesize
rank, out = int(os.environ["RANK"]), sys.argv[1]
common.KEEP_EVERY = 0
lpqld.LABELS_PER_PIECE = 40
synthesize.SRE2L["fashion"] = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=20, roll=(0, 4), crop=True)
def run(script, words):
    script.main([*words.split(), "--width", "4", "--teacher-epochs", "1", "--device", "cpu", "--out", out])
{lines}
common.run_script(main)
"""
LPQLD = 'run(lpqld, "--ipc 2 --epochs 20 --prune 0.5 --repeats 3")'
ALL = f"""
def main():
    {LPQLD}
    run(synthesize, "--method sre2l --ipc 2")
    run(evaluate, "--images rded --ipc 2 --epochs 4 --repeats 1 --losses kl ce")
    run(lpqld, "--images random --ipc 2 --epochs 10 --repeats 1 --ablation")
"""


def torchrun(processes, folder, lines):
    """Run these lines in several processes of one thread each."""
    folder.mkdir(exist_ok=True)
    script = folder / "driver.py"
    script.write_text(DRIVER.format(root=str(Path(common.__file__).parent), lines=lines))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [str(script), str(folder / "runs")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, preexec_fn=on_two_cores, env=one_thread)
    assert not left_running(str(script))
    return done


def on_two_cores():
    """Processes share out the cores that there are, and results rest on the number of threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def left_running(script) -> list:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [command for command in commands if script.encode() in command]


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    done = torchrun(1, folder, ALL)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(folder), ""), what_is_there(folder / "runs")


def test_three_processes_make_what_one_makes(by_one, tmp_path):
    """Images (LPLD, SRe2L, RDED), pools, students, tables: file by file; and what is printed."""
    done = torchrun(3, tmp_path, ALL)
    assert done.returncode == 0, done.stderr
    printed, there = by_one
    assert what_is_there(tmp_path / "runs") == there and leftovers(tmp_path) == []
    shown = done.stdout.replace(str(tmp_path), "")
    assert shown == printed


KILL = """
replace = os.replace
def replace_and_die(beside, path):
    replace(beside, path)
    if {where!r} in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
"""


def test_killed_and_gone_on_with_another_number(by_one, tmp_path):
    """One goes on where two were killed, in recovery, and two where one was, in labelling."""
    main = f"def main():\n    {LPQLD}"
    for processes, where in ((2, "groups-5-5.progress.pt"), (1, "labels-4-7.pt")):
        done = torchrun(processes, tmp_path, KILL.format(where=where) + main)
        assert done.returncode != 0
        assert [path for path in (tmp_path / "runs").rglob("*") if where in str(path)]
    done = torchrun(2, tmp_path, main)
    assert done.returncode == 0, done.stderr
    for half_written in (tmp_path / "runs").rglob(".*"):  # by a process that was killed
        half_written.unlink()
    ended, whole = what_is_there(tmp_path / "runs"), by_one[1]
    assert len(ended) > 20 and all(content == whole[path] for path, content in ended.items())


# --- failures

FULL_DATA_FAIL = """
train_teacher = common.train_teacher
def train_conv3_alone(data, arch, *rest):
    if arch == "conv4":
        raise common.UserError("this one has diverged")
    return train_teacher(data, arch, *rest)
common.train_teacher = train_conv3_alone
def main():
    run(evaluate, "--images random --ipc 1 --epochs 2 --repeats 1 --losses ce --archs conv3 conv4")
"""


def test_a_network_that_learns_nothing_costs_its_hlr_alone(tmp_path):
    done = torchrun(2, tmp_path, FULL_DATA_FAIL)
    assert done.returncode == 0, done.stderr
    assert "no HLR for conv4: this one has diverged" in done.stderr
    assert only(tmp_path, "runs/fashion/evaluate-*/evaluate.json")


FAILURES = {  # what: (lines, words expected)
    "more processes than GPUs": (
        'def main():\n    gift.main(["--device", "cuda", "--out", out])',
        f"2 processes for {torch.cuda.device_count()} GPUs",
    ),
    "a folder that they do not share": (
        'out += str(rank)\ndef main():\n    run(gift, "--ipc 1")',
        "is not one folder that all 2 processes share",
    ),
    "a student of another process": (
        'if rank:\n    gift.learning_rate_factor = lambda *_: float("nan")\n'
        'def main():\n    run(gift, "--images random --ipc 1 --epochs 4 --repeats 2")',
        "student, seed 1: the loss is nan in epoch 4: it has diverged\n",
    ),
    "a process that is killed": (
        "def main():\n    common.start = lambda *a: os.kill(os.getpid(), signal.SIGKILL) if rank else start(*a)\n"
        '    run(gift, "--ipc 1")\nstart = common.start',
        "Signal 9",
    ),
}


@pytest.mark.parametrize("what", FAILURES, ids=lambda what: what.replace(" ", "-"))
def test_a_failure_in_one_ends_all_in_one_line(what, tmp_path):
    """Ours is one line; torchrun adds its own report, and has a status of its own, 1."""
    lines, words = FAILURES[what]
    done = torchrun(2, tmp_path, lines)
    assert done.returncode == 1
    assert words in done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == ("Signal" not in words)
