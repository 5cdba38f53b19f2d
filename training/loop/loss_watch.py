"""The losses of an epoch, watched for NaN and infinity without waiting for the device.

In: the loss of each step.  Out: a flag that keeps the optimizer from a step; every 16 steps, a check.

    S ← S + loss        stop = (S − S ≠ 0)         1 from the first non-finite loss on, as S stays non-finite

`stop` stays on the device. The fused optimizer reads it there, and then leaves every weight as it is. So no
step is ever taken after a non-finite loss, although the host checks only every CHECK_EVERY steps: reading a
number from a GPU means waiting until the GPU has done all its work so far.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.loop.facts import StepFacts

CHECK_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """The first step of an epoch with a non-finite loss; `index` counts the epoch's steps from 0."""

    index: int
    loss: float


class LossWatch:
    """Losses and right answers of one epoch, on the device; `loss` and `accuracy` are of the last check."""

    def __init__(self, num_steps: int, device: torch.device, check_every: int = CHECK_EVERY) -> None:
        self.check_every = check_every
        self.losses = torch.zeros(num_steps, dtype=torch.float64, device=device)
        self.sum = torch.zeros((), dtype=torch.float64, device=device)
        self.num_right = torch.zeros((), dtype=torch.int64, device=device)
        self.num_steps = self.num_rows = 0
        self.loss: float | None = None
        self.accuracy: float | None = None

    def resume(self, losses: Tensor, num_right: int, num_rows: int) -> None:
        """Note the first steps of a partial epoch, by their losses (n,), right answers and rows."""
        self.losses[: len(losses)] = losses
        self.sum += self.losses.sum()
        self.num_right += num_right
        self.num_steps, self.num_rows = len(losses), num_rows

    def add(self, index: int, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Record step `index`: loss (), logits (N, K), labels (N,) → `stop` (), 0 or 1, on the device.

        Of mixed targets (N, K) the larger share counts as the label.
        """
        labels = labels if labels.ndim == 1 else labels.argmax(1)
        self.losses[index] = loss.detach()
        self.sum += loss.detach()
        self.num_right += (logits.detach().argmax(1) == labels).sum()
        self.num_steps += 1
        self.num_rows += len(labels)
        return (self.sum - self.sum).ne(0).float()

    def is_due(self, index: int) -> bool:
        """Whether the host checks after step `index`: every `check_every` steps, and at the end."""
        return (index + 1) % self.check_every == 0 or index + 1 == len(self.losses)

    def find_non_finite(self) -> NonFinite | None:
        """The first step with a non-finite loss, or None; waits for the device."""
        total = self.sum.item()
        # One number is read in the usual case; the losses of all steps only when the run ends anyway.
        if math.isfinite(total):
            self.loss, self.accuracy = total / self.num_steps, self.num_right.item() / self.num_rows
            return None
        losses = self.losses.tolist()
        index = next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
        return NonFinite(index=index, loss=losses[index])

    def facts(self, epoch: int, batch_size: int) -> StepFacts:
        """What is known after the newest step, without waiting for the device."""
        return StepFacts(
            epoch=epoch,
            index=self.num_steps,
            num_steps=len(self.losses),
            num_rows=self.num_steps * batch_size,
            loss=self.loss,
            accuracy=self.accuracy,
        )

    def mean_loss(self) -> float:
        """The mean over all steps of the epoch; waits for the device."""
        return self.losses.mean().item()
