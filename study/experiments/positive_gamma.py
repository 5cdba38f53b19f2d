"""What `--positive-gamma` costs, by which pre-activation nets fold completely."""

import statistics
from typing import Any

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import column, runs_of
from study.finding import Finding, Plot, describe_nets, with_spread
from study.lab import Measure, Result
from study.plots import COLORS, label, new_figure
from study.scale import Scale
from training.console import to_markdown
from training.figures.figure import INK

NETS: dict[str, dict[str, Any]] = {
    "cnn": {"channels": (16, 32), "kernels": (3, 3)},
    "preact-resnet": {"depth": 8, "width": 8},
}
BEGINNINGS = (1.0, 0.05)
COST = 0.005
Case = tuple[str, float]


def study_positive_gamma(scale: Scale, measure: Measure) -> Finding:
    """With and without the flag, from the usual beginning, and from one where the flag has work to do."""
    cases = [(net, gamma) for net in scale.gamma_nets for gamma in BEGINNINGS]
    results = {
        (case, positive): measure(
            runs_of(
                # From 1 no γ comes near the floor, and both runs are one: the first seeds show it.
                scale.first if case[1] == BEGINNINGS[0] else scale,
                net=case[0],
                net_settings=NETS[case[0]],
                gamma=case[1],
                norm="before",
                steps=scale.gamma_steps,
                learning_rate=0.1,
                one_cycle=True,
                weight_decay=2e-3,
                positive_gamma=positive,
            )
        )
        for case in cases
        for positive in (False, True)
    }
    gains = {
        case: difference(
            column(results[case, True], "held_out_accuracy"),
            column(results[case, False], "held_out_accuracy"),
        )
        for case in cases
    }
    return Finding(
        title="The price of a positive γ",
        done=(
            f"{scale.gamma_steps} steps of 32 rows with the schedule, the learning rate (0.1) and the "
            "weight decay (0.002) of `python -m training`, without augmentation. `--positive-gamma` lifts "
            "each γ to at least 2⁻⁷ after each step. γ begins at 1 as usual; and at 0.05, from where many "
            "would change their sign if they might. Nets: "
            f"{describe_nets({net: NETS[net] for net in scale.gamma_nets})}."
        ),
        claims=[
            Claim(
                text=f"`--positive-gamma` costs no accuracy ({describe(case)})",
                measured_by=f"held-out accuracy with it, less that without ({at_floor(results[case, True])})",
                values=gains[case],
                margin=-COST,
                unit=POINTS,
            )
            for case in cases
        ],
        plots=[draw(gains)],
        table=to_markdown(
            ["net", "free: held out, %", "positive: held out, %", "γ", "free: below 0", "positive: at 2⁻⁷"],
            [to_row(case, results[case, False], results[case, True]) for case in cases],
        ),
        remarks=["Where no γ comes down to 2⁻⁷ the flag changes nothing, and costs nothing for that reason."],
    )


def describe(case: Case) -> str:
    """In words."""
    return f"{case[0]}, γ from {case[1]:g}"


def at_floor(positive: list[Result]) -> str:
    """Whether the flag had anything to do."""
    return f"{statistics.fmean(column(positive, 'gammas_at_floor')):.0f} of {positive[0]['gammas']} γ at 2⁻⁷"


def to_row(case: Case, free: list[Result], positive: list[Result]) -> list[str]:
    """One line of the table."""
    return [
        describe(case),
        *(with_spread(column(results, "held_out_accuracy"), times=100) for results in (free, positive)),
        str(free[0]["gammas"]),
        with_spread(column(free, "gammas_below_zero")),
        with_spread(column(positive, "gammas_at_floor")),
    ]


def draw(gains: dict[Case, tuple[float, ...]]) -> Plot:
    """A dot for each seed, and the mean."""
    title = "Accuracy with a positive γ, less that without"
    figure, (axes,) = new_figure(title, height=1.4 + 0.6 * len(gains))
    for height, values in enumerate(gains.values()):
        in_points = [100 * value for value in values]
        axes.scatter(in_points, [height] * len(values), color=COLORS["before"], alpha=0.6, s=36, zorder=3)
        mean = sum(in_points) / len(in_points)
        axes.plot([mean, mean], [height - 0.2, height + 0.2], color=COLORS["none"], linewidth=2, zorder=4)
        axes.annotate(
            f"{mean:+.2f}", (mean, height - 0.24), color=COLORS["none"], ha="center", va="bottom", fontsize=9
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvline(-100 * COST, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(gains)), [describe(case) for case in gains])
    axes.set_ylim(len(gains) - 0.6, -0.7)
    axes.grid(axis="y", visible=False)
    label(axes, "percentage points; dotted: half a point below", "a dot for each seed, a stroke for the mean")
    shows = "Difference in held-out accuracy, a dot for each seed"
    return Plot(name="positive-gamma.png", shows=shows, figure=figure)
