"""What is known of one model: which version answers, and why no other does."""

import asyncio
from dataclasses import dataclass, field

from service.models.served import Served


@dataclass(kw_only=True)
class ModelState:
    """One model of the folder: the version that answers, and the refused versions with their reasons.

    `is_cold`: its next request loads it (on_demand.py); `num_bytes` is what it took in memory when it was
    there last. `changing` is held while it is loaded or unloaded, so that clients take turns.
    """

    name: str
    served: Served | None = None
    is_loading: bool = True
    is_unloaded: bool = False
    is_cold: bool = False
    num_bytes: int = 0
    refused: dict[str | None, str] = field(default_factory=dict)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def reason(self) -> str:
        """One sentence on why the model is not ready."""
        if self.is_unloaded:
            return f"model '{self.name}' is unloaded"
        if self.is_loading:
            return f"model '{self.name}' is loading"
        if self.is_cold and not self.refused:
            return f"model '{self.name}' is not in memory: its next request loads and proves it"
        version, reason = next(iter(self.refused.items()), (None, "no version of it was tried"))
        where = "" if version is None else f" version {version}"
        return f"model '{self.name}'{where} is not served: {reason}"
