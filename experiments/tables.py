"""The tables of the documents. They are made from the raw results in experiments/results: no number of ours is typed.

`python -m experiments.figures --write` puts them into README.md and the documents of this folder, each between its
marks: `<!-- table NAME -->` and `<!-- end -->`. A table is a function that returns markdown; TABLES names it.
"""

import fnmatch
import functools
import json
import re
import shlex
from datetime import datetime
from pathlib import Path

import common
from common import UserError
from experiments import storage
from experiments.lines import CIFAR100_TEACHERS, LONGER, SGD_RATES, SINGLE_ROWS, chosen_rate, way_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
DOCUMENTS = [ROOT / name for name in ("README.md", *(f"experiments/{n}.md" for n in ("README", "COST", "PROCESSES")))]
MARKS = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.S)


def write(files: list[Path]) -> list[Path]:
    """Write every table of these documents between its marks. Returns the documents that have changed."""
    texts = {file: filled(file.read_text()) for file in files}  # all of them first: an error writes none
    changed = [file for file in files if texts[file] != file.read_text()]
    for file in changed:
        common.write_atomically(file, lambda beside, text=texts[file]: beside.write_text(text))
    return changed


def filled(text: str) -> str:
    """A document with each table as its raw results are now."""

    def table(found):
        begin, name, end = found.groups()
        if name not in TABLES:
            raise UserError(f"no table has the name {name}; there are {', '.join(TABLES)}")
        with common.refused(f"table {name} cannot be made: a file in {RESULTS} has another shape"):
            return f"{begin}{TABLES[name]()}\n{end}"

    return MARKS.sub(table, text)


# ---------------------------------------------------------------------------------------------------------------------
# Raw results, and what a cell says


@functools.cache
def kept(name: str):
    """The content of results/<name>.json, or None if it has not been run."""
    file = RESULTS / f"{name}.json"
    return read_result(file) if file.exists() else None


def read_result(file: Path):
    """The content of a raw result. UserError if it is damaged, or the result of another line."""
    with common.reading("result", file), common.refused(f"{file} is damaged: delete it, and the line is run again"):
        content = json.loads(file.read_text())
    if isinstance(content, dict) and content.get("name", file.stem) != file.stem:
        raise UserError(f"{file} is the result of {content['name']}: restore it")
    return content


def result(name: str):
    """What a line of figures.py has found, or None. A script's own result is of that form, too."""
    found = kept(name)
    return found.get("result", found) if found else None


def row_of(name: str, **wanted) -> dict:
    """The row of an evaluate.py table with these values; of a line without a table its result."""
    found = result(name)
    return next(row for row in found["rows"] if wanted.items() <= row.items()) if "rows" in found else found


def score(name: str, **wanted):
    """Top-1 of a line, or of one row of its table: {"mean", "std", "values"}. None if it has not been run."""
    return row_of(name, **wanted)["top1"] if result(name) else None


def cell(top1: dict | None) -> str:
    return common.spread(top1) if top1 else "–"


def cells(*names: str) -> list[str]:
    return [cell(score(name)) for name in names]


def difference(first: dict, second: dict) -> str:
    return f"{first['mean'] - second['mean']:+.1f}".replace("-", "−")


def grid(head: list, rows: list[list], under: str = "") -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(str(entry) for entry in line) + " |" for line in lines)
    return f"{table}\n\n{under}" if under else table


# How a result was made. Results up to 22 November 2026 may name only "x86_64 CPU": before the scripts were rewritten it
# was an AMD EPYC, after that an Intel Xeon. Later results name their processor
REBUILT = "2026-11-21T18:36"


def processor(made: dict) -> str:
    name, _, threads = made["device"].partition(", ")
    if name == "x86_64 CPU":
        name = "AMD EPYC" if made["date"] < REBUILT else "Intel Xeon"
    name = name.replace("(R)", "").removesuffix(" Processor")
    return f"{name}, {threads.replace('1 threads', '1 thread')}".removesuffix(", ")


def precision(found: dict) -> str:
    named = re.search(r"--precision (\w+)", found["made_with"]["command"])
    return found["made_with"].get("precision") or (named[1] if named else "fp32")


def run_of(found: dict) -> str:
    """For a column: "Xeon, fp32, 22 Nov"."""
    made = found["made_with"]
    day = datetime.fromisoformat(made["date"])
    return f"{processor(made).split(', ')[0].split()[-1]}, {precision(found)}, {day.day} {day:%b}"


def made(command: str, *found: dict) -> str:
    """The line under a table: command, processor, precision, torch, dates. Results before REBUILT are of older code."""
    where = sorted({f"{processor(each['made_with'])}, {precision(each)}" for each in found})
    torch = sorted({each["made_with"]["torch"].split("+")[0] for each in found})
    dates = sorted(each["made_with"]["date"] for each in found)
    first, last = (f"{datetime.fromisoformat(date):%d %b %Y}".lstrip("0") for date in (dates[0], dates[-1]))
    when = last if first == last else f"{first} to {last}"
    older = ", older code" if dates[0] < REBUILT else ""
    return f"`{command}` · {'; '.join(where)} · torch {', '.join(torch)} · {when}{older}"


def made_by(only: str) -> str:
    """The same for the lines of figures.py that these patterns name, as far as they have been run."""
    names = sorted(file.stem for file in RESULTS.glob("*.json"))
    named = [name for name in names for pattern in shlex.split(only) if fnmatch.fnmatch(name, pattern)]
    if not named:
        return "Not run."
    return made(f"OMP_NUM_THREADS=1 python -m experiments.figures --only {only}", *map(result, named))


# ---------------------------------------------------------------------------------------------------------------------
# GIFT

KINDS = {"random": "random", "rded": "RDED", "lpld": "LPLD (class-wise)", "sre2l": "SRe²L"}
LOSSES = ("gift", "cosine", "kl", "softce", "mse", "softce_ce", "mse_ce", "ce")
OPTIMIZERS = {"adamw": "AdamW", "sgd0.1": "SGD 0.1", "sgd0.01": "SGD 0.01"}
TINY = "Tiny-ImageNet at 32 px"
SET_LINES = {"cifar10-sets-ipc1": "CIFAR-10", "cifar10-sets-ipc10": "CIFAR-10", "cifar100-sets-ipc1": "CIFAR-100"}
SET_LOSSES = ("ce", "softce", "kl", "mse", "gift")


def cross_optimizer() -> str:
    series = [("fashion", "RDED", loss, f"cross-{loss}") for loss in LOSSES]
    series += [("fashion", "random", loss, f"cross-random-{loss}") for loss in ("gift", "kl")]
    series += [("CIFAR-10 as JPEGs", "RDED", loss, f"cross-cifar10-{loss}") for loss in ("gift", "kl")]
    rows = []
    for data, images, loss, line in series:
        adamw, *sgd = (score(f"{line}-{name}") for name in OPTIMIZERS)
        falls = ", ".join(difference(each, adamw) for each in sgd)
        rows.append([data, images, loss, *cells(*(f"{line}-{name}" for name in OPTIMIZERS)), falls])
    head = ["data", "images", "loss", *OPTIMIZERS.values(), "SGD − AdamW: 0.1, 0.01"]
    return grid(head, rows, made_by("'cross-*'"))


def kl_rates() -> str:
    rates = ("0.01", "0.1", "1", "10")
    row = ["KL", *cells(*(f"cross-kl-sgd{rate}" for rate in rates))]
    return grid(["rate of SGD", *rates], [row], made_by("'cross-kl-sgd*'"))


def gift_and_kl() -> str:
    """GIFT beside KL, both under AdamW, at IPC 10."""
    series = [
        (f"{TINY}, 300 epochs", "RDED", "tiny32-motivation-gift", "tiny32-motivation-kl"),
        (f"{TINY}, 300 epochs", "random", "tiny32-motivation-random-gift", "tiny32-motivation-random-kl"),
        ("CIFAR-10 as JPEGs, teacher of 20 epochs", "RDED", "cpu-cifar10-gift-gift-adamw", "cpu-cifar10-gift-kl-adamw"),
    ]
    found = [(*about, line, score(line), score(other)) for *about, line, other in series]
    line = "cpu-cifar10-rded-gift-loss"
    for images in ("rded", "random"):
        pair = score(line, images=images), score(CIFAR_RDED, images=images)
        found.append(("CIFAR-10 as JPEGs, RDED's protocol", KINDS[images], line, *pair))
    rows = []
    for data, images, line, gift, kl in found:
        scores = [cell(gift), cell(kl), difference(gift, kl), len(gift["values"])]
        rows.append([data, images, *scores, f"`{line}`", run_of(result(line))])
    return grid(["data", "images", "GIFT", "KL", "GIFT − KL", "students", "GIFT's line", "run"], rows)


def sgd_rates() -> str:
    """Each loss with SGD, at the rate that is best on held-out training images, beside the same loss with AdamW."""
    rows = []
    for loss in LOSSES:
        found = {rate: score(f"cifar10-held-out-{loss}-{rate}") for rate in SGD_RATES}
        best = chosen_rate(found)
        if best:
            sgd, adamw = (score(f"cifar10-{line}") for line in (f"sgd-{loss}-{best}", f"adamw-{loss}"))
            fall = difference(sgd, adamw) if sgd and adamw else "–"
            rows.append([f"`{loss}`", *map(cell, found.values()), best, cell(sgd), cell(adamw), fall])
    head = ["loss", *(f"SGD {rate}" for rate in SGD_RATES), "chosen", "test: SGD", "test: AdamW", "SGD − AdamW"]
    return grid(head, rows, made_by("'cifar10-held-out-*' 'cifar10-sgd-*' 'cifar10-adamw-*'"))


def cifar100_losses() -> str:
    """The eight losses with AdamW in GIFT's protocol, as far as they have been run."""
    rows = []
    for loss in LOSSES:
        found = [score(f"cifar100-loss-{loss}-{end}") for end in ("rded-ipc1", "random-ipc1", "rded-ipc10")]
        if any(found):
            rows.append([f"`{loss}`", *map(cell, found)])
    return grid(["loss", "IPC 1, RDED", "IPC 1, random", "IPC 10, RDED"], rows, made_by("'cifar100-loss-*'"))


def published_sets() -> str:
    """Sets that their authors published, each with five losses; random images and RDED's beside them."""
    rows = []
    for line, data in SET_LINES.items():
        found = {}
        for row in result(line)["rows"] if result(line) else ():
            method = re.split("[-,]", Path(row["images"]).name)[0]  # "dc-cifar10-ipc1.pt"; "random, 1 per class"
            found.setdefault((method, row["ipc"]), {})[row["loss"]] = row["top1"]
        for (method, ipc), by_loss in found.items():
            scores = [cell(by_loss.get(loss)) for loss in SET_LOSSES]
            gains = [difference(by_loss["gift"], by_loss[other]) if other in by_loss else "–" for other in ("ce", "kl")]
            name = KINDS.get(method, method.upper())
            rows.append([data, ipc, name, *scores, *gains, len(by_loss["gift"]["values"])])
    losses = [f"`{loss}`" for loss in SET_LOSSES]
    head = ["data", "IPC", "images", *losses, "GIFT − CE", "GIFT − KL", "students"]
    return grid(head, rows, made_by("'cifar*-sets-*'"))


# ---------------------------------------------------------------------------------------------------------------------
# LPQLD

STEPS = ("full labels", "P", "P + Q", "P + Q + DKR", "P + Q + DKR + CA", "P + DKR + CA")
FULL, P, PQ, _, ALL, P_ALL = STEPS
ABLATION_LINES = "tiny32-teacher 'tiny32-ablation-*'"
ABLATIONS = {"fashion": "fashion-lpqld-ablation", "fashion, no CutMix": "fashion-lpqld-ablation-without-cutmix"}


def sets_of(data: str, images: str) -> list[dict]:
    """The ablations of each set of these images: three with 200 classes, one on fashion."""
    if data == TINY:
        return [result(f"tiny32-ablation-{images}-set{number}") for number in range(3)]
    return [kept(ABLATIONS[data])["sets"][images]]


def over_sets(sets: list[dict], row: str) -> dict:
    """Top-1 of several sets, each with its mean; of one set, of its students."""
    found = [each["rows"][row]["top1"] for each in sets]
    return found[0] if len(found) == 1 else common.mean_std([top1["mean"] for top1 in found])


def ablation() -> str:
    series = [(data, images) for data in (TINY, "fashion") for images in KINDS]
    series += [("fashion, no CutMix", images) for images in ("lpld", "sre2l")]
    rows = []
    for data, images in series:
        sets = sets_of(data, images)
        similar = [each.get("within_class_similarity") or each["images"]["within_class_similarity"] for each in sets]
        whole = {TINY: f"tiny32-budget-{images}-p0-k200", "fashion": f"fashion-budget-{images}-p0-k10"}.get(data)
        scores = [*(cell(over_sets(sets, row)) for row in STEPS), cell(score(whole) if whole else None)]
        rows.append([data, KINDS[images], f"{sum(similar) / len(similar):.3f}", *scores, run_of(sets[0])])
    head = ["data", "images", "similarity", *STEPS, "full labels + DKR + CA, one set", "run"]
    return grid(head, rows, f"Xeon: {made_by(ABLATION_LINES)}")


def gains() -> str:
    """With 200 classes, what is gained over full labels: the mean, and the least and the largest of three sets."""
    rows = []
    for images in KINDS:
        sets = sets_of(TINY, images)
        found = [KINDS[images]]
        for row in (P, PQ, ALL, P_ALL):
            each = sorted(one["rows"][row]["top1"]["mean"] - one["rows"][FULL]["top1"]["mean"] for one in sets)
            mean, low, high = (f"{gain:+.1f}".replace("-", "−") for gain in (sum(each) / len(each), each[0], each[-1]))
            found.append(f"{mean} ({low} to {high})")
        share = over_sets(sets, ALL)["mean"] / over_sets(sets, FULL)["mean"]
        rows.append([*found, f"{share:.0%}"])
    head = ["gain over full labels", P, PQ, ALL, P_ALL, f"{ALL}: share of full labels"]
    return grid(head, rows, made_by(ABLATION_LINES))


def cifar100_ablation() -> str:
    """P, Q, DKR and CA one after the other, in ImageNet-1K's protocol; one student of each set."""
    rows = []
    for ipc in (1, 10):
        sets = {}
        for images, name in KINDS.items():
            sets[name] = result(f"cifar100-ablation-{images}-ipc{ipc}")
            sets[f"{name}, second set"] = result(f"cifar100-second-{images}-ipc{ipc}")
        sets = {name: found for name, found in sets.items() if found}
        if sets:
            steps = next(iter(sets.values()))["rows"].values()
            rows.append([ipc, "bytes of the labels", "", *(f"{step['label_bytes']:,}" for step in steps)])
        for name, found in sets.items():
            similar = found["images"]["within_class_similarity"]
            top1 = [cell(step["top1"]) for step in found["rows"].values()]
            rows.append([ipc, name, f"{similar:.3f}" if similar else "–", *top1])
        for images in ("rded", "lpld", "sre2l"):
            single = {row: f"cifar100-row-{images}-ipc{ipc}-{end}" for row, (end, _) in SINGLE_ROWS.items()}
            found = next(filter(None, map(result, single.values())), None)
            if found and KINDS[images] not in sets:
                similar = f"{found['images']['within_class_similarity']:.3f}"
                top1 = [cell(score(single[step]) if step in single else None) for step in STEPS]
                rows.append([ipc, KINDS[images], similar, *top1, "–"])
            full, pruned = (score(f"cifar100-no-mix-{images}-ipc{ipc}-p{p}") for p in (0, 0.9))
            if full and pruned:
                rows.append([ipc, f"{KINDS[images]}, no CutMix", "", cell(full), cell(pruned), *[""] * 5])
    head = ["IPC", "images", "similarity", *STEPS, "full + DKR + CA"]
    return grid(head, rows, made_by("'cifar100-ablation-*' 'cifar100-second-*' 'cifar100-no-mix-*' 'cifar100-row-*'"))


def five_sets() -> str:
    sets = {images: kept("fashion-lpqld-sets")["sets"][images] for images in ("lpld", "sre2l")}
    rows = []
    for images, found in sets.items():
        means = [each["top1"]["mean"] for each in found.values()]
        rows.append([KINDS[images], *(f"{mean:.1f}" for mean in means), cell(common.mean_std(means))])
    command = "OMP_NUM_THREADS=1 python lpqld.py --teacher FILE --images IMAGES --seed SEED --repeats 3"
    used = [each for found in sets.values() for each in found.values()]
    return grid(["images", *(f"seed {n}" for n in range(5)), "over the sets"], rows, made(command, *used))


def bytes_200() -> str:
    """Accuracy over bytes with 200 classes, the most bytes first."""
    pairs = ((0, 200), (0.9, 200), (0.9, 50), (0.9, 20), (0.9, 10), (0.9, 5), (0.95, 10), (0.9, 2), (0.98, 10))
    lines = [(f"p {p}, k {k}", [f"tiny32-budget-{kind}-p{p}-k{k}" for kind in KINDS]) for p, k in pairs]
    lines += [(f"one label per image, k {k}", [f"tiny32-fixed-k{k}"]) for k in (200, 50, 10, 5, 2, 1)]
    rows = []
    for labels, names in sorted(lines, key=lambda each: -result(each[1][0])["label_bytes"]):
        empty = [""] * (len(KINDS) - len(names))
        rows.append([labels, f"{result(names[0])['label_bytes']:,}", *cells(*names), *empty])
    only = "tiny32-teacher 'tiny32-budget-*' 'tiny32-fixed-*'"
    return grid(["labels", "bytes", *KINDS.values()], rows, made_by(only))


def bytes_cifar100() -> str:
    """Every way to store labels, at IPC 1 and 10, as far as it has been run; the most bytes first."""
    rows = {}
    for file in RESULTS.glob("bytes-*.json"):
        ipc, images, *way = way_of(file.stem)
        rows.setdefault((ipc, -result(file.stem)["label_bytes"], *way), {})[images] = cell(score(file.stem))
    lines = []
    for (ipc, size, *way), scores in sorted(rows.items()):
        lines.append([ipc, *way, f"{-size:,}", *(scores.get(images, "–") for images in ("random", "rded"))])
    return grid(["IPC", "labels", "setting", "bytes", "random", "RDED"], lines, made_by("'bytes-*'"))


def storage_sizes() -> str:
    return grid(*storage.table_of_sizes(), "`python -m experiments.storage` · by formula: nothing is run")


def storage_ways() -> str:
    return grid(*storage.table_of_ways(), "`python -m experiments.storage` · by formula: nothing is run")


# ---------------------------------------------------------------------------------------------------------------------
# One label for each plain image

IPCS = (1, 10, 50)


def accuracy_of(line: str) -> str:
    return f"{result(line)['teacher']['accuracy']:.1f}"


def one_label_teachers() -> str:
    columns = [(ipc, images) for ipc in IPCS for images in ("random", "rded")]
    rows = []
    for epochs in (1, 2, 4, 12, 30):
        lines = [f"fixed-{images}-teacher{epochs}-ipc{ipc}" for ipc, images in columns]
        rows.append([epochs, accuracy_of(lines[0]), *cells(*lines)])
    head = ["epochs of the teacher", "its top-1", *(f"IPC {ipc}: {KINDS[images]}" for ipc, images in columns)]
    return grid(head, rows, made_by("'fixed-images-*' 'fixed-r*-teacher*'"))


def one_label_logits() -> str:
    rows = []
    for ipc in IPCS:
        lines = [*(f"fixed-random-k{k}-ipc{ipc}" for k in (1, 2, 3, 5)), f"fixed-random-teacher12-ipc{ipc}"]
        rows.append([f"IPC {ipc}: bytes", *(f"{result(line)['label_bytes']:,}" for line in lines), "the teacher"])
        rows.append([f"IPC {ipc}: top-1", *cells(*lines, f"fixed-views-ipc{ipc}")])
    head = ["logits kept of each label", 1, 2, 3, 5, 10, "a label for every view"]
    return grid(head, rows, made_by("'fixed-random-*' 'fixed-views-*'"))


# ---------------------------------------------------------------------------------------------------------------------
# Beside the papers

CIFAR_RDED, TINY_RDED = "cpu-cifar10-rded-conv3-ipc10", "cpu-tiny-rded-conv4-ipc10"


def published_cells() -> str:
    """Tiny-ImageNet's cells: at 64 px and a tenth of the epochs, or at 32 px."""
    series = [
        ("ConvNet-4: teacher, 6 of 60 epochs", "cpu-tiny-teacher-conv4"),
        ("RDED's protocol, 30 of 300 epochs, IPC 10, RDED", TINY_RDED),
    ]
    for loss in ("gift", "mse_ce", "kl", "softce"):
        series.append((f"GIFT's Figure 1 at 32 px, RDED, {loss}", f"tiny32-motivation-{loss}"))
    rows = []
    for what, line in series:
        paper, ours = kept(line)["published"], score(line, images="rded")
        numbers = [paper, cell(ours), difference(ours, {"mean": paper})]
        rows.append([what, *numbers, f"`{line}`", run_of(result(line)), f"{kept(line)['minutes']:g}"])
    return grid(["figure", "published", "ours", "difference", "line", "run", "minutes"], rows)


def cim_changes() -> str:
    changes = {
        "nothing": "cim-rded-whole-ipc10",
        "quarters of the images are shown": "cim-rded-quarters-ipc10",
        "mosaics of 2 × 2, shown whole": "cim-cifar10-whole",
        "mosaics of 2 × 2, quarters shown": "cim-cifar10-quarters",
        "images stored as JPEGs": "cim-rded-as-jpeg",
        "labels of a teacher of 1 epoch": "cim-rded-teacher1-ipc10",
        "labels of a teacher of 3 epochs": "cim-rded-teacher3-ipc10",
        "labels of a teacher of 20 epochs": "cim-rded-teacher20-ipc10",
        "the teacher's logits doubled": "cim-rded-doubled-logits",
    }
    rows = []
    for what, line in changes.items():
        found = result(line)
        _, early, _ = found["students"][0]["checks"][0]
        rows.append([what, accuracy_of(line), f"{early:.1f}", cell(found["top1"]), f"`{line}`", run_of(found)])
    return grid(["what is changed", "its teacher", "after 250 epochs", "after 1,000", "line or raw file", "run"], rows)


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR-100


PLAIN = "one label an image"
LIKE = "teacher of 60 epochs on crops"  # as accurate as the published one, in both views
CIFAR_CELLS = [  # protocol, data, images, IPC, published, independent re-run, line
    ("RDED's", "CIFAR-100", "rded", 1, 19.6, "21.6 ± 0.4", "cifar100-rded-conv3-ipc1"),
    ("RDED's", "CIFAR-100", "random", 1, "", "", "cifar100-rded-conv3-ipc1"),
    ("RDED's, ImageNet's colours", "CIFAR-100", "rded", 10, 48.1, "48.7 ± 0.3", "cifar100-rded-conv3-ipc10"),
    ("RDED's", "CIFAR-100", "rded", 10, 48.1, "48.7 ± 0.3", "cifar100-epochs12-rded-ipc10"),
    ("RDED's", "CIFAR-100", "random", 10, "", "50.4 ± 0.4", "cifar100-epochs12-rded-ipc10"),
    ("RDED's", "CIFAR-100", "rded", 50, 57.0, "57.3 ± 0.2", "cifar100-epochs12-rded-ipc50"),
    ("RDED's", "CIFAR-100", "random", 50, "", "58.0 ± 0.1", "cifar100-epochs12-rded-ipc50"),
    (f"RDED's, {LIKE}", "CIFAR-100", "rded", 1, 19.6, "21.6 ± 0.4", "cifar100-crops60-rded-ipc1"),
    (f"RDED's, {LIKE}", "CIFAR-100", "rded", 10, 48.1, "48.7 ± 0.3", "cifar100-crops60-rded-ipc10"),
    (f"RDED's, {LIKE}", "CIFAR-100", "random", 1, "", "", "cifar100-crops60-rded-ipc1"),
    (f"RDED's, {LIKE}", "CIFAR-100", "random", 10, "", "50.4 ± 0.4", "cifar100-crops60-random-ipc10"),
    ("RDED's", "CIFAR-10", "rded", 1, 23.5, "", "cifar10-rded-conv3-ipc1"),
    ("RDED's", "CIFAR-10", "random", 1, "", "", "cifar10-rded-conv3-ipc1"),
    ("RDED's", "CIFAR-10", "rded", 10, 50.2, "", "cifar10-rded-conv3-ipc10"),
    ("RDED's", "CIFAR-10", "random", 10, "", "", "cifar10-rded-conv3-ipc10"),
    ("RDED's", "CIFAR-10", "rded", 50, 68.4, "", "cifar10-rded-conv3-ipc50"),
    ("RDED's", "CIFAR-10", "random", 50, "", "", "cifar10-rded-conv3-ipc50"),
    ("GIFT's with MSE (CIM)", "CIFAR-100", "rded", 1, 21.8, "", "cifar100-cim-conv3-ipc1"),
    (f"GIFT's with MSE (CIM), {LIKE}", "CIFAR-100", "rded", 1, 21.8, "", "cifar100-crops60-cim-ipc1"),
    (f"... shown in quarters, {LIKE}", "CIFAR-100", "rded", 1, 21.8, "", "cifar100-crops60-cim-quarters-ipc1"),
    ("GIFT's with MSE (CIM)", "CIFAR-100", "rded", 10, 47.0, "", "cifar100-loss-mse-rded-ipc10"),
    ("GIFT's with its own loss (CIM: MSE)", "CIFAR-100", "rded", 10, 47.0, "", "cifar100-gift-conv3-ipc10"),
    ("GIFT's with MSE (CIM)", "CIFAR-100", "rded", 50, 55.3, "", "cifar100-cim-conv3-ipc50"),
    ("GIFT's with MSE (CIM)", "CIFAR-100", "sre2l", 1, 12.9, "", "cifar100-cim-sre2l-ipc1"),
    ("GIFT's with MSE (CIM)", "CIFAR-100", "sre2l", 10, 34.2, "", "cifar100-cim-sre2l-ipc10"),
    ("GIFT's with MSE (CIM)", "CIFAR-10", "rded", 1, 28.9, "", "cifar10-cim-rded-ipc1"),
    ("GIFT's with MSE (CIM)", "CIFAR-10", "rded", 10, 56.0, "", "cifar10-cim-rded-ipc10"),
    ("GIFT's with MSE (CIM)", "CIFAR-10", "sre2l", 1, 22.2, "", "cifar10-cim-sre2l-ipc1"),
    ("GIFT's with MSE (CIM)", "CIFAR-10", "sre2l", 10, 39.6, "", "cifar10-cim-sre2l-ipc10"),
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-100", "random", 1, 16.0, "", "cifar100-one-label-teacher1-ipc1"),
    (PLAIN, "CIFAR-100", "random", 1, 16.0, "", "cifar100-one-label-teacher12-ipc1"),
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-100", "random", 10, 34.3, "", "cifar100-one-label-teacher1-ipc10"),
    (PLAIN, "CIFAR-100", "random", 10, 34.3, "", "cifar100-one-label-teacher12-ipc10"),
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-10", "random", 1, 21.1, "", "cifar10-one-label-teacher1-ipc1"),
    (PLAIN, "CIFAR-10", "random", 1, 21.1, "", "cifar10-one-label-teacher12-ipc1"),
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-10", "random", 10, 46.3, "", "cifar10-one-label-teacher1-ipc10"),
    (PLAIN, "CIFAR-10", "random", 10, 46.3, "", "cifar10-one-label-teacher12-ipc10"),
]


def cifar_cells() -> str:
    """Published cells and ours, on the data sets themselves; ours as far as they have been run."""
    rows = []
    for protocol, data, images, ipc, published, again, line in CIFAR_CELLS:
        found = result(line)
        if found:
            row = row_of(line, images=images)
            top1 = row["top1"]
            gap = difference(top1, {"mean": published}) if published else ""
            ours = [cell(top1), cell(row["best_check_top1"]), gap, f"{found['teacher']['accuracy']:.1f}"]
            about = [len(top1["values"]), f"`{line}`", run_of(found)]
            rows.append([protocol, data, KINDS[images], ipc, published, again, *ours, *about])
    head = ["protocol", "data", "images", "IPC", "published", "re-run", "ours", "best check", "ours − published"]
    return grid([*head, "our teacher", "students", "line", "run"], rows)


README_CELLS = {  # protocol, data and images of CIFAR_CELLS: what differs from the published setting
    (f"RDED's, {LIKE}", "CIFAR-100", "rded"): "the teacher's recipe, CIFAR's colours",
    (f"RDED's, {LIKE}", "CIFAR-100", "random"): "the teacher's recipe, CIFAR's colours",
    ("RDED's", "CIFAR-100", "rded"): "teacher; CIFAR's colours (not at IPC 1)",
    (f"GIFT's with MSE (CIM), {LIKE}", "CIFAR-100", "rded"): "the teacher's recipe",
    ("GIFT's with MSE (CIM)", "CIFAR-100", "rded"): "teacher",
    ("RDED's", "CIFAR-10", "rded"): "teacher, CIFAR's colours",
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-100", "random"): "teacher, fewer epochs, no ZCA",
    (f"{PLAIN}, teacher of 1 epoch", "CIFAR-10", "random"): "teacher, fewer epochs, no ZCA",
}


def beside_the_papers() -> str:
    """Independent re-runs are RDED's own code with the published teachers, the best of six checks (andriotis/ca2d)."""
    rows = []
    slow = {}  # lines in fp32, once each
    for key, differs in README_CELLS.items():
        run = [each[3:] for each in CIFAR_CELLS if each[:3] == key and result(each[-1])]
        if not run:  # a line that has not been run says nothing beside the papers
            continue
        ipcs, published, again, lines = zip(*run, strict=True)
        ours = [score(line, images=key[2]) for line in lines]
        slow |= dict.fromkeys(line for line in lines if precision(result(line)) == "fp32")
        protocol, data, images = key
        numbers = [published, again, map(cell, ours), (len(top1["values"]) for top1 in ours)]
        texts = [" / ".join(str(number or "–") for number in each) for each in numbers]
        only = " ".join(f"`{line}`" for line in dict.fromkeys(lines))
        ipc = " / ".join(map(str, ipcs))
        rows.append([f"{data}, {protocol}", KINDS[images], ipc, *texts[:3], differs, texts[3], only])
    head = ["data, protocol", "images", "IPC", "published", "re-run", "ours, last epoch", "what differs", "students"]
    under = f"One set of images each. All in bf16, except {' and '.join(f'`{line}`' for line in slow)}. "
    under += "`python -m experiments.figures --only LINE` runs a line."
    return grid([*head, "lines"], rows, under)


def views_of(line: str) -> dict:
    """{(split, view): what a teacher does there} of a line cifar100-facts-*; {} if it has not been run."""
    return {(row["split"], row["view"]): row for row in result(line)["views"]} if result(line) else {}


def cifar100_teachers() -> str:
    """What a teacher knows, and what its students reach."""
    rows = []
    for epochs in CIFAR100_TEACHERS:
        views = views_of(f"cifar100-facts-teacher{epochs}")
        if views:
            test, train = views["test", "plain"], views["train", "plain"]
            facts = [test["top1"], views["test", "enlarged"]["top1"], train["top1"], train["confidence"]]
            row = [epochs, *(f"{value:.1f}" for value in facts), f"{train['logit_spread']:.2f}"]
            for ipc in (1, 10):
                for protocol in ("rded", "gift"):
                    line = f"cifar100-epochs{epochs}-{protocol}-ipc{ipc}"
                    alone = f"cifar100-epochs{epochs}-random-ipc{ipc}" if protocol == "rded" else line
                    random = score(line, images="random") or score(alone, images="random")
                    row += [cell(score(line, images="rded")), cell(random)]
            rows.append(row)
    head = ["epochs", "test", "test, enlarged", "train", "confidence", "spread"]
    for ipc in (1, 10):
        for protocol in ("RDED's", "GIFT's"):
            head += [f"IPC {ipc}, {protocol} protocol: RDED", f"IPC {ipc}, {protocol} protocol: random"]
    return grid(head, rows, made_by("'cifar100-facts-*' 'cifar100-epochs*'"))


def cifar100_longer_students() -> str:
    """Students that train for longer, by teachers of few epochs and of many."""
    rows = []
    for epochs in CIFAR100_TEACHERS:
        lines = [f"cifar100-slow-teacher{epochs}-student{longer}" for longer in LONGER]
        if any(map(result, lines)):
            accuracy = next(filter(None, map(result, lines)))["teacher"]["accuracy"]
            rows.append([epochs, f"{accuracy:.1f}", *(cell(score(line, images="random")) for line in lines)])
    head = ["epochs of the teacher", "its top-1", *(f"student: {longer:,} epochs" for longer in LONGER)]
    return grid(head, rows, made_by("'cifar100-slow-*'"))


def cifar100_changed_teachers() -> str:
    """The teacher of 12 epochs, and others: other logits, other views, more epochs; the published one under them."""
    series = {  # teacher: the lines of its facts, of its students; one is left out as long as it has not been run
        "12 epochs, as it is": ("teacher12", "epochs12"),
        "logits × 0.5": ("times0.5", "times0.5"),
        "logits × 2": ("times2", "times2"),
        "12 epochs on plain images": ("plain", "plain"),
        "60 epochs": ("teacher60", "epochs60"),
        "60 epochs on crops": ("crops60", "crops60"),
    }
    rows = []
    for change, (facts, name) in series.items():
        line = f"cifar100-facts-{facts}"
        views = views_of(line)
        if views:
            train = views["train", "plain"]
            values = [views["test", view]["top1"] for view in ("plain", "enlarged")]
            values += [train[key] for key in ("top1", "confidence", "calibration_error", "logit_spread")]
            top1 = []
            for ipc in (1, 10):
                by_images = {}
                for images in ("random", "rded"):
                    students = result(f"cifar100-{name}-{images}-ipc{ipc}") or {"rows": []}
                    by_images |= {row["images"]: row["top1"] for row in students["rows"]}
                top1 += [cell(by_images.get(images)) for images in ("rded", "random")]
            shown = [*(f"{value:.1f}" for value in values), *top1]
            rows.append([change, *shown, f"`cifar100-{name}-*`", run_of(result(line))])
    again = ["21.6", "–", "48.7", "50.4"]
    rows.append(["published, students by others", "59.7", "61.3", "–", "–", "–", "–", *again, "", ""])
    head = ["teacher", "test", "test, enlarged", "train", "confidence", "calibration error", "spread"]
    head += [f"IPC {ipc}, {images}" for ipc in (1, 10) for images in ("RDED", "random")]
    return grid([*head, "lines", "run of the teacher"], rows)


# ---------------------------------------------------------------------------------------------------------------------
# Real images, precision


def random_images() -> str:
    series = []  # data, protocol, IPC, {kind: top-1}, one of the results
    for ipc in (1, 10):
        lines = {images: f"cim-{images}-whole-ipc{ipc}" for images in ("random", "rded", "sre2l")}
        scores = {images: score(line) for images, line in lines.items()}
        series.append(("CIFAR-10 as JPEGs", "GIFT's, MSE", ipc, scores, result(lines["random"])))
    tables = (
        ("CIFAR-10 as JPEGs", "RDED's", 10, CIFAR_RDED),
        ("Tiny-ImageNet, 64 px", "RDED's, a tenth of the epochs", 10, TINY_RDED),
        ("fashion", "GIFT's, 60 epochs", 50, "fashion-evaluate-ipc50"),
    )
    for data, protocol, ipc, line in tables:
        scores = {images: score(line, images=images) for images in ("random", "rded")}
        series.append((data, protocol, ipc, scores, result(line)))
    kinds = ("random", "rded", "sre2l")
    rows = [
        [data, protocol, ipc, *(cell(scores[kind]) if kind in scores else "" for kind in kinds), run_of(found)]
        for data, protocol, ipc, scores, found in series
    ]
    return grid(["data", "protocol", "IPC", *(KINDS[kind] for kind in kinds), "run"], rows)


def sets() -> str:
    """evaluate.py's tables: each kind of images with three losses and two optimizers."""
    pairs = [(loss, optimizer) for loss in ("gift", "kl", "ce") for optimizer in ("adamw", "sgd")]
    rows = []
    for ipc in (1, 10):
        for images, name in KINDS.items():
            line = f"fashion-evaluate-ipc{ipc}"
            found = [row_of(line, images=images, loss=loss, optimizer=optimizer) for loss, optimizer in pairs]
            rows.append([ipc, name, *(cell(row["top1"]) for row in found)])
    head = ["IPC", "images", *(f"{loss}, {optimizer}" for loss, optimizer in pairs)]
    options = "--images rded sre2l lpld --ipc IPC --losses gift kl ce --optimizers adamw sgd"
    both = map(result, ("fashion-evaluate-ipc1", "fashion-evaluate-ipc10"))
    return grid(head, rows, made(f"OMP_NUM_THREADS=1 python evaluate.py {options}", *both))


# ---------------------------------------------------------------------------------------------------------------------
# Cost, several processes


def benchmark() -> str:
    rows = []
    for each in result("cpu-benchmark")["results"]:
        times = [f"{each['ours_ms']:.1f}", f"{each['limit_ms']:.1f}", f"{each['ratio']:.3f}"]
        peak = f"{each['peak_bytes'] / 2**30:.2f} / {each['limit_peak_bytes'] / 2**30:.2f}"
        counts = f"{each['operators']:.0f} / {each['limit_operators']:.0f}"
        rows.append([each["row"], each["size"], each["images_per_step"], *times, peak, counts])
    head = ["stage", "network, side", "images", "ours, ms", "limit, ms", "ratio", "peak GiB", "operators"]
    return grid(head, rows, made("python -m experiments.benchmark --seconds 6", result("cpu-benchmark")))


def without_us() -> str:
    found = result("cpu-benchmark-without-us")
    rows = []
    for each in found["results"]:
        alone = each["loader_alone_images_per_second"]
        speeds = [f"{each[key]:.0f}" for key in ("images_per_second", "without_images_per_second")]
        rows.append([each["row"], *speeds, f"{each['times']:.2f}", each["goal"], f"{alone:,.0f}" if alone else ""])
    head = ["images/s", "ours", "without", "times as fast", "goal, large GPU", "the loader alone"]
    return grid(head, rows, made("python -m experiments.benchmark --without-us --seconds 6", found))


def imagenet_size() -> str:
    found = result("cpu-imagenet-size")
    rows = []
    for ipc in (10, 50, 200):
        run = found["results"][f"ipc{ipc}"]
        sizes = [f"{run[key] / 2**30:.3f}" for key in ("images_bytes", "label_bytes", "full_label_bytes")]
        rows.append([ipc, *(f"{run['hours'][stage]:.2f}" for stage in ("recovery", "labels", "training")), *sizes])
    head = ["IPC", "recovery, h", "labels, h", "training, h", "images, GB", "labels, GB", "full labels, GB"]
    command = "python -m experiments.benchmark --imagenet --arch conv3 --width 16 --image-size 16"
    return grid(head, rows, made(command, found))


def processes() -> str:
    found = result("processes")
    rows = []
    for stage, one in found["one"].items():
        several = found["several"][stage]
        rows.append([stage, f"{one:.1f}", f"{several:.1f}", f"{one / several:.2f}"])
    head = ["seconds", "1 process", f"{found['processes']} processes", "times as fast"]
    return grid(head, rows, made("python -m experiments.processes", found))


def hours() -> str:
    found = result("processes-hours")
    rows = []
    for each in found["rows"]:
        if each["stage"] in ("recovery", "all"):
            shares = [f"{hours:.2f} ({idle:.0%})" for hours, idle in each["hours_and_idle"]]
            rows.append([each["name"], each["ipc"], each["stage"], each["pieces"] or "", *shares])
    head = ["data", "IPC", "stage", "pieces", *(f"GPUs: {gpus}" for gpus in found["gpus"])]
    rates = ", ".join(f"{stage} {rate:,}" for stage, rate in found["rates"].items())
    return grid(head, rows, f"`python -m experiments.processes --hours` · assumed images/s of a GPU: {rates}")


TABLES = {
    function.__name__.replace("_", "-"): function
    for function in (beside_the_papers, gift_and_kl, cross_optimizer, kl_rates, sgd_rates, cifar100_losses,
                     published_sets, ablation, cifar100_ablation, gains, five_sets, bytes_200, bytes_cifar100,
                     storage_sizes, storage_ways, one_label_teachers, one_label_logits, published_cells,
                     cim_changes, cifar_cells, cifar100_teachers, cifar100_longer_students,
                     cifar100_changed_teachers, random_images, sets, benchmark, without_us, imagenet_size,
                     processes, hours)
}  # fmt: skip
