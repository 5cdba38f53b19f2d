"""What happened, counted: cheap to note on the event loop, turned into Prometheus families when asked.

In: facts (a request answered, a batch run, a failure and its reason).  Out: the text of /metrics.

Everything is noted on the event loop's thread, so plain numbers do; nothing here locks.
Clients never choose a label's value: an unknown model is counted without its name.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Distribution:
    """A histogram: how many values fell below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus buckets: (bound, how many values are at most it), ending with +Inf."""
        running = 0
        pairs = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs


class VersionMetrics:
    """What happened to one version of one model."""

    def __init__(self, name: str, version: str) -> None:
        self.labels = [name, version]
        self.request_s = Distribution(SECONDS)
        self.queue_s = Distribution(SECONDS)
        self.compute_s = Distribution(SECONDS)
        self.batch_rows = Distribution(ROWS)
        self.requests = 0
        self.rows = 0
        self.executions = 0
        self.padding_rows = 0
        self.failed_executions = 0
        self.nonfinite_outputs = 0
        self.parity: dict[str, float] = {}
        self.waiting_rows: Callable[[], int] = lambda: 0
        self.running_rows: Callable[[], int] = lambda: 0

    def answered(self, num_rows: int, seconds: float, queue_s: float) -> None:
        """A request got its answer."""
        self.requests += 1
        self.rows += num_rows
        self.request_s.note(seconds)
        self.queue_s.note(queue_s)

    def batch(self, *, num_rows: int, bucket: int, seconds: float, has_failed: bool) -> None:
        """The engine ran."""
        self.executions += 1
        self.failed_executions += has_failed
        self.padding_rows += bucket - num_rows
        self.compute_s.note(seconds)
        self.batch_rows.note(num_rows)


class Metrics:
    """The service's own registry: every version's facts, failures by reason, readiness."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._versions: list[VersionMetrics] = []
        self._states: dict[tuple[str, str], bool] = {}
        self.failures: Counter[tuple[str, str]] = Counter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def add_version(self, name: str, version: str) -> VersionMetrics:
        """Begin to count for a version."""
        metrics = VersionMetrics(name, version)
        self._versions.append(metrics)
        return metrics

    def set_proved(self, name: str, version: str, is_proved: bool) -> None:
        """Note whether a version on disk opened and proved."""
        self._states[name, version] = is_proved

    def failed(self, reason: str, model: str = "") -> None:
        """A request got an error; `model` is "" unless it is one of ours."""
        self.failures[model, reason] += 1

    def text(self) -> bytes:
        """The page for Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client at each scrape."""
        ready = GaugeMetricFamily("foldserve_ready", "1 when the server accepts work")
        ready.add_metric([], float(self._is_ready()))
        yield ready
        proved = GaugeMetricFamily(
            "foldserve_version_proved", "1 if the version opened and passed its proof", labels=_LABELS
        )
        for (name, version), is_proved in self._states.items():
            proved.add_metric([name, version], float(is_proved))
        yield proved
        failures = CounterMetricFamily(
            "foldserve_failures", "Requests that got an error", labels=["model", "reason"]
        )
        for (name, reason), count in self.failures.items():
            failures.add_metric([name, reason], count)
        yield failures
        yield self._parity()
        for attribute, name, text in _GAUGES:
            gauge = GaugeMetricFamily(f"foldserve_{name}", text, labels=_LABELS)
            for version_metrics in self._versions:
                gauge.add_metric(version_metrics.labels, getattr(version_metrics, attribute)())
            yield gauge
        for attribute, name, text in _COUNTERS:
            counter = CounterMetricFamily(f"foldserve_{name}", text, labels=_LABELS)
            for version_metrics in self._versions:
                counter.add_metric(version_metrics.labels, getattr(version_metrics, attribute))
            yield counter
        for attribute, name, text in _HISTOGRAMS:
            histogram = HistogramMetricFamily(f"foldserve_{name}", text, labels=_LABELS)
            for version_metrics in self._versions:
                values: Distribution = getattr(version_metrics, attribute)
                histogram.add_metric(version_metrics.labels, values.cumulative(), values.total)
            yield histogram

    def _parity(self) -> Metric:
        gauge = GaugeMetricFamily(
            "foldserve_parity_difference",
            "Largest difference from the golden answers, as measured on this device at load",
            labels=[*_LABELS, "output"],
        )
        for metrics in self._versions:
            for output, difference in metrics.parity.items():
                gauge.add_metric([*metrics.labels, output], difference)
        return gauge


_LABELS: list[Any] = ["model", "version"]
_GAUGES = [
    ("waiting_rows", "queue_rows", "Rows that wait for the engine"),
    ("running_rows", "running_rows", "Rows in the engine"),
]
_COUNTERS = [
    ("requests", "requests", "Requests answered"),
    ("rows", "rows", "Rows answered"),
    ("executions", "executions", "Batches run"),
    ("failed_executions", "failed_executions", "Batches that raised"),
    ("padding_rows", "padding_rows", "Rows of zeros added to fill a bucket"),
    ("nonfinite_outputs", "nonfinite_outputs", "Outputs answered in JSON that held NaN or Infinity"),
]
_HISTOGRAMS = [
    ("request_s", "request_seconds", "From the request's first byte to its answer"),
    ("queue_s", "queue_seconds", "From a request's queueing to the start of its batch"),
    ("compute_s", "compute_seconds", "One batch in the engine"),
    ("batch_rows", "batch_rows", "Rows in one batch, padding apart"),
]
