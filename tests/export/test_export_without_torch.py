"""An ONNX file is folded, proved, bundled and verified where there is no torch, and nothing of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_graphs import batchnorm, batchnorm_arrays, graph

ROOT = Path(__file__).parents[2]

# `find_spec` of the first finder raises, so that no import of these can succeed anywhere in the process.
WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "training", "PIL"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from export.__main__ import main
sys.exit(main())
"""


def run_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def source(tmp_path):
    arrays = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)), **batchnorm_arrays(4, 0)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "n"),
        helper.make_node("MaxPool", ["n"], ["p"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    onnx.save(graph(nodes, arrays, ["rows", 3, 8, 8], dtype=np.float32), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_a_file_is_folded_and_proved_without_torch(source, tmp_path):
    done = run_without_torch("fold", source, tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    nodes = onnx.load(tmp_path / "out.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Conv", "MaxPool", "Flatten"]


def test_a_file_is_bundled_and_verified_without_torch(source, tmp_path):
    done = run_without_torch("bundle", source, "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    again = run_without_torch("verify", tmp_path / "models/m/1")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["proved"] is True


def test_a_checkpoint_needs_torch(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    done = run_without_torch("bundle", tmp_path / "checkpoint.pt", "--to", tmp_path / "m")
    assert "is blocked" in done.stderr, "what is blocked is what a net imports"
