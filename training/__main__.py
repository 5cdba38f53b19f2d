"""`python -m training`: flags in; progress on stderr, the final facts as one JSON line on stdout.

exit code   0 done   1 the loss diverged   2 the user's mistake, in one sentence   130 interrupted
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from training.config import FitConfig, split_net_settings
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.run import Run

EXAMPLE = """\
example:
  python -m training --out runs/digits               train; writes checkpoint.pt, metrics.jsonl, curves.png
  python -m training --out runs/digits --resume      go on after Ctrl-C, to the same result
  python -m training --out runs/deep --net resnet --net-setting depth=32 --net-setting width=32
  python -m training --out runs/fold --net preact-resnet --positive-gamma --recalibrate-bn 20
"""

# To be said before torch is imported. Threads that spin while they wait for each other made an epoch 3 to 20
# times slower beside one busy process on 2 cores. And MKL promises the same bits from run to run only in this
# mode, with a number of threads that stays (Intel oneMKL guide, "Reproducibility Conditions").
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MKL_CBWR": "AUTO,STRICT", "MKL_DYNAMIC": "FALSE"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Settings have no defaults here, so that `--resume` knows which of them were given."""
    parser = _Parser(
        prog="python -m training",
        description="Fit a BatchNorm net on a data set.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the run is written")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the checkpoint in FOLDER")
    existing.add_argument("--overwrite", action="store_true", help="replace the checkpoint in FOLDER")
    settings = parser.add_argument_group("settings of the fit (with --resume: those it began with)")
    for name, kind, what in (
        ("data", str, "data set"),
        ("net", str, "net; or timm:NAME, or module:factory; an unknown name lists them"),
        ("epochs", int, "passes over the train half"),
        ("batch_size", int, "rows in a batch"),
        ("learning_rate", float, "peak of the one-cycle schedule"),
        ("momentum", float, "Nesterov momentum"),
        ("weight_decay", float, "on weights, not on biases or BatchNorm"),
        ("seed", int, "of weights, order and augmentation; the split has its own"),
    ):
        flag = f"--{name.replace('_', '-')}"
        default = getattr(FitConfig, name)
        settings.add_argument(
            flag,
            type=kind,
            default=argparse.SUPPRESS,
            metavar=kind.__name__.upper(),
            help=f"{what} (default {default})",
        )
    settings.add_argument(
        "--net-setting",
        dest="net_settings",
        action="append",
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help="of the net, such as depth=20 or channels=16,32; once for each; an unknown name lists them",
    )
    settings.add_argument(
        "--positive-gamma",
        action="store_true",
        default=argparse.SUPPRESS,
        help="keep every BatchNorm's γ above zero, so that pre-activation nets fold completely",
    )
    settings.add_argument(
        "--recalibrate-bn",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="take BatchNorm's statistics anew from N train batches at the end, not augmented (default 0)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    flags = vars(build_parser().parse_args(argv))
    out, device = flags.pop("out"), flags.pop("device")
    resume, overwrite = flags.pop("resume"), flags.pop("overwrite")
    run: Run | None = None
    try:
        if "net_settings" in flags:
            flags["net_settings"] = split_net_settings(flags["net_settings"])
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Torch takes seconds to import: --help does not wait for it, and Ctrl-C meanwhile is a sentence.
        from training.run import open_run

        FitConfig(**flags)
        run = open_run(out, flags, device=device, resume=resume, overwrite=overwrite)
        print(json.dumps(narrate(run)))
    except TrainingError as error:
        print(f"training: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"training: interrupted {describe_progress(run)}", file=sys.stderr)
        return 130
    return 0


def narrate(run: "Run") -> dict[str, Any]:
    """Train, showing each epoch on stderr; returns the final facts."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    config, num_rows = run.config, len(run.split.train_labels)
    num_parameters = sum(parameter.numel() for parameter in run.net.parameters())
    console.print(
        f"{config.net} ({num_parameters:,} parameters) on {config.data} "
        f"({num_rows:,} train, {len(run.split.held_out_labels):,} held out), {run.device}",
        soft_wrap=True,
    )
    if len(run.history) == config.epochs:
        console.print("every epoch is done already")
    began = ended = time.perf_counter()
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("epochs", total=config.epochs, completed=len(run.history))
        for facts in run.epochs():
            seconds, ended = time.perf_counter() - ended, time.perf_counter()
            progress.console.print(
                f"epoch {facts.epoch:>3}/{config.epochs}   loss {facts.train_loss:.4f}   "
                f"held out: loss {facts.held_out_loss:.4f}, accuracy {facts.held_out_accuracy:.2%}   "
                f"{seconds:.1f} s, {num_rows / seconds:,.0f} images/s",
                soft_wrap=True,
            )
            progress.advance(bar)
    last = run.history[-1]
    return {
        "out": str(run.out),
        "epoch": last.epoch,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "held_out_loss": last.held_out_loss,
        "held_out_accuracy": last.held_out_accuracy,
        "parameters": num_parameters,
        "device": str(run.device),
        "seconds": round(time.perf_counter() - began, 1),
    }


def describe_progress(run: "Run | None") -> str:
    """What an interruption left."""
    if run is None or not run.history:
        return "before the first epoch ended; nothing was saved"
    return f"after epoch {len(run.history)} of {run.config.epochs}; add --resume to go on"


if __name__ == "__main__":
    sys.exit(main())
