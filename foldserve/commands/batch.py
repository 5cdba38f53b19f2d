"""`foldserve batch`: a bundle over a data set, without a server.

In: a bundle; a folder of pictures, a .tar, .npz or .parquet file.
Out: a .parquet or .csv file; facts as JSON on stdout.

exit code   0 done   1 some rows have no answer, and say why   2 a mistake, in one sentence
            130 interrupted: the same command continues
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foldserve.commands.parser import Parser, add_bundle, add_device, refuse


def parser(prog: str) -> Parser:
    """The flags."""
    flags = Parser(
        prog,
        "Answer every row of a data set with a bundle, without a server.",
        "foldserve batch models/digits pictures/ labels.parquet",
        "foldserve batch models/digits/2 rows.npz labels.csv --top 3",
    )
    flags.epilog = f"{flags.epilog}\n\nKilled and started again, the same command continues where it was."
    add_bundle(flags)
    flags.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="a folder of pictures, a .tar of them (WebDataset), an .npz or .parquet file",
    )
    flags.add_argument("output", type=Path, metavar="OUTPUT", help="a .parquet or .csv file")
    flags.add_argument("--top", type=int, default=1, metavar="K", help="labels of each row (default 1)")
    flags.add_argument("--outputs", action="store_true", help="the model's raw outputs too (.parquet)")
    add_device(flags)
    flags.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="rows that run at once (default 64)"
    )
    return flags


def main(words: Sequence[str], prog: str) -> int:
    """Run the command; returns the exit code."""
    options = parser(prog).parse_args(words)
    for name in ("top", "threads", "batch_size"):
        if (value := getattr(options, name)) is not None and value < 1:
            return refuse(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.outputs and options.output.suffix == ".csv":
        return refuse(
            "--outputs makes lists of numbers, which a .csv file cannot hold: write a .parquet file"
        )
    from foldserve.batch.errors import BatchError
    from foldserve.batch.job import Job, Options
    from service.cgroup import usable_cores
    from service.contract.manifest import BundleError
    from service.contract.versions import newest
    from service.engine.engine import EngineConfig
    from service.settings import default_cache

    engine = EngineConfig(
        device=options.device,
        threads=options.threads or usable_cores(),
        buckets=(options.batch_size,),
        cache=default_cache(),
        int8=options.int8,
    )
    console = Console(stderr=True)
    try:
        job = Job(
            newest(options.bundle),
            options.input,
            options.output,
            Options(engine=engine, top=options.top, with_outputs=options.outputs),
        )
        before = job.parts.num_rows
        with console.status("proving the bundle on this machine"):
            job.load()
        begun = time.perf_counter()
        with _progress(console) as progress:
            task = progress.add_task("rows", total=job.input.num_rows, completed=before)
            num_rows, num_failed = job.run(lambda done: progress.update(task, completed=done))
    except (BatchError, BundleError) as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        print("foldserve: interrupted; the same command continues", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - begun
    facts = {"output": str(options.output), "rows": num_rows, "without_answer": num_failed}
    facts["precision"] = job.engine.precision.name
    rate = round((num_rows - before) / seconds, 1)
    print(json.dumps({**facts, "rows_before": before, "seconds": round(seconds, 3), "rows_per_second": rate}))
    return 1 if num_failed else 0


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
