"""Easy rows, left out of most epochs: what the net answers well by now teaches it little.

In: the loss of each of the N train rows when the net last saw it.  Out: m rows for an epoch, and counts.

    taken      the ⌊m/2⌋ rows of the highest loss, and m − ⌊m/2⌋ of the others by even chance
    counts     m/N for the former; m/N · (N − ⌊m/2⌋) / (m − ⌊m/2⌋) for the latter; their mean is 1

So the expected gradient of an epoch is that of all rows, at a cost of m (after Qin et al. 2024, InfoBatch,
arXiv:2303.04947, where m differs from epoch to epoch, so that no schedule could be a function of the step).
Until every row was seen, the unseen come first, and all count 1; so do rows by even chance in the last tenth
of a run, and its last epoch, so that BatchNorm's statistics are those of all rows.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.distributed.group import Group
from training.errors import TrainingError

LAST_PART = 0.1


class EasyRows:
    """Of each row (N,), float32: the loss `known` when the epoch began, that `found` in it by this process,
    and what the row `counts` in this epoch.
    """

    def __init__(self, num_rows: int, num_taken: int, device: torch.device) -> None:
        self.num_taken = num_taken
        self.known = torch.full((num_rows,), math.inf, device=device)
        self.found = torch.zeros(num_rows, device=device)
        self.counts = torch.ones(num_rows, device=device)

    def draw(self, generator: Generator, part_done: float) -> Tensor:
        """Numbers of the rows (m,) of the next epoch, in their order, on the CPU.

        `part_done` is how much of the run is over after it, above 0 and at most 1.
        """
        num_rows, num_taken = len(self.known), self.num_taken
        num_hard = num_taken // 2
        num_easy = num_taken - num_hard
        self.counts.fill_(1)
        shuffled = torch.randperm(num_rows, generator=generator)
        known = self.known.cpu()[shuffled]
        if part_done > 1 - LAST_PART:
            return shuffled[:num_taken]
        if known.isinf().any():
            return shuffled[known.isinf().argsort(descending=True, stable=True)][:num_taken]
        by_loss = shuffled[known.argsort(descending=True, stable=True)]
        hard, others = by_loss[:num_hard], by_loss[num_hard:]
        easy = others[torch.randperm(len(others), generator=generator)[:num_easy]]
        self.counts[hard.to(self.counts.device)] = num_taken / num_rows
        self.counts[easy.to(self.counts.device)] = num_taken / num_rows * len(others) / num_easy
        taken = torch.cat([hard, easy])
        return taken[torch.randperm(num_taken, generator=generator)]

    def note(self, rows: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Note the loss of `rows` (n,), by logits (n, K), labels (n,) or shares (n, K); what each counts."""
        self.found[rows] = functional.cross_entropy(logits.detach().float(), labels, reduction="none")
        return self.counts[rows]

    def close(self, taken: Tensor, group: Group) -> None:
        """At the end of an epoch that took these rows (m,): what was found is known, in each process."""
        # A row is in the share of one process only, and 0 in the others.
        self.known[taken] = group.total(self.found)[taken]
        self.found.zero_()

    def capture(self, group: Group) -> dict[str, Tensor]:
        """What a resumed run needs, now or within an epoch; all processes call it together."""
        return {"known": self.known, "found": group.total(self.found)}

    def restore(self, captured: dict[str, Tensor], group: Group) -> None:
        """Put back what `capture` returned; raises TrainingError if that is not of as many rows."""
        try:
            self.known.copy_(captured["known"])
            self.found.copy_(captured["found"])
        except (KeyError, RuntimeError) as error:
            raise TrainingError(f"the checkpoint lacks what this run needs to resume: {error!r}") from None
        if not group.is_first:  # of the sum over processes one has all
            self.found.zero_()
