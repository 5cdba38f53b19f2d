"""Store a graph's weights and run it in float16; say first what that does to the weights.

In: a folded graph in float32.  Out: the same in float16, with float32 inputs and outputs.

    overflow     |w| > 65504: infinite in float16, refused
    lost         0 < |w| < 5.96e-8: less than float16's smallest number, which takes its place
    subnormal    5.96e-8 ≤ |w| < 2⁻¹⁴: fewer bits than the others

Fold first, cast after: σ² + ε and γ/√(σ²+ε) are computed in float64, and only their product is rounded.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.errors import FoldError, ProofError
from service.contract.text import first_line

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
SMALLEST = 5.96e-8
MIN_SIZE = 2  # single numbers are constants of formulas, not weights


@dataclass(frozen=True, kw_only=True)
class HalfWeights:
    """What float16 does to one layer's weights: how many of `size` are lost or coarse."""

    name: str
    size: int
    largest: float
    lost: int
    subnormal: int


def weigh(model: ir.Model) -> list[HalfWeights]:
    """Every layer that loses something; raises FoldError where a weight overflows."""
    losses = []
    for value in model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
        if array.dtype != np.float32 or array.size < MIN_SIZE:
            continue
        sizes = np.abs(array)
        if over := int((sizes > LARGEST).sum()):
            raise FoldError(
                f"'{value.name}' overflows float16: {over} of {array.size} weights are above {LARGEST:.0f}, "
                f"the largest is {sizes.max():.3g}"
            )
        lost = int(((sizes > 0) & (sizes < SMALLEST)).sum())
        subnormal = int(((sizes >= SMALLEST) & (sizes < SMALLEST_NORMAL)).sum())
        if lost or subnormal:
            losses.append(
                HalfWeights(
                    name=value.name or "",
                    size=array.size,
                    largest=float(sizes.max()),
                    lost=lost,
                    subnormal=subnormal,
                )
            )
    return losses


def to_half(graph: bytes) -> bytes:
    """The graph in float16; its inputs and outputs stay as they are."""
    try:
        half = convert_float_to_float16(
            onnx.load_from_string(graph),
            min_positive_val=SMALLEST,
            max_finite_val=LARGEST,
            keep_io_types=True,
        )
    except Exception as error:  # the converter raises whatever a graph makes it raise
        raise ProofError(f"the graph cannot be made float16: {first_line(error)}") from error
    return bytes(half.SerializeToString())
