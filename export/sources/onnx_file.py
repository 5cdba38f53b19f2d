"""An ONNX file as a source.  It needs no torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.compute.reference import Arrays
from export.compute.rows import read_rows, some_rows
from export.compute.texts import labels_in, without_texts
from export.compute.truth import graph_truth
from export.errors import ProofError, SourceError
from export.graph.file import load_graph, read_file
from export.graph.given import with_sizes, with_values
from export.graph.prepare import prepare, with_symbolic_rows
from export.sources.arranged import arranged
from export.sources.by_run import check_single_rows, quantizes_by_batch, takes_many_rows, with_output_sizes
from export.sources.declared import Declared, of_ultralytics
from export.sources.open_sizes import OpenSizes, Ranges, golden_sizes, open_outputs
from export.sources.parts import suggesting_parts
from export.sources.pictures import pictures_of, with_range
from export.sources.source import FileReading, Source, SourceOptions
from export.sources.tensors import labels_for, tensor_spec
from service.contract.bundle import sha256
from service.contract.preprocessing import Preprocessing
from service.contract.sizes import Sizes, described
from service.contract.tensors import TensorSpec


def from_onnx_file(path: Path, options: SourceOptions) -> Source:
    """Read, check and prepare an ONNX file; raises SourceError.  Its rows become symbolic."""
    if options.weights is not None:
        raise SourceError(f"{path} is an ONNX file: it brings its own weights")
    if options.types:
        raise SourceError(f"{path} is an ONNX file: it says the types of its inputs, leave out --input-type")
    read = read_file(path)
    if not read.model.graph.inputs:
        raise SourceError(f"{path}: the graph takes no inputs, so that there are no rows to answer")
    loaded, values = with_values(read.model, options.values)
    sized, ranges = with_sizes(loaded, options.shapes)
    as_read = prepare(sized)
    smallest = {name: held.minimum for name, held in ranges.items()}
    with suggesting_parts(as_read):
        prepared, arrangement = arranged(as_read, values, options.rows, smallest)
        given = None if options.rows is None else read_rows(options.rows, prepared)
        graph, max_rows = with_symbolic_rows(prepared), None
        rows = some_rows(graph, given, seed=0, sizes=smallest)
        if _rows_are_fixed_at_one(prepared) and not takes_many_rows(graph, rows):
            graph, max_rows = prepared, 1
            rows = {name: array[:1] for name, array in rows.items()}
        elif (number := _fixed_rows(prepared)) > 1:
            check_single_rows(graph, rows, number)
        elif quantizes_by_batch(graph):
            max_rows = 1
        inputs = [tensor_spec(value, ranges) for value in graph.graph.inputs]
        said = of_ultralytics(prepared.metadata_props) or Declared()
        pictures = pictures_of(options, inputs[0].row_shape, said)
        preprocessing = pictures.preprocessing
        if ranges:
            golden = golden_sizes(graph, ranges, _of_pictures(inputs, ranges, preprocessing))
            outputs, own = open_outputs(graph, ranges, golden, given, max_rows)
            sizes = OpenSizes(ranges={**ranges, **own}, golden=golden)
        else:
            with_output_sizes(graph, rows)
            outputs, sizes = [tensor_spec(value) for value in graph.graph.outputs], None
        truth = graph_truth(graph, {name: array[:1] for name, array in rows.items()})
        return Source(
            description="; ".join([f"ONNX file {path.name}", *read.words, *arrangement.in_words()]),
            digest=sha256(path.read_bytes()),
            graph=graph,
            evaluate=truth.evaluate,
            truth=truth.words,
            inputs=with_range(inputs, preprocessing),
            outputs=outputs,
            labels=labels_for(options.labels, pictures.labels or labels_in(as_read), outputs),
            preprocessing=preprocessing,
            pipeline=pictures.pipeline,
            task=options.task,
            activation=options.activation,
            given=given,
            max_rows=max_rows,
            sizes=sizes,
            graph_truth=truth,
            read_from=FileReading(path=path, graph=prepared, arrangement=arrangement),
        )


def from_unrunnable_file(path: Path, options: SourceOptions) -> Source:
    """An ONNX file of which nothing is run: it is served one row at a time, because nothing shows more.

    Raises SourceError, also where only a run could tell the size of an output.
    """
    loaded, _ = with_values(load_graph(path, must_run=False), options.values)
    sized, ranges = with_sizes(without_texts(loaded), options.shapes)
    prepared = prepare(sized)
    if ranges:
        raise SourceError("--no-proof is for sizes that are all fixed: give numbers in --input-shape")
    graph = prepared if _rows_are_fixed_at_one(prepared) else with_symbolic_rows(prepared)
    inputs = [tensor_spec(value) for value in graph.graph.inputs]
    outputs = [tensor_spec(value) for value in graph.graph.outputs]
    said = of_ultralytics(prepared.metadata_props) or Declared()
    pictures = pictures_of(options, inputs[0].row_shape, said)
    return Source(
        description=f"ONNX file {path.name}",
        digest=sha256(path.read_bytes()),
        graph=graph,
        evaluate=_nothing,
        truth="nothing",
        inputs=with_range(inputs, pictures.preprocessing),
        outputs=outputs,
        labels=labels_for(options.labels, pictures.labels, outputs),
        preprocessing=pictures.preprocessing,
        task=options.task,
        activation=options.activation,
        max_rows=1,
    )


def _nothing(inputs: Mapping[str, np.ndarray]) -> Arrays:
    raise ProofError("nothing computes this graph")


def _of_pictures(
    inputs: list[TensorSpec], ranges: Ranges, preprocessing: Preprocessing | None
) -> Sizes | None:
    """The sizes of a row that a picture becomes; raises SourceError where the ranges do not hold them."""
    if preprocessing is None or len(inputs) > 1:
        return None
    sizes = inputs[0].sizes_of(preprocessing.row_shape) or {}
    for name, held in ranges.items():
        if not held.holds(sizes[name]):
            raise SourceError(f"a picture becomes a row with {described(sizes)}, but {name} is {held}")
    return sizes


def _fixed_rows(model: ir.Model) -> int:
    """The number of rows that all inputs fix, 0 if they do not."""
    numbers = {value.shape[0] if value.shape else None for value in model.graph.inputs}
    number = numbers.pop() if len(numbers) == 1 else None
    return number if isinstance(number, int) else 0


def _rows_are_fixed_at_one(model: ir.Model) -> bool:
    values = (*model.graph.inputs, *model.graph.outputs)
    return all(value.shape is not None and len(value.shape) > 0 and value.shape[0] == 1 for value in values)
