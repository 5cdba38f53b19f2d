"""The largest learning rate that still trains."""

import math
from collections.abc import Sequence

from study.claims import FACTOR, Claim, doublings
from study.experiments.tuning import LAST, by_seed, final_loss, runs_of
from study.finding import Finding, Plot
from study.lab import Measure
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure, use_powers_of_two
from study.rows import load_rows
from study.scale import Scale
from training.console import to_markdown
from training.figures.figure import INK

NORMS: tuple[Norm, ...] = ("before", "none")


def study_learning_rate(scale: Scale, measure: Measure) -> Finding:
    """Every rate of the grid, with every seed, with and without BatchNorm."""
    rates, guessing = scale.rates, load_rows(scale.data, scale.num_rows).guessing_loss
    losses = {norm: final_losses(scale, measure, norm) for norm in NORMS}
    largest = {
        norm: [largest_that_trains(rates, line, guessing / 2) for line in losses[norm]] for norm in NORMS
    }
    span = rates[1] / rates[0]
    return Finding(
        title="The largest learning rate that still trains",
        done=(
            f"A rate trains if every loss is a number and the mean of the last {LAST} of {scale.steps} "
            f"steps is at most half of that of guessing, {guessing / 2:.2f}. There are {len(rates)} rates, "
            f"{rates[0]:.3g} to {rates[-1]:.3g}, each {span:g} times the one before: that is how well a "
            "largest rate is known, and so the margin. Rates are constant from the first step on, without "
            "a warm-up."
        ),
        claims=[
            Claim(
                text="BatchNorm allows larger learning rates",
                measured_by="the largest rate that trains, with over without BatchNorm",
                values=doublings(largest["before"], largest["none"]),
                margin=math.log2(span),
                unit=FACTOR,
            )
        ],
        plots=[draw(scale, losses, guessing)],
        table=to_markdown(
            ["largest rate that trains", *(f"seed {seed}" for seed in scale.seeds)],
            [[IN_WORDS[norm], *(f"{rate:.3g}" for rate in largest[norm])] for norm in NORMS],
        ),
    )


def final_losses(scale: Scale, measure: Measure, norm: Norm) -> list[list[float]]:
    """A line for each seed, with a loss for each rate."""
    runs = [runs_of(scale, norm=norm, learning_rate=rate, steps=scale.steps) for rate in scale.rates]
    losses = iter([final_loss(result) for result in measure([run for each in runs for run in each])])
    return by_seed([next(losses) for _ in each] for each in runs)


def largest_that_trains(rates: Sequence[float], losses: Sequence[float], limit: float) -> float:
    """Of the grid; one step below it where none does."""
    trained = [rate for rate, loss in zip(rates, losses, strict=True) if loss <= limit]
    return max(trained, default=rates[0] ** 2 / rates[1])


def draw(scale: Scale, losses: dict[Norm, list[list[float]]], guessing: float) -> Plot:
    """Final loss against the rate; whatever is worse than guessing is drawn a little above it."""
    figure, (axes,) = new_figure("Which learning rates train")
    top = 1.15 * guessing
    for norm in NORMS:
        draw_band(axes, scale.rates, [[min(loss, top) for loss in line] for line in losses[norm]], norm)
    for height, text, at in (
        (guessing / 2, "trains below", scale.rates[len(scale.rates) // 2]),
        (guessing, "guessing", scale.rates[0]),
    ):
        axes.axhline(height, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(text, (at, height), color=INK, va="bottom", fontsize=9)
    use_powers_of_two(axes, scale.rates)
    axes.set_ylim(0, 1.05 * top)
    label(axes, "learning rate, constant", f"train loss at the end of {scale.steps} steps")
    legend(axes, loc="center", bbox_to_anchor=(0.72, 0.62))
    shows = "Final train loss against the learning rate, mean and range over the seeds"
    return Plot(name="learning-rate.png", shows=shows, figure=figure)
