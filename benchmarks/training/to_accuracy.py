"""Time to accuracy: a real run, until its held-out accuracy reaches a target.

In: a target, a data set, settings of the training.  Out: seconds and epochs, or that it was not reached.

Seconds run from the first batch to the end of the evaluation that reaches the target, including the
evaluations and checkpoints in between, but not reading the data and building the net. A schedule ends with
its last epoch, so the target is usually reached near it: `--epochs` is part of the recipe.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from training.runs.display import Display
from training.runs.open import open_run

RECIPES: dict[str, dict[str, Any]] = {
    # As in the README.
    "fashion-mnist": {
        "augment": "flip,crop=2",
        "net": "vgg",
        "net_settings": {"channels": "32,64,128", "convs": "1,2,1", "hidden": "256"},
        "epochs": 14,
        "batch_size": 128,
        "weight_decay": 1e-3,
        "label_smoothing": 0.05,
        "ema": 0.99,
        "recalibrate_bn": 100,
    },
    # For a GPU: a wide ResNet with its usual settings.
    "cifar10": {
        "net": "resnet",
        "net_settings": {"depth": "20", "width": "64"},
        "epochs": 30,
        "batch_size": 512,
        "learning_rate": 0.4,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
    },
}


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Seconds and epochs until the first epoch at `target`, or of the whole run if there was none."""

    target: float
    best: float
    seconds: float
    epochs: int
    of_epochs: int
    num_rows: int
    device: str

    @property
    def is_reached(self) -> bool:
        """Whether the target was reached."""
        return self.best >= self.target

    def describe(self, data: str) -> str:
        """The result in one sentence."""
        verb = "reached" if self.is_reached else f"did not reach {self.target:.2%}: at best"
        return (
            f"{data} on {self.device}: {verb} {self.best:.2%} of the held-out half after "
            f"{self.seconds:.1f} s, {self.epochs} of {self.of_epochs} epochs of {self.num_rows:,} images"
        )


def run_to(
    target: float,
    flags: Mapping[str, Any],
    device: str,
    console: Console,
    clock: Callable[[], float] = time.perf_counter,
) -> Reached:
    """Train into a temporary folder; `flags` are settings of FitConfig."""
    with tempfile.TemporaryDirectory(prefix="to_accuracy_") as folder:
        run = open_run(Path(folder), flags, device=device)
        best, began = 0.0, clock()
        with Display(console, run.config.epochs, clock=clock) as display:
            for facts in run.epochs(display.on_step):
                seconds, best = clock() - began, max(best, facts.held_out_accuracy)
                display.end_epoch(facts)
                if best >= target:
                    break
        return Reached(
            target=target,
            best=best,
            seconds=seconds,
            epochs=facts.epoch,
            of_epochs=run.config.epochs,
            num_rows=len(run.split.train_labels),
            device=str(run.device),
        )
