"""The main table: a line for each net, format and system; figures are medians of the rounds.

In: cells.  Out: markdown.
"""

from collections.abc import Iterable

from benchmarks.serving.medians import Medians, Place, best_bare, medians
from benchmarks.serving.nets import NETS
from benchmarks.serving.steps import Options
from benchmarks.serving.store import CLOSED, FAILED, OPEN, OVERLOAD, Cell
from benchmarks.serving.systems import BARE, OURS, SYSTEMS
from benchmarks.serving.targets import targets
from training.console import to_markdown

HEAD = [
    *("net", "format", "system", "requests/s at 1", "at 16", "at 64", "ours ÷ it", "p50, p99 at 1, ms"),
    *("p50, p99 at 64, ms", "p99 at o50, ms", "p99 at o90, ms", "CPU s", "errors, wrong"),
]

NOTES = [
    "- ours ÷ it: ratio of requests/s, both at 64 connections",
    "- p50, p99 at 1 and 64: closed loop, corrected by wrk for what it could not send during a stall",
    "- o50, o90: open loops at 50 % and 90 % of our own maximum, latency from the due time; –: the system "
    "cannot reach that rate",
    "- CPU s: of all the server's processes, per 1,000 requests at 64 connections",
]


def render(cells: Iterable[Cell], options: Options, conditions: list[str]) -> str:
    """The whole report as Markdown; `conditions` are its first lines."""
    cells = list(cells)
    found = medians(cells)
    why = {(cell.net, cell.system, cell.format): cell.note for cell in cells if cell.load == FAILED}
    rows = []
    for net in options.nets:
        if best := best_bare(found, net):
            rows.append([net, "rows", f"ONNX Runtime alone, {best[0]}", "", "", f"{best[1]:,.0f}", *[""] * 7])
        for form in options.formats:
            for name in options.systems:
                if name != BARE:
                    reason = _reason(name, form, net, why, options)
                    rows.append([net, form, name, *_figures(found, net, form, name, reason)])
    lines = ["# The service compared with its peers", "", *conditions, "", to_markdown(HEAD, rows)]
    lines += ["", *targets(found, options.nets), "", *_overloads(found), "", *_legend(options)]
    return "\n".join(lines) + "\n"


def _figures(found: dict[Place, Medians], net: str, form: str, name: str, reason: str) -> list[str]:
    at = {load: found.get((net, name, form, load)) for load in (*CLOSED, *OPEN)}
    alone, full = at["c1"], at["c64"]
    if alone is None or full is None:
        return [reason, *[""] * (len(HEAD) - 4)]
    ours = found.get((net, OURS.name, form, "c64"))
    ratio = f"{ours.requests_per_s / full.requests_per_s:.2f}" if ours and full.requests_per_s else ""
    late = [f"{it.p99_ms:.1f}" if (it := at[load]) else "–" for load in OPEN]
    measured = [it for it in at.values() if it]
    return [
        *(f"{it.requests_per_s:,.0f}" if (it := at[load]) else "" for load in CLOSED),
        ratio,
        f"{alone.p50_ms:.2f}, {alone.p99_ms:.2f}",
        f"{full.p50_ms:.1f}, {full.p99_ms:.1f}",
        *late,
        f"{full.cpu_s_per_1000:.2f}",
        f"{sum(it.errors for it in measured)}, {sum(it.wrong for it in measured)}",
    ]


def _reason(name: str, form: str, net: str, why: dict[tuple[str, str, str], str], options: Options) -> str:
    """Why a system has no figures, in one line."""
    system = SYSTEMS[name]
    reasons = [
        system.lacks.get(form),
        system.unavailable_reason(options.peers),
        why.get((net, name, form)),
        why.get((net, name, "")),
    ]
    return next((reason for reason in reasons if reason), "not measured").replace("\n", " ")


def _overloads(found: dict[Place, Medians]) -> list[str]:
    """The outcome of twice our maximum, one line per net."""
    lines = []
    for (net, _, _, load), it in found.items():
        if load == OVERLOAD:
            last = it.extra[-1]
            lines.append(
                f"- {net}, twice the maximum, last round: {last['requests']:,} requests, statuses "
                f"{last['statuses']}, {last['waited']:,} waited for a connection, the driver's own delay "
                f"{last['late_p99_ms']:.1f} ms at p99"
            )
    return lines


def _legend(options: Options) -> list[str]:
    systems = [f"- {name}: {SYSTEMS[name].description}" for name in options.systems if name != BARE]
    return [*NOTES, *(f"- {name}: {NETS[name].description}" for name in options.nets), *systems]
