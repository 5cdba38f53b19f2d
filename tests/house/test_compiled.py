"""The compiled hot path: it is what its sources are, or it is not run at all."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.compiled import FOLDER, digest_of, find_compiled

ROOT = Path(__file__).parents[2]
TOOL = "tools/compile_service.py"
ASKED = ("test_batcher*.py", "test_forecast*.py")  # they ask the parts from outside, as compiled code allows
LEFT_OUT = shutil.ignore_patterns(FOLDER, "__pycache__", ".compiling-*")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mypyc") is None or shutil.which(os.environ.get("CC", "cc")) is None,
    reason="needs mypyc (pip install 'mypy[mypyc]') and a C compiler",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy whose tool compiles one small module."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "service", copy / "service", ignore=LEFT_OUT)
    (copy / "tools").mkdir()
    text = (ROOT / TOOL).read_text()
    begin, end = text.index("MODULES = ("), text.index("\n)\n") + 3
    (copy / TOOL).write_text(text[:begin] + 'MODULES = ("http/reply", "http/outbox")\n' + text[end:])
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def run(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def where(project: Path, **environment: str) -> str:
    """The file that `service.http.reply` is run from."""
    told = run(project, "-c", "import service.http.reply; print(service.http.reply.__file__)", **environment)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def test_compiled_code_runs_until_a_source_is_edited(project):
    assert where(project).endswith("reply.py")
    made = run(project, TOOL)
    assert made.returncode == 0, made.stderr
    assert where(project).endswith(".so")
    assert where(project, FOLDSERVE_COMPILED="0").endswith("reply.py")
    assert sorted(path.name for path in (project / "service").iterdir() if path.name.startswith(".")) == []
    source = project / "service" / "http" / "reply.py"
    source.write_text(source.read_text() + "\n# edited\n")
    assert where(project).endswith("reply.py")


def test_a_compiler_that_fails_leaves_the_sources_to_run(project):
    made = run(project, TOOL, CC="false")
    assert made.returncode == 1
    assert "the compiler failed" in made.stderr
    assert not (project / "service" / FOLDER).exists()
    assert where(project).endswith("reply.py")


def test_no_compiler_is_said_and_is_no_error(project):
    made = run(project, TOOL, CC="no-such-compiler")
    assert made.returncode == 0
    assert made.stderr == (
        "service: not compiled, it runs interpreted and slower: "
        "there is no C compiler no-such-compiler (set CC)\n"
    )


def test_the_digest_is_of_names_and_texts(tmp_path):
    package = tmp_path / "service"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    first = digest_of(package)
    folder = package / FOLDER / first
    assert find_compiled(package) is None
    folder.mkdir(parents=True)
    (package / "a.py").rename(package / "b.py")
    assert digest_of(package) != first
    (package / "b.py").rename(package / "a.py")
    assert digest_of(package) == first


def test_the_compiled_service_passes_the_tests_of_its_sources():
    assert run(ROOT, TOOL).returncode == 0
    assert (ROOT / "service" / FOLDER / digest_of(ROOT / "service")).is_dir()
    files = [str(path) for pattern in ASKED for path in (ROOT / "tests").glob(pattern)]
    assert len(files) > 5
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    told = run(ROOT, *command, FOLDSERVE_COMPILED_INSIDE="1")
    assert told.returncode == 0, told.stdout[-3000:]
    inside = run(ROOT, "-c", "import service.batcher; print(service.batcher.__file__)")
    assert inside.stdout.strip().endswith(".so")
