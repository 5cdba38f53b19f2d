"""A net as a source: traced into a graph, and its own float64 answers as the truth."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import nn
from torch.nn.utils import parametrize

from export.compute.precision import from_bfloat16
from export.compute.rows import read_rows
from export.errors import SourceError
from export.graph.prepare import ROWS, prepare
from export.graph.rows_first import Arrangement, with_rows_first
from export.graph.sizes import sizes_of
from export.sources.answering import net_evaluator
from export.sources.net_inputs import INPUT, NetInput, NetInputs, inputs_of
from export.sources.pictures import with_range
from export.sources.same_answers import check_answers
from export.sources.source import Source
from export.sources.tensors import labels_for, tensor_spec
from export.sources.trace import NUMBERS, UNREAD, rows_are_fixed, trace
from service.contract.preprocessing import Preprocessing
from service.contract.tensors import TensorSpec

LEAVE_OUT = "leave it out of what forward returns, or give each row one of its own"
NET_TRUTH = "the unfolded net in torch, float64"


def of_net(
    net: nn.Module,
    rows: Sequence[int] | Sequence[NetInput],
    *,
    description: str,
    given: Path | None = None,
    preprocessing: Preprocessing | None,
    labels: Path | list[str] | None,
    said_labels: Sequence[str] | None = None,
    **facts: Any,
) -> Source:
    """Trace a net whose row has this shape, or takes these inputs; `facts` are further fields of the Source.

    `given` is a file of rows, which the golden ones are made of.
    `said_labels` are what the source says of its classes, where no `labels` are given.
    """
    net = plain(uncompiled(net))
    narrow = _in_float32(net)
    asked = [one for one in rows if isinstance(one, NetInput)]
    shape = tuple(one for one in rows if isinstance(one, int))
    taken = inputs_of(narrow, asked or [NetInput(row_shape=shape)])
    traced = trace(narrow, taken)
    if any(
        value.dtype == ir.DataType.BFLOAT16 for node in traced.graph.all_nodes() for value in node.outputs
    ):
        # Of autocast: ONNX Runtime has no kernels for it on a CPU.  Before weights are cast for good.
        traced = from_bfloat16(traced)
    graph, arrangement = _with_rows_first(prepare(traced))
    outputs = [tensor_spec(value, remedy=LEAVE_OUT) for value in graph.graph.outputs]
    names = [spec.name for spec in outputs]
    ranks = [len(spec.shape) for spec in outputs]
    evaluate = net_evaluator(net, names, taken, arrangement, ranks=ranks)
    narrowly = net_evaluator(narrow, names, taken, arrangement, ranks=ranks, is_wide=False)
    some = {one.name or INPUT: one.some().numpy() for one in taken.inputs}
    few = 1 if rows_are_fixed(graph) else 2
    check_answers(graph, evaluate, narrowly, {name: rows[:few] for name, rows in some.items()})
    words = [*taken.in_words(), *arrangement.in_words(), *_facts_in_words(traced)]
    return Source(
        description="; ".join([description, *words]),
        graph=graph,
        evaluate=evaluate,
        truth=NET_TRUTH,
        inputs=with_range(_inputs(graph, taken), preprocessing),
        outputs=outputs,
        labels=labels if isinstance(labels, list) else labels_for(labels, said_labels, outputs),
        preprocessing=preprocessing,
        given=None if given is None else read_rows(given, graph),
        max_rows=1 if rows_are_fixed(graph) else None,
        **facts,
    )


def _facts_in_words(traced: ir.Model) -> list[str]:
    """What its user should know, and the account of the graph does not say."""
    words = []
    if rows_are_fixed(traced):
        words.append("its forward computes with the number of rows, so it takes one row a call")
    if found := traced.metadata_props.get(UNREAD):
        words.append(f"nothing reads the results of these BatchNorms, which are left out: {found}")
    if found := traced.metadata_props.get(NUMBERS):
        words.append(f"one number for all rows of a batch is no row's answer, and is left out: {found}")
    return words


def uncompiled(net: nn.Module) -> nn.Module:
    """The net inside of torch.compile's wrapper, and so for each net inside; SourceError for a ScriptModule.

    Compiling is of no use to a net that is only traced, and takes minutes.
    """
    inner = getattr(net, "_orig_mod", net)
    assert isinstance(inner, nn.Module)
    for path, module in list(inner.named_modules()):
        if isinstance(module, torch.jit.ScriptModule):
            kind = type(module).__name__
            raise SourceError(
                f"{f'{path}, a {kind},' if path else kind} is a ScriptModule, which cannot be traced: give "
                "the Python module that it was made of, or save the net by torch.jit.save and give that file"
            )
        for name, child in list(module.named_children()):
            if hasattr(child, "_orig_mod"):
                setattr(module, name, child._orig_mod)
    return inner


def plain(net: nn.Module) -> nn.Module:
    """The net with each parametrized weight as the tensor that it is in eval mode, in place.

    What makes it (torch.nn.utils.parametrizations) may have no ONNX op, and is the same for every row.
    """
    for module in net.modules():
        if parametrize.is_parametrized(module):
            module.eval()  # in training some take a step each time that they are asked
            for name in list(cast(nn.ModuleDict, module.parametrizations)):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return net


def _in_float32(net: nn.Module) -> nn.Module:
    """The net, or a copy of one whose weights are in another float type; the truth keeps those."""
    state = net.state_dict().values()  # modules may keep more than tensors there
    floats = {one.dtype for one in state if isinstance(one, torch.Tensor) and one.is_floating_point()}
    return net if floats <= {torch.float32} else copy.deepcopy(net).float()


def _inputs(graph: ir.Model, taken: NetInputs) -> list[TensorSpec]:
    """The graph's inputs; those that choose rows of a table range over all of them."""
    specs = []
    for value, one in zip(graph.graph.inputs, taken.inputs, strict=True):
        known = {} if one.num_ids is None else {"minimum": 0.0, "maximum": float(one.num_ids - 1)}
        specs.append(tensor_spec(value).model_copy(update=known))
    return specs


def _with_rows_first(graph: ir.Model) -> tuple[ir.Model, Arrangement]:
    """The graph whose outputs have their rows first, as a recurrent net with time first does not."""
    axes: dict[str, int | None] = {}
    for value in graph.graph.outputs:
        sizes = sizes_of(value) if value.shape is not None else []
        found = [axis for axis, size in enumerate(sizes) if size == ROWS]
        if len(found) == 1 and found[0] > 0:
            axes[value.name or ""] = found[0]
    return (with_rows_first(graph, {}, axes), Arrangement(outputs=axes)) if axes else (graph, Arrangement())
