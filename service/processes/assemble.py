"""From settings to the parts of a service.

In: settings and a place in the crew.  Out: a `Service`, ready to be run by a server.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from service.engine.engine import EngineConfig
from service.models.control import Models, ModelsConfig
from service.models.served import QueueConfig
from service.routes.front import Front
from service.routes.infer import InferEndpoint
from service.routes.record import Ledger
from service.settings import Settings, usable_cores
from service.telemetry.journal import Journal, Sink, write_failures, write_lines
from service.telemetry.tracing import spans_to
from service.telemetry.worker_group import Crew, Post


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one worker serves with."""

    models: Models
    crew: Crew
    journal: Journal
    front: Front
    infer: InferEndpoint
    threads: ThreadPoolExecutor

    def close(self) -> None:
        """Let the threads go and write what is left of the log."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.journal.close()


def build_service(settings: Settings, post: Post) -> Service:
    """The service of the models folder."""
    models = build_models(settings)
    journal = build_journal(settings)
    crew = Crew(models, post)
    threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    ledger = Ledger(models.metrics, journal)

    def build_app() -> Any:
        from service.routes.app import build_app  # as slow to import as all the rest

        return build_app(settings, models, crew, ledger, threads)

    return Service(
        models=models,
        crew=crew,
        journal=journal,
        front=Front(models, crew, build_app),
        infer=InferEndpoint(models, ledger, threads, settings.max_body_bytes),
        threads=threads,
    )


def build_models(settings: Settings) -> Models:
    """The models of the folder."""
    return Models(
        ModelsConfig(
            root=settings.models,
            engine=EngineConfig(
                device=settings.device,
                threads=max(1, settings.threads // settings.workers),
                lanes=settings.lanes,
                buckets=settings.buckets,
                cache=settings.cache,
            ),
            queue=QueueConfig(
                queue_rows=settings.queue_rows,
                max_wait_s=settings.max_wait_ms / 1e3,
                default_timeout_s=settings.default_timeout_ms / 1e3 or None,
            ),
        )
    )


def build_journal(settings: Settings) -> Journal:
    """Lines for the requests that should have one, spans if they have somewhere to go."""
    writers: dict[str, list[Sink]] = {"all": [write_lines], "failures": [write_failures], "off": []}
    sinks = writers[settings.request_log]
    if settings.trace_endpoint is None:
        return Journal(sinks)
    send_spans, end = spans_to(settings.trace_endpoint)
    return Journal([*sinks, send_spans], [end])
