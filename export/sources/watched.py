"""Which BatchNorms of a net run, and which of these its answers depend on.

In: a net and rows.  Out: the path of the module of each BatchNorm that ran, in order.

    y = head(bn(conv(x)))
    aux = aux_bn(aux_conv(x))       runs in eval mode too, and nothing reads it
    return (y, aux) if self.training else y
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from export.errors import TraceError
from export.graph.edit import batchnorms
from export.sources.answers import numbers_of, tensors_of
from export.sources.calls import Calls
from export.sources.net_inputs import NetInputs
from export.sources.state import put_back, same, writes_into
from service.contract.text import first_line

UNNAMED = "(computed)"
_ADVICE = {
    "data-dependent": "; choose by torch.where or torch.cond what its numbers decide",
    "No ONNX function found for": "; ONNX has no such op: write it in others in the forward, or leave it out",
    "Half": "; it is computed in float32: leave casts such as .half() out of its forward",
    "data pointer": "; weights that its forward copies or makes, it may make once, before it is given",
    "quantized.": "; give the float net, and --dtype int8",
    "fused_moving_avg_obs": "; convert a net of quantisation-aware training first, or give the float one",
}
"""What helps, by what torch says."""


def advice(why: str) -> str:
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
    missing, surplus = _compared(model, ran, owners)
    # A mean that the graph computes (InstanceNorm repeats its own) has no name: it stands for a missing one.
    if missing.total() != surplus.total() or set(surplus) - {UNNAMED}:
        raise TraceError(
            f"{len(ran)} BatchNorms ran in the net, the traced graph holds "
            f"{len(ran) - missing.total() + surplus.total()}: "
            f"missing {sorted(missing.elements())}, unexpected {sorted(surplus.elements())}"
        )


def _compared(
    model: ir.Model, ran: Sequence[str], owners: Mapping[str, str]
) -> tuple[Counter[str], Counter[str]]:
    """The BatchNorms that ran and are not in the graph, and the other way round."""
    rows, nodes = _of_rows(model), list(batchnorms(model))
    names = [owners.get((node.inputs[3] and node.inputs[3].name) or "", UNNAMED) for node in nodes]
    free = Counter(name for name, node in zip(names, nodes, strict=True) if node.inputs[0] not in rows)
    return Counter(ran) - Counter(names), Counter(names) - Counter(ran) - free


def _of_rows(model: ir.Model) -> set[ir.Value | None]:
    """The values that the graph computes from its inputs."""
    found: set[ir.Value | None] = set(model.graph.inputs)
    for node in model.graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def unread_batchnorms(
    model: ir.Model, net: nn.Module, ran: Sequence[str], rows: Sequence[torch.Tensor], taken: NetInputs
) -> list[str]:
    """Those that ran, are not in the graph, and whose results no answer of the net depends on.

    A graph holds no node that nothing reads.  So each in turn answers NaN, which no arithmetic loses; where
    that changes an answer or stops the net, the exporter has lost a BatchNorm that counts.
    """
    absent, surplus = _compared(model, ran, owners_of(net))
    places = [place for place, path in enumerate(ran) if path in absent and not surplus]
    if not places:
        return []
    with torch.no_grad(), put_back(net):
        usual = tensors_of(taken.call(net, rows), net)
        return [ran[place] for place in places if _changes_nothing(net, place, rows, taken, usual)]


def _changes_nothing(
    net: nn.Module,
    place: int,
    rows: Sequence[torch.Tensor],
    taken: NetInputs,
    usual: Mapping[str, torch.Tensor],
) -> bool:
    try:
        with put_back(net), _Watcher(net, spoiled=place):
            answers = tensors_of(taken.call(net, rows), net)
    except Exception:  # the user's own forward, on NaN
        return False
    return answers.keys() == usual.keys() and all(same(answers[name], usual[name]) for name in usual)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a run of a net showed.

    Args:
        ran: the paths of the BatchNorms that ran, in order.
        names: its outputs' names.
        numbers: the names of those that are one number for all rows, and no outputs.
    """

    ran: list[str]
    names: list[str]
    numbers: list[str]


def watch_batchnorms(net: nn.Module, *rows: torch.Tensor, taken: NetInputs | None = None) -> Watched:
    """Run the net once, in eval mode."""
    watcher = _Watcher(net)
    with torch.no_grad(), watcher:
        try:
            answer = taken.call(net, rows) if taken is not None else net(*rows)
        except TraceError:
            raise
        except Exception as error:
            why = first_line(error.__cause__ or error)
            raise TraceError(
                f"{type(net).__name__} fails on rows of shape {_shapes(rows, taken)}: {why}{advice(why)}"
            ) from error
    return Watched(ran=watcher.ran, names=list(tensors_of(answer, net)), numbers=numbers_of(answer))


def _shapes(rows: Sequence[torch.Tensor], taken: NetInputs | None) -> str:
    if taken is None or len(rows) == 1:
        return str(list(rows[0].shape))
    named = zip(taken.names, rows, strict=True)
    return ", ".join(f"{name} {list(array.shape)} {array.dtype}" for name, array in named).replace(
        "torch.", ""
    )


class _Watcher(Calls):
    """Notes each call of batch_norm by the path of the module that owns its running mean.

    Module hooks would miss BatchNorms that are called as functions, and subclasses that do not call their
    parent; every way ends in one of the functions below.  The answer of the call `spoiled` is NaN.

    A call on weights alone is no BatchNorm of rows: timm's ScaledStdConv2d standardises its weights by one.
    """

    def __init__(self, net: nn.Module, *, spoiled: int | None = None) -> None:
        self.ran: list[str] = []
        weights = (*net.parameters(), *net.buffers())
        self._of_weights: MutableMapping[torch.Tensor, bool] = WeakTensorKeyDictionary(
            dict.fromkeys(weights, True)
        )
        self._spoiled = spoiled
        names = owners_of(net)
        self._owners = {id(buffer): names[name] for name, buffer in net.named_buffers()}

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        before = len(self.ran)
        tensors = list(_tensors((args, kwargs)))
        if tensors and all(one in self._of_weights for one in tensors):
            answer = func(*args, **kwargs)
            self._of_weights.update(dict.fromkeys(_tensors(answer), True))
            return answer
        for one in _tensors(args[:1]) if writes_into(func) else ():
            self._of_weights.pop(one, None)
        if func is nn.functional.batch_norm:
            self._note(_argument(args, kwargs, 1, "running_mean"), _argument(args, kwargs, 5, "training"))
        elif func is nn.functional.instance_norm and not _argument(args, kwargs, 5, "use_input_stats", True):
            self._note(_argument(args, kwargs, 1, "running_mean"), False)
        elif func in (torch.batch_norm, torch.ops.aten.batch_norm.default):  # torch.export writes the second
            self._note(_argument(args, kwargs, 3, "running_mean"), _argument(args, kwargs, 5, "training"))
        answer = func(*args, **kwargs)
        if len(self.ran) > before == self._spoiled:
            answer = torch.full_like(answer, torch.nan)
        return answer

    def _note(self, running_mean: torch.Tensor | None, training: bool | None) -> None:
        owner = self._owners.get(id(running_mean), "")
        if running_mean is None or training:
            place = f"number {len(self.ran) + 1} to run" if running_mean is None else f"'{owner}'"
            raise TraceError(
                f"the BatchNorm {place} has no running statistics in use (track_running_stats=False or "
                "training mode): its answers depend on the batch, so it cannot be served row by row"
            )
        self.ran.append(owner)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those in arguments or in an answer, nested as torch's functions take them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_tensors, value))
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str, default: Any = None
) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)
