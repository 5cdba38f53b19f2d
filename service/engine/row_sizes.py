"""What rows of a size may do: how many share a batch, and how long one takes beside those of the curve.

In: a manifest, and the seconds of the golden rows of each golden size.  Out: a `RowSize` for each size.

    max_rows = the largest bucket of which BATCH_BYTES hold the rows
    cost     = exp(interpolation of log seconds over log numbers of a row), the middle golden size's being 1

Interpolated so, cost ∝ numbersᵖ is exact for any p, between convolutions (1) and attention (2).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.batching.job import ONE_SIZE, RowSize, Tensors
from service.contract.manifest import Manifest
from service.contract.parity import allowed
from service.contract.sizes import Sizes

MAX_KEPT = 1024  # sizes: clients choose them


class RowSizes:
    """The `RowSize` of each size that clients send; `buckets` are the engine's."""

    def __init__(self, manifest: Manifest, buckets: Sequence[int]) -> None:
        self._manifest = manifest
        self._buckets = buckets
        self._names = tuple(manifest.input_sizes)
        self._kept: dict[tuple[int, ...], RowSize] = {} if self._names else {(): ONE_SIZE}
        self._points: list[tuple[float, float]] = []

    def __call__(self, key: tuple[int, ...]) -> RowSize:
        """What rows with these open sizes share, in the order of the manifest's `input_sizes`."""
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            kept = self._kept[key] = self._made(key)
        return kept

    def of_rows(self, tensors: Tensors) -> RowSize:
        """The same for arrays of rows, whose shapes fit the manifest."""
        if not self._names:
            return ONE_SIZE
        found: dict[str, int] = {}
        for spec in self._manifest.inputs:
            found |= spec.sizes_of(tensors[spec.name].shape[1:]) or {}
        return self(tuple([found[name] for name in self._names]))

    def learn(self, sizes: Sequence[Sizes], curves: Sequence[Mapping[int, float]]) -> None:
        """Take the costs from the seconds of each golden size, by bucket; the one in the middle costs 1."""
        if not self._names:
            return
        middle = curves[len(curves) // 2]
        costs: dict[float, float] = {}
        for at, curve in zip(sizes, curves, strict=True):
            bucket = max(set(curve) & set(middle))  # a batch of one row may be all overhead
            costs[float(np.log(self._manifest.row_bytes(at)))] = float(np.log(curve[bucket] / middle[bucket]))
        self._points = sorted(costs.items())
        self._kept.clear()

    def _made(self, key: tuple[int, ...]) -> RowSize:
        at = dict(zip(self._names, key, strict=True))
        max_rows = allowed(self._buckets, self._manifest.max_rows_at(at))[-1]
        cost = 1.0
        if self._points:
            logs, costs = zip(*self._points, strict=True)
            cost = float(np.exp(np.interp(np.log(self._manifest.row_bytes(at)), logs, costs)))
        return RowSize(key=key, max_rows=max_rows, cost=cost)
