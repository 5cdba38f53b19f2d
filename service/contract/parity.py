"""Parity: how far a graph's answers are from the golden ones, however its rows are batched.

In: a function that runs rows, golden rows with their answers.  Out: the largest differences.

    difference = max |answer − golden|        (infinite if any answer is not finite)

A graph is proved when every difference is within the manifest's tolerance: rows run one by one,
all together, and in every batch bucket, at every position of the bucket.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.bundle import Bundle, Golden
from service.contract.sizes import described
from service.contract.tolerances import Int8Tolerance, Tolerance

BUCKETS = (1, 2, 4, 8, 16, 32, 64)

Tensors = Mapping[str, np.ndarray]
Run = Callable[[Tensors], Tensors]
Differences = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest difference of each output, by way of batching."""

    one_by_one: Differences
    all_together: Differences
    buckets: dict[int, Differences]

    @property
    def worst(self) -> Differences:
        """Largest difference of each output over every way of batching."""
        ways = [self.one_by_one, self.all_together, *self.buckets.values()]
        return _largest(ways)

    def joined(self, buckets: Mapping[int, Differences]) -> "Parity":
        """This parity and further measurements of some buckets; the larger difference of each counts."""
        both = {
            size: {name: max(worst, buckets[size][name]) for name, worst in differences.items()}
            if size in buckets
            else differences
            for size, differences in self.buckets.items()
        }
        return Parity(one_by_one=self.one_by_one, all_together=self.all_together, buckets=both)

    @classmethod
    def over(cls, parities: Sequence["Parity"]) -> "Parity":
        """The largest differences of several golden sizes; a bucket counts where a size has it."""
        sizes = sorted({size for parity in parities for size in parity.buckets})
        return cls(
            one_by_one=_largest([parity.one_by_one for parity in parities]),
            all_together=_largest([parity.all_together for parity in parities]),
            buckets={
                size: _largest([parity.buckets[size] for parity in parities if size in parity.buckets])
                for size in sizes
            },
        )

    def excess(self, tolerances: Mapping[str, Tolerance] | Mapping[str, Int8Tolerance]) -> str | None:
        """One sentence on the worst output beyond its tolerance, or None: the graph is proved."""
        beyond = {name: d for name, d in self.worst.items() if not d <= tolerances[name].max_abs}
        if not beyond:
            return None
        name = max(beyond, key=lambda output: beyond[output] / (tolerances[output].max_abs or 1e-300))
        return (
            f"output '{name}' differs from its golden answers by {beyond[name]:.3g}, "
            f"the tolerance is {tolerances[name].max_abs:.3g}"
        )


def excess_at_sizes(bundle: Bundle, parities: Sequence[Parity]) -> str | None:
    """One sentence on the first golden size at which an output is beyond its tolerance there, or None."""
    for group, (golden, parity) in enumerate(zip(bundle.goldens, parities, strict=True)):
        if excess := parity.excess(bundle.manifest.tolerances_at(group)):
            return f"{excess} at {described(golden.sizes)}" if golden.sizes else excess
    return None


def _largest(ways: Sequence[Differences]) -> Differences:
    return {name: max(way[name] for way in ways) for name in ways[0]}


def allowed(buckets: Sequence[int], max_rows: int | None) -> tuple[int, ...]:
    """The buckets of at most `max_rows`; that number itself if all are larger."""
    return tuple(size for size in buckets if max_rows is None or size <= max_rows) or (max_rows or 1,)


def in_batches(run: Run, inputs: Tensors, max_rows: int | None) -> Tensors:
    """The answers to all rows, at most `max_rows` at a time."""
    return run(inputs) if max_rows is None else joined([run(part) for part in batches(inputs, max_rows)])


def batches(inputs: Tensors, size: int) -> Iterator[dict[str, np.ndarray]]:
    """The rows in their order, `size` at a time, the last time fewer; as views."""
    for start in range(0, len(next(iter(inputs.values()))), size):
        yield {name: array[start : start + size] for name, array in inputs.items()}


def joined(parts: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """The answers to several batches as those to all of their rows."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(
    run: Run, golden: Golden, buckets: Sequence[int] = BUCKETS, max_rows: int | None = None
) -> Parity:
    """Replay the golden rows one by one, all together, and filling every bucket; `run` answers rows.

    Where a batch has a maximum, "all together" is in batches of that, and larger buckets are left out.
    """
    if buckets:
        buckets = allowed(buckets, max_rows)
    known: dict[tuple[tuple[int, ...], ...], Differences] = {}

    def worst(split: Iterator[np.ndarray]) -> Differences:
        parts = list(split)
        rows = tuple(tuple(part.tolist()) for part in parts)  # a bucket of 1 row is one by one, and so on
        if rows not in known:
            known[rows] = _worst(run, golden, iter(parts))
        return known[rows]

    return Parity(
        one_by_one=worst(_chunks(golden.num_rows, 1)),
        all_together=worst(_chunks(golden.num_rows, max_rows or golden.num_rows)),
        buckets={size: worst(filling(golden.num_rows, size)) for size in buckets},
    )


def measure_buckets(
    run: Run, golden: Golden, buckets: Sequence[int], first: int = 0
) -> dict[int, Differences]:
    """The differences of one full batch of golden rows in every bucket, from row `first` on."""
    rows = {size: (first + np.arange(size)) % golden.num_rows for size in buckets}
    return {size: _worst(run, golden, iter([rows[size]])) for size in buckets}


def _chunks(num_rows: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, num_rows, size):
        yield np.arange(start, min(start + size, num_rows))


def filling(num_rows: int, size: int) -> Iterator[np.ndarray]:
    """Full batches of `size` rows that together hold every golden row, each batch starting on another."""
    for start in range(0, max(num_rows, size), size):
        yield np.arange(start, start + size) % num_rows


def _worst(run: Run, golden: Golden, batches: Iterator[np.ndarray]) -> Differences:
    worst = dict.fromkeys(golden.outputs, 0.0)
    for rows in batches:
        answers = run({name: array[rows] for name, array in golden.inputs.items()})
        for name, expected in golden.outputs.items():
            worst[name] = max(worst[name], difference(answers[name], expected[rows]))
    return worst


def difference(answer: np.ndarray, expected: np.ndarray) -> float:
    """max |answer − expected| in float64; infinite if the shapes differ or an answer is not finite."""
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer.astype(np.float64) - expected).max(initial=0.0))
