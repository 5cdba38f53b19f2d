"""Write in the file's own opset what constant folding wrote in a newer one.

In: a graph after onnxscript's `fold_constants`.  Out: the same one, in place.

    SplitToSequence    becomes    Split with num_outputs (18), or with sizes as an input (13)

That is right for the exporters of onnxscript; ONNX Runtime refuses such a Split in a file of opset 17.
"""

import onnx_ir as ir

from export.graph.edit import constant, onnx_op

FIRST_NUM_OUTPUTS = 18
FIRST_AXES_AS_INPUT = 13
_ATTRIBUTE = {"Split": "split", "Squeeze": "axes"}


def write_in_own_opset(model: ir.Model) -> None:
    """In place, in branches and bodies too.  Without num_outputs all parts are equal, as they are here."""
    opset = model.opset_imports.get("", 0)
    if opset >= FIRST_NUM_OUTPUTS:
        return
    for graph in model.graphs():
        for node in graph:
            if onnx_op(node) == "Split":
                node.attributes.pop("num_outputs", None)
            name = _ATTRIBUTE.get(onnx_op(node) or "")
            given = constant(node.inputs[1]) if name and len(node.inputs) > 1 else None
            if opset < FIRST_AXES_AS_INPUT and name is not None and given is not None:
                node.attributes[name] = ir.AttrInt64s(name, [int(number) for number in given])
                node.resize_inputs(1)
