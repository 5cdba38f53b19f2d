"""Batches of 2 to 256 rows: the gap between train and eval mode, and what re-estimated statistics repair."""

import statistics

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import by_seed, column, runs_of, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.measures import COMPARED_ROWS, RECALIBRATION_ROWS
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure, use_powers_of_two
from study.scale import Scale
from training.console import to_markdown

NORMS: tuple[Norm, ...] = ("before", "none")
USUAL, TUNED_AT = 32, 128
MIN_ERROR = 0.1  # of what is drawn, in %
HELD_OUT, HELD_OUT_AGAIN = "held_out_accuracy", "recalibrated_held_out_accuracy"
BY_BATCH, BY_RUNNING, AGAIN = "train_mode_accuracy", "eval_mode_accuracy", "recalibrated_eval_mode_accuracy"
HEAD = (
    "rows in a batch;without: held out, %;with: held out, %;re-estimated;"
    "train rows: train mode, %;eval mode;re-estimated"
)
Results = dict[tuple[Norm, int], list[Result]]


def study_batch_size(scale: Scale, measure: Measure) -> Finding:
    """As many rows for every size of batch, and a learning rate in proportion to it."""
    results: Results = {}
    rates: dict[Norm, float] = {}
    for norm in NORMS:
        run = {"norm": norm, "one_cycle": True}
        steps = scale.batch_rows // TUNED_AT
        rates[norm] = tune(scale, measure, scale.tuning_rates, batch_size=TUNED_AT, steps=steps, **run)
        for size in scale.batch_sizes:
            rate, steps = rates[norm] * size / TUNED_AT, scale.batch_rows // size
            # Only what a claim compares needs the seeds of later looks.
            seeds = scale if size in (scale.batch_sizes[0], USUAL) else scale.first
            cells = runs_of(seeds, batch_size=size, steps=steps, learning_rate=rate, **run)
            results[norm, size] = measure(cells)
    return Finding(
        title="Size of the batch",
        done=(
            f"{scale.batch_rows:,} rows are seen whatever the size, in one cycle of the learning rate, "
            f"whose peak is in proportion to the size ({rates['before']:.3g} with BatchNorm and "
            f"{rates['none']:.3g} without at {TUNED_AT} rows, each the best there). Train and eval mode are "
            f"compared by their accuracy on the same {COMPARED_ROWS:,} train rows with the same "
            "weights: each batch of the size trained with normalised by itself, and all normalised by the "
            f"running averages. Re-estimated statistics (`--recalibrate-bn`) are of {COMPARED_ROWS:,} "
            f"train rows in batches of {RECALIBRATION_ROWS}. Sizes other than {scale.batch_sizes[0]} and "
            f"{USUAL} have {len(scale.first.seeds)} seeds."
        ),
        claims=claims_of(results, scale.batch_sizes[0]),
        plots=[draw(scale, results)],
        table=to_markdown(
            HEAD.split(";"),
            [to_row(size, results) for size in scale.batch_sizes],
        ),
        remarks=[describe_gap(scale, results)],
    )


def claims_of(results: Results, smallest: int) -> list[Claim]:
    """Of the smallest size beside the usual one."""
    usual = {norm: column(results[norm, USUAL], HELD_OUT) for norm in NORMS}
    small = {norm: column(results[norm, smallest], HELD_OUT) for norm in NORMS}
    lost = {norm: difference(usual[norm], small[norm]) for norm in NORMS}
    found = results["before", smallest]
    return [
        Claim(
            text="Small batches hurt BatchNorm",
            measured_by=f"held-out accuracy lost from {USUAL} rows to {smallest}, less what is lost without "
            "BatchNorm",
            values=difference(lost["before"], lost["none"]),
            margin=0.01,
            unit=POINTS,
        ),
        Claim(
            text="Small batches part train mode from eval mode",
            measured_by=f"accuracy in eval mode less that in train mode, up or down, {smallest} rows in a "
            "batch",
            values=tuple(map(abs, difference(column(found, BY_RUNNING), column(found, BY_BATCH)))),
            margin=0.01,
            unit=POINTS,
        ),
        Claim(
            text="Re-estimated statistics repair small batches",
            measured_by=f"held-out accuracy with them, less that with running averages, {smallest} rows in "
            "a batch",
            values=difference(column(found, HELD_OUT_AGAIN), small["before"]),
            margin=0.01,
            unit=POINTS,
        ),
    ]


def describe_gap(scale: Scale, results: Results) -> str:
    """Which mode is the better one, at either end."""
    modes = []
    for size in (scale.batch_sizes[0], scale.batch_sizes[-1]):
        found = results["before", size]
        gap = statistics.fmean(difference(column(found, BY_RUNNING), column(found, BY_BATCH)))
        better = "better" if gap > 0 else "worse"
        modes.append(f"{100 * abs(gap):.1f} points {better} with {size} rows in a batch")
    return (
        f"On the train rows eval mode is {' and '.join(modes)}. In train mode a row is normalised by its few "
        "neighbours, and that noise is gone in eval mode. Large batches make few steps "
        f"({scale.batch_rows // scale.batch_sizes[-1]} here): running averages then describe weights that "
        "are outdated, which is what re-estimation repairs."
    )


def to_row(size: int, results: Results) -> list[str]:
    """One line of the table."""
    texts = [with_spread(column(results["none", size], HELD_OUT), times=100)]
    for key in (HELD_OUT, HELD_OUT_AGAIN, BY_BATCH, BY_RUNNING, AGAIN):
        texts.append(with_spread(column(results["before", size], key), times=100))
    return [str(size), *texts]


def draw(scale: Scale, results: Results) -> Plot:
    """Held-out error on the left; both modes on the same train rows on the right."""
    figure, (held_out, modes) = new_figure("Size of the batch", panels=2)
    curves: tuple[tuple[Axes, Norm, str, Norm, str], ...] = (
        (held_out, "none", HELD_OUT, "none", IN_WORDS["none"]),
        (held_out, "before", HELD_OUT, "before", IN_WORDS["before"]),
        (held_out, "before", HELD_OUT_AGAIN, "after", f"{IN_WORDS['before']}, re-estimated"),
        (modes, "before", BY_BATCH, "none", "train mode: by its batch"),
        (modes, "before", BY_RUNNING, "before", "eval mode: by running averages"),
        (modes, "before", AGAIN, "after", "eval mode, re-estimated"),
    )
    for axes, norm, key, color, name in curves:
        accuracies = by_seed((column(results[norm, size], key) for size in scale.batch_sizes), 100)
        errors = [[max(100 - accuracy, MIN_ERROR) for accuracy in line] for line in accuracies]
        draw_band(axes, scale.batch_sizes, errors, color, name=name)
    label(held_out, "rows in a batch", "held-out error, %")
    label(modes, "rows in a batch", "error on the same train rows, with BatchNorm, %")
    for axes in (held_out, modes):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        use_powers_of_two(axes, scale.batch_sizes)
        legend(axes, loc="upper left")
    shows = "Error against the size of the batch, on a logarithmic scale, mean and range over the seeds"
    return Plot(name="batch-size.png", shows=shows, figure=figure)
