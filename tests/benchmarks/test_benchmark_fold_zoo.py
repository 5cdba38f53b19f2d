"""The fold zoo counts every BatchNorm, under any name."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from benchmarks.fold_zoo.count import Count, Op, count
from benchmarks.fold_zoo.ops import onnx_ops
from onnx_graphs import batchnorm, batchnorm_arrays, graph

CHANNELS = 4
PER_CHANNEL = np.linspace(1, 2, CHANNELS).reshape(1, CHANNELS, 1, 1)


def counted(tmp_path, nodes, arrays, shape=("rows", CHANNELS, 5, 5)):
    path = tmp_path / "graph.onnx"
    onnx.save(graph(nodes, arrays, shape, dtype=np.float32), path)
    return count(onnx_ops(path))


def node(kind, *inputs, output, **attributes):
    return helper.make_node(kind, list(inputs), [output], **attributes)


def test_a_batchnorm_counts(tmp_path):
    found = counted(tmp_path, [batchnorm("x", "y")], batchnorm_arrays(CHANNELS, 0))
    assert found == Count(batchnorms=1, nodes=1)


def test_a_mul_and_its_add_are_one(tmp_path):
    nodes = [node("Mul", "x", "c", output="a"), node("Add", "c", "a", output="y")]
    assert counted(tmp_path, nodes, {"c": PER_CHANNEL}).affines == 1


def test_an_add_and_the_mul_after_it_are_one(tmp_path):
    nodes = [node("Sub", "x", "c", output="a"), node("Div", "a", "c", output="y")]
    assert counted(tmp_path, nodes, {"c": PER_CHANNEL}).affines == 1


def test_two_affines_in_a_row_are_two(tmp_path):
    kinds = ["Mul", "Add", "Mul", "Add"]
    nodes = [node(kind, f"v{i}" if i else "x", "c", output=f"v{i + 1}") for i, kind in enumerate(kinds)]
    nodes[-1].output[0] = "y"
    assert counted(tmp_path, nodes, {"c": PER_CHANNEL}).affines == 2


def test_a_mul_whose_output_two_read_is_not_one_with_its_add(tmp_path):
    nodes = [
        node("Mul", "x", "c", output="a"),
        node("Add", "a", "c", output="b"),
        node("Add", "a", "b", output="y"),
    ]
    assert counted(tmp_path, nodes, {"c": PER_CHANNEL}).affines == 2


def test_scalars_gates_and_maps_are_no_affines(tmp_path):
    nodes = [
        node("Mul", "x", "scalar", output="a"),
        node("Mul", "a", "x", output="b"),
        node("Add", "b", "map", output="y"),
    ]
    arrays = {"scalar": np.array([2.0]), "map": np.ones((1, CHANNELS, 5, 5))}
    assert counted(tmp_path, nodes, arrays).affines == 0


def test_a_linear_layers_bias_does_not_count_but_another_add_does(tmp_path):
    nodes = [
        node("MatMul", "x", "w", output="a"),
        node("Add", "a", "b", output="c"),
        node("Relu", "c", output="d"),
        node("Add", "d", "b", output="y"),
    ]
    arrays = {"w": np.eye(CHANNELS), "b": np.arange(CHANNELS) / 2}
    assert counted(tmp_path, nodes, arrays, ("rows", CHANNELS)).affines == 1


def test_arithmetic_on_weights_does_not_count_nor_hide_the_convolution(tmp_path):
    nodes = [
        node("Unsqueeze", "s", "axes", output="u"),
        node("Mul", "w", "u", output="v"),
        node("Conv", "x", "v", output="y", group=CHANNELS),
    ]
    arrays = {
        "s": np.ones((CHANNELS, 1, 1)),
        "axes": np.array([3]),
        "w": np.ones((CHANNELS, 1, 1, 1)),
    }
    found = counted(tmp_path, nodes, arrays)
    assert (found.affines, found.stand_ins) == (0, 1)


def test_only_a_depthwise_1x1_convolution_stands_in(tmp_path):
    arrays = {
        "one": np.ones((CHANNELS, 1, 1, 1)),
        "three": np.ones((CHANNELS, 1, 3, 3)),
        "dense": np.ones((CHANNELS, CHANNELS, 1, 1)),
    }
    nodes = [
        node("Conv", "x", "one", output="a", group=CHANNELS),
        node("Conv", "a", "three", output="b", group=CHANNELS),
        node("Conv", "b", "dense", output="y"),
    ]
    assert counted(tmp_path, nodes, arrays).stand_ins == 1


def test_onnx_runtimes_stand_in_is_found_in_its_own_domain(tmp_path):
    """Level ALL shows no BatchNormalization where it folded none: it made a depthwise convolution of it."""
    channels = 16
    arrays = batchnorm_arrays(channels, 0) | {"w": np.ones((channels, channels, 3, 3))}
    nodes = [
        node("Conv", "x", "w", output="a"),
        node("Relu", "a", output="b"),
        batchnorm("b", "c"),
        node("Conv", "c", "w", output="y"),
    ]
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(graph(nodes, arrays, ("rows", channels, 9, 9), dtype=np.float32), source)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(target), 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    unfolded, optimised = count(onnx_ops(source)), count(onnx_ops(target))
    assert optimised.left(unfolded) == unfolded.left(unfolded) == 1


def test_a_stand_in_that_adds_another_value_too_is_found():
    """ONNX Runtime lets a convolution add a residual (Sum): RepVGG's identity branches end like that."""
    fused = Op(kind="Conv", data=("x", "residual"), constants=((4, 1, 1, 1), (4,)), outputs=("y",), group=4)
    computed = Op(kind="Conv", data=("x", "weight"), constants=((4,),), outputs=("y",), group=4)
    assert count([fused]).stand_ins == 1
    assert count([computed]).stand_ins == 0


def test_a_bound_per_channel_is_counted_separately(tmp_path):
    found = counted(tmp_path, [node("Max", "x", "c", output="y")], {"c": PER_CHANNEL})
    assert (found.bounds, found.affines) == (1, 0)


def test_what_the_unfolded_graph_had_is_no_batchnorm():
    unfolded = Count(batchnorms=3, stand_ins=1, affines=2)
    assert Count(batchnorms=0, stand_ins=1, affines=2).left(unfolded) == 0
    assert Count(batchnorms=1, stand_ins=2, affines=3).left(unfolded) == 3
    assert Count(batchnorms=1, stand_ins=0, affines=0).left(unfolded) == 1


def test_openvinos_bias_after_a_convolution_does_not_count():
    convolution = Op(kind="Conv", data=("x",), constants=((4, 4, 3, 3),), outputs=("a",))
    bias = Op(kind="Add", data=("a",), constants=((1, 4, 1, 1),), outputs=("y",))
    assert count([convolution, bias]).affines == 1
    assert count([convolution, bias], biased=("Conv",)).affines == 0
