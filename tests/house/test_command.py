"""The command `foldserve`: the same as the modules, and one sentence where it cannot be."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from export.__main__ import EXTRAS
from foldserve.__main__ import COMMANDS, describe

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("foldserve")
MODULES = {
    "train": "training",
    "train compare": "training compare",
    "search": "training search",
    "evaluate": "training evaluate",
    "study": "study",
    "export": "export",
    "export bundle": "export bundle",
    "export fold": "export fold",
    "export verify": "export verify",
    "export sign": "export sign",
    "serve": "service",
    "key": "service.access",
}
# What must be in no help: the words of Python, and commands that a wheel does not have.
OF_PYTHON = re.compile(
    r"default factory|\b(int|str|float|bool|Path|tuple|None|STR|INT|FLOAT)\b(?! )|python -m|NoneType"
)


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def foldserve(*words: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "foldserve", *words)


def without(*packages: str, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The command where these packages are not installed."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from foldserve.__main__ import main\n"
        f"sys.exit(main({list(words)!r}))\n"
    )
    return run(sys.executable, "-c", code)


def test_help_fits_80_columns_and_shows_one_example_of_each_command() -> None:
    shown = foldserve("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == describe() + "\n"
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for name in COMMANDS:
        examples = [line for line in shown.stdout.splitlines() if line.split()[:2] == ["foldserve", name]]
        assert len(examples) == 1, name


OWN = ["predict", "batch", "bench"]  # commands that are no module's


@pytest.mark.parametrize("name", [*MODULES, *OWN])
def test_the_help_of_every_command_fits_80_columns_and_shows_an_example(name: str) -> None:
    shown = foldserve(*name.split(), "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert any(line.strip().startswith(f"foldserve {name} ") for line in lines), "an example"
    assert OF_PYTHON.findall(shown.stdout) == []


def test_every_command_is_among_those_whose_help_is_read() -> None:
    assert set(COMMANDS) == {name.split()[0] for name in [*MODULES, *OWN]}


@pytest.mark.parametrize(
    "planted", ["(default factory: usable_cores)", "--port int", "--x {int,None}", "python -m x"]
)
def test_a_planted_word_of_python_is_found(planted: str) -> None:
    assert OF_PYTHON.search(planted)


def test_no_command_is_a_mistake() -> None:
    shown = foldserve()
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == describe() + "\n"


@pytest.mark.parametrize("name", MODULES)
def test_the_help_of_a_command_is_its_modules_under_its_own_name(name: str) -> None:
    module = MODULES[name]
    ours = foldserve(*name.split(), "--help")
    theirs = run(sys.executable, "-m", *module.split(), "--help")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout.startswith(f"usage: foldserve {name} ")
    assert theirs.stdout.startswith(f"usage: python -m {module} ")
    usage, _, rest = theirs.stdout.partition("\n\n")
    assert ours.stdout.partition("\n\n")[2] == rest
    named = usage.replace(f"python -m {module}", f"foldserve {name}")
    assert ours.stdout.partition("\n\n")[0].split() == named.split(), "flags, but for where lines are broken"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--out", "runs/x", "--net", "no-such-net"),
        ("train", "compare", "no-such-run"),
        ("search", "--trials", "0", "--out", "runs/x"),
        ("study", "--only", "no-such-experiment"),
        ("export", "verify", "no-such-bundle"),
        ("serve", "--port", "no-number"),
    ],
)
def test_a_mistake_is_the_modules_sentence_and_exit_code(words: tuple[str, ...]) -> None:
    ours = foldserve(*words)
    theirs = run(sys.executable, "-m", *MODULES[words[0]].split(), *words[1:])
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert ours.returncode == 2
    assert "Traceback" not in ours.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trian", "did you mean train?"),
        ("server", "did you mean serve?"),
        ("frobnicate", "there are train, search, evaluate, study, export, serve, predict, batch, bench, key"),
    ],
)
def test_an_unknown_command_is_named_with_those_that_are_near(word: str, meant: str) -> None:
    shown = foldserve(word, "--help")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == f"foldserve: there is no command '{word}'; {meant}\n"


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("torch", ("train", "--out", "runs/never"), "training"),
        ("training", ("train", "--help"), "training"),
        ("torch", ("study", "--only", "depth"), "training"),
        ("onnx", ("export", "bundle", "x.onnx", "--to", "models/never"), "export"),
        ("onnx", ("export", "verify", "models/x/1"), "fold"),
        ("pydantic", ("export", "--help"), "export"),
        ("onnx", ("export", "fold", "x.onnx", "y.onnx"), "fold"),
        ("pydantic_settings", ("serve", "--help"), "service"),
        ("onnxruntime", ("serve",), "service"),
        ("httpx", ("predict", "x.png"), "client"),
        ("pyarrow", ("batch", "x", "y", "z.csv"), "batch"),
    ],
)
def test_a_missing_package_is_one_sentence_with_what_brings_it(
    missing: str, words: tuple[str, ...], extra: str
) -> None:
    shown = without(missing, words=words)
    assert (shown.returncode, shown.stdout) == (2, ""), shown.stderr
    lines = shown.stderr.splitlines()
    needing = f"error: {words[1]}" if words[0] == "export" and missing == "onnx" else f"foldserve: {words[0]}"
    assert lines[-1].startswith(f"{needing} needs the package {missing}")
    assert lines[-1].endswith(f", which is not installed: pip install 'foldserve[{extra}]'")
    assert "Traceback" not in shown.stderr


def test_the_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {command.extra for command in COMMANDS.values()}
    named |= {extra for extras in EXTRAS.values() for extra in extras.split(",")}
    assert named <= set(project["optional-dependencies"])
    assert project["scripts"] == {"foldserve": "foldserve.__main__:run"}


def test_the_version_says_what_code_runs() -> None:
    shown = foldserve("--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0] in ("foldserve 0.1.0, interpreted", "foldserve 0.1.0, compiled:")
    assert shown.stdout == run(sys.executable, "-m", "service", "--version").stdout


def test_nothing_heavy_is_imported_before_a_command_is_known() -> None:
    code = (
        "import sys; from foldserve.__main__ import main\n"
        "for words in (['--help'], ['trian'], ['--version']): main(words)\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'pydantic', 'training', 'export'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = run(sys.executable, "-c", code)
    assert shown.stdout.splitlines()[-1] == "[]", shown.stderr


@pytest.mark.skipif(not SCRIPT.exists(), reason="foldserve is not installed here: make install")
def test_the_installed_script_is_the_command(tmp_path: Path) -> None:
    shown = run(str(SCRIPT), "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, describe() + "\n")
    assert run(str(SCRIPT), "trian", cwd=tmp_path).returncode == 2


def test_every_package_says_that_it_is_typed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    packages.remove("benchmarks")  # which are in no wheel
    assert len(packages) == 5
    assert [package for package in packages if not (ROOT / package / "py.typed").is_file()] == []
