"""The numbers that tests cite are found in the pages that explain them: protocol.md and failure-cases.md."""

import ast
import functools
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.vectors import VECTORS

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
CASES = (ROOT / "docs/failure-cases.md").read_text(encoding="utf-8")

SECTIONS = set(re.findall(r"^(?:## |- \*\*)(6(?:\.\d+)+)", PROTOCOL, re.M))
_SECTION = re.compile(r"(?<![\d.-])6\.\d{1,2}(?:\.\d{1,2})?(?![\d.]*\d| ?(?:ms|s|MB|MiB|%|×)\b)")
_IN_NAME = re.compile(r"test_(6(?:_\d+)+)_")


@functools.cache
def names_of_tests() -> list[tuple[str, str]]:
    """The folder and the name of every test."""
    return [
        (path.parent.relative_to(ROOT).as_posix(), name)
        for path in sorted(TESTS.rglob("test_*.py"))
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    ]


def prose(path: Path) -> Iterator[str]:
    """The comments and the docstrings of a file."""
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def folders_by(word: str) -> dict[int, set[str]]:
    """By number, the folders with a test whose name says `word_NUMBER`."""
    found = defaultdict(set)
    for folder, name in names_of_tests():
        for number in re.findall(rf"_{word}_(\d+)_", name):
            found[int(number)].add(folder)
    return found


def test_every_section_that_a_test_cites_exists():
    found = [(name, _IN_NAME.match(name)) for _, name in names_of_tests()]
    asked = {(name, cited[1].replace("_", ".")) for name, cited in found if cited}
    for folder in ("clients", "conformance", "http", "protocol", "serving"):
        for path in sorted((TESTS / folder).glob("*.py")):
            asked |= {(path.name, cited) for text in prose(path) for cited in _SECTION.findall(text)}
    assert len(asked) > 100, "the citations are found"
    assert sorted(cited for cited in asked if cited[1] not in SECTIONS) == []


def test_every_vector_is_in_the_protocol():
    rows = re.findall(r"^\| V(\d+) \| (.*?) \| ([\d., ]+) \|$", PROTOCOL, re.M)
    assert {int(number): words for number, words, _ in rows} == VECTORS
    assert {section for *_, told in rows for section in told.split(", ")} <= SECTIONS
    assert set(folders_by("vector")) == set(VECTORS)


ROWS = {int(number): held for number, held in re.findall(r"^\| (\d+) \| .* \| (.*) \|$", CASES, re.M)}


def test_the_failure_cases_are_numbered_without_gaps():
    assert list(ROWS) == list(range(1, 47))
    assert set(folders_by("case")) <= set(ROWS)


@pytest.mark.parametrize("case", ROWS)
def test_a_failure_case_is_held_by_what_the_page_says(case):
    """Tests of that number in just these folders, vectors, a whole folder, or the reason for none of them."""
    named, held = folders_by("case").get(case, set()), ROWS[case]
    folders = set(re.findall(r"tests/\w+(?![\w/])", held.replace("(../tests/", "(")))
    vectors = {int(number) for number in re.findall(r"\bV(\d+)\b", held)}
    assert named <= folders, "a test of this number is in a folder that the page does not name"
    assert all((ROOT / folder).is_dir() for folder in folders)
    assert vectors <= set(VECTORS)
    is_declined = re.match(r"(does not apply|not held)\b.*: \w", held)
    assert folders or vectors or is_declined, "neither a test nor a reason"
    whole = {"tests/clients", "tests/road"}  # whose every test is of one case
    assert is_declined or folders - named <= whole, "the page names a folder without a test of this number"
