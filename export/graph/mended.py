"""Mend what a file says in a way that ONNX Runtime does not read, or reads otherwise than `ir` does.

In: an ONNX file's proto.  Out: the same function, in place.

    a BatchNorm's outputs '', ''      ONNX Runtime 1.31 dies of them
    two nodes of one name             it refuses them
    IR version 14                     it reads up to 13
    two weights of one name           it computes with the first, `ir` keeps the last
"""

import itertools
import warnings
from pathlib import Path

import onnx
import onnx.serialization

from export.graph.sparse import parts_of

NEWEST_IR = 13
"""The newest IR version that ONNX Runtime 1.31 reads; what a graph says does not depend on it."""


def is_in_words(path: Path) -> bool:
    """Whether its name says that it is written as text, or as JSON, which ONNX Runtime does not read."""
    kind = onnx.serialization.registry.get_format_from_file_extension(path.suffix.lower())
    return kind not in (None, "protobuf")


def load_proto(path: Path) -> onnx.ModelProto:
    """The file without the weights beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own syntax, .onnxtxt, is experimental
        return onnx.load(path, load_external_data=False)


def mend(proto: onnx.ModelProto) -> bool:
    """In place, what ONNX Runtime does not read though it means nothing of its own; whether there was any."""
    is_newer = NEWEST_IR < proto.ir_version <= onnx.IR_VERSION
    if is_newer:
        proto.ir_version = NEWEST_IR
    return is_newer | _drop_unnamed_outputs(proto) | _name_apart(proto)


def _drop_unnamed_outputs(proto: onnx.ModelProto) -> bool:
    """In place, of BatchNorms that do not train; whether there were any: ONNX Runtime 1.31 dies of them."""
    is_changed = False
    for part in parts_of(proto):
        for node in part.node:
            if node.op_type != "BatchNormalization" or any(
                a.name == "training_mode" and a.i for a in node.attribute
            ):
                continue
            while len(node.output) > 1 and not node.output[-1]:
                del node.output[-1]
                is_changed = True
    return is_changed


def drop_repeated_weights(proto: onnx.ModelProto) -> bool:
    """In place, of initialisers that share a name all but the first, which ONNX Runtime 1.31 computes with.

    Its warning says that it takes the latest.
    """
    is_changed = False
    for part in parts_of(proto):
        if isinstance(part, onnx.GraphProto):
            first: dict[str, int] = {}
            for place, weight in enumerate(part.initializer):
                first.setdefault(weight.name, place)
            for place in reversed(range(len(part.initializer))):
                if first[part.initializer[place].name] != place:
                    del part.initializer[place]
                    is_changed = True
    return is_changed


def _name_apart(proto: onnx.ModelProto) -> bool:
    """In place, give nodes of one name names of their own; whether there were any: ONNX Runtime refuses them.

    Nothing in a graph refers to a node by its name.
    """
    is_changed = False
    for part in parts_of(proto):
        taken = {node.name for node in part.node}
        seen: set[str] = set()
        for node in part.node:
            if node.name and node.name in seen:
                free = (f"{node.name}_{count}" for count in itertools.count(1))
                node.name = next(name for name in free if name not in taken)
                taken.add(node.name)
                is_changed = True
            seen.add(node.name)
    return is_changed
