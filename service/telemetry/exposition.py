"""The page for Prometheus: a snapshot of plain numbers in, its text out.

In: a snapshot as `Metrics` gives it, of one worker or of all added up.  Out: the text of /metrics.

Of more than MAX_VERSIONS versions each has its proof, requests and rows; everything else is of all together,
with model="*" and version="*". Sums over models, as alerts and boards take them, stay the same.

Clients never choose a label's value: an unknown model is counted without its name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from service.telemetry.metrics import ROWS, SECONDS, summed

MAX_VERSIONS = 50
_LABELS = ["model", "version"]
_GAUGES = {
    "queue_rows": "Rows that wait for the engine",
    "running_rows": "Rows in the engine, or handed to it",
}
_COUNTERS = {
    "requests": "Requests answered",
    "rows": "Rows answered",
    "executions": "Batches run",
    "failed_executions": "Batches that raised",
    "padding_rows": "Rows of zeros added to fill a bucket",
    "cold_executions": "Batches in a bucket that was not warmed before ready; must stay 0",
    "nonfinite_outputs": "Outputs answered in JSON that held NaN or Infinity",
}
_FOR_EACH = ("requests", "rows")  # counters that each model has, however many there are
_HISTOGRAMS = {
    "request_total": ("request", "From the request's head to its answer"),
    "request_read": ("read", "From the request's head to the end of its body"),
    "request_decode": ("decode", "Body to tensors: decompressing, parsing, decoding pictures"),
    "request_queue": ("queue", "From a request's queueing to the start of its batch"),
    "request_encode": ("encode", "Answers to the bytes of a response"),
    "compute": ("compute", "One batch in the engine"),
}


class _Page:
    """What prometheus_client asks for its families."""

    def __init__(self, snapshot: dict[str, Any], *, is_ready: bool) -> None:
        self._snapshot = snapshot
        self._is_ready = is_ready

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("foldserve_ready", "1 when the server accepts work")
        ready.add_metric([], float(self._is_ready))
        yield ready
        proved = GaugeMetricFamily(
            "foldserve_version_proved",
            "1 if the version opened and passed its proof; 0 if not, or unproved",
            labels=_LABELS,
        )
        for name, version, is_proved in self._snapshot["proved"]:
            proved.add_metric([name, version], float(is_proved))
        yield proved
        failures = CounterMetricFamily(
            "foldserve_failures", "Requests that got an error", labels=["model", "reason"]
        )
        for model, reason, count in self._snapshot["failures"]:
            failures.add_metric([model, reason], count)
        yield failures
        yield from self._of_versions()

    def _of_versions(self) -> Iterable[Metric]:
        every = self._snapshot["versions"]
        versions = every if len(every) <= MAX_VERSIONS else summed(self._snapshot)["versions"]
        parity = GaugeMetricFamily(
            "foldserve_parity_difference",
            "Largest difference from the golden answers, as measured on this device at load",
            labels=[*_LABELS, "output"],
        )
        for facts in versions:
            for output, difference in facts["parity"].items():
                parity.add_metric([facts["name"], facts["version"], output], difference)
        yield parity
        precision = GaugeMetricFamily(
            "foldserve_precision",
            "1 for each precision in which a worker answers for this version",
            labels=[*_LABELS, "precision"],
        )
        for facts in versions:
            for name, is_used in facts["precisions"].items():
                precision.add_metric([facts["name"], facts["version"], name], is_used)
        yield precision
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"foldserve_{name}", text, labels=_LABELS)
            for facts in versions:
                gauge.add_metric([facts["name"], facts["version"]], facts["gauges"][name])
            yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"foldserve_{name}", text, labels=_LABELS)
            for facts in every if name in _FOR_EACH else versions:
                counter.add_metric([facts["name"], facts["version"]], facts["counters"][name])
            yield counter
        for key, (name, text) in _HISTOGRAMS.items():
            yield _histogram(f"foldserve_{name}_seconds", text, versions, key, SECONDS)
        yield _histogram(
            "foldserve_batch_rows", "Rows in one batch, padding apart", versions, "batch_rows", ROWS
        )


def exposition(snapshot: dict[str, Any], *, is_ready: bool) -> bytes:
    """The text of /metrics; what it says of the process is this worker's own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(snapshot, is_ready=is_ready))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return generate_latest(registry)


def _histogram(
    name: str, text: str, versions: Sequence[dict[str, Any]], key: str, bounds: Sequence[float]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(_LABELS))
    for facts in versions:
        spread = facts["histograms"][key]
        running = 0
        pairs = []
        for bound, count in zip((*map(str, bounds), "+Inf"), spread["counts"], strict=True):
            running += count
            pairs.append((bound, float(running)))
        family.add_metric([facts["name"], facts["version"]], pairs, spread["total"])
    return family
