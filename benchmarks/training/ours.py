"""Our loop, as `python -m training` runs it on a terminal: with its live display, drawn to /dev/null.

In: a net, pictures on its device, settings.  Out: the seconds of each epoch until its last step is done.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from torch import nn

from benchmarks.training.bare import synchronize
from training.data import Split
from training.loop.facts import StepFacts
from training.loop.fit import fit
from training.runs.display import Display
from training.settings.config import FitConfig


def our_epochs(
    net: nn.Module,
    split: Split,
    config: FitConfig,
    clock: Callable[[], float],
    *,
    planted_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[float]:
    """Yield seconds per epoch without evaluation; `planted_s` sleeps in every step, as a negative control."""
    device, ended = split.train_labels.device, 0.0
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=100)
        with Display(console, config.epochs) as display:

            def on_step(facts: StepFacts) -> None:
                nonlocal ended
                if planted_s:
                    sleep(planted_s)
                display.on_step(facts)
                if facts.index == facts.num_steps:
                    synchronize(device)
                    ended = clock()

            epochs = fit(net, split, config, on_step=on_step)
            for _ in range(config.epochs):
                synchronize(device)
                began = clock()
                epoch = next(epochs)
                display.end_epoch(epoch.facts)
                yield ended - began
