"""The pages under docs/reference/, written from the code, so that they can say nothing else.

In: the settings, each command's --help, the OpenAPI document, the metrics, the models of the manifest.
Out: one page for each.  Run this after a change of a flag, a setting, a route or a metric: a test makes the
pages anew and compares.

    python tools/reference.py
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import cleandoc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from foldserve.__main__ import COMMANDS  # noqa: E402
from service.contract.manifest import Manifest  # noqa: E402
from service.processes.assemble import build_service  # noqa: E402
from service.settings import PREFIX, Settings  # noqa: E402
from service.telemetry.exposition import exposition  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402
from service.telemetry.worker_group import WorkerSlot  # noqa: E402

PAGES = ROOT / "docs/reference"
VERBS = {"train": ["compare"], "export": ["bundle", "fold", "verify", "show", "sign"]}
NOTE = "<!-- Written by tools/reference.py from the code; run it to change this page. -->"


def settings_page() -> Iterator[str]:
    """Every setting of the service: its variable, its default, what it means."""
    yield "# Settings of the service"
    yield (
        "\nFlags of `foldserve serve`, or environment variables: `--max-body-mb 8` is "
        "`FOLDSERVE_MAX_BODY_MB=8`.\nA flag wins over a variable. A wrong value is one "
        "sentence and exit code 2.\n"
    )
    yield "| variable | default | meaning |\n|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        if isinstance(default, bool):
            default = str(default).lower()
        has_default = field.default_factory is None and default not in (None, "")
        yield f"| `{PREFIX}{name.upper()}` | {f'`{default}`' if has_default else ''} | {field.description} |"


def commands_page() -> Iterator[str]:
    """The --help of every command, as a terminal of 80 columns shows it."""
    names = [
        name
        for command in COMMANDS
        for name in (command, *(f"{command} {v}" for v in VERBS.get(command, [])))
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment = kept | {"COLUMNS": "80", "NO_COLOR": "1"}

    def help_of(name: str) -> str:
        command = [sys.executable, "-m", "foldserve", *name.split(), "--help"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(help_of, names))
    yield "# Commands"
    for name, text in zip(names, texts, strict=True):
        yield f"\n## foldserve {name}\n\n```text\n{text}\n```"


def routes_page() -> Iterator[str]:
    """Every route and what it answers, of a service that may load and unload."""
    yield "# Routes"
    yield '\nEvery error is `{"error": "one sentence"}`. `/docs` of a running service has the schemas.\n'
    yield "| route | answers | statuses |\n|---|---|---|"
    for path, methods in _application().openapi()["paths"].items():
        for method, operation in methods.items():
            statuses = ", ".join(sorted(operation["responses"]))
            yield f"| `{method.upper()} {path}` | {operation['summary']} | {statuses} |"


def _application() -> FastAPI:
    """The application of a service without models."""

    async def build() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            service = build_service(Settings(models=Path(folder), cache=Path(folder)), WorkerSlot())
            try:
                return await service.front.prepare()
            finally:
                service.close()

    application = asyncio.run(build())
    assert isinstance(application, FastAPI)
    return application


def metrics_page() -> Iterator[str]:
    """Every metric of the service's own, with its labels."""
    metrics = Metrics()
    version = metrics.add_version("digits", "1")
    version.parity["logits"] = 0.0
    version.follow(SimpleNamespace(waiting_rows=0, running_rows=0, cold_executions=0))
    metrics.proved["digits", "1"] = True
    metrics.failed("timeout", "digits")
    yield "# Metrics"
    yield "\n`GET /metrics` gives these to Prometheus, beside what its client library says of the process.\n"
    yield "| metric | kind | labels | meaning |\n|---|---|---|---|"
    text = exposition(metrics.snapshot(), is_ready=True).decode()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("foldserve_"):
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |"


def manifest_page() -> Iterator[str]:
    """Every key of `manifest.json`, from the models that read it."""
    schema = Manifest.model_json_schema()
    yield "# manifest.json"
    yield "\nWhat a bundle says of itself. An unknown key is refused, so that a spelling mistake is found.\n"
    yield from _keys(schema, Manifest.__doc__ or "")
    for name, part in schema["$defs"].items():
        yield f"\n## {name}\n"
        yield from _keys(part, part.get("description", ""))


def _keys(schema: dict[str, Any], text: str) -> Iterator[str]:
    yield cleandoc(text).replace("Args:\n", "\n").replace("    ", "- ") + "\n"
    yield "| key | type | |\n|---|---|---|"
    required = schema.get("required", [])
    for name, key in schema["properties"].items():
        yield f"| `{name}` | {_type(key)} | {'' if name in required else 'optional'} |"


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) else "object"
    return str(schema.get("type", "any"))


def pages() -> dict[Path, str]:
    """The text of every page, by its file."""
    makers = {
        "settings": settings_page,
        "commands": commands_page,
        "routes": routes_page,
        "metrics": metrics_page,
        "manifest": manifest_page,
    }
    return {PAGES / f"{name}.md": f"{NOTE}\n\n" + "\n".join(make()) + "\n" for name, make in makers.items()}


if __name__ == "__main__":
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
