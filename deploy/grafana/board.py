"""The Grafana board of the service, as code.

    python deploy/grafana/board.py > deploy/grafana/foldserve.json

In: nothing.  Out: a dashboard for the Grafana of compose.serve.yml, made by Grafana's own library of that
version; a panel for each entry of PANELS, three in a row.
"""

import sys

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

P99 = "histogram_quantile(0.99, sum by (le, model) (rate(foldserve_{}_seconds_bucket[5m])))"

# title, unit, what each line shows → its query
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Ready", units.BoolYesNo, {"{{instance}}": "foldserve_ready"}),
    ("Requests a second", units.RequestsPerSecond, {"{{model}} {{version}}": "foldserve:requests:rate1m"}),
    (
        "Requests that fail, by reason",
        units.RequestsPerSecond,
        {"{{reason}}": "sum by (reason) (rate(foldserve_failures_total[1m]))"},
    ),
    (
        "Seconds of a request",
        units.Seconds,
        {"p50 {{model}}": "foldserve:request_seconds:p50", "p99 {{model}}": "foldserve:request_seconds:p99"},
    ),
    (
        "Seconds waiting and computing, p99",
        units.Seconds,
        {
            "waiting {{model}}": P99.format("queue"),
            "computing {{model}}": P99.format("compute"),
        },
    ),
    ("Rows in a batch", units.Short, {"{{model}}": "foldserve:batch_rows:mean5m"}),
    ("Rows waiting", units.Short, {"{{model}} {{version}}": "foldserve_queue_rows"}),
    (
        "Parity: difference from the golden answers",
        units.ScientificNotation,
        {"{{model}} {{version}} {{output}}": "foldserve_parity_difference"},
    ),
    ("Versions that are proved", units.BoolYesNo, {"{{model}} {{version}}": "foldserve_version_proved"}),
    ("Cold executions", units.Short, {"{{model}}": "sum by (model) (foldserve_cold_executions_total)"}),
    ("Rows a second", units.Short, {"{{model}}": "sum by (model) (rate(foldserve_rows_total[1m]))"}),
    (
        "Memory of the process",
        units.BytesIEC,
        {"{{instance}}": 'process_resident_memory_bytes{job="foldserve"}'},
    ),
)
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")


def board() -> Dashboard:
    """The dashboard."""
    made = (
        Dashboard("foldserve")
        .uid("foldserve")
        .tags(["foldserve"])
        .editable()
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
    )
    for panel in PANELS:
        made.with_panel(_panel(*panel))
    return made


def _panel(title: str, unit: str, queries: dict[str, str]) -> Panel:
    legend = (
        VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    made = Panel().title(title).unit(unit).min(0).span(8).height(8).legend(legend).tooltip(tooltip)
    for index, (label, query) in enumerate(queries.items()):
        ref = chr(ord("A") + index)
        made.with_target(Dataquery().ref_id(ref).expr(query).legend_format(label).datasource(SOURCE))
    return made.datasource(SOURCE)


if __name__ == "__main__":
    sys.stdout.write(JSONEncoder(indent=1, sort_keys=True).encode(board().build()) + "\n")
