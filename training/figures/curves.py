"""The pictures of runs: loss and accuracy, epoch by epoch.

In: the facts of the epochs so far, of one run or of several.  Out: the bytes of a PNG.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from training.figures.figure import HELD_OUT_COLOR, INK, TRAIN_COLOR, drawable_names, new_figure, tidy
from training.loop.facts import EpochFacts

MAX_MARKERS = 40
MIN_LOSS = 2.0**-24  # of float32; a loss of 0 has no place on a log scale
# Distinguishable also for people who confuse red and green (Okabe & Ito 2008).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", ":", "-.")


def draw_curves(history: Sequence[EpochFacts], title: str) -> Figure:
    """Loss (on a log scale) beside accuracy; the last held-out values stand at their line's end."""
    figure, (loss, accuracy) = _new_panels(title, history[-1].epoch)
    for axes, kind, text in ((loss, "loss", "{:.3f}"), (accuracy, "accuracy", "{:.1f} %")):
        epochs, train, held_out = _lines(history, kind)
        style: dict[str, Any] = {"marker": _marker(epochs), "markersize": 3}
        axes.plot(epochs, train, color=TRAIN_COLOR, label="train, as augmented", **style)
        axes.plot(epochs, held_out, color=HELD_OUT_COLOR, linewidth=2, label="held out", **style)
        axes.annotate(
            text.format(held_out[-1]),
            (epochs[-1], held_out[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=HELD_OUT_COLOR,
            va="center",
        )
    loss.legend(frameon=False, labelcolor=INK, loc="upper right")
    _set_ticks(loss)
    return figure


def draw_comparison(histories: Mapping[str, Sequence[EpochFacts]], title: str) -> Figure:
    """The held-out half of every run, by its name."""
    figure, (loss, accuracy) = _new_panels(title, max(history[-1].epoch for history in histories.values()))
    names = drawable_names(list(histories), longest=40)
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for index, (name, history) in enumerate(zip(names, histories.values(), strict=True)):
            epochs, _, held_out = _lines(history, kind)
            axes.plot(
                epochs,
                held_out,
                color=COLORS[index % len(COLORS)],
                linestyle=STYLES[index // len(COLORS) % len(STYLES)],
                linewidth=2,
                marker=_marker(epochs),
                markersize=3,
                label=name,
            )
    _set_ticks(loss)
    figure.legend(
        handles=accuracy.lines,
        loc="outside lower left",
        ncols=min(len(names), 3),
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _new_panels(title: str, last_epoch: int) -> tuple[Figure, tuple[Axes, Axes]]:
    """Axes for loss and accuracy, with room at the right for a number."""
    figure = new_figure(10, 4.2, title)
    loss, accuracy = figure.subplots(1, 2)
    for axes, name in ((loss, "loss (cross-entropy)"), (accuracy, "accuracy, %")):
        tidy(axes)
        axes.set_title(name, loc="left", color=INK, fontsize=10)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.5, 1.08 * last_epoch + 0.5)
    loss.set_yscale("log")
    return figure, (loss, accuracy)


def _set_ticks(loss: Axes) -> None:
    """1, 2, 5, 10 …; even steps where fewer than three of those are within the limits."""
    low, high = loss.get_ylim()
    locator: Locator = LogLocator(subs=(1.0, 2.0, 5.0))
    if sum(low <= tick <= high for tick in locator.tick_values(low, high)) < 3:
        locator = MaxNLocator(5)
    loss.yaxis.set_major_locator(locator)
    loss.yaxis.set_minor_locator(NullLocator())
    loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _lines(history: Sequence[EpochFacts], kind: str) -> tuple[list[int], list[float], list[float]]:
    """Epochs, and the two halves' losses, or their accuracies in per cent."""
    is_loss = kind == "loss"
    halves = ([getattr(facts, f"{half}_{kind}") for facts in history] for half in ("train", "held_out"))
    train, held_out = (
        [max(value, MIN_LOSS) if is_loss else 100 * value for value in values] for values in halves
    )
    return [facts.epoch for facts in history], train, held_out


def _marker(epochs: Sequence[int]) -> str | None:
    return "o" if len(epochs) <= MAX_MARKERS else None
