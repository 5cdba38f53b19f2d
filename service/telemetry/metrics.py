"""What happened, counted: cheap to note on the event loop, turned into Prometheus families when asked.

In: facts (a request answered, a batch run, a failure and its reason).  Out: numbers that can be added up.

Everything is noted on the event loop's thread, so plain numbers do; nothing here locks. What a request took
is put on a list, and the list goes into the histograms in one piece.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
PHASES = ("read", "decode", "queue", "encode", "total")
COUNTERS = (
    "requests",
    "rows",
    "executions",
    "failed_executions",
    "padding_rows",
    "nonfinite_outputs",
    "failed_requests",
    "failed_s",
)
ALL = "*"
_MAX_LISTED = 512

Phases = tuple[float, float, float, float, float]


class Distribution:
    """A histogram: how many values fell below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """Count one value in its bucket, and add it to the sum."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def note_all(self, values: np.ndarray) -> None:
        """The same for each of `values` (n,)."""
        places = np.searchsorted(self.bounds, values)
        for place, count in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += count
        self.total += float(values.sum())

    def snapshot(self) -> dict[str, Any]:
        """The counts of the buckets and the sum, as plain numbers that workers can add up."""
        return {"counts": list(self.counts), "total": self.total}


@dataclass(slots=True)
class BatchSize:
    """What batches of one number of rows took together."""

    executions: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0


class Live(Protocol):
    """What is asked of the version that answers now, at the moment of a snapshot."""

    @property
    def waiting_rows(self) -> int: ...
    @property
    def running_rows(self) -> int: ...
    @property
    def cold_executions(self) -> int: ...


@dataclass(kw_only=True)
class VersionMetrics:
    """What happened to one version of one model."""

    name: str
    version: str
    requests: int = 0
    rows: int = 0
    executions: int = 0
    failed_executions: int = 0
    padding_rows: int = 0
    nonfinite_outputs: int = 0
    failed_requests: int = 0
    failed_s: float = 0.0
    last_inference: float = 0.0
    parity: dict[str, float] = field(default_factory=dict)
    precision: str = "float32"
    batch_sizes: dict[int, BatchSize] = field(default_factory=dict)
    _live: Live | None = None
    _cold_executions: int = 0  # of those that are followed no more
    _kept: tuple[tuple[int, ...], dict[str, Any]] | None = None  # a snapshot, and the counts that it is of
    phases: dict[str, Distribution] = field(
        default_factory=lambda: {phase: Distribution(SECONDS) for phase in PHASES}
    )
    compute_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    batch_rows: Distribution = field(default_factory=lambda: Distribution(ROWS))
    _listed: list[Phases] = field(default_factory=list)

    def follow(self, live: Live) -> None:
        """Take gauges from `live` from now on; the counts go on."""
        if self._live is not None:
            self.leave(self._live)
        self._live = live

    def leave(self, live: Live) -> None:
        """Hold `live` no longer: metrics outlive a version, and would keep its whole engine in memory."""
        if self._live is live:
            self._cold_executions += live.cold_executions
            self._live = None

    def answered(self, num_rows: int, phases: Phases) -> None:
        """Count a request that was answered; `phases` are its seconds, in the order of PHASES."""
        self.requests += 1
        self.rows += num_rows
        self._listed.append(phases)
        if len(self._listed) >= _MAX_LISTED:
            self.settle()

    def failed(self, seconds: float) -> None:
        """Count a request that got an error, `seconds` after its head."""
        self.failed_requests += 1
        self.failed_s += seconds

    def batch(self, *, num_rows: int, bucket: int, seconds: tuple[float, float, float] | None) -> None:
        """Count a batch; `seconds` are those of input, computing and output, or None if it raised."""
        self.executions += 1
        self.padding_rows += bucket - num_rows
        self.batch_rows.note(num_rows)
        if seconds is None:
            self.failed_executions += 1
            return
        self.compute_s.note(sum(seconds))
        self.last_inference = time.time()
        size = self.batch_sizes.setdefault(num_rows, BatchSize())
        size.executions += 1
        size.input_s += seconds[0]
        size.compute_s += seconds[1]
        size.output_s += seconds[2]

    def snapshot(self) -> dict[str, Any]:
        """Plain numbers, to be added up over the workers."""
        live = self._live
        counts = (self.requests, self.failed_requests, self.executions, self.nonfinite_outputs)
        if live is None and self._kept is not None and self._kept[0] == counts:
            return self._kept[1]  # of a thousand models most are not in memory, and nothing happens to them
        self.settle()
        cold_executions = self._cold_executions + (live.cold_executions if live else 0)
        gauges = {
            "queue_rows": live.waiting_rows if live else 0,
            "running_rows": live.running_rows if live else 0,
        }
        histograms = {f"request_{phase}": spread.snapshot() for phase, spread in self.phases.items()}
        histograms |= {"compute": self.compute_s.snapshot(), "batch_rows": self.batch_rows.snapshot()}
        facts = {
            "name": self.name,
            "version": self.version,
            "counters": {name: getattr(self, name) for name in COUNTERS}
            | {"cold_executions": cold_executions},
            "gauges": gauges,
            "histograms": histograms,
            "batch_sizes": {str(rows): asdict(size) for rows, size in self.batch_sizes.items()},
            "last_inference": self.last_inference,
            "parity": self.parity,
            "precisions": {self.precision: 1} if live else {},
        }
        self._kept = None if live else (counts, facts)
        return facts

    def settle(self) -> None:
        """Move the listed phases into the histograms: one NumPy call for hundreds of requests."""
        if self._listed:
            columns = np.array(self._listed).T
            for phase, values in zip(PHASES, columns, strict=True):
                self.phases[phase].note_all(values)
            self._listed.clear()


class Metrics:
    """Every version's facts, failures by reason, which versions are proved."""

    def __init__(self) -> None:
        self.versions: list[VersionMetrics] = []
        self.proved: dict[tuple[str, str], bool] = {}
        self.failures: Counter[tuple[str, str]] = Counter()

    def add_version(self, name: str, version: str) -> VersionMetrics:
        """Begin to count for a version, or go on."""
        for known in self.versions:
            if (known.name, known.version) == (name, version):
                return known
        metrics = VersionMetrics(name=name, version=version)
        self.versions.append(metrics)
        return metrics

    def failed(self, reason: str, model: str = "") -> None:
        """A request got an error; `model` is "" unless it is one of ours."""
        self.failures[model, reason] += 1

    def snapshot(self) -> dict[str, Any]:
        """Everything as plain numbers, which workers send each other as JSON."""
        return {
            "versions": [version.snapshot() for version in self.versions],
            "proved": [[name, version, is_proved] for (name, version), is_proved in self.proved.items()],
            "failures": [[model, reason, count] for (model, reason), count in self.failures.items()],
        }


def added(snapshots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One snapshot of several workers: counts are added, a version is proved where every worker proved it."""
    if len(snapshots) == 1:
        return snapshots[0]
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    proved: dict[tuple[str, str], bool] = {}
    failures: Counter[tuple[str, str]] = Counter()
    for snapshot in snapshots:
        for facts in snapshot["versions"]:
            key = (facts["name"], facts["version"])
            versions[key] = _sum(versions[key], facts) if key in versions else facts
        for name, version, is_proved in snapshot["proved"]:
            proved[name, version] = is_proved and proved.get((name, version), True)
        for model, reason, count in snapshot["failures"]:
            failures[model, reason] += count
    return {
        "versions": list(versions.values()),
        "proved": [[*key, is_proved] for key, is_proved in proved.items()],
        "failures": [[*key, count] for key, count in failures.items()],
    }


def summed(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot in which one version, named ALL, stands for all of them together."""
    total: dict[str, Any] | None = None
    for facts in snapshot["versions"]:
        total = facts if total is None else _sum(total, facts)
    versions = [] if total is None else [total | {"name": ALL, "version": ALL}]
    return snapshot | {"versions": versions}


def without_gauges(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The counts of a snapshot alone: what remains true of a worker that is dead."""
    versions = [
        facts | {"gauges": dict.fromkeys(facts["gauges"], 0), "parity": {}, "precisions": {}}
        for facts in snapshot["versions"]
    ]
    return snapshot | {"versions": versions, "proved": []}


def _sum(one: Any, other: Any) -> Any:
    """Numbers added, lists item by item, mappings key by key; names as they are; the worse parity."""
    if isinstance(one, dict):
        both = {key: _sum(one[key], other[key]) if key in other else one[key] for key in one}
        both |= {key: other[key] for key in other if key not in one}
        for key in both.keys() & {"last_inference"}:
            both[key] = max(one[key], other[key])
        for key in both.keys() & {"parity", "precisions"}:
            sides = (one[key], other[key])
            both[key] = {
                name: max(side[name] for side in sides if name in side) for name in sides[0] | sides[1]
            }
        return both
    if isinstance(one, list):
        return [_sum(left, right) for left, right in zip(one, other, strict=True)]
    return one if isinstance(one, str) else one + other
