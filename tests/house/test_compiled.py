"""The compiled hot path: it is what its sources are, or the service does not start."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from service.compiled import STAMP

ROOT = Path(__file__).parents[2]
ASKED = ("test_batcher*.py", "test_forecast*.py")  # they ask the parts from outside, as compiled code allows
MADE = shutil.ignore_patterns("*.so", "_hotpath.json", "__pycache__")
COMPILE = ("setup.py", "--quiet", "build_ext", "--inplace")
TWO = 'HOT = ("http/reply", "http/outbox")\n'
OF_TWO = "".join(f"  service.{name}\n" for name in ("http.reply", "http.outbox", "contract._resample"))
NO_COMPILER = (
    "service: not compiled, it runs interpreted and slower: there is no C compiler no-such-compiler (set CC)"
)
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mypyc") is None or shutil.which(os.environ.get("CC", "cc")) is None,
    reason="needs mypyc (pip install 'mypy[mypyc]') and a C compiler",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with the service alone, whose build compiles two small modules."""
    return checkout(tmp_path / "project")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was compiled, to be copied."""
    made = checkout(tmp_path_factory.mktemp("made") / "project")
    compile_in(made)
    return made


@pytest.fixture
def compiled(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "project")


def checkout(copy: Path) -> Path:
    shutil.copytree(ROOT / "service", copy / "service", ignore=MADE)
    text = (ROOT / "setup.py").read_text()
    begin, end = text.index("HOT = ("), text.index("\n)\n") + 3
    (copy / "setup.py").write_text(text[:begin] + TWO + text[end:])
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def run(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run our Python in a folder; what it prints, and its exit code."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def compile_in(project: Path) -> None:
    made = run(project, *COMPILE)
    assert made.returncode == 0, made.stderr
    assert "service: compiling 2 modules" in made.stderr


def runs_from(project: Path) -> str:
    """The suffix of the file that `service.http.reply` is run from."""
    shown = run(project, "-c", "import service.http.reply; print(service.http.reply.__file__)")
    assert shown.returncode == 0, shown.stderr
    return Path(shown.stdout.strip()).suffix


def version(project: Path) -> str:
    shown = run(project, "-m", "service", "--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


def refusal(project: Path, *flags: str) -> str:
    """Why the service does not start."""
    refused = run(project, "-m", "service", *flags)
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    return refused.stderr


def test_every_module_that_is_to_be_compiled_exists():
    text = (ROOT / "setup.py").read_text()
    hot = ast.literal_eval(text[text.index("HOT = (") + 6 : text.index("\n)\n") + 2])
    assert len(hot) > 20
    assert [module for module in hot if not (ROOT / "service" / f"{module}.py").is_file()] == []


def test_an_edited_source_is_refused_until_it_is_compiled_again(project):
    assert version(project) == "foldserve 0.1.0, interpreted\n"
    assert runs_from(project) == ".py"
    compile_in(project)
    assert version(project) == f"foldserve 0.1.0, compiled:\n{OF_TWO}"
    assert runs_from(project) == ".so"

    source = project / "service" / "http" / "reply.py"
    source.write_text(source.read_text() + "\n# edited\n")
    for flags in ((), ("--version",), ("--models", "models")):
        assert refusal(project, *flags) == (
            f"foldserve: {source} was edited since it was compiled; "
            "`make compiled` compiles again, `make interpreted` removes what was compiled\n"
        )
    compile_in(project)
    assert version(project).startswith("foldserve 0.1.0, compiled:")
    assert runs_from(project) == ".so"


def test_edited_c_is_refused_too(compiled):
    source = compiled / "service" / "contract" / "_resample.c"
    source.write_text(source.read_text() + "\n/* edited */\n")
    assert f"{source} was edited since it was compiled" in refusal(compiled)


def test_a_source_that_is_not_compiled_may_be_edited(compiled):
    source = compiled / "service" / "errors.py"
    source.write_text(source.read_text() + "\n# edited\n")
    assert version(compiled).startswith("foldserve 0.1.0, compiled:")


def test_a_source_that_is_gone_and_a_build_that_was_cut_off_are_refused(compiled):
    source = compiled / "service" / "http" / "reply.py"
    source.rename(source.with_name("answer.py"))
    assert f"{source} was compiled and is gone; `make compiled`" in refusal(compiled)
    (compiled / STAMP).unlink()
    assert "was cut off; `make compiled` compiles again" in refusal(compiled)


def test_what_is_compiled_already_is_not_compiled_again(compiled):
    before = {path: path.stat().st_mtime_ns for path in compiled.rglob("*.so")}
    again = run(compiled, *COMPILE)
    assert (again.returncode, again.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in compiled.rglob("*.so")} == before


def test_a_module_that_is_no_longer_compiled_loses_its_machine_code(compiled):
    setup = compiled / "setup.py"
    setup.write_text(setup.read_text().replace(TWO, 'HOT = ("http/outbox", "routes/request_record")\n'))
    compile_in(compiled)
    assert runs_from(compiled) == ".py"
    lines = version(compiled).splitlines()
    names = ("http.outbox", "routes.request_record", "contract._resample")
    assert lines == ["foldserve 0.1.0, compiled:", *(f"  service.{name}" for name in names)]


def test_make_interpreted_removes_what_was_compiled(compiled):
    made = {path.name for path in compiled.joinpath("service").rglob("*") if path.suffix in {".so", ".json"}}
    assert len(made) == 5
    shutil.copy(ROOT / "Makefile", compiled)
    subprocess.run(["make", "interpreted"], cwd=compiled, check=True)
    assert runs_from(compiled) == ".py"
    assert version(compiled) == "foldserve 0.1.0, interpreted\n"


def test_a_compiler_that_fails_leaves_the_sources_to_run(compiled):
    source = compiled / "service" / "http" / "reply.py"
    source.write_text(source.read_text() + "\n# edited\n")
    made = run(compiled, *COMPILE, CC="false")
    assert made.returncode == 1
    assert "the compiler failed" in made.stderr
    assert version(compiled) == "foldserve 0.1.0, interpreted\n"
    assert runs_from(compiled) == ".py"


def test_no_compiler_is_said_and_is_no_error(project):
    made = run(project, *COMPILE, CC="no-such-compiler")
    assert (made.returncode, made.stderr) == (0, NO_COMPILER + "\n")
    assert version(project) == "foldserve 0.1.0, interpreted\n"


def test_importing_the_service_reads_no_source_and_changes_no_path(compiled):
    code = (
        "import sys; before = list(sys.path); import service; "
        "print(sys.path == before, list(service.__path__), sorted(n for n in sys.modules if 'service' in n))"
    )
    shown = run(compiled, "-c", code)
    assert shown.stdout.strip() == f"True ['{compiled / 'service'}'] ['service']", shown.stderr


def wheel_of(project: Path, **environment: str) -> tuple[Path, str]:
    """The wheel that pip builds, and what the build said."""
    flags = ("--no-deps", "--no-build-isolation", "--verbose", "--wheel-dir", "dist")
    built = run(project, "-m", "pip", "wheel", *flags, ".", **environment)
    assert built.returncode == 0, built.stderr
    (wheel,) = (project / "dist").glob("*.whl")
    return wheel, built.stdout + built.stderr


def test_an_installed_wheel_runs_compiled_and_adds_nothing_beside_its_packages(project, tmp_path):
    wheel, _ = wheel_of(project)
    assert not wheel.name.endswith("-none-any.whl")
    elsewhere = tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(elsewhere)
    assert {path.name for path in elsewhere.iterdir() if path.suffix != ".dist-info"} == {"foldserve"}
    packages = elsewhere / "foldserve" / "_packages"
    shown = run(packages, "-m", "service", "--version")
    assert shown.stdout == f"foldserve 0.1.0, compiled:\n{OF_TWO}"
    assert runs_from(packages) == ".so"
    source = packages / "service" / "http" / "reply.py"
    source.write_text(source.read_text() + "\n# edited\n")
    assert refusal(packages) == (
        f"foldserve: {source} was edited since it was compiled; install foldserve again\n"
    )


def test_without_a_compiler_the_wheel_is_built_of_sources_alone(project, tmp_path):
    wheel, said = wheel_of(project, CC="no-such-compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert NO_COMPILER in said
    elsewhere = tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(elsewhere)
    assert version(elsewhere / "foldserve" / "_packages") == "foldserve 0.1.0, interpreted\n"


def test_the_compiled_service_passes_the_tests_of_its_sources(tmp_path):
    """In a copy, because other tests start servers here; what is compiled here already comes along."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "service", copy / "service", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("training", "export", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=MADE)
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    made = run(copy, *COMPILE)
    assert made.returncode == 0, made.stderr
    files = [str(path) for pattern in ASKED for path in (copy / "tests").rglob(pattern)]
    assert len(files) > 5
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    tested = run(copy, *command, TESTS_COMPILED_INSIDE="1")
    assert tested.returncode == 0, tested.stdout[-3000:]
    inside = run(copy, "-c", "import service.batching.batcher as batcher; print(batcher.__file__)")
    assert inside.stdout.strip().endswith(".so")
