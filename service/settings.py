"""Every setting of the service: its default, its range, its help, and how it agrees with others.

In: what was given (read_settings.py).  Out: a frozen `Settings`, or pydantic's ValidationError.
"""

import hashlib
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.cgroup import usable_cores
from service.contract.parity import BUCKETS

PREFIX = "FOLDSERVE_"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def default_cache() -> Path:
    """The folder that keeps measured plans, where none is set."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foldserve"


def _path_or_url(value: Any) -> Any:
    """What `models` names: a store by its URL (s3://bucket/prefix), or a folder."""
    return value if isinstance(value, str) and "://" in value else Path(value)


class Settings(BaseSettings):
    """What the service may be told: each setting once, with its default, its range and its help."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    models: Annotated[Path | str, BeforeValidator(_path_or_url)] = Field(
        Path("models"),
        description="folder of bundles, models/NAME/VERSION/; one model's folder; one bundle; a store's URL",
    )
    store_poll_s: float = Field(
        30.0, ge=1, le=86_400, description="seconds between two looks for new versions in a store of models"
    )
    model_name: str | None = Field(
        None,
        min_length=1,
        description="name of the model where models is one model's folder or one bundle; unset: its folder's",
    )
    max_models: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="models in memory of each worker, loaded when asked for; unset: all, loaded at the start",
    )
    max_models_mb: float | None = Field(
        None,
        gt=0,
        le=2**20,
        description="the same in MiB of graphs and buffers; with both, whichever is reached first",
    )
    model_settings: Path | None = Field(
        None,
        description="TOML file: a table for each model that has queue_rows, max_wait_ms, … of its own",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to run; auto is CUDA if it works, otherwise the CPU"
    )
    threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=1024,
        description="cores that one model may use; unset: all that there are",
    )
    int8: Literal["auto", "require", "off"] = Field(
        "auto",
        description="whether an int8 graph answers: auto where it replays and is faster; require; off",
    )
    lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="batches that run at once, sharing the threads; unset: as measured at load",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="processes that share the port, each with every model and its share of cores",
    )
    worker_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="a worker whose event loop is blocked for this long is replaced"
    )
    cache: Path = Field(
        default_factory=default_cache,
        description="folder that keeps execution plans measured at load; unset: ~/.cache/foldserve",
    )
    buckets: Annotated[tuple[int, ...], NoDecode] = Field(
        BUCKETS, description="batch sizes that may run, ascending; a batch is padded to the next one"
    )
    queue_rows: int = Field(
        1024,
        ge=1,
        description="rows that may wait for a model before new requests get 503; longer ones count apart",
    )
    max_wait_ms: float = Field(
        0.0, ge=0, le=10_000, description="how long a free engine waits to fill its largest bucket"
    )
    default_timeout_ms: float = Field(
        0.0, ge=0, le=3_600_000, description="deadline of requests that set no timeout; 0 for none"
    )
    max_body_mb: float = Field(
        64.0, gt=0, le=2048, description="maximum request body in MiB, as sent and once decompressed"
    )
    max_inflight_mb: float | None = Field(
        None,
        gt=0,
        le=2**20,
        description="maximum MiB of all requests and answers in memory at once; unset: 4 times max_body_mb",
    )
    max_connections: int = Field(
        1024,
        ge=1,
        le=2**20,
        description="maximum connections open at once; one more closes the longest idle one",
    )
    body_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="seconds that a request's body may take to arrive"
    )
    write_timeout_s: float = Field(
        120.0, gt=0, le=86_400, description="seconds that a client may take to read what was written to it"
    )
    max_files: int = Field(256, ge=1, le=65_536, description="maximum pictures in one /predict request")
    max_pixels: int = Field(40_000_000, ge=1, description="maximum pixels of a picture that /predict decodes")
    max_request_pixels: int | None = Field(
        None, ge=1, description="maximum pixels of one /predict request; unset: 4 times max_pixels"
    )
    max_inflight_pixels: int | None = Field(
        None, ge=1, description="maximum pixels of all /predict requests at once; unset: 16 times max_pixels"
    )
    decode_memory_mb: float = Field(
        384.0, ge=16, le=2**20, description="MiB that decoding may take for all large pictures at once"
    )
    decode_timeout_s: float = Field(
        20.0, gt=0, le=3600, description="seconds that decoding the pictures of one request may take"
    )
    drain_delay_s: float = Field(
        0.0, ge=0, le=600, description="seconds between SIGTERM, when ready turns 503, and refusing new work"
    )
    shutdown_timeout_s: int = Field(
        30, ge=1, le=3600, description="seconds that accepted work has to finish after that"
    )
    readiness: Literal["strict", "lenient"] = Field(
        "strict", description="ready when every model found at the start is proved, or once one of them is"
    )
    exit_unless_ready: bool = Field(
        False, description="end with exit code 3 if the models found at the start do not make it ready"
    )
    require_signature: Path | None = Field(
        None, description="PEM file of Ed25519 public keys: only bundles signed by one of them are served"
    )
    allow_unproved: bool = Field(
        False, description="serve bundles made with --no-proof too, whose answers nothing vouches for"
    )
    api_keys: Path | None = Field(
        None, description="file of API keys (`foldserve key` makes them); unset: no key is needed"
    )
    rate_limit: float = Field(
        0.0, ge=0, le=1e6, description="requests a second of one client, after which it gets 429; 0 for any"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses or networks whose X-Forwarded-For is believed, e.g. 10.0.0.0/8"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose pages may read answers, e.g. https://shop.example; * for all"
    )
    tls_certificate: Path | None = Field(None, description="PEM file: serve HTTPS with this certificate")
    tls_key: Path | None = Field(None, description="PEM file of its private key; unset: in the same file")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities: clients must show a certificate signed by one (mTLS)"
    )
    model_control: bool = Field(
        False, description="allow any client to call POST /v2/repository/models/NAME/load and unload"
    )
    request_log: Literal["all", "failures", "off"] = Field(
        "failures", description="which requests get a line in the log"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="how a line of the log is written: text, or one JSON object"
    )
    trace_endpoint: str | None = Field(
        None, description="where to send OpenTelemetry spans (OTLP over HTTP), e.g. http://collector:4318"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level to log"
    )

    @field_validator("buckets", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if not value.strip() and info.field_name != "buckets":  # a list may be empty, but not that of buckets
            return []
        return [part.strip() for part in value.split(",")]

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.buckets or self.buckets[0] < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets must be ascending numbers from 1 on, got {list(self.buckets)}")
        if self.queue_rows < self.buckets[-1]:
            raise ValueError(
                f"queue_rows must hold at least one batch of {self.buckets[-1]}, got {self.queue_rows}"
            )
        if self.max_inflight_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_inflight_mb must hold a body of max_body_mb, {self.max_body_mb:g}, "
                f"got {self.max_inflight_mb:g}"
            )
        if self.model_control and self.api_keys is None and self.host not in _LOOPBACK:
            raise ValueError(
                f"model_control on {self.host}, which other machines reach, needs api_keys with an admin key"
            )
        if self.tls_certificate is None and (self.tls_key or self.tls_client_ca):
            raise ValueError("tls_key and tls_client_ca go with tls_certificate")
        if not self.max_pixels <= self.request_pixels <= self.inflight_pixels:
            raise ValueError(
                "max_pixels, max_request_pixels and max_inflight_pixels must not fall, "
                f"got {self.max_pixels}, {self.request_pixels} and {self.inflight_pixels}"
            )
        if self.store is not None and self.model_name is not None:
            raise ValueError("model_name is for a lone model's folder, and a store names its models")
        if self.workers > 1 and self.model_control:
            raise ValueError("model_control needs one worker: each worker would load by itself")
        if self.workers > 1 and self.exit_unless_ready:
            raise ValueError("exit_unless_ready needs one worker: several are replaced when they end")
        if self.workers > 1 and self.device == "cuda":
            raise ValueError("workers are for the CPU; on CUDA one process serves the device")
        if (self.lanes or 1) > self.worker_threads:
            raise ValueError(
                f"lanes share a worker's threads: {self.lanes} lanes need as many, got {self.worker_threads}"
            )
        return self

    @property
    def worker_threads(self) -> int:
        """Each worker's share of the threads."""
        return max(1, self.threads // self.workers)

    @property
    def store(self) -> str | None:
        """The URL of the store of models; None where `models` is a folder."""
        return self.models if isinstance(self.models, str) else None

    @property
    def models_folder(self) -> Path:
        """The folder of bundles; for a store the one that mirrors it, below `cache`."""
        if isinstance(self.models, Path):
            return self.models
        return self.cache / "models" / hashlib.sha256(self.models.encode()).hexdigest()[:12]

    @property
    def request_pixels(self) -> int:
        """Pixels that one /predict request may have."""
        return self.max_request_pixels or 4 * self.max_pixels

    @property
    def inflight_pixels(self) -> int:
        """Pixels that all /predict requests may have at once."""
        return self.max_inflight_pixels or max(16 * self.max_pixels, self.request_pixels)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 2**20)

    @property
    def max_inflight_bytes(self) -> int:
        """`max_inflight_mb` in bytes, or its default."""
        if self.max_inflight_mb is None:
            return 4 * self.max_body_bytes
        return int(self.max_inflight_mb * 2**20)
