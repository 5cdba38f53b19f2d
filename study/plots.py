"""What the study's plots have in common.

In: numbers per seed.  Out: figures, and the bytes of a PNG.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.nets import IN_WORDS, Norm
from training.figures import figure as figures
from training.figures.figure import INK

COLORS: dict[Norm, str] = {"before": "#1b6ca8", "none": "#d1495b", "after": "#e09f3e"}


def new_figure(title: str, *, panels: int = 1, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure with its panels side by side."""
    figure = figures.new_figure(6.4 if panels == 1 else 10.4, height, title)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for each in axes:
        figures.tidy(each)
    return figure, axes


def label(axes: Axes, x: str, y: str) -> None:
    """What the axes are; y's name stands above, where it can be read."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_title(y, loc="left", color=INK, fontsize=10)


def draw_band(
    axes: Axes,
    x: Sequence[float],
    by_seed: Sequence[Sequence[float]],
    norm: Norm,
    *,
    name: str | None = None,
    dashed: bool = False,
    markers: bool = True,
    range_too: bool = True,
) -> None:
    """Mean over the seeds as a line, from the smallest to the largest as a band; one row per seed."""
    values = np.asarray(by_seed, dtype=float)
    if range_too:
        axes.fill_between(x, values.min(0), values.max(0), color=COLORS[norm], alpha=0.18, linewidth=0)
    axes.plot(
        x,
        values.mean(0),
        color=COLORS[norm],
        linewidth=2,
        linestyle="--" if dashed else "-",
        marker="o" if markers else None,
        markersize=4,
        label=IN_WORDS[norm] if name is None else name,
    )


def draw_seeds(
    axes: Axes, x: Sequence[float], by_seed: Sequence[Sequence[float]], norm: Norm, *, shift: float = 0.0
) -> None:
    """A dot for each seed, moved aside by `shift` (a share of x on a logarithmic axis, or so many units)."""
    places = [at * (1 + shift) if axes.get_xscale() == "log" else at + shift for at in x]
    for line in by_seed:
        axes.scatter(places, line, color=COLORS[norm], s=14, alpha=0.55, linewidths=0, zorder=3)


def use_powers_of_two(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with a tick at each of `values`, or at every other where they are many."""
    axes.set_xscale("log", base=2)
    ticks = list(values)[:: 2 if len(values) > 9 else 1]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()


def legend(axes: Axes, **where: Any) -> None:
    """Without a frame."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, handlelength=3, **where)
