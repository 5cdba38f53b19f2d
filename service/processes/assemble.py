"""From settings to the parts of a service.

In: settings and a slot in the group of workers.  Out: a `Service`, ready to be run by a server.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from service.access.cors import Cors
from service.access.gate import Gate
from service.access.keys import ApiKeys, read_keys
from service.access.rate import Proxies, RateLimit
from service.cgroup import usable_cores
from service.contract.signature import read_trusted_keys
from service.engine.engine import EngineConfig
from service.http.body import BodyReader
from service.http.limits import HttpLimits
from service.http.shared import Shared
from service.models.config import RegistryConfig
from service.models.folder import ModelsFolder
from service.models.on_demand import MemoryLimits
from service.models.overrides import read_overrides
from service.models.registry import ModelRegistry
from service.models.served import QueueConfig
from service.models.store import Store
from service.pictures.decoder import DecodingLimits, PictureDecoder
from service.protocol.heavy import HeavyRequests
from service.routes.front import Front
from service.routes.infer import InferEndpoint
from service.routes.predict import Predictor
from service.routes.request_record import RequestRecorder
from service.settings import Settings
from service.telemetry.request_log import RequestLog, Sink, failures, write_json, write_lines
from service.telemetry.tracing import spans_to
from service.telemetry.worker_group import WorkerGroup, WorkerSlot


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one worker serves with."""

    models: ModelRegistry
    workers: WorkerGroup
    request_log: RequestLog
    front: Front
    shared: Shared
    threads: ThreadPoolExecutor
    decoder: PictureDecoder
    heavy: HeavyRequests

    def close(self) -> None:
        """Let the threads go and write what is left of the log."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.request_log.close()


def build_service(settings: Settings, slot: WorkerSlot) -> Service:
    """The parts of one worker, wired together; nothing is loaded before its `front` is started."""
    models = build_models(settings)
    request_log = build_request_log(settings)
    workers = WorkerGroup(slot, reason=lambda: models.reason, snapshot=models.metrics.snapshot)
    threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    decoder = PictureDecoder(threads, decoding_limits(settings))
    recorder = RequestRecorder(models.metrics, request_log)

    def build_app() -> Any:
        from service.routes.app import build_app  # as slow to import as all the rest

        return build_app(settings, models, workers)

    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    bodies = BodyReader(threads, settings.max_body_bytes)
    front = Front(models, workers, Predictor(models, recorder, decoder, bodies, cors), build_app)
    heavy = HeavyRequests(max(1, usable_cores() // settings.workers), settings.max_body_bytes)
    infer = InferEndpoint(models, recorder, threads, heavy)
    return Service(
        models=models,
        workers=workers,
        request_log=request_log,
        front=front,
        shared=Shared(
            infer,
            front,
            http_limits(settings),
            gate=build_gate(settings),
            cors=cors,
            scheme="http" if settings.tls_certificate is None else "https",
        ),
        threads=threads,
        decoder=decoder,
        heavy=heavy,
    )


def build_models(settings: Settings) -> ModelRegistry:
    """The registry of the models folder, with this worker's share of the threads."""
    key_file = settings.require_signature
    trusted = None if key_file is None else read_trusted_keys(key_file)
    folder = ModelsFolder.find(settings.models_folder, settings.model_name)
    store = None
    if settings.store is not None:
        store = Store(settings.store, folder.root, trusted, allow_unproved=settings.allow_unproved)
    memory = memory_limits(settings)
    lanes, threads = settings.lanes, settings.worker_threads
    if memory is not None:
        # One batch a lane in one thread of those that all models share: no model has threads of its own.
        lanes = threads = lanes or 1
    return ModelRegistry(
        RegistryConfig(
            folder=folder,
            store=store,
            store_poll_s=settings.store_poll_s,
            is_lenient=settings.readiness == "lenient",
            trusted=trusted,
            allow_unproved=settings.allow_unproved,
            engine=EngineConfig(
                device=settings.device,
                threads=threads,
                lanes=lanes,
                buckets=settings.buckets,
                cache=settings.cache,
                int8=settings.int8,
            ),
            queue=QueueConfig(
                queue_rows=settings.queue_rows,
                max_wait_s=settings.max_wait_ms / 1e3,
                default_timeout_s=settings.default_timeout_ms / 1e3 or None,
            ),
            overrides=read_overrides(
                settings.model_settings, largest=settings.buckets[-1], threads=settings.worker_threads
            ),
            memory=memory,
            num_threads=settings.worker_threads,
        )
    )


def memory_limits(settings: Settings) -> MemoryLimits | None:
    """What models may take that are loaded on demand; None where all are loaded at the start."""
    max_mb = settings.max_models_mb
    if settings.max_models is None and max_mb is None:
        return None
    return MemoryLimits(
        max_models=settings.max_models, max_bytes=None if max_mb is None else int(max_mb * 2**20)
    )


def build_gate(settings: Settings) -> Gate | None:
    """The gate that the settings ask for; None where every request may pass."""
    if settings.api_keys is None and not settings.rate_limit:
        return None
    keys = ApiKeys() if settings.api_keys is None else read_keys(settings.api_keys)
    rate = RateLimit(settings.rate_limit, settings.rate_limit) if settings.rate_limit else None
    return Gate(keys, rate, Proxies(settings.trusted_proxies))


def http_limits(settings: Settings) -> HttpLimits:
    """What clients of this worker may cost."""
    return HttpLimits(
        max_body_bytes=settings.max_body_bytes,
        max_inflight_bytes=settings.max_inflight_bytes,
        max_connections=settings.max_connections,
        body_timeout_s=settings.body_timeout_s,
        write_timeout_s=settings.write_timeout_s,
    )


def decoding_limits(settings: Settings) -> DecodingLimits:
    """What decoding pictures may cost in this worker."""
    return DecodingLimits(
        max_files=settings.max_files,
        max_pixels=settings.max_pixels,
        max_request_pixels=settings.request_pixels,
        max_inflight_pixels=settings.inflight_pixels,
        decode_memory_bytes=int(settings.decode_memory_mb * 2**20),
        decode_timeout_s=settings.decode_timeout_s,
        num_processes=max(1, usable_cores() // settings.workers),
    )


def build_request_log(settings: Settings) -> RequestLog:
    """The log that writes the lines that `request_log` asks for, and spans where `trace_endpoint` is set."""
    write: Sink = write_json if settings.log_format == "json" else write_lines
    writers: dict[str, list[Sink]] = {"all": [write], "failures": [failures(write)], "off": []}
    sinks = writers[settings.request_log]
    if settings.trace_endpoint is None:
        return RequestLog(sinks)
    send_spans, end = spans_to(settings.trace_endpoint)
    return RequestLog([*sinks, send_spans], [end])
