"""A slice through the loss surface, along two random directions (Li et al. 2018).

In: a net that is trained first, by the same settings as every other run.  Out: losses on a square grid.

    f(α, β) = L(θ + α·δ + β·η)      α, β in −1 … 1      L: mean cross-entropy on SLICE_ROWS train rows
    δ_f ~ N(0, 1), then δ_f ← δ_f · ‖θ_f‖ / ‖δ_f‖      for each filter f: an output of a Conv or of a Linear

Biases, γ and β stay where they are, as in the paper. Directions are as long as the filters because the
length of a filter means nothing where a BatchNorm follows it: twice as long, the loss is the same,
and a step of fixed size is half as wide. What BatchNorm normalises by decides what the surface is, so both
are measured:

    batch       statistics of the rows themselves, at every point: what training walks on
    running     the running averages of the trained net, at every point: a net with a fixed scale and shift
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from study.measures import to_json
from study.rows import load_rows
from study.short_run import ShortRun, descend
from training.loop.chance import seeded_generator

SLICE_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Slice:
    """`points` on each side of the grid; the middle one is the trained net, so they are odd."""

    run: ShortRun
    points: int

    def measure(self) -> dict[str, Any]:
        """Train, then walk; a surface for each way to normalise."""
        rows, net = load_rows(self.run.data, self.run.num_rows), self.run.build()
        steps = sum(1 for _ in descend(net, rows, self.run))
        x, y = rows.train_x[:SLICE_ROWS], rows.train_y[:SLICE_ROWS]
        generator = seeded_generator(self.run.seed, "directions")
        directions = draw_direction(net, generator), draw_direction(net, generator)
        return {
            "finished": steps == self.run.steps,
            "axis": axis(self.points),
            "surfaces": {
                name: walk(copy.deepcopy(net).train(name == "batch"), directions, axis(self.points), x, y)
                for name in (("running",) if self.run.norm == "none" else ("batch", "running"))
            },
        }


def axis(points: int) -> list[float]:
    """−1 … 1, with 0 in the middle exactly."""
    half = points // 2
    return [step / half for step in range(-half, half + 1)]


def draw_direction(net: nn.Module, generator: Generator) -> list[Tensor]:
    """Of each parameter's shape; its filters are as long as the net's, and what has one dimension is zero."""
    direction = []
    for parameter in net.parameters():
        if parameter.ndim <= 1:
            direction.append(torch.zeros_like(parameter))
            continue
        drawn = torch.randn(parameter.shape, generator=generator)
        lengths = [tensor.flatten(1).norm(dim=1) for tensor in (parameter.detach(), drawn)]
        direction.append(drawn * (lengths[0] / lengths[1]).view(-1, *[1] * (parameter.ndim - 1)))
    return direction


def walk(
    net: nn.Module, directions: tuple[list[Tensor], list[Tensor]], steps: list[float], x: Tensor, y: Tensor
) -> list[list[float | None]]:
    """Loss at every point, a row for each β; None where it is not finite. `net` is overwritten."""
    parameters = list(net.parameters())
    centre = [parameter.detach().clone() for parameter in parameters]
    surface = []
    with torch.no_grad():
        for beta in steps:
            losses = []
            for alpha in steps:
                for parameter, at, one, other in zip(parameters, centre, *directions, strict=True):
                    parameter.copy_(at + alpha * one + beta * other)
                losses.append(to_json(cross_entropy(net(x), y).item()))
            surface.append(losses)
    return surface
