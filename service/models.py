"""The models in service: who answers for a NAME and a VERSION, and who is not ready and why.

In: the models folder, tried in a background thread.  Out: a `Served` for each request, or the error to send.

    ready(model)  = one of its versions is proved
    ready(server) = there is a model, every model is ready, and the server is not draining

A newest version that fails its proof leaves an older one in service: that version answers 503 with its
reason, the model stays ready. Being live never depends on any of this.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.engine import EngineConfig
from service.errors import Draining, NotReady, UnknownModel
from service.metrics import Metrics
from service.repository import Loaded, Refused, find_models, load_newest
from service.served import Served

_log = logging.getLogger("foldserve")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Where the models are and how each of them is run and queued."""

    root: Path
    engine: EngineConfig
    queue_rows: int
    max_wait_s: float = 0.0


@dataclass(kw_only=True)
class ModelState:
    """What is known of one model: who serves it, which versions were refused and why."""

    name: str
    served: Served | None = None
    is_loading: bool = True
    refused: dict[str | None, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """One sentence on why the model is not ready."""
        if self.is_loading:
            return f"model '{self.name}' is loading"
        version, reason = next(iter(self.refused.items()))
        where = "" if version is None else f" version {version}"
        return f"model '{self.name}'{where} is not served: {reason}"


class Models:
    """Every model of the folder. Belongs to the event loop that calls `start`."""

    def __init__(self, config: ModelsConfig) -> None:
        self.config = config
        self.is_draining = False
        self.accepts_work = True
        self.metrics = Metrics(lambda: self.is_ready)
        self.loaded = asyncio.Event()
        self._states: dict[str, ModelState] = {}
        self._is_stopping = False

    def start(self) -> None:
        """Load in the background; `loaded` is set when every model has been tried."""
        for name in find_models(self.config.root):
            self._states[name] = ModelState(name=name)
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe
        threading.Thread(target=self._load, args=(post,), name="loading", daemon=True).start()

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish accepted rows and stop."""
        self._is_stopping = True
        served = [state.served for state in self._states.values() if state.served is not None]
        await asyncio.gather(*(version.close(timeout_s) for version in served))

    @property
    def is_ready(self) -> bool:
        return self.reason is None

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, in one sentence, or None."""
        if self.is_draining:
            return "the server is shutting down"
        if not self._states:
            return "the models folder holds no model"
        return next((state.reason for state in self._states.values() if state.served is None), None)

    @property
    def names(self) -> list[str]:
        return list(self._states)

    @property
    def served(self) -> list[Served]:
        """The versions that answer."""
        return [state.served for state in self._states.values() if state.served is not None]

    def check_open(self) -> None:
        """Raise Draining once new work is refused."""
        if not self.accepts_work:
            raise Draining("the server is shutting down")

    def get(self, name: str, version: str | None = None) -> Served:
        """Who answers; raises UnknownModel or NotReady."""
        state = self._states.get(name)
        if state is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        served = state.served
        if served is not None and (version is None or version == served.version):
            return served
        if version is not None and version in state.refused:
            raise NotReady(f"model '{name}' version {version} is not served: {state.refused[version]}")
        if state.is_loading or version is None:
            raise NotReady(state.reason)
        raise UnknownModel(f"Request for unknown model: '{name}' version '{version}' is not found")

    def _load(self, post: Callable[..., object]) -> None:
        try:
            for name in self._states:
                for fact in load_newest(self.config.root, name, self.config.engine):
                    if self._is_stopping:
                        return
                    post(self._note, fact)
                post(self._end, name)
            post(self.loaded.set)
        except RuntimeError:
            if not self._is_stopping:  # the event loop closed under us only when the server has gone
                raise

    def _note(self, fact: Loaded | Refused) -> None:
        state = self._states[fact.name]
        if isinstance(fact, Refused):
            state.refused[fact.version] = fact.reason
            _log.error("event=refused model=%s version=%s reason=%r", fact.name, fact.version, fact.reason)
            if fact.version is not None:
                self.metrics.set_proved(fact.name, fact.version, False)
            return
        metrics = self.metrics.add_version(fact.name, fact.version)
        assert fact.engine.parity is not None
        metrics.parity = fact.engine.parity.worst
        self.metrics.set_proved(fact.name, fact.version, True)
        config = self.config
        served = Served(fact, metrics, queue_rows=config.queue_rows, max_wait_s=config.max_wait_s)
        metrics.waiting_rows = lambda: served.batcher.waiting_rows
        metrics.running_rows = lambda: served.batcher.running_rows
        state.served = served
        _log.info(
            "event=proved model=%s version=%s provider=%s parity=%.3g seconds=%.2f digest=%s",
            *(fact.name, fact.version, fact.engine.provider),
            *(max(metrics.parity.values()), fact.seconds, served.digest[:12]),
        )

    def _end(self, name: str) -> None:
        self._states[name].is_loading = False
