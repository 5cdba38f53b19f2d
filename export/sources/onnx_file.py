"""An ONNX file as a source.  It needs no torch."""

from pathlib import Path

import numpy as np

from export.compute.rows import random_rows
from export.compute.truth import graph_truth
from export.errors import SourceError
from export.graph.file import load_graph
from export.graph.prepare import prepare, with_symbolic_rows
from export.sources.pictures import preprocessing_of, with_range
from export.sources.source import FileReading, Source, SourceOptions
from export.sources.tensors import read_labels, tensor_spec
from service.contract.bundle import sha256


def from_onnx_file(path: Path, options: SourceOptions) -> Source:
    """Read, check and prepare an ONNX file; raises SourceError.  Its rows become symbolic."""
    if options.input_shape is not None or options.weights is not None:
        raise SourceError(f"{path} is an ONNX file: it brings its own shape and weights")
    prepared = prepare(load_graph(path))
    graph = with_symbolic_rows(prepared)
    inputs = [tensor_spec(value) for value in graph.graph.inputs]
    preprocessing = preprocessing_of(options, inputs[0].row_shape)
    truth = graph_truth(graph, random_rows(graph, np.random.default_rng(0)))
    return Source(
        description=f"ONNX file {path.name}",
        digest=sha256(path.read_bytes()),
        graph=graph,
        evaluate=truth.evaluate,
        truth=truth.words,
        inputs=with_range(inputs, preprocessing),
        outputs=[tensor_spec(value) for value in graph.graph.outputs],
        labels=read_labels(options.labels),
        preprocessing=preprocessing,
        graph_truth=truth,
        read_from=FileReading(path=path, graph=prepared),
    )
