"""What a net keeps between its runs, besides its weights: put back, and found where it changes answers.

In: a net.  Out: the same net as it was given, whatever a run left in it.

    self.grid = make_grid(h, w)            kept by shape: made anew for the rows that are traced
    self.features["layer4"] = output       what a hook collects
    self.body.register_forward_hook(…)     installed by the first run, as transformers' capture_outputs does
    self.mean.mul_(0.9).add_(…)            a buffer, or a tensor that is none
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from export.errors import TraceError
from export.sources.answers import tensors_of

_OWN = frozenset(name for name in vars(nn.Module()) if "hooks" not in name)
"""What every module has and no run changes: its parameters, buffers and children."""


@contextmanager
def put_back(net: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Give the attributes of all its modules, and the lists and dicts in them, their values back.

    What is traced may depend on what a run kept: `if self.grid is None` is a branch of the first run only,
    and a size that was kept as a number holds for as many rows.  Yields a function that names what changed.
    """
    modules = list(net.named_modules())
    before = [{name: _taken(value) for name, value in _kept(module).items()} for _, module in modules]

    def changed() -> list[str]:
        return [
            f"{path}.{name}".lstrip(".")
            for (path, module), taken in zip(modules, before, strict=True)
            for name, value in _kept(module).items()
            if name not in taken or not _is_as_taken(value, taken[name])
        ]

    try:
        yield changed
    finally:
        for (_, module), taken in zip(modules, before, strict=True):
            for name in _kept(module).keys() - taken.keys():
                del vars(module)[name]
            vars(module).update({name: _given_back(*one) for name, one in taken.items()})


@contextmanager
def buffers_put_back(net: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Give it its buffers back, and their numbers: a forward may write into one, or set another in its place.

    Yields a function that names what changed.
    """
    own = [  # what is in TorchScript sets no other in its place
        (module, dict(module._buffers))
        for module in net.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    before = {name: (buffer, buffer.clone()) for name, buffer in net.named_buffers()}

    def changed() -> list[str]:
        held = {name: numbers for name, (_, numbers) in before.items()}
        return [name for name, one in net.named_buffers() if not same(one, held.get(name))]

    try:
        yield changed
    finally:
        for buffer, numbers in before.values():
            buffer.data = numbers
        for module, buffers in own:
            module._buffers.clear()
            module._buffers.update(buffers)


@contextmanager
def as_it_was(net: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Give the net its buffers and attributes back after a run: a graph is of the net as it was given.

    Raises TraceError where the answers of `run` change with them, because a served net remembers nothing.
    """
    with put_back(net) as kept_attributes, buffers_put_back(net) as kept_buffers:
        yield
        buffers, attributes = kept_buffers(), kept_attributes()
        if not buffers and not attributes:
            return
        with torch.no_grad():  # now, and with what this run changes
            first, second = (list(tensors_of(run(), net).values()) for _ in range(2))
    if len(first) != len(second) or not all(map(same, first, second)):
        kind, name = ("buffer", buffers[0]) if buffers else ("attribute", attributes[0])
        raise TraceError(
            f"the forward of {type(net).__name__} changes its {kind} '{name}', and with it what it "
            "answers the next time: a served net remembers nothing, so let it stay as it is in eval mode"
        )


@contextmanager
def watched_tensors(net: nn.Module) -> Iterator[list[tuple[nn.Module, str]]]:
    """The modules and names of plain tensors, neither buffers nor weights, that are written into within it.

    The list is filled at the end.
    """
    plain = [
        (module, name, value, value._version)
        for module in net.modules()
        for name, value in _kept(module).items()
        if isinstance(value, torch.Tensor) and not value.is_inference()
    ]
    written: list[tuple[nn.Module, str]] = []
    yield written
    written += [(module, name) for module, name, value, version in plain if value._version != version]


@contextmanager
def as_buffers(written: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    """Make buffers of plain tensors for the time being: torch exports a forward that writes into one."""
    for module, name in written:
        module._buffers[name] = vars(module).pop(name)
    try:
        yield
    finally:
        for module, name in written:
            vars(module)[name] = module._buffers.pop(name)


def same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether both hold the same numbers; a place that is non-finite in both is the same."""
    if other is None or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def writes_into(func: Callable[..., Any]) -> bool:
    """Whether a function of torch changes its first argument: `add_`, `__iadd__`, `__setitem__`."""
    name = getattr(func, "__name__", "")
    return name.startswith("__i") or name == "__setitem__" or (name.endswith("_") and name[-2:] != "__")


def _kept(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OWN}


def _taken(value: Any) -> tuple[Any, Any]:
    """A value, and what is in it if it can be changed in place: of lists and dicts, not of their parts'."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized:
        return value, value.clone()
    if isinstance(value, dict):
        return value, dict(value)
    return value, list(value) if isinstance(value, list) else None


def _is_as_taken(value: Any, taken: tuple[Any, Any]) -> bool:
    kept, inside = taken
    if value is not kept:
        return False
    if isinstance(inside, torch.Tensor):
        return same(value, inside)
    now = list(value.items()) if isinstance(value, dict) else value
    then = list(inside.items()) if isinstance(value, dict) else inside
    if inside is None:
        return True
    return len(now) == len(then) and all(map(_is_one, now, then))


def _is_one(one: Any, other: Any) -> bool:
    return one is other or (
        isinstance(one, tuple) and isinstance(other, tuple) and all(map(_is_one, one, other))
    )


def _given_back(value: Any, inside: Any) -> Any:
    """The value with what was in it; in place, because a hook may hold it too."""
    if isinstance(inside, torch.Tensor):
        value.data = inside
    elif isinstance(value, dict) and not _is_as_taken(value, (value, inside)):
        value.clear()
        value.update(inside)
    elif isinstance(value, list) and inside is not None:
        value[:] = inside
    return value
