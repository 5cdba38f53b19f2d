"""What the loop reports: after each epoch, and after each step."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """Losses are mean cross-entropies; the train half is measured on the way, as augmented."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """Step `index` of `num_steps`, from 1, and the rows of this epoch so far.

    Loss and accuracy are of the last check (loss_watch.py), so that no step waits for the device.
    """

    epoch: int
    index: int
    num_steps: int
    num_rows: int
    loss: float | None
    accuracy: float | None
