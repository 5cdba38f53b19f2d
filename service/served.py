"""A served version: its manifest, its engine in a thread of its own, and the queue in front of it.

In: a proved version.  Out: `submit` rows, get their answers; everything a route wants to know about it.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service.batcher import Batcher, BatcherConfig, Execution
from service.job import Tensors
from service.metrics import VersionMetrics
from service.probabilities import are_distributions
from service.protocol.request import RequestParser
from service.protocol.signature import signature_of
from service.repository import Loaded


class Served:
    """One version of a model, answering. Belongs to the event loop that made it."""

    def __init__(
        self, loaded: Loaded, metrics: VersionMetrics, *, queue_rows: int, max_wait_s: float
    ) -> None:
        self.name = loaded.name
        self.version = loaded.version
        self.manifest = loaded.manifest
        self.digest = loaded.bundle.digest
        self.engine = loaded.engine
        self.metrics = metrics
        self.signature = signature_of(
            self.name, self.version, self.manifest.inputs, self.manifest.outputs, queue_rows
        )
        self.parser = RequestParser(self.signature)
        self.no_rows: Tensors = {
            spec.name: np.empty((0, *spec.row_shape), spec.dtype) for spec in self.manifest.outputs
        }
        self.ends_in_softmax = are_distributions(loaded.bundle.golden.outputs[self.manifest.outputs[0].name])
        self.digest_header = (b"x-model-digest", f"sha256:{self.digest}".encode())
        config = BatcherConfig(largest=self.engine.largest, queue_rows=queue_rows, max_wait_s=max_wait_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{self.name}")
        self.batcher = Batcher(self._run, config, observe=self._observe)
        self.batcher.start()

    @property
    def properties(self) -> dict[str, str]:
        """What metadata tells about this version beyond its tensors."""
        parity = max(self.metrics.parity.values())
        return {
            "digest_sha256": self.digest,
            "parity_max_abs": f"{parity:.3g}",
            "provider": self.engine.provider,
            "batch_norms_folded": f"{self.manifest.fold.folded} of {self.manifest.fold.found}",
        }

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish accepted rows, then let the engine's thread go."""
        await self.batcher.close(timeout_s)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, jobs: Sequence[Tensors]) -> Tensors:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.engine.run, jobs)

    def _observe(self, execution: Execution) -> None:
        self.metrics.batch(
            num_rows=execution.num_rows,
            bucket=self.engine.bucket(execution.num_rows),
            seconds=execution.seconds,
            has_failed=execution.has_failed,
        )
