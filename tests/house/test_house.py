"""Who may import whom, and documentation that names only what exists."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACT = "service.contract."


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield node.module or ""


def is_beyond_the_contract(name: str) -> bool:
    """Whether a module is the service's and not of the room that all three packages share."""
    return name.split(".")[0] == "service" and not name.startswith(CONTRACT)


def breaches(folder: Path, room: str) -> list[str]:
    """The imports that a room must not have."""
    forbidden = {
        "training": lambda name: name.split(".")[0] == "export" or is_beyond_the_contract(name),
        "study": is_beyond_the_contract,
        "export": is_beyond_the_contract,
        "service": lambda name: name.split(".")[0] in {"training", "export", "torch", "onnx", "onnx_ir"},
    }[room]
    found = [(path, name) for path in sorted(folder.rglob("*.py")) for name in imports(path)]
    return [f"{path.name}: {name}" for path, name in found if forbidden(name) or name.startswith("foldserve")]


@pytest.mark.parametrize("room", ["training", "study", "export", "service"])
def test_data_goes_one_way(room):
    assert breaches(ROOT / room, room) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("service", "import torch.nn as nn"),
        ("service", "def f():\n    from export.fold import usual"),
        ("service", "import training"),
        ("export", "from service.engine.engine import Engine"),
        ("export", "import service"),
        ("study", "from foldserve.__main__ import main"),
        ("training", "from service.models.folder import ModelsFolder"),
        ("training", "from export.bundle.pack import pack"),
    ],
)
def test_a_planted_breach_is_found(tmp_path, room, line):
    (tmp_path / "planted.py").write_text(line + "\n")
    assert len(breaches(tmp_path, room)) == 1


# The rooms of each package, the lowest first (drawn in docs/architecture.md): a room imports only from below.
SERVICE = (
    {"compiled"},
    {""},
    {"contract", "errors", "page", "cgroup"},
    {"isolation", "flags"},
    {"settings", "access", "telemetry", "protocol", "batching", "pictures"},
    {"engine", "read_settings"},
    {"models", "http"},
    {"routes"},
    {"processes"},
    {"__main__", "asgi"},
)
EXPORT = (
    {"", "errors"},
    {"compute"},
    {"graph"},
    {"sources", "fold"},
    {"proof"},
    {"int8"},
    {"bundle"},
    {"commands"},
    {"__main__"},
)


def floors(package: str) -> dict[str, int]:
    """The floor of each room of a package."""
    rooms = {"service": SERVICE, "export": EXPORT}[package]
    return {room: floor for floor, names in enumerate(rooms) for room in names}


def room_of(path: Path, package: Path) -> str:
    """The room that a file belongs to: a folder of the package, a module of it, or "" for its __init__."""
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def room_named(module: str) -> str:
    """The room that `PACKAGE.ROOM.…` names."""
    return [*module.split("."), ""][1]


def imports_upwards(folder: Path, package: str) -> list[str]:
    """Imports between the rooms of a package that do not go to a lower floor, so that none go in a circle."""
    found = []
    floor_of = floors(package)
    for path in sorted(folder.rglob("*.py")):
        own = room_of(path, folder)
        for module in imports(path):
            room = room_named(module)
            if module.split(".")[0] == package and room != own and floor_of[room] >= floor_of[own]:
                found.append(f"{path.name}: {own} imports {room}")
    return found


@pytest.mark.parametrize("package", ["service", "export"])
def test_rooms_import_only_downwards(package):
    folder = ROOT / package
    assert {room_of(path, folder) for path in folder.rglob("*.py")} <= set(floors(package))
    assert imports_upwards(folder, package) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("compute", "from export.graph.edit import constant"),
        ("sources", "from export.fold.stages import fold"),
        ("fold", "def f():\n    from export.proof.prove import prove"),
        ("proof", "import export.bundle.make"),
        ("telemetry", "from service.models.registry import ModelRegistry"),
        ("models", "from service.http.reply import header_lines"),
        ("contract", "def f():\n    import service.errors"),
        ("batching", "from service.engine.engine import Engine"),
    ],
)
def test_a_planted_import_of_a_higher_room_is_found(tmp_path, room, line):
    (tmp_path / room).mkdir()
    (tmp_path / room / "planted.py").write_text(line + "\n")
    assert len(imports_upwards(tmp_path, "export" if "export" in line else "service")) == 1


def installed_by(extra: str) -> set[str]:
    """Every package that `foldserve[extra]` brings, by the metadata of what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pending = [Requirement(text) for text in project["dependencies"] + extras[extra]]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        for wanted in requirement.extras or {""}:
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            if name == "foldserve":
                pending += [Requirement(text) for text in extras[wanted]]
                continue
            for text in requires(name) or []:
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": wanted}):
                    pending.append(inner)
    return {name for name, _ in seen}


def test_the_service_installs_neither_torch_nor_onnx():
    packages = installed_by("service")
    assert {"fastapi", "onnxruntime", "uvloop", "httptools"} <= packages
    assert not packages & {"torch", "onnx", "onnx-ir", "onnxscript", "uvicorn"}
    assert "torch" in installed_by("export"), "the walk finds what is there"


def test_a_fold_installs_neither_torch_nor_a_web_server():
    packages = installed_by("fold")
    assert {"onnx", "onnx-ir", "onnxruntime", "onnxscript", "numpy", "pydantic"} <= packages
    assert not packages & {"torch", "fastapi", "uvicorn", "jinja2", "pillow"}


def test_every_package_is_pinned():
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for extra in ("training", "export", "fold", "service", "dev"):
        assert installed_by(extra) - {"foldserve", "pip"} <= pinned, extra  # pip is what installs them


def test_nothing_is_unpickled_unsafely():
    unsafe = re.compile(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|pickle\.loads?\(")
    for room in ("training", "export", "service"):
        for path in (ROOT / room).rglob("*.py"):
            assert not unsafe.search(path.read_text(encoding="utf-8")), path


def test_the_readmes_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_the_readmes_modules_exist():
    for module in set(re.findall(r"python -m ([a-z0-9_.]+)", README)) - {"pytest"}:
        assert module.split(".")[0] in {"training", "export", "service", "study", "benchmarks"}, module
        path = ROOT.joinpath(*module.split("."))
        assert (path / "__main__.py").exists() or path.with_suffix(".py").exists(), module


def test_links_between_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("answer", "extra"), [("exit 0", "service-gpu"), ("exit 9", "service")])
def test_make_takes_the_cuda_build_where_nvidia_smi_answers(tmp_path, answer, extra):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\n{answer}\n")
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (extras,) = re.findall(r"-e '\.\[(.*)\]'", plan)
    assert set(extras.split(",")) & {"service", "service-gpu"} == {extra}
    assert ("export" in extras.split(",")) == (extra == "service"), "export alone brings the CPU build"
