"""`bundle` and `verify` as a user meets them: exit codes, what is on stdout, what is on disk."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export_kit import assert_refused, run, run_here
from nets import everything
from onnx_graphs import batchnorm, batchnorm_arrays, graph
from service.contract.bundle import open_bundle


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = run("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", folder)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["found"], facts["folded"], facts["declined"]) == (5, 5, 0)
    return folder


def test_a_bundle_is_whole_and_self_contained(model_folder):
    bundle = open_bundle(model_folder / "1")
    assert {path.name for path in (model_folder / "1").iterdir()} == {
        "model.onnx",
        "golden.npz",
        "manifest.json",
        "report.html",
    }
    proto = onnx.load_from_string(bundle.graph)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert bundle.manifest.inputs[0].shape == [None, 1, 8, 8]
    net = everything().double()
    with torch.no_grad():
        expected = net(torch.from_numpy(bundle.golden.inputs["input"]).double()).numpy()
    np.testing.assert_allclose(bundle.golden.outputs["logits"], expected, rtol=1e-10)


def test_the_report_opens_offline(model_folder):
    page = (model_folder / "1" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=|@import|url\(", page), "the report reaches for something outside"
    assert "conv_bn" in page
    assert "5 / 5" in page


def test_the_next_bundle_is_the_next_version(model_folder):
    (model_folder / "7").mkdir()
    (model_folder / "0008").mkdir()
    done = run("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", model_folder)
    (model_folder / "7").rmdir()
    (model_folder / "0008").rmdir()
    assert Path(json.loads(done.stdout)["bundle"]).name == "9"
    assert not list(model_folder.glob(".partial*"))


def test_verify_proves_again(model_folder):
    done = run("verify", model_folder / "1")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["proved"] is True
    assert facts["differences"]["worst"]["logits"] <= facts["tolerances"]["logits"]
    assert set(facts["differences"]["buckets"]) == {"1", "2", "4", "8", "16", "32", "64"}


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "report.html"])
def test_verify_fails_on_a_changed_byte(model_folder, tmp_path, name):
    copy = shutil.copytree(model_folder / "1", tmp_path / "1")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    done = run_here("verify", copy)
    assert done.returncode == 1
    assert f"{name}: sha-256 is" in json.loads(done.stdout)["error"]


def test_a_tolerance_that_was_widened_by_hand_is_refused(model_folder, tmp_path):
    copy = shutil.copytree(model_folder / "1", tmp_path / "1")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tolerances"]["logits"]["max_abs"] *= 10
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = run_here("verify", copy)
    assert done.returncode == 1
    assert "tolerances.logits: Value error, max_abs must follow" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_a_reader_that_has_read_enough(model_folder, verb):
    """Of much, which is written at once, and of little, which waits for the end."""
    command = [sys.executable, "-m", "export", verb, str(model_folder)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as done:
        assert done.stdout is not None
        done.stdout.close()
        assert done.wait() == 1
        assert done.stderr is not None
        assert b"Broken" not in done.stderr.read()


def test_verify_without_a_bundle(tmp_path):
    assert_refused(run_here("verify", tmp_path / "none"), "No such file or directory")


def test_a_file_of_weights_is_loaded(tmp_path):
    net = everything()
    with torch.no_grad():
        net.conv.weight.mul_(2)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    options = ["--input-shape", "1,8,8", "--weights", tmp_path / "weights.pt", "--to", tmp_path / "m"]
    done = run("bundle", "nets:everything", *options)
    assert done.returncode == 0, done.stderr
    golden = open_bundle(tmp_path / "m" / "1").golden
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(golden.inputs["input"]).double()).numpy()
    np.testing.assert_allclose(golden.outputs["logits"], expected, rtol=1e-10)


def test_a_factory_that_prints_does_not_spoil_stdout(tmp_path):
    done = run_here("bundle", "nets:talkative", "--input-shape", "1,8,8", "--to", tmp_path / "m")
    assert json.loads(done.stdout)["found"] == 5
    assert "loaded pretrained weights" in done.stderr
    assert "takes arrays only: if they are pictures, say" in done.stderr, "one channel, and no preprocessing"


def test_an_onnx_file_with_a_fixed_batch_becomes_a_bundle(tmp_path):
    """Opset 9, batch of 1, a Reshape that says so: the rows become symbolic and are proved independent."""
    arrays = {
        "w": np.random.default_rng(0).normal(size=(4, 2, 3, 3)),
        "to": np.array([1, 64]),
        **batchnorm_arrays(4, 0),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "n"),
        onnx.helper.make_node("Reshape", ["n", "to"], ["y"], name="flat"),
    ]
    onnx.save(graph(nodes, arrays, [1, 2, 6, 6], dtype=np.float32, opset=9), tmp_path / "fixed.onnx")
    done = run_here("bundle", tmp_path / "fixed.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "m" / "1")
    assert (bundle.manifest.fold.found, bundle.manifest.fold.folded) == (1, 1)
    assert bundle.manifest.outputs[0].shape == [None, 64]
    assert "reference implementation" in bundle.manifest.provenance.truth
    assert "takes arrays only" not in done.stderr, "two channels are no picture's"


def test_rows_that_are_not_independent_are_refused(tmp_path):
    """The answer to a row must not depend on its neighbours: here each row has the batch's mean taken off."""
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x", "rows"], ["m"], keepdims=1),
        onnx.helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    onnx.save(graph(nodes, {"rows": np.array([0])}, ["n", 4], dtype=np.float32), tmp_path / "mixed.onnx")
    assert_refused(
        run_here("bundle", tmp_path / "mixed.onnx", "--to", tmp_path / "m"), "rows are not independent"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nets:everything"], "needs --input-shape"),
        (["nets:nothing", "--input-shape", "1,8,8"], "has no attribute 'nothing'"),
        (["nowhere:net", "--input-shape", "1,8,8"], "No module named 'nowhere'"),
        (["nets:broken", "--input-shape", "1,8,8"], "nets:broken raised RuntimeError: no such layer"),
        (["nets:not_a_net", "--input-shape", "1,8,8"], "must return an nn.Module"),
        (["nets:no_statistics", "--input-shape", "1,8,8"], "no running statistics"),
        (["nets:everything", "--input-shape", "3,8,8"], "fails on rows of shape"),
        (
            ["nets:everything", "--input-shape", "1,8,8", "--weights", "README.md"],
            "README.md is no file of weights",
        ),
        (["nets:everything", "--input-shape", "1,8,8", "--mean", "0.5"], "--mean and --std go together"),
        (["nets:everything", "--input-shape", "1,8.5"], "--input-shape: expected a number from 1 on"),
        (["none.pt"], "none.pt"),
    ],
)
def test_a_source_that_cannot_be_used(tmp_path, arguments, sentence):
    assert_refused(run_here("bundle", *arguments, "--to", tmp_path / "m"), sentence)
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_torn_checkpoint(tmp_path):
    torch.save({"schema_version": 1}, tmp_path / "whole.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-40])
    assert_refused(run_here("bundle", tmp_path / "torn.pt", "--to", tmp_path / "m"), "torn.pt")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run_here("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", tmp_path / "file" / "m")
    assert_refused(done, "cannot be written")


def test_labels_that_do_not_fit(tmp_path):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    options = ["--input-shape", "1,8,8", "--labels", tmp_path / "labels.txt", "--to", tmp_path / "m"]
    assert_refused(run_here("bundle", "nets:everything", *options), "2 labels, but a row of 'logits' is [5]")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bundle", "x.onnx"], "the following arguments are required: --to; see"),
        (
            ["fold", "a", "b", "--treshold"],
            "unrecognized arguments: --treshold (did you mean --threshold?)",
        ),
        (["bundle", "a", "--to", "b", "--colour", "red"], "unrecognized arguments: --colour red; see"),
        (["bundel"], "invalid choice: 'bundel'"),
    ],
)
def test_a_wrong_flag_is_one_sentence(arguments, sentence):
    assert_refused(run_here(*arguments), sentence)


def test_help_has_an_example():
    for verb in ([], ["bundle"], ["fold"], ["verify"]):
        done = run_here(*verb, "--help")
        assert done.returncode == 0
        assert f"  foldserve export {' '.join(verb) or 'bundle'} " in done.stdout
