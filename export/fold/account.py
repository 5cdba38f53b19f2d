"""What became of every BatchNorm, counted, as fold.json and the manifest show it; and of what acts as one."""

from collections.abc import Sequence

from service.contract.account import FoldAccount, FoldSite

_STATUSES = ("folded", "reduced", "declined")


def account(sites: Sequence[FoldSite], per_channel: Sequence[FoldSite] = ()) -> FoldAccount:
    """The sites, and how many of each status; `per_channel` are the chains that act as a BatchNorm."""
    counts = {status: sum(site.status == status for site in sites) for status in _STATUSES}
    return FoldAccount(found=len(sites), **counts, sites=list(sites), per_channel=list(per_channel))
