"""A served version: its manifest, its engine in threads of its own, and the queue in front of it.

In: a proved version.  Out: its parser, its batcher, and what the routes publish of it.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.batching.batcher import Batcher, BatcherConfig
from service.batching.execution import Execution
from service.batching.forecast import Forecast
from service.batching.job import Tensors
from service.batching.lanes import Lanes
from service.batching.queue import DEFAULT_PRIORITY
from service.batching.shared_lanes import LaneThreads, SharedLanes
from service.models.repository import Loaded
from service.protocol.configuration import model_configuration
from service.protocol.request import RequestParser
from service.protocol.signature import signature_of
from service.telemetry.metrics import VersionMetrics


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """How rows wait: at most so many, so long for a fuller batch, and the timeout if a client sets none."""

    queue_rows: int
    max_wait_s: float = 0.0
    default_timeout_s: float | None = None


class Served:
    """One version of a model that answers requests. Belongs to the event loop that made it.

    `head` are the header lines of its answers; `no_rows` its outputs for a request without rows. With
    `threads` its batches run in those, which it shares with other models, instead of in threads of its own.
    """

    def __init__(
        self,
        loaded: Loaded,
        metrics: VersionMetrics,
        config: QueueConfig,
        threads: LaneThreads | None = None,
    ) -> None:
        self.name = loaded.name
        self.version = loaded.version
        self.manifest = loaded.manifest
        self.digest = loaded.bundle.digest
        self.num_golden_rows = loaded.bundle.num_golden_rows
        self.proved_at = time.time()
        self.engine = engine = loaded.engine
        self.metrics = metrics
        self.default_timeout_s = config.default_timeout_s
        self.signature = signature_of(self.name, self.version, self.manifest, config.queue_rows)
        self.parser = RequestParser(self.signature)
        self.no_rows: Tensors = {
            spec.name: np.empty((0, *self.signature.outputs[spec.name].extreme("minimum")), spec.dtype)
            for spec in self.manifest.outputs
        }
        self.ends_in_softmax = loaded.bundle.ends_in_softmax
        self.head = (
            f"x-model-digest: sha256:{self.digest}\r\nx-model-version: {self.version}\r\n"
            f"x-model-precision: {engine.precision.name}\r\n"
        ).encode()
        lanes = engine.plan.lanes
        forecast = Forecast(engine.buckets, engine.seconds, lanes)
        self._lanes = (
            Lanes(engine.run, lanes, name=f"engine-{self.name}")
            if threads is None
            else SharedLanes(engine.run, lanes, threads)
        )
        self.num_bytes = len(loaded.bundle.graph) + engine.num_buffer_bytes
        self.batcher = Batcher(
            self._lanes,
            BatcherConfig(
                queue_rows=config.queue_rows,
                max_wait_s=config.max_wait_s,
            ),
            forecast,
            run_inline=self._lanes.run_inline if engine.may_run_inline else None,
            observe=self._observe,
        )
        self._holders = 0
        self._released = asyncio.Event()
        metrics.follow(self)

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self.batcher.waiting_rows

    @property
    def running_rows(self) -> int:
        """Rows in the engine, or handed to it."""
        return self.batcher.running_rows

    @property
    def is_idle(self) -> bool:
        """Whether no request waits, is computed, or is being read."""
        return not (self._holders or self.waiting_rows or self.running_rows)

    @property
    def cold_executions(self) -> int:
        """Batches that ran in a bucket which the proof had not warmed."""
        return self.engine.cold_executions

    @property
    def properties(self) -> dict[str, str]:
        """The properties that metadata lists beside the tensors."""
        if self.manifest.unproved is None:
            proof = {"parity_max_abs": f"{max(self.metrics.parity.values()):.3g}"}
        else:
            proof = {"unproved": self.manifest.unproved}
        precision = self.engine.precision
        why = {} if precision.reason is None else {"precision_reason": precision.reason}
        return {
            "digest_sha256": self.digest,
            **proof,
            "provider": self.engine.provider,
            "precision": precision.name,
            **why,
            "batch_norms_folded": f"{self.manifest.fold.folded} of {self.manifest.fold.found}",
        }

    @property
    def configuration(self) -> dict[str, Any]:
        """How this version is run, as the protocol's model configuration."""
        config = self.batcher.config
        return model_configuration(
            self.signature,
            buckets=self.engine.buckets,
            max_wait_s=config.max_wait_s,
            queue_rows=config.queue_rows,
            provider=self.engine.provider,
            lanes=self.engine.plan.lanes,
            default_priority=DEFAULT_PRIORITY,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep this version open for a request that is still being read."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._released.set()

    async def retire(self) -> None:
        """Close once no request holds this version, and free its engine; another version has replaced it."""
        while self._holders:
            self._released.clear()
            await self._released.wait()
        await self.close()
        self.metrics.leave(self)
        # Explicitly, because what was alive at the start is frozen: the collector would never find the cycle
        # of a batcher and its observer, and each reload would keep a model's weights in memory.
        self.engine.release()

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish accepted rows, at most for `timeout_s`, then end the engine's threads."""
        await self.batcher.close(timeout_s)
        self._lanes.stop()

    def _observe(self, execution: Execution) -> None:
        ran = execution.result
        self.metrics.batch(
            num_rows=execution.num_rows,
            bucket=self.engine.bucket(execution.num_rows),
            seconds=None if ran is None else (ran.input_s, ran.compute_s, ran.output_s),
        )
