"""`bundle --dtype int8`: a second graph with golden answers of its own, or a refusal with the numbers."""

import json
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import export.commands.bundle as command
from export.int8.make import Int8Options
from export_kit import assert_refused, run_here
from int8_kit import faster, slower
from onnx_graphs import graph
from service.contract.bundle import open_bundle
from service.contract.parity import BUCKETS, measure


@pytest.fixture(autouse=True)
def _fast_machine(monkeypatch):
    """Tiny nets are no faster in int8, and tests do not measure."""
    monkeypatch.setattr(command, "Int8Options", partial(Int8Options, measure=faster))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A net of every linear op, from its BatchNorms' statistics alone."""
    folder = tmp_path_factory.mktemp("int8") / "everything"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "Int8Options", partial(Int8Options, measure=faster))
        done = run_here(
            "bundle", "nets:everything", "--input-shape", "1,8,8", "--to", folder, "--dtype", "int8"
        )
    assert done.returncode == 0, done.stderr
    return done, open_bundle(folder / "1")


def test_both_graphs_are_in_the_bundle(bundled):
    done, bundle = bundled
    assert bundle.int8 is not None
    int8 = bundle.manifest.int8
    assert int8 is not None
    assert int8.ranges.source == "batchnorm"
    assert min(int8.sqnr_db.values()) > 15
    facts = json.loads(done.stdout)["int8"]
    assert facts["speedup"] == {"1": 2.0, "8": 2.0}
    assert {node.op_type for node in onnx.load_from_string(bundle.int8.graph).graph.node} >= {
        "QuantizeLinear",
        "DequantizeLinear",
    }


def test_what_stays_float_says_why(bundled):
    layers = {layer.op_type: layer for layer in bundled[1].manifest.int8.layers}
    assert layers["ConvTranspose"].reason == "ONNX Runtime computes ConvTranspose in float"
    assert layers["Conv"].status == "int8"
    assert layers["Conv"].range_source == "batchnorm"


def test_extreme_golden_rows_set_no_range(tmp_path):
    done = run_here(
        "bundle", "nets:squeezed", "--input-shape", "1,16,16", "--to", tmp_path / "m", "--dtype", "int8"
    )
    assert done.returncode == 0, done.stderr
    int8 = open_bundle(tmp_path / "m" / "1").manifest.int8
    assert int8 is not None
    tried = int8.ranges.sqnr_db_of
    golden, made = "6 sigma, biases corrected", "6 sigma, made rows, biases corrected"
    adapted = {f"{method}, weights adapted" for method in (golden, made)}
    assert set(tried) == {golden, made} | adapted
    assert tried[made] > tried[golden] + 6
    assert next(layer.op_type for layer in int8.layers if layer.range_source == "made rows") == "Conv"


def test_the_report_shows_what_int8_costs(bundled):
    page = (bundled[1].path / "report.html").read_text(encoding="utf-8")
    for part in ("In int8", "ConvTranspose in float", "The golden rows that move most", "batchnorm", "dB"):
        assert part in page
    assert "In int8" not in page.partition("<h2>In int8</h2>")[0]


def test_the_answers_are_float(bundled):
    graph = onnx.load_from_string(bundled[1].int8.graph).graph
    (last,) = [node for node in graph.node if graph.output[0].name in node.output]
    assert last.op_type == "Gemm"


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_same_bits_in_every_bucket_and_thread_count(bundled, threads):
    bundle = bundled[1]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(bundle.int8.graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    parity = measure(lambda rows: dict(zip(names, session.run(names, dict(rows)), strict=True)),
                     bundle.int8.golden, BUCKETS)  # fmt: skip
    assert parity.worst == dict.fromkeys(names, 0.0)


def test_verify_replays_the_int8_answers_too(bundled, tmp_path):
    bundle = bundled[1]
    done = run_here("verify", bundle.path)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["int8"]["differences"] == dict.fromkeys(bundle.golden.outputs, 0.0)


def test_a_graph_that_is_not_faster_is_refused_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "Int8Options", partial(Int8Options, measure=slower))
    folder = tmp_path / "m"
    done = run_here("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", folder, "--dtype", "int8")
    assert_refused(done, "int8 is not fast enough here: 0.50 × at batch 1 (1 ms → 2 ms), 0.50 × at batch 8")
    assert "stay float: ConvTranspose" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("flags", [["--calibrate", "rows.npz"], ["--max-accuracy-drop", "1"]])
def test_flags_of_int8_need_it(tmp_path, flags):
    done = run_here("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", tmp_path / "m", *flags)
    assert_refused(done, "--calibrate and --max-accuracy-drop belong to --dtype int8")


def test_a_net_without_batchnorms_needs_rows(tmp_path):
    weights = {"w": np.ones((2, 1, 1, 1), np.float32)}
    net = graph([helper.make_node("Conv", ["x", "w"], ["y"])], weights, ["rows", 1, 8, 8], dtype=np.float32)
    onnx.save(net, tmp_path / "net.onnx")
    done = run_here("bundle", tmp_path / "net.onnx", "--to", tmp_path / "m", "--dtype", "int8")
    assert_refused(done, "the net has no BatchNorm whose statistics say how large its tensors are: give rows")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:, :, :7], "has rows of shape [1, 7, 8], the net takes [1, 8, 8]"),
        (lambda rows: rows[:31], "31 rows, expected at least 32"),
        (lambda rows: np.where(rows > 2, np.inf, rows), "is not finite in row"),
    ],
)
def test_rows_that_cannot_be_used_are_one_sentence(tmp_path, change, sentence):
    np.savez(tmp_path / "rows.npz", change(np.random.default_rng(0).normal(size=(64, 1, 8, 8)) * 2))
    done = run_here(
        *("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", tmp_path / "m", "--dtype", "int8"),
        *("--calibrate", tmp_path / "rows.npz"),
    )
    assert_refused(done, sentence)
    assert not (tmp_path / "m").exists()


def test_rows_choose_between_nine_ways(tmp_path):
    rows = tmp_path / "rows.npz"
    chance = np.random.default_rng(0)
    np.savez(rows, chance.normal(size=(65, 1, 8, 8)) * 2)
    done = run_here(
        *("bundle", "nets:everything", "--input-shape", "1,8,8", "--to", tmp_path / "m", "--dtype", "int8"),
        *("--calibrate", rows),
    )
    assert done.returncode == 0, done.stderr
    ranges = json.loads(done.stdout)["int8"]["ranges"]
    assert (ranges["source"], ranges["rows"], len(ranges["sqnr_db_of"])) == ("rows", 33, 9)
    int8 = open_bundle(tmp_path / "m" / "1").manifest.int8
    assert int8 is not None
    assert int8.sqnr_rows == 32, "those that judge are not those that fit"
