"""The models in service: which version answers for a NAME, and which is not ready and why.

In: the models folder, tried in a background thread.  Out: a `Served` for each request, or the error to send.

    ready(model)  = one of its versions is proved
    ready(server) = not draining, and of the models that were there at the start (but those unloaded)
                    strict: every one is ready          lenient: each was tried, and one is ready
                    on demand: one was proved; each other one is proved before its first answer

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
from collections.abc import Callable, Sequence

from service.batching.shared_lanes import LaneThreads
from service.errors import BadRequest, Draining, NotInMemory, NotReady, UnknownModel
from service.models.background import in_thread
from service.models.config import RegistryConfig
from service.models.following import first_names, follow
from service.models.on_demand import OnDemand
from service.models.readiness import reason_of, reason_on_demand
from service.models.repository import Loaded, Refused, log_fact
from service.models.retiring import Retiring
from service.models.served import Served
from service.models.state import ModelState
from service.models.store import Store
from service.telemetry.metrics import Metrics

RETRY_S = 10.0  # a model that could not be loaded on demand is not tried again before
_log = logging.getLogger("foldserve")


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
        self._retiring = Retiring()
        self._on_demand: OnDemand | None = None
        self._threads: LaneThreads | None = None  # of all models; None: each has its own
        self._has_proved = False

    def start(self) -> None:
        """Load in the background; `loaded` is set when every model has been tried."""
        if self.config.store is None:
            self._begin(self.config.folder.names())
        else:
            self._store_reason = f"the store {self.config.store.url} is being read"
        config = self.config
        if config.memory is not None:
            self._threads = LaneThreads(config.num_threads)
            self._on_demand = OnDemand(config.memory, self._load_cold, self._let_go, config.num_threads)
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._load_all, args=(loop.call_soon_threadsafe,), name="loading", daemon=True
        ).start()

    def _begin(self, names: Sequence[str]) -> None:
        """These are the models that the server is started with."""
        self._store_reason = None
        self._at_start = tuple(names)
        for name in sorted(set(self.config.overrides) - set(names)):
            _log.warning("event=unknown_model_settings model=%s there is no such model so far", name)
        is_cold = self.is_on_demand
        self._states = {
            name: ModelState(name=name, is_loading=not is_cold, is_cold=is_cold) for name in names
        }

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish accepted rows; those that are not done after `timeout_s` fail with Draining."""
        self._is_stopping = True
        if self._following is not None:
            self._following.cancel()
        if self._on_demand is not None:
            self._on_demand.close()
        await asyncio.gather(*(version.close(timeout_s) for version in self.served), self._retiring.finish())
        if self._threads is not None:
            self._threads.stop()

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
        if self.is_on_demand:
            return None if self._has_proved else reason_on_demand(self.states)
        at_start = [self._states[name] for name in self._at_start]
        return reason_of(at_start, is_lenient=self.config.is_lenient)

    @property
    def is_on_demand(self) -> bool:
        """Whether models are loaded when they are asked for, and let go when others are."""
        return self.config.memory is not None

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

        Raises UnknownModel or NotReady; NotInMemory if `find` would load it.
        """
        state = self._states.get(name)
        if state is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        served = state.served
        if served is not None and (version is None or version == served.version):
            if self._on_demand is not None:
                self._on_demand.used(state)
            return served
        if state.is_cold:
            raise NotInMemory(state.reason)
        if version is not None and version in state.refused:
            raise NotReady(f"model '{name}' version {version} is not served: {state.refused[version]}")
        if state.is_loading or version is None:
            raise NotReady(state.reason)
        raise UnknownModel(f"Request for unknown model: '{name}' version '{version}' is not found")

    async def find(self, name: str, version: str | None = None) -> Served:
        """The same, loaded first if it is not in memory; use it before the next await, or hold it.

        Raises UnknownModel, NotReady, Overloaded or Draining.
        """
        while True:
            try:
                return self.get(name, version)
            except NotInMemory:
                assert self._on_demand is not None
                await self._on_demand.load(self._states[name])

    async def load(self, name: str) -> None:
        """Try a model's versions again and serve the newest that proves; BadRequest leaves all as it was."""
        known = self._states.get(name)
        if known is None:
            if name not in self.config.folder.names():
                raise BadRequest(f"failed to load '{name}': the models folder holds no such model")
            known = self._states.setdefault(name, ModelState(name=name))
        if self._on_demand is None:
            await self._load(known)
            return
        async with self._on_demand.place(known):
            await self._load(known)

    async def _load(self, known: ModelState, *, only_if_cold: bool = False) -> None:
        name = known.name
        async with known.changing:
            if only_if_cold and not known.is_cold:
                return  # a client has loaded or unloaded it meanwhile
            facts = await in_thread(lambda: self._tried(name, is_served=known.served is not None))
            known.refused = {}
            known.is_loading = known.is_cold = False
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
            state.is_cold = False
            if self._on_demand is not None:
                self._on_demand.forget(state)
            if served is not None:
                self.metrics.proved.pop((name, served.version), None)
                self._retiring.add(served)

    def _load_all(self, call_in_loop: Callable[..., object]) -> None:
        try:
            names = self._first_names(call_in_loop)
            for name in names:  # not the states: models that are loaded meanwhile are added to those
                is_loaded = False
                for fact in self.config.facts(name):
                    if self._is_stopping:
                        return
                    call_in_loop(self._note, fact)
                    is_loaded = isinstance(fact, Loaded)
                call_in_loop(self._end, name)
                if is_loaded and self.is_on_demand:
                    break  # it shows that models can be served here; the others wait for their requests
            call_in_loop(self.loaded.set)
            if self.config.store is not None:
                call_in_loop(self._follow, self.config.store)
        except RuntimeError:
            if not self._is_stopping:  # only a server that stops closes the event loop before this ends
                raise

    def _first_names(self, call_in_loop: Callable[..., object]) -> Sequence[str]:
        """The models to begin with."""
        config = self.config
        if config.store is None:
            return self._at_start
        names = first_names(
            config.store,
            config.folder,
            config.store_poll_s,
            lambda reason: call_in_loop(self._refuse_store, reason),
        )
        call_in_loop(self._begin, names)
        return names

    def _refuse_store(self, reason: str) -> None:
        self._store_reason = reason

    def _follow(self, store: Store) -> None:
        following = follow(store, self.config.store_poll_s, self._changed_in_store)
        self._following = asyncio.get_running_loop().create_task(following)

    async def _changed_in_store(self, name: str) -> None:
        """Serve what came into the store, as `load` does: proved first, then swapped."""
        state = self._states.get(name)
        if state is not None and state.is_unloaded:
            return  # by a client, and it stays so until one loads it
        if self.is_on_demand and (state is None or state.served is None):
            if state is None:
                state = self._states[name] = ModelState(name=name, is_loading=False)
            state.is_cold = True
            return
        with contextlib.suppress(BadRequest):  # logged as refused; an older version serves on
            await self.load(name)

    async def _load_cold(self, state: ModelState) -> None:
        """Load a model that is asked for; what cannot be served is not tried again for a while."""
        try:
            await self._load(state, only_if_cold=True)
        except BadRequest:  # noted and logged as refused
            pass
        except Exception as error:  # of our own code: those who wait must be answered all the same
            _log.exception("event=load_failed model=%s", state.name)
            state.refused[None] = f"{type(error).__name__}: {error}"
            state.is_cold = False
        if state.served is None and not state.is_unloaded:
            asyncio.get_running_loop().call_later(RETRY_S, self._cool, state)

    async def _let_go(self, state: ModelState) -> None:
        """Let a model leave the memory; what it accepted is answered."""
        served, state.served = state.served, None
        self._cool(state)
        if served is None:
            return
        await served.retire()
        self._retiring.trim_soon()

    def _cool(self, state: ModelState) -> None:
        state.is_cold = state.served is None and not state.is_unloaded

    def _tried(self, name: str, *, is_served: bool) -> list[Loaded | Refused]:
        """What became of the versions, newest first; while one is served, a newest that fails is the last."""
        facts: list[Loaded | Refused] = []
        for fact in self.config.facts(name):
            facts.append(fact)
            if is_served:
                break
        return facts

    def _note(self, fact: Loaded | Refused) -> None:
        state = self._states[fact.name]
        if isinstance(fact, Refused):
            log_fact(fact)
            state.refused[fact.version] = fact.reason
            if fact.version is not None:
                self.metrics.proved[fact.name, fact.version] = False
            return
        if state.is_unloaded:  # while it was being loaded
            return
        metrics = self.metrics.add_version(fact.name, fact.version)
        assert fact.engine.parity is not None
        metrics.parity = fact.engine.parity.worst
        metrics.precision = fact.engine.precision.name
        self.metrics.proved[fact.name, fact.version] = fact.bundle.manifest.unproved is None
        served = Served(fact, metrics, self.config.queue_of(fact.name), self._threads)
        before, state.served = state.served, served
        state.is_cold = False
        state.num_bytes = served.num_bytes
        self._has_proved = True
        if self._on_demand is not None:
            self._on_demand.used(state)
        if before is not None:
            self._retiring.add(before)
        log_fact(fact)

    def _end(self, name: str) -> None:
        state = self._states[name]
        state.is_loading = False
        if self.is_on_demand:
            self._cool(state)
