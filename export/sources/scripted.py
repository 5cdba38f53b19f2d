"""A TorchScript file (torch.jit.save) as a source: written as ONNX, and then read as such a file.

In: net.pt and what is asked of its inputs.  Out: a `Source`.

    torch.jit.trace, torch.jit.script      no Python is left to trace: torch's older exporter writes the graph
    torch.jit.freeze                       has merged BatchNorms into the Convs before them itself

The truth is the written graph in float64, which answers as the net does: `same_answers` asks both.
"""

import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from export.compute.reference import Arrays, Evaluate
from export.compute.runtime import load
from export.errors import ExportError, ProofError, SourceError, TraceError, UnrunnableError
from export.graph.edit import batchnorms
from export.graph.file import load_graph
from export.graph.prepare import ROWS, prepare
from export.sources.answering import net_evaluator
from export.sources.answers import tensors_of
from export.sources.asked import asked_of_net
from export.sources.net_inputs import INPUT, NetInput, NetInputs, inputs_of
from export.sources.onnx_file import from_onnx_file
from export.sources.same_answers import check_answers
from export.sources.source import Source, SourceOptions
from service.contract.bundle import sha256
from service.contract.text import first_line

OPSET = 17
_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""The folders of written files, which are read again until the process ends."""


def is_torchscript(path: Path) -> bool:
    """Whether it is an archive of code and weights, as torch.jit.save writes."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("/")[2] for name in archive.namelist()}
    return "constants.pkl" in parts and any(name.startswith("code/") for name in parts)


def from_torchscript(path: Path, options: SourceOptions) -> Source:
    """Raises SourceError, or TraceError where the net fails or the graph is another function."""
    if options.weights is not None:
        raise SourceError(f"{path} is a TorchScript file: it brings its own weights")
    asked = asked_of_net(options)
    if not asked:
        raise SourceError(f"{path} needs --input-shape, for example --input-shape 3,224,224")
    try:
        net = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # torch's own, of no class in common
        raise SourceError(f"{path}: not a TorchScript file that torch reads: {first_line(error)}") from None
    taken = inputs_of(net, _in_order(path, net, asked))
    folder = tempfile.TemporaryDirectory(prefix="foldserve-script-")
    _KEPT.append(folder)
    file = Path(folder.name) / f"{path.stem}.onnx"
    _write(file, path, net, taken)
    source = from_onnx_file(file, replace(options, shapes={}, types={}))
    words = source.description.split("; ")[1:]
    return replace(
        source,
        description="; ".join([f"TorchScript file {path.name}", *words]),
        digest=sha256(path.read_bytes()),
        truth=f"the graph of its TorchScript: {source.truth}",
    )


def _in_order(path: Path, net: Any, asked: Sequence[NetInput]) -> list[NetInput]:
    """The inputs as the script's forward takes them, all by position; raises SourceError."""
    parameters = net.forward.schema.arguments[1:]
    names = [one.name for one in parameters]
    if len(asked) == 1 and not asked[0].name:
        asked = [replace(asked[0], name=names[0] if len(names) > 1 else "")]
    given = {one.name or names[0]: one for one in asked}
    last = max((names.index(name) for name in given if name in names), default=-1)
    needed = [
        one.name for place, one in enumerate(parameters) if place <= last or not one.has_default_value()
    ]
    if given.keys() != set(needed):
        flags = " ".join(f"--input-shape {name}=C,H,W" for name in needed)
        found = ", ".join(f"'{name}'" for name in given)
        raise SourceError(f"{path} takes {', '.join(names)}, found {found}: {flags}")
    return [given[name] for name in needed]


def _write(file: Path, path: Path, net: Any, taken: NetInputs) -> None:
    """The net's graph of any number of rows; of one, where it takes no more or answers more otherwise."""
    errors: list[ExportError] = []
    for number in (2, 1):
        rows = [one.some()[:number] for one in taken.inputs]
        try:
            _export(file, net, taken, rows, is_open=number > 1)
            # Of an open number of rows another one, as what was traced may hold for that of its rows only.
            other = rows if number == 1 else [torch.cat([one, one[:1]]) for one in rows]
            _check(file, path, net, taken, other)
            return
        except ExportError as error:
            errors.append(error)
    raise errors[0]


def _export(file: Path, net: Any, taken: NetInputs, rows: Sequence[torch.Tensor], *, is_open: bool) -> None:
    try:
        with torch.no_grad():
            names = list(tensors_of(taken.call(net, rows), net))
    except TraceError:
        raise
    except Exception as error:  # the user's own forward
        shapes = ", ".join(str(list(one.shape)) for one in rows)
        raise TraceError(f"the net fails on rows of shape {shapes}: {_why(error)}") from None
    every = [*taken.names, *names] if is_open else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and no other exporter takes TorchScript
            torch.onnx.export(
                net,
                tuple(rows),
                file,
                dynamo=False,
                do_constant_folding=False,  # else it merges BatchNorms itself
                opset_version=OPSET,
                input_names=taken.names,
                output_names=names,
                dynamic_axes={name: {0: ROWS} for name in every},
            )
    except Exception as error:  # the exporter's errors share no class
        raise TraceError(f"the net's TorchScript cannot be written as ONNX: {_why(error)}") from error


def _check(file: Path, path: Path, net: Any, taken: NetInputs, rows: Sequence[torch.Tensor]) -> None:
    """Raise TraceError unless the graph holds the net's BatchNorms, and answers these rows as it does."""
    graph = load_graph(file)
    ran, found = len(net.inlined_graph.findAllNodes("aten::batch_norm")), len(list(batchnorms(graph)))
    if ran != found:
        raise TraceError(f"{path} holds {ran} BatchNorms, and its graph as ONNX {found}")
    arrays = {one.name or INPUT: array.numpy() for one, array in zip(taken.inputs, rows, strict=True)}
    prepared = prepare(graph)
    names = [value.name or "" for value in prepared.graph.outputs]
    narrow = net_evaluator(net, names, taken, is_wide=False)
    try:
        load(file, optimised=False)(arrays)
    except UnrunnableError as error:
        raise TraceError(f"{path}: its graph as ONNX does not run: {error}") from None
    check_answers(prepared, _wide(net, names, taken, arrays, narrow), narrow, arrays)


def _wide(net: Any, names: list[str], taken: NetInputs, arrays: Arrays, narrow: Evaluate) -> Evaluate:
    """The net in float64, where its TorchScript names no narrower type."""
    wide = net_evaluator(net, names, taken)
    try:
        wide(arrays)
    except ProofError:
        return narrow
    return wide


def _why(error: Exception) -> str:
    """The last line of what TorchScript says: the ones before are places in its code."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
