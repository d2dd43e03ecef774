"""Odd input, at random: do the scripts refuse it in one line, or go on to the result that the sound input gives?

    python tests/attack.py                       # 320 damaged files, folders and options
    python tests/attack.py --count 1000 --seed 1
    python tests/attack.py --count 0 --kills 40  # kill -9 at a random moment, and the same command again

Each run is a process of its own, forked from this one, so that a crash or a hang ends that run alone. Prints a table,
and what was done wherever a run ended in a traceback, did not end, or gave another result without a word.
pytest does not collect this file.
"""

import argparse
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; and a process that has no threads can be forked
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from helpers import leftovers, only, picture, write_numbered
from PIL import Image

import common
import evaluate
import gift
import lpqld
import synthesize
from experiments import one_label

SCRIPTS = {"gift": gift, "lpqld": lpqld, "synthesize": synthesize, "evaluate": evaluate, "one_label": one_label}
SECONDS = 60  # a run that takes longer hangs: a sound one takes less than two
MEMORY = 8 << 30
RECOVERY = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=10, roll=(0, 4), crop=True)

# ---------------------------------------------------------------------------------------------------------------------
# A run in a process of its own


def settle():
    """Small settings, for this process."""
    synthesize.SRE2L["fashion"] = RECOVERY
    lpqld.LABELS_PER_PIECE = 40
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def begin(command: list, folder: Path, prepare=None) -> int:
    """Fork a process that runs a script; what it prints and finds lies in `folder`. Its process id."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)  # odd names for folders lead no further than here
        signal.alarm(SECONDS)  # nothing handles it: it ends the process, whatever its threads wait for
        settle()
        if prepare:
            prepare()
        script, *words = command
        sys.argv = [f"{script}.py", *words]
        found = {}
        common.run_script(lambda: found.update(SCRIPTS[script].main(words)))
        (folder / "found").write_text(json.dumps(figures(found)))
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 70)


def wait(child: int) -> int:
    """Its exit status; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def figures(found: dict) -> dict:
    """What must not change without a word: accuracies, and the checksums of images, labels and teacher."""
    students = [
        {key: student[key] for key in student if key not in ("seconds", "made_with")}
        for student in found.get("students", [])
    ]
    rows = [[row["loss"], row.get("top1"), row.get("top5")] for row in found.get("rows", [])]
    digests = {}
    for name in ("images", "teacher", "labels"):
        if found.get(name):
            digests[name] = found[name]["digest"]
    return json.loads(json.dumps({"students": students, "rows": rows, "digests": digests}))


REFUSED, SAME, OTHER, TRACEBACK, HANG, SILENT = "refused", "same", "other", "TRACEBACK", "HANG", "SILENT"
HEADINGS = {
    REFUSED: "refused in one line",
    SAME: "same result",
    OTHER: "other input, other result",
    TRACEBACK: "TRACEBACK",
    HANG: "HANG",
    SILENT: "SILENT",
}


def judge(status: int, folder: Path, sound: dict | None) -> str:
    """sound: what the sound input gives; None where another input may give another result."""
    said = (folder / "stderr").read_text(errors="replace")
    if status == -signal.SIGALRM:
        return HANG
    if status == 0:
        if sound is None:
            return OTHER
        return SAME if json.loads((folder / "found").read_text()) == sound else SILENT
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    tidy = len(errors) == 1 and said.splitlines()[-1] == errors[0] and "Traceback" not in said
    return REFUSED if status == 2 and tidy else TRACEBACK


# ---------------------------------------------------------------------------------------------------------------------
# The sound input


TINY = ["--width", "4", "--device", "cpu"]
ON_RUNS = {  # runs of which every stage lies under --out
    "gift": "gift --images random --ipc 2 --epochs 4 --teacher-epochs 1 --out {it}",
    "lpqld": "lpqld --images random --ipc 2 --epochs 20 --prune 0.5 --teacher-epochs 1 --out {it}",
    "lpld": "synthesize --method lpld --ipc 2 --teacher-epochs 1 --out {it}",
}
READERS = {  # what is damaged: the runs that read it; {it} is where it lies, {base} where all that is sound lies
    "runs": list(ON_RUNS.values()),
    "teacher.pt": [
        "gift --teacher {it} --images {base}/theirs --epochs 1",
        "synthesize --teacher {it} --method lpld --ipc 1",
    ],
    "published.pth": ["gift --teacher {it} --images {base}/theirs --epochs 1"],
    "images": ["gift --images {it} --teacher {base}/teacher.pt --epochs 1"],
    "labels.pt": [
        "lpqld --labels {it} --images {base}/images --epochs 2",
        "evaluate --labels {it} --images {base}/images --epochs 1 --repeats 1",
    ],
    "data.pt": [
        "gift --images {it} --teacher {base}/teacher.pt --epochs 1",
        "lpqld --images {it} --teacher {base}/teacher.pt --epochs 10",
        "evaluate --images {it} --teacher {base}/teacher.pt --epochs 1 --repeats 1",
    ],
    "theirs": [
        "gift --images {it} --teacher {base}/teacher.pt --epochs 1",
        "evaluate --images {it} --teacher {base}/teacher.pt --epochs 1 --repeats 1",
    ],
    "pets": ["gift --dataset {it} --images random --ipc 2 --epochs 1 --teacher-epochs 20"],
}


def reader(place: str, which: int, base: Path, it: Path, out: Path) -> list[str]:
    command = [word.format(base=base, it=it) for word in READERS[place][which].split()] + TINY
    return command if "--out" in command else [*command, "--out", str(out)]


KEPT = {  # runs that were killed: the run, the file whose writing ended it, which time
    "teacher": ("gift", "teacher-*/teacher.progress.pt", 1),
    "student": ("gift", "seed0.progress.pt", 2),
    "lpqld student": ("lpqld", "seed0.progress.pt", 9),
    "pieces": ("lpqld", "labels-4-7.pt", 1),
    "statistics": ("lpld", "statistics-*/classes-4-4.pt", 1),
    "recovery": ("lpld", "groups-2-3.progress.pt", 5),
    "groups": ("lpld", "groups-4-4.pt", 1),
}


def die_at(where: str, write: int):
    """Keep progress always, and die right after this write of a file that matches `where`."""
    save, seen = common.save, []

    def save_and_die(path, content):
        save(path, content)
        if path.match(where):
            seen.append(path)
            if len(seen) == write:
                os.kill(os.getpid(), signal.SIGKILL)

    common.KEEP_EVERY = 0
    common.save = save_and_die


def make_sound(base: Path) -> dict:
    """All that is damaged later; and what each run finds that reads it: {(place, which): figures}."""
    run_whole(reader("runs", 0, base, base / "runs", base), base / "log" / "gift")
    run_whole(reader("runs", 1, base, base / "runs", base), base / "log" / "lpqld")
    run_whole(reader("runs", 2, base, base / "runs", base), base / "log" / "lpld")
    made = base / "runs" / "fashion"
    for name, (run, where, write) in KEPT.items():
        out = base / "killed" / name
        if name != "teacher":
            teacher = only(made, "teacher-*")
            shutil.copytree(teacher, out / "fashion" / teacher.name)
        command = reader("runs", list(ON_RUNS).index(run), base, out, out)
        log = base / "log" / f"killed {name}"
        status = wait(begin(command, log, lambda where=where, write=write: die_at(where, write)))
        assert status == -signal.SIGKILL, (log / "stderr").read_text()
    shutil.copy(only(made, "teacher-*/teacher.pt"), base / "teacher.pt")
    weights = torch.load(base / "teacher.pt", weights_only=True)["model"]
    torch.save({"model": weights, "epoch": 300}, base / "published.pth")
    shutil.copytree(only(made, "random-*"), base / "images")
    shutil.copy(only(made, "labels-*/labels.pt"), base / "labels.pt")
    write_numbered(base / "theirs", "new{c:03d}/class{c:03d}_id{i:03d}.png", ipc=2)
    pixels = np.random.RandomState(0).random_sample((20, 3, 32, 32)).astype(np.float32)
    data = {"dataset": "fashion", "data": torch.from_numpy(pixels), "label": torch.arange(20) // 2}
    torch.save(data, base / "data.pt")
    for split in ("train", "val"):
        for c, name in enumerate(("ape", "bee", "cat")):
            for i in range(16):
                picture(base / "pets" / split / name / f"{i}.png", 16, shade=20 + 80 * c + i + (split == "val"))

    sound = {}
    for place, commands in READERS.items():
        for which in range(len(commands)):
            folder = base / "sound" / f"{place} {which}"
            command = reader(place, which, base, base / place, folder / "runs")
            sound[place, which] = run_whole(command, folder)
    return sound


def run_whole(command, folder: Path, prepare=None) -> dict:
    status = wait(begin(command, folder, prepare))
    assert status == 0, (folder / "stderr").read_text()
    return json.loads((folder / "found").read_text())


# ---------------------------------------------------------------------------------------------------------------------
# Damage to bytes: (file, stream of draws) -> what was done


def flip_bits(file: Path, stream) -> str:
    content = bytearray(file.read_bytes())
    places = stream.randint(8 * len(content), size=stream.choice([1, 1, 8]))
    for place in places:
        content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    return f"bits {places.tolist()[:3]} flipped"


def cut(file: Path, stream) -> str:
    content = file.read_bytes()
    length = stream.choice([0, 1, stream.randint(len(content)), len(content) - 1])
    file.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"


def move_bytes(file: Path, stream) -> str:
    """Garbage behind it, a block of zeros, a block from another place."""
    content = bytearray(file.read_bytes())
    way = stream.choice(["longer", "zeros", "moved"])
    size = min(64, len(content))
    first, second = stream.randint(len(content) - size + 1, size=2)
    if way == "longer":
        content += stream.bytes(100)
    else:
        content[first : first + size] = bytes(size) if way == "zeros" else content[second : second + size]
    file.write_bytes(content)
    return f"{way} at {first}"


def other_kind(file: Path, stream) -> str:
    """Something else of that name."""
    way = stream.choice(["deleted", "folder", "FIFO", "link to nowhere", "link to itself", "text"])
    file.unlink()
    if way == "folder":
        file.mkdir()
    elif way == "FIFO":
        os.mkfifo(file)
    elif way == "link to nowhere":
        file.symlink_to("nowhere")
    elif way == "link to itself":
        file.symlink_to(file.name)
    elif way == "text":
        file.write_text(stream.choice(["", "[]", "{}", "null", "no JSON", '{"settings": 3}', "\x00\x01"]))
    return way


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def swap_types(base: Path):
    """Another file in its place, of those that there are; of one suffix, so that it is whole in itself."""

    def swap(file: Path, stream) -> str:
        places = [base / "runs", base / "killed", base / "pets"]
        suffix = file.suffix.replace(".pth", ".pt")
        others = [path for place in places for path in all_files(place) if path.suffix == suffix]
        other = others[stream.randint(len(others))]
        shutil.copy(other, file)
        return f"{other.relative_to(base)} in its place"

    return swap


# ---------------------------------------------------------------------------------------------------------------------
# Damage to content


def odd_value(value, stream):
    """Something of another type, shape or size."""
    plain = [None, -1, 0, 10**20, float("nan"), "", "odd", [], {}, True, [1, [2]], {"a": 1}]
    if not isinstance(value, torch.Tensor):
        return plain[stream.randint(len(plain))]
    ways = {
        "half": lambda x: x.half(),
        "double": lambda x: x.double(),
        "integers": lambda x: x.long(),
        "bools": lambda x: x.bool(),
        "complex": lambda x: x.to(torch.complex64),
        "sparse": lambda x: x.to_sparse(),
        "on no device": lambda x: x.to("meta"),
        "quantized": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        "not a number": lambda x: x.float() * float("nan"),
        "infinite": lambda x: x.float() * float("inf"),
        "larger": lambda x: x * 1000,
        "negative": lambda x: -x,
        "fewer": lambda x: x[:-1],
        "none": lambda x: x[:0],
        "one number": lambda x: x.flatten()[0],
        "flat": lambda x: x.flatten(),
        "one dimension more": lambda x: x[None],
        "expanded": lambda x: x[:1].expand(x.shape),
        "another order": lambda x: x.flip(0),
        "a list": lambda x: x.tolist(),
        "a name": lambda x: "tensor",
    }
    names = sorted(ways)
    while True:
        try:
            return ways[names[stream.randint(len(names))]](value)
        except (RuntimeError, IndexError, TypeError):  # not every tensor can be made so
            continue


def change_content(content, stream) -> str:
    """Change something in nested dicts and lists, in place: a value, a key left out, or one too many."""
    where = []
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = keys[stream.randint(len(keys))]
        where.append(str(key))
        deeper = isinstance(content[key], (dict, list)) and len(content[key]) > 0
        if not deeper or stream.random_sample() < 0.3:
            break
        content = content[key]
    way = stream.choice(["value", "value", "value", "left out", "too many"])
    if way == "left out":
        del content[key]
    elif way == "too many" and isinstance(content, dict):
        content["more"] = odd_value(None, stream)
    else:
        content[key] = odd_value(content[key], stream)
        way = f"now {str(content[key])[:40]}"
    return f"{'.'.join(where)}: {way}"


def other_content(file: Path, stream) -> str:
    """Of a torch or JSON file; a checksum stays as it was."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        done = change_content(content, stream)
        file.write_text(json.dumps(content))
    else:
        content = torch.load(file, weights_only=True)
        done = change_content(content, stream)
        torch.save(content, file)
    return " ".join(done.split())


def other_picture(file: Path, stream) -> str:
    """A picture of another kind, whole in itself."""
    image = Image.open(file).convert("RGB")
    image.load()
    side = image.size[0]
    ramp = np.arange(side * side).reshape(side, side)
    kinds = {
        "grey": lambda: image.convert("L"),
        "with alpha": lambda: image.convert("RGBA"),
        "palette": lambda: image.convert("P"),
        "black and white": lambda: image.convert("1"),
        "16 bits": lambda: Image.fromarray((ramp * 50).astype(np.uint16)),
        "larger": lambda: image.resize((2 * side, 2 * side)),
        "not square": lambda: image.resize((side, 2 * side)),
        "one pixel": lambda: image.resize((1, 1)),
        "turned": lambda: image.rotate(90),
    }
    formats = {"floats": "TIFF", "CMYK": "JPEG", "GIF": "GIF", "BMP": "BMP", "WebP": "WEBP"}
    name = sorted([*kinds, *formats])[stream.randint(len(kinds) + len(formats))]
    if name in kinds:
        kinds[name]().save(file, "PNG")
        return name
    beside = io.BytesIO()
    modes = {"floats": "F", "CMYK": "CMYK"}
    changed = Image.fromarray(ramp.astype(np.float32)) if name == "floats" else image.convert(modes.get(name, "RGB"))
    changed.save(beside, formats[name])
    file.write_bytes(beside.getvalue())
    return f"{name}, named {file.suffix}"


ODD_NAMES = [
    "with space.png", "line\nbreak.png", ".hidden.png", "no-extension", "UPPER.PNG", "ünïcode.png", "-rf.png", "%s.png",
    "{0}.png", "9" * 30 + ".png", "a" * 250 + ".png", ".DS_Store", "Thumbs.db", "settings.json", "data.pt", "x.pt.png",
    "٣.png", "a\\b.png", os.fsdecode(b"\xff\xfe.png"), "nul\x01.png", "*.png", "~", "😀.jpg",
]  # fmt: skip


def other_names(folder: Path, stream) -> str:
    """Of files or class folders: renamed, copied, emptied, linked."""
    files = [path for path in all_files(folder) if path.suffix == ".png"]
    file = files[stream.randint(len(files))]
    odd = ODD_NAMES[stream.randint(len(ODD_NAMES))]
    ways = ["file renamed", "file copied", "class renamed", "class copied", "class emptied", "class linked", "beside",
            "class deleted", "folder in class", "classes swapped"]  # fmt: skip
    way = ways[stream.randint(len(ways))]
    one = file.parent
    if way == "file renamed":
        file.rename(one / odd)
    elif way == "file copied":
        shutil.copy(file, one / odd)
    elif way == "class renamed":
        one.rename(one.parent / odd)
    elif way == "class copied":
        shutil.copytree(one, one.parent / odd)
    elif way == "class emptied":
        for path in one.iterdir():
            path.unlink()
    elif way == "class linked":
        (one.parent / odd).symlink_to(one.name)
    elif way == "beside":
        shutil.copy(file, one.parent / odd)
    elif way == "class deleted":
        shutil.rmtree(one)
    elif way == "folder in class":
        (one / odd).mkdir()
        shutil.copy(file, one / odd / "0.png")
    else:
        other = files[stream.randint(len(files))].parent
        one.rename(one.parent / "between")
        if other != one:
            other.rename(one)
        (one.parent / "between").rename(other)
    return f"{way}: {one.name}/{file.name}, {odd!r}"


ODD_WORDS = [
    "", " ", "0", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "99999999999999999999", "½", "٣", "1_0", "0x10", "1.5",
    "True", "None", "--", "-", "a b", "/dev/null", "/dev/zero", "/", ".", "..", "~", "~nobody-here/x", "*", "\n",
    "a" * 300, "a" * 5000, os.fsdecode(b"\xff"), "😀", "%s", "{}", "random", "conv3", "cpu", "fashion", "gift",
    "/proc/self/mem", "cuda", "meta", "mps:7", "vit_b_16", "rded,sre2l", "random/", "./random",
]  # fmt: skip
ODD_OPTIONS = {
    "gift": ["dataset", "image-size", "colours", "data-root", "ipc", "arch", "teacher-arch", "teacher", "width", "seed",
             "device", "precision", "out", "images", "loss", "optimizer", "lr", "view-factor"],
    "lpqld": ["images", "labels", "prune", "top-k", "batch-size", "mix", "protocol", "reuse", "lr", "ipc", "teacher"],
    "synthesize": ["method", "factor", "ipc", "teacher-arch", "seed", "dataset"],
    "evaluate": ["images", "archs", "losses", "protocol", "optimizers", "labels", "view-factor", "ipc"],
    "one_label": ["images", "loss", "logits", "optimizer"],
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The attacks: make(base, folder, stream) damages a copy in `folder`, and returns a command that reads it, what was done
# and the key of what the sound input gives (None: another input may give another result)


def under_out(damage):
    """A finished --out, of which half of the time the last stage is to be made anew."""

    def make(base: Path, folder: Path, stream):
        which = stream.randint(len(ON_RUNS))
        shutil.copytree(base / "runs", folder / "runs")
        made = folder / "runs" / "fashion"
        last = ("gift-*", "lpqld-*", "lpld-*")[which]
        if stream.random_sample() < 0.5 or last == "lpld-*":
            shutil.rmtree(only(made, last))
        files = files_read_by(which, made)
        file = files[stream.randint(len(files))]
        command = reader("runs", which, base, folder / "runs", folder)
        return command, f"{file.relative_to(made)}: {damage(file, stream)}", ("runs", which)

    return make


def files_read_by(which: int, made: Path) -> list[Path]:
    """As many pictures as other files: there are far more of them."""
    stages = (
        ("teacher", "accuracy", "random", "gift"),
        ("teacher", "accuracy", "random", "labels", "lpqld"),
        ("teacher", "accuracy", "statistics"),
    )
    files = []
    for stage in stages[which]:
        for folder in made.glob(f"{stage}-*"):
            files += all_files(folder)
    others = [file for file in files if file.suffix != ".png"]
    pictures = [file for file in files if file.suffix == ".png"]
    return others + pictures[: len(others)]


def under_killed(damage):
    """The progress of a run that was killed."""

    def make(base: Path, folder: Path, stream):
        name = sorted(KEPT)[stream.randint(len(KEPT))]
        run, where, _ = KEPT[name]
        which = list(ON_RUNS).index(run)
        shutil.copytree(base / "killed" / name, folder / "runs")
        file = only(folder / "runs", f"**/{where}")
        command = reader("runs", which, base, folder / "runs", folder)
        return command, f"{where}: {damage(file, stream)}", ("runs", which)

    return make


def one_file(name: str, damage, may_differ=False):
    """A file that an option names."""

    def make(base: Path, folder: Path, stream):
        file = folder / name
        folder.mkdir()
        shutil.copy(base / name, file)
        done = damage(file, stream)
        which = stream.randint(len(READERS[name]))
        return reader(name, which, base, file, folder / "runs"), done, None if may_differ else (name, which)

    return make


def one_of_a_folder(name: str, damage, whole_folder=False):
    """A picture of somebody else's, or their names: of a distilled set, or of a data set."""

    def make(base: Path, folder: Path, stream):
        shutil.copytree(base / name, folder / name)
        place = folder / name
        if name == "pets":
            place = place / stream.choice(["train", "val"])
        if not whole_folder:
            files = all_files(place)
            place = files[stream.randint(len(files))]
        done = damage(place, stream)
        which = stream.randint(len(READERS[name]))
        return reader(name, which, base, folder / name, folder / "runs"), f"{place.name}: {done}", None

    return make


def beside_images(base: Path, folder: Path, stream):
    """What lies beside the pictures of a set of ours."""
    shutil.copytree(base / "images", folder / "images")
    file = folder / "images" / stream.choice(["set.json", "settings.json", "grid.png"])
    damage = [flip_bits, cut, move_bytes, other_kind][stream.randint(4)]
    done = f"{file.name}: {damage(file, stream)}"
    return reader("images", 0, base, folder / "images", folder / "runs"), done, ("images", 0)


def odd_options(script: str):
    def make(base: Path, folder: Path, stream):
        option = ODD_OPTIONS[script][stream.randint(len(ODD_OPTIONS[script]))]
        word = ODD_WORDS[stream.randint(len(ODD_WORDS))]
        given = {"teacher": str(base / "teacher.pt"), "width": "4", "device": "cpu", "out": str(folder / "runs")}
        if script == "synthesize":
            del given["teacher"]
            given |= {"method": "random", "ipc": "1"}
        else:
            given |= {"images": str(base / "theirs"), "epochs": "10" if script == "lpqld" else "1"}
        if script == "evaluate":
            given["repeats"] = "1"
        given[option] = word
        return [script, *[f"--{name}={value}" for name, value in given.items()]], f"--{option} {word[:40]!r}", None

    return make


def attacks(base: Path) -> dict:
    """{(what is damaged, how): make}"""
    swap = swap_types(base)
    table = {("options", f"odd words, {script}"): odd_options(script) for script in ODD_OPTIONS}
    table["set.json", "all ways"] = beside_images
    bytewise = {"bits flipped": flip_bits, "cut": cut, "bytes moved": move_bytes, "no such file": other_kind}
    for how, damage in {**bytewise, "another file": swap, "other content": other_content}.items():
        other_input = damage in (swap, other_content)  # weights that are whole, and none of ours
        table["teacher.pt", how] = one_file("teacher.pt", damage, other_input)
        table["labels.pt", how] = one_file("labels.pt", damage)
        table["a published teacher", how] = one_file("published.pth", damage, other_input)
        table["data.pt", how] = one_file("data.pt", damage, may_differ=True)
        if damage is not other_content:  # what somebody has edited under --out is taken
            table["under --out", how] = under_out(damage)
            table["under --out, killed", how] = under_killed(damage)
            table["class folders", how] = one_of_a_folder("theirs", damage)
            table["data set", how] = one_of_a_folder("pets", damage)
    for what, name in (("class folders", "theirs"), ("data set", "pets")):
        table[what, "other pictures"] = one_of_a_folder(name, other_picture)
        table[what, "other names"] = one_of_a_folder(name, other_names, whole_folder=True)
    return table


# ---------------------------------------------------------------------------------------------------------------------
# Both parts


def attack(base: Path, sound: dict, count: int, seed: int, every: bool) -> int:
    """`count` runs with odd input, as many of each kind; a table; how many ended as none should.

    every: a line for each run, not only for those that ended as none should.
    """
    table = attacks(base)
    found = {kind: dict.fromkeys(HEADINGS, 0) for kind in table}
    for number in common.progress_bar(range(count), "attacks", count):
        kind = list(table)[number % len(table)]
        folder = base / "attack"
        stream = np.random.RandomState([seed, number])
        command, done, key = table[kind](base, folder, stream)
        status = wait(begin(command, folder))
        verdict = judge(status, folder, sound.get(key))
        found[kind][verdict] += 1
        if every or verdict in (TRACEBACK, HANG, SILENT):
            said = (folder / "stderr").read_text(errors="replace").splitlines() or [f"status {status}"]
            line = f"{verdict} {number}, {', '.join(kind)}: {done}\n    {' '.join(command)[:600]}\n    {said[-1][:300]}"
            print(line.replace(str(base), "").encode(errors="replace").decode(), flush=True)
        shutil.rmtree(folder)
    print_table("damaged", found, 0)
    print_table("how", found, 1)
    return sum(row[verdict] for row in found.values() for verdict in (TRACEBACK, HANG, SILENT))


def print_table(title: str, found: dict, part: int):
    """A row for each kind, by what was damaged (part 0) or how (part 1)."""
    rows = {}
    for kind, counts in found.items():
        for name in (kind[part], "all"):
            row = rows.setdefault(name, dict.fromkeys(HEADINGS, 0))
            for verdict, count in counts.items():
                row[verdict] += count
    rows["all"] = rows.pop("all")
    print(f"\n| {title} | tried | " + " | ".join(HEADINGS.values()) + " |\n|---|---|" + "---|" * len(HEADINGS))
    for name, row in rows.items():
        print(f"| {name} | {sum(row.values())} | " + " | ".join(map(str, row.values())) + " |")


KILLED = {
    "gift": "gift --images rded --ipc 1 --epochs 20 --repeats 2 --teacher-epochs 1",
    "lpqld": "lpqld --images lpld --ipc 2 --epochs 20 --prune 0.5 --teacher-epochs 1",
}


def keep_always():
    common.KEEP_EVERY = 0
    synthesize.SRE2L["fashion"] = synthesize.Recovery(lr=0.25, r_bn=0.01, iterations=40, roll=(0, 4), crop=True)


def kill(base: Path, count: int, seed: int) -> int:
    """`count` runs killed at a random moment, and run again; how many did not end as an uninterrupted run."""
    whole, seconds, bad = {}, {}, 0
    for name, command in KILLED.items():
        folder = base / "whole" / name
        started = time.monotonic()
        whole[name] = run_whole([*command.split(), *TINY, "--out", str(folder / "runs")], folder, keep_always)
        seconds[name] = time.monotonic() - started
    stages = {}
    for number in common.progress_bar(range(count), "kills", count):
        name = list(KILLED)[number % len(KILLED)]
        moment = np.random.RandomState([seed, number]).random_sample() * seconds[name]
        folder = base / "killed again"
        command = [*KILLED[name].split(), *TINY, "--out", str(folder / "runs")]
        child = begin(command, folder, keep_always)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        was_killed = wait(child) == -signal.SIGKILL
        stage = latest(folder / "runs") if was_killed else "after the end"
        status = wait(begin(command, folder, keep_always))
        equal = status == 0 and json.loads((folder / "found").read_text()) == whole[name]
        left = [path.name for path in leftovers(folder / "runs") if not path.name.startswith(".")]  # half-written
        row = stages.setdefault(f"{name}: {stage}", [0, 0, 0])
        row[0] += 1
        row[1] += not equal
        row[2] += bool(left)
        if not equal or left:
            bad += 1
            said = (folder / "stderr").read_text(errors="replace").splitlines()[-1:]
            print(f"UNEQUAL {number}: {name} killed after {moment:.2f} s, in {stage}: status {status}, {said}, {left}")
        shutil.rmtree(folder)
    print("| killed in | times | unequal ends | left behind |\n|---|---|---|---|")
    for stage, row in sorted(stages.items()):
        print(f"| {stage} | " + " | ".join(map(str, row)) + " |")
    total = [sum(column) for column in zip(*stages.values(), strict=True)]
    print("| all | " + " | ".join(map(str, total)) + " |")
    return bad


def latest(out: Path) -> str:
    """The stage that was written to last, and whether it had kept anything of its progress."""
    files = [path for path in out.rglob("*") if path.is_file()]
    if not files:
        return "nothing yet"
    file = max(files, key=lambda path: path.stat().st_mtime)
    return file.relative_to(out / "fashion").parts[0][:-9]  # without the hash


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=320, help="runs with odd input (default: 320)")
    parser.add_argument("--kills", type=int, default=0, help="runs that are killed, and run again (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--every", action="store_true", help="a line for each run with odd input")
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as base:
        if args.count:
            sound = make_sound(Path(base))
            bad += attack(Path(base), sound, args.count, args.seed, args.every)
        if args.kills:
            bad += kill(Path(base), args.kills, args.seed)
    print(f"{bad} ended as none should" if bad else "all ended as they should")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
