"""What `bundle` and `fold` do when asked: pay for folds, take pixels, store float16."""

import io
import json

import httpx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from export.bundle.half import weigh
from export.compute.reference import reference
from export.errors import FoldError, ProofError
from export.fold.gauges.system import FREE
from export.fold.pixels import fold_pixels
from export.graph.file import load_graph
from export.graph.prepare import prepare
from export.proof.reading import prove_reading
from export.sources.pictures import as_rows
from export_kit import assert_refused, run_here
from folds_kit import concat_net
from onnx_graphs import batchnorm, batchnorm_arrays, graph
from service.contract.bundle import open_bundle
from service_kit import serving

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture_net(*, pads: int = 0, dtype: type = np.float32) -> onnx.ModelProto:
    """Conv 3×3 → BatchNormalization → GlobalAveragePool → Flatten, on three channels."""
    arrays = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)), **batchnorm_arrays(4, 0)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv", pads=[pads] * 4),
        batchnorm("h", "n"),
        helper.make_node("GlobalAveragePool", ["n"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    return graph(nodes, arrays, ["rows", 3, 6, 6], dtype=dtype)


@pytest.fixture
def save(tmp_path):
    def save_as(proto: onnx.ModelProto):
        onnx.save(proto, tmp_path / "in.onnx")
        return tmp_path / "in.onnx", tmp_path / "out.onnx"

    return save_as


def op_types(path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_threshold_is_bought_only_where_it_is_asked_for(save):
    source, target = save(concat_net())
    free = json.loads(run_here("fold", source, target, "--only-free").stdout)
    assert (free["folded"], free["declined"]) == (1, 1), "one tensor cannot carry both shifts"
    done = run_here("fold", source, target, "--threshold")
    paid = json.loads(done.stdout)
    assert (paid["folded"], paid["declined"]) == (2, 0)
    assert any("the price: a Max or Min with a constant at Relu" in site["how"] for site in paid["sites"])
    assert {"Max", "Min"} & set(op_types(target))


def test_a_border_is_bought_only_where_it_is_asked_for(save):
    arrays = {"w": np.random.default_rng(0).normal(size=(2, 4, 3, 3)), **batchnorm_arrays(4, 0)}
    padded = helper.make_node("Conv", ["n", "w"], ["y"], name="conv", pads=[1] * 4)
    source, target = save(graph([batchnorm("x", "n"), padded], arrays, ["rows", 4, 5, 5], dtype=np.float32))
    assert json.loads(run_here("fold", source, target).stdout)["declined"] == 1
    (site,) = json.loads(run_here("fold", source, target, "--pad").stdout)["sites"]
    assert (site["status"], op_types(target)) == ("folded", ["Conv", "Add"])
    assert site["how"].endswith("the price: an Add for its border at Conv 'conv'")
    assert site["error_bound"] >= 2.0**-24


def test_only_free_and_a_price_contradict_each_other(save):
    assert_refused(
        run_here("fold", *save(concat_net()), "--only-free", "--pad"), "--only-free allows neither"
    )


@pytest.mark.parametrize(("pads", "ops"), [(0, ["Cast", "Conv"]), (1, ["Cast", "Sub", "Conv"])])
def test_pixels_go_in_as_they_are(save, pads, ops):
    source, target = save(picture_net(pads=pads))
    given = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    done = run_here("fold", source, target, "--inputs", "uint8", *given)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"] == 1, "the pixels' own BatchNorm is not one of the net's"
    assert op_types(target)[: len(ops)] == ops
    assert onnx.load(target).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("pads", [0, 1])
def test_pixels_are_normalised_exactly(pads):
    unfolded = prepare(ir.from_proto(picture_net(pads=pads, dtype=np.float64)))
    folded, _ = fold_pixels(unfolded, FREE, MEAN, STD)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 6)).astype(np.uint8)
    (expected,) = reference(unfolded).run(None, {"x": as_rows(pixels, MEAN, STD)})
    (answer,) = reference(folded).run(None, {"x": pixels})
    assert np.abs(answer - expected).max() < 1e-12 * np.abs(expected).max()
    (without_mean,) = reference(unfolded).run(None, {"x": as_rows(pixels, (0, 0, 0), STD)})
    assert np.abs(without_mean - expected).max() > 1e-2 * np.abs(expected).max(), "the mean matters here"


def test_pixels_whose_normalisation_cannot_go_are_refused(save):
    proto = graph([helper.make_node("Sigmoid", ["x"], ["y"])], {}, ["rows", 3, 6, 6], dtype=np.float32)
    done = run_here("fold", *save(proto), "--inputs", "uint8", "--mean", "0,0,0", "--std", "1,1,1")
    assert_refused(done, "the input's normalisation cannot be folded")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--inputs", "uint8"], "go together"),
        (["--mean", "0,0,0", "--std", "1,1,1"], "go together"),
        (["--inputs", "uint8", "--mean", "0", "--std", "1"], "1 means and stds need as many channels"),
    ],
)
def test_pixels_need_a_mean_and_a_std_for_each_channel(save, flags, sentence):
    assert_refused(run_here("fold", *save(picture_net()), *flags), sentence)


def test_a_bundle_that_takes_pixels_is_served(save, tmp_path):
    source, _ = save(picture_net(pads=1))
    given = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    done = run_here("bundle", source, "--to", tmp_path / "models/p", "--inputs", "uint8", *given)
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    (logits,) = reference(prepare(load_graph(source))).run(
        None, {"x": as_rows(pixels.transpose(2, 0, 1)[np.newaxis], MEAN, STD).astype(np.float32)}
    )
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    with serving(tmp_path / "models") as server:
        answer = httpx.post(f"{server.url}/predict?top=4", content=file.getvalue()).json()
    top = {one["label"]: one["probability"] for one in answer["predictions"][0]["top"]}
    assert [top[str(index)] for index in range(4)] == pytest.approx(expected, abs=1e-5)


def test_a_bundle_in_float16(save, tmp_path):
    source, _ = save(picture_net())
    done = run_here("bundle", source, "--to", tmp_path / "m", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "m/1")
    proto = onnx.load_from_string(bundle.graph)
    kinds = {numpy_helper.to_array(tensor).dtype for tensor in proto.graph.initializer}
    assert np.dtype(np.float16) in kinds
    assert np.dtype(np.float32) not in kinds
    assert bundle.manifest.inputs[0].dtype == "float32"
    assert b"Weights in float16" in (tmp_path / "m/1/report.html").read_bytes()
    verified = run_here("verify", tmp_path / "m/1")
    assert verified.returncode == 0, verified.stdout


def test_what_float16_loses_is_counted_and_what_it_cannot_hold_is_refused():
    model = prepare(ir.from_proto(picture_net()))
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    array.reshape(-1)[:3] = 1e-9, 1e-6, 1e-6
    weight.const_value = ir.tensor(array, name="w")
    (loss,) = weigh(model)
    assert (loss.name, loss.size, loss.lost, loss.subnormal) == ("w", 108, 1, 2)
    array.reshape(-1)[0] = 1e5
    weight.const_value = ir.tensor(array, name="w")
    with pytest.raises(FoldError, match=r"'w' overflows float16: 1 of 108 weights"):
        weigh(model)


def test_a_graph_that_was_read_wrongly_is_refused(save):
    """The negative control of the proof of reading: one weight nudged by 1 %."""
    source, _ = save(picture_net())
    model = prepare(load_graph(source))
    prove_reading(source, model, seed=0)
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    array.reshape(-1)[np.abs(array).argmax()] *= 1.01
    weight.const_value = ir.tensor(array, name="w")
    with pytest.raises(ProofError, match="was not read as ONNX Runtime reads it"):
        prove_reading(source, model, seed=0)
