"""The models in service: which version answers for a NAME, and which is not ready and why.

In: the models folder, tried in a background thread.  Out: a `Served` for each request, or the error to send.

    ready(model)  = one of its versions is proved
    ready(server) = not draining, and of the models that were there at the start (but those unloaded)
                    strict: every one is ready          lenient: each was tried, and one is ready

A model that is loaded later is not waited for: a server that answers for what it was started with stays ready
while a new model is proved, or refused.

A newest version that fails its proof leaves an older one in service: that version answers 503 with its
reason, the model stays ready. Being live never depends on any of this. Loading a model again proves first and
swaps then: requests that are on their way finish where they began.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.contract.signature import TrustedKeys
from service.engine.engine import EngineConfig
from service.errors import BadRequest, Draining, NotReady, UnknownModel
from service.models.background import in_thread
from service.models.folder import ModelsFolder
from service.models.memory import return_freed_memory
from service.models.repository import Loaded, Refused, load_newest
from service.models.served import QueueConfig, Served
from service.models.state import ModelState
from service.models.store import Store, StoreError
from service.telemetry.metrics import Metrics

_log = logging.getLogger("foldserve")


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Where the models are and how each of them is run and queued."""

    folder: ModelsFolder
    store: Store | None = None
    store_poll_s: float = 30.0
    engine: EngineConfig
    queue: QueueConfig
    is_lenient: bool = False
    trusted: TrustedKeys | None = None
    allow_unproved: bool = False


class ModelRegistry:
    """Every model of the folder, with its state. Belongs to the event loop that calls `start`."""

    def __init__(self, config: RegistryConfig) -> None:
        self.config = config
        self.is_draining = False
        self.accepts_work = True
        self.metrics = Metrics()
        self.loaded = asyncio.Event()
        self._states: dict[str, ModelState] = {}
        self._at_start: tuple[str, ...] = ()
        self._is_stopping = False
        self._store_reason: str | None = None  # why no model is known yet
        self._following: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Load in the background; `loaded` is set when every model has been tried."""
        if self.config.store is None:
            self._begin(self.config.folder.names())
        else:
            self._store_reason = f"the store {self.config.store.url} is being read"
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._load_all, args=(loop.call_soon_threadsafe,), name="loading", daemon=True
        ).start()

    def _begin(self, names: Sequence[str]) -> None:
        """These are the models that the server is started with."""
        self._store_reason = None
        self._at_start = tuple(names)
        self._states = {name: ModelState(name=name) for name in names}

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish accepted rows; those that are not done after `timeout_s` fail with Draining."""
        self._is_stopping = True
        if self._following is not None:
            self._following.cancel()
        await asyncio.gather(*(version.close(timeout_s) for version in self.served), *self._retiring)

    @property
    def is_ready(self) -> bool:
        """Whether this worker accepts work for its models."""
        return self.reason is None

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, in one sentence, or None."""
        if self.is_draining:
            return "the server is shutting down"
        if self._store_reason is not None:
            return self._store_reason
        if not self._states:
            return "the models folder holds no model"
        wanted = [self._states[name] for name in self._at_start if not self._states[name].is_unloaded]
        missing = [state for state in wanted if state.served is None]
        if self.config.is_lenient:
            is_tried = not any(state.is_loading for state in missing)
            if is_tried and len(missing) < max(1, len(wanted)):
                return None
        return missing[0].reason if missing else None

    @property
    def names(self) -> list[str]:
        """The names of all models, ready or not."""
        return list(self._states)

    @property
    def states(self) -> list[ModelState]:
        """The state of each model, in the order of `names`."""
        return list(self._states.values())

    @property
    def served(self) -> list[Served]:
        """The version that answers for each model that has one."""
        return [state.served for state in self._states.values() if state.served is not None]

    def check_open(self) -> None:
        """Raise Draining once new work is refused."""
        if not self.accepts_work:
            raise Draining("the server is shutting down")

    def get(self, name: str, version: str | None = None) -> Served:
        """The version that answers for `name`; with `version`, only if it is that one.

        Raises UnknownModel or NotReady.
        """
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

    async def load(self, name: str) -> None:
        """Try a model's versions again and serve the newest that proves; BadRequest leaves all as it was."""
        known = self._states.get(name)
        if known is None:
            if name not in self.config.folder.names():
                raise BadRequest(f"failed to load '{name}': the models folder holds no such model")
            known = self._states.setdefault(name, ModelState(name=name))
        async with known.changing:
            facts = await in_thread(lambda: self._tried(name, is_served=known.served is not None))
            known.refused = {}
            known.is_loading = False
            if isinstance(facts[-1], Loaded):
                known.is_unloaded = False
            for fact in facts:
                self._note(fact)
            if isinstance(failed := facts[-1], Refused):
                raise BadRequest(f"failed to load '{name}': {failed.reason}")

    async def unload(self, name: str) -> None:
        """Stop serving a model; its accepted rows are answered. Raises BadRequest for an unknown name."""
        state = self._states.get(name)
        if state is None:
            raise BadRequest(f"failed to unload '{name}': the models folder holds no such model")
        async with state.changing:
            served, state.served = state.served, None
            state.is_unloaded = True
            if served is not None:
                self.metrics.proved.pop((name, served.version), None)
                self._retire(served)

    def _load_all(self, call_in_loop: Callable[..., object]) -> None:
        try:
            names = self._first_names(call_in_loop)
            for name in names:  # not the states: models that are loaded meanwhile are added to those
                for fact in self._facts(name):
                    if self._is_stopping:
                        return
                    call_in_loop(self._note, fact)
                call_in_loop(self._end, name)
            call_in_loop(self.loaded.set)
            if self.config.store is not None:
                call_in_loop(self._follow, self.config.store)
        except RuntimeError:
            if not self._is_stopping:  # only a server that stops closes the event loop before this ends
                raise

    def _first_names(self, call_in_loop: Callable[..., object]) -> Sequence[str]:
        """The models to begin with; of a store once it could be read, or what was pulled before."""
        store = self.config.store
        if store is None:
            return self._at_start
        while True:
            reason = None
            try:
                store.pull()
            except StoreError as error:
                reason = str(error)
                _log.error("event=store_failed reason=%r", reason)
            names = self.config.folder.names()
            if reason is None or names:
                call_in_loop(self._begin, names)
                return names
            call_in_loop(self._refuse_store, reason)
            time.sleep(self.config.store_poll_s)

    def _refuse_store(self, reason: str) -> None:
        self._store_reason = reason

    def _follow(self, store: Store) -> None:
        self._following = asyncio.get_running_loop().create_task(self._followed(store))

    async def _followed(self, store: Store) -> None:
        """Serve what comes into the store, as `load` does: proved first, then swapped."""
        last = ""
        while True:
            await asyncio.sleep(self.config.store_poll_s)
            try:
                for name in await in_thread(store.pull):
                    if name in self._states and self._states[name].is_unloaded:
                        continue  # by a client, and it stays so until one loads it
                    with contextlib.suppress(BadRequest):  # logged as refused; an older version serves on
                        await self.load(name)
                last = ""
            except (StoreError, OSError) as error:
                if str(error) != last:
                    last = str(error)
                    _log.error("event=store_failed reason=%r", last)

    def _tried(self, name: str, *, is_served: bool) -> list[Loaded | Refused]:
        """What became of the versions, newest first; while one is served, a newest that fails is the last."""
        facts: list[Loaded | Refused] = []
        for fact in self._facts(name):
            facts.append(fact)
            if is_served:
                break
        return facts

    def _facts(self, name: str) -> Iterator[Loaded | Refused]:
        config = self.config
        return load_newest(
            config.folder, name, config.engine, config.trusted, allow_unproved=config.allow_unproved
        )

    def _note(self, fact: Loaded | Refused) -> None:
        state = self._states[fact.name]
        if isinstance(fact, Refused):
            state.refused[fact.version] = fact.reason
            _log.error("event=refused model=%s version=%s reason=%r", fact.name, fact.version, fact.reason)
            if fact.version is not None:
                self.metrics.proved[fact.name, fact.version] = False
            return
        if state.is_unloaded:  # while it was being loaded
            return
        metrics = self.metrics.add_version(fact.name, fact.version)
        assert fact.engine.parity is not None
        metrics.parity = fact.engine.parity.worst
        metrics.precision = fact.engine.precision.name
        unproved = fact.bundle.manifest.unproved
        self.metrics.proved[fact.name, fact.version] = unproved is None
        if unproved is not None:
            _log.warning("event=unproved model=%s version=%s reason=%r", fact.name, fact.version, unproved)
        before, state.served = state.served, Served(fact, metrics, self.config.queue)
        if before is not None:
            self._retire(before)
        _log.info(
            "event=%s model=%s version=%s provider=%s precision=%s parity=%.3g lanes=%d threads=%d "
            "buckets=%s seconds=%.2f digest=%s",
            *(
                "proved" if unproved is None else "loaded",
                fact.name,
                fact.version,
                fact.engine.provider,
                metrics.precision,
            ),
            max(metrics.parity.values(), default=float("nan")),
            *(fact.engine.plan.lanes, fact.engine.plan.threads, ",".join(map(str, fact.engine.buckets))),
            *(fact.seconds, fact.bundle.digest[:12]),
        )

    def _retire(self, served: Served) -> None:
        """Let a version go once every request that was sent to it is answered."""
        task = asyncio.get_running_loop().create_task(_retired(served))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _end(self, name: str) -> None:
        self._states[name].is_loading = False


async def _retired(served: Served) -> None:
    await served.retire()
    await in_thread(return_freed_memory)
