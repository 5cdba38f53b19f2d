"""An ONNX file as a source.  It needs no torch."""

from pathlib import Path

import onnx_ir as ir

from export.compute.rows import read_rows, some_rows
from export.compute.truth import graph_truth
from export.errors import SourceError
from export.graph.file import load_graph
from export.graph.given import with_sizes
from export.graph.prepare import prepare, with_symbolic_rows
from export.sources.by_run import takes_many_rows, with_output_sizes
from export.sources.declared import Declared, of_ultralytics
from export.sources.pictures import pictures_of, with_range
from export.sources.source import FileReading, Source, SourceOptions
from export.sources.tensors import labels_for, tensor_spec
from service.contract.bundle import sha256


def from_onnx_file(path: Path, options: SourceOptions) -> Source:
    """Read, check and prepare an ONNX file; raises SourceError.  Its rows become symbolic."""
    if options.weights is not None:
        raise SourceError(f"{path} is an ONNX file: it brings its own weights")
    prepared = with_sizes(prepare(load_graph(path)), options.shapes)
    given = None if options.rows is None else read_rows(options.rows, prepared)
    graph, max_rows = with_symbolic_rows(prepared), None
    rows = some_rows(graph, given, seed=0)
    if _rows_are_fixed_at_one(prepared) and not takes_many_rows(graph, rows):
        graph, max_rows = prepared, 1
        rows = {name: array[:1] for name, array in rows.items()}
    with_output_sizes(graph, rows)
    inputs = [tensor_spec(value) for value in graph.graph.inputs]
    said = of_ultralytics(prepared.metadata_props) or Declared()
    pictures = pictures_of(options, inputs[0].row_shape, said)
    preprocessing = pictures.preprocessing
    outputs = [tensor_spec(value) for value in graph.graph.outputs]
    truth = graph_truth(graph, rows)
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
        given=given,
        max_rows=max_rows,
        graph_truth=truth,
        read_from=FileReading(path=path, graph=prepared),
    )


def _rows_are_fixed_at_one(model: ir.Model) -> bool:
    values = (*model.graph.inputs, *model.graph.outputs)
    return all(value.shape is not None and len(value.shape) > 0 and value.shape[0] == 1 for value in values)
