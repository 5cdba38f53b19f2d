"""The Grafana board of the service, as code.

    python deploy/grafana/board.py > deploy/grafana/foldserve.json

In: nothing.  Out: a dashboard in Grafana's JSON, a panel for each entry of PANELS, three in a row.
"""

import json
import sys
from typing import Any

P99 = "histogram_quantile(0.99, sum by (le, model) (rate(foldserve_{}_seconds_bucket[5m])))"

# title, unit, what each line shows → its query
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Ready", "bool_yes_no", {"{{instance}}": "foldserve_ready"}),
    ("Requests a second", "reqps", {"{{model}} {{version}}": "foldserve:requests:rate1m"}),
    (
        "Requests that fail, by reason",
        "reqps",
        {"{{reason}}": "sum by (reason) (rate(foldserve_failures_total[1m]))"},
    ),
    (
        "Seconds of a request",
        "s",
        {"p50 {{model}}": "foldserve:request_seconds:p50", "p99 {{model}}": "foldserve:request_seconds:p99"},
    ),
    (
        "Seconds waiting and computing, p99",
        "s",
        {
            "waiting {{model}}": P99.format("queue"),
            "computing {{model}}": P99.format("compute"),
        },
    ),
    ("Rows in a batch", "short", {"{{model}}": "foldserve:batch_rows:mean5m"}),
    ("Rows waiting", "short", {"{{model}} {{version}}": "foldserve_queue_rows"}),
    (
        "Parity: difference from the golden answers",
        "sci",
        {"{{model}} {{version}} {{output}}": "foldserve_parity_difference"},
    ),
    ("Versions that are proved", "bool_yes_no", {"{{model}} {{version}}": "foldserve_version_proved"}),
    ("Cold executions", "short", {"{{model}}": "sum by (model) (foldserve_cold_executions_total)"}),
    ("Rows a second", "short", {"{{model}}": "sum by (model) (rate(foldserve_rows_total[1m]))"}),
    ("Memory of the process", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job="foldserve"}'}),
)
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def board() -> dict[str, Any]:
    """The dashboard."""
    return {
        "uid": "foldserve",
        "title": "foldserve",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "tags": ["foldserve"],
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(queries.items())
        ],
    }


if __name__ == "__main__":
    json.dump(board(), sys.stdout, indent=1)
    print()
