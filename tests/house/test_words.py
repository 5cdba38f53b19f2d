"""Plain words: expressions that were replaced everywhere by the field's own do not come back."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("*.py", "*.md", "*.html.jinja", "*.lua", "*.yml", "Makefile", "Dockerfile")
EXEMPT = {"tests/house/test_words.py"}  # it lists the words
INSTEAD = {
    r"\b(is|are|was|or) no numbers?\b(?! of)": "NaN, non-finite, or not a number",
    r"\b(no|any|every|some)body\b": "no client, any rank, all callers …",
    r"\bwho(ever|soever)\b": "any client, any rank",
    r"\bgo(ing|es|ne)? on (behind|with)\b": "continue, resume",
    r"\bwhom to tell\b": "the callback",
    r"\bwith a voice\b": "that can communicate",
    r"\bkeeps? still\b": "waits",
    r"\b(stand|stands|stood) still\b": "is idle, is blocked, hangs",
    r"\bgive(s|n)? up the ghost\b|\blast words\b": "the last line, the final response",
    r"\bthrice\b": "three times",
}


def tracked() -> list[str]:
    """The project's own texts, as paths from its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *KINDS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [path for path in listed if path and path not in EXEMPT and (ROOT / path).is_file()]


def found_in(text: str, name: str) -> list[str]:
    """Each replaced expression in a text: where it is, what it says, and what to write instead."""
    return [
        f"{name}:{number}: {match[0]!r}: write {instead}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, instead in INSTEAD.items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]


def test_replaced_words_stay_out():
    paths = tracked()
    assert len(paths) > 300, "the project's files are listed"
    found = [line for path in paths for line in found_in((ROOT / path).read_text(encoding="utf-8"), path)]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    [
        "a statistic that is no number",
        "Nobody waits any more.",
        "whoever comes first",
        "going on behind trial 3",
        "a run that stands still",
    ],
)
def test_a_planted_word_is_found(planted: str):
    (found,) = found_in(f"first line\n{planted}\n", "planted.md")
    assert found.startswith("planted.md:2: ")


def test_plain_words_pass():
    plain = "NaN, no number of rows, resuming after trial 3, any client; a body that goes on"
    assert found_in(plain, "plain.md") == []
