"""Where SGD, Adam and RMSprop come to from one initial point, and what lies between.

In: a net's settings and a rate for each optimizer.  Out: losses on straight lines and on a plane.

    line     L(a + t·(b − a)),  t in 0 … 1        for each two of the initial point and the three minima
    plane    L(sgd + x·e₁ + y·e₂)                 e₁, e₂: orthonormal, so that all three minima lie on it

L is the mean cross-entropy on SLICE_ROWS train rows, normalised by their own statistics: what training walks
on. A point is all parameters of a net, γ and β too. The initial point does not lie on the plane: it is
projected on it, with its distance from it (Im et al. 2016 draw such planes).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from study.measures import accuracy, to_json
from study.rows import load_rows
from study.short_run import ShortRun, descend
from study.surface import SLICE_ROWS

INITIAL, OPTIMIZERS = "initial", ("sgd", "adam", "rmsprop")
MARGIN = 0.25  # of the plane around its points, in their largest distance along an axis
Point = Tensor  # of every parameter, flat


@dataclass(frozen=True, kw_only=True)
class Minima:
    """`rates` has one for each of OPTIMIZERS; the plane has `points` on each side, or is left out for 0."""

    run: ShortRun
    rates: Mapping[str, float]
    points: int = 0
    line_points: int = 21

    def measure(self) -> dict[str, Any]:
        """Train three times from the same point on the same batches, then walk between."""
        rows, net = load_rows(self.run.data, self.run.num_rows), self.run.build()
        places = {INITIAL: parameters_to_vector(net.parameters()).detach().clone()}
        finished, accuracies = True, {}
        for optimizer in OPTIMIZERS:
            run = replace(self.run, optimizer=optimizer, learning_rate=self.rates[optimizer])
            net = run.build()
            finished &= sum(1 for _ in descend(net, rows, run)) == run.steps
            places[optimizer] = parameters_to_vector(net.parameters()).detach().clone()
            accuracies[optimizer] = accuracy(net.eval(), rows.held_out_x, rows.held_out_y)
        height = Height(net, rows.train_x[:SLICE_ROWS], rows.train_y[:SLICE_ROWS])
        return {
            "finished": finished,
            "accuracies": accuracies,
            "lines": {
                f"{one}-{other}": height.along(places[one], places[other], self.line_points)
                for one, other in itertools.combinations(places, 2)
            },
            "plane": walk_plane(height, places, self.points) if self.points else None,
        }


class Height:
    """The loss at any point; `net` is overwritten, and what it normalises by is always these rows' own."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor) -> None:
        self.net, self.x, self.y = net.train(), x, y

    def at(self, point: Point) -> float | None:
        """None where it is not finite."""
        vector_to_parameters(point, self.net.parameters())
        with torch.no_grad():
            return to_json(cross_entropy(self.net(self.x), self.y).item())

    def along(self, one: Point, other: Point, points: int) -> list[float | None]:
        """Losses from `one` to `other`, both included."""
        return [self.at(torch.lerp(one, other, t)) for t in torch.linspace(0, 1, points)]


def walk_plane(height: Height, places: Mapping[str, Point], points: int) -> dict[str, Any]:
    """The loss on a grid of the plane through the minima, a row for each y, and where the places are."""
    origin = places["sgd"]
    first = places["adam"] - origin
    first = first / first.norm()
    second = places["rmsprop"] - origin
    second = second - (second @ first) * first
    second = second / second.norm()
    spots = {name: [((at - origin) @ axis).item() for axis in (first, second)] for name, at in places.items()}
    x, y = zip(*spots.values(), strict=True)
    half = (0.5 + MARGIN) * max(max(x) - min(x), max(y) - min(y))
    sides = [torch.linspace(middle - half, middle + half, points) for middle in (_middle(x), _middle(y))]
    along, aside = spots[INITIAL]
    return {
        "x": [to_json(value.item()) for value in sides[0]],
        "y": [to_json(value.item()) for value in sides[1]],
        "surface": [
            [height.at(origin + at_x * first + at_y * second) for at_x in sides[0]] for at_y in sides[1]
        ],
        "places": {name: [to_json(number) for number in spot] for name, spot in spots.items()},
        "off_plane": (places[INITIAL] - origin - along * first - aside * second).norm().item(),
    }


def _middle(values: Sequence[float]) -> float:
    return (min(values) + max(values)) / 2
