"""A parser of flags whose mistakes are one sentence, and whose examples are shown as they are written."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from service.contract.text import flag_error


class Parser(argparse.ArgumentParser):
    """As argparse's, with the command's description and its examples."""

    def __init__(self, prog: str, description: str, *examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one sentence."""
        sys.exit(refuse(f"{flag_error(message, self)}; see {self.prog} --help"))


def refuse(reason: str, code: int = 2) -> int:
    """Say on stderr why the command ends; returns the exit code, 2 for the user's mistake."""
    print(f"foldserve: {reason}", file=sys.stderr)
    return code


def add_bundle(flags: Parser) -> None:
    """The argument of commands that run a bundle themselves."""
    flags.add_argument(
        "bundle",
        type=Path,
        metavar="models/NAME",
        help="a model, whose newest version is used; or one version",
    )


def add_device(flags: Parser) -> None:
    """Where such a command runs it."""
    flags.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run (default auto)"
    )
    flags.add_argument(
        "--int8",
        choices=["auto", "require", "off"],
        default="auto",
        help="an int8 graph: where it is proved and faster here, always, never",
    )
    flags.add_argument("--threads", type=int, metavar="N", help="cores to use; unset: all that there are")
