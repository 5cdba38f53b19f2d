"""The pages that people read name only files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**/*.md",
    "tests/**/*.md",
    "benchmarks/**/*.md",
]
PATH = re.compile(
    r"(?<![\w/.-])((?:service|export|training|study|tests|benchmarks|tools|docs|deploy)/[\w./-]*[\w/])"
)
# As in "`repository.py` finds versions"; in brackets, failure-cases.md names files of other projects.
BARE = re.compile(r"(?<![\w/.-])([a-z_]\w*\.py)\b(?![^\[]*\])")
MADE = {"service/_hotpath.json", "service/_hotpath__mypyc"}  # by `make compiled`; git ignores them


def pages() -> list[Path]:
    return sorted(page for pattern in PAGES for page in ROOT.glob(pattern))


def missing_from(text: str) -> list[str]:
    """The paths and names of Python files in a page that are nowhere in the project."""
    text = re.sub(r"\]\([^)]*\)", "]", text)  # links are checked by test_house.py
    paths = {path.rstrip("/") for path in PATH.findall(text)} - MADE
    gone = [path for path in paths if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()]
    names = set(BARE.findall(text)) - {"setup.py"}
    rooms = [
        ROOT / room for room in ("service", "export", "training", "study", "tests", "benchmarks", "tools")
    ]
    known = {path.name for room in rooms for path in room.rglob("*.py")}
    return sorted(gone) + sorted(names - known)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_files_that_exist(page: Path):
    assert missing_from(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("planted", "gone"),
    [
        ("see `service/manifest.py`", "service/manifest.py"),
        ("`tests/test_house.py` walks", "tests/test_house.py"),
        ("`fit_it.py` is a generator", "fit_it.py"),
        ("the room `export/folds/`", "export/folds"),
    ],
)
def test_a_planted_breach_is_found(planted: str, gone: str):
    assert missing_from(planted) == [gone]


def test_what_exists_passes():
    assert missing_from("`service/contract/bundle.py`, `training/loop/`, `batcher.py`, and.so/on") == []


def test_the_index_of_decisions_has_every_title_in_order():
    folder = ROOT / "docs/decisions"
    files = sorted(folder.glob("[0-9]*.md"))
    titles = [file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files]
    index = (folder / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[(.*)\]\((.*)\) \| \w.* \|$", index, re.MULTILINE)
    assert linked == [(title, file.name) for title, file in zip(titles, files, strict=True)]
