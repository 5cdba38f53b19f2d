"""What each op does to gauges: one file for each kind, with its formula.

A rule's `constrain` gives the node's outputs their ids and adds its equations; False if it does not
understand the node. Its `absorb`, where it has weights, writes a solution into them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from export.fold.gauges.rules import (
    activation,
    add,
    batchnorm,
    choose,
    contract,
    conv,
    deform,
    layout,
    linear,
    multiply,
    normalize,
    pick,
    pool,
    recurrent,
    scatter,
    space,
)
from export.fold.gauges.system import Solution, System


@dataclass(frozen=True)
class Rule:
    """What to ask of a node, and how to write into it."""

    constrain: Callable[[ir.Node, System], bool]
    absorb: Callable[[ir.Node, Solution], None] | None = None


NORMALIZING = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")
LINEAR = {"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}

RULES: dict[str, Rule] = {
    "Conv": Rule(conv.constrain, conv.absorb),
    "ConvTranspose": Rule(conv.constrain, conv.absorb),
    "DeformConv": Rule(deform.constrain, deform.absorb),
    "Gemm": Rule(linear.constrain_gemm, linear.absorb_gemm),
    "MatMul": Rule(linear.constrain_matmul, linear.absorb_matmul),
    "Einsum": Rule(contract.constrain, contract.absorb),
    "LSTM": Rule(recurrent.constrain, recurrent.absorb),
    "GRU": Rule(recurrent.constrain, recurrent.absorb),
    "RNN": Rule(recurrent.constrain, recurrent.absorb),
    "BatchNormalization": Rule(batchnorm.constrain, batchnorm.absorb),
    **dict.fromkeys(NORMALIZING, Rule(normalize.constrain, normalize.absorb)),
    "Add": Rule(add.constrain, add.absorb),
    "Sum": Rule(add.constrain_sum),
    "Mean": Rule(add.constrain_sum),
    "Sub": Rule(add.constrain, add.absorb),
    "Mul": Rule(multiply.constrain, multiply.absorb),
    "Div": Rule(multiply.constrain, multiply.absorb),
    "Neg": Rule(multiply.constrain_neg),
    "Max": Rule(choose.constrain, choose.absorb),
    "Min": Rule(choose.constrain, choose.absorb),
    "Where": Rule(choose.constrain, choose.absorb),
    "Relu": Rule(activation.constrain, activation.absorb),
    "LeakyRelu": Rule(activation.constrain),
    "PRelu": Rule(activation.constrain),
    "Abs": Rule(activation.constrain),
    "MaxPool": Rule(pool.constrain_max),
    "GlobalMaxPool": Rule(pool.constrain_max),
    "AveragePool": Rule(pool.constrain_average),
    "GlobalAveragePool": Rule(pool.constrain_average),
    "ReduceMax": Rule(pool.constrain_reduce),
    "ReduceMean": Rule(pool.constrain_reduce),
    "ReduceMin": Rule(pool.constrain_reduce),
    "ReduceSum": Rule(pool.constrain_reduce),
    "ReduceL1": Rule(pool.constrain_reduce),
    "ReduceL2": Rule(pool.constrain_reduce),
    "LpPool": Rule(pool.constrain_norm),
    "GlobalLpPool": Rule(pool.constrain_norm),
    "MaxUnpool": Rule(pool.constrain_unpool),
    "CumSum": Rule(pool.constrain_cumulative),
    "GridSample": Rule(space.constrain_grid_sample),
    "RoiAlign": Rule(space.constrain_region),
    "MaxRoiPool": Rule(space.constrain_region),
    "Resize": Rule(space.constrain_resize),
    "Upsample": Rule(space.constrain_resize),
    "Pad": Rule(space.constrain_pad, space.absorb_pad),
    "Identity": Rule(layout.constrain_same),
    "Cast": Rule(layout.constrain_cast),
    "CastLike": Rule(layout.constrain_cast_like),
    "Expand": Rule(layout.constrain_expand),
    "Tile": Rule(layout.constrain_tile),
    "DepthToSpace": Rule(layout.constrain_depth_to_space),
    "SpaceToDepth": Rule(layout.constrain_space_to_depth),
    "Dropout": Rule(layout.constrain_same),
    "Shape": Rule(layout.constrain_shape),
    "Size": Rule(layout.constrain_shape),
    "Transpose": Rule(layout.constrain_transpose),
    "Reshape": Rule(layout.constrain_reshape),
    "Flatten": Rule(layout.constrain_reshape),
    "Squeeze": Rule(layout.constrain_reshape),
    "Unsqueeze": Rule(layout.constrain_reshape),
    "Split": Rule(layout.constrain_split),
    "Slice": Rule(pick.constrain_slice),
    "Gather": Rule(pick.constrain_gather),
    "GatherElements": Rule(pick.constrain_gather_elements),
    "GatherND": Rule(pick.constrain_gather_nd),
    "Compress": Rule(pick.constrain_compress),
    "CenterCropPad": Rule(pick.constrain_center),
    "TopK": Rule(pick.constrain_largest),
    "ReverseSequence": Rule(pick.constrain_reverse),
    "Scatter": Rule(scatter.constrain),
    "ScatterElements": Rule(scatter.constrain),
    "ScatterND": Rule(scatter.constrain),
    "Concat": Rule(layout.constrain_concat),
}
