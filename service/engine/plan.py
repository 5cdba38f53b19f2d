"""How to run a graph on this machine: chosen by a short measurement, kept for the next start.

In: a graph, golden rows to run it on, the cores it may use.  Out: a `SessionPlan`.

    rate(plan)   = maximum rows/s over the buckets, every lane busy
    alone(plan)  = seconds of one row, the other lanes idle
    chosen       = of the plans whose rate comes within TIE of the best, the one with the smallest `alone`

First how threads and lanes share the cores (one batch with all threads, or as many batches as cores), then,
one after another, what keeps its usual value unless another measures better by more than noise.

A plan is kept under the digest of the bundle, the device, the runtime's version and the number of cores; a
kept plan that cannot be read is measured again.
"""

import hashlib
import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.contract.bundle import Golden
from service.contract.files import publish
from service.contract.manifest import Manifest
from service.contract.parity import allowed
from service.engine.buffers import Buffers
from service.engine.device_buffers import DeviceBuffers
from service.engine.session import (
    CPU,
    CUDA,
    ORT_VERSION,
    EngineError,
    SessionPlan,
    check_tensors,
    open_session,
)
from service.engine.sized_buffers import SizedBuffers

TIE = 0.95
BETTER = 1.05  # what a change must gain to count as more than noise
MAX_SECONDS = 0.25  # for one plan; two runs of each bucket are made in any case until it is over
_log = logging.getLogger("foldserve")


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to measure: a graph with its golden rows, on `provider` with `threads`, in each of `buckets`.

    `lanes` None leaves them to the measurement; `cache` is the folder of kept plans, None for none.
    `may_saturate` as in SessionPlan.
    """

    graph: bytes
    digest: str
    manifest: Manifest
    golden: Golden
    provider: str
    threads: int
    lanes: int | None
    buckets: Sequence[int]
    cache: Path | None = None
    may_saturate: bool = False

    @property
    def key(self) -> str:
        """The name of a kept plan's file: a digest of everything that the measurement depends on."""
        facts = (
            self.digest,
            self.provider,
            _device_name(self.provider),
            ORT_VERSION,
            self.threads,
            self.lanes,
        )
        return hashlib.sha256(repr((*facts, tuple(self.buckets))).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured plan: its maximum rows/s with every lane busy, and the seconds of one row by itself."""

    rows_per_s: float
    alone_s: float


LaneBuffers = Buffers | DeviceBuffers | SizedBuffers


def open_lanes(
    graph: bytes, manifest: Manifest, provider: str, plan: SessionPlan, largest: int
) -> list[LaneBuffers]:
    """A set of buffers for each of the plan's lanes; raises EngineError if the graph cannot be opened.

    The lanes share a session, and so the weights, except with CUDA graphs: a session captures one graph per
    bucket, for fixed addresses.
    """
    sessions = [open_session(graph, provider, plan) for _ in range(plan.lanes if plan.has_cuda_graphs else 1)]
    lanes: list[LaneBuffers] = []
    for lane in range(plan.lanes):
        session = sessions[lane % len(sessions)]
        check_tensors(session, manifest)
        if manifest.sizes is not None:
            lanes.append(SizedBuffers(session, manifest))
        elif provider == CUDA:
            lanes.append(DeviceBuffers(session, manifest, largest, has_graphs=plan.has_cuda_graphs))
        else:
            lanes.append(Buffers(session, manifest, largest, has_bindings=plan.has_bindings))
    return lanes


def choose_plan(request: PlanRequest) -> SessionPlan:
    """The kept plan, or a newly measured one, which is kept.

    Raises nothing: a graph that cannot run gets a plan too, and fails with its reason when it is opened.
    """
    path = request.cache / f"{request.key}.json" if request.cache else None
    if path is not None and (kept := _read(path)) and kept.lanes * kept.threads <= _max_threads(request):
        return kept
    first = list(_starts(request))
    if len(first) == 1 and request.provider == CPU and request.lanes is not None:
        return first[0]
    begun = time.perf_counter()
    measured = {plan: found for plan in first if (found := _try(plan, request))}
    if not measured:
        return first[0]  # it will fail again when it is opened to serve, with its reason
    enough = TIE * max(found.rows_per_s for found in measured.values())
    chosen = min(
        (plan for plan in measured if measured[plan].rows_per_s >= enough),
        key=lambda plan: measured[plan].alone_s,
    )
    best = measured[chosen]
    # One after another, each on top of what was chosen so far: all combinations would take seconds.
    for changes in _changes(request.provider, chosen, has_open_sizes=request.manifest.sizes is not None):
        changed = replace(chosen, **changes)
        found = _try(changed, request)
        if found and found.rows_per_s > BETTER * best.rows_per_s and found.alone_s < BETTER * best.alone_s:
            chosen, best = changed, found
    _log.info(
        "event=planned threads=%d lanes=%d rows_per_second=%.0f alone_ms=%.3g seconds=%.2f",
        *(chosen.threads, chosen.lanes, best.rows_per_s, best.alone_s * 1e3, time.perf_counter() - begun),
    )
    if path is not None:
        _keep(path, chosen)
    return chosen


def _starts(request: PlanRequest) -> Iterator[SessionPlan]:
    has_patterns = request.manifest.sizes is None
    if request.provider != CPU:
        yield SessionPlan(threads=1, lanes=request.lanes or 2, has_memory_patterns=has_patterns)
        return
    for lanes in (
        [request.lanes] if request.lanes else sorted({1, request.threads // 2 or 1, request.threads})
    ):
        threads = max(1, request.threads // lanes)
        yield SessionPlan(
            threads=threads,
            lanes=lanes,
            has_memory_patterns=has_patterns,
            may_saturate=request.may_saturate,
        )


def _changes(provider: str, plan: SessionPlan, *, has_open_sizes: bool) -> list[dict[str, Any]]:
    """What to try on top of `plan`; nothing that is bound to one shape where sizes are open."""
    if provider != CPU:
        searches = [{"conv_search": "EXHAUSTIVE"}, {"conv_search": "DEFAULT"}]
        graphs = [] if has_open_sizes else [{"has_cuda_graphs": True}]
        return [*searches, {"has_tf32": True}, *graphs]
    changes: list[dict[str, Any]] = [{"has_arena": False}]
    if not has_open_sizes:
        changes.insert(0, {"has_bindings": False})
    return changes + ([{"is_parallel": True}] if plan.threads > 1 else [])


def _try(plan: SessionPlan, request: PlanRequest) -> Measured | None:
    """Measure a plan; None if the graph cannot run by it."""
    try:
        lanes = open_lanes(request.graph, request.manifest, request.provider, plan, request.buckets[-1])
        return _measure(lanes, request)
    except EngineError:
        return None
    except Exception as error:  # what the graph makes ONNX Runtime raise shows again when it is proved
        _log.debug("event=plan_failed plan=%r reason=%r", plan, str(error))
        return None


def _measure(lanes: Sequence[LaneBuffers], request: PlanRequest) -> Measured:
    deadline = time.perf_counter() + MAX_SECONDS
    rates: list[float] = []
    alone_s = 0.0
    for bucket in allowed(request.buckets, request.manifest.max_rows_at(request.golden.sizes)):
        rows = {
            name: np.resize(array, (bucket, *array.shape[1:]))
            for name, array in request.golden.inputs.items()
        }
        for buffers in lanes:
            buffers.fill([rows], bucket, bucket)
        alone = busy_seconds(lanes[:1], bucket)
        alone_s = alone_s or alone
        busy = alone if len(lanes) == 1 else busy_seconds(lanes, bucket)
        rates.append(bucket * len(lanes) / busy)
        # Two buckets in a row below the maximum: larger ones only take longer, and teach nothing.
        has_peaked = len(rates) > 2 and max(rates[-2:]) < max(rates[:-2])
        if has_peaked or time.perf_counter() > deadline:
            break
    return Measured(rows_per_s=max(rates), alone_s=alone_s)


def busy_seconds(lanes: Sequence[LaneBuffers], bucket: int) -> float:
    """Median seconds of one batch, the mean over `lanes`, which all run at once; a first run warms each."""
    took: list[float] = []

    def repeat(buffers: LaneBuffers) -> None:
        buffers.run(bucket)
        deadline = time.perf_counter() + MAX_SECONDS / 80
        own: list[float] = []
        while len(own) < 2 or time.perf_counter() < deadline:
            begun = time.perf_counter()
            buffers.run(bucket)
            own.append(time.perf_counter() - begun)
        took.append(sorted(own)[len(own) // 2])

    threads = [threading.Thread(target=repeat, args=(buffers,)) for buffers in lanes[1:]]
    for thread in threads:
        thread.start()
    repeat(lanes[0])
    for thread in threads:
        thread.join()
    return sum(took) / len(took)


def _read(path: Path) -> SessionPlan | None:
    try:
        return SessionPlan(**orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _max_threads(request: PlanRequest) -> int:
    """How many threads the lanes may have together: a plan kept under other settings may ask for more."""
    return max(request.threads, request.lanes or 1) if request.provider == CPU else 64


def _keep(path: Path, plan: SessionPlan) -> None:
    """Keep a plan for the next start; a folder that cannot be written costs only that start's time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, orjson.dumps(asdict(plan)), is_shared=True)
    except OSError as error:
        _log.debug("event=plan_not_kept reason=%r", error.strerror)


def _device_name(provider: str) -> str:
    key, paths = "model name", [Path("/proc/cpuinfo")]
    if provider != CPU:
        key, paths = "Model", sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    try:
        lines = "\n".join(path.read_text() for path in paths).splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(names, platform.processor())
