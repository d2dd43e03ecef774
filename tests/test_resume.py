"""Killed and taken up again: a run ends where an uninterrupted one ends, to the last digit; and what a stop says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Killed, leftovers, only, what_is_there

import common
import evaluate
import gift
import lpqld
import synthesize

SCRIPTS = {"gift": gift, "lpqld": lpqld, "synthesize": synthesize, "evaluate": evaluate}
RECOVERY = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=100, roll=(0, 4), crop=True)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Few iterations of recovery, and few labels to a piece."""
    monkeypatch.setitem(synthesize.SRE2L, "fashion", RECOVERY)
    monkeypatch.setattr(lpqld, "LABELS_PER_PIECE", 40)


def stop_at(monkeypatch, where, write, stop=Killed):
    """Keep progress after every epoch, and stop right after write number `write` (from 1) of a path like `where`."""
    save = common.save
    seen = []

    def save_and_stop(path, content):
        save(path, content)
        if re.search(where, str(path)):
            seen.append(path)
            if len(seen) == write:
                raise stop

    monkeypatch.setattr(common, "KEEP_EVERY", 0)
    monkeypatch.setattr(common, "save", save_and_stop)


def run_script(command, out, teacher=None):
    script, *words = command.split()
    words += ["--width", "8", "--device", "cpu", "--out", str(out)]
    if teacher:
        words += ["--teacher", teacher.info["file"]]
    return SCRIPTS[script].main(words)


COMMANDS = {
    "gift with a teacher of its own": "gift --images random --ipc 1 --epochs 4 --teacher-epochs 3",
    "gift": "gift --images random --ipc 2 --epochs 8 --repeats 2 --optimizer sgd",
    "rded": "synthesize --method rded --ipc 2",
    "sre2l": "synthesize --method sre2l --ipc 2",
    "lpld": "synthesize --method lpld --ipc 2",
    "lpqld": "lpqld --images random --ipc 2 --epochs 20 --prune 0.5",
    "evaluate": "evaluate --images random --ipc 2 --epochs 6 --repeats 2 --losses kl ce",
    "RDED's protocol": "evaluate --images random --ipc 2 --epochs 12 --repeats 1 --protocol rded",
}
STOPS = [  # command, the file (a regular expression), after which write of it
    ("gift with a teacher of its own", "teacher-conv3-.*/teacher.progress.pt", 2),
    ("gift with a teacher of its own", "teacher.pt", 1),
    ("gift", "seed0.progress.pt", 5),
    ("gift", "seed0.json", 1),
    ("rded", "classes-4-4.pt", 1),
    ("sre2l", "groups-0-0.progress.pt", 50),
    ("lpld", "statistics-conv3-.*/classes-4-4.pt", 1),
    ("lpld", "groups-2-3.progress.pt", 50),
    ("lpld", "groups-4-4.pt", 1),
    ("lpqld", "labels-4-7.pt", 1),
    ("lpqld", "labels.pt", 1),
    ("lpqld", "seed0.progress.pt", 8),
    ("evaluate", "kl-adamw-.*/seed1.progress.pt", 4),
    ("evaluate", "evaluate.json", 1),
    ("RDED's protocol", "seed0.progress.pt", 5),
]
QUICK = ("lpqld", "seed0.progress.pt", 8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_teacher):
    """What an uninterrupted run of a command leaves; each is run once."""
    done = {}

    def leaves(name):
        if name not in done:
            out = tmp_path_factory.mktemp("whole")
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(synthesize.SRE2L, "fashion", RECOVERY)
                run_script(COMMANDS[name], out, teacher_of(name, small_teacher))
            done[name] = what_is_there(out)
        return done[name]

    return leaves


def teacher_of(name, small_teacher):
    return None if "of its own" in name else small_teacher[1]


def stop_name(stop) -> str:
    return "-".join(map(str, stop)).replace(" ", "-").replace("/", "-").replace("-.*", "")


@pytest.mark.parametrize(
    "stop",
    [pytest.param(stop, marks=[] if stop == QUICK else [pytest.mark.slow], id=stop_name(stop)) for stop in STOPS],
)
def test_a_killed_run_ends_where_an_uninterrupted_one_ends(stop, whole, small_teacher, tmp_path, monkeypatch):
    name, where, write = stop
    teacher = teacher_of(name, small_teacher)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, where, write)
        run_script(COMMANDS[name], tmp_path, teacher)
    assert [path for path in tmp_path.rglob("*") if re.search(where, str(path))]
    run_script(COMMANDS[name], tmp_path, teacher)
    assert what_is_there(tmp_path) == whole(name) and leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_student_goes_on_after_the_last_epoch_that_was_kept(fashion, small_teacher, tmp_path, monkeypatch):
    """Epochs that are done are not done again, and the seconds add up."""
    data = fashion._replace(runs=tmp_path)
    distilled = synthesize.distil("random", data, None, 1)
    students = gift.students(data, small_teacher[1], distilled, gift.protocol_for(data, distilled, "conv3", epochs=8))
    progress = students.folder / "seed0.progress.pt"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, "progress.pt", 6)
        students.train(0, progress)
    kept = common.load(progress)
    assert kept["epoch"] == 6 and kept["log"]["seconds"] > 0
    epochs = []
    set_rate = common.set_rate
    monkeypatch.setattr(common, "set_rate", lambda *rate: (epochs.append(rate), set_rate(*rate)))
    result = common.train_students(students, [0])
    assert len(epochs) == 2 and result["students"][0]["seconds"] > kept["log"]["seconds"]
    assert not progress.exists()


@pytest.mark.slow
def test_finished_label_pieces_are_read(fashion, small_teacher, tmp_path, monkeypatch):
    data, teacher = fashion._replace(runs=tmp_path), small_teacher[1]
    distilled = synthesize.distil("random", data, None, 2)
    labels = lpqld.labels_for(data, 20, epochs=20, prune=0.5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, "labels-8-11.pt", 1)
        lpqld.label_pool(data, teacher, distilled, labels, 0)
    made = []
    label_piece = lpqld.label_piece

    def counted(views, model, numbers, num_classes):
        made.append(numbers)
        return label_piece(views, model, numbers, num_classes)

    monkeypatch.setattr(lpqld, "label_piece", counted)
    pool = lpqld.label_pool(data, teacher, distilled, labels, 0)
    assert made == [[12, 13, 14, 15], [16, 17, 18, 19]] and len(pool.values) == 20
    assert [file.name for file in Path(pool.info["file"]).parent.glob("*.pt")] == ["labels.pt"]


# --- with a real kill, in a process of its own

KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import common, lpqld
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
where, write, when, number = sys.argv[1:5]
del sys.argv[1:5]
common.KEEP_EVERY = 0
lpqld.LABELS_PER_PIECE = 40
replace, seen = os.replace, []
def replace_and_die(beside, path):
    if where in str(path):
        seen.append(path)
    die = len(seen) == int(write) and where in str(path)
    if die and when == "before":
        os.kill(os.getpid(), int(number))
    replace(beside, path)
    if die:
        os.kill(os.getpid(), int(number))
os.replace = replace_and_die
common.run_script(lpqld.main)
"""


def run_and_kill(teacher, out, where, write, when="after", number=signal.SIGKILL):
    """Run lpqld.py in a process of its own, with a signal just before or after a file is renamed into place."""
    script = KILLED.format(root=str(Path(lpqld.__file__).parent))
    words = ["--width", 8, "--teacher", teacher.info["file"], "--device", "cpu", "--out", out]
    command = [sys.executable, "-c", script, where, write, when, int(number), *COMMANDS["lpqld"].split()[1:], *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_killed_and_stopped_it_ends_where_an_uninterrupted_run_ends(whole, small_teacher, tmp_path):
    """kill -9 while the pool is written: nobody reads the half-written file. Then Ctrl-C while a student is trained:
    one line, status 130."""
    teacher = small_teacher[1]
    done = run_and_kill(teacher, tmp_path, "labels.pt", 1, "before")
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = run_and_kill(teacher, tmp_path, "seed0.progress.pt", 8, number=signal.SIGINT)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("stopped. Type the same command again")

    done = run_and_kill(teacher, tmp_path, "nowhere", 0)
    assert done.returncode == 0, done.stderr
    (beside,) = tmp_path.rglob(".*")
    beside.unlink()
    assert what_is_there(tmp_path) == whole("lpqld")


# --- what a stop says


def test_ctrl_c_is_one_line(in_process, small_teacher, tmp_path, monkeypatch):
    words = ("--teacher", small_teacher[1].info["file"], "--width", 8, "--device", "cpu", "--out", tmp_path)
    stop_at(monkeypatch, "seed0.progress.pt", 2, KeyboardInterrupt)
    status, _, err = in_process(gift, *words, "--images", "random", "--ipc", 1, "--epochs", 4)
    assert status == 130 and err.startswith("stopped. Type the same command again") and err.count("\n") == 1
    assert only(tmp_path, "fashion/gift-random-ipc1-conv3-gift-adamw-*/seed0.progress.pt")


OUT_OF_MEMORY = {
    "a GPU's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has 1 GiB free"),
    "Python's": MemoryError(),
    "torch's on a CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
}


@pytest.mark.parametrize("whose", OUT_OF_MEMORY, ids=lambda whose: whose.replace(" ", "-"))
def test_out_of_memory_is_one_line(whose, in_process, monkeypatch):
    def fail(*_):
        raise OUT_OF_MEMORY[whose]

    monkeypatch.setattr(gift, "read_options", fail)
    status, _, err = in_process(gift)
    assert status == 2 and err.startswith("error: ") and "emory" in err and err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(in_process, monkeypatch):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(gift, "read_options", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        in_process(gift)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line():
    root = Path(common.__file__).parent
    words = [sys.executable, "-m", "experiments.storage"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=root, env=environment)
    assert done.returncode == 2 and done.stderr == "error: [Errno 28] No space left on device\n"


def test_a_reader_that_has_enough_is_no_fault(in_process, monkeypatch):
    """`| head`"""

    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr(gift, "read_options", fail)
    status, shown, err = in_process(gift)
    assert (status, shown, err) == (1, "", "")
