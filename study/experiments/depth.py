"""Depth, without shortcuts: accuracy after a number of steps, and each layer's gradient."""

import math
from collections.abc import Sequence

from study.claims import DECADES, NEGATIVE_DECADES, POINTS, Claim, difference
from study.experiments.depth_plots import draw_accuracy, draw_gradients
from study.experiments.tuning import column, runs_of, tune
from study.finding import Finding, with_spread
from study.lab import Measure, Result
from study.nets import IN_WORDS, Norm
from study.scale import Scale
from training.console import to_markdown

NORMS: tuple[Norm, ...] = ("before", "none")
RATES = tuple(2.0**exponent for exponent in (-8, -5, -2))
LATER = 100
Results = dict[tuple[Norm, int], list[Result]]


def study_depth(scale: Scale, measure: Measure) -> Finding:
    """Every depth with its own best learning rate."""
    results: Results = {}
    rates: dict[tuple[Norm, int], float] = {}
    for norm in NORMS:
        for depth in scale.depths:
            settings = {"depth": depth, "width": 8}
            run = {"norm": norm, "net_settings": settings, "steps": scale.depth_steps, "one_cycle": True}
            rates[norm, depth] = rate = tune(scale, measure, RATES, **run)
            # No claim is about the shallowest: it needs no more seeds than the first.
            seeds = scale.first if depth == scale.depths[0] else scale
            results[norm, depth] = measure(
                runs_of(seeds, learning_rate=rate, gradients_after=(0, LATER), **run)
            )
    accuracy = {key: column(found, "held_out_accuracy") for key, found in results.items()}
    return Finding(
        title="Depth",
        done=(
            f"Plain nets of depth {', '.join(map(str, scale.depths))}, {scale.depth_steps} steps of one "
            f"cycle, each at its best peak of {', '.join(f'{rate:.3g}' for rate in RATES)}, chosen with "
            "seeds of its own. Gradients are the norms ‖∂L/∂W‖ of each Conv on 256 rows in train mode, at "
            f"initialisation and after {LATER} steps. All begin with weights of He et al. 2015, which were "
            "made to keep gradients alive without BatchNorm."
        ),
        claims=[
            *(claim_trainable(depth, accuracy) for depth in scale.depths[1:]),
            *claims_on_gradients(scale.depths[-1], results),
        ],
        plots=[draw_accuracy(scale, accuracy), draw_gradients(scale, results, (0, LATER))],
        table=to_markdown(
            ["depth", *(f"{IN_WORDS[norm]}: {what}" for norm in NORMS for what in ("rate", "accuracy, %"))],
            [[str(depth), *to_row(depth, rates, accuracy)] for depth in scale.depths],
        ),
        remarks=[
            "Where gradients grow towards the input at initialisation, by about the same factor a layer: a "
            "mean-field theory of BatchNorm predicts that (Yang et al. 2019). The gradient of weights "
            "before a BatchNorm is at a right angle to them, and in inverse proportion to their length: "
            "large steps lengthen the weights and so shrink the gradient, which is why the picture is "
            "another one once training is under way."
        ],
    )


def claim_trainable(depth: int, accuracy: dict[tuple[Norm, int], list[float]]) -> Claim:
    """At one depth."""
    return Claim(
        text=f"BatchNorm makes deeper nets trainable (depth {depth})",
        measured_by="held-out accuracy, less that without",
        values=difference(accuracy["before", depth], accuracy["none", depth]),
        margin=0.1,
        unit=POINTS,
    )


def claims_on_gradients(depth: int, results: Results) -> list[Claim]:
    """At the largest depth: the first Conv's gradient over the last one's."""
    ratio = f"gradient of the first Conv over that of the last, depth {depth}"
    begins, goes_on = (falls_of(results["before", depth], step) for step in (0, LATER))
    without = falls_of(results["none", depth], 0)
    return [
        Claim(
            text="Without BatchNorm the gradients of a deep net vanish",
            measured_by=f"{ratio}, without BatchNorm, at initialisation",
            values=tuple(-fall for fall in without),
            margin=1.0,
            unit=NEGATIVE_DECADES,
        ),
        Claim(
            text="With BatchNorm they do not vanish",
            measured_by=f"{ratio}, at initialisation",
            values=begins,
            margin=-1.0,
            unit=DECADES,
        ),
        Claim(
            text="With BatchNorm gradients are of one size in all layers",
            measured_by=f"{ratio}, or the other way round, at initialisation",
            values=tuple(-abs(fall) for fall in begins),
            margin=-1.0,
            unit=NEGATIVE_DECADES,
        ),
        Claim(
            text="… and are so once training is under way",
            measured_by=f"{ratio}, or the other way round, after {LATER} steps",
            values=tuple(-abs(fall) for fall in goes_on),
            margin=-1.0,
            unit=NEGATIVE_DECADES,
        ),
    ]


def falls_of(results: Sequence[Result], step: int) -> tuple[float, ...]:
    """log₁₀ of the first Conv's gradient over the last one's; the final Linear is left out."""
    convs = [gradients_of_convs(result, step) for result in results]
    return tuple(math.log10(norms[0] / norms[-1]) for norms in convs)


def gradients_of_convs(result: Result, step: int) -> list[float]:
    """Norms from the first Conv to the last; those of the beginning for a run that ended before `step`."""
    norms: list[float] = result["gradients"].get(str(step), result["gradients"]["0"])[:-1]
    return norms


def to_row(
    depth: int, rates: dict[tuple[Norm, int], float], accuracy: dict[tuple[Norm, int], list[float]]
) -> list[str]:
    """Rate and accuracy, with and without."""
    texts = []
    for norm in NORMS:
        texts += [f"{rates[norm, depth]:.3g}", with_spread(accuracy[norm, depth], times=100)]
    return texts
