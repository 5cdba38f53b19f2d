"""ONNX's reference implementation, with a CNN's operators made right and fast.

In: a graph.  Out: an evaluator that runs it in the precision of its own tensors.
"""

import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from export.proof.reference.conv import Conv, ConvTranspose
from export.proof.reference.norm import LRN, BatchNormalization
from export.proof.reference.pool import AveragePool, MaxPool

OPERATORS = [AveragePool, BatchNormalization, Conv, ConvTranspose, LRN, MaxPool]


def reference(model: ir.Model) -> ReferenceEvaluator:
    """An evaluator of the graph as it stands."""
    return ReferenceEvaluator(ir.to_proto(model), new_ops=OPERATORS)
