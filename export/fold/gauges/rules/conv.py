"""Conv and ConvTranspose with constant weights take any gauge on their output, and any a on their input.

    y[o] = Σ W[o, i] · x[i] + c[o]      x'= a_i · (x + b_i)      y' = a_o · (y + b_o)
    W'[o, i] = a_o · W[o, i] / a_i      c' = a_o · (c − Σ W[o, i] · b_i + b_o)

An offset b_i on the input reaches every output alike only where no zero padding is summed with it, so a
padded Conv needs b_i = 0.  Without padding a ConvTranspose still starts and ends with sums of fewer terms,
and between them its taps alternate: it needs b_i = 0 unless its kernel is a single tap.

A padded Conv can still do without b_i = 0 at the price of an Add, where the picture's size is known: see
`border`.
"""

import onnx_ir as ir

from export.fold.gauges.absorb import affine_after, affine_before, check
from export.fold.gauges.border import add_border
from export.fold.gauges.system import Price, Solution, System, has_constant, on_axis
from export.fold.linear.conv import fold_conv, fold_conv_transpose
from export.graph.edit import constant


def constrain(node: ir.Node, system: System) -> bool:
    """One unknown for each output channel."""
    weight = constant(node.inputs[1])
    if weight is None or (len(node.inputs) > 2 and node.inputs[2] and not has_constant(node, 2)):
        return False
    source = node.inputs[0]
    assert source is not None
    given = system.narrow(source, 1, node)
    if given is None:
        return False
    if pads(node, weight.shape[2:]):
        known = source.shape is not None and all(isinstance(size, int) for size in source.shape[2:])
        is_conv = node.op_type == "Conv"
        price = Price.BORDER if is_conv and known else None
        todo = "" if known or not is_conv else " (--pad does, where --input-shape fixes height and width)"
        system.no_offset(given, node, "the zero padding of", price, todo)
    elif node.op_type == "ConvTranspose" and not _is_single(node, weight.shape[2:]):
        system.no_offset(given, node, "the border of")
    groups = node.attributes.get_int("group", 1)
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * groups
    system.ids[node.outputs[0]] = system.fresh(on_axis(weight.ndim, 1, channels))
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the gauges around the node into its weights."""
    weight = constant(node.inputs[1])
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    is_conv = node.op_type == "Conv"
    inputs = weight.shape[1] * groups if is_conv else weight.shape[0]
    outputs = weight.shape[0] if is_conv else weight.shape[1] * groups
    before = affine_before(solution, node, 1, inputs)
    after = affine_after(solution, node, 1, outputs)
    if is_conv and before.shift.any() and pads(node, weight.shape[2:]):
        add_border(solution, node, before, after)
    check((fold_conv if is_conv else fold_conv_transpose)(node, after, before))


def _is_single(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether each place of a ConvTranspose is made of just one place of its input."""
    strides = node.attributes.get_ints("strides", ())
    return max((*kernel, *strides)) == 1 and "output_shape" not in node.attributes


def pads(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether zeros may be summed at the border."""
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return max(kernel) > 1
    explicit = node.attributes.get_ints("pads", ())
    extra = node.attributes.get_ints("output_padding", ())
    return (auto_pad == "NOTSET" and any(explicit)) or any(extra)
