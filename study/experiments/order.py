"""BatchNorm before the activation, or after it."""

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import column, final_loss, runs_of, smooth, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.nets import Norm
from study.plots import draw_band, label, legend, new_figure
from study.scale import Scale
from training.console import to_markdown

ORDERS: dict[Norm, str] = {
    "before": "Conv → BN → ReLU",
    "after": "Conv → ReLU → BN",
    "none": "Conv → ReLU",
}
WINDOW = 10


def study_order(scale: Scale, measure: Measure) -> Finding:
    """Each at its own best learning rate."""
    cycle = {"steps": scale.steps, "one_cycle": True}
    rates = {norm: tune(scale, measure, scale.tuning_rates, norm=norm, **cycle) for norm in ORDERS}
    results = {
        norm: measure(runs_of(scale, norm=norm, learning_rate=rates[norm], **cycle)) for norm in ORDERS
    }
    accuracy = {norm: column(found, "held_out_accuracy") for norm, found in results.items()}
    return Finding(
        title="Before or after the activation",
        done=(
            f"{scale.steps} steps of one cycle, each net at its best peak, chosen with seeds of its own. The "
            "nets have the same Convs; after a ReLU, BatchNorm sees no negative numbers, and its Conv "
            "keeps a bias."
        ),
        claims=[
            Claim(
                text="BatchNorm belongs before the activation",
                measured_by="held-out accuracy with it before the ReLU, less that with it after",
                values=difference(accuracy["before"], accuracy["after"]),
                margin=0.005,
                unit=POINTS,
            ),
            Claim(
                text="BatchNorm after the activation works at least as well",
                measured_by="held-out accuracy with it after the ReLU, less that with it before",
                values=difference(accuracy["after"], accuracy["before"]),
                margin=-0.005,
                unit=POINTS,
            ),
        ],
        plots=[draw(scale, results)],
        table=to_markdown(
            ["", "peak", "final train loss", "held-out accuracy, %", "re-estimated, %"],
            [
                [
                    ORDERS[norm],
                    f"{rates[norm]:.3g}",
                    with_spread([final_loss(result) for result in found], 3),
                    with_spread(accuracy[norm], times=100),
                    with_spread(column(found, "recalibrated_held_out_accuracy"), times=100),
                ]
                for norm, found in results.items()
            ],
        ),
        remarks=["The last column is the same weights with statistics of their own."],
    )


def draw(scale: Scale, results: dict[Norm, list[Result]]) -> Plot:
    """Loss against steps."""
    figure, (axes,) = new_figure("Before or after the activation")
    for norm, found in results.items():
        curves = [smooth(result["losses"], WINDOW) for result in found if result["finished"]]
        if curves:
            steps = range(WINDOW, scale.steps + 1)
            draw_band(axes, steps, curves, norm, name=ORDERS[norm], markers=False)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    label(axes, "step", f"train loss, mean of {WINDOW} steps")
    legend(axes)
    shows = "Train loss against steps, mean and range over the seeds"
    return Plot(name="order.png", shows=shows, figure=figure)
