"""The command line; `python -m benchmarks.fold_zoo --help`.

Everything heavy is imported once, also so that a run of hours keeps the code that it began with; each net
then runs in a process forked from this one.
"""

import argparse
import importlib
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import benchmarks.fold_zoo as zoo
from benchmarks.fold_zoo import nets, store, table
from benchmarks.fold_zoo.build import import_torchvision
from benchmarks.fold_zoo.isolate import Lost, isolated
from benchmarks.fold_zoo.measure import measure
from benchmarks.fold_zoo.ours import FLAGS, code_version
from benchmarks.fold_zoo.store import GAMMAS, Key, Row

NET_LIMIT_S = 3600.0
RESULTS = Path(__file__).parents[1] / "results"
PRELOADED = ("timm", "onnxscript.rewriter", "onnxoptimizer", "onnxsim", "onnxslim", "openvino")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold_zoo", description=zoo.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="such as timm/resnet18, or resnet18"
    )
    parser.add_argument("--quick", action="store_true", help="a dozen nets")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--flags", default="", help=f"options of our fold: {','.join(FLAGS)}")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="measure the chosen nets again")
    again.add_argument("--redo-ours", action="store_true", help="only our rows of another version")
    options = parser.parse_args(arguments)
    options.flags = tuple(flag for flag in options.flags.split(",") if flag)
    try:
        options.nets = nets.choose(options.only, quick=options.quick)
        if unknown := set(options.flags) - set(FLAGS):
            raise ValueError(f"--flags: not of {', '.join(FLAGS)}: {', '.join(sorted(unknown))}")
    except ValueError as error:
        parser.error(str(error))
    return options


def pending(
    name: str, rows: list[Row], *, fresh: bool, redo: str | None
) -> tuple[list[str], dict[str, list[Row]]]:
    """The kinds of γ to measure, and the rows that stay: where ours is of a version other than `redo`."""
    kinds, known = [], {}
    for gammas in GAMMAS:
        same = [row for row in rows if row.key == (name, gammas)]
        mine = [row for row in same if row.tool == "ours"]
        if fresh or not same:
            kinds.append(gammas)
        elif redo is not None and mine and mine[0].version != redo:
            kinds.append(gammas)
            known[gammas] = same
    return kinds, known


def run_net(
    name: str, kinds: list[str], flags: tuple[str, ...], known: dict[str, list[Row]], progress: Path
) -> None:
    """Measure, and write the rows after each kind of γ; in a process of its own."""
    torch.set_num_threads(1)  # a pool of threads would not survive the fork of each tool
    rows: list[Row] = []
    for more in measure(name, kinds, flags, known):
        rows += more
        store.write(progress, rows)


def measured(name: str, kinds: list[str], flags: tuple[str, ...], known: dict[str, list[Row]]) -> list[Row]:
    """The rows of a net; one with the reason where there are none."""
    with tempfile.TemporaryDirectory(prefix="fold_zoo_") as folder:
        progress = Path(folder) / "rows.csv"
        reason = ""
        try:
            isolated(NET_LIMIT_S, run_net, name, kinds, flags, known, progress)
        except Lost as lost:
            reason = str(lost)[:300]
        rows = store.read(progress)
    done = {row.gammas for row in rows}
    for gammas in kinds:
        if gammas not in done:
            rows += known.get(gammas, [])
            if gammas not in known:
                rows.append(Row(net=name, gammas=gammas, tool="net", outcome="failed", reason=reason))
    return rows


def preload() -> None:
    """Import what the nets' processes will need; what is missing is told by each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        import_torchvision()
    except ModuleNotFoundError as error:
        print(f"{error}: see benchmarks/fold_zoo/__init__.py", file=sys.stderr)
    for module in PRELOADED:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            print(f"{error}: see benchmarks/fold_zoo/__init__.py", file=sys.stderr)


def main() -> None:
    """Run what is pending; print the totals."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    csv_file, table_file = options.out / "fold_zoo.csv", options.out / "fold_zoo.md"
    preload()
    redo = code_version(options.flags) if options.redo_ours else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of its own for drawing: a process is forked for each net.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("", total=len(options.nets))
        for name in options.nets:
            progress.update(task, description=name, refresh=True)
            kinds, known = pending(name, store.read(csv_file), fresh=options.fresh, redo=redo)
            if kinds:
                rows = measured(name, kinds, options.flags, known)
                everything = store.merge(store.read(csv_file), rows, nets.ALL)
                store.write(csv_file, everything)
                store.write_text(table_file, table.render(everything))
                progress.console.print(summary(rows), highlight=False)
            progress.update(task, advance=1, refresh=True)
    print(table_file.read_text(encoding="utf-8"))


def summary(rows: list[Row]) -> str:
    """A line for each kind of γ: found, removed by us and by the best tool."""
    lines: dict[Key, str] = {}
    for row in rows:
        if row.tool == "ours":
            best = max(
                (other.removed for other in rows if other.key == row.key and other.tool != "ours"), default=0
            )
            lines[row.key] = (
                f"{row.net} γ {row.gammas}: {row.found} found, ours {row.removed}, best tool {best}"
            )
        elif row.tool == "net":
            lines[row.key] = f"{row.net} γ {row.gammas}: {row.reason}"
    return "\n".join(lines.values())


if __name__ == "__main__":
    main()
