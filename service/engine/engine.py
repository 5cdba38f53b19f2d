"""A graph, loaded on a device and proved there: rows in, answers out.

In: an opened bundle, a device, the batch buckets.  Out: an `Engine`, or an `EngineError` in one sentence.

    run:    rows of several jobs → one buffer, zeros up to the smallest bucket that holds them → answers
    prove:  max |answer − golden| ≤ tolerance, one by one, all together, and in every bucket of every lane

The proof runs every bucket on the device, so it warms them too, and its seconds are the latency curve.
Padded rows never leave this file.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from service.batching.job import BatchResult, Tensors
from service.contract.bundle import Bundle, Golden
from service.contract.manifest import Manifest
from service.contract.parity import BUCKETS, Parity, allowed, excess_at_sizes, measure, measure_buckets
from service.contract.sizes import described
from service.contract.text import first_line
from service.engine.plan import LaneBuffers, PlanRequest, busy_seconds, choose_plan, open_lanes
from service.engine.row_sizes import RowSizes
from service.engine.session import (
    CPU,
    Device,
    EngineError,
    SessionPlan,
    find_provider,
    has_control_flow,
)
from service.errors import ModelFailed

Excess = Callable[[Bundle, Sequence[Parity]], str | None]
"""What is beyond a tolerance, in one sentence, or None."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how to run; raises ValueError for numbers that make no sense.

    `int8` says whether a bundle's int8 graph may answer (auto: where it is faster), must, or must not;
    `threads` is how many cores a model may use, `lanes` how many batches run at once (None: as measured),
    `buckets` the allowed batch sizes, `cache` the folder of measured plans (None: measure at each start).
    """

    device: Device = "auto"
    threads: int = 1
    lanes: int | None = None
    buckets: tuple[int, ...] = BUCKETS
    cache: Path | None = None
    int8: Literal["auto", "require", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if not self.buckets or min(self.buckets) < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets must be ascending numbers ≥ 1, got {list(self.buckets)}")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """In which numbers a version answers, and why not in int8 where its bundle has an int8 graph."""

    name: Literal["float32", "int8"] = "float32"
    reason: str | None = None


class Engine:
    """Sets of buffers, one for each lane, over a loaded session; a lane is for one thread at a time.

    Where sizes are open, `seconds` are of the golden size in the middle, and `sizes` knows what others cost.

    `seconds` of each bucket and `parity` are what the proof measured; `precision` is set by precision.py,
    where an engine that answers in int8 also gets the float32 graph's parity. `cold_executions` counts
    batches in a bucket that it had not run before: a client would have waited for a warm-up.
    """

    def __init__(
        self,
        lanes: Sequence[LaneBuffers],
        manifest: Manifest,
        plan: SessionPlan,
        buckets: Sequence[int],
        provider: str,
        *,
        has_control_flow: bool = False,
    ) -> None:
        self.provider = provider
        # The seconds of a batch inline must be known: a Loop takes what its rows say, and rows of another
        # size may take 20 times as long as those of the curve.
        self.may_run_inline = provider == CPU and not has_control_flow and manifest.sizes is None
        self.plan = plan
        self.buckets = tuple(buckets)
        self.parity: Parity | None = None
        self.precision = Precision()
        self.seconds: dict[int, float] = {}
        self.cold_executions = 0
        self.sizes = RowSizes(manifest, buckets)
        self._first = manifest.inputs[0].name
        self._warm: set[tuple[int, int]] = set()
        self._is_warm = False
        self._buffers = lanes

    @property
    def largest(self) -> int:
        """Rows of the largest bucket: no batch may have more."""
        return self.buckets[-1]

    @property
    def num_buffer_bytes(self) -> int:
        """The memory of the rows and answers of every lane's largest batch."""
        return sum(buffers.num_bytes for buffers in self._buffers)

    def bucket(self, num_rows: int) -> int:
        """The smallest bucket that holds `num_rows`."""
        return self.buckets[bisect_left(self.buckets, num_rows)]

    def run(self, lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        """Answers (rows, …) to the rows of `jobs`, in their order; raises ModelFailed.

        Together the rows must fit in the largest bucket.
        """
        begun = time.perf_counter()
        num_rows = sum(len(job[self._first]) for job in jobs)
        bucket = self.bucket(num_rows)
        buffers = self._buffers[lane]
        try:
            buffers.fill(jobs, num_rows, bucket)
            filled = time.perf_counter()
            arrays = buffers.run(bucket)
        except Exception as error:
            raise ModelFailed(f"the model failed: {first_line(error)}") from error
        computed = time.perf_counter()
        answers = buffers.copied(arrays, num_rows)
        if (lane, bucket) not in self._warm:
            self._warm.add((lane, bucket))
            self.cold_executions += self._is_warm
        return BatchResult(
            answers=answers,
            begun=begun,
            input_s=filled - begun,
            compute_s=computed - filled,
            output_s=time.perf_counter() - computed,
        )

    def run_all(self, lane: int, tensors: Tensors) -> Tensors:
        """Answers to any number of rows, the largest bucket at a time; notes the seconds of each bucket.

        The minimum of several runs: the first in a bucket warms it, and others may be disturbed.
        """
        num_rows = len(tensors[self._first])
        largest = min(self.largest, self.sizes.of_rows(tensors).max_rows)
        parts = []
        for start in range(0, num_rows, largest):
            stop = min(start + largest, num_rows)
            result = self.run(lane, [{name: array[start:stop] for name, array in tensors.items()}])
            parts.append(result.answers)
            bucket = self.bucket(stop - start)
            self.seconds[bucket] = min(result.seconds, self.seconds.get(bucket, result.seconds))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def rows_per_s(self, bucket: int, rows: Tensors) -> float:
        """Rows a second with every lane busy with batches of `rows`, repeated to fill the bucket."""
        filled = {name: np.resize(array, (bucket, *array.shape[1:])) for name, array in rows.items()}
        for buffers in self._buffers:
            buffers.fill([filled], bucket, bucket)
        return bucket * len(self._buffers) / busy_seconds(self._buffers, bucket)

    def release(self) -> None:
        """Free the session and its buffers; `run` must not be called again."""
        self._buffers = ()

    def seal(self) -> None:
        """The proof is over: from now on a batch in a bucket that was not warmed is counted."""
        self._is_warm = True


def load_engine(bundle: Bundle, config: EngineConfig, excess: Excess = excess_at_sizes) -> Engine:
    """A session that fits the manifest, proved on the golden rows in every lane; raises EngineError.

    `excess` compares with the tolerances of the bundle's graph; int8's are others.
    """
    config = replace(config, buckets=_buckets(config, bundle.manifest))
    provider = find_provider(bundle.graph, config.device)
    plan = choose_plan(plan_request(bundle, config, provider))
    if bundle.manifest.unproved is not None:  # nothing shows that the faster ways are right
        plan = replace(plan, has_tf32=False, has_cuda_graphs=False)
    try:
        return _proved(bundle, plan, config, provider, excess)
    except EngineError:
        if not (plan.has_tf32 or plan.has_cuda_graphs):
            raise
        # TF32 and CUDA graphs were faster in the measurement, but the proof decides whether they are right.
        plain = replace(plan, has_tf32=False, has_cuda_graphs=False)
        return _proved(bundle, plain, config, provider, excess)


def plan_request(bundle: Bundle, config: EngineConfig, provider: str) -> PlanRequest:
    """What is measured to plan the bundle's graph; `config.buckets` are those that the manifest allows."""
    return PlanRequest(
        graph=bundle.graph,
        digest=bundle.digest,
        manifest=bundle.manifest,
        golden=bundle.golden,
        provider=provider,
        threads=config.threads,
        lanes=config.lanes,
        buckets=config.buckets,
        cache=config.cache,
        may_saturate=bundle.int8 is not None and bundle.graph == bundle.int8.graph,
    )


def _buckets(config: EngineConfig, manifest: Manifest) -> tuple[int, ...]:
    """The allowed ones; where sizes are open, also those for large rows, of which few fit in a batch."""
    buckets = allowed(config.buckets, manifest.max_rows)
    if manifest.sizes is None:
        return buckets
    return tuple(sorted({*buckets, *(size for size in BUCKETS if size < buckets[-1])}))


def _proved(bundle: Bundle, plan: SessionPlan, config: EngineConfig, provider: str, excess: Excess) -> Engine:
    manifest = bundle.manifest
    lanes = open_lanes(bundle.graph, manifest, provider, plan, config.buckets[-1])
    engine = Engine(
        lanes,
        manifest,
        plan,
        config.buckets,
        provider,
        has_control_flow=has_control_flow(bundle.graph),
    )
    curves, parities = [], []
    for golden in bundle.goldens:
        engine.seconds = {}
        parities.append(_replayed(engine, golden, manifest))
        curves.append(engine.seconds)
    if beyond := excess(bundle, parities):
        raise EngineError(f"{beyond} (on {provider})")
    engine.seconds = _extended(curves[len(curves) // 2], engine.buckets)
    engine.sizes.learn([golden.sizes for golden in bundle.goldens], curves)
    engine.parity = Parity.over(parities)
    engine.seal()
    return engine


def _extended(curve: dict[int, float], buckets: Sequence[int]) -> dict[int, float]:
    """The seconds of each bucket; of those too large for rows of this size, as many times the largest's."""
    largest = max(curve)
    return {**{bucket: curve[largest] * bucket / largest for bucket in buckets if bucket > largest}, **curve}


def _replayed(engine: Engine, golden: Golden, manifest: Manifest) -> Parity:
    """The golden rows of one size in every lane and in every bucket that such rows may have."""
    plan, buckets = engine.plan, allowed(engine.buckets, manifest.max_rows_at(golden.sizes))
    try:
        parity = measure(partial(engine.run_all, 0), golden, buckets)
        for lane in range(plan.lanes):
            # Again with other rows: a captured graph is replayed, and must not repeat the answers to those
            # that it was captured with. Every lane has buffers of its own, so every lane is proved.
            for first in (0, 1, 2) if plan.has_cuda_graphs else (1,) * (lane > 0):
                run = partial(engine.run_all, lane)
                parity = parity.joined(measure_buckets(run, golden, buckets, first))
    except ModelFailed as error:
        where = f" at {described(golden.sizes)}" if golden.sizes else ""
        raise EngineError(f"the golden rows could not be run{where}: {error}") from None
    return parity
