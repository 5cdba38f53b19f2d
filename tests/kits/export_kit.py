"""The command line of export, as a process of its own or inside this one."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import onnx

from export.__main__ import main

TESTS = Path(__file__).parent


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.run(
        [sys.executable, "-m", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
    )


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same command line inside this process, for the many mistakes: torch is imported once."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
