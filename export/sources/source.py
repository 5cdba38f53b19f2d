"""Where a bundle starts: a checkpoint, `module:factory`, or an ONNX file, opened as one kind of thing.

In: SOURCE as typed, and its options.  Out: a `Source`: the unfolded graph, its tensors, and its truth.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from export.errors import SourceError
from export.fold.pixels import as_rows
from export.graph import load_graph, prepare, with_symbolic_rows
from export.proof.truth import GRAPH_TRUTH, NET_TRUTH, Evaluate, graph_evaluator, net_evaluator
from export.sources.reading import prove_reading
from export.sources.trace import trace
from service.contract.bundle import sha256
from service.contract.manifest import Preprocessing, TensorSpec
from service.contract.text import first_line
from training.batchnorm.report import BatchNormReport
from training.data import normalize
from training.runs.checkpoint import CheckpointError, load_checkpoint


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a source does not say by itself; `mean` and `std` are per channel, of pixels in 0…1."""

    input_shape: tuple[int, ...] | None = None
    weights: Path | None = None
    labels: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixels: bool = False

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SourceError("--mean and --std go together: a picture needs both to become a row")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An unfolded graph and everything that the bundle says about it; `evaluate` computes the truth.

    `pixels`: how the graph normalises, where it is to take uint8 pixels instead of its own input.
    `batchnorm`: what training left in the net's BatchNorms, where the source knows.
    """

    description: str
    digest: str | None
    graph: ir.Model
    evaluate: Evaluate
    truth: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    held_out: np.ndarray | None = None
    labels: list[str] | None = None
    preprocessing: Preprocessing | None = None
    pixels: Preprocessing | None = None
    training: dict[str, Any] = field(default_factory=dict)
    batchnorm: BatchNormReport | None = None


def open_source(text: str, options: SourceOptions) -> Source:
    """Open SOURCE; raises SourceError, TraceError or CheckpointError's sentence as a SourceError."""
    path = Path(text)
    if path.suffix == ".onnx":
        source = _from_graph(path, options)
    elif ":" in text and not path.exists():
        source = _from_factory(text, options)
    else:
        source = _from_checkpoint(path, options)
    return _taking_pixels(source) if options.pixels else source


def _taking_pixels(source: Source) -> Source:
    """The same net, asked with uint8 pixels."""
    given = source.preprocessing
    if given is None or len(source.inputs) != 1:
        raise SourceError("--inputs uint8 needs a net of one input, and --mean and --std to normalise it")
    (spec,) = source.inputs
    pixels = spec.model_copy(update={"dtype": "uint8", "minimum": 0.0, "maximum": 255.0})
    held_out = source.held_out
    if held_out is not None:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (given.mean, given.std))
        held_out = np.rint(255 * (held_out * std + mean)).astype(np.uint8)
    channels = len(given.mean)
    return replace(
        source,
        inputs=[pixels],
        held_out=held_out,
        evaluate=lambda rows: source.evaluate({spec.name: as_rows(rows[spec.name], given.mean, given.std)}),
        preprocessing=given.model_copy(update={"mean": [0.0] * channels, "std": [1 / 255] * channels}),
        pixels=given,
    )


def _from_checkpoint(path: Path, options: SourceOptions) -> Source:
    if replace(options, pixels=False) != SourceOptions():
        raise SourceError(f"{path} is a checkpoint: it brings its own shape, weights, labels, mean and std")
    try:
        checkpoint = load_checkpoint(path)
        net = checkpoint.build_net()
    except CheckpointError as error:
        raise SourceError(str(error)) from error
    except ValueError as error:
        raise SourceError(f"{path}: {first_line(error)}") from error
    facts = checkpoint.data
    rows = normalize(checkpoint.held_out_pixels, facts)
    _, height, width = facts.input_shape
    return _of_net(
        net,
        facts.input_shape,
        description=f"checkpoint of {checkpoint.net_name} trained on {facts.name}",
        digest=sha256(path.read_bytes()),
        held_out=rows.numpy(),
        labels=list(facts.labels),
        preprocessing=Preprocessing(
            mode=facts.mode, height=height, width=width, mean=list(facts.mean), std=list(facts.std)
        ),
        training={**checkpoint.metrics, "seed": checkpoint.seed},
        batchnorm=checkpoint.batchnorm,
    )


def _from_factory(text: str, options: SourceOptions) -> Source:
    if options.input_shape is None:
        raise SourceError(f"{text} needs --input-shape, for example --input-shape 3,224,224")
    net = _build(text)
    digest = None
    if options.weights is not None:
        _load_weights(net, options.weights)
        digest = sha256(options.weights.read_bytes())
    return _of_net(
        net,
        options.input_shape,
        description=f"net {text}" + (f" with weights {options.weights.name}" if options.weights else ""),
        digest=digest,
        labels=_read_labels(options.labels),
        preprocessing=_preprocessing(options, options.input_shape),
    )


def _from_graph(path: Path, options: SourceOptions) -> Source:
    if options.input_shape is not None or options.weights is not None:
        raise SourceError(f"{path} is an ONNX file: it brings its own shape and weights")
    prepared = prepare(load_graph(path))
    prove_reading(path, prepared, seed=0)
    graph = with_symbolic_rows(prepared)
    inputs = [tensor_spec(value) for value in graph.graph.inputs]
    preprocessing = _preprocessing(options, inputs[0].row_shape)
    return Source(
        description=f"ONNX file {path.name}",
        digest=sha256(path.read_bytes()),
        graph=graph,
        evaluate=graph_evaluator(graph),
        truth=GRAPH_TRUTH,
        inputs=_with_range(inputs, preprocessing),
        outputs=[tensor_spec(value) for value in graph.graph.outputs],
        labels=_read_labels(options.labels),
        preprocessing=preprocessing,
    )


def _of_net(
    net: nn.Module, row_shape: Sequence[int], *, preprocessing: Preprocessing | None, **facts: Any
) -> Source:
    graph = prepare(trace(net, row_shape))
    outputs = [tensor_spec(value) for value in graph.graph.outputs]
    return Source(
        graph=graph,
        evaluate=net_evaluator(net, [spec.name for spec in outputs]),
        truth=NET_TRUTH,
        inputs=_with_range([tensor_spec(value) for value in graph.graph.inputs], preprocessing),
        outputs=outputs,
        preprocessing=preprocessing,
        **facts,
    )


def tensor_spec(value: ir.Value) -> TensorSpec:
    """The manifest's description of a graph's input or output."""
    sizes = [dim if isinstance(dim, int) else None for dim in value.shape or []]
    if value.dtype is None or not sizes or None in sizes[1:]:
        raise SourceError(
            f"'{value.name}' must have a type and fixed sizes behind its rows, found {value.shape}"
        )
    try:
        dtype = value.dtype.numpy().name
        return TensorSpec.model_validate({"name": value.name, "dtype": dtype, "shape": [None, *sizes[1:]]})
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"'{value.name}' has type {value.dtype}, which no client could send: {error}"
        ) from None


def _with_range(specs: list[TensorSpec], preprocessing: Preprocessing | None) -> list[TensorSpec]:
    """Pictures lie in 0…1 before (x − mean) / std, so the row's range follows."""
    if preprocessing is None:
        return specs
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    known = {
        "minimum": min((0 - mean) / std for mean, std in pairs),
        "maximum": max((1 - mean) / std for mean, std in pairs),
        "layout": "NCHW",
    }
    return [specs[0].model_copy(update=known), *specs[1:]]


def _preprocessing(options: SourceOptions, row_shape: Sequence[int]) -> Preprocessing | None:
    if options.mean is None or options.std is None:
        return None
    if (
        len(row_shape) != 3
        or row_shape[0] not in (1, 3)
        or {len(options.mean), len(options.std)} != {row_shape[0]}
    ):
        raise SourceError(
            f"--mean and --std need a picture of 1 or 3 channels and a value for each; the row is "
            f"{list(row_shape)}, got {len(options.mean)} and {len(options.std)} values"
        )
    channels, height, width = row_shape
    mode = "L" if channels == 1 else "RGB"
    if not np.isfinite([*options.mean, *options.std]).all() or min(options.std) <= 0:
        raise SourceError("--mean must be finite and --std positive and finite")
    return Preprocessing.model_validate(
        {"mode": mode, "height": height, "width": width, "mean": list(options.mean), "std": list(options.std)}
    )


def _read_labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: labels must be a text file, one a line: {error}") from None


def _build(text: str) -> nn.Module:
    module_name, _, factory_name = text.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:  # importing runs the user's own code
        raise SourceError(
            f"{text}: {first_line(error)}; expected a checkpoint, an .onnx file or module:factory"
        ) from error
    try:
        net = factory()
    except (Exception, SystemExit) as error:  # the user's own code
        raise SourceError(f"{text} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise SourceError(f"{text} must return an nn.Module, it returned {type(net).__name__}")
    return net


def _load_weights(net: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state.get("state_dict", state) if isinstance(state, dict) else state)
    except Exception as error:  # pickle, zip, key and shape errors share no class
        raise SourceError(f"{path}: not the weights of this net: {first_line(error)}") from error
