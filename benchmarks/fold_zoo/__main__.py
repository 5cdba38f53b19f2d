"""The command line; `python -m benchmarks.fold_zoo --help`.

Heavy packages are imported once, so that a run of hours keeps the code it started with; each net then runs
in a process forked from this one.
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

import benchmarks.fold_zoo as zoo
from benchmarks.common import RESULTS, new_parser, new_progress
from benchmarks.fold_zoo import nets, store, table
from benchmarks.fold_zoo.build import import_torchvision
from benchmarks.fold_zoo.isolate import ProcessFailed, isolated
from benchmarks.fold_zoo.measure import measure
from benchmarks.fold_zoo.ours import FLAGS, code_version
from benchmarks.fold_zoo.store import GAMMAS, Key, Row

NET_LIMIT_S = 3600.0
PRELOADED = ("timm", "onnxscript.rewriter", "onnxoptimizer", "onnxsim", "onnxslim", "openvino")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = new_parser(zoo)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="such as timm/resnet18, or resnet18"
    )
    parser.add_argument("--quick", action="store_true", help="a dozen nets")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--flags", default="", help=f"options of our fold: {','.join(FLAGS)}")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="measure the chosen nets again")
    again.add_argument("--redo-ours", action="store_true", help="only our own rows of other versions")
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
    """The kinds of γ to measure, and rows to keep; our row is redone if its version is not `redo`."""
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
    """Measure, and write the rows after each kind of γ; runs in a separate process."""
    torch.set_num_threads(1)  # a thread pool does not survive the fork of each tool
    rows: list[Row] = []
    for more in measure(name, kinds, flags, known):
        rows += more
        store.write(progress, rows)


def measured(name: str, kinds: list[str], flags: tuple[str, ...], known: dict[str, list[Row]]) -> list[Row]:
    """The rows of a net; for a kind of γ without any, one row with the reason."""
    with tempfile.TemporaryDirectory(prefix="fold_zoo_") as folder:
        progress = Path(folder) / "rows.csv"
        reason = ""
        try:
            isolated(NET_LIMIT_S, run_net, name, kinds, flags, known, progress)
        except ProcessFailed as error:
            reason = str(error)[:300]
        rows = store.read(progress)
    done = {row.gammas for row in rows}
    for gammas in kinds:
        if gammas not in done:
            rows += known.get(gammas, [])
            if gammas in known:
                print(f"{name} γ {gammas}: not measured, its old row stays: {reason}", file=sys.stderr)
            else:
                rows.append(Row(net=name, gammas=gammas, tool="net", outcome="failed", reason=reason))
    return rows


def preload() -> None:
    """Import the packages that the nets' processes need; missing ones are reported."""
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
    """Measure the pending nets; print the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    csv_file, table_file = options.out / "fold_zoo.csv", options.out / "fold_zoo.md"
    preload()
    redo = code_version(options.flags) if options.redo_ours else None
    with new_progress(Console(stderr=True)) as progress:
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
    """A line for each kind of γ: BatchNorms found, removed by us and by the best tool."""
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
