"""Every call of a torch function while a net runs, seen or answered otherwise.

with Watcher():      a subclass, whose `answer` calls `func` itself
    net(rows)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class Calls(TorchFunctionMode, ABC):
    """In force in the thread that enters it; not within `answer`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As torch asks for it."""
        return self.answer(func, args, kwargs or {})

    @abstractmethod
    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the call of `func` answers."""
