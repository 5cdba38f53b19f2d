"""fold_zoo.md: the measurements as a report.

In: rows.  Out: Markdown: totals, a line for each net, and a list of failed or wrong results.
"""

import statistics
from collections.abc import Iterable

from benchmarks.fold_zoo.store import GAMMAS, Row
from training.console import to_markdown

TOOLS = (
    *("ORT basic", "ORT extended", "ORT all", "onnxscript", "onnxoptimizer", "onnxsim", "OnnxSlim"),
    *("OpenVINO", "torch.fx fuse", "ours"),
)
TITLES = {"both": "γ of both signs", "positive": "γ > 0"}

HOW = """\
Every tool gets the same unfolded ONNX file, with random statistics, γ and β. **Removed means gone**:
what counts as left is every BatchNormalization, every depthwise 1×1 convolution and every per-channel
Mul or Add (one for a Mul and its Add) beyond the unfolded graph's; an Add right after a MatMul is a
linear layer's bias. A tool that fails or gives wrong answers has removed none. OpenVINO's graph is
counted after its common transformations, before its CPU plugin fuses ops; torch.fx works on the net,
and is not run on the ONNX models.

Errors are the largest difference from the truth in float64 (6 random rows), relative to the largest
answer, with ONNX Runtime's own rewrites disabled; *error ratio* is a tool's ÷ the unfolded float32 graph's.
*Time ratio* is our graph's time for one row ÷ that of the tool that removed the maximum (the fastest,
if several), both on ONNX Runtime at level ALL, one thread, alternating: below 1, ours is faster.

Not every *wrong* is a wrong fold. `mobilenetv4_hybrid_medium` with γ > 0 is off by 0.14 in ONNX Runtime,
onnxsim and OnnxSlim, in one row of six. Each moved to the next float32 by chance, the unfolded net's own
weights move its answer to that row by the same 0.14 in one draw of eight, and by 4·10⁻⁵ at most in the
others: with these random numbers the net decides a near-tie.
"""


def render(rows: list[Row]) -> str:
    """The whole report as Markdown."""
    nets = {row.key for row in rows if row.tool != "net"}
    parts = ["# The fold zoo", f"{len({name for name, _ in nets})} nets.\n\n{HOW}"]
    for gammas in GAMMAS:
        some = [row for row in rows if row.gammas == gammas and row.tool != "net"]
        if some:
            parts += [
                f"## {TITLES[gammas]}: totals",
                _totals(some),
                f"## {TITLES[gammas]}: nets",
                _nets(some),
            ]
    parts += ["## Failed or wrong", _failures(rows)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _totals(rows: list[Row]) -> str:
    head = (
        "tool",
        "found",
        "removed",
        "%",
        "failed",
        "wrong",
        "median error ratio",
        "worst",
        "median time ratio",
    )
    return _table(head, [_total(tool, rows) for tool in TOOLS] + [_best_total(rows)])


def _total(tool: str, rows: list[Row]) -> list[str]:
    some = [row for row in rows if row.tool == tool]
    found, removed = sum(row.found for row in some), sum(row.removed for row in some)
    ratios = [row.error_ratio for row in some if row.outcome == "ok" and row.error_ratio is not None]
    times = [row.time_ratio for row in some if row.time_ratio is not None]
    versions = sorted({row.version for row in some})
    return [
        f"{tool} {', '.join(versions)}",
        f"{found:,}",
        f"{removed:,}",
        _percent(removed, found),
        str(sum(row.outcome == "failed" for row in some)),
        str(sum(row.outcome == "wrong" for row in some)),
        f"{statistics.median(ratios):.2f}" if ratios else "",
        f"{max(ratios):.3g}" if ratios else "",
        f"{statistics.median(times):.3f}" if times else "",
    ]


def _best_total(rows: list[Row]) -> list[str]:
    best = {
        name: max((row.removed for row in same if row.tool != "ours"), default=0)
        for name, same in _by_net(rows).items()
    }
    found = sum(same[0].found for same in _by_net(rows).values())
    removed = sum(best.values())
    return ["*the best tool of each net*", f"{found:,}", f"{removed:,}", _percent(removed, found), *[""] * 5]


def _nets(rows: list[Row]) -> str:
    head = (
        "net",
        "input",
        "found",
        *TOOLS,
        "unfolded error",
        "our error ratio",
        "our fold, s",
        "time ratio",
        "compared with",
    )
    lines = []
    for name, same in _by_net(rows).items():
        of = {row.tool: row for row in same}
        mine = of.get("ours")
        cells = [_cell(of.get(tool), same) for tool in TOOLS]
        tail = [f"{same[0].unfolded_error:.1e}" if same[0].unfolded_error is not None else ""]
        if mine is not None:
            tail += [
                _number(mine.error_ratio),
                _number(mine.seconds),
                _number(mine.time_ratio),
                mine.best_tool,
            ]
        lines.append([name, same[0].row_shape, str(same[0].found), *cells, *tail])
    return _table(head, lines)


def _cell(row: Row | None, same: list[Row]) -> str:
    if row is None:
        return ""
    if row.outcome != "ok":
        return row.outcome
    maximum = max(other.removed for other in same)
    return f"**{row.removed}**" if row.removed == maximum else str(row.removed)


def _failures(rows: list[Row]) -> str:
    lines = [
        [row.net, TITLES[row.gammas], row.tool, row.outcome, row.reason]
        for row in rows
        if row.outcome != "ok"
    ]
    return _table(("net", "γ", "tool", "outcome", "reason"), lines) if lines else "None."


def _by_net(rows: Iterable[Row]) -> dict[str, list[Row]]:
    nets: dict[str, list[Row]] = {}
    for row in rows:
        nets.setdefault(row.net, []).append(row)
    return nets


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Iterable[str], lines: Iterable[list[str]]) -> str:
    return to_markdown(tuple(head), tuple(lines))
