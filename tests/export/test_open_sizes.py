"""Nets whose sizes stay open: a range for each, golden rows at several sizes, one fold for all of them."""

import json

import numpy as np
import onnx
import pytest

from export.proof.verify import verify
from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from open_kit import (
    PICTURES,
    WIDTHS,
    bundled,
    itself,
    nudged,
    recogniser,
    rewritten,
    segmentation,
    two_inputs,
)
from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError, parse_manifest


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return bundled(recogniser(), tmp_path_factory.mktemp("open") / "models", "words", WIDTHS)


def refused(proto, folder, sentence, *shapes, flags=()):
    onnx.save(proto, folder / "in.onnx")
    given = [f"--input-shape={shape}" for shape in shapes]
    assert_refused(run_here("bundle", folder / "in.onnx", "--to", folder / "net", *given, *flags), sentence)
    assert not (folder / "net").exists()


def test_a_range_is_in_the_manifest_and_golden_rows_at_its_ends_and_inside(words):
    opened = open_bundle(words)
    manifest = opened.manifest
    assert (manifest.schema_version, manifest.fold.folded) == (4, 2)
    assert manifest.inputs[0].shape == [None, 3, 8, "W"]
    assert manifest.outputs[0].shape == [None, "y.1", 6], "a size that no input has gets a name of its own"
    assert {name: str(held) for name, held in manifest.sizes.items()} == {
        "W": "16 to 160 in steps of 16",
        "y.1": "4 to 40",
    }
    assert [golden.sizes["W"] for golden in opened.goldens] == [16, 32, 48, 80, 160]
    assert opened.num_golden_rows >= 32
    for golden in opened.goldens:
        found = itself(recogniser(), golden.inputs)["y"]
        assert golden.inputs["x"].shape[1:] == (3, 8, golden.sizes["W"])
        np.testing.assert_allclose(golden.outputs["y"], found, atol=1e-5)


def test_two_sizes_are_proved_at_their_corners(tmp_path):
    opened = open_bundle(bundled(segmentation(), tmp_path / "models", "net", *PICTURES))
    sizes = [tuple(golden.sizes.values()) for golden in opened.goldens]
    assert {(8, 8), (24, 8), (8, 32), (24, 32)} < set(sizes)
    assert opened.manifest.outputs[0].shape == [None, 5, "H", "W"], "the input's own sizes keep their names"
    assert opened.manifest.outputs[1].shape == [None, 5]
    page = (opened.path / "report.html").read_text()
    assert "H=24, W=32" in page
    assert "8 to 24 in steps of 4" in page


def test_each_size_has_a_tolerance_of_its_own(tmp_path):
    """A sum over 512 columns must not loosen what is allowed of 2."""
    nodes = [node("Conv", "x w", "c"), norm("c", "n"), node("ReduceSum", "n axes", "y", keepdims=0)]
    arrays = {"w": weights(4, 3, 1, 1), **norm_arrays(4), "axes": np.array([2, 3])}
    proto = model(nodes, arrays, {"x": ["N", 3, 2, "W"]})
    manifest = open_bundle(bundled(proto, tmp_path / "models", "net", "3,2,2..512/2")).manifest
    allowed = [group.tolerances["y"].max_abs for group in manifest.golden_sizes]
    assert allowed[0] * 20 < allowed[-1] == manifest.tolerances["y"].max_abs


def test_an_open_size_may_be_shared_or_have_no_name(tmp_path):
    opened = open_bundle(bundled(two_inputs(), tmp_path / "models", "net", "x=3,8..16/8,8..16/8"))
    assert [spec.shape for spec in opened.manifest.inputs] == [[None, 3, "H", "W"]] * 2
    nameless = segmentation()
    for axis in (2, 3):
        nameless.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    manifest = open_bundle(bundled(nameless, tmp_path / "models", "other", "3,8..16/4,8..16/8")).manifest
    assert len(manifest.input_sizes) == 2


def test_rows_that_are_given_are_repeated_or_cut_to_each_size(tmp_path):
    nodes = [node("Log", "x", "l"), node("Conv", "l w", "h"), norm("h", "y")]
    proto = model(nodes, {"w": weights(4, 3, 1, 1), **norm_arrays(4)}, {"x": ["N", 3, 4, "W"]})
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).uniform(0.1, 5, (5, 3, 4, 10)))
    refused(proto, tmp_path, "at W=4: ", "3,4,4..20/4")
    flags = (f"--rows={tmp_path / 'rows.npz'}",)
    opened = open_bundle(bundled(proto, tmp_path / "models", "net", "3,4,4..20/4", flags=flags))
    assert min(golden.inputs["x"].min() for golden in opened.goldens) >= 0.1 - 1e-6


def test_chosen_outputs_and_half_weights_and_pictures(tmp_path):
    proto = segmentation()
    proto.graph.node.extend([node("ArgMax", "scores", "classes", axis=1, keepdims=0)])
    del proto.graph.output[:]
    proto.graph.output.extend([value("classes", None, onnx.TensorProto.INT64)])
    shapes = ("H=4..8/4", "W=4..12/4")
    opened = open_bundle(bundled(proto, tmp_path / "models", "net", *shapes))
    assert opened.manifest.outputs[0].shape == [None, "H", "W"]
    bundled(segmentation(), tmp_path / "models", "half", *PICTURES, flags=("--dtype=float16",))
    flags = ("--mean=0.5,0.5,0.5", "--std=0.2,0.2,0.2", "--crop=12x16")
    opened = open_bundle(bundled(segmentation(), tmp_path / "models", "seen", *PICTURES, flags=flags))
    assert {"H": 12, "W": 16} in [dict(golden.sizes) for golden in opened.goldens]
    assert len(opened.manifest.golden_pictures.names) == 18
    assert verify(opened.path)["proved"]
    levels = bundled(
        segmentation(), tmp_path / "models", "levels", *PICTURES, flags=(*flags, "--inputs=uint8")
    )
    assert open_bundle(levels).manifest.inputs[0].dtype == "uint8"


def test_a_fold_that_needs_a_size_is_declined(tmp_path):
    """--pad adds the border of a padded Conv, whose shape is that of one size."""
    nodes = [norm("x", "n"), node("Conv", "n w", "h", pads=[1] * 4), node("Relu", "h", "y")]
    proto = model(nodes, {"w": weights(4, 3, 3, 3), **norm_arrays(3)}, {"x": ["N", 3, "H", "W"]})
    flags = ("--pad",)
    fixed = open_bundle(bundled(proto, tmp_path / "models", "fixed", "3,8,8", flags=flags)).manifest
    ranged = open_bundle(bundled(proto, tmp_path / "models", "open", "3,8..16/4,8", flags=flags)).manifest
    assert (fixed.fold.folded, ranged.fold.folded) == (1, 0)
    assert fixed.schema_version == 3
    assert b'"sizes"' not in (tmp_path / "models/fixed/1/manifest.json").read_bytes()


def test_verify_replays_every_size_and_names_the_one_that_differs(words, tmp_path):
    facts = verify(words)
    assert facts["proved"], facts["error"]
    assert facts["golden_sizes"][-1] == {"W": 160}

    facts = verify(rewritten(words, tmp_path / "1", nudged))
    assert not facts["proved"]
    assert facts["error"].endswith("at W=80")


def test_golden_rows_of_another_size_than_the_manifest_says_are_refused(words, tmp_path):
    copy = rewritten(words, tmp_path / "1", lambda goldens: [goldens[1], goldens[0], *goldens[2:]])
    with pytest.raises(BundleError, match=r"0\.input\.x is float32 of shape \[\d+, 3, 8, 32\]"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "open sizes belong to version 4"),
        ({"sizes": {"W": {"minimum": 16, "maximum": 160, "step": 16}}}, "the range of each open size"),
        ({"golden_sizes": None}, "golden_sizes go with it"),
        ({"sizes": {"W": {"minimum": 16, "maximum": 150, "step": 16}}}, "do not reach 150"),
        ({"sizes": {"W": {"minimum": 64, "maximum": 160, "step": 16}, "y.1": {"minimum": 4, "maximum": 40}}},
         "within the ranges"),
    ],
)  # fmt: skip
def test_a_manifest_whose_sizes_contradict_each_other_is_refused(words, change, message):
    changed = json.loads((words / "manifest.json").read_bytes()) | change | {"digest": "0" * 64}
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(changed).encode(), "manifest.json")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("x=N,3,8,64..32/16", "64..32/16: the range 64 to 32 is empty"),
        ("x=N,3,8,32..650/32", "steps of 32 from 32 do not reach 650: the last size is 640"),
        ("x=N,3,8,0..64", "greater than or equal to 1"),
        ("x=N,3,8,32..64/0", "greater than or equal to 1"),
        ("x=N,3,8,32...64", "a number from 1 on, a range lo..hi/step or the name of an open size"),
        ("x=N,3,8,width", "axis 3 of 'x' is W in the file, got width"),
        ("V=16..32", "there is no input 'V', the inputs are 'x', their open sizes 'W'"),
        ("x=N,3,4..8/4,32..64", "axis 2 of 'x' is 8 in the file, got 4 to 8 in steps of 4"),
        ("x=1..4,3,8,32..64", "the rows of 'x' need no range"),
        ("W=W", "'W' must be a number or a range, got W"),
        ("x=N,3,8,16..100000000/4", "GB to prove in float64"),
    ],
)
def test_a_range_that_makes_no_sense_is_one_sentence(tmp_path, shape, message):
    refused(recogniser(), tmp_path, message, shape)


def test_ranges_that_contradict_each_other_or_are_missing(tmp_path):
    refused(two_inputs(), tmp_path, "'W' of 'z' is 8 to 32, elsewhere 8 to 16", "x=3,8,8..16", "z=3,8,8..32")
    refused(segmentation(), tmp_path, "no size and no range is given for 'H'", "W=8..16")
    refused(segmentation(), tmp_path, "or gives them a range")
    int8 = ("--dtype=int8",)
    refused(segmentation(), tmp_path, "int8 is for nets whose sizes are all fixed", *PICTURES, flags=int8)
    flags = ("--mean=0,0,0", "--std=1,1,1")
    refused(segmentation(), tmp_path, "say which with --crop", *PICTURES, flags=flags)
    refused(segmentation(), tmp_path, "but H is 8 to 24", *PICTURES, flags=(*flags, "--crop=10x16"))


def test_the_size_at_which_a_net_fails_is_named(tmp_path):
    """A Reshape to the numbers of one size, as a trace writes it."""
    nodes = [node("Conv", "x w", "c"), norm("c", "n"), node("Reshape", "n shape", "y")]
    arrays = {"w": weights(4, 3, 1, 1), **norm_arrays(4), "shape": np.array([-1, 4 * 8 * 16])}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, "W"]}, [value("y", ["N", "F"])])
    refused(proto, tmp_path, "at W=24", "3,8,16..64/8")
    assert bundled(proto, tmp_path / "models", "net", "3,8,16").exists()


def test_a_net_that_fails_at_every_other_size_is_refused_with_one(tmp_path):
    """A skip connection over a stride of 2 and an upsampling fits where the width is even."""
    nodes = [
        *(node("Conv", "x w", "c", strides=[2, 2], pads=[1] * 4), norm("c", "n")),
        *(node("Resize", "n - scales", "up", mode="nearest"), node("Add", "up x", "y")),
    ]
    arrays = {"w": weights(3, 3, 3, 3), **norm_arrays(3), "scales": np.array([1, 1, 2, 2], np.float32)}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, "W"]})
    refused(proto, tmp_path, "at W=", "3,8,8..64")
    assert bundled(proto, tmp_path / "models", "net", "3,8,8..64/2").exists()


def test_a_net_takes_numbers(tmp_path):
    done = run_here("bundle", "nets:Plain", "--input-shape", "3,8..16,8", "--to", tmp_path / "net")
    assert_refused(done, "a net is numbers, because it is traced at one size")


def test_a_folded_file_stays_open_and_is_proved_at_several_sizes(tmp_path):
    onnx.save(recogniser(), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--input-shape", WIDTHS)
    assert json.loads(done.stdout)["folded"] == 2, done.stderr
    folded = onnx.load(tmp_path / "out.onnx")
    rows = {"x": np.random.default_rng(0).normal(size=(3, 3, 8, 176)).astype(np.float32)}
    np.testing.assert_allclose(itself(folded, rows)["y"], itself(recogniser(), rows)["y"], atol=1e-5)
