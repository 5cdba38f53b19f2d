"""Numbers that a net asks of its own tensors while it is traced: they are known, whatever its rows.

    if self.initialized: …        a buffer
    x[:, : int(torch.linspace(0, 8, 3)[1])]
    x @ torch.inverse(self.weight), torch.kaiser_window(8)

A trace holds no numbers, so that torch's exporter takes the first two for what only a row decides; for the
last two it has no op.

In: what a forward asks of torch.  Out: the same; where it asks for the numbers of a tensor that follows from
weights, buffers and constants alone, these; and what has no op is computed of such at once.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from export.sources.calls import Calls
from export.sources.state import writes_into

Call = Callable[[Any, Sequence[torch.Tensor]], Any]
_ASKED = (
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.__bool__,
    torch.Tensor.__format__,
    torch.Tensor.is_nonzero,
    torch.is_nonzero,
    torch.equal,
    torch.Tensor.equal,
    torch.allclose,
    torch.Tensor.allclose,
)
_NAMES = ["inverse", "pinverse", "det", "logdet", "slogdet", "svd", "qr", "cholesky", "matrix_exp"]
_NAMES += ["matrix_power", "lgamma", "digamma", "erfinv", "cummax", "cummin", "i0"]
_WITHOUT_OP = {
    *(one for module in (torch.linalg, torch.special) for one in vars(module).values() if callable(one)),
    *(getattr(kind, name) for kind in (torch, torch.Tensor) for name in _NAMES),
    *(torch.kaiser_window, torch.blackman_window, torch.bartlett_window, torch.hamming_window),
}
_BY_CHANCE = ("rand", "empty", "new_empty", "normal", "bernoulli", "multinomial", "poisson", "dropout")
"""How the names of functions begin whose answer is another each time."""


def asking_known(net: nn.Module, call: Call) -> Call:
    """The same call of the net's forward, to whose questions about its own numbers there are answers."""
    real = dict(_named(net))

    def answering(run: Any, rows: Sequence[torch.Tensor]) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return call(run, rows)  # the exporter's second way, which knows some of them itself
        with _numbers_asked_as_items(), OwnNumbers(net, real):
            return call(run, rows)

    return answering


class Numbers:
    """What a call answers outside of a trace; computed where it is asked for, once."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute

    @cached_property
    def found(self) -> Any:
        with torch.no_grad():
            return self._compute()


class OwnNumbers(Calls):
    """In force while the forward of `net` is traced.

    Args:
        real: its parameters and buffers, as they are outside of a trace.
    """

    def __init__(self, net: nn.Module, real: Mapping[str, torch.Tensor]) -> None:
        self._known: MutableMapping[torch.Tensor, Numbers | None] = WeakTensorKeyDictionary()
        for name, tensor in _named(net):
            self._known[tensor] = Numbers(partial(real.get, name))

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if writes_into(func) or "out" in kwargs:
            self._forget(kwargs.get("out", args[:1]))
            return func(*args, **kwargs)
        numbers = self._numbers(func, args, kwargs)
        if numbers is not None and (func in _ASKED or func in _WITHOUT_OP):
            return _outside(numbers)
        answer = func(*args, **kwargs)
        by_chance = getattr(func, "__name__", "").startswith(_BY_CHANCE)
        self._note(answer, None if by_chance else numbers)
        return answer

    def _numbers(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Numbers | None:
        """What computes the call outside of a trace; None where it takes something that is not known."""
        try:
            # Not the tensors themselves: those of a trace would live on.
            given = _replaced((args, dict(kwargs)), self._of)
        except _UnknownError:
            return None

        def compute() -> Any:
            own_args, own_kwargs = _replaced(given, lambda one: one.found)
            return func(*own_args, **own_kwargs)

        return Numbers(compute)

    def _of(self, tensor: torch.Tensor) -> Numbers:
        if type(tensor) is torch.Tensor:  # a trace's own are of other classes
            self._known.setdefault(tensor, Numbers(lambda: tensor))
        found = self._known.get(tensor)
        if found is None:
            raise _UnknownError
        return found

    def _forget(self, written: Any) -> None:
        """What is written into, and with it all that may be a view of it, or follows from what it was."""
        try:
            _replaced(written, self._of)
        except _UnknownError:
            return
        self._known.clear()
        _replaced(written, lambda tensor: self._known.update({tensor: None}))

    def _note(self, answer: Any, numbers: Numbers | None) -> None:
        if isinstance(answer, torch.Tensor):
            self._known[answer] = numbers
        elif isinstance(answer, list | tuple):
            for place, one in enumerate(answer):
                self._note(one, numbers and Numbers(partial(_part, numbers, place)))


class _UnknownError(Exception):
    """What a trace does not know: a tensor that follows from its rows, or a size that is open."""


def _part(numbers: Numbers, place: int) -> Any:
    return numbers.found[place]


@contextmanager
def _numbers_asked_as_items() -> Iterator[None]:
    """Python's own questions as `item`: where torch is asked for these, no mode is.

    And no class of its own for a tensor, as fastai's nets end in: a graph has none.
    """
    ways: dict[str, Callable[..., Any]] = {
        "__int__": lambda tensor: int(tensor.item()),
        "__float__": lambda tensor: float(tensor.item()),
        "__index__": lambda tensor: int(tensor.item()),
        "as_subclass": lambda tensor, cls: tensor,
    }
    try:
        for name, way in ways.items():
            setattr(torch.Tensor, name, way)
        yield
    finally:
        for name in ways:
            delattr(torch.Tensor, name)  # torch's own are of the class that it derives from


def _named(net: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Its parameters and buffers, under all of their names."""
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The arguments of a call, nested as torch's functions take them, with other things for its tensors."""
    if isinstance(value, torch.Tensor | Numbers):
        return change(value)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise _UnknownError
    if isinstance(value, list | tuple):
        parts = [_replaced(one, change) for one in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {name: _replaced(one, change) for name, one in value.items()}
    if isinstance(value, slice):
        return slice(*_replaced([value.start, value.stop, value.step], change))
    return value


def _outside(numbers: Numbers) -> Any:
    """In a thread of its own: what is in force in a trace is so in its thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: numbers.found).result()
