"""What became of every BatchNorm, as fold.json and the manifest show it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from export.fold.batchnorm import Declined, Folded, Health, Reduced
from service.contract.manifest import FoldAccount, FoldSite

HALF_ULP = 2.0**-24

Outcome = Folded | Reduced | Declined

_STATUS = {Folded: "folded", Reduced: "reduced", Declined: "declined"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """One BatchNorm: its name, what became of it, and its statistics' health if they could be read."""

    name: str
    outcome: Outcome
    health: Health | None


def account(sites: Sequence[Site]) -> FoldAccount:
    """The sites, and how many of each kind."""
    entries = [_entry(site) for site in sites]
    counts = {status: sum(entry.status == status for entry in entries) for status in _STATUS.values()}
    return FoldAccount(found=len(entries), **counts, sites=entries)


def _entry(site: Site) -> FoldSite:
    outcome = site.outcome
    health = {} if site.health is None else asdict(site.health)
    facts: dict[str, Any] = {"name": site.name, "status": _STATUS[type(outcome)], **health}
    if isinstance(outcome, Declined):
        return FoldSite(**facts, reason=outcome.reason)
    return FoldSite(**facts, how=outcome.how, error_bound=HALF_ULP * (1 + outcome.condition))
