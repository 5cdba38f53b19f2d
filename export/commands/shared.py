"""What `bundle` and `fold` share: which prices their flags allow, and how a fold's account is shown."""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.errors import SourceError
from export.fold.gauges.system import FREE, Price
from export.graph.given import Shapes
from service.contract.account import FoldAccount
from service.contract.sizes import SizeRange

ROOM = 120  # columns of a terminal from which on the figures of each BatchNorm fit beside its account
INPUT_TYPES = ("float32", "int64", "int32", "int16", "int8", "uint8", "bool")
HEALTH = ("smallest σ²", "largest |γ|/√(σ²+ε)", "dead")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})(?:/([0-9]{1,9}))?", re.ASCII)
_NAME = re.compile(r"[^\W\d][\w.:/+*-]*")


def prices(options: argparse.Namespace) -> frozenset[Price]:
    """What the flags allow to pay; raises SourceError where they contradict each other."""
    if options.only_free and (options.threshold or options.pad):
        raise SourceError("--only-free allows neither --threshold nor --pad")
    asked = {Price.THRESHOLD: options.threshold, Price.BORDER: options.pad}
    return FREE | {price for price, is_asked in asked.items() if is_asked}


def shapes(texts: Sequence[str]) -> Shapes:
    """The shape of each input by name, "" for one without, or one size by its name; raises SourceError."""
    named = [(name, sizes.split(",")) for name, _, sizes in (text.rpartition("=") for text in texts)]
    by_name = {name: tuple(_size(size.strip()) for size in sizes) for name, sizes in named}
    if len(by_name) < len(named):
        raise SourceError("--input-shape: each input once")
    return by_name


def values(texts: Sequence[str]) -> dict[str, float]:
    """The number of each input that has one always, by its name; raises SourceError."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float({"true": "1", "false": "0"}.get(number.lower(), number))
        except ValueError:
            value = None
        if not name or name in found or value is None:
            raise SourceError(f"--input-value: expected NAME=NUMBER, each name once, got '{text}'")
        found[name] = value
    return found


def types(texts: Sequence[str]) -> dict[str, str]:
    """The type of each input of a net by its name, "" for one without; raises SourceError."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, kind = text.rpartition("=")
        if name in found or kind not in INPUT_TYPES:
            expected = ", ".join(INPUT_TYPES)
            raise SourceError(
                f"--input-type: expected NAME=TYPE, each name once, TYPE of {expected}, got '{text}'"
            )
        found[name] = kind
    return found


def _size(text: str) -> int | SizeRange | str:
    """A number, a range lo..hi or lo..hi/step, or the name of an open size."""
    if match := _RANGE.fullmatch(text):
        low, high, step = (int(part or 1) for part in match.groups())
        try:
            return SizeRange(minimum=low, maximum=high, step=step)
        except ValidationError as error:
            reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
            raise SourceError(f"--input-shape: {text}: {reason}") from None
    if _NAME.fullmatch(text):
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SourceError(
            "--input-shape: expected a number from 1 on, a range lo..hi/step or the name of an open size, "
            f"got '{text}'"
        )
    return int(text)


def printing_on_stderr() -> contextlib.redirect_stdout[TextIO]:
    """Within this, what a factory of the user's prints goes to stderr: stdout is for data."""
    return contextlib.redirect_stdout(sys.stderr)


def show_sites(fold: FoldAccount, console: Console) -> None:
    """On stderr what became of every BatchNorm, and why; how healthy its statistics are, where that fits.

    What acts as one has rows of its own below, and a line says how many there are.
    """
    has_room = console.width >= ROOM
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("status", no_wrap=True)
    table.add_column("BatchNorm", overflow="fold", ratio=2)
    table.add_column("where to, or why not", overflow="fold", ratio=3)
    for name in HEALTH if has_room else ():
        table.add_column(name, justify="right")
    for site in (*fold.sites, *fold.per_channel):
        status, account = site.status, site.how or site.reason
        health = (site.smallest_variance, site.largest_gain, site.dead_channels) if has_room else ()
        table.add_row(
            f"[{'yellow' if status == 'declined' else 'green'}]{status}[/]",
            escape(site.name),
            escape(account or ""),
            *("" if number is None else f"{number:.3g}" for number in health),
        )
    console.print(table)
    console.print("; ".join(_counts(fold)))


def _counts(fold: FoldAccount) -> Iterator[str]:
    reduced = f", {fold.reduced} reduced" if fold.reduced else ""
    yield f"{fold.found} BatchNormalization, {fold.folded} folded{reduced}"
    if fold.per_channel:
        yield f"{len(fold.per_channel)} per-channel Mul/Add, {fold.per_channel_folded} folded"
