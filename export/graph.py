"""Graphs on their way through export: read, made ready, asked, written.

In: an ONNX file or an ir.Model.  Out: an ir.Model in inference form, whose weights are initialisers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import EncodeError
from onnxscript.optimizer import fold_constants

from export.errors import SourceError
from export.runtime import load
from service.contract.text import first_line

ROWS = "rows"
FIRST_OPSET = 7
LARGEST_FILE = 1 << 31
FIRST_IR_WITHOUT_DEFAULTS = 4  # before, every initialiser had to be an input too
_NO_LIMIT = 1 << 40


def load_graph(path: Path) -> ir.Model:
    """Read an ONNX file (external weights too); raises SourceError if it is not a valid inference graph."""
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        model = _deserialize(path)
        _check_header(path, model)
        load(path, optimised=False)
        model = ir.external_data.load_to_model(model)
        model.graph.sort()
    except SourceError:
        raise
    except Exception as error:  # ONNX Runtime, protobuf and ir each have their own errors
        raise SourceError(f"{path}: not a valid ONNX graph: {first_line(error)}") from None
    return model


def _deserialize(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf and ir each have their own errors
        reason = first_line(error).partition(". ")[0]
        raise SourceError(f"{path}: not a valid ONNX graph: {reason}") from None


def _check_header(path: Path, model: ir.Model) -> None:
    if not model.opset_imports:
        raise SourceError(f"{path}: not a valid ONNX graph: it names no opset")
    opset, newest = model.opset_imports.get("", 0), onnx.defs.onnx_opset_version()
    if not FIRST_OPSET <= opset <= newest:
        raise SourceError(f"{path}: opset {opset}, expected {FIRST_OPSET} to {newest}")
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise SourceError(f"{path}: IR version {model.ir_version}, expected 3 to {onnx.IR_VERSION}")
    if not model.graph.outputs:
        raise SourceError(f"{path}: an empty graph: it has no outputs")


def external_files(path: Path) -> set[Path]:
    """The files beside an ONNX file that hold its weights."""
    tensors = [value.const_value for value in ir.load(path).graph.initializers.values()]
    return {path.parent / tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def prepare(model: ir.Model) -> ir.Model:
    """A copy with functions inlined, constants computed, dead nodes gone, and every node named.

    No BatchNorm is touched: onnxscript folds them only in its rewriter, which is not called here.
    """
    model = model.clone()
    passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, FIRST_IR_WITHOUT_DEFAULTS)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_NO_LIMIT,
        output_size_limit=_NO_LIMIT,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
    )
    passes.IdentityEliminationPass()(model)
    return tidy(model)


def tidy(model: ir.Model) -> ir.Model:
    """Drop what nothing reads and give every node a name of its own; in place."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)
    return model


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind an initialiser, or None if the value is computed at run time."""
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
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
                yield node


def replace_by_input(node: ir.Node, graph: ir.Graph) -> None:
    """Take a node out: its first input stands for its output, under its name if that is the graph's."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    if output.is_graph_output() and (source.is_graph_output() or source.is_graph_input()):
        node.op_type, node.version = "Identity", None
        node.attributes.clear()
        node.resize_inputs(1)
        return
    name, shape = output.name, output.shape
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if source.is_graph_output():
        source.name = name
    source.shape = shape or source.shape


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


def with_symbolic_rows(model: ir.Model) -> ir.Model:
    """A copy whose inputs and outputs have a symbolic first dimension.

    A Reshape to a fixed first dimension equal to the fixed number of rows is told to keep its input's
    (0 in ONNX).  Whether rows really are independent is for the proof to say.
    """
    model = model.clone()
    fixed = {value.shape[0] for value in model.graph.inputs if value.shape}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None or not value.shape:
            raise SourceError(f"'{value.name}' has no dimension for rows: shape {value.shape}")
        value.shape = ir.Shape([ROWS, *value.shape[1:]])
    for node in list(model.graph):
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is not None and target.size and int(target[0]) in fixed:
            kept = target.copy()
            kept[0] = 0
            node.replace_input_with(1, add_initializer(model.graph, f"{node.name}_shape", kept))
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    passes.ShapeInferencePass()(model)
    return tidy(model)


def serialize(model: ir.Model) -> bytes:
    """The graph as one self-contained file; raises SourceError over protobuf's 2 GB."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    try:
        if size >= LARGEST_FILE:
            raise EncodeError(f"its weights are {size:,} bytes")
        return bytes(ir.to_proto(model).SerializeToString())
    except (ValueError, EncodeError) as error:
        raise SourceError(f"the graph does not fit into one ONNX file (2 GB): {first_line(error)}") from None
