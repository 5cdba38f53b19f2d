"""From settings to the parts of a service.

In: settings.  Out: the models that they describe, the journal of their requests.
"""

from service.engine import EngineConfig
from service.journal import Journal, write_lines
from service.models import Models, ModelsConfig
from service.served import QueueConfig
from service.settings import Settings


def build_models(settings: Settings) -> Models:
    """The models of the folder; must be called with an event loop running or about to."""
    return Models(
        ModelsConfig(
            root=settings.models,
            engine=EngineConfig(
                device=settings.device,
                threads=max(1, settings.threads // settings.workers),
                lanes=settings.lanes,
                buckets=settings.buckets,
                keeps_buckets="buckets" in settings.model_fields_set,
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
    sinks = [] if settings.request_log == "off" else [write_lines]
    return Journal(sinks, only_failures=settings.request_log == "failures")
