"""Ops that only move numbers carry their gauges along.

Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Split, Concat, Expand, Tile, DepthToSpace, SpaceToDepth,
Identity, Dropout, Cast: the ids of the output are the ids of the input, moved in the same way.
A channel shuffle is Reshape, Transpose, Reshape.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, on_axis, vary
from export.graph.edit import constant, onnx_op
from export.graph.sizes import Size, sizes_of

MAX_IDS = 1 << 22
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def constrain_same(node: ir.Node, system: System) -> bool:
    """Identity, and Dropout in inference form."""
    source = node.inputs[0]
    if source is None:
        return False
    system.ids[node.outputs[0]] = system.of(source)
    return True


def constrain_cast(node: ir.Node, system: System) -> bool:
    """Cast from a float to another float."""
    source = node.inputs[0]
    if source is None or source.dtype not in _FLOATS or node.attributes.get_int("to", 0) not in _FLOATS:
        return False
    return constrain_same(node, system)


def constrain_cast_like(node: ir.Node, system: System) -> bool:
    """CastLike from a float to another float, that of a tensor whose numbers it does not read."""
    source, like = node.inputs[0], node.inputs[1]
    if source is None or like is None or source.dtype not in _FLOATS or like.dtype not in _FLOATS:
        return False
    return constrain_same(node, system)


def constrain_expand(node: ir.Node, system: System) -> bool:
    """Expand repeats along axes of size 1, where no gauge varies."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return False
    given = system.of(source)
    system.ids[output] = given.reshape((1,) * (len(output.shape) - given.ndim) + given.shape)
    return True


def constrain_tile(node: ir.Node, system: System) -> bool:
    """Tile by constant repeats: the gauges of an axis are repeated with it."""
    source, repeats = node.inputs[0], constant(node.inputs[1])
    if source is None or source.shape is None or repeats is None or repeats.ndim != 1:
        return False
    given = system.of(source)
    system.ids[node.outputs[0]] = np.tile(
        given, [int(times) if vary(given, axis) else 1 for axis, times in enumerate(repeats)]
    )
    return True


def constrain_depth_to_space(node: ir.Node, system: System) -> bool:
    """The channels that become the places of one channel must have the same gauge."""
    source, block = node.inputs[0], node.attributes.get_int("blocksize", 1)
    if source is None or source.shape is None:
        return False
    given = system.narrow(source, 1, node)
    if given is None or given.ndim != 4 or (given.shape[1] > 1 and given.shape[1] % block**2):
        return False
    if given.shape[1] == 1:
        system.ids[node.outputs[0]] = given
        return True
    is_crd = node.attributes.get_string("mode", "DCR") == "CRD"
    blocks = given.reshape((-1, block**2) if is_crd else (block**2, -1))
    first, *others = blocks.T if is_crd else blocks
    for other in others:
        system.equal(first, other, f"DepthToSpace '{node.name}' needs the same scale and shift on a block")
    system.ids[node.outputs[0]] = first.reshape(1, -1, 1, 1)
    return True


def constrain_space_to_depth(node: ir.Node, system: System) -> bool:
    """Each place of a block becomes channels of its own, in the order of the input's."""
    source, block = node.inputs[0], node.attributes.get_int("blocksize", 1)
    if source is None or source.shape is None:
        return False
    given = system.narrow(source, 1, node)
    if given is None or given.ndim != 4:
        return False
    system.ids[node.outputs[0]] = given if given.shape[1] == 1 else np.tile(given, (1, block**2, 1, 1))
    return True


def constrain_shape(node: ir.Node, system: System) -> bool:
    """Shape and Size do not read the numbers."""
    return True


def constrain_transpose(node: ir.Node, system: System) -> bool:
    """Axes change places."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return False
    given = system.of(source)
    order = node.attributes.get_ints("perm", tuple(reversed(range(given.ndim))))
    system.ids[node.outputs[0]] = given.transpose(tuple(order))
    return True


def constrain_reshape(node: ir.Node, system: System) -> bool:
    """Reshape, Flatten, Squeeze, Unsqueeze: by the shapes before and after."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return False
    moved = reshaped(system.of(source), sizes_of(source), sizes_of(output))
    if moved is None:
        return False
    system.ids[output] = moved
    return True


def constrain_split(node: ir.Node, system: System) -> bool:
    """Each output takes its part of the axis."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return False
    given, axis = system.of(source), node.attributes.get_int("axis", 0)
    if not vary(given, axis):
        parts = [given] * len(node.outputs)
    else:
        sizes = _sizes(node.outputs, axis)
        if sizes is None or sum(sizes) != given.shape[axis]:
            return False
        parts = np.split(given, np.cumsum(sizes)[:-1], axis)
    system.ids.update(zip(node.outputs, parts, strict=True))
    return True


def constrain_concat(node: ir.Node, system: System) -> bool:
    """Side by side along the channels; along any other axis, all parts must have the same gauge.

    Parts that are nothing but zeros have any scale, and b = 0.
    """
    axis = node.attributes.get_int("axis", 1)
    sources = [value for value in node.inputs if value is not None]
    given = [system.of(value) for value in sources]
    rank = max(ids.ndim for ids in given)
    if any(ids.ndim != rank for ids in given) or not -rank <= axis < rank:
        return False
    are_zeros = [_is_zeros(value) for value in sources]
    if not any(vary(ids, axis) for ids in given) and any(ids.size > 1 for ids in given):
        computed = [ids for ids, is_zeros in zip(given, are_zeros, strict=True) if not is_zeros]
        first, *others = np.broadcast_arrays(*computed)
        if any(are_zeros):
            system.no_offset(first, node, "the zero part of")
        for other in others:
            system.equal(first, other, f"Concat '{node.name}' needs the same scale and shift on its parts")
        system.ids[node.outputs[0]] = first.copy()
        return True
    sizes = _sizes(sources, axis)
    if sizes is None:
        return False
    shape = list(np.broadcast_shapes(*(ids.take([0], axis).shape for ids in given)))
    parts = []
    for ids, size, is_zeros in zip(given, sizes, are_zeros, strict=True):
        shape[axis] = size
        if is_zeros and any(one.any() for one in given):
            ids = system.fresh(on_axis(rank, axis, size))
            system.no_offset(ids, node, "the zero part of")
        parts.append(np.broadcast_to(ids, tuple(shape)))
    system.ids[node.outputs[0]] = np.concatenate(parts, axis)
    return True


def _is_zeros(value: ir.Value) -> bool:
    """Whether it is nothing but zeros, constant or of a computed shape."""
    node = value.producer()
    if node is None or onnx_op(node) not in ("ConstantOfShape", "Expand", "Cast"):
        array = constant(value)
        return array is not None and not array.any()
    if node.op_type != "ConstantOfShape":
        return node.inputs[0] is not None and _is_zeros(node.inputs[0])
    filled = node.attributes.get_tensor("value", None)
    return filled is None or not filled.numpy().any()


def _sizes(values: Sequence[ir.Value], axis: int) -> list[int] | None:
    """How long each tensor is along an axis; None if one is not known."""
    sizes = [value.shape[axis] if value.shape is not None else None for value in values]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None


def reshaped(ids: np.ndarray, before: list[Size], after: list[Size]) -> np.ndarray | None:
    """`ids`, which broadcasts against a tensor of sizes `before`, reshaped as that tensor is to `after`.

    Sizes that agree from the left and from the right are the same axes.  What is left in the middle is
    written out and reshaped, if it varies at all.  None if that cannot be told from the sizes.
    """
    left = agreeing(before, after)
    right = agreeing(before[left:][::-1], after[left:][::-1])
    middle = slice(left, len(before) - right)
    new = after[left : len(after) - right]
    head, tail = ids.shape[:left], ids.shape[len(before) - right :]
    if all(size == 1 for size in ids.shape[middle]):
        return ids.reshape((*head, *[1] * len(new), *tail))
    old = before[middle]
    if not all(isinstance(size, int) for size in (*old, *new)):
        return None
    sizes, new_sizes = [int(size or 0) for size in old], [int(size or 0) for size in new]
    if np.prod(sizes) != np.prod(new_sizes) or np.prod(sizes) * np.prod(head) * np.prod(tail) > MAX_IDS:
        return None
    wide = np.broadcast_to(ids, (*head, *sizes, *tail)).reshape(*head, *new_sizes, *tail)
    for axis in range(left, left + len(new_sizes)):
        first = wide.take([0], axis)
        wide = first if (wide == first).all() else wide
    return wide


def agreeing(before: list[Size], after: list[Size]) -> int:
    """How many sizes agree from the left."""
    count = 0
    for one, other in zip(before, after, strict=False):
        if one is None or one != other:
            break
        count += 1
    return count
