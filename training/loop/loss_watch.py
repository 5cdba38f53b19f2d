"""The losses of an epoch, watched without waiting for the device.

In: the loss of each step.  Out: a flag that keeps the optimizer from a step, and now and then a look.

    S ← S + loss        stop = (S − S ≠ 0)         1 from the first loss on that is nan or inf, as S stays so

`stop` lies on the device and is handed to the fused optimizer, which then leaves every weight as it is. So
no step is ever taken behind such a loss, although the host looks only now and then: asking a GPU for a number
means to wait until it has done all that it was asked before.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.loop.facts import StepFacts

LOOK_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The first step of an epoch whose loss is no number."""

    index: int
    loss: float


class LossWatch:
    """Losses and right answers of one epoch, on the device; `loss` and `accuracy` are of the last look."""

    def __init__(self, num_steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(num_steps, dtype=torch.float64, device=device)
        self.sum = torch.zeros((), dtype=torch.float64, device=device)
        self.num_right = torch.zeros((), dtype=torch.int64, device=device)
        self.num_steps = self.num_rows = 0
        self.loss: float | None = None
        self.accuracy: float | None = None

    def add(self, index: int, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Note step `index`; returns the device's `stop`, 0 or 1."""
        self.losses[index] = loss.detach()
        self.sum += loss.detach()
        self.num_right += (logits.detach().argmax(1) == labels).sum()
        self.num_steps += 1
        self.num_rows += len(labels)
        return (self.sum - self.sum).ne(0).float()

    def is_due(self, index: int) -> bool:
        """Whether the host should look at step `index`: now and then, and at the end."""
        return (index + 1) % LOOK_EVERY == 0 or index + 1 == len(self.losses)

    def find_lost(self) -> Lost | None:
        """The step that ends the run, if there is one; waits for the device."""
        total = self.sum.item()
        if math.isfinite(total):
            self.loss, self.accuracy = total / self.num_steps, self.num_right.item() / self.num_rows
            return None
        losses = self.losses.tolist()
        index = next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
        return Lost(index=index, loss=losses[index])

    def facts(self, epoch: int, batch_size: int) -> StepFacts:
        """What is known behind the newest step; waits for nobody."""
        return StepFacts(
            epoch=epoch,
            index=self.num_steps,
            num_steps=len(self.losses),
            num_rows=self.num_steps * batch_size,
            loss=self.loss,
            accuracy=self.accuracy,
        )

    def mean_loss(self) -> float:
        """Of all steps."""
        return self.losses.mean().item()
