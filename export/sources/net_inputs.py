"""What a net takes: one tensor or several, floats or ids, by position, by keyword, or in a dict or list.

In: what is asked of each input by its name, and a net.  Out: its `NetInputs`, which call it with rows.

    forward(self, image, ids)            image, ids
    forward(self, x, *, mask)            x, mask
    forward(self, batch)                 batch.image, batch.ids; or image, ids, where nothing else is taken
    forward(self, *parts)                any names, in their order

The types that are not asked for are found by running: floats first, then ids, then masks, as few as can be.
"""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from export.errors import SourceError
from export.sources.state import buffers_put_back, put_back
from export.sources.tables import Tables

INPUT = "input"
MOST_CHOICES = 3**8
MAX_TRIED = 256  # choices of types, all of them for eight inputs of floats or ids
FOUND_TYPES = (torch.float32, torch.int64, torch.bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class NetInput:
    """One input as it is asked for.

    Args:
        name: "" where the net has one input only.
        row_shape: of one row.
        axis: where the net has its rows; they are served first.
        types: that it may have, likeliest first.
        rows: real ones, (N, *row_shape), None where there are none.
        num_ids: below which its numbers are, where they choose rows of tables.
        place: the parameter of `forward`, and the key in it where that is a dict or list.
    """

    name: str = ""
    row_shape: tuple[int, ...] = ()
    axis: int = 0
    types: tuple[torch.dtype, ...] = FOUND_TYPES
    rows: np.ndarray | None = None
    num_ids: int | None = None
    place: tuple[str, str | None] = ("", None)

    def zeros(self) -> torch.Tensor:
        """Two rows: the exporter takes a dimension of size 1 for a constant."""
        if self.rows is not None:
            return torch.from_numpy(self.rows[:2]).to(self.types[0])
        return torch.zeros(2, *self.row_shape, dtype=self.types[0])

    def some(self) -> torch.Tensor:
        """Two other rows than `zeros`, where they can be made."""
        if self.rows is not None or not self.types[0].is_floating_point:
            return self.zeros()
        return torch.rand(2, *self.row_shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class NetInputs:
    """All inputs, each of one type and in its place; `signature` is that of `forward`, None of one tensor."""

    inputs: tuple[NetInput, ...]
    signature: inspect.Signature | None = None

    @property
    def names(self) -> list[str]:
        """In the graph."""
        return [one.name or INPUT for one in self.inputs]

    def in_words(self) -> list[str]:
        """What a client should know: a phrase for each input that has its rows elsewhere in the net."""
        return [f"'{one.name or INPUT}' has its rows first" for one in self.inputs if one.axis]

    def call(self, run: Any, rows: Sequence[torch.Tensor]) -> Any:
        """What the net, or another function of the same parameters, answers to rows, which come first."""
        moved = [
            array.movedim(0, one.axis) if one.axis else array
            for one, array in zip(self.inputs, rows, strict=True)
        ]
        if self.signature is None:
            return run(*moved)
        found: dict[str, Any] = {}
        for one, array in zip(self.inputs, moved, strict=True):
            parameter, key = one.place
            if key is None:
                found[parameter] = array
            else:
                found.setdefault(parameter, {})[key] = array
        bound = inspect.BoundArguments(
            self.signature,
            {
                name: _as_taken(found[name], parameter.kind)
                for name, parameter in self.signature.parameters.items()
                if name in found
            },
        )
        return run(*bound.args, **bound.kwargs)


def of_row(row_shape: Sequence[int]) -> NetInputs:
    """The one input, of floats, of most nets."""
    return NetInputs(inputs=(NetInput(row_shape=tuple(row_shape), types=(torch.float32,)),))


def inputs_of(net: nn.Module, asked: Sequence[NetInput]) -> NetInputs:
    """The net's inputs in the order of its parameters, each of a type that it runs with.

    Where it runs with none, the likeliest: what is wrong is found when it is traced.  Sizes that begin with 1
    and do not run are those of a batch of one row, or the 1 alone is one number a row, (N,) and not (N, 1).
    Raises SourceError where names do not fit.
    """
    placed = _placed(net, asked)
    ways = [placed.inputs]
    if all(map(_may_be_batch, placed.inputs)):
        ways.append(tuple(replace(one, row_shape=one.row_shape[1:]) for one in placed.inputs))
    numbers = [replace(one, row_shape=()) if _may_be_number(one) else one for one in placed.inputs]
    ways += [tuple(numbers)] if any(map(_may_be_number, placed.inputs)) else []
    for inputs in ways:
        for types in _types(inputs):
            typed = (replace(one, types=(kind,)) for one, kind in zip(inputs, types, strict=True))
            taken = replace(placed, inputs=tuple(typed))
            if (num_ids := _run(net, taken)) is not None:
                found = zip(taken.inputs, num_ids, strict=True)
                return replace(taken, inputs=tuple(replace(one, num_ids=number) for one, number in found))
    return replace(placed, inputs=tuple(replace(one, types=one.types[:1]) for one in placed.inputs))


def _may_be_batch(one: NetInput) -> bool:
    return one.row_shape[:1] == (1,) and one.axis == 0 and one.rows is None


def _may_be_number(one: NetInput) -> bool:
    return one.row_shape == (1,) and _may_be_batch(one)


def _types(inputs: Sequence[NetInput]) -> list[tuple[torch.dtype, ...]]:
    """Choices of types, those without masks and then those with the fewest unlikely ones first.

    Of many inputs, as the columns of a table are, all of one type: every choice of them would take hours.
    """
    if prod(len(one.types) for one in inputs) > MOST_CHOICES:
        places = range(max(len(one.types) for one in inputs))
        return [tuple(one.types[min(place, len(one.types) - 1)] for one in inputs) for place in places]
    likeliest = sorted(product(*(enumerate(one.types) for one in inputs)), key=_unlikeliness)
    return [tuple(kind for _, kind in choice) for choice in likeliest[:MAX_TRIED]]


def _unlikeliness(choice: Sequence[tuple[int, torch.dtype]]) -> tuple[int, int]:
    masks = sum(place > 0 and kind is torch.bool for place, kind in choice)  # at 0 is what rows say
    return masks, sum(place for place, _ in choice)


def _run(net: nn.Module, taken: NetInputs) -> list[int | None] | None:
    """Below which number each input's ids are; None where the net does not run."""
    rows = [one.zeros() for one in taken.inputs]
    if "eval" not in vars(net):
        net.eval()
    tables = Tables(rows)
    # Lazy layers keep the sizes of their first rows, and torch copies no weights that have none.
    is_shaped = not any(map(is_lazy, (*net.parameters(), *net.buffers())))
    kept = (put_back(net), buffers_put_back(net)) if is_shaped else ()
    with ExitStack() as around:
        for one in (*kept, torch.no_grad(), tables):
            around.enter_context(one)
        try:
            taken.call(net, rows)
        except Exception:  # the user's own forward
            return None
    return tables.num_ids


def _placed(net: nn.Module, asked: Sequence[NetInput]) -> NetInputs:
    """Each input with its place, in the order of the parameters."""
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):  # of a function in C
        signature = inspect.Signature([inspect.Parameter("rows", inspect.Parameter.VAR_POSITIONAL)])
    parameters = list(signature.parameters.values())
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in _VARIABLE]
    if len(asked) == 1 and not asked[0].name:
        _check_required(net, required, required[:1])
        if required and signature.parameters[required[0]].kind is inspect.Parameter.KEYWORD_ONLY:
            return NetInputs(inputs=(replace(asked[0], place=(required[0], None)),), signature=signature)
        return NetInputs(inputs=tuple(asked))
    placed = [replace(one, place=_place(one.name, asked, parameters, required, net)) for one in asked]
    order = [*signature.parameters]
    placed.sort(key=lambda one: order.index(one.place[0]))
    _check_required(net, required, [one.place[0] for one in placed])
    return NetInputs(inputs=tuple(placed), signature=signature)


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _place(
    name: str,
    asked: Sequence[NetInput],
    parameters: Sequence[inspect.Parameter],
    required: Sequence[str],
    net: nn.Module,
) -> tuple[str, str | None]:
    fixed = [one.name for one in parameters if one.kind not in _VARIABLE]
    if name in fixed:
        return name, None
    parameter, dot, key = name.partition(".")
    if dot and parameter in fixed:
        return parameter, key
    variable = {one.kind: one.name for one in parameters if one.kind in _VARIABLE}
    for kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
        if kind in variable and name:
            return variable[kind], name
    # Names that are none of its parameters are the keys of the one that it needs.
    if name and len(required) == 1 and not any(one.name.partition(".")[0] in fixed for one in asked):
        return required[0], name
    taken = ", ".join(f"'{one}'" for one in fixed) or "none"
    raise SourceError(
        f"--input-shape: {type(net).__name__} takes {taken}, found '{name}': name its inputs after the "
        "parameters of its forward, NAME=C,H,W"
    )


def _check_required(net: nn.Module, required: Sequence[str], given: Sequence[str]) -> None:
    if missing := [name for name in required if name not in given]:
        flags = " ".join(f"--input-shape {name}=C,H,W" for name in required)
        raise SourceError(f"{type(net).__name__} takes '{missing[0]}' too, which has no shape: {flags}")


def _as_taken(value: Any, kind: Any) -> Any:
    """A dict of parts as its parameter takes them: a list where the keys are 0, 1, …"""
    if not isinstance(value, dict) or kind is inspect.Parameter.VAR_KEYWORD:
        return value
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return tuple(value.values())
    numbers = [str(number) for number in range(len(value))]
    return [value[number] for number in numbers] if set(value) == set(numbers) else value


def first_run(net: nn.Module, asked: Sequence[NetInput]) -> None:
    """Give a net its first rows, which layers without sizes take theirs from; raises what the net raises."""
    taken = inputs_of(net, asked)
    taken.call(net, [one.zeros() for one in taken.inputs])
