"""Run a net in float64, though its forward names a narrower type.

    run = in_float64(net, taken)
    run([rows])                              the tensors that it answers; the net itself stays as it is

    with Wide():
        answer = net.double()(rows)          rows in float64

In: what a forward asks of torch.  Out: the same, in float64 all through:

    x.float(), x.to(torch.float32)      x stays as wide as it is
    torch.zeros(n, h)                   a new tensor of the default type, widened
    x @ self.adjacency                  a tensor that is no buffer, which net.double() leaves as it is

As for an ONNX file, whose casts are widened for its truth: what the net would answer without rounding.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn

from export.sources.answers import tensors_of
from export.sources.calls import Calls
from export.sources.net_inputs import NetInputs
from export.sources.state import buffers_put_back, put_back, writes_into

_WIDE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    torch.complex64: torch.complex128,
}
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class Wide(Calls):
    """In force in the thread that enters it, unlike torch's default type, which is every thread's."""

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func in _CASTS:
            return args[0].double()
        named = {name: _widened(value) for name, value in kwargs.items()}
        # What is written into must be the tensor itself, and no wide copy of it.
        first = args[:1] if writes_into(func) else tuple(map(_widened, args[:1]))
        answer = func(*first, *map(_widened, args[1:]), **named)
        is_narrow = isinstance(answer, torch.Tensor) and answer.dtype in _WIDE
        return answer.to(_WIDE[answer.dtype]) if is_narrow else answer


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(_WIDE[value.dtype]) if value.dtype in _WIDE else value
    if type(value) in (list, tuple):  # torch.cat's
        return type(value)(map(_widened, value))
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


def in_float64(net: nn.Module, taken: NetInputs) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """A function from rows in float64 to what the net answers, run on a copy where there is a true one."""
    exact = _copied(net)

    def run(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        one = net if exact is None else exact
        with put_back(one), _in_place(one), buffers_put_back(one), torch.no_grad(), Wide():
            return list(tensors_of(taken.call(one, rows), one).values())

    return run


def in_float32(net: nn.Module, taken: NetInputs) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """A function from rows to what the net answers, in its own types; its buffers stay as they are."""

    def run(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with put_back(net), buffers_put_back(net), torch.no_grad():
            return list(tensors_of(taken.call(net, rows), net).values())

    return run


def _copied(net: nn.Module) -> nn.Module | None:
    """A float64 copy; None where a copy would go on to use the original, or cannot be made.

    A hook or forward that is a function holds what it writes to, and copy.deepcopy copies no function.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    for module in net.modules():
        held = [hook for name in hooks for hook in vars(module)[name].values()]
        held += [value for name, value in vars(module).items() if name not in hooks]
        if any(isinstance(one, FunctionType) and (one.__closure__ or one.__defaults__) for one in held):
            return None
    try:
        copied = copy.deepcopy(net).double()
        copied.eval()  # one's own may return nothing, as OpenMMLab's do
        return copied.cpu()
    except (RuntimeError, TypeError):  # torch copies no tensor that something was computed from
        return None


@contextmanager
def _in_place(net: nn.Module) -> Iterator[None]:
    """The net itself in float64 for the time being; its weights are the same tensors before and after."""
    tensors = {id(one): (one, one.data) for one in (*net.parameters(), *net.buffers())}
    buffers = [(module, dict(vars(module)["_buffers"])) for module in net.modules()]
    if all(data.dtype not in _WIDE for _, data in tensors.values()):
        yield
        return
    try:
        net.double()
        yield
    finally:
        for one, data in tensors.values():
            one.data = data
        for module, own in buffers:
            vars(module)["_buffers"].update(own)
