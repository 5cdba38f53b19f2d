"""Five scales of the initial weights."""

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import by_seed, column, runs_of, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure
from study.scale import Scale
from training.console import to_markdown

NORMS: tuple[Norm, ...] = ("before", "none")


def study_initialisation(scale: Scale, measure: Measure) -> Finding:
    """The learning rate is tuned at scale 1 and stays: care is what the claim says is not needed."""
    rates = {norm: tune(scale, measure, scale.tuning_rates, norm=norm, steps=scale.steps) for norm in NORMS}
    accuracy = {}
    for norm in NORMS:
        run = {"norm": norm, "learning_rate": rates[norm], "steps": scale.steps}
        for init in scale.init_scales:
            found = measure(runs_of(scale, init_scale=init, **run))
            accuracy[norm, init] = column(found, "held_out_accuracy")
    worst = {
        norm: [min(line) for line in by_seed(accuracy[norm, init] for init in scale.init_scales)]
        for norm in NORMS
    }
    return Finding(
        title="Scale of the initial weights",
        done=(
            "Every weight of He et al. 2015 times a factor. The learning rate is the best one at factor 1, "
            f"{rates['before']:.3g} with BatchNorm and {rates['none']:.3g} without, for all factors: to "
            "tune it again would be to take care. The last Linear, which has no BatchNorm after it, is "
            "scaled as well."
        ),
        claims=[
            Claim(
                text="BatchNorm needs less care with initialisation",
                measured_by=f"the worst held-out accuracy of {len(scale.init_scales)} scales, less that "
                "without",
                values=difference(worst["before"], worst["none"]),
                margin=0.1,
                unit=POINTS,
            )
        ],
        plots=[draw(scale, accuracy)],
        table=to_markdown(
            ["held-out accuracy, %", *(f"× {init:g}" for init in scale.init_scales), "worst"],
            [
                [
                    IN_WORDS[norm],
                    *(with_spread(accuracy[norm, init], times=100) for init in scale.init_scales),
                    with_spread(worst[norm], times=100),
                ]
                for norm in NORMS
            ],
        ),
    )


def draw(scale: Scale, accuracy: dict[tuple[Norm, float], list[float]]) -> Plot:
    """Accuracy against the factor."""
    figure, (axes,) = new_figure("Scale of the initial weights")
    for norm in NORMS:
        lines = by_seed((accuracy[norm, init] for init in scale.init_scales), 100)
        draw_band(axes, scale.init_scales, lines, norm)
    axes.set_xscale("log")
    axes.set_xticks(scale.init_scales, [f"{init:g}" for init in scale.init_scales])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    label(axes, "factor on the initial weights", f"held-out accuracy after {scale.steps} steps, %")
    legend(axes, loc="lower center", bbox_to_anchor=(0.5, 0.2))
    shows = "Held-out accuracy against the scale of the initial weights, mean and range over the seeds"
    return Plot(name="initialisation.png", shows=shows, figure=figure)
