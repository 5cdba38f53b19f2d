"""The rooms of training/ import in one direction only, as docs/architecture.md draws it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the lowest to the highest; names in one line do not import each other.
FLOORS = (
    {"errors"},
    {"settings", "files", "console"},
    {"pictures"},
    {"data"},
    {"augment", "nets"},
    {"batchnorm"},
    {"distributed"},
    {"loop"},
    {"figures"},
    {"runs"},
    {"search", "evaluation"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms of training/ that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "training" and rest:
                yield rest.split(".")[0]


def upward_imports(package: Path) -> list[str]:
    """Imports of a room that is not below the file's own: with none of them there can be no cycle."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for other in imported_rooms(path):
            if room != "__init__" and other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
                found.append(f"{room} imports {other}: {path.name}")
    return found


def test_rooms_import_only_rooms_below_them():
    inside = {path.name for path in (ROOT / "training").iterdir() if path.name[0] != "_"}
    rooms = {name.removesuffix(".py") for name in inside - {"py.typed"}}
    assert rooms == FLOOR_OF.keys() - {"__main__"}, "every room has its floor"
    assert upward_imports(ROOT / "training") == []


def test_the_files_that_follow_one_run_are_there():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(
        r"To follow one run, read these twelve files in this order: (.*?)\. They", page, re.S
    )
    named = re.findall(r"`([\w/]+\.py)`", sentence)
    assert len(named) == 12
    assert [name for name in named if not (ROOT / "training" / name).is_file()] == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("data", "from training.loop.fit import fit"),
        ("loop", "def f():\n    import training.runs.run"),
        ("nets", "from training import augment"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, room, line):
    (tmp_path / room).mkdir()
    (tmp_path / room / "planted.py").write_text(line + "\n")
    assert len(upward_imports(tmp_path)) == 1
