"""Where the models of one server are, and how each of them is opened, run and queued."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from service.contract.signature import TrustedKeys
from service.engine.engine import EngineConfig
from service.models.folder import ModelsFolder
from service.models.on_demand import MemoryLimits
from service.models.overrides import Override
from service.models.repository import Loaded, Refused, load_newest
from service.models.served import QueueConfig
from service.models.store import Store


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Where the models are and how each of them is run and queued; `overrides` are by model name.

    With `memory`, models are loaded on demand within these limits, and share `num_threads` threads.
    """

    folder: ModelsFolder
    store: Store | None = None
    store_poll_s: float = 30.0
    engine: EngineConfig
    queue: QueueConfig
    overrides: Mapping[str, Override] = field(default_factory=dict)
    memory: MemoryLimits | None = None
    num_threads: int = 1
    is_lenient: bool = False
    trusted: TrustedKeys | None = None
    allow_unproved: bool = False

    def facts(self, name: str) -> Iterator[Loaded | Refused]:
        """What becomes of a model's versions when they are tried, newest first; blocks."""
        engine = self.engine if (own := self.overrides.get(name)) is None else own.engine(self.engine)
        return load_newest(self.folder, name, engine, self.trusted, allow_unproved=self.allow_unproved)

    def queue_of(self, name: str) -> QueueConfig:
        """How a model's rows wait."""
        return self.queue if (own := self.overrides.get(name)) is None else own.queue(self.queue)
