"""Make a graph ready to be folded.

In: an ir.Model as it was read or traced.  Out: one in inference form, whose weights are initialisers.
"""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants

from export.errors import SourceError
from export.graph.edit import add_initializer, constant, onnx_op, replace_by_input
from export.graph.sizes import infer_sizes

ROWS = "rows"
FIRST_IR_WITHOUT_DEFAULTS = 4  # before, every initialiser had to be an input too
_NO_LIMIT = 1 << 40


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
    for graph in model.graphs():
        for node in list(graph):
            if onnx_op(node) == "Identity":
                replace_by_input(node, graph)
    infer_sizes(model)
    return tidy(model)


def tidy(model: ir.Model) -> ir.Model:
    """Drop what nothing reads and give every node a name of its own; in place."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)
    return model


def _keep_rows(reshape: ir.Node, target: np.ndarray, graph: ir.Graph) -> None:
    """Let the first size of a Reshape's output be that of its input, which is written 0.

    With `allowzero` a 0 means an empty axis, as torch's exporter writes it.  Where the target has no other
    0, the attribute is of no use, and goes; where it has one, the tensor is empty, and its rows stay as
    they are.
    """
    if reshape.attributes.get_int("allowzero", 0) == 1:
        if (target == 0).any():
            return
        del reshape.attributes["allowzero"]
    kept = target.copy()
    kept[0] = 0
    reshape.replace_input_with(1, add_initializer(graph, f"{reshape.name}_shape", kept))


def with_symbolic_rows(model: ir.Model) -> ir.Model:
    """A copy whose inputs and outputs have a symbolic first dimension.

    A Reshape to a fixed first dimension equal to the fixed number of rows keeps its input's instead.
    Whether rows really are independent is for the proof to say.
    """
    model = model.clone()
    fixed = {value.shape[0] for value in model.graph.inputs if value.shape}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None or not value.shape:
            raise SourceError(f"'{value.name}' has no dimension for rows: shape {value.shape}")
        value.shape = ir.Shape([ROWS, *value.shape[1:]])
    for node in list(model.graph):
        target = constant(node.inputs[1]) if onnx_op(node) == "Reshape" else None
        if target is not None and target.size and int(target[0]) in fixed:
            _keep_rows(node, target, model.graph)
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    infer_sizes(model)
    return tidy(model)
