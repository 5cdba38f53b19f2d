"""The tensors in what a net returns, each with a name; a net that returns them one after another.

In: any net's answer: a tensor, or a tuple, list, dict or dataclass of answers, nested as deep as it likes.

    y, or (y, None)           logits
    (y, z)                    output_0, output_1
    {"out": y, "aux": z}      out, aux
    {"boxes": (y, z)}         boxes.0, boxes.1

None is left out, and one number for all rows of a batch, as a loss is, beside tensors that have rows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from export.errors import TraceError

OUTPUT = "logits"


def tensors_of(answer: object, net: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of an answer by name; raises TraceError where other things are in it, or none is."""
    numbers = numbers_of(answer)
    found = [(name, part) for name, part in _named(answer, "") if name not in numbers]
    tensors = {name: tensor for name, tensor in found if isinstance(tensor, torch.Tensor)}
    if not found or len(tensors) < len(found):
        raise TraceError(
            f"{type(net).__name__} must return tensors, alone or in tuples and dicts, got {_kinds(answer)}: "
            "wrap it in a module whose forward returns its tensors only"
        )
    if name := next((name for name, tensor in tensors.items() if tensor.is_complex()), None):
        raise TraceError(
            f"the answer '{name}' of {type(net).__name__} is complex, which no client could send: return its "
            "torch.view_as_real"
        )
    is_alone = len(tensors) == 1 and isinstance(answer, list | tuple)
    return {OUTPUT: next(iter(tensors.values()))} if is_alone else tensors


def numbers_of(answer: object) -> list[str]:
    """The names of its tensors of no axis, where others have rows."""
    tensors = {name: part for name, part in _named(answer, "") if isinstance(part, torch.Tensor)}
    numbers = [name for name, tensor in tensors.items() if not tensor.dim()]
    return numbers if len(numbers) < len(tensors) else []


@contextmanager
def returning_tensors(net: nn.Module, call: Callable[..., Any]) -> Iterator[nn.Module]:
    """The same net, which takes rows one after another and answers a tuple of tensors, for the time being.

    `call` is that of its `NetInputs`.  In place: of a copy, hooks and functions that hold the net itself
    would still write into the original.
    """
    kind: Any = type(net)
    own = vars(net).get("forward")  # one that was set on the net itself hides that of any class

    def forward(self: nn.Module, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = call(partial(kind.forward, self) if own is None else own, rows)
        tensors = tuple(tensors_of(answer, self).values())
        # A tensor that is returned twice, or as it came, gets a second name, which needs a node of its own.
        return tuple(
            tensor.clone() if any(tensor is other for other in (*rows, *tensors[:place])) else tensor
            for place, tensor in enumerate(tensors)
        )

    vars(net).pop("forward", None)
    # torch's exporter prints the net, and its own way to print may fail, or that of a module inside.
    of_tensors = {"forward": forward, "__repr__": lambda self: kind.__name__}
    net.__class__ = type(kind.__name__, (kind,), of_tensors)
    try:
        yield net
    finally:
        net.__class__ = kind
        if own is not None:
            vars(net)["forward"] = own


def _named(answer: object, path: str) -> Iterator[tuple[str, object]]:
    """Each part that is neither None nor a container, with its name."""
    if isinstance(answer, Mapping):
        parts = [(str(key), part) for key, part in answer.items()]
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        parts = list(zip(answer._fields, answer, strict=True))
    elif dataclasses.is_dataclass(answer):
        parts = [(field.name, getattr(answer, field.name)) for field in dataclasses.fields(answer)]
    elif isinstance(answer, list | tuple):
        prefix = "" if path else "output_"
        parts = [(f"{prefix}{index}", part) for index, part in enumerate(answer)]
    else:
        if answer is not None:
            yield path or OUTPUT, answer
        return
    for name, part in parts:
        yield from _named(part, f"{path}.{name}" if path else name)


def _kinds(answer: object) -> str:
    """The type of an answer, and of its parts."""
    if isinstance(answer, Mapping):
        parts = ", ".join(f"{key!r}: {type(part).__name__}" for key, part in answer.items())
        return f"{type(answer).__name__} of {parts}" if parts else f"an empty {type(answer).__name__}"
    if isinstance(answer, list | tuple):
        parts = ", ".join(type(part).__name__ for part in answer)
        return f"{type(answer).__name__} of {parts}" if parts else f"an empty {type(answer).__name__}"
    return type(answer).__name__
