"""Settings of one model that differ from those of the server: a TOML file with a table for each.

[digits]                 # the model's name
queue_rows = 4096
default_timeout_ms = 200
max_wait_ms = 1
lanes = 2
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.engine.engine import EngineConfig
from service.models.served import QueueConfig


class OverridesError(Exception):
    """A file of models' settings that cannot be read, in one sentence."""


class Override(BaseModel):
    """What one model's table says, in the words and ranges of the server's settings; None: as the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue_rows: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] | None = None
    default_timeout_ms: Annotated[float, Field(ge=0, le=3_600_000)] | None = None
    lanes: Annotated[int, Field(ge=1, le=64, strict=True)] | None = None

    def queue(self, config: QueueConfig) -> QueueConfig:
        """The server's `config` with this model's own numbers."""
        if self.queue_rows is not None:
            config = replace(config, queue_rows=self.queue_rows)
        if self.max_wait_ms is not None:
            config = replace(config, max_wait_s=self.max_wait_ms / 1e3)
        if self.default_timeout_ms is not None:
            config = replace(config, default_timeout_s=self.default_timeout_ms / 1e3 or None)
        return config

    def engine(self, config: EngineConfig) -> EngineConfig:
        """The server's `config` with this model's own lanes."""
        if self.lanes is None:
            return config
        return replace(config, lanes=self.lanes, threads=max(config.threads, self.lanes))


def read_overrides(path: Path | None, *, largest: int, threads: int) -> dict[str, Override]:
    """The tables of a file by model name; none without a file.

    A queue must hold `largest` rows, and lanes share `threads`. Raises OverridesError.
    """
    if path is None:
        return {}
    try:
        found = TypeAdapter(dict[str, Override]).validate_python(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise OverridesError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise OverridesError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise OverridesError(f"{path}: not TOML: {error}") from None
    for name, override in found.items():
        if override.queue_rows is not None and override.queue_rows < largest:
            raise OverridesError(
                f"{path}: {name}.queue_rows must hold at least one batch of {largest}, "
                f"got {override.queue_rows}"
            )
        if override.lanes is not None and override.lanes > threads:
            raise OverridesError(
                f"{path}: {name}.lanes share the threads: {override.lanes} need as many, got {threads}"
            )
    return found
