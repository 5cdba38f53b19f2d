"""A wheel from an sdist of what git has, installed elsewhere: one name to import, and the whole road."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from service_kit import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a compiler, so that building takes seconds; test_compiled.py builds with one."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", build], cwd=folder / "source", check=True, stdout=subprocess.DEVNULL
    )
    (sdist,) = folder.glob("*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, "CC": "no-such-compiler"}
    subprocess.run([*command, "-w", str(folder), str(sdist)], env=environment, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    return folder


def foldserve(site: Path, cwd: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "foldserve", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_sdist_can_be_compiled(wheel: Path) -> None:
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"service/contract/_resample.c", "setup.py", "constraints.txt"} <= names


def test_a_wheel_has_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"foldserve"}
    for name in ("service/page/index.html", "service/page/page.js", "export/bundle/report.html.jinja"):
        assert f"foldserve/_packages/{name}" in names
    assert not [name for name in names if "test" in name.split("/")[0]]


def test_the_road_from_digits_to_a_table_of_labels(site: Path, tmp_path: Path) -> None:
    foldserve(site, tmp_path, "train", "--out", "runs/digits", "--epochs", "1")
    packed = json.loads(
        foldserve(site, tmp_path, "export", "bundle", "runs/digits/checkpoint.pt", "--to", "models/digits")
    )
    assert packed["folded"] == packed["found"] == 3
    (tmp_path / "pictures").mkdir()
    shutil.copy(ROOT / "docs/seven.png", tmp_path / "pictures")
    facts = json.loads(foldserve(site, tmp_path, "batch", "models/digits", "pictures", "labels.csv"))
    assert (facts["rows"], facts["without_answer"]) == (1, 0)
    assert "interpreted" in foldserve(site, tmp_path, "--version")
    assert "usage: foldserve serve" in foldserve(site, tmp_path, "serve", "--help")


def test_what_runs_is_the_wheels_own(site: Path, tmp_path: Path) -> None:
    code = (
        "import foldserve.client, sys; assert not any('_packages' in path for path in sys.path)\n"
        "from foldserve.__main__ import main; main(['--version']); import service; print(service.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(site / "foldserve/_packages/service/__init__.py")
