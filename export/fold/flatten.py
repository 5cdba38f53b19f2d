"""Let a Reshape to two axes stand before its MatMul instead of after it.

    MatMul (…, K)·(K, M) → Reshape (-1, M)      becomes      Reshape (-1, K) → MatMul (-1, K)·(K, M)

The same products, but now the features are on axis 1, where a BatchNorm after them can fold into the MatMul.
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, has_one_reader, onnx_op
from export.graph.moments import forget, know, moments_of


def flatten_first(node: ir.Node, graph: ir.Graph) -> None:
    """Swap a MatMul → Reshape that stands right before `node`; otherwise leave the graph as it is."""
    flat = node.inputs[0]
    reshape = flat.producer() if flat is not None else None
    product = reshape.inputs[0] if reshape is not None else None
    matmul = product.producer() if product is not None else None
    if flat is None or reshape is None or product is None or matmul is None:
        return
    weight, source = constant(matmul.inputs[1]) if len(matmul.inputs) > 1 else None, matmul.inputs[0]
    if (
        (onnx_op(reshape), onnx_op(matmul)) != ("Reshape", "MatMul")
        or not has_one_reader(product)
        or flat.is_graph_output()
    ):
        return
    if weight is None or weight.ndim != 2 or source is None or constant(source) is not None:
        return
    shapes = (product.shape, flat.shape)
    if None in shapes or len(shapes[0] or ()) < 3 or len(shapes[1] or ()) != 2:
        return
    assert flat.shape is not None
    if flat.shape[1] != weight.shape[1]:
        return
    target = add_initializer(graph, f"{reshape.name}_rows", np.array([-1, weight.shape[0]], dtype=np.int64))
    reshape.replace_input_with(0, source)
    reshape.replace_input_with(1, target)
    ir.convenience.replace_all_uses_with(flat, product)
    matmul.replace_input_with(0, flat)
    graph.remove(reshape)
    graph.insert_before(matmul, reshape)
    know(product, moments_of(flat))
    forget([flat])
    product.shape, flat.shape = flat.shape, ir.Shape([flat.shape[0], weight.shape[0]])
