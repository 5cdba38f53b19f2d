"""Sigmoids, whose gradient is small where inputs are large: which saturate, and does a net train?"""

import statistics

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import column, runs_of, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.measures import SATURATED
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure
from study.scale import Scale
from training.console import to_markdown

NORMS: tuple[Norm, ...] = ("before", "none")
SCALES = (1.0, 10.0)
Case = tuple[Norm, float]
Results = dict[Case, list[Result]]


def study_saturation(scale: Scale, measure: Measure) -> Finding:
    """From the usual initial weights, and from ten times as large ones, with which inputs begin large."""
    results: Results = {}
    for norm in NORMS:
        run = {"norm": norm, "activation": "sigmoid", "steps": scale.steps, "one_cycle": True}
        rate = tune(scale, measure, scale.tuning_rates, **run)
        for init in SCALES:
            measured_after = (0, scale.steps)
            cells = runs_of(
                scale, learning_rate=rate, init_scale=init, saturation_after=measured_after, **run
            )
            results[norm, init] = measure(cells)
    saturated = {case: [share_at(each, scale.steps) for each in found] for case, found in results.items()}
    accuracy = {case: column(found, "held_out_accuracy") for case, found in results.items()}
    return Finding(
        title="Sigmoids that saturate",
        done=(
            "The plain net of 8 layers with a Sigmoid in the place of each ReLU, "
            f"{scale.steps} steps of one cycle, each net at its best rate at the usual initial weights. A "
            f"Sigmoid is saturated beyond ±{SATURATED}, where its gradient is less than a tenth of its "
            "maximum; shares are of all inputs of a layer on 256 train rows in train mode. Initial weights "
            "are those of He et al. 2015, times 1 and times 10."
        ),
        claims=[claim for init in SCALES for claim in claims_of(init, saturated, accuracy)],
        plots=[draw(scale, results)],
        table=to_markdown(
            [
                "",
                "initial weights",
                "saturated at initialisation, %",
                "at the end, %",
                "held-out accuracy, %",
            ],
            [
                [
                    IN_WORDS[norm],
                    f"× {init:g}",
                    with_spread([share_at(each, 0) for each in found], times=100),
                    with_spread(saturated[norm, init], times=100),
                    with_spread(accuracy[norm, init], times=100),
                ]
                for (norm, init), found in results.items()
            ],
        ),
    )


def claims_of(
    init: float, saturated: dict[Case, list[float]], accuracy: dict[Case, list[float]]
) -> list[Claim]:
    """At one scale of the initial weights."""
    return [
        Claim(
            text=f"BatchNorm keeps Sigmoids out of saturation (initial weights × {init:g})",
            measured_by="share of saturated inputs at the end without BatchNorm, less that with",
            values=difference(saturated["none", init], saturated["before", init]),
            margin=0.1,
            unit=POINTS,
        ),
        Claim(
            text=f"BatchNorm makes a net of Sigmoids trainable (initial weights × {init:g})",
            measured_by="held-out accuracy, less that without",
            values=difference(accuracy["before", init], accuracy["none", init]),
            margin=0.1,
            unit=POINTS,
        ),
    ]


def share_at(result: Result, step: int) -> float:
    """Mean over the Sigmoids; of the beginning for a run that ended before `step`."""
    return statistics.fmean(shares_at(result, step))


def shares_at(result: Result, step: int) -> list[float]:
    """Of each Sigmoid, from the first to the last."""
    shares: list[float] = result["saturation"].get(str(step), result["saturation"]["0"])
    return shares


def draw(scale: Scale, results: Results) -> Plot:
    """Against the layer; before and after training."""
    figure, panels = new_figure("Sigmoids that saturate", panels=2)
    for axes, step in zip(panels, (0, scale.steps), strict=True):
        for (norm, init), found in results.items():
            shares = [[100 * share for share in shares_at(each, step)] for each in found]
            layers = range(1, len(shares[0]) + 1)
            name = f"{IN_WORDS[norm]}, initial weights × {init:g}"
            draw_band(axes, layers, shares, norm, name=name, dashed=init != SCALES[0])
        axes.set_ylim(-2, 102)
        when = f"after {step} steps" if step else "at initialisation"
        label(axes, "Sigmoid, counted from the input", f"saturated inputs {when}, %")
    legend(panels[0], loc="center left", bbox_to_anchor=(0.1, 0.32))
    shows = "Share of each Sigmoid's inputs that are saturated, mean and range over the seeds"
    return Plot(name="saturation.png", shows=shows, figure=figure)
