"""The picture of a run: loss and accuracy of both halves, epoch by epoch.

In: the facts of the epochs so far.  Out: the bytes of a PNG.
"""

import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from training.fit import EpochFacts

TRAIN_COLOR, HELD_OUT_COLOR, INK = "#8da0b3", "#d1495b", "#333f48"


def draw_curves(history: Sequence[EpochFacts], title: str) -> bytes:
    """Draw loss (on a log scale) beside accuracy; the last held-out values stand at their line's end."""
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=13, x=0.01, ha="left")
    loss, accuracy = figure.subplots(1, 2)
    loss.set_yscale("log")
    _draw_panel(
        loss, history, "loss (cross-entropy)", lambda facts: (facts.train_loss, facts.held_out_loss), "{:.3f}"
    )
    _draw_panel(
        accuracy,
        history,
        "accuracy, %",
        lambda facts: (100 * facts.train_accuracy, 100 * facts.held_out_accuracy),
        "{:.1f} %",
    )
    loss.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    loss.yaxis.set_minor_locator(NullLocator())
    loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    loss.legend(frameon=False, labelcolor=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(
    axes: Axes,
    history: Sequence[EpochFacts],
    title: str,
    values: Callable[[EpochFacts], tuple[float, float]],
    ending: str,
) -> None:
    epochs = [facts.epoch for facts in history]
    train, held_out = zip(*(values(facts) for facts in history), strict=True)
    axes.plot(epochs, train, color=TRAIN_COLOR, marker="o", markersize=3, label="train, as augmented")
    axes.plot(epochs, held_out, color=HELD_OUT_COLOR, marker="o", markersize=3, linewidth=2, label="held out")
    axes.annotate(
        ending.format(held_out[-1]),
        (epochs[-1], held_out[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        color=HELD_OUT_COLOR,
        va="center",
    )
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e8eb")
    axes.tick_params(colors=INK)
    axes.set_xlim(0.5, 1.08 * epochs[-1] + 0.5)
