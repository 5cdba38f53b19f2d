"""Keep a Pad of zeros before a pool apart, where ONNX Runtime would merge the two into another function.

In: a graph whose constants are initialisers.  Out: the same one, in place.

    MaxPool(Pad(x)), pads = 0        becomes      MaxPool(Pad(x)), auto_pad = VALID
    MaxPool(Pad(x)) with pads        becomes      MaxPool(Pad(x, axes = all)); before opset 18
                                                  MaxPool(Sum(Pad(x)))

The first form says as well that the pool adds nothing at the border.  ONNX Runtime (1.31, `pad_fusion.cc`)
takes the Pad out and widens the pool's own padding, which is no 0 but smaller than any number: wrong wherever
x < 0, as in the ResNet-V2 of Keras.  Of any pool that it widens to its kernel's size it then says that it
cannot run, as of Shake-Shake's AveragePool of 1×1; and with `ceil_mode`, fewer windows come out.

It leaves alone a pool with `auto_pad`, which can have no pads and no
`ceil_mode`; a Pad that names its axes; and one whose reader is another op, as a Sum of one, which costs a
copy.  After a Relu the merge is right, and quicker.
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, onnx_op

POOLS = frozenset({"MaxPool", "AveragePool"})
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp"}
_PAD_NAMES_AXES = 18


def keep_pads(model: ir.Model) -> None:
    """In place, in branches and bodies too."""
    opset = model.opset_imports.get("", 0)
    for graph in model.graphs():
        for node in list(graph):
            is_pool = onnx_op(node) in POOLS and _is_explicit(node)
            pad = _padded_by(node) if is_pool else None
            if pad is None or not (_is_other_at_the_border(node, pad) or _is_too_wide(node, pad)):
                continue
            if _adds_nothing(node):
                node.attributes.pop("pads", None)
                node.attributes["auto_pad"] = ir.AttrString("auto_pad", "VALID")
            elif opset >= _PAD_NAMES_AXES:
                _name_axes(pad, graph)
            elif _may_be_summed(node):
                _set_apart(node, graph)


def _is_explicit(pool: ir.Node) -> bool:
    return pool.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


def _adds_nothing(pool: ir.Node) -> bool:
    return pool.attributes.get_int("ceil_mode", 0) == 0 and not any(pool.attributes.get_ints("pads", ()))


def _name_axes(pad: ir.Node, graph: ir.Graph) -> None:
    """State that the pads are of all axes; where they are computed, nothing is merged."""
    pads = constant(pad.inputs[1])
    if pads is None or len(pad.inputs) > 3:
        return
    axes = add_initializer(graph, f"{pad.name or pad.outputs[0].name}_axes", np.arange(len(pads) // 2))
    pad.resize_inputs(4)
    pad.replace_input_with(3, axes)


def _may_be_summed(pool: ir.Node) -> bool:
    """Sum is of floats only, and a Sum of the file's own may be there already."""
    source = pool.inputs[0]
    return source is not None and (source.dtype is None or source.dtype.is_floating_point())


def _set_apart(pool: ir.Node, graph: ir.Graph) -> None:
    source = pool.inputs[0]
    assert source is not None
    apart = ir.node("Sum", [source], name=f"{pool.name or pool.outputs[0].name}_apart")
    apart.outputs[0].name = f"{apart.name}_out"
    apart.outputs[0].type, apart.outputs[0].shape = source.type, source.shape
    graph.insert_before(pool, apart)
    pool.replace_input_with(0, apart.outputs[0])


def _padded_by(pool: ir.Node) -> ir.Node | None:
    """The constant Pad before a pool."""
    pad = _producer(pool)
    if onnx_op(pad) == "Cast" and pad is not None:
        pad = _producer(pad)
    if pad is None or onnx_op(pad) != "Pad" or pad.attributes.get_string("mode", "constant") != "constant":
        return None
    return pad


def _is_other_at_the_border(pool: ir.Node, pad: ir.Node) -> bool:
    """Whether the pool's own padding is no 0: a MaxPool's, of numbers that may be negative."""
    before = _producer(pad)
    is_positive = before is not None and (onnx_op(before) in _NEVER_NEGATIVE or _clips_below_zero(before))
    return pool.op_type == "MaxPool" and not is_positive


def _is_too_wide(pool: ir.Node, pad: ir.Node) -> bool:
    """Whether the pool could not have that padding too."""
    kernel = np.array(pool.attributes.get_ints("kernel_shape", ()))
    pads = constant(pad.inputs[1]) if len(pad.inputs) > 1 else np.array(pad.attributes.get_ints("pads", ()))
    if pads is None or pads.size != 2 * (kernel.size + 2):
        return False
    own = pool.attributes.get_ints("pads", [0] * 2 * kernel.size)
    at_each_end = pads.reshape(2, -1)[:, 2:] + np.reshape(own, (2, -1))
    return pool.attributes.get_int("ceil_mode", 0) == 1 or bool((at_each_end >= kernel).any())


def _clips_below_zero(node: ir.Node) -> bool:
    if onnx_op(node) != "Clip":
        return False
    least = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_float("min", -np.inf)
    return least is not None and bool(np.all(np.asarray(least) >= 0))


def _producer(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    return None if source is None else source.producer()
