"""What do the flags fold beyond the default, over the whole zoo?  Our fold alone, with nothing else timed.

In: the nets of `fold_zoo`.  Out: `fold_flags.csv` and `fold_flags.md` in benchmarks/results.

    python -m benchmarks.fold_flags           # goes on where it was stopped; needs what fold_zoo needs
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.fold_zoo.build import Subject, build
from benchmarks.fold_zoo.count import Count, count
from benchmarks.fold_zoo.errors import worst_error
from benchmarks.fold_zoo.isolate import Lost, isolated
from benchmarks.fold_zoo.nets import choose
from benchmarks.fold_zoo.ops import onnx_ops
from benchmarks.fold_zoo.ours import FLAGS
from export.fold.usual import FREE, fold
from export.graph import serialize
from export.runtime import load

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 900.0
NUM_ROWS = 6
HEAD = ["net", "gammas", "flags", "found", "left", "seconds", "error", "unfolded_error", "why"]
ASKED = {"": FREE, "threshold+pad": FREE | set(FLAGS.values())}


def main() -> None:
    """Measure what is not measured yet, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="NET")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console, table = Console(stderr=True), options.out / "fold_flags.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    done = {row["net"] for row in _read(table)}
    names = [name for name in choose(options.only, quick=False) if name not in done]
    for place, name in enumerate(names, 1):
        console.print(f"{place} of {len(names)}: {name}", highlight=False)
        try:
            rows = isolated(LIMIT_S, _measure, name)
        except Lost as lost:
            rows = [dict.fromkeys(HEAD, "") | {"net": name, "why": str(lost)[:200]}]
        _append(table, rows)
        (options.out / "fold_flags.md").write_text(_markdown(_read(table)), encoding="utf-8")


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
    for flags, prices in ASKED.items():
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


def _read(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _append(table: Path, rows: list[dict[str, object]]) -> None:
    is_new = not table.exists()
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEAD)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [
        "# What the flags fold",
        "",
        "`python -m benchmarks.fold_flags`: random statistics; gone means gone, as in fold_zoo.md.",
        "",
        "| γ | flags | nets | found | gone | % | largest error ratio | median fold, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    measured = [row for row in rows if row["found"]]
    for gammas in ("both", "positive"):
        for flags in ASKED:
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
