"""Weights of an ONNX file that lie in other files beside it.

In: a graph as it was read.  Out: its tensors in other files; or a SourceError about those.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from export.errors import SourceError


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Initialisers, and values of Constants."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if isinstance(attribute.value, ir.ExternalTensor):
                yield attribute.value


def check_external(path: Path, model: ir.Model) -> None:
    """Raise SourceError where a file of weights is missing, too short, or not below the folder of `path`."""
    for tensor in external_tensors(model):
        location = str(tensor.location)
        where = f"{path}: its weight '{tensor.name}' is in the file '{location}'"
        if Path(location).is_absolute() or os.path.normpath(location).startswith(".."):
            raise SourceError(f"{where}, which is not beside it: save the model again with a relative path")
        file = path.parent / location
        if not file.is_file():
            raise SourceError(f"{where}, which does not exist: put it beside the .onnx file")
        start = tensor.offset or 0
        end, size = start + (tensor.length or tensor.nbytes), file.stat().st_size
        if end > size:
            raise SourceError(f"{where}, bytes {start} to {end}, but it has {size}: copy it again")
