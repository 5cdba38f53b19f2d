"""Trace a net into a graph that still holds every BatchNorm that ran.

In: an nn.Module in eval mode and the shape of one row.  Out: an ir.Model with symbolic rows.

`torch.onnx.export` folds BatchNorms by itself unless `optimize=False`, and a fold that finds nothing
"succeeds": so the BatchNorms are first watched running, and the graph must hold exactly those.
"""

import ast
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from export.errors import TraceError
from export.graph.prepare import ROWS
from export.sources.answers import returning_tensors
from export.sources.as_exported import AsExported
from export.sources.lengths import open_lengths
from export.sources.net_inputs import NetInputs, of_row
from export.sources.own_numbers import asking_known
from export.sources.state import as_buffers, as_it_was, put_back, watched_tensors
from export.sources.watched import advice, check_batchnorms, owners_of, unread_batchnorms, watch_batchnorms
from service.contract.text import first_line

OPSET = 20
UNREAD = "foldserve.unread_batchnorms"
"""Of a traced graph's metadata: the BatchNorms that ran and are not in it, because nothing reads them."""
NUMBERS = "foldserve.numbers_of_a_batch"
"""Of the same: the answers that are one number for all rows, which are not in it either."""


def trace(net: nn.Module, rows: Sequence[int] | NetInputs) -> ir.Model:
    """Trace `net` on two rows, of float32 if only a shape is given, in eval mode; they become symbolic.

    Two rows and not one: the exporter takes a dimension of size 1 for a constant.

    Raises:
        TraceError: the net fails, cannot be traced, or its graph holds other BatchNorms than ran.
    """
    if "eval" not in vars(
        net
    ):  # a module of torch.export has one of its own, which refuses: its mode is fixed
        net.eval()
    taken = rows if isinstance(rows, NetInputs) else of_row(rows)
    some, zeros = [one.some() for one in taken.inputs], [one.zeros() for one in taken.inputs]
    with as_it_was(net, lambda: taken.call(net, some)), watched_tensors(net) as written:
        watched = watch_batchnorms(net, *zeros, taken=taken)
    with as_buffers(written):
        model = _exported_with_any_rows(net, taken, zeros, watched.names)
    unread = unread_batchnorms(model, net, watched.ran, some, taken)
    check_batchnorms(model, list((Counter(watched.ran) - Counter(unread)).elements()), owners_of(net))
    if unread:
        model.metadata_props[UNREAD] = ", ".join(unread)
    if watched.numbers:
        model.metadata_props[NUMBERS] = ", ".join(watched.numbers)
    _name_after_modules(model)
    return model


def _exported_with_any_rows(
    net: nn.Module, taken: NetInputs, rows: list[torch.Tensor], names: list[str]
) -> ir.Model:
    """The net's graph of any number of rows, or of one where its forward computes with that number.

    Convolutions whose weights are made from each row have as many groups as there are rows, which ONNX
    writes as a number; `x.chunk(ceil(len(x) / 4))` holds for the rows that were traced.
    """
    single, number = [array[:1] for array in rows], torch.export.Dim(ROWS)
    try:
        model = _exported(net, taken, rows, names, (tuple({0: number} for _ in rows),))
    except TraceError as error:
        try:
            return _exported(net, taken, single, names, None)
        except TraceError:
            raise error from error.__cause__
    return _exported(net, taken, single, names, None) if rows_are_fixed(model) else model


def rows_are_fixed(model: ir.Model) -> bool:
    """Whether the graph takes one number of rows only."""
    shape = model.graph.inputs[0].shape
    return shape is not None and isinstance(shape[0], int)


def _exported(
    net: nn.Module,
    taken: NetInputs,
    rows: list[torch.Tensor],
    names: list[str],
    shapes: tuple[tuple[dict[int, Any], ...]] | None,
) -> ir.Model:
    # Without gradients, as the net was watched and as it serves: some forwards ask `x.requires_grad`.
    with ExitStack() as around:
        net_as_it_runs = (put_back(net), torch.no_grad(), AsExported(), open_lengths(net))
        for one in (_quiet(), _failed_calls_left(), *net_as_it_runs):
            around.enter_context(one)
        flat = around.enter_context(returning_tensors(net, asking_known(net, taken.call)))
        try:
            program = torch.onnx.export(
                flat,
                tuple(rows),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=taken.names,
                output_names=names,
                dynamic_shapes=shapes,
            )
        except Exception as error:  # the exporter's errors share no class
            why = first_line(error.__cause__ or error).partition(". Failure message:")[0]
            raise TraceError(f"{type(net).__name__} cannot be traced: {why}{advice(why)}") from error
    assert program is not None
    return program.model


def _module_path(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _name_after_modules(model: ir.Model) -> None:
    """Call each node as the net's author does; two nodes of one module are told apart by `prepare`."""
    for node in model.graph:
        if path := _module_path(node):
            node.name = path


@contextmanager
def _failed_calls_left() -> Iterator[None]:
    """Let a forward try a call: torch's tracer takes the module in which one failed for one that still runs.

    try: x = layer(x, lengths=lengths)
    except TypeError: x = layer(x)
    """
    call_module = torch.fx.Tracer.call_module

    def call(self: torch.fx.Tracer, *args: Any, **kwargs: Any) -> Any:
        running = len(self.module_stack)
        try:
            return call_module(self, *args, **kwargs)
        finally:
            while len(self.module_stack) > running:
                self.module_stack.popitem()

    torch.fx.Tracer.call_module = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.fx.Tracer.call_module = call_module  # type: ignore[method-assign]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecations, and prints graphs where it fails: the error says why."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
