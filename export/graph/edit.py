"""What every rewrite asks of a graph, and how it edits one."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import onnx_ir as ir

from export.graph.moments import know, moments_of


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initialiser, or None if the value is computed at run time."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def onnx_op(node: ir.Node | None) -> str | None:
    """The op's name if it is one of ONNX's own; another domain's Conv may be anything."""
    return node.op_type if node is not None and node.domain in ("", "ai.onnx") else None


def has_one_reader(value: ir.Value) -> bool:
    """One node reads the value, once, and it is no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def batchnorms(model: ir.Model) -> Iterator[ir.Node]:
    """Every BatchNormalization, in order; those in subgraphs and functions too."""
    functions = (function.all_nodes() for function in model.functions.values())
    for node in chain(*model.graphs(), *functions):
        if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
            yield node


def replace_by_input(node: ir.Node, graph: ir.Graph) -> None:
    """Take a node out: its first input stands for its output, under its name if that is the graph's.

    An output of a graph must be made by a node of that graph, and have a name of its own.  So where the
    input is an output already, an input or an initialiser, or belongs to the graph around a branch of If,
    the node stays as an Identity.
    """
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    producer = source.producer()
    is_own = producer is not None and producer.graph is graph
    if output.is_graph_output() and (source.is_graph_output() or not is_own):
        node.op_type, node.version = "Identity", None
        node.attributes.clear()
        node.resize_inputs(1)
        return
    is_renamed = output.is_graph_output()  # the source may be one itself, and clients know it by its name
    name, shape, moments = output.name, output.shape, moments_of(output) or moments_of(source)
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_renamed:
        source.name = name
    source.shape = shape or source.shape
    know(source, moments)


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register `array` under a name that the graph does not use yet."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {output.name for node in graph for output in node.outputs}
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value
