"""The models folder: which versions there are, which one can answer, and why another cannot.

In: a `ModelsFolder`.
Out: for each NAME, one fact for each version tried, newest first, until one opens and proves.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.contract.bundle import Bundle, open_bundle
from service.contract.golden_pictures import measure_pictures
from service.contract.manifest import BundleError, Manifest
from service.contract.signature import TrustedKeys
from service.engine.engine import Engine, EngineConfig
from service.engine.precision import load_fastest
from service.engine.session import EngineError
from service.models.folder import ModelsFolder
from service.models.memory import return_freed_memory

RESERVED_NAMES = frozenset({"stats"})  # GET /v2/models/stats belongs to the protocol

PROGRESS_S = 5.0  # of a load that lasts longer, a line each time

_log = logging.getLogger("foldserve")
_REPLACED = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One proved version of a model, loaded within `seconds`."""

    name: str
    version: str
    bundle: Bundle
    engine: Engine
    seconds: float

    @property
    def manifest(self) -> Manifest:
        """The manifest of its bundle."""
        return self.bundle.manifest


@dataclass(frozen=True, kw_only=True)
class Refused:
    """One version that cannot be served, with the reason; version None: the model has none to try."""

    name: str
    version: str | None
    reason: str


def log_fact(fact: Loaded | Refused) -> None:
    """Log what became of a version: refused, or served, and with which plan."""
    if isinstance(fact, Refused):
        _log.error("event=refused model=%s version=%s reason=%r", fact.name, fact.version, fact.reason)
        return
    engine, plan, unproved = fact.engine, fact.engine.plan, fact.manifest.unproved
    if unproved is not None:
        _log.warning("event=unproved model=%s version=%s reason=%r", fact.name, fact.version, unproved)
    parity = {} if engine.parity is None else engine.parity.worst
    _log.info(
        "event=%s model=%s version=%s provider=%s precision=%s parity=%.3g lanes=%d threads=%d "
        "buckets=%s seconds=%.2f digest=%s",
        *("loaded" if unproved else "proved", fact.name, fact.version, engine.provider),
        *(engine.precision.name, max(parity.values(), default=float("nan")), plan.lanes, plan.threads),
        *(",".join(map(str, engine.buckets)), fact.seconds, fact.bundle.digest[:12]),
    )


def load_newest(
    models: ModelsFolder,
    name: str,
    config: EngineConfig,
    trusted: TrustedKeys | None = None,
    *,
    allow_unproved: bool = False,
) -> Iterator[Loaded | Refused]:
    """Try the versions of a model from the newest on; the last fact is Loaded, or nothing can be served."""
    if name in RESERVED_NAMES:
        yield Refused(name=name, version=None, reason=f"the name '{name}' belongs to a route of the protocol")
        return
    if _REPLACED in name:
        yield Refused(name=name, version=None, reason="its folder's name is not UTF-8")
        return
    try:
        versions = models.versions(name)
    except OSError as error:
        yield Refused(name=name, version=None, reason=f"its folder cannot be read: {error.strerror}")
        return
    if not versions:
        yield Refused(name=name, version=None, reason="its folder holds no version (1, 2, …)")
    for version in versions:
        folder = models.version(name, version)
        fact = load_version(folder, name, version, config, trusted, allow_unproved=allow_unproved)
        yield fact
        if isinstance(fact, Loaded):
            return


def load_version(
    folder: Path,
    name: str,
    version: str,
    config: EngineConfig,
    trusted: TrustedKeys | None = None,
    *,
    allow_unproved: bool = False,
) -> Loaded | Refused:
    """Open and prove the bundle in `folder`; with `trusted` keys one of them must have signed it.

    With `allow_unproved` a version that states that it has no proof is loaded without one.
    """
    begun = time.perf_counter()
    try:
        with _showing_progress(name, version):
            bundle = open_bundle(folder, trusted, allow_unproved=allow_unproved)
            # Decoded here and not in a process: the digests vouch for them as they do for the graph.
            measure_pictures(bundle.manifest, bundle.pictures, bundle.picture_rows)
            engine = load_fastest(bundle, config)
        if bundle.int8 is not None:
            return_freed_memory()  # of the graph that does not serve
    except (BundleError, EngineError) as error:
        return Refused(name=name, version=version, reason=str(error))
    except Exception as error:  # a damaged file makes libraries raise anything: the others are served
        return Refused(name=name, version=version, reason=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - begun
    return Loaded(name=name, version=version, bundle=bundle, engine=engine, seconds=seconds)


@contextmanager
def _showing_progress(name: str, version: str) -> Iterator[None]:
    """Log every few seconds that a version still loads: a ResNet-50 is proved for a minute on two cores."""
    begun, ended = time.perf_counter(), threading.Event()

    def show() -> None:
        while not ended.wait(PROGRESS_S):
            seconds = time.perf_counter() - begun
            _log.info("event=loading model=%s version=%s seconds=%.0f", name, version, seconds)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
