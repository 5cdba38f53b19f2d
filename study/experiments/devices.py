"""A batch shared by several devices: statistics of each share, or of the whole (SyncBatchNorm)."""

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import by_seed, column, runs_of, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.nets import Norm
from study.plots import COLORS, draw_band, draw_seeds, label, legend, new_figure, use_powers_of_two
from study.scale import Scale
from training.console import to_markdown

BATCH = 32
HELD_OUT, HELD_OUT_AGAIN = "held_out_accuracy", "recalibrated_held_out_accuracy"
OWN: dict[str, tuple[str, Norm]] = {
    HELD_OUT: ("own statistics", "none"),
    HELD_OUT_AGAIN: ("own statistics, re-estimated at the end", "after"),
}


def study_devices(scale: Scale, measure: Measure) -> Finding:
    """The gradient is that of the whole batch in all of them; only what BatchNorm sees differs."""
    run = {"norm": "before", "steps": scale.batch_rows // BATCH, "one_cycle": True}
    run["learning_rate"] = rate = tune(scale, measure, scale.tuning_rates, **run)
    whole = measure(runs_of(scale, **run))
    fewest = scale.rows_per_device[0]
    # Only what a claim compares needs the seeds of later looks.
    shared = {
        rows: measure(runs_of(scale if rows == fewest else scale.first, rows_per_device=rows, **run))
        for rows in scale.rows_per_device
    }
    synced, own = column(whole, HELD_OUT), column(shared[fewest], HELD_OUT)
    return Finding(
        title="A batch on several devices",
        done=(
            f"Batches of {BATCH} rows, {run['steps']} steps of one cycle up to {rate:.3g}. Each batch is "
            "cut into shares as DistributedDataParallel cuts it: each share is normalised by its own "
            "statistics, the gradient is the whole batch's, the running averages are the first device's. "
            "One process plays that exactly: share after share, gradients added up. SyncBatchNorm pools "
            "the statistics of all shares, which is what one process with the whole batch does, and so it "
            "was run; the project's tests hold processes with SyncBatchNorm to the losses of one. Shares of "
            f"more than {fewest} rows have {len(scale.first.seeds)} seeds."
        ),
        claims=[
            Claim(
                text="SyncBatchNorm repairs small shares",
                measured_by=f"held-out accuracy with it, less that without, {fewest} rows a device",
                values=difference(synced, own),
                margin=0.01,
                unit=POINTS,
            ),
            Claim(
                text="Re-estimated statistics do for small shares what SyncBatchNorm does",
                measured_by=f"held-out accuracy re-estimated, less that with SyncBatchNorm, {fewest} rows a "
                "device",
                values=difference(column(shared[fewest], HELD_OUT_AGAIN), synced),
                margin=-0.01,
                unit=POINTS,
            ),
        ],
        plots=[draw(scale, synced, shared)],
        table=to_markdown(
            ["rows a device", "held out, %", "re-estimated, %"],
            [
                [name, *(with_spread(column(found, key), times=100) for key in OWN)]
                for name, found in [
                    *((str(rows), found) for rows, found in shared.items()),
                    (f"{BATCH}, or SyncBatchNorm", whole),
                ]
            ],
        ),
    )


def draw(scale: Scale, synced: list[float], shared: dict[int, list[Result]]) -> Plot:
    """Held-out accuracy against rows a device, and with SyncBatchNorm at the right end."""
    figure, (axes,) = new_figure(f"A batch of {BATCH} rows on several devices")
    places = (*scale.rows_per_device, BATCH)
    use_powers_of_two(axes, places)
    for (key, (name, color)), shift in zip(OWN.items(), (-0.04, 0.04), strict=True):
        lines = by_seed((column(found, key) for found in shared.values()), 100)
        draw_band(axes, scale.rows_per_device, lines, color, name=name, range_too=False)
        draw_seeds(axes, scale.rows_per_device, lines, color, shift=shift)
    accuracies = [100 * value for value in synced]
    axes.axhline(sum(accuracies) / len(synced), color=COLORS["before"], linewidth=2, label="SyncBatchNorm")
    draw_seeds(axes, [BATCH], [[accuracy] for accuracy in accuracies], "before")
    label(axes, f"rows a device, of {BATCH}", "held-out accuracy, %")
    legend(axes, loc="lower right")
    shows = "Held-out accuracy against rows a device: the mean, and each seed as a dot"
    return Plot(name="devices.png", shows=shows, figure=figure)
