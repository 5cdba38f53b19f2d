"""What do the flags fold beyond the default, over the whole zoo?  Only our own fold; no other tool is run.

In: the nets of `fold_zoo`.  Out: `fold_flags.csv` and `fold_flags.md` in benchmarks/results.

    python -m benchmarks.fold_flags           # resumes where it was stopped; same requirements as fold_zoo
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.common import RESULTS, append_csv, read_csv
from benchmarks.fold_zoo.build import Subject, build
from benchmarks.fold_zoo.count import Count, count
from benchmarks.fold_zoo.errors import worst_error
from benchmarks.fold_zoo.isolate import ProcessFailed, isolated
from benchmarks.fold_zoo.nets import choose
from benchmarks.fold_zoo.ops import onnx_ops
from benchmarks.fold_zoo.ours import FLAGS
from export.compute.runtime import load
from export.fold.gauges.system import FREE
from export.fold.stages import fold
from export.graph.file import serialize

LIMIT_S = 900.0
NUM_ROWS = 6
HEAD = ["net", "gammas", "flags", "found", "left", "seconds", "error", "unfolded_error", "why"]
FLAG_SETS = {"": FREE, "threshold+pad": FREE | set(FLAGS.values())}


def main() -> None:
    """Measure the pending nets, then write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fold_flags",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="NET", help="all nets of the zoo by default")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="for the results")
    options = parser.parse_args()
    console, table = Console(stderr=True), options.out / "fold_flags.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    done = {row["net"] for row in read_csv(table)}
    names = [name for name in choose(options.only, quick=False) if name not in done]
    for place, name in enumerate(names, 1):
        console.print(f"{place} of {len(names)}: {name}", highlight=False)
        try:
            rows: list[dict[str, object]] = isolated(LIMIT_S, _measure, name)
        except ProcessFailed as error:
            rows = [{**dict.fromkeys(HEAD, ""), "net": name, "why": str(error)[:200]}]
        append_csv(table, HEAD, rows)
        (options.out / "fold_flags.md").write_text(_markdown(read_csv(table)), encoding="utf-8")


def _measure(name: str) -> list[dict[str, object]]:
    subject = build(name)
    return [row for gammas in ("both", "positive") for row in _rows(name, gammas, subject)]


def _rows(name: str, gammas: str, subject: Subject) -> Iterator[dict[str, object]]:
    graph, evaluate = subject.unfolded(gammas)
    (given,) = graph.graph.inputs
    shape = (NUM_ROWS, *subject.row_shape)
    rows = {given.name or "": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    truth = list(evaluate(rows).values())
    noise = worst_error(list(load(serialize(graph), optimised=False)(rows).values()), truth)
    first = _count(serialize(graph))
    for flags, prices in FLAG_SETS.items():
        begun = time.perf_counter()
        folded, _ = fold(graph, frozenset(prices))
        seconds = time.perf_counter() - begun
        content = serialize(folded)
        yield {
            "net": name,
            "gammas": gammas,
            "flags": flags,
            "found": first.batchnorms,
            "left": _count(content).left(first),
            "seconds": f"{seconds:.2f}",
            "error": f"{worst_error(list(load(content, optimised=False)(rows).values()), truth):.2e}",
            "unfolded_error": f"{noise:.2e}",
            "why": "",
        }


def _count(content: bytes) -> Count:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        return count(onnx_ops(Path(file.name)))


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [
        "# What the flags fold",
        "",
        "`python -m benchmarks.fold_flags`: random statistics; *gone* is defined as in fold_zoo.md.",
        "",
        "| γ | flags | nets | found | gone | % | largest error ratio | median fold, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    measured = [row for row in rows if row["found"]]
    for gammas in ("both", "positive"):
        for flags in FLAG_SETS:
            these = [row for row in measured if (row["gammas"], row["flags"]) == (gammas, flags)]
            found = sum(int(row["found"]) for row in these)
            gone = found - sum(int(row["left"]) for row in these)
            ratios = [float(row["error"]) / max(float(row["unfolded_error"]), 2.0**-23) for row in these]
            seconds = float(np.median([float(row["seconds"]) for row in these])) if these else 0.0
            lines.append(
                f"| {gammas} | {flags or 'none'} | {len(these)} | {found} | {gone} | "
                f"{100 * gone / max(found, 1):.1f} | {max(ratios, default=0):.2f} | {seconds:.2f} |"
            )
    lines += [
        "",
        "| net | found | both | both, flags | positive | positive, flags |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["net"] for row in measured):
        these = [row for row in measured if row["net"] == name]
        gone_each = " | ".join(str(int(row["found"]) - int(row["left"])) for row in these)
        lines.append(f"| {name} | {these[0]['found']} | {gone_each} |")
    lines += [f"- {row['net']}: {row['why']}" for row in rows if row["why"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
