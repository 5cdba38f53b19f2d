"""Spans: what a real collector receives over OTLP/HTTP, and what happens without the packages."""

import http.server
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service_kit import ROOT, Server, serving, x_request
from tiny_nets import echo_net, write_bundle

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
INFER = "/v2/models/echo/infer"
ERROR, SERVER_KIND = 2, 2


class Collector:
    """Keeps every span that is sent to it."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[Any] = queue.Queue()
        self.paths: set[str] = set()
        self.resources: set[tuple[str, str]] = set()
        self.spans: list[Any] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *unused: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for attribute in resource.resource.attributes:
                self.resources.add((attribute.key, attribute.value.string_value))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.arrived.put(span)

    def wait_for(self, count: int) -> list[Any]:
        """All spans that are no phase, once there are `count` of them; phases come with them."""
        while sum(span.kind == SERVER_KIND for span in self.spans) < count:
            self.spans.append(self.arrived.get(timeout=30))
        return [span for span in self.spans if span.kind == SERVER_KIND]

    def phases_of(self, parent: Any) -> list[Any]:
        return sorted(
            (span for span in self.spans if span.parent_span_id == parent.span_id),
            key=lambda span: span.start_time_unix_nano,
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models" / "echo" / "1", echo_net("float32"))
    return tmp_path / "models"


@pytest.fixture
def server(models: Path, collector: Collector) -> Iterator[Server]:
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    flags = ("--lanes", "1", "--trace-endpoint", collector.url, "--request-log", "off")
    with serving(models, *flags, environment=environment) as running:
        yield running


def attributes(span: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}


def test_a_span_for_each_request_with_the_clients_parent(server: Server, collector: Collector) -> None:
    headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
    answer = httpx.post(server.url + INFER, json=x_request([1] * 6, shape=[2, 3]), headers=headers)
    assert answer.status_code == 200
    (span,) = collector.wait_for(1)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.name == "infer echo"
    found = attributes(span)
    assert found["foldserve.request_id"] == "mine"
    assert (found["foldserve.model"], found["foldserve.version"]) == ("echo", "1")
    assert (found["foldserve.rows"], found["http.response.status_code"]) == (2, 200)
    assert span.status.code != ERROR
    assert collector.paths == {"/v1/traces"}
    assert ("service.name", "foldserve") in collector.resources


def test_phases_are_children_one_after_another_inside(server: Server, collector: Collector) -> None:
    httpx.post(server.url + INFER, json=x_request([1, 2, 3]), headers={"traceparent": TRACEPARENT})
    (span,) = collector.wait_for(1)
    while len(collector.phases_of(span)) < 5:
        collector.spans.append(collector.arrived.get(timeout=30))
    phases = collector.phases_of(span)
    assert [phase.name for phase in phases] == ["read", "decode", "queue", "compute", "encode"]
    assert {phase.trace_id.hex() for phase in phases} == {TRACE}
    edges = [edge for phase in phases for edge in (phase.start_time_unix_nano, phase.end_time_unix_nano)]
    assert edges == sorted(edges)
    rounding_ns = 1000
    assert span.start_time_unix_nano <= edges[0] + rounding_ns
    assert edges[-1] <= span.end_time_unix_nano + rounding_ns


@pytest.mark.parametrize("given", [None, "garbage", "00-0-0-00", "\xe4", f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_usable_parent_a_trace_begins_here(
    server: Server, collector: Collector, given: str | None
) -> None:
    headers = {} if given is None else {"traceparent": given.encode("latin-1")}
    httpx.post(server.url + INFER, json=x_request([1, 2, 3]), headers=headers)
    httpx.post(server.url + INFER, json=x_request([1, 2, 3]), headers=headers)
    one, other = collector.wait_for(2)
    assert one.parent_span_id == other.parent_span_id == b""
    assert len({one.trace_id, other.trace_id, bytes(16), bytes.fromhex(TRACE)}) == 4


def test_a_client_that_does_not_sample_is_not_traced(server: Server, collector: Collector) -> None:
    unsampled = {"traceparent": TRACEPARENT[:-2] + "00"}
    httpx.post(server.url + INFER, json=x_request([1, 2, 3]), headers=unsampled)
    httpx.post(server.url + INFER, json=x_request([1, 2, 3]), headers={"x-request-id": "second"})
    (span,) = collector.wait_for(1)
    assert attributes(span)["foldserve.request_id"] == "second"


def test_errors_of_ours_have_error_status_and_those_of_clients_do_not(
    server: Server, collector: Collector
) -> None:
    assert httpx.post(server.url + INFER, json={}).status_code == 400
    late = x_request([1, 2, 3], parameters={"timeout": 1})
    assert httpx.post(server.url + INFER, json=late).status_code == 504
    assert httpx.post(f"{server.url}/v2/models/nope/infer", json={}).status_code == 404
    spans = {attributes(span)["http.response.status_code"]: span for span in collector.wait_for(3)}
    assert {status: span.status.code == ERROR for status, span in spans.items()} == {
        400: False,
        504: True,
        404: False,
    }
    assert spans[504].status.message == attributes(spans[504])["foldserve.reason"] == "deadline_passed"
    assert attributes(spans[400])["foldserve.reason"] == "bad_request"
    assert attributes(spans[404])["foldserve.model"] == ""


def test_predict_is_traced_too(server: Server, collector: Collector) -> None:
    answer = httpx.post(f"{server.url}/predict", content=b"x", headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 400
    (span,) = collector.wait_for(1)
    assert (span.name, span.parent_span_id.hex()) == ("predict echo", PARENT)


def test_what_was_answered_before_the_end_is_sent(models: Path, collector: Collector) -> None:
    """The exporter's own pause is five seconds; the end must not lose what waits for it."""
    with serving(models, "--lanes", "1", "--trace-endpoint", collector.url) as server:
        for _ in range(3):
            assert httpx.post(server.url + INFER, json=x_request([1, 2, 3])).status_code == 200
        server.terminate()
        assert server.wait() == 0
        collector.arrived.put(None)
        arrived = list(iter(collector.arrived.get_nowait, None))
    assert sum(span.kind == SERVER_KIND for span in arrived) == 3


def test_a_collector_that_is_not_there_costs_no_answer(models: Path) -> None:
    flags = ("--trace-endpoint", "http://127.0.0.1:9", "--lanes", "1", "--shutdown-timeout-s", "2")
    with serving(models, *flags, environment={"OTEL_BSP_SCHEDULE_DELAY": "50"}) as server:
        for _ in range(20):
            assert httpx.post(server.url + INFER, json=x_request([1, 2, 3])).status_code == 200
        server.terminate()
        assert server.wait() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_the_packages_it_is_one_sentence(tmp_path: Path, models: Path, workers: str) -> None:
    stub = tmp_path / "stub" / "opentelemetry"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('not installed')\n")
    flags = ("--trace-endpoint", "http://127.0.0.1:9", "--workers", workers, "--threads", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--models", str(models), "--port", "0", *flags],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path / "stub"), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, text = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 2, text
    assert "Traceback" not in text
    said = [line for line in text.splitlines() if "event=listening" not in line]
    assert said == ["foldserve: trace_endpoint needs OpenTelemetry: pip install 'foldserve[tracing]'"]
