"""What `bundle` and `fold` share: which prices their flags allow, and how a fold's account is shown."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.errors import SourceError
from export.fold.gauges.system import FREE, Price
from export.graph.given import Shapes
from service.contract.manifest import FoldAccount


def prices(options: argparse.Namespace) -> frozenset[Price]:
    """What the flags allow to pay; raises SourceError where they contradict each other."""
    if options.only_free and (options.threshold or options.pad):
        raise SourceError("--only-free allows neither --threshold nor --pad")
    asked = {Price.THRESHOLD: options.threshold, Price.BORDER: options.pad}
    return FREE | {price for price, is_asked in asked.items() if is_asked}


def shapes(given: Sequence[tuple[str, tuple[int, ...]]]) -> Shapes:
    """The shape of each input by name, "" for one without; raises SourceError if one is given twice."""
    if len(by_name := dict(given)) < len(given):
        raise SourceError("--input-shape: each input once")
    return by_name


def show_sites(fold: FoldAccount, console: Console) -> None:
    """A table on stderr: what became of every BatchNorm, why, and its statistics' health.

    What acts as one has rows of its own below, and a line says how many there are.
    """
    table = Table("BatchNorm", "status", "where to, or why not", "smallest σ²", "largest |γ|/√(σ²+ε)", "dead")
    for site in (*fold.sites, *fold.per_channel):
        status, account = site.status, site.how or site.reason
        health = (site.smallest_variance, site.largest_gain, site.dead_channels)
        table.add_row(
            escape(site.name),
            f"[{'yellow' if status == 'declined' else 'green'}]{status}[/]",
            escape(account or ""),
            *("" if number is None else f"{number:.3g}" for number in health),
        )
    console.print(table)
    if fold.per_channel:
        counts = f"{fold.found} BatchNormalization, {len(fold.per_channel)} per-channel Mul/Add"
        console.print(f"{counts}, {fold.folded + fold.reduced + fold.per_channel_folded} folded")
