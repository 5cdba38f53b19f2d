"""Run a net in float64, though its forward names a narrower type.

    with Wide():
        answer = net.double()(rows)          rows in float64

In: what a forward asks of torch.  Out: the same, in float64 all through:

    x.float(), x.to(torch.float32)      x stays as wide as it is
    torch.zeros(n, h)                   a new tensor of the default type, widened

As for an ONNX file, whose casts are widened for its truth: what the net would answer without rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_WIDE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    torch.complex64: torch.complex128,
}
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class Wide(TorchFunctionMode):
    """In force in the thread that enters it, unlike torch's default type, which is every thread's."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _CASTS:
            return args[0].double()
        named = {name: _widened(value) for name, value in (kwargs or {}).items()}
        answer = func(*map(_widened, args), **named)
        is_narrow = isinstance(answer, torch.Tensor) and answer.dtype in _WIDE
        return answer.to(_WIDE[answer.dtype]) if is_narrow else answer


def _widened(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value
