"""Documents that can be followed: their commands and flags exist, and the examples run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import reference
from foldserve.__main__ import COMMANDS
from service.settings import PREFIX, Settings
from service_kit import ROOT, free_port, serving
from tiny_nets import digits_net, write_bundle

REFERENCE = ROOT / "docs/reference"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "decisions" not in page.parts),
    ROOT / "examples/README.md",
]
VERBS = reference.VERBS
COMMAND = re.compile(r"(?<![\w./`-])`?foldserve ([a-z]+)((?: +[^\n`|#]+)?)")


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `foldserve COMMAND [VERB]` in code of a page, and the flags that follow it."""
    code = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL) + re.findall(r"`(foldserve [^`]+)`", text)
    for block in code:
        for name, rest in COMMAND.findall(block.replace("\\\n", " ")):
            words = rest.split()
            verb = words[0] if words and words[0] in VERBS.get(name, ()) else ""
            yield f"{name} {verb}".strip(), re.findall(r"--[a-z0-9-]+", rest)


@cache
def help_of(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "foldserve", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def known(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def wrong_in(text: str) -> list[str]:
    """Commands, flags, settings, routes and metrics that do not exist."""
    found = []
    for route in re.findall(r"`((?:GET|POST) /[^`?]*)[^`]*`", text):
        if f"`{re.sub(r'(?<=/models/)(NAME|M|…)(?=/|$)', '{model}', route)}`" not in known("routes.md"):
            found.append(route)
    settings = {name.upper() for name in Settings.model_fields} | {"API_KEY"}  # the client's
    found += [name for name in re.findall(rf"\b{PREFIX}([A-Z0-9_]+)\b", text) if name not in settings]
    for metric in re.findall(r"\bfoldserve_[a-z0-9_]+", text):
        if not re.search(rf"`{re.sub('_(sum|count|bucket)$', '', metric)}`", known("metrics.md")):
            found.append(metric)
    for command, flags in commands(text):
        if command.split()[0] not in COMMANDS:
            found.append(command)
        else:
            has = set(re.findall(r"--[a-z0-9-]+", help_of(command)))
            found += [f"{command} {flag}" for flag in flags if flag not in has]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_everything_that_a_page_names_exists(page: Path) -> None:
    assert wrong_in(page.read_text(encoding="utf-8")) == []


def test_planted_mistakes_are_found() -> None:
    assert wrong_in("`foldserve frobnicate`") == ["frobnicate"]
    assert wrong_in("```sh\nfoldserve serve --prot 9\n```") == ["serve --prot"]
    assert wrong_in("`foldserve export bundle x.onnx --to models/x`") == []
    assert wrong_in("`GET /v2/modles`, FOLDSERVE_PROT and foldserve_request") == [
        "GET /v2/modles",
        "PROT",
        "foldserve_request",
    ]
    assert wrong_in("`POST /v2/models/NAME/infer`, FOLDSERVE_PORT, foldserve_request_seconds_sum") == []


def test_the_reference_is_what_the_code_says() -> None:
    for path, text in reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python tools/reference.py"


def test_the_readme_names_most_commands() -> None:
    named = {command.split()[0] for command, _ in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"train", "export", "serve", "batch", "predict"} <= named


def printed_blocks() -> Iterator[tuple[str, str, str]]:
    """Python that is followed by what it prints: the page, the code, the lines."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for code, printed in re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL):
            yield page.name, code, printed


def test_python_prints_what_its_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    pages = set()
    for page, code, printed in printed_blocks():
        exec(compile(code, page, "exec"), {})
        assert capsys.readouterr().out == printed
        pages.add(page)
    assert "folding.md" in pages


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("pictures.py", str(ROOT / "docs/seven.png"), str(ROOT / "README.md")), 2),
        (("arrays.py", "digits"), 3),
    ],
)
def test_examples_run(tmp_path: Path, words: tuple[str, ...], lines: int) -> None:
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with serving(tmp_path) as server:
        command = [sys.executable, str(ROOT / "examples" / words[0]), server.url, *words[1:]]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == lines


def test_a_net_from_nothing_is_answered_as_the_net_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/own_net.py"), str(tmp_path), str(free_port())]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines()[-3:])
    assert float(said["largest difference from the net in float64"]) < 1e-4
    assert said["pictures with the net's label"] == "100.0%"
    assert float(said["pictures with the right label"].rstrip("%")) > 90
