"""Where a bundle starts: a checkpoint, `module:factory` or an ONNX file, opened as one kind of thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from export.compute.reference import Arrays, Evaluate
from export.compute.truth import GraphTruth
from export.errors import SourceError
from export.graph.given import Shapes
from export.graph.rows_first import Arrangement
from export.sources.declared import Activation, Declared, Task
from export.sources.open_sizes import OpenSizes
from export.sources.transforms import Pipeline
from service.contract.preprocessing import Preprocessing
from service.contract.tensors import TensorSpec

if TYPE_CHECKING:  # it needs torch, which an ONNX file does not
    from training.batchnorm.report import BatchNormReport


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a source does not say by itself.

    Args:
        shapes: of inputs by name; see `export.graph.given`.
        types: of a net's inputs, by name, as NumPy calls them.
        values: of inputs that have one value always, by name.
        rows: an .npz file of real rows.
        labels: a file of class names, one a line, or "imagenet".
        pictures: what flags say of pictures; they win over `preprocessing` and over the source.
        preprocessing: who else says what a picture becomes: `timm:NAME`, `torchvision:NAME` or a config file.
        compare_with: `module:callable`, the source's own pipeline.
    """

    shapes: Shapes = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    rows: Path | None = None
    weights: Path | None = None
    labels: Path | None = None
    pictures: Declared = field(default_factory=Declared)
    preprocessing: str | None = None
    compare_with: str | None = None
    task: Task | None = None
    activation: Activation | None = None
    pixels: bool = False

    def __post_init__(self) -> None:
        if (self.pictures.mean is None) != (self.pictures.std is None):
            raise SourceError("--mean and --std go together: a picture needs both to become a row")
        if self.rows is not None and self.pixels:
            raise SourceError("--rows are rows of the net's own input: give them, or --inputs uint8")


@dataclass(frozen=True, kw_only=True)
class FileReading:
    """An ONNX file, and the prepared graph that was read from it.

    Args:
        graph: its rows come first, and are as many as in the file.
        arrangement: where the file has them.
    """

    path: Path
    graph: ir.Model
    arrangement: Arrangement = field(default_factory=Arrangement)

    @property
    def numbers(self) -> list[str]:
        """The inputs that are one number in the file, and so have no rows there."""
        ranks = {value.name: len(value.shape or []) for value in self.graph.graph.inputs}
        return [name for name, axis in self.arrangement.inputs.items() if axis is None and ranks[name] <= 1]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An unfolded graph and everything that the bundle says about it; `evaluate` computes the truth.

    Args:
        description: what it is, in words, for the manifest.
        digest: sha-256 of the file that holds the weights, None if there is none.
        truth: what `evaluate` computes with, in words.
        held_out: rows of the only input that training never saw, (N, …).
        held_out_labels: their classes, (N,).
        given: rows of every input by name, that all golden rows are made of, because noise does not fit.
        max_rows: the maximum of a batch; None where any number of rows goes.
        sizes: which sizes are open, and the golden ones; None where all are fixed.
        preprocessing: what a picture becomes, None if the net takes no pictures.
        pipeline: the source's own, None where it has none but the declared preprocessing.
        task: what the first output is, None to derive it from its shape.
        activation: what the first output still needs, None to derive it from the golden answers.
        pixels: how the graph normalises, where it is to take uint8 pixels instead of its own input.
        training: metrics and settings of the training, for the manifest.
        batchnorm: what training left in the net's BatchNorms, where the source knows.
        curves: loss and accuracy of its epochs as SVG, where the source knows and they can be drawn.
        graph_truth: what `evaluate` is of, if the source is an ONNX file.
        read_from: the ONNX file, whose reading is still to be proved.
    """

    description: str
    digest: str | None
    graph: ir.Model
    evaluate: Evaluate
    truth: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    held_out: np.ndarray | None = None
    held_out_labels: np.ndarray | None = None
    given: Arrays | None = None
    max_rows: int | None = None
    sizes: OpenSizes | None = None
    labels: list[str] | None = None
    preprocessing: Preprocessing | None = None
    pipeline: Pipeline | None = None
    task: Task | None = None
    activation: Activation | None = None
    pixels: Preprocessing | None = None
    training: dict[str, Any] = field(default_factory=dict)
    batchnorm: "BatchNormReport | None" = None
    curves: str | None = None
    graph_truth: GraphTruth | None = None
    read_from: FileReading | None = None

    @property
    def words(self) -> list[str]:
        """What its user should know of how it was read, a phrase each."""
        return self.description.split("; ")[1:]
