"""Run the papers' experiments, and ours. Each is one command, a *line*; lines.py lists them.

    python -m experiments.figures --list              # every line, the published number beside it, what has been run
    python -m experiments.figures --only 'fashion-*'  # on a CPU, minutes
    python -m experiments.figures                     # every line: it needs GPUs and all data sets
    python -m experiments.figures --table             # what has been run, as a table, and the pictures
    python -m experiments.figures --write             # the tables of README.md and of experiments/*.md, anew

A line that has been run leaves experiments/results/<name>.json: result, command, hardware, versions, date, minutes. It
is not run again. A line that was stopped goes on where it was (a benchmark begins again).
"""

import fnmatch
import glob
import os
import shlex
import sys
import time
from pathlib import Path

import torch

import common
import evaluate
import gift
import lpqld
import synthesize
from common import UserError
from experiments import benchmark, hald, one_label, pictures, small_teacher, tables, teachers
from experiments.lines import LINES, Line

# ---------------------------------------------------------------------------------------------------------------------
# Running them

SCRIPTS = {  # how a command begins
    "synthesize.py": synthesize,
    "gift.py": gift,
    "lpqld.py": lpqld,
    "evaluate.py": evaluate,
    "-m experiments.one_label": one_label,
    "-m experiments.hald": hald,
    "-m experiments.small_teacher": small_teacher,
    "-m experiments.teachers": teachers,
    "-m experiments.benchmark": benchmark,
}

SMALL = "--dataset fashion --colours none --arch conv3 --width 8 --ipc 2 --teacher-epochs 1"
REHEARSAL = {  # options that --rehearse appends: the last of two equal ones counts
    "synthesize.py": SMALL,
    "gift.py": f"{SMALL} --epochs 2 --repeats 1",
    "lpqld.py": f"{SMALL} --epochs 50 --repeats 1 --batch-size 10 --top-k 2",
    "evaluate.py": f"{SMALL} --epochs 2 --repeats 1",
    "-m experiments.one_label": f"{SMALL} --epochs 2 --repeats 1 --logits 2",
    "-m experiments.hald": f"{SMALL} --soft-epochs 2 --hard-epochs 1 --labels-per-class 4 --repeats 1 --top-k 2",
    "-m experiments.small_teacher": f"{SMALL} --epochs 2 --repeats 1",
    "-m experiments.teachers": SMALL,
    "-m experiments.benchmark": "--sizes tiny-test --seconds 0.01 "
    "--arch conv3 --width 2 --image-size 8 --groups 2 --iterations 1",
}


def command_line(line: Line, args) -> tuple[str, list[str]]:
    """(script, options) of a line, in the folders that are asked for. For a rehearsal: at a tiny size."""
    script = next(script for script in SCRIPTS if line.command.startswith(script))
    options = shlex.split(line.command.removeprefix(script))
    options = [f"{args.out}/{option[5:]}" if option.startswith("runs/") else option for option in options]
    if args.rehearse:
        options = list(without_other_lines(options))
        is_recovered = "lpld" in options or "sre2l" in options
        options += shlex.split(REHEARSAL[script])
        if is_recovered:  # there is no time for it
            options += ["--images", "random"]
    if SCRIPTS[script] is not benchmark and "--out" not in options and args.out != Path("runs"):
        options += ["--out", str(args.out)]
    if args.device:
        options += ["--device", args.device]
    return script, options


def without_other_lines(options: list[str]):
    """The options without a teacher's file; RDED's images in place of sets that other lines or people have made."""
    for before, option in zip(["", *options], options, strict=False):
        if "--teacher" in (before, option):
            continue
        if before == "--images" and "/" in option:
            yield "rded"
        elif not option.startswith("data/sets/"):
            yield option


def only_match(option: str) -> str:
    """An option, with the * of a folder replaced by the hash of the one folder that is there."""
    if "*" not in option:
        return option
    found = glob.glob(option)
    if len(found) != 1:
        raise UserError(f"{option} fits {len(found)} paths and must fit one; another line makes it (--list)")
    return found[0]


def run(line: Line, args):
    """Run a line, and keep what it has found, with the minutes that it took in all runs."""
    clock = args.out / "figures" / f"{line.name}.clock.json"
    seconds_before = read_clock(clock, line)
    started = time.monotonic()
    typed = sys.argv
    try:
        script, options = command_line(line, args)
        options = [only_match(option) for option in options]
        print(f"\n{line.name}: python {script} {shlex.join(options)}", flush=True)
        torch.cuda.empty_cache()  # a benchmark's own processes need what earlier lines have left
        sys.argv = [script.replace("-m experiments.", "experiments/"), *options]  # made_with reads the command there
        found = SCRIPTS[script].main(options)
        common.wait()  # for process 0, which writes the file that all read now
        result = result_of(found)
    except UserError as error:
        raise UserError(f"{line.name}: {error}; the lines after it have not been run") from None
    finally:  # stopped runs count too
        sys.argv = typed
        seconds = seconds_before + time.monotonic() - started
        if common.rank == 0:
            common.save(clock, {"command": line.command, "seconds": seconds})
    if common.rank == 0:
        kept = {**line._asdict(), "minutes": round(seconds / 60, 1), "result": result}
        common.write_json(result_file(line, args), kept)
        clock.unlink()
    common.wait()  # for the result, which all read next


def read_clock(clock: Path, line: Line) -> float:
    """Seconds of earlier runs of this line, which was stopped. A benchmark begins again."""
    if not clock.exists() or "experiments.benchmark" in line.command:
        return 0.0
    kept = common.load(clock)
    return kept["seconds"] if kept["command"] == line.command else 0.0


def result_of(found: dict) -> dict:
    """What is kept of a script's result; of distilled images, the accuracy of their teacher."""
    if "results" in found:  # a benchmark
        return found
    if "file" not in found:  # distilled images
        made = common.load(Path(found["images"]["folder"]) / "set.json")["made_with"]
        return {**found, "top1": common.mean_std([found["teacher"]["accuracy"]]), "made_with": made}
    result = common.load(Path(found["file"]))
    failed = [row["failed"] for row in result.get("rows", []) if "failed" in row]
    if failed:
        raise UserError(f"{len(failed)} of its rows failed ({failed[0]}); run it again")
    for student in result.get("students", []):
        student.pop("teacher_and_student_temperatures", None)  # 300 pairs; they stay in the script's own file
    return result


def result_file(line: Line, args) -> Path:
    return args.results / f"{line.name}.json"


def kept_result(line: Line, args) -> dict | None:
    """The result of a line, if it has been run. It is found by the name: "command" says how it was run."""
    file = result_file(line, args)
    if not file.exists():
        return None
    kept = tables.read_result(file)
    with common.refused(f"{file} is damaged: delete it, and the line is run again"):
        table({line.name: kept})  # it has all that the tables show
        return kept


# ---------------------------------------------------------------------------------------------------------------------
# The table

HEADINGS = ("figure", "published", "ours, last epoch", "best of checks", "difference", "minutes", "hardware", "command")


def rows_of(name: str, kept: dict) -> list[tuple]:
    """(figure, published, what was scored) of a line: one, or a row for each cell of a table."""
    result = kept["result"]
    if "rows" not in result:
        return [(name, kept["published"], result)] if "top1" in result else []
    if isinstance(result["rows"], dict):  # the ablation's
        return [(f"{name}: {row}", None, found) for row, found in result["rows"].items()]
    rows = []
    for row in result["rows"]:
        published = kept["published"] if row["images"] == "rded" else None
        rows.append((f"{name} {row['images']}, {row['loss']}, {row['optimizer']}", published, row))
    return rows


def table(done: dict[str, dict]) -> str:
    rows = []
    for name, kept in done.items():
        made = kept["result"]["made_with"]
        about = [f"{kept['minutes']:.0f}", f"{made['device']}, torch {made['torch']}", f"`python {kept['command']}`"]
        for what, published, found in rows_of(name, kept):
            top1, best = found["top1"], found.get("best_check_top1")
            paper = ["", ""] if published is None else [f"{published:.1f}", f"{top1['mean'] - published:+.1f}"]
            best = f"{best['mean']:.1f}" if best else ""
            rows.append([what, paper[0], common.spread(top1), best, paper[1], *about])
            about = ["", "", ""]  # once is enough
    return tables.grid(list(HEADINGS), rows)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def read_options(argv):
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of lines, as in a shell: 'tiny-rded-*'")
    add("--list", action="store_true", help="print the lines (done*: by an older command), and run nothing")
    add("--table", action="store_true", help="print the table of what has been run, draw the pictures, and run nothing")
    add("--write", action="store_true", help="write the tables of the documents from the kept results, and run nothing")
    add("--rehearse", action="store_true", help="run every line at a tiny size, into --out alone: do they work here?")
    add("--device", help="default: cuda if there is one")
    add("--results", type=common.path_of, default=Path("experiments/results"), help="default: experiments/results")
    add("--out", type=common.path_of, help="stages of the scripts (default: runs; for --rehearse runs/rehearsal)")
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs/rehearsal" if args.rehearse else "runs")
    args.results = args.out / "results" if args.rehearse else args.results
    return args


def print_lines(lines: list[Line], args):
    for line in lines:
        kept = kept_result(line, args)
        state = "-" if not kept else "done" if kept["command"] == line.command else "done*"
        published = "" if line.published is None else f"{line.published:.2f}"
        print(f"{state:6}{line.name:40}{published:>6}  python {line.command}")


def main(argv=None) -> dict:
    args = read_options(argv)
    if args.write:
        changed = [os.path.relpath(file) for file in tables.write(tables.DOCUMENTS)]
        print(f"written: {', '.join(changed)}" if changed else "the tables are as the results say: nothing to write")
        return {}
    lines = [line for line in LINES if any(fnmatch.fnmatch(line.name, pattern) for pattern in args.only)]
    if not lines:
        raise UserError(f"--only {' '.join(args.only)}: no line has such a name (--list shows them)")
    if args.list:
        print_lines(lines, args)
        return {}
    if not args.table:
        for line in lines:
            if kept_result(line, args):
                print(f"{line.name}: done, {result_file(line, args)}")
            else:
                run(line, args)
    done = {line.name: kept_result(line, args) for line in LINES}
    done = {name: kept for name, kept in done.items() if kept}
    shown = {line.name: done[line.name] for line in lines if line.name in done}
    if not shown:
        raise UserError(f"none of these lines has been run: nothing in {args.results}")
    print(f"\n{table(shown)}")
    for path in pictures.draw_all(shown, done, args.results, args.out):
        print(f"\npicture:  {path}")
    return shown


if __name__ == "__main__":
    common.run_script(main)
