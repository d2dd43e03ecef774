"""README.md, AUDIT.md and experiments/README.md: the names and files that they mention, the length of their lines."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "AUDIT.md", "experiments/README.md", "experiments/COST.md", "experiments/PROCESSES.md")
MODULES = ("gift", "lpqld", "synthesize", "evaluate", "common", "experiments.one_label", "experiments.hald",
           "experiments.small_teacher", "experiments.teachers")  # fmt: skip
MENTION = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, MODULES))})((?:\.[A-Za-z_]\w*)+)")
LONGEST = 400


@pytest.fixture(params=DOCUMENTS)
def document(request):
    return ROOT / request.param


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def names_in(text: str) -> list[str]:
    """`module.name` in backticks; gift.py and evaluate.json are files."""
    names = []
    for code in re.findall(r"`([^`]+)`", without_code_blocks(text)):
        names += [module + rest for module, rest in MENTION.findall(code)]
    return [name for name in names if not name.endswith((".py", ".json", ".md"))]


def exists(name: str) -> bool:
    """Whether this is a name of the module, or of something in it; fields of a class without a default count."""
    module, rest = MENTION.fullmatch(name).groups()
    found = importlib.import_module(module)
    for part in rest.removeprefix(".").split("."):
        is_field = isinstance(found, type) and part in getattr(found, "__annotations__", {})
        if not hasattr(found, part) and not is_field:
            return False
        found = getattr(found, part, None)
    return True


def test_names_are_found_and_told_from_files():
    text = "`common.Split.at_side`, `gift.main()`; `python gift.py`, `runs/gift.x`, gift.bare\n```\ngift.block\n```\n"
    text += "`experiments.one_label.main`, `python -m experiments.one_label`, `experiments/one_label.py`\n"
    assert names_in(text) == ["common.Split.at_side", "gift.main", "experiments.one_label.main"]
    assert exists("common.Split.at_side") and exists("gift.Protocol.arch")
    assert not exists("gift.summarize") and not exists("common.Split.nothing")


def test_every_name_exists(document):
    missing = [name for name in names_in(document.read_text()) if not exists(name)]
    assert not missing


def test_the_audit_names_a_place_in_each_row():
    rows = [line for line in (ROOT / "AUDIT.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row.split("|")[1:-1] for row in rows]
    unplaced = [row[0] for row in rows if row[0] != " what " and (len(row) != 4 or not names_in(row[2]))]
    assert len(rows) > 20 and not unplaced


def test_relative_links_and_pictures_lead_to_files(document):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(document.read_text()))
    files = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    missing = [file for file in files if not (document.parent / file).exists()]
    assert not missing


def test_lines_outside_tables_are_short(document):
    lines = document.read_text().splitlines()
    long = [line[:60] for line in lines if len(line) > LONGEST and not line.startswith("|")]
    assert not long
