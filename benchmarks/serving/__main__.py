"""The command line; `python -m benchmarks.serving --help`.  The table goes to stdout, narration to stderr."""

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console

import benchmarks.serving as package
from benchmarks.common import RESULTS, new_parser, new_progress
from benchmarks.serving.conditions import OtherConditions, settle
from benchmarks.serving.cores import share_out
from benchmarks.serving.install import install
from benchmarks.serving.nets import NETS
from benchmarks.serving.processes import prepare
from benchmarks.serving.run import Run
from benchmarks.serving.steps import PHASES, Options, Step, steps
from benchmarks.serving.store import Store
from benchmarks.serving.systems import BARE, FORMATS, SYSTEMS
from benchmarks.serving.table import render

CACHE = Path.home() / ".cache" / "foldserve"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = new_parser(package)
    _add_install(parser)
    choices = {"net": NETS, "system": (BARE, *SYSTEMS), "format": FORMATS, "phase": PHASES}
    for name, allowed in choices.items():
        text = f"any of {', '.join(allowed)}; all by default"
        parser.add_argument(f"--{name}", nargs="+", choices=list(allowed), metavar="NAME", help=text)
    for name, text in (
        ("quick", "digits, binary and JSON, closed loops, one short round"),
        ("fresh", "measure the chosen cells again"),
        ("table", "measure nothing; write the table of the stored measurements"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--rounds", type=int, metavar="N", help="3 by default")
    parser.add_argument("--scale", type=float, metavar="X", help="factor on the usual seconds, 1 by default")
    parser.add_argument(
        "--memory-requests", type=int, default=200_000, metavar="N", help="200,000 by default"
    )
    parser.add_argument(
        "--pin",
        choices=["shared", "split"],
        default="shared",
        help="split: one core only for the driver",
    )
    text = (
        "cores; a measurement while other processes use more is tried three times, and again in the next run"
    )
    parser.add_argument("--calm", type=float, default=float("inf"), metavar="X", help=text)
    for name, default, text in (
        ("models", Path("models"), "holds the digits bundle"),
        ("made", CACHE / "nets", "holds the ResNets' bundles; missing ones are made"),
        ("peers", CACHE / "peers", "holds the environments that install made"),
        ("out", RESULTS, "gets serving.md, serving.csv and serving.json"),
    ):
        parser.add_argument(f"--{name}", type=Path, default=default, metavar="FOLDER", help=text)
    return parser.parse_args(arguments)


def _add_install(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="install")
    installing = verbs.add_parser("install", help="create the environments of peers")
    rooms = sorted({system.room for system in SYSTEMS.values() if system.packages})
    installing.add_argument(
        "names", nargs="+", choices=[*rooms, "all"], metavar="PEER", help=", ".join(rooms)
    )
    installing.add_argument("--peers", type=Path, default=CACHE / "peers", metavar="FOLDER")
    installing.add_argument(
        "--python", default="/usr/bin/python3", help="creates them; Triton needs the system's Python"
    )


def options_of(given: argparse.Namespace) -> Options:
    """The chosen options, with --quick's defaults."""
    quick = given.quick
    return Options(
        nets=given.net or (["digits"] if quick else list(NETS)),
        systems=given.system or [BARE, *SYSTEMS],
        formats=given.format or (["binary", "json"] if quick else list(FORMATS)),
        phases=given.phase or (["closed"] if quick else list(PHASES)),
        rounds=given.rounds or (1 if quick else 3),
        scale=given.scale or (0.5 if quick else 1.0),
        memory_requests=given.memory_requests,
        cores=share_out(given.pin),
        models=given.models,
        made=given.made,
        peers=given.peers,
        out=given.out,
        logs=CACHE / "logs",
        calm=given.calm,
    )


def main() -> None:
    """Run the pending measurements; print the table."""
    given = parse()
    console = Console(stderr=True, highlight=False)
    if given.verb == "install":
        sys.exit(install(given.names, given.peers, given.python, console))
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    options = options_of(given)
    for folder in (options.out, options.logs):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        conditions = settle(options)
    except OtherConditions as error:
        raise SystemExit(str(error)) from None
    store = Store(options.out / "serving.csv", given.calm)
    if given.fresh:
        store.drop(options.nets, options.systems, options.formats)
    if not given.table:
        measure(options, store, console)
    text = render(store.cells.values(), options, conditions)
    (options.out / "serving.md").write_text(text, encoding="utf-8")
    print(text)


def measure(options: Options, store: Store, console: Console) -> None:
    """Run every step, with a progress bar."""
    prepare()
    with new_progress(console) as progress:
        run = Run(options, store, lambda text: progress.console.print(text, markup=False, highlight=False))
        plan: list[Step] = list(steps(options))
        task = progress.add_task("", total=len(plan))
        for step in plan:
            progress.update(task, description=str(step), refresh=True)
            run.run(step)
            progress.update(task, advance=1, refresh=True)


if __name__ == "__main__":
    main()
