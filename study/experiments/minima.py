"""The minima that SGD, Adam and RMSprop reach from one initial point, and what lies between all four."""

import itertools
import statistics

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from study.claims import LOSS, Claim
from study.experiments.surface import NETS, add_loss_bar, draw_losses, settings_of
from study.experiments.tuning import runs_of, tune
from study.finding import Finding, Plot, describe_nets, with_spread
from study.lab import Measure, Result
from study.minima import INITIAL, OPTIMIZERS, Minima
from study.nets import Norm
from study.rows import load_rows
from study.scale import Scale
from study.surface import SLICE_ROWS
from training.console import to_markdown
from training.figures.figure import INK, new_figure, tidy

NORMS: tuple[Norm, ...] = ("none", "before")
EXPONENTS = {"sgd": (-6, -5, -4, -3), "adam": (-9, -7, -5), "rmsprop": (-10, -8, -6)}
NAMES = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSprop", INITIAL: "initial point"}
COLORS = {"sgd": "#d1495b", "adam": "#1b6ca8", "rmsprop": "#e09f3e", INITIAL: "#6c757d"}
Case = tuple[str, Norm]
Results = dict[Case, list[Result]]


def study_minima(scale: Scale, measure: Measure) -> Finding:
    """Every net at the best rate of each optimizer."""
    results: Results = {}
    rates: dict[Case, dict[str, float]] = {}
    for net, norm in itertools.product(scale.slice_nets, NORMS):
        run = settings_of(net, norm, scale)
        rates[net, norm] = {
            optimizer: tune(scale, measure, [2.0**each for each in exponents], optimizer=optimizer, **run)
            for optimizer, exponents in EXPONENTS.items()
        }
        # The plane is drawn for the first seed alone.
        cells = [
            Minima(
                run=each,
                rates=rates[net, norm],
                points=0 if index else scale.slice_points,
                line_points=scale.line_points,
            )
            for index, each in enumerate(runs_of(scale, learning_rate=0.0, **run))
        ]
        results[net, norm] = measure(cells)
    tenth = load_rows(scale.data, scale.num_rows).guessing_loss / 10
    return Finding(
        title="The minima that three optimizers reach",
        done=(
            f"SGD, Adam and RMSprop from the same weights on the same batches, {scale.slice_steps} steps of "
            "one cycle, each at its best peak, chosen with seeds of its own. Then the mean cross-entropy of "
            f"{SLICE_ROWS} train rows (with BatchNorm: by the statistics of these rows) at "
            f"{scale.line_points} points of the straight line between each two of the three minima and the "
            "initial point, and on the plane through the three minima. A barrier is the largest loss on a "
            "line less the larger one of its two ends; margins are a tenth of the loss of guessing, "
            f"{tenth:.2f}. Nets as above: "
            f"{describe_nets({net: NETS[net] for net in scale.slice_nets})}."
        ),
        claims=[claim for case in results for claim in claims_of(case, results[case], tenth)],
        plots=[draw(scale, results)],
        table=to_markdown(
            [
                "net",
                *(f"{NAMES[optimizer]}: peak, train loss, held out %" for optimizer in OPTIMIZERS),
                "barrier between minima",
                "from the initial point",
            ],
            [to_row(case, rates[case], found) for case, found in results.items()],
        ),
        remarks=[
            "The initial point lies off the plane: on it stands its projection, and the lines below are the "
            "honest view of it. A straight line with a barrier does not show that no other way leads around."
        ],
    )


def claims_of(case: Case, found: list[Result], margin: float) -> list[Claim]:
    """Of one net with or without BatchNorm."""
    which = in_words(case)
    return [
        Claim(
            text=f"SGD, Adam and RMSprop end in different basins ({which})",
            measured_by="barrier on the straight line between two minima, mean of the three pairs",
            values=tuple(between_minima(each) for each in found),
            margin=margin,
            unit=LOSS,
        ),
        Claim(
            text=f"No barrier lies between the initial point and the minima ({which})",
            measured_by="barrier on the straight line, mean of the three, its sign reversed",
            values=tuple(-from_initial(each) for each in found),
            margin=-margin,
            unit=LOSS,
        ),
    ]


def in_words(case: Case) -> str:
    """Which net, with or without BatchNorm."""
    return f"{case[0]} {'with' if case[1] == 'before' else 'without'} BatchNorm"


def between_minima(result: Result) -> float:
    """Mean barrier over the pairs of optimizers."""
    pairs = itertools.combinations(OPTIMIZERS, 2)
    return statistics.fmean(barrier(result["lines"][f"{one}-{other}"]) for one, other in pairs)


def from_initial(result: Result) -> float:
    """Mean barrier over the optimizers."""
    return statistics.fmean(barrier(result["lines"][f"{INITIAL}-{each}"]) for each in OPTIMIZERS)


def barrier(line: list[float | None]) -> float:
    """The largest loss less the larger end; one that is not finite counts as ten times the larger end."""
    ends = [line[0], line[-1]]
    top = max(end for end in ends if end is not None)
    return max(10 * top if loss is None else loss for loss in line) - top


def to_row(case: Case, rates: dict[str, float], found: list[Result]) -> list[str]:
    """One line of the table."""
    return [
        in_words(case),
        *(
            f"{rates[optimizer]:.3g}; "
            f"{with_spread([each['lines'][f'{INITIAL}-{optimizer}'][-1] for each in found], 3)}; "
            f"{with_spread([each['accuracies'][optimizer] for each in found], times=100)}"
            for optimizer in OPTIMIZERS
        ),
        with_spread([between_minima(each) for each in found], 2),
        with_spread([from_initial(each) for each in found], 2),
    ]


def draw(scale: Scale, results: Results) -> Plot:
    """A column for each net: the plane above, the straight lines below; the first seed."""
    figure = new_figure(3.1 * len(results) + 0.9, 6.4, "The minima that three optimizers reach")
    panels = figure.subplots(2, len(results), squeeze=False)
    guessing = load_rows(scale.data, scale.num_rows).guessing_loss
    levels = np.geomspace(guessing / 128, guessing * 8, 21)
    for (net, norm), plane, lines in zip(results, *panels, strict=True):
        first = results[net, norm][0]
        draw_plane(plane, first["plane"], levels, guessing)
        plane.set_title(in_words((net, norm)), loc="left", color=INK, fontsize=10)
        draw_lines(lines, first["lines"], guessing)
    panels[0][0].set_ylabel("distance in the plane of the minima", color=INK, fontsize=9)
    panels[1][0].set_ylabel("train loss on straight lines", color=INK, fontsize=9)
    # The second of a net is with BatchNorm: its lines leave that corner free.
    panels[1][1].legend(
        frameon=False,
        labelcolor=INK,
        fontsize=8,
        handlelength=3,
        loc="upper right",
        bbox_to_anchor=(1, 0.92),
    )
    add_loss_bar(figure, list(panels[0]), levels)
    shows = (
        "Above: train loss on the plane through the minima of SGD, Adam and RMSprop, with the projection of "
        "the initial point (hollow). Below: on straight lines from the initial point to each minimum "
        "(colours), and between minima (grey). First seed"
    )
    return Plot(name="minima.png", shows=shows, figure=figure)


def draw_plane(axes: Axes, plane: Result, levels: np.ndarray, guessing: float) -> None:
    """Loss as colour, each minimum as a dot, the initial point's projection as a hollow one."""
    draw_losses(axes, plane["x"], plane["y"], plane["surface"], levels, guessing)
    for name, (x, y) in plane["places"].items():
        face = "none" if name == INITIAL else COLORS[name]
        axes.scatter([x], [y], facecolors=face, edgecolors="white", s=46, linewidths=1.3, zorder=3)
        text = f"{NAMES[name]},\n{plane['off_plane']:.0f} off the plane" if name == INITIAL else NAMES[name]
        axes.annotate(
            text, (x, y), xytext=(0, 7), textcoords="offset points", color="white", ha="center", fontsize=8
        )


def draw_lines(axes: Axes, lines: dict[str, list[float | None]], guessing: float) -> None:
    """Loss against the share of the way; a gap where it is not finite."""
    tidy(axes)
    losses = {ends: np.asarray(line, dtype=np.float64) for ends, line in lines.items()}  # None: NaN
    share = np.linspace(0, 1, len(next(iter(losses.values()))))
    for optimizer in OPTIMIZERS:
        line, name = losses[f"{INITIAL}-{optimizer}"], f"initial → {NAMES[optimizer]}"
        axes.plot(share, line, color=COLORS[optimizer], linewidth=2, label=name)
    for (one, other), style in zip(itertools.combinations(OPTIMIZERS, 2), ("--", "-.", ":"), strict=True):
        line, name = losses[f"{one}-{other}"], f"{NAMES[one]} → {NAMES[other]}"
        axes.plot(share, line, color=INK, linewidth=1.3, linestyle=style, label=name)
    axes.axhline(guessing, color=INK, linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_xlabel("share of the way; thin line: guessing", color=INK, fontsize=9)
