"""The command line's flags: what `FitConfig` may be told, and where a run computes and writes."""

import argparse
from pathlib import Path
from typing import NoReturn

from training.settings.config import PRECISIONS, SCHEDULES, ConfigError, FitConfig

EXAMPLE = """\
example:
  python -m training --out runs/digits               train; writes a checkpoint, metrics and pictures
  python -m training --out runs/digits --resume      go on after Ctrl-C, to the same result
  python -m training --out runs/deep --net resnet --net-setting depth=32 --net-setting width=32
  python -m training --out runs/fold --net preact-resnet --positive-gamma --recalibrate-bn 20
  python -m training --out runs/mean --ema 0.99 --recalibrate-bn 20 --label-smoothing 0.1
  torchrun --nproc-per-node 2 -m training --out runs/two            the same batch, shared by two processes
  python -m training compare runs/digits runs/deep   puts runs beside each other
"""

VALUES = (
    ("data", str, "data set; or folder:PATH, npz:PATH, synthetic:3x32x32x10; an unknown name lists them"),
    ("augment", str, "crop,flip,cutout=8 or the like; auto is what suits the data; none"),
    ("net", str, "net; or timm:NAME, or module:factory; an unknown name lists them"),
    ("epochs", int, "passes over the train half"),
    ("batch_size", int, "rows in a batch"),
    ("learning_rate", float, "peak of the schedule"),
    ("momentum", float, "Nesterov momentum"),
    ("weight_decay", float, "on weights, not on biases or BatchNorm"),
    ("seed", int, "of weights, order, augmentation and dropout; the split has its own"),
    ("schedule", str, f"of the learning rate: {' or '.join(SCHEDULES)}"),
    ("label_smoothing", float, "share of each label that is spread over all classes"),
    ("clip_gradient", float, "largest length of the gradient, over all weights; 0 for any"),
    ("ema", float, "publish an average of the weights with this decay, such as 0.99; 0 for none"),
    ("precision", str, f"{', '.join(PRECISIONS)}; auto is bfloat16 on a GPU that has it"),
    ("recalibrate_bn", int, "train batches to take BatchNorm's statistics anew from, at the end"),
)
SWITCHES = (
    ("positive_gamma", "keep every BatchNorm's γ above zero, so that pre-activation nets fold completely"),
    ("compile", "compile the net with torch.compile: slow to begin, faster from then on"),
    ("deterministic", "on a GPU, take only algorithms that repeat themselves; a CPU does so anyway"),
)
LISTS = (
    ("data_settings", "of the data set, such as size=64 or max_corrupt_share=0.05; once for each"),
    ("net_settings", "of the net, such as depth=20 or channels=16,32; once for each; an unknown lists them"),
)


class Parser(argparse.ArgumentParser):
    """Shows its examples as they are written; mistakes are one sentence, without the usage."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"python -m {prog}",
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def build_parser() -> argparse.ArgumentParser:
    """Settings have no defaults here, so that `--resume` knows which of them were given."""
    parser = Parser("training", "Fit a BatchNorm net on a data set.", EXAMPLE)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the run is written")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the checkpoint in FOLDER")
    existing.add_argument("--overwrite", action="store_true", help="replace the checkpoint in FOLDER")
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files for TensorBoard into FOLDER as well"
    )
    settings = parser.add_argument_group("settings of the fit (with --resume: those it began with)")
    for name, kind, what in VALUES:
        default = getattr(FitConfig, name)
        settings.add_argument(
            _flag(name),
            type=kind,
            default=argparse.SUPPRESS,
            metavar=kind.__name__.upper(),
            help=f"{what} (default {default})",
        )
    for name, what in SWITCHES:
        settings.add_argument(_flag(name), action="store_true", default=argparse.SUPPRESS, help=what)
    for name, what in LISTS:
        settings.add_argument(
            _flag(name.removesuffix("s")),
            dest=name,
            action="append",
            default=argparse.SUPPRESS,
            metavar="NAME=VALUE",
            help=what,
        )
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
