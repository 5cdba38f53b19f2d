"""Which inputs of a net choose rows of a table, and how many rows that has.

    x = embedding(ids); one_hot(kind, 5)          ids below num_embeddings, kind below 5

In: the tensors that a net is given, and a run of it.  Out: a number for each, None where nothing says.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from export.sources.calls import Calls

_EMBEDDED = (nn.functional.embedding, nn.functional.embedding_bag)


class Tables(Calls):
    """In force, notes each look-up in a table by a tensor that is one of `rows`, or a part of it."""

    def __init__(self, rows: Sequence[torch.Tensor]) -> None:
        self.num_ids: list[int | None] = [None] * len(rows)
        # A part is a view of the same memory; what is computed from a tensor has its own.
        self._places = {row.untyped_storage().data_ptr(): place for place, row in enumerate(rows)}

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func in _EMBEDDED:
            ids, table = [*args, kwargs.get("input"), kwargs.get("weight")][:2] if len(args) < 2 else args[:2]
            self._note(ids, len(table) if isinstance(table, torch.Tensor) else None)
        elif func is nn.functional.one_hot:
            self._note(args[0], args[1] if len(args) > 1 else kwargs.get("num_classes"))
        elif func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor):
            self._note(args[1], len(args[0]))
        elif func in (torch.index_select, torch.Tensor.index_select) and len(args) == 3:
            self._note(args[2], args[0].shape[args[1]])
        return func(*args, **kwargs)

    def _note(self, ids: Any, number: int | None) -> None:
        if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or number is None or number < 1:
            return
        place = self._places.get(ids.untyped_storage().data_ptr())
        if place is not None and ids.dtype != torch.bool:
            self.num_ids[place] = min(number, self.num_ids[place] or number)
