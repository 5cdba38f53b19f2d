"""Measure one net: every tool on the same unfolded graph, each in a separate process.

In: a name, and the rows to keep.  Out: rows, after each kind of γ.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.fold_zoo.build import Subject, build
from benchmarks.fold_zoo.errors import is_right, worst_error
from benchmarks.fold_zoo.foreign import openvino, torch_fx
from benchmarks.fold_zoo.isolate import ProcessFailed, isolated
from benchmarks.fold_zoo.store import Row
from benchmarks.fold_zoo.timing import interleaved, medians, ratio
from benchmarks.fold_zoo.tools import ONNX_TOOLS, Rewrite, Rows, ToolResult, onnx_tool, ours, tool_version
from export.graph.file import serialize

NUM_ROWS = 6
TOOL_LIMIT_S, TIMING_LIMIT_S = 240.0, 240.0
CHOOSE_S, COMPARE_S = 2.0, 4.0


def measure(
    name: str, kinds: list[str], flags: tuple[str, ...], known: Mapping[str, list[Row]]
) -> Iterator[list[Row]]:
    """Yield the rows of each kind of γ; rows in `known` are kept, and only ours is measured again."""
    subject = build(name)
    for gammas in kinds:
        with tempfile.TemporaryDirectory(prefix="fold_zoo_") as folder:
            yield _Measurement(name, gammas, flags, subject, Path(folder)).rows(known.get(gammas, []))


class _Measurement:
    """One net and one kind of γ: its unfolded file, random rows and their true answers."""

    def __init__(
        self, name: str, gammas: str, flags: tuple[str, ...], subject: Subject, folder: Path
    ) -> None:
        self.flags, self.net, self.folder = flags, subject.net, folder
        graph, evaluate = subject.unfolded(gammas)
        self.source = folder / "unfolded.onnx"
        self.source.write_bytes(serialize(graph))
        (name_in,) = [value.name or "" for value in graph.graph.inputs]
        pixels = np.random.default_rng(0).normal(size=(NUM_ROWS, *subject.row_shape)).astype(np.float32)
        self.pixels: Rows = {name_in: pixels}
        self.truth = list(evaluate(self.pixels).values())
        self.unfolded = self._onnx("unfolded", _copy)
        self.template = Row(
            net=name,
            gammas=gammas,
            tool="",
            found=self.unfolded.count.batchnorms,
            row_shape="×".join(str(size) for size in subject.row_shape),
            unfolded_error=worst_error(self.unfolded.answers, self.truth),
        )

    def rows(self, known: list[Row]) -> list[Row]:
        """One row for each tool, ours last."""
        others = [row for row in known if row.tool != "ours"] or list(self._others())
        mine = self._row("ours", partial(self._onnx, "ours", ours(self.flags)))
        if mine.outcome == "ok" and (candidates := _most_removed(others)):
            if known:  # their graphs are not kept, so the one to compare with is made again
                before = [row.best_tool for row in known if row.tool == "ours"]
                candidates = [tool for tool in candidates if tool in before] or candidates
                for tool in candidates:
                    self._onnx(tool, ONNX_TOOLS[tool])
            mine = self._timed(mine, candidates)
        return [*others, mine]

    def _others(self) -> Iterator[Row]:
        for tool, rewrite in ONNX_TOOLS.items():
            yield self._row(tool, partial(self._onnx, tool, rewrite))
        yield self._row("OpenVINO", partial(isolated, TOOL_LIMIT_S, openvino, self.source, self.pixels))
        if self.net is not None:
            fuse = partial(isolated, TOOL_LIMIT_S, torch_fx, self.net, self.pixels)
            yield self._row("torch.fx fuse", fuse)

    def _onnx(self, tool: str, rewrite: Rewrite) -> ToolResult:
        return isolated(TOOL_LIMIT_S, onnx_tool, rewrite, self.source, self._file(tool), self.pixels)

    def _file(self, tool: str) -> Path:
        return self.folder / f"{tool.replace(' ', '_')}.onnx"

    def _row(self, tool: str, run: Callable[[], ToolResult]) -> Row:
        template = replace(self.template, tool=tool, version=tool_version(tool, self.flags))
        try:
            found = run()
        except ProcessFailed as error:
            return replace(template, outcome="failed", reason=str(error)[:300], left=template.found)
        count, first = found.count, self.unfolded.count
        row = replace(
            template,
            left=count.left(first),
            batchnorms=count.batchnorms,
            stand_ins=count.more_stand_ins(first),
            affines=count.more_affines(first),
            bounds=max(0, count.bounds - first.bounds),
            nodes=count.nodes,
            error=worst_error(found.answers, self.truth),
            seconds=found.seconds,
        )
        if not is_right(row):
            reason = f"its answers are off by {row.error:.2g} of the output range"
            return replace(row, outcome="wrong", reason=reason)
        return row

    def _timed(self, mine: Row, candidates: list[str]) -> Row:
        row = {name: array[:1] for name, array in self.pixels.items()}
        files = {tool: self._file(tool) for tool in candidates}
        try:
            chosen = medians(isolated(TIMING_LIMIT_S, interleaved, files, row, CHOOSE_S))
            best = min(chosen, key=lambda tool: chosen[tool])
            # Compared in new rounds: otherwise the luckiest of several would be the reference.
            pair = {"ours": self._file("ours"), best: files[best]}
            rounds = isolated(TIMING_LIMIT_S, interleaved, pair, row, COMPARE_S)
        except ProcessFailed as error:
            return replace(mine, reason=f"not timed: {error}"[:300])
        ms = medians(rounds)
        return replace(
            mine,
            ms_per_row=ms["ours"],
            best_tool=best,
            best_ms_per_row=ms[best],
            time_ratio=ratio(rounds, "ours", best),
        )


def _most_removed(rows: list[Row]) -> list[str]:
    ready = [row for row in rows if row.outcome == "ok" and row.tool in ONNX_TOOLS]
    maximum = max((row.removed for row in ready), default=0)
    return [row.tool for row in ready if row.removed == maximum]


def _copy(source: Path, target: Path) -> float:
    target.write_bytes(source.read_bytes())
    return 0.0
