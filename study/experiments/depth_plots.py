"""Pictures of the experiment on depth."""

import math
from collections.abc import Sequence

from study.experiments.tuning import by_seed
from study.finding import Plot
from study.lab import Result
from study.nets import IN_WORDS, Norm
from study.plots import COLORS, draw_band, draw_seeds, label, legend, new_figure
from study.scale import Scale


def draw_accuracy(scale: Scale, accuracy: dict[tuple[Norm, int], list[float]]) -> Plot:
    """Against depth."""
    figure, (axes,) = new_figure("Depth, without shortcuts")
    norms: tuple[tuple[Norm, float], ...] = (("before", -0.7), ("none", 0.7))
    for norm, shift in norms:
        lines = by_seed((accuracy[norm, depth] for depth in scale.depths), 100)
        draw_band(axes, scale.depths, lines, norm)
        draw_seeds(axes, scale.depths, lines, norm, shift=shift)
    axes.set_xticks(scale.depths)
    axes.set_ylim(0, 100)
    label(axes, "layers with weights", f"held-out accuracy after {scale.depth_steps} steps, %")
    legend(axes, loc="upper right")
    shows = "Held-out accuracy against depth: mean, range and, as dots, each seed"
    return Plot(name="depth.png", shows=shows, figure=figure)


def draw_gradients(scale: Scale, results: dict[tuple[Norm, int], list[Result]], steps: Sequence[int]) -> Plot:
    """Against the layer, a panel for each of `steps`, a line for each depth: the deeper, the darker."""
    figure, panels = new_figure("Gradient of each layer's weights", panels=len(steps))
    for axes, step in zip(panels, steps, strict=True):
        for (norm, depth), found in results.items():
            logs = [
                [math.log10(value) for value in result["gradients"][str(step)][:-1]]
                for result in found
                if str(step) in result["gradients"]
            ]
            if not logs:
                continue
            means = [10 ** (sum(layer) / len(layer)) for layer in zip(*logs, strict=True)]
            strength = 0.25 + 0.75 * (scale.depths.index(depth) + 1) / len(scale.depths)
            name = IN_WORDS[norm] if depth == scale.depths[-1] else None
            axes.plot(range(1, depth), means, color=COLORS[norm], alpha=strength, linewidth=1.6, label=name)
            axes.annotate(
                str(depth),
                (depth - 1, means[-1]),
                xytext=(3, 0),
                textcoords="offset points",
                color=COLORS[norm],
                alpha=strength,
                fontsize=8,
                va="center",
            )
        axes.set_yscale("log")
        when = f"after {step} steps" if step else "at initialisation"
        label(axes, "Conv, counted from the input", f"‖∂L/∂W‖, {when}")
    legend(panels[0])
    depths = ", ".join(map(str, scale.depths))
    shows = (
        "Norm of the gradient of each Conv's weights, geometric mean over the seeds, "
        f"a line for each depth of {depths}"
    )
    return Plot(name="gradients.png", shows=shows, figure=figure)
