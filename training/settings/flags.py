"""The command line's flags: one for each field of `FitConfig`, and where a run computes and writes."""

import argparse
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

from service.contract.text import flag_error
from training.settings.config import ConfigError, FitConfig, new_config, split_settings

EXAMPLE = """\
examples:
  foldserve train --out runs/digits
  foldserve train --out runs/digits --resume   after Ctrl-C, to the same result
  foldserve train --out runs/pets --data folder:pets --net resnet
  foldserve train --out runs/deep --net resnet --net-setting depth=32
  foldserve train --out runs/mean --ema 0.99 --recalibrate-bn 20
  foldserve train compare runs/digits runs/deep
  torchrun --nproc-per-node 2 -m training --out runs/two    one batch, two GPUs
"""
# What a value looks like, where its type does not say it.
METAVARS = {"init_from": "SOURCE", "augment": "NAMES", "freeze": "NAMES", "class_weights": "WEIGHTS"}

# What other trainers (timm, Ultralytics, torchvision's references) call it.
ELSEWHERE = {
    "--lr": "--learning-rate",
    "--batch": "--batch-size",
    "--wd": "--weight-decay",
    **dict.fromkeys(["--model", "--arch"], "--net"),
    **dict.fromkeys(["--size", "--imgsz", "--img-size", "--image-size"], "--data-setting size=N"),
    **dict.fromkeys(["--pretrained", "--weights", "--finetune"], "--init-from SOURCE"),
    **dict.fromkeys(["--output", "--output-dir", "--project"], "--out"),
    "--opt": "--optimizer",
    **dict.fromkeys(["--sched", "--lr-scheduler"], "--schedule"),
    "--amp": "--precision bfloat16",
    "--model-ema": "--ema 0.999",
    "--patience": "--early-stop",
    **{f"--{name}": f"--augment {name}" for name in ("mixup", "cutmix", "cutout", "flip", "crop")},
}


class Parser(argparse.ArgumentParser):
    """Shows its examples as they are written; mistakes are one sentence, without the usage."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(flag_error(message, self, ELSEWHERE))


def build_parser(prog: str = "python -m training") -> argparse.ArgumentParser:
    """Settings have no defaults here, so that `--resume` knows which of them were given."""
    parser = Parser(prog, "Fit a BatchNorm net on a data set.", EXAMPLE)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the run is written")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="resume from the checkpoint in FOLDER")
    existing.add_argument("--overwrite", action="store_true", help="replace the checkpoint in FOLDER")
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files for TensorBoard into FOLDER as well"
    )
    parser.add_argument("--json", action="store_true", help="the final facts as JSON, on a terminal too")
    parser.add_argument(
        "--log-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="print loss and accuracy as often, on stderr",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="save as often within an epoch too, so that --resume loses no more",
    )
    settings = parser.add_argument_group(
        "settings of the fit",
        "with --resume: those it began with, but a finished run takes more --epochs",
    )
    for each in fields(FitConfig):
        add_setting(settings, each)
    return parser


def add_setting(group: argparse._ArgumentGroup, setting: Field[Any]) -> None:
    """Add the flag of one field of FitConfig: a switch, `NAME=VALUE` as often as wanted, or a value."""
    text, flag = setting.metadata["text"], f"--{setting.name.replace('_', '-')}"
    if setting.type is bool and setting.default:
        flag = flag.replace("--", "--no-")
        group.add_argument(
            flag, dest=setting.name, action="store_false", default=argparse.SUPPRESS, help=text
        )
    elif setting.type is bool:
        group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
    elif isinstance(setting.type, type) and setting.type in (str, int, float):
        group.add_argument(
            flag,
            type=setting.type,
            default=argparse.SUPPRESS,
            metavar=METAVARS.get(setting.name, {str: "NAME", int: "N", float: "X"}[setting.type]),
            help=f"{text} (default {setting.default})" if setting.default != "" else text,
        )
    else:
        group.add_argument(
            flag.removesuffix("s"),
            dest=setting.name,
            action="append",
            default=argparse.SUPPRESS,
            metavar="NAME=VALUE",
            help=text,
        )


def read_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings among parsed flags, checked; `NAME=VALUE` words are split. Raises ConfigError."""
    names = {each.name for each in fields(FitConfig)}
    settings = {name: value for name, value in flags.items() if name in names}
    for of in ("data", "net"):
        if f"{of}_settings" in settings:
            settings[f"{of}_settings"] = split_settings(of, settings[f"{of}_settings"])
    new_config(settings)
    return settings
