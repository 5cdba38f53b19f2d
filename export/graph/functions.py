"""Write a file's own functions out where they are called.

In: a graph as it was read.  Out: the same one, in place, without functions.

A function names an opset of its own, and exporters that bring a library of functions name that library's
(18 in a file of 21).  The ops inside mean the same where none of them changed from one opset to the other.
"""

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.errors import SourceError


def inline_functions(model: ir.Model) -> None:
    """In place; raises SourceError where an op of a function means something else in the file's opset."""
    for function in model.functions.values():
        for domain, opset in list(function.opset_imports.items()):
            wanted = model.opset_imports.get(domain, opset)
            if wanted == opset:
                continue
            for node in function.all_nodes():
                if (node.domain or "") == domain and not _is_unchanged(node, opset, wanted):
                    raise SourceError(
                        f"the function {function.domain}:{function.name} is of opset {opset}, and its "
                        f"{node.op_type} is another in the file's opset, {wanted}: export it with one "
                        "opset"
                    )
            function.opset_imports[domain] = wanted
    passes.InlinePass()(model)


def _is_unchanged(node: ir.Node, one: int, other: int) -> bool:
    """Whether the op is the same in both opsets; of another domain no versions are known.

    A version of its own may only take more types, or an attribute that this node leaves out.  That nothing
    else changed, `prove_reading` shows: ONNX Runtime reads functions in their own opsets.
    """
    try:
        first, second = (onnx.defs.get_schema(node.op_type, opset, node.domain) for opset in (one, other))
    except onnx.defs.SchemaError:
        return node.domain not in ("", "ai.onnx")
    if first.since_version == second.since_version:
        return True
    is_default = all(
        first.attributes[name].default_value == second.attributes[name].default_value
        for name in first.attributes.keys() & second.attributes.keys()
    )
    takes_all = len(node.inputs) <= len(second.inputs) and node.attributes.keys() <= second.attributes.keys()
    before, after = ([one.name for one in op.outputs[: len(node.outputs)]] for op in (first, second))
    gives_all = before == after
    return is_default and takes_all and gives_all
