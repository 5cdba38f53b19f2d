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

from export.compute.operators.windows import extents, same_totals
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
    is_same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    explicit = list(node.attributes.get_ints("pads", ())) if auto_pad == "NOTSET" else []
    if node.op_type == "Conv":
        explicit = explicit or [0] * 2 * len(kernel)
        sides = zip(_sides(node, kernel), explicit[: len(kernel)], explicit[len(kernel) :], strict=True)
        return any(
            _fills(size, extent, stride) if is_same else _reads(size, extent, stride, begin, end)
            for (size, extent, stride), begin, end in sides
        )
    extra = node.attributes.get_ints("output_padding", ())
    return (max(kernel) > 1 if is_same else any(explicit)) or any(extra)


def _sides(node: ir.Node, kernel: tuple[int, ...]) -> list[tuple[int | None, int, int]]:
    """(the picture's size, None where it is not fixed; the kernel's extent; the stride) of each dimension."""
    source, ones = node.inputs[0], [1] * len(kernel)
    known = [] if source is None or source.shape is None else source.shape[2:]
    sizes = [size if isinstance(size, int) else None for size in known] or [None] * len(kernel)
    spans = extents(kernel, node.attributes.get_ints("dilations", ones))
    return list(zip(sizes, spans, node.attributes.get_ints("strides", ones), strict=True))


def _fills(size: int | None, extent: int, stride: int) -> bool:
    """Whether SAME adds zeros: not where the windows end with the picture, as 2 by 2 do on an even one."""
    return extent > 1 if size is None else same_totals([size], [extent], [stride]) != [0]


def _reads(size: int | None, extent: int, stride: int, begin: int, end: int) -> bool:
    """Whether a window reads zeros: the first one those before the picture, the last one those after it.

    Those after it may be where no window comes: 3 by 3 with a stride of 2 on 7 places and a zero.
    """
    if begin != 0 or end <= 0 or size is None:
        return begin != 0 or end != 0
    last = (size + end - extent) // stride * stride
    return last + extent > size
