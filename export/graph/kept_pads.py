"""Keep a Pad of zeros before a MaxPool apart, where ONNX Runtime would merge the two into another function.

In: a graph whose constants are initialisers.  Out: the same one, in place.

    MaxPool(Pad(x)), pads = 0      becomes      MaxPool(Pad(x)), auto_pad = VALID

Both say that the pool adds nothing at the border.  ONNX Runtime (1.31, `pad_fusion.cc`) takes the Pad out of
the first and widens the pool's own padding, which is no 0 but smaller than any number: wrong wherever x < 0,
as in the ResNet-V2 of Keras.  It leaves a pool with `auto_pad` alone.  After a Relu it is right, and quicker.
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant, onnx_op

_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp"}


def keep_pads(model: ir.Model) -> None:
    """In place, in branches and bodies too; a pool with padding of its own, or `ceil_mode`, stays."""
    for graph in model.graphs():
        for node in graph:
            if onnx_op(node) == "MaxPool" and _adds_nothing(node) and _reads_padded(node):
                node.attributes.pop("pads", None)
                node.attributes["auto_pad"] = ir.AttrString("auto_pad", "VALID")


def _adds_nothing(pool: ir.Node) -> bool:
    is_explicit = pool.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    is_floor = pool.attributes.get_int("ceil_mode", 0) == 0
    return is_explicit and is_floor and not any(pool.attributes.get_ints("pads", ()))


def _reads_padded(pool: ir.Node) -> bool:
    """Whether a constant Pad is before it, of numbers that may be negative."""
    pad = _producer(pool)
    if onnx_op(pad) == "Cast" and pad is not None:
        pad = _producer(pad)
    if pad is None or onnx_op(pad) != "Pad" or pad.attributes.get_string("mode", "constant") != "constant":
        return False
    before = _producer(pad)
    if before is None:
        return True
    return onnx_op(before) not in _NEVER_NEGATIVE and not _clips_below_zero(before)


def _clips_below_zero(node: ir.Node) -> bool:
    if onnx_op(node) != "Clip":
        return False
    least = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_float("min", -np.inf)
    return least is not None and bool(np.all(np.asarray(least) >= 0))


def _producer(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    return None if source is None else source.producer()
