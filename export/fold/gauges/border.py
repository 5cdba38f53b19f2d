"""A padded Conv whose input is stored with an offset: exact with one Add, if the picture's size is known.

    x = x' / a − b inside, 0 in the padding
    conv(pad(x)) = conv'(pad(x')) − conv(pad(b))

Away from the border conv(pad(b)) is one number for each channel, which `fold_conv` writes into the bias.
What is left is a map (C, H, W) that is 0 except at the border: the Add's constant.  The map depends on H
and W, so both must be fixed.  It is computed by convolving a picture of constant channels, once padded and
once not, because that is right for every stride, dilation, group and kind of padding, and costs one row.
"""

import numpy as np
import onnx_ir as ir

from export.compute.reference import graph_evaluator
from export.fold.batchnorm import Affine
from export.fold.gauges.absorb import add_constant
from export.fold.gauges.system import Solution
from export.graph.edit import constant

_PADDING = ("pads", "auto_pad")


def add_border(solution: Solution, node: ir.Node, before: Affine, after: Affine) -> None:
    """Put the Add after the Conv, whose weights must still be the old ones.

    Args:
        before: x as a map of the stored x', per input channel.
        after: the stored y' as a map of y, per output channel.
    """
    source, weight = node.inputs[0], constant(node.inputs[1])
    assert source is not None
    assert source.shape is not None
    assert weight is not None
    sizes = [size for size in source.shape[2:] if isinstance(size, int)]
    dilations = node.attributes.get_ints("dilations", [1] * len(sizes))
    reach = [(tap - 1) * step + 1 for tap, step in zip(weight.shape[2:], dilations, strict=True)]
    padded = _convolve(node, weight, before.shift, sizes, without=())
    # A picture just as large as the kernel, without padding: one place, away from every border.
    middle = _convolve(node, weight, before.shift, reach, without=_PADDING)
    by_channel = after.scale.reshape(-1, *[1] * len(sizes))
    add_constant(solution, node, by_channel * (padded - middle))


def _convolve(
    node: ir.Node, weight: np.ndarray, shift: np.ndarray, sizes: list[int], without: tuple[str, ...]
) -> np.ndarray:
    """The Conv of a picture whose channels are constant, shape (C_out, …), in float64."""
    picture = np.broadcast_to(shift.reshape(1, -1, *[1] * len(sizes)), (1, shift.size, *sizes))
    double = ir.TensorType(ir.DataType.DOUBLE)
    x = ir.Value(name="x", shape=ir.Shape(picture.shape), type=double)
    w = ir.Value(name="w", const_value=ir.tensor(weight.astype(np.float64), name="w"), type=double)
    kept = [attribute for name, attribute in node.attributes.items() if name not in without]
    conv = ir.Node("", "Conv", [x, w], kept, num_outputs=1)
    conv.outputs[0].name, conv.outputs[0].type = "y", double
    graph = ir.Graph([x], conv.outputs, nodes=[conv], initializers=[w], opset_imports={"": 18})
    answer: np.ndarray = graph_evaluator(ir.Model(graph, ir_version=10))({"x": picture})["y"][0]
    return answer
