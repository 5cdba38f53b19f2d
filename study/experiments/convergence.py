"""Loss against steps: does BatchNorm converge faster, and end better?"""

import math

from study.claims import FACTOR, POINTS, Claim, difference, doublings
from study.experiments.tuning import column, runs_of, smooth, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure
from study.rows import load_rows
from study.scale import Scale
from training.console import to_markdown
from training.figures.figure import INK

WINDOW = 10
USUAL_RATE = 0.01  # with momentum 0.9: that of most articles on BatchNorm which take SGD
NORMS: tuple[Norm, ...] = ("before", "none")
Run = tuple[Norm, float]
Results = dict[Run, list[Result]]


def study_convergence(scale: Scale, measure: Measure) -> Finding:
    """Each net at its own best learning rate, both at the usual one, and after one cycle of it."""
    target = load_rows(scale.data, scale.num_rows).guessing_loss / 4
    rates = scale.tuning_rates
    best = {norm: tune(scale, measure, rates, norm=norm, steps=scale.steps) for norm in NORMS}
    own: tuple[Run, Run] = ("before", best["before"]), ("none", best["none"])
    same: tuple[Run, Run] = ("before", USUAL_RATE), ("none", USUAL_RATE)
    results: Results = {
        (norm, rate): measure(runs_of(scale, norm=norm, learning_rate=rate, steps=scale.steps))
        for norm, rate in dict.fromkeys((*own, *same))
    }
    steps = {run: [steps_to(target, each, scale.steps) for each in found] for run, found in results.items()}
    peaks, annealed = {}, {}
    for norm in NORMS:
        cycle = {"norm": norm, "steps": scale.steps, "one_cycle": True}
        peaks[norm] = tune(scale, measure, rates, **cycle)
        annealed[norm] = column(
            measure(runs_of(scale, learning_rate=peaks[norm], **cycle)), "held_out_accuracy"
        )
    measured_by = f"steps to a loss of {target:.2f}, without over with BatchNorm"
    return Finding(
        title="Loss against steps",
        done=(
            f"Each net's learning rate is that of {rates[0]:.3g} … {rates[-1]:.3g} at which it ended lowest "
            f"with seeds of its own: {best['before']:.3g} with BatchNorm, {best['none']:.3g} without. Steps "
            f"are counted until the mean loss of {WINDOW} of them is a quarter of that of guessing, "
            f"{target:.2f}; a run that never gets there counts as {scale.steps}, all its steps. Accuracy "
            "is compared after one cycle of the learning rate, as at a constant one weights and running "
            f"averages still move at the end; the best peaks are {peaks['before']:.3g} with BatchNorm and "
            f"{peaks['none']:.3g} without."
        ),
        claims=[
            Claim(
                text="BatchNorm converges faster, each net at its own best learning rate",
                measured_by=measured_by,
                values=doublings(steps[own[1]], steps[own[0]]),
                margin=math.log2(1.1),
                unit=FACTOR,
            ),
            Claim(
                text="BatchNorm converges faster at the same learning rate",
                measured_by=f"{measured_by}, both at {USUAL_RATE:g}, the usual one of articles' recipes",
                values=doublings(steps[same[1]], steps[same[0]]),
                margin=math.log2(1.1),
                unit=FACTOR,
            ),
            Claim(
                text="BatchNorm ends more accurate",
                measured_by=f"held-out accuracy after {scale.steps} steps of one cycle, less that without, "
                "each at its best peak",
                values=difference(annealed["before"], annealed["none"]),
                margin=0.005,
                unit=POINTS,
            ),
        ],
        plots=[draw(scale, results, target)],
        table=to_markdown(
            ["", "learning rate", f"steps to {target:.2f}", "held-out accuracy, %"],
            [
                [
                    IN_WORDS[norm],
                    f"{rate:.3g}",
                    with_spread(steps[norm, rate], 0),
                    with_spread(column(found, "held_out_accuracy"), times=100),
                ]
                for (norm, rate), found in results.items()
            ]
            + [
                [
                    f"{IN_WORDS[norm]}, one cycle",
                    f"{peaks[norm]:.3g}",
                    "",
                    with_spread(annealed[norm], times=100),
                ]
                for norm in NORMS
            ],
        ),
    )


def steps_to(target: float, result: Result, all_steps: int) -> int:
    """Steps until the smoothed loss is at most `target`; all of them if it never is."""
    reached = (step for step, loss in enumerate(smooth(result["losses"], WINDOW), WINDOW) if loss <= target)
    return next(reached, all_steps)


def draw(scale: Scale, results: Results, target: float) -> Plot:
    """The smoothed losses; a run that ended early is drawn on at its last loss."""
    figure, (axes,) = new_figure("Loss against steps")
    drawn: set[Norm] = set()
    for (norm, rate), found in results.items():
        curves = [smooth(padded(each["losses"], scale.steps), WINDOW) for each in found]
        name = f"{IN_WORDS[norm]}, learning rate {rate:.3g}"
        steps = range(WINDOW, scale.steps + 1)
        draw_band(axes, steps, curves, norm, name=name, dashed=norm in drawn, markers=False)
        drawn.add(norm)
    axes.axhline(target, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(f"{target:.2f}", (scale.steps, target), color=INK, va="bottom", ha="right", fontsize=9)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    label(axes, "step", f"train loss, mean of {WINDOW} steps")
    legend(axes)
    shows = "Train loss against steps, mean and range over the seeds"
    return Plot(name="convergence.png", shows=shows, figure=figure)


def padded(losses: list[float], num_steps: int) -> list[float]:
    """As many as there are steps."""
    return losses + losses[-1:] * (num_steps - len(losses))
