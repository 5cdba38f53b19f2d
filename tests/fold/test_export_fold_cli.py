"""`fold` as a user meets it: exit codes, what is on stdout, what is on disk."""

import json

import numpy as np
import onnx
import pytest

from export_kit import LIGHT, assert_refused, run, run_here
from onnx_graphs import batchnorm, batchnorm_arrays, graph


def test_fold_accounts_for_every_batchnorm(tmp_path):
    source, target, report = LIGHT / "light_densenet121.onnx", tmp_path / "out.onnx", tmp_path / "fold.json"
    before = source.read_bytes()
    done = run("fold", source, target, "--report", report)
    assert done.returncode == 0, done.stderr
    facts = json.loads(report.read_text())
    assert facts == json.loads(done.stdout)
    assert (facts["found"], facts["folded"], facts["declined"]) == (
        121,
        121,
        0,
    )  # every γ is alike in this file
    assert all(site["how"] and site["channels"] and site["error_bound"] for site in facts["sites"])
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(target).graph.node}
    assert source.read_bytes() == before


@pytest.fixture
def conv_bn(tmp_path):
    arrays = {"w": np.ones((4, 4, 1, 1)), **batchnorm_arrays(4, 0)}
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["h"], name="conv")
    proto = graph([conv, batchnorm("h", "y")], arrays, ["rows", 4, 3, 3], dtype=np.float32)
    onnx.save(proto, tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_fold_reads_external_weights_and_writes_one_file(conv_bn, tmp_path):
    onnx.save(
        onnx.load(conv_bn),
        tmp_path / "ext.onnx",
        save_as_external_data=True,
        location="ext.data",
        size_threshold=0,
    )
    done = run_here("fold", tmp_path / "ext.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    out = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in out.graph.initializer)


def test_fold_never_writes_over_its_input(conv_bn):
    before = conv_bn.read_bytes()
    assert_refused(run_here("fold", conv_bn, conv_bn), "SOURCE is never modified")
    assert conv_bn.read_bytes() == before


@pytest.mark.parametrize("report", ["in.onnx", "out.onnx", "missing/fold.json"])
def test_fold_writes_both_files_or_none(conv_bn, tmp_path, report):
    before = conv_bn.read_bytes()
    done = run_here("fold", conv_bn, tmp_path / "out.onnx", "--report", tmp_path / report)
    assert done.returncode == 2, done.stderr
    assert conv_bn.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_fold_never_writes_over_external_weights(conv_bn, tmp_path):
    options = {"save_as_external_data": True, "location": "ext.data", "size_threshold": 0}
    onnx.save(onnx.load(conv_bn), tmp_path / "ext.onnx", **options)
    before = (tmp_path / "ext.data").read_bytes()
    assert_refused(run_here("fold", tmp_path / "ext.onnx", tmp_path / "ext.data"), "SOURCE is never modified")
    assert (tmp_path / "ext.data").read_bytes() == before


def test_a_batchnorm_in_training_mode_stays_and_the_others_go(tmp_path):
    arrays = {"w": np.ones((4, 4, 1, 1)), **batchnorm_arrays(4, 0)}
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["h"], name="conv")
    names = ["n", "bn.gamma", "bn.beta", "bn.mean", "bn.var"]
    training = onnx.helper.make_node("BatchNormalization", names, ["y", "", ""], name="live", training_mode=1)
    proto = graph([conv, batchnorm("h", "n"), training], arrays, ["rows", 4, 3, 3], dtype=np.float32)
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    sites = {site["name"]: site["status"] for site in json.loads(done.stdout)["sites"]}
    assert sites == {"bn": "folded", "live": "declined"}


def test_answers_that_are_all_zero_prove_nothing(tmp_path):
    nodes = [
        onnx.helper.make_node("Mul", ["x", "zero"], ["y"], name="mul"),
    ]
    onnx.save(graph(nodes, {"zero": np.zeros(4)}, ["rows", 4], dtype=np.float32), tmp_path / "zero.onnx")
    done = run_here("bundle", tmp_path / "zero.onnx", "--to", tmp_path / "m")
    assert_refused(done, "every answer to every row is 0")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a valid ONNX graph"),
        (b"\x00\x01 nonsense", "not a valid ONNX graph"),
        (None, "no such file"),
    ],
)
def test_fold_of_something_else(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "in.onnx").write_bytes(content)
    assert_refused(run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx"), sentence)
    assert not (tmp_path / "out.onnx").exists()
