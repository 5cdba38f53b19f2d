"""The live display of a run: on a terminal a bar that moves within each epoch, elsewhere one line an epoch.

Without a terminal, an epoch that takes more than half a minute prints a line of progress now and then. A
narrow terminal gets a shorter line for each epoch: a long one would wrap in the middle of a number.

In: a console, and the facts of steps and epochs as they come.  Out: lines.

    images/s = images of this epoch / their seconds        after its first step, which may compile;
                                                           evaluation does not count
    left     = seconds of the epochs so far / how many they are · how many are left

It draws from within the loop, four times a second at most: a thread of its own would take the loop's
time at any moment. It never waits for the device: it shows the losses that the loop has checked anyway.
"""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from training.console import new_progress, say
from training.loop.facts import EpochFacts, StepFacts

SECONDS_BETWEEN = 0.25
# Where there is no bar, a reader of the log must not think that nothing happens.
SECONDS_OF_SILENCE = 30.0


class Display:
    """A context; give `on_step` to the loop, and `end_epoch` the facts of each epoch."""

    def __init__(
        self,
        console: Console,
        num_epochs: int,
        epochs_done: int = 0,
        log_every: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        rows_done: int = 0,
    ) -> None:
        """`epochs_done`, and `rows_done` of the next epoch, were trained on before a resumed run began."""
        self._num_epochs, self._epochs_done, self._clock = num_epochs, epochs_done, clock
        self._log_every = log_every
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[step]}"),
        )
        self._progress = new_progress(
            console, *columns, auto_refresh=False, get_time=clock, speed_estimate_period=60
        )
        self._bar = self._progress.add_task(f"epoch {epochs_done + 1}/{num_epochs}", total=None, step="")
        self._began = self._epoch_began = self._drawn = self._said = clock()
        self._first_step = (self._began, rows_done)
        self._images_per_s = 0.0

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_step(self, facts: StepFacts) -> None:
        """Move the bar, if it is time to."""
        now = self._clock()
        since, rows = (self._epoch_began, 0) if facts.index == 1 else self._first_step
        self._images_per_s = (facts.num_rows - rows) / max(now - since, 1e-9)
        if facts.index == 1:
            self._first_step = now, facts.num_rows
        is_asked = self._log_every and facts.index % self._log_every == 0
        is_silent = self._progress.disable and now - self._said >= SECONDS_OF_SILENCE
        if is_asked or (is_silent and not self._progress.console.quiet):
            self._said = now
            step = describe_step(facts, self._images_per_s)
            say(self._progress.console, f"epoch {facts.epoch:>3}/{self._num_epochs}   {step}")
        is_last = facts.index == facts.num_steps
        if self._progress.disable or not (is_last or now - self._drawn >= SECONDS_BETWEEN):
            return
        self._drawn = now
        self._progress.update(
            self._bar,
            description=f"epoch {facts.epoch}/{self._num_epochs}",
            total=self._num_epochs * facts.num_steps,
            completed=(facts.epoch - 1) * facts.num_steps + facts.index,
            step=describe_step(facts, self._images_per_s),
            refresh=True,
        )

    def end_epoch(self, facts: EpochFacts) -> None:
        """Print the epoch's line, and start the clock of the next one."""
        now = self._clock()
        seconds_each = (now - self._began) / (facts.epoch - self._epochs_done)
        line = describe_epoch(
            facts,
            self._num_epochs,
            seconds=now - self._epoch_began,
            images_per_s=self._images_per_s,
            seconds_left=seconds_each * (self._num_epochs - facts.epoch),
        )
        console = self._progress.console
        if console.is_terminal and len(line) > console.width:
            line = describe_briefly(facts, self._num_epochs, seconds_each * (self._num_epochs - facts.epoch))
        say(console, line)
        self._epoch_began = self._said = self._clock()


def describe_step(facts: StepFacts, images_per_s: float) -> str:
    """Step, images/s, and loss and accuracy of the epoch so far, where they are known."""
    text = f"step {facts.index}/{facts.num_steps}  {images_per_s:,.0f} images/s"
    if facts.loss is not None:
        text += f"  loss {facts.loss:.4f}"
    if facts.accuracy is not None:
        text += f"  accuracy {facts.accuracy:.1%}"
    return text


def describe_epoch(
    facts: EpochFacts, num_epochs: int, *, seconds: float, images_per_s: float, seconds_left: float
) -> str:
    """All of an epoch in one line."""
    left = f", {describe_seconds(seconds_left)} left" if facts.epoch < num_epochs else ""
    return (
        f"epoch {facts.epoch:>3}/{num_epochs}   step {facts.step:,}   "
        f"train: loss {facts.train_loss:.4f}, accuracy {facts.train_accuracy:.2%}   "
        f"held out: loss {facts.held_out_loss:.4f}, accuracy {facts.held_out_accuracy:.2%}   "
        f"{seconds:.1f} s, {images_per_s:,.0f} images/s{left}"
    )


def describe_briefly(facts: EpochFacts, num_epochs: int, seconds_left: float) -> str:
    """An epoch in at most 80 columns: losses and accuracies of both halves, and the time left."""
    left = f"  {describe_seconds(seconds_left)} left" if facts.epoch < num_epochs else ""
    return (
        f"epoch {facts.epoch:>3}/{num_epochs}  train {facts.train_loss:.4g} {facts.train_accuracy:.2%}  "
        f"held out {facts.held_out_loss:.4g} {facts.held_out_accuracy:.2%}{left}"
    )


def describe_seconds(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
