"""Classes of unequal size: does BatchNorm, whose statistics are mostly the frequent ones', suffer more?"""

import statistics

import torch

from study.claims import POINTS, Claim, difference
from study.experiments.tuning import by_seed, runs_of, tune
from study.finding import Finding, Plot, with_spread
from study.lab import Measure, Result
from study.nets import IN_WORDS, Norm
from study.plots import draw_band, label, legend, new_figure
from study.rows import load_rows
from study.scale import Scale
from training.console import to_markdown

NORMS: tuple[Norm, ...] = ("before", "none")
EQUAL, UNEQUAL = "equal", "unequal"
Case = tuple[Norm, str]
Results = dict[Case, list[Result]]


def study_imbalance(scale: Scale, measure: Measure) -> Finding:
    """As many train rows in both, once the same number of each class, once a long tail of rare ones."""
    counts = counts_of(scale)
    results: Results = {}
    for norm in NORMS:
        run = {"norm": norm, "steps": scale.steps, "one_cycle": True}
        rate = tune(scale, measure, scale.tuning_rates, **run)
        for name, of_classes in counts.items():
            results[norm, name] = measure(runs_of(scale, learning_rate=rate, class_counts=of_classes, **run))
    recall = {case: [statistics.fmean(each["recalls"]) for each in found] for case, found in results.items()}
    rare = {case: [recall_of_rare(each) for each in found] for case, found in results.items()}
    lost = {norm: difference(recall[norm, EQUAL], recall[norm, UNEQUAL]) for norm in NORMS}
    return Finding(
        title="Classes of unequal size",
        done=(
            f"{sum(counts[UNEQUAL]):,} train rows: from {counts[UNEQUAL][0]} of the largest class down to "
            f"{counts[UNEQUAL][-1]} of the smallest, each class by the same factor smaller than the one "
            f"before, or {counts[EQUAL][0]} of each. Which class is rare is drawn anew for each seed. "
            f"{scale.steps} steps of one cycle at the best rate of all rows; no class weights. Held-out rows "
            "are of all classes alike; recall is the mean over the classes, so that each counts the same."
        ),
        claims=[
            Claim(
                text="Unequal classes cost a net with BatchNorm more",
                measured_by="recall lost from equal to unequal classes, less what is lost without BatchNorm",
                values=difference(lost["before"], lost["none"]),
                margin=0.01,
                unit=POINTS,
            ),
            Claim(
                text="With BatchNorm rare classes are recognised better",
                measured_by="recall of the rarer half of the classes, less that without, classes unequal",
                values=difference(rare["before", UNEQUAL], rare["none", UNEQUAL]),
                margin=0.01,
                unit=POINTS,
            ),
        ],
        plots=[draw(counts[UNEQUAL], results)],
        table=to_markdown(
            ["", "classes", "recall, %", "rarer half, %"],
            [
                [
                    IN_WORDS[norm],
                    name,
                    with_spread(recall[norm, name], times=100),
                    with_spread(rare[norm, name], times=100),
                ]
                for norm, name in results
            ],
        ),
    )


def counts_of(scale: Scale) -> dict[str, tuple[int, ...]]:
    """Rows of each class, the largest first; the ratio of the largest to the smallest is the scale's."""
    rows = load_rows(scale.data, scale.num_rows)
    largest = int(torch.bincount(rows.train_y, minlength=rows.num_classes).min())
    shares = [scale.class_ratio ** (-rank / (rows.num_classes - 1)) for rank in range(rows.num_classes)]
    unequal = tuple(max(round(largest * share), 1) for share in shares)
    return {EQUAL: (sum(unequal) // len(unequal),) * len(unequal), UNEQUAL: unequal}


def recall_of_rare(result: Result) -> float:
    """Mean over the rarer half of the classes."""
    recalls: list[float] = result["recalls"]
    return statistics.fmean(recalls[len(recalls) // 2 :])


def draw(counts: tuple[int, ...], results: Results) -> Plot:
    """Recall against the class's rows, dashed where all classes have equally many."""
    figure, (axes,) = new_figure("Classes of unequal size")
    for (norm, name), found in results.items():
        lines = by_seed(zip(*(result["recalls"] for result in found), strict=True), 100)
        titled = f"{IN_WORDS[norm]}, classes {name}"
        draw_band(
            axes,
            range(1, len(counts) + 1),
            lines,
            norm,
            name=titled,
            dashed=name == EQUAL,
            range_too=name == UNEQUAL,
        )
    axes.set_xticks(range(1, len(counts) + 1), [str(count) for count in counts])
    axes.set_ylim(0, 102)
    label(axes, "train rows of the class, where they are unequal", "recall of the class, %")
    legend(axes, loc="lower left")
    shows = "Recall of each class, from the most frequent to the rarest, mean and range over the seeds"
    return Plot(name="imbalance.png", shows=shows, figure=figure)
