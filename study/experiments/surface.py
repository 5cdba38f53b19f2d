"""Slices through the loss surface of VGG and NIN, with and without BatchNorm."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from study.claims import FACTOR, Claim, doublings
from study.experiments.tuning import runs_of, tune
from study.finding import Finding, Plot, describe_nets, with_spread
from study.lab import Measure, Result
from study.nets import Norm
from study.rows import load_rows
from study.scale import Scale
from study.surface import SLICE_ROWS, Slice
from training.console import to_markdown
from training.figures.figure import INK, new_figure

NETS: dict[str, dict[str, Any]] = {
    "vgg": {"channels": (8, 16, 32), "convs": (1, 1, 2), "hidden": 64},
    "nin": {"channels": (16, 32), "kernels": (5, 3)},
}
# Without BatchNorm, nin hardly begins to train with weights of He et al. 2015: its logits are means.
INIT_SCALES = {"vgg": 1.0, "nin": 1.5}
RATES = tuple(2.0**exponent for exponent in (-6, -5, -4, -3))
RADIUS = 0.5
WAYS: dict[tuple[Norm, str], str] = {
    ("none", "running"): "without BatchNorm",
    ("before", "batch"): "with: statistics of the batch",
    ("before", "running"): "with: running averages",
}
Surface = list[list[float | None]]
Surfaces = dict[tuple[str, Norm], list[Result]]


def study_surface(scale: Scale, measure: Measure) -> Finding:
    """Train each at its best learning rate, then look around."""
    surfaces: Surfaces = {}
    rates = {}
    for net in scale.slice_nets:
        for norm in ("none", "before"):
            run = settings_of(net, norm, scale)
            rates[net, norm] = tune(scale, measure, RATES, **run)
            trained = runs_of(scale, learning_rate=rates[net, norm], **run)
            surfaces[net, norm] = measure([Slice(run=each, points=scale.slice_points) for each in trained])
    rises = {
        (net, *way): [rise(result, way[1]) for result in surfaces[net, way[0]]]
        for net in scale.slice_nets
        for way in WAYS
    }
    return Finding(
        title="The loss surface, in two random directions",
        done=(
            f"Nets after {scale.slice_steps} steps of one cycle, each at its best peak of "
            f"{', '.join(f'{rate:.3g}' for rate in RATES)}; two random directions whose every filter is as "
            "long as the net's own (filter-normalised, Li et al. 2018), biases, γ and β untouched; mean "
            f"cross-entropy of {SLICE_ROWS} train rows at {scale.slice_points} × {scale.slice_points} "
            "points from −1 to 1. Everything is drawn again for each seed; the plot shows the first. With "
            "BatchNorm there are two surfaces: normalised by the statistics of these rows at every point "
            "(what training walks on), or by the running averages of the trained net (what eval mode would "
            f"say of moved weights). Nets: {describe_nets({net: NETS[net] for net in scale.slice_nets})}; "
            f"the initial weights of nin are {INIT_SCALES['nin']:g} times those of He et al. 2015, without "
            "which it hardly trains without BatchNorm."
        ),
        claims=[
            Claim(
                text=f"BatchNorm makes the loss surface flatter around what was learnt ({net})",
                measured_by=f"mean rise of the loss within {RADIUS} of the middle, without over with "
                "BatchNorm (statistics of the batch)",
                values=doublings(rises[net, "none", "running"], rises[net, "before", "batch"]),
                margin=math.log2(1.25),
                unit=FACTOR,
            )
            for net in scale.slice_nets
        ],
        plots=[draw(scale, surfaces)],
        table=to_markdown(
            [f"mean rise within {RADIUS}", *WAYS.values()],
            [[net, *(with_spread(rises[net, *way], 3) for way in WAYS)] for net in scale.slice_nets],
        ),
        remarks=[
            "Two of hundreds of thousands of directions: such a slice shows how sharp a place is, not what "
            "lies between two places."
        ],
    )


def settings_of(net: str, norm: Norm, scale: Scale) -> dict[str, Any]:
    """What is the same for every run of a net, whatever its optimizer."""
    return {
        "net": net,
        "net_settings": NETS[net],
        "init_scale": INIT_SCALES[net],
        "norm": norm,
        "steps": scale.slice_steps,
        "one_cycle": True,
    }


def rise(result: Result, statistics_of: str) -> float:
    """Mean of the loss less that in the middle, over the points within RADIUS but the middle."""
    surface, steps = result["surfaces"][statistics_of], result["axis"]
    middle = len(steps) // 2
    near = [
        surface[row][column]
        for row, beta in enumerate(steps)
        for column, alpha in enumerate(steps)
        if 0 < math.hypot(alpha, beta) <= RADIUS
    ]
    risen: float = statistics.fmean(near) - surface[middle][middle]
    return risen


def draw(scale: Scale, surfaces: Surfaces) -> Plot:
    """A row for each net, a column for each way; one scale of colours for all."""
    names = scale.slice_nets
    figure = new_figure(10.4, 3.2 * len(names) + 0.6, "The loss around the trained net")
    panels = figure.subplots(len(names), len(WAYS), squeeze=False, sharex=True, sharey=True)
    guessing = load_rows(scale.data, scale.num_rows).guessing_loss
    levels = np.geomspace(guessing / 64, guessing * 8, 19)
    for net, line in zip(names, panels, strict=True):
        for axes, ((norm, statistics_of), title) in zip(line, WAYS.items(), strict=True):
            result = surfaces[net, norm][0]
            surface = result["surfaces"][statistics_of]
            draw_losses(axes, result["axis"], result["axis"], surface, levels, guessing)
            axes.plot(0, 0, marker="+", color="white", markersize=8)
            axes.set_title(f"{net} {title}", loc="left", color=INK, fontsize=10)
    add_loss_bar(figure, list(panels.flat), levels)
    shows = "Train loss on a plane through the trained net, first seed; axes in lengths of the filters"
    return Plot(name="surface.png", shows=shows, figure=figure)


def draw_losses(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    surface: Sequence[Sequence[float | None]],
    levels: np.ndarray,
    guessing: float,
) -> None:
    """The losses on a grid, a row for each y, as colours; a thick line where they are those of guessing."""
    losses = clipped(surface, levels[0], levels[-1])
    axes.contourf(x, y, losses, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
    axes.contour(x, y, losses, levels=levels[1:], colors="white", linewidths=0.3, alpha=0.6)
    axes.contour(x, y, losses, levels=[guessing], colors="white", linewidths=1.3)
    axes.set_aspect("equal")
    axes.tick_params(colors=INK, labelsize=8)


def add_loss_bar(figure: Figure, panels: Sequence[Axes], levels: np.ndarray) -> None:
    """What the colours of `draw_losses` stand for, beside the panels."""
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if levels[0] <= tick <= levels[-1]]
    colors = ScalarMappable(LogNorm(levels[0], levels[-1]), "viridis")
    bar = figure.colorbar(colors, ax=panels, shrink=0.8, ticks=ticks, format="{x:g}")
    bar.ax.minorticks_off()
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.set_label("train loss; thick: guessing", color=INK, fontsize=9)


def clipped(surface: Sequence[Sequence[float | None]], low: float, high: float) -> np.ndarray:
    """Within what the colours can show; NaN and infinity count as the highest."""
    losses = [[high if loss is None else loss for loss in row] for row in surface]
    return np.clip(np.asarray(losses, dtype=np.float64), low, high * (1 - 1e-9))
