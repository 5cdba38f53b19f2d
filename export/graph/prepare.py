"""Make a graph ready to be folded.

In: an ir.Model as it was read or traced.  Out: one in inference form, whose weights are initialisers.
"""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants

from export.compute.comparable import CUT
from export.errors import SourceError
from export.graph.edit import add_initializer, batchnorms, constant, onnx_op, replace_by_input
from export.graph.functions import inline_functions
from export.graph.infer import infer
from export.graph.kept_pads import keep_pads
from export.graph.own_opset import write_in_own_opset
from export.graph.targets import infer_through_targets, write_numbers
from export.graph.unfuse import unfuse
from export.graph.weight_layout import lay_out_weights

ROWS = "rows"
FIRST_IR_WITHOUT_DEFAULTS = 4  # before, every initialiser had to be an input too
_NO_LIMIT = 1 << 40


def prepare(model: ir.Model) -> ir.Model:
    """A copy with functions inlined, constants computed, dead nodes gone, and every node named.

    No BatchNorm is touched: onnxscript folds them only in its rewriter, which is not called here.
    """
    model = model.clone()
    inline_functions(model)
    passes.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, FIRST_IR_WITHOUT_DEFAULTS)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    unfuse(model)
    _state_zero_points(model)
    _distrust_stated_shapes(model)
    _compute_constants(model, onnx_shape_inference=True)
    write_in_own_opset(model)
    _drop_biases_of_no_channel(model)
    for graph in model.graphs():
        for node in list(graph):
            if onnx_op(node) == "Identity" or _is_unwrapped(node):
                replace_by_input(node, graph)
    lay_out_weights(model)
    keep_pads(model)
    known = infer_through_targets(model)
    if write_numbers(model, known) or _needs_sizes(model):
        _compute_constants(model, onnx_shape_inference=False)
        infer_through_targets(model)
    return tidy(model)


def _compute_constants(model: ir.Model, *, onnx_shape_inference: bool) -> None:
    with np.errstate(all="ignore"):  # 0/0 where a Where takes another branch, as in a sinc
        fold_constants(
            model,
            onnx_shape_inference=onnx_shape_inference,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
        )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:  # what was inferred of it before may leave sizes open
                value.shape = ir.Shape(value.const_value.shape.numpy())


def _needs_sizes(model: ir.Model) -> bool:
    """Whether BatchNorms have γ or β of a size that was not known when constants were computed.

    torch's exporter writes those of `affine=False` as ones expanded to as many as its input has channels.
    """
    return any(constant(value) is None for node in batchnorms(model) for value in node.inputs[1:])


def _state_zero_points(model: ir.Model) -> None:
    """Write the zeros that an int8 DequantizeLinear may leave out, one for each of its scales.

    ONNX Runtime 1.31 fills in a single one where it makes int8 to uint8 (`session.x64quantprecision`), and
    then refuses it beside scales per channel.
    """
    for graph in model.graphs():
        for node in graph:
            if onnx_op(node) != "DequantizeLinear" or (len(node.inputs) > 2 and node.inputs[2] is not None):
                continue
            weights, scales = node.inputs[0], constant(node.inputs[1])
            is_int8 = weights is not None and weights.dtype == ir.DataType.INT8
            if is_int8 and scales is not None and scales.ndim:
                zeros = add_initializer(graph, f"{node.name}_zero_point", np.zeros(scales.shape, np.int8))
                node.resize_inputs(3)
                node.replace_input_with(2, zeros)


def _drop_biases_of_no_channel(model: ir.Model) -> None:
    """Leave out a Conv's bias that is all zeros and no vector of its channels.

    torch's exporter (onnxscript 0.7) writes a Conv3d without a bias with zeros of shape (C, 2), which ONNX
    Runtime reads as if they were (C,); any other reader would broadcast them.
    """
    for graph in model.graphs():
        for node in graph:
            bias = constant(node.inputs[2]) if onnx_op(node) == "Conv" and len(node.inputs) > 2 else None
            if bias is not None and bias.ndim != 1 and not bias.any():
                node.replace_input_with(2, None)


def _is_unwrapped(node: ir.Node) -> bool:
    """Whether it gets what an Optional was made of, which it then reads; ONNX's reference gets that wrong."""
    source = node.inputs[0] if onnx_op(node) == "OptionalGetElement" else None
    optional = source.producer() if source is not None else None
    if optional is None or onnx_op(optional) != "Optional" or not optional.inputs:
        return False
    node.replace_input_with(0, optional.inputs[0])
    return True


def _distrust_stated_shapes(model: ir.Model) -> None:
    """Replace the shapes that a file states between its ops by inferred ones, where inference finds any.

    ONNX Runtime ignores them, so nothing else shows that an exporter wrote a wrong one (jax2onnx states
    (N, H, W, C) of a tensor that is (N, C, H, W)); a Shape of it would be computed to a wrong constant.
    """
    made = [output for graph in model.graphs() for node in graph for output in node.outputs]
    stated = {output: output.shape for output in made if not output.is_graph_output()}
    for output in stated:
        output.shape = None
    infer(model)
    for output, shape in stated.items():
        output.shape = output.shape or shape


def tidy(model: ir.Model) -> ir.Model:
    """Drop what nothing reads and give every node a name of its own; in place."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)
    return model


def _keep_rows(reshape: ir.Node, target: np.ndarray, graph: ir.Graph, axis: int = 0) -> bool:
    """Let one size of a Reshape's output be that of its input, which is written 0: the number of rows.

    With `allowzero` a 0 means an empty axis, as torch's exporter writes it.  Where the target has no other
    0, the attribute is of no use, and goes; where it has one, the tensor is empty, and its rows stay as
    they are.
    """
    if reshape.attributes.get_int("allowzero", 0) == 1:
        if (target == 0).any():
            return False
        del reshape.attributes["allowzero"]
    kept = target.copy()
    kept[axis] = 0
    reshape.replace_input_with(1, add_initializer(graph, f"{reshape.name}_shape", kept))
    return True


def _resize_places_only(resize: ir.Node, sizes: np.ndarray, graph: ir.Graph) -> None:
    """Let the first size of a Resize be the number of rows that it is given: [Shape(x)[0], *sizes[1:]]."""
    shape = ir.node("Shape", [resize.inputs[0]], name=f"{resize.name}_shape")
    ends = [add_initializer(graph, f"{resize.name}_{end}", np.array([end])) for end in (0, 1)]
    rows = ir.node("Slice", [shape.outputs[0], *ends], name=f"{resize.name}_rows")
    places = add_initializer(graph, f"{resize.name}_places", sizes[1:])
    joined = ir.node("Concat", [rows.outputs[0], places], {"axis": 0}, name=f"{resize.name}_sizes")
    graph.insert_before(resize, [shape, rows, joined])
    resize.replace_input_with(3, joined.outputs[0])


def _follow_rows(node: ir.Node, fixed: set[int | ir.SymbolicDim], graph: ir.Graph) -> None:
    """Take out of a node what fixes its number of rows, where the node has another way to say the same.

    A recurrent layer's state of zeros, which is written for so many rows, is what it starts from without.
    """
    op_type, inputs = onnx_op(node), node.inputs
    if op_type == "Reshape" or (op_type == "Resize" and len(inputs) > 3 and "axes" not in node.attributes):
        target = constant(inputs[1 if op_type == "Reshape" else 3])
        if target is not None and target.size and int(target[0]) in fixed:
            if op_type == "Reshape":
                _keep_rows(node, target, graph)
            else:
                _resize_places_only(node, target, graph)
    elif op_type in ("LSTM", "GRU", "RNN"):
        for index in range(5, min(len(inputs), 7)):
            state = constant(inputs[index])
            if state is not None and not state.any():
                node.replace_input_with(index, None)


def with_symbolic_rows(model: ir.Model) -> ir.Model:
    """A copy whose inputs and outputs have a symbolic first dimension.

    What fixes the rows of a Reshape, a Resize or a recurrent layer to the same number goes.
    Whether rows really are independent is for the proof to say.
    """
    model = model.clone()
    fixed = {value.shape[0] for value in model.graph.inputs if value.shape}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None and not value.is_graph_input():
            continue  # an output's rank is found by a run
        if value.shape is None:
            raise SourceError(
                f"input '{value.name}' has no rank: --input-shape {value.name}=C,H,W gives it one, with sizes"
            )
        if not value.shape:
            remedy = "make it an initializer of the file" if value.is_graph_input() else CUT
            raise SourceError(f"'{value.name}' is one number, and has no dimension for rows: {remedy}")
        value.shape = ir.Shape([ROWS, *value.shape[1:]])
    for node in list(model.graph):
        _follow_rows(node, fixed, model.graph)
    _infer_anew(model)
    while _keep_rows_elsewhere(model.graph, fixed):
        _infer_anew(model)
    return tidy(model)


def _keep_rows_elsewhere(graph: ir.Graph, fixed: set[int | ir.SymbolicDim]) -> bool:
    """Whether one more Reshape keeps its rows: one whose rows are not the first axis, as in (T, N, 2, 6)."""
    for node in graph:
        source = node.inputs[0] if onnx_op(node) == "Reshape" else None
        target = constant(node.inputs[1]) if source is not None and source.shape is not None else None
        if target is None or source is None or source.shape is None:
            continue
        for axis, (size, wanted) in enumerate(zip(source.shape, target, strict=False)):
            is_rows = axis > 0 and isinstance(size, ir.SymbolicDim) and size.value == ROWS
            if is_rows and int(wanted) in fixed and _keep_rows(node, target, graph, axis):
                return True
    return False


def _infer_anew(model: ir.Model) -> None:
    """Forget the shapes that were inferred for a fixed number of rows, and infer them again."""
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
            elif output.shape is not None:
                output.shape = ir.Shape([ROWS, *output.shape[1:]])
    infer_through_targets(model)
