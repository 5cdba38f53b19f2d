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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from export.errors import TraceError
from export.graph.edit import batchnorms
from export.graph.prepare import ROWS
from export.sources.answers import returning_tensors, tensors_of
from export.sources.net_inputs import NetInputs, of_row
from export.sources.state import as_it_was, put_back
from service.contract.text import first_line

OPSET = 20
UNNAMED = "(computed)"
_ADVICE = {
    "data-dependent": "; choose by torch.where or torch.cond what its numbers decide",
    "No ONNX function found for": "; ONNX has no such op: write it in others in the forward, or leave it out",
    "Half": "; it is computed in float32: leave casts such as .half() out of its forward",
    "quantized.": "; give the float net, and --dtype int8",
    "fused_moving_avg_obs": "; convert a net of quantisation-aware training first, or give the float one",
}
"""What helps, by what torch says."""


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
    with as_it_was(net, lambda: taken.call(net, some)):
        ran, names = watch_batchnorms(net, *zeros, taken=taken)
    model = _exported_with_any_rows(net, taken, zeros, names)
    check_batchnorms(model, ran, owners_of(net))
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
    with _quiet(), put_back(net), torch.no_grad(), returning_tensors(net, taken.call) as flat:
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
            raise TraceError(f"{type(net).__name__} cannot be traced: {why}{_advice(why)}") from error
    assert program is not None
    return program.model


def _advice(why: str) -> str:
    return next((advice for sign, advice in _ADVICE.items() if sign in why), "")


def owners_of(net: nn.Module) -> dict[str, str]:
    """For every name of a buffer the path of the module that owns it: one, however many names it has."""
    first: dict[int, str] = {}
    owners = {}
    for name, buffer in net.named_buffers(remove_duplicate=False):
        owners[name] = first.setdefault(id(buffer), name.rpartition(".")[0])
    return owners


def check_batchnorms(model: ir.Model, ran: Sequence[str], owners: Mapping[str, str]) -> None:
    """Raise TraceError unless the graph's BatchNormalization nodes are those in `ran`, by running mean."""
    means = [node.inputs[3] for node in batchnorms(model)]
    found = Counter(owners.get(mean.name or "", UNNAMED) if mean is not None else UNNAMED for mean in means)
    missing, surplus = Counter(ran) - found, found - Counter(ran)
    # A mean that the graph computes (InstanceNorm repeats its own) has no name: it stands for a missing one.
    if missing.total() != surplus.total() or set(surplus) - {UNNAMED}:
        raise TraceError(
            f"{len(ran)} BatchNorms ran in the net, the traced graph holds {found.total()}: "
            f"missing {sorted(missing.elements())}, unexpected {sorted(surplus.elements())}"
        )


def watch_batchnorms(
    net: nn.Module, *rows: torch.Tensor, taken: NetInputs | None = None
) -> tuple[list[str], list[str]]:
    """Run the net once; returns the paths of the BatchNorms that ran, in order, and its outputs' names."""
    watcher = _Watcher(net)
    with torch.no_grad(), watcher:
        try:
            answer = taken.call(net, rows) if taken is not None else net(*rows)
        except TraceError:
            raise
        except Exception as error:
            why = first_line(error.__cause__ or error)
            raise TraceError(
                f"{type(net).__name__} fails on rows of shape {_shapes(rows, taken)}: {why}{_advice(why)}"
            ) from error
    return watcher.ran, list(tensors_of(answer, net))


def _shapes(rows: Sequence[torch.Tensor], taken: NetInputs | None) -> str:
    if taken is None or len(rows) == 1:
        return str(list(rows[0].shape))
    named = zip(taken.names, rows, strict=True)
    return ", ".join(f"{name} {list(array.shape)} {array.dtype}" for name, array in named).replace(
        "torch.", ""
    )


class _Watcher(TorchFunctionMode):
    """Notes each call of batch_norm by the path of the module that owns its running mean.

    Module hooks would miss BatchNorms that are called as functions, and subclasses that do not call their
    parent; every way ends in one of the functions below.
    """

    def __init__(self, net: nn.Module) -> None:
        self.ran: list[str] = []
        names = owners_of(net)
        self._owners = {id(buffer): names[name] for name, buffer in net.named_buffers()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm:
            self._note(_argument(args, kwargs, 1, "running_mean"), _argument(args, kwargs, 5, "training"))
        elif func is nn.functional.instance_norm and not _argument(args, kwargs, 5, "use_input_stats", True):
            self._note(_argument(args, kwargs, 1, "running_mean"), False)
        elif func in (torch.batch_norm, torch.ops.aten.batch_norm.default):  # torch.export writes the second
            self._note(_argument(args, kwargs, 3, "running_mean"), _argument(args, kwargs, 5, "training"))
        return func(*args, **kwargs)

    def _note(self, running_mean: torch.Tensor | None, training: bool | None) -> None:
        owner = self._owners.get(id(running_mean), "")
        if running_mean is None or training:
            place = f"number {len(self.ran) + 1} to run" if running_mean is None else f"'{owner}'"
            raise TraceError(
                f"the BatchNorm {place} has no running statistics in use (track_running_stats=False or "
                "training mode): its answers depend on the batch, so it cannot be served row by row"
            )
        self.ran.append(owner)


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str, default: Any = None
) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _module_path(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _name_after_modules(model: ir.Model) -> None:
    """Call each node as the net's author does; two nodes of one module are told apart by `prepare`."""
    for node in model.graph:
        if path := _module_path(node):
            node.name = path


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
