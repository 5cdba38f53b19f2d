"""Fold what acts as a BatchNorm but is written otherwise, after the BatchNorms themselves.

In: a graph whose BatchNorms are folded.  Out: another whose chains of Mul, Add, Sub and Div are folded as
well, and what became of each.

The BatchNorms come first and alone, so that no chain ever keeps one of them from going.  Then each chain
becomes a BatchNormalization and is solved for like one.  Those that are declined are left as they were
written, and the others are tried again without them.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from export.fold.decomposed import chains, replace_chain
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import FREE, Price
from export.fold.stages import fold
from service.contract.account import FoldSite


def fold_per_channel(
    unfolded: ir.Model,
    folded: ir.Model,
    sites: Sequence[FoldSite],
    prices: frozenset[Price] = FREE,
    limit: float = LARGEST_CONDITION,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ir.Model, list[FoldSite], list[FoldSite]]:
    """Fold the chains of a graph; `folded` stays as it is.

    Args:
        unfolded: the graph before its BatchNorms were folded: a chain is made of its ops alone.
        sites: what became of its BatchNorms.
        prices, limit, kept: as of `export.fold.stages.fold`; `kept` may name chains, by their first op.

    Returns:
        The graph, what became of the BatchNorms, of which more may be gone, and what of the chains.
    """
    known = {node.name for graph in unfolded.graphs() for node in graph}
    if not any(chains(graph, known) for graph in folded.graphs()):
        return folded, list(sites), []  # without a copy
    stay: dict[str, FoldSite] = {}
    while True:
        tried = folded.clone()
        found = [chain for graph in tried.graphs() for chain in chains(graph, known)]
        names = [chain.name for chain in found]
        stay |= {name: _kept(name, kept[name]) for name in names if name in kept}
        going = [chain for chain in found if chain.name not in stay]
        if not going:
            return folded, list(sites), [stay[name] for name in names]
        for chain in going:
            replace_chain(chain)
        tried, outcome = fold(tried, prices, limit, kept)
        fates = {site.name: site for site in outcome}
        declined = {chain.name for chain in going if fates[chain.name].status == "declined"}
        if not declined:
            better = [_better(site, fates) for site in sites]
            return tried, better, [stay[name] if name in stay else fates[name] for name in names]
        stay |= {name: fates[name] for name in declined}


def _kept(name: str, reason: str) -> FoldSite:
    return FoldSite(name=name, status="declined", reason=reason)


def _better(site: FoldSite, found: Mapping[str, FoldSite]) -> FoldSite:
    """A BatchNorm that stayed may go where a chain beside it went."""
    again = found.get(site.name)
    return site if again is None or again.status == "declined" else again
