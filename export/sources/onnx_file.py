"""An ONNX file as a source.  It needs no torch."""

from pathlib import Path

import numpy as np

from export.compute.rows import random_rows
from export.compute.truth import graph_truth
from export.errors import SourceError
from export.graph.file import load_graph
from export.graph.prepare import prepare, with_symbolic_rows
from export.sources.declared import Declared, of_ultralytics
from export.sources.pictures import pictures_of, with_range
from export.sources.source import FileReading, Source, SourceOptions
from export.sources.tensors import labels_for, tensor_spec
from service.contract.bundle import sha256


def from_onnx_file(path: Path, options: SourceOptions) -> Source:
    """Read, check and prepare an ONNX file; raises SourceError.  Its rows become symbolic."""
    if options.input_shape is not None or options.weights is not None:
        raise SourceError(f"{path} is an ONNX file: it brings its own shape and weights")
    prepared = prepare(load_graph(path))
    graph = with_symbolic_rows(prepared)
    inputs = [tensor_spec(value) for value in graph.graph.inputs]
    said = of_ultralytics(prepared.metadata_props) or Declared()
    pictures = pictures_of(options, inputs[0].row_shape, said)
    preprocessing = pictures.preprocessing
    outputs = [tensor_spec(value) for value in graph.graph.outputs]
    truth = graph_truth(graph, random_rows(graph, np.random.default_rng(0)))
    return Source(
        description=f"ONNX file {path.name}",
        digest=sha256(path.read_bytes()),
        graph=graph,
        evaluate=truth.evaluate,
        truth=truth.words,
        inputs=with_range(inputs, preprocessing),
        outputs=outputs,
        labels=labels_for(options.labels, pictures.labels, outputs),
        preprocessing=preprocessing,
        pipeline=pictures.pipeline,
        task=options.task,
        activation=options.activation,
        graph_truth=truth,
        read_from=FileReading(path=path, graph=prepared),
    )
