"""The picture of a search: what was found trial by trial, and accuracy against each setting.

In: a `Search`.  Out: the bytes of a PNG.
"""

import itertools

from matplotlib.axes import Axes

from training.figures.figure import GRID, INK, new_figure, tidy, to_png
from training.search.trials import Search

DONE, PRUNED, BEST = "#1b6ca8", "#8da0b3", "#d1495b"
SETTINGS = ("learning_rate", "momentum", "weight_decay", "batch_size", "width")


def draw_search(search: Search) -> bytes:
    """Filled: done; hollow: pruned or diverged; the best so far as a line, the best of all in red."""
    results = search.results
    title = f"Search of {len(results)} trials: accuracy of the judged rows, %"
    figure = new_figure(10.4, 6.4, title)
    panels = figure.subplots(2, 3, sharey=True).flatten()
    best = search.best
    values = {
        "trial": [float(number) for number in range(1, len(results) + 1)],
        **{
            name: [
                facts.width
                if name == "width"
                else float(getattr(search.config_of(facts.settings, 1.0), name))
                for facts in results
            ]
            for name in SETTINGS
        },
    }
    accuracies = [100 * (facts.accuracy or 0.0) for facts in results]
    for axes, (name, at) in zip(panels, values.items(), strict=True):
        tidy(axes)
        for x, y, facts in zip(at, accuracies, results, strict=True):
            is_done = facts.outcome == "done"
            color = BEST if facts == best else DONE if is_done else PRUNED
            axes.scatter([x], [y], s=30, color=color if is_done else "none", edgecolors=color, zorder=3)
        name_axis(axes, name, at)
    so_far = list(
        itertools.accumulate(
            (a if f.outcome == "done" else 0.0 for a, f in zip(accuracies, results, strict=True)), max
        )
    )
    panels[0].step(values["trial"], so_far, where="post", color=BEST, linewidth=1)
    key = {"the best": (BEST, BEST), "done": (DONE, DONE), "ended early": ("none", PRUNED)}
    for name, (fill, edge) in key.items():
        panels[0].scatter([], [], s=30, color=fill, edgecolors=edge, label=name)
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9, loc="lower right")
    return to_png(figure)


def name_axis(axes: Axes, name: str, at: list[float]) -> None:
    """Its name, and a logarithm where ratios count."""
    axes.set_xlabel(name.replace("_", " "), color=INK, fontsize=10)
    if name in ("learning_rate", "weight_decay") and all(x > 0 for x in at):
        axes.set_xscale("log")
    if name in ("batch_size", "width"):
        axes.set_xscale("log", base=2)
        ticks = sorted(set(at))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(axis="x", color=GRID, linewidth=0.5)
