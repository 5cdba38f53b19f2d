"""Draw a graph before and after its fold, every op coloured by what happened to it.

In: two graphs and the account of the BatchNorms.  Out: boxes and lines, in pixels, for the report's SVG.

An op stands one row below the lowest op that it reads, so that data flows down.  In a row, ops stand in the
order of what they read, so that lines seldom cross.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from service.contract.account import FoldAccount

BOX_WIDTH, BOX_HEIGHT = 132, 20
COLUMN, ROW = 144, 34


@dataclass(frozen=True, kw_only=True)
class Box:
    """One op; `kind` is plain, changed, new, folded, reduced or declined."""

    left: int
    top: int
    op_type: str
    name: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One graph; a line is (x₁, y₁, x₂, y₂), from the foot of a box to the head of another."""

    title: str
    width: int
    height: int
    boxes: list[Box]
    lines: list[tuple[int, int, int, int]]


def draw_fold(before: ir.Model, after: ir.Model, fold: FoldAccount) -> list[Drawing]:
    """Both graphs."""
    status = {site.name: site.status for site in (*fold.sites, *fold.per_channel)}
    norms = {node: status.get(node.name or "", "plain") for node in before.graph}
    return [
        _draw("before", before.graph, {node: kind for node, kind in norms.items() if kind != "plain"}),
        _draw("after", after.graph, _changes(before.graph, after.graph, status)),
    ]


def _changes(before: ir.Graph, after: ir.Graph, status: Mapping[str, str]) -> dict[ir.Node, str]:
    old = {node.name: node.op_type for node in before}
    kinds = {}
    for node in after:
        if node.op_type == "BatchNormalization":
            kinds[node] = status.get(node.name or "", "plain")
        elif old.get(node.name) != node.op_type:
            kinds[node] = "new"
        elif any(v and v.is_initializer() and v.name not in before.initializers for v in node.inputs):
            kinds[node] = "changed"
    return kinds


def _draw(title: str, graph: ir.Graph, kinds: Mapping[ir.Node, str]) -> Drawing:
    rows: dict[ir.Node, int] = {}
    reads = {node: _producers(node) for node in graph}
    for node in graph:
        rows[node] = 1 + max((rows[other] for other in reads[node] if other in rows), default=-1)
    columns: dict[ir.Node, float] = {}
    for row in range(max(rows.values(), default=-1) + 1):
        here = [node for node in graph if rows[node] == row]
        wish = {node: _mean([columns[other] for other in reads[node] if other in columns]) for node in here}
        for place, node in enumerate(sorted(here, key=lambda node: wish[node])):
            columns[node] = place - (len(here) - 1) / 2
    left = min(columns.values(), default=0.0)
    at = {node: (round((columns[node] - left) * COLUMN), rows[node] * ROW) for node in rows}
    boxes = [
        Box(left=x, top=y, op_type=node.op_type, name=node.name or "", kind=kinds.get(node, "plain"))
        for node, (x, y) in at.items()
    ]
    middle = BOX_WIDTH // 2
    lines = [
        (at[other][0] + middle, at[other][1] + BOX_HEIGHT, x + middle, y)
        for node, (x, y) in at.items()
        for other in reads[node]
        if other in at
    ]
    width = max((x for x, _ in at.values()), default=0) + BOX_WIDTH
    height = max((y for _, y in at.values()), default=0) + BOX_HEIGHT
    return Drawing(title=title, width=width, height=height, boxes=boxes, lines=lines)


def _producers(node: ir.Node) -> list[ir.Node]:
    producers = [value.producer() for value in node.inputs if value is not None]
    return [producer for producer in producers if producer is not None]


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
