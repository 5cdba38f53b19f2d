"""OpenTelemetry: a span for each request, with its phases as children, sent over OTLP/HTTP.

In: entries of the request log.  Out: spans at a collector, made in the log's thread after the request.

    traceparent of the request ─▶ span "infer digits" ─┬─ read ─ decode ─ queue ─ compute ─ encode
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from service import __version__
from service.telemetry.request_log import LogEntry, Sink, Timed

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_log = logging.getLogger("foldserve")


class TracingError(Exception):
    """Spans were asked for and cannot be made."""


def check_tracing() -> None:
    """Raise TracingError if the packages are not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError:
        raise TracingError("trace_endpoint needs OpenTelemetry: pip install 'foldserve[tracing]'") from None


def spans_to(endpoint: str) -> tuple[Sink, Callable[[], None]]:
    """A sink that sends spans to the collector at `endpoint` (http://collector:4318), and how to end it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "foldserve"}))
    # Two seconds, so that a collector that is gone does not hold up the end.
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=2)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("foldserve", __version__)

    def send(entries: Sequence[Timed]) -> None:
        for ended, entry in entries:
            _record(tracer, ended, entry)

    return send, provider.shutdown


def _record(tracer: "Tracer", ended: float, entry: LogEntry) -> None:
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.trace.status import StatusCode

    carrier = {} if entry.trace_parent is None else {"traceparent": entry.trace_parent.decode("latin-1")}
    parent = TraceContextTextMapPropagator().extract(carrier)
    begun = ended - entry.total_s
    span = tracer.start_span(
        f"{entry.route} {entry.model}".strip(),
        context=parent,
        kind=SpanKind.SERVER,
        start_time=_ns(begun),
        attributes={
            "http.request.method": "POST",
            "http.response.status_code": entry.status,
            "foldserve.request_id": entry.id.decode(),
            "foldserve.model": entry.model,
            "foldserve.version": entry.version,
            "foldserve.rows": entry.num_rows,
            "foldserve.reason": entry.reason,
        },
    )
    if entry.status >= 500:
        span.set_status(StatusCode.ERROR, entry.reason)
    inside = set_span_in_context(span, parent)
    at = begun
    for phase in ("read", "decode", "queue", "compute", "encode"):
        seconds = getattr(entry, f"{phase}_s")
        if seconds > 0:
            child = tracer.start_span(phase, context=inside, start_time=_ns(at))
            child.end(_ns(at + seconds))
        at += seconds
    span.end(_ns(ended))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
