"""A net as a source: traced into a graph, and its own float64 answers as the truth."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn.utils import parametrize

from export.compute.precision import from_bfloat16
from export.compute.reference import Arrays, Evaluate
from export.errors import ProofError, SourceError, TraceError
from export.graph.prepare import prepare
from export.sources.pictures import with_range
from export.sources.source import Source
from export.sources.tensors import labels_for, tensor_spec
from export.sources.trace import rows_are_fixed, trace
from export.sources.wide import in_float64
from service.contract.preprocessing import Preprocessing
from service.contract.text import first_line

LEAVE_OUT = "leave it out of what forward returns, or give each row one of its own"
NET_TRUTH = "the unfolded net in torch, float64"


def of_net(
    net: nn.Module,
    row_shape: Sequence[int],
    *,
    preprocessing: Preprocessing | None,
    labels: Path | list[str] | None,
    said_labels: Sequence[str] | None = None,
    **facts: Any,
) -> Source:
    """Trace a net whose rows have this shape; `facts` are further fields of the Source.

    `said_labels` are what the source says of its classes, where no `labels` are given.
    """
    net = plain(uncompiled(net))
    traced = trace(_in_float32(net), row_shape)
    if any(
        value.dtype == ir.DataType.BFLOAT16 for node in traced.graph.all_nodes() for value in node.outputs
    ):
        # Of autocast: ONNX Runtime has no kernels for it on a CPU.  Before weights are cast for good.
        traced = from_bfloat16(traced)
    graph = prepare(traced)
    outputs = [tensor_spec(value, remedy=LEAVE_OUT) for value in graph.graph.outputs]
    return Source(
        graph=graph,
        evaluate=net_evaluator(net, [spec.name for spec in outputs]),
        truth=NET_TRUTH,
        inputs=with_range([tensor_spec(value) for value in graph.graph.inputs], preprocessing),
        outputs=outputs,
        labels=labels if isinstance(labels, list) else labels_for(labels, said_labels, outputs),
        preprocessing=preprocessing,
        max_rows=1 if rows_are_fixed(graph) else None,
        **facts,
    )


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
                "the Python module that it was made of, or write it to an ONNX file"
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


def net_evaluator(net: nn.Module, output_names: list[str]) -> Evaluate:
    """A function that runs the net in float64, and leaves it as it is; raises ProofError."""
    run = in_float64(net)

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        rows = [torch.from_numpy(array).double() for array in inputs.values()]
        try:
            tensors = run(rows)
        except TraceError:
            raise
        except Exception as error:  # the user's own forward
            raise ProofError(f"the net does not run in float64: {first_line(error)}") from error
        return {
            name: tensor.detach().double().numpy() for name, tensor in zip(output_names, tensors, strict=True)
        }

    return evaluate
