"""Surfaces of the loss: a slice around a trained net, and what lies between three optimizers' minima."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from study.minima import INITIAL, OPTIMIZERS, Minima
from study.nets import build_study_net
from study.short_run import descend
from study.surface import SLICE_ROWS, Slice, axis, draw_direction, walk
from study_kit import a_run
from training_kit import FACTS

DEEP = {"depth": 8, "width": 4}


pytestmark = pytest.mark.usefixtures("tiny_data")


def built(norm="before"):
    return build_study_net("plain", DEEP, norm, FACTS, seed=3)


def sliced(norm: str, points: int = 3) -> tuple[Slice, dict]:
    settings = {"channels": (4, 6), "convs": (1, 1), "hidden": 8}
    cell = Slice(run=a_run(net="vgg", net_settings=settings, norm=norm, steps=6), points=points)
    return cell, cell.measure()


@pytest.mark.parametrize("norm", ["before", "none"])
def test_the_middle_of_a_surface_is_the_trained_net(rows, norm):
    cell, result = sliced(norm)
    net = cell.run.build()
    assert sum(1 for _ in descend(net, rows, cell.run)) == 6
    x, y = rows.train_x[:SLICE_ROWS], rows.train_y[:SLICE_ROWS]
    assert set(result["surfaces"]) == ({"batch", "running"} if norm == "before" else {"running"})
    assert result["axis"] == [-1.0, 0.0, 1.0]
    middles = {}
    for name, surface in result["surfaces"].items():
        twin = copy.deepcopy(net).train(name == "batch")
        with torch.no_grad():
            middles[name] = cross_entropy(twin(x), y).item()
        assert surface[1][1] == pytest.approx(middles[name], rel=1e-5)
        assert min(abs(surface[row][column] - surface[1][1]) for row in (0, 2) for column in (0, 2)) > 1e-3
    if norm == "before":
        assert abs(middles["batch"] - middles["running"]) > 1e-3, "or nothing was told apart"


def test_directions_have_the_lengths_of_the_nets_own_filters():
    net = built()
    direction = draw_direction(net, torch.Generator().manual_seed(0))
    for parameter, along in zip(net.parameters(), direction, strict=True):
        if parameter.ndim <= 1:
            assert not along.any()
            continue
        for own, drawn in zip(parameter.detach(), along, strict=True):
            assert drawn.norm().item() == pytest.approx(own.norm().item(), rel=1e-5)
            cosine = (own * drawn).sum() / own.norm() ** 2
            assert abs(cosine) < 0.99, "another direction"


def test_a_walk_goes_where_it_says(rows):
    net = built("none")
    centre = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    one, other = draw_direction(net, generator), draw_direction(net, generator)
    x, y = rows.train_x[:20], rows.train_y[:20]
    surface = walk(net, (one, other), [-0.5, 0.0, 0.5], x, y)
    with torch.no_grad():
        for parameter, alpha_step, beta_step in zip(centre.parameters(), one, other, strict=True):
            parameter += 0.5 * alpha_step - 0.5 * beta_step
        assert surface[0][2] == pytest.approx(cross_entropy(centre(x), y).item(), rel=1e-4)
    assert surface[0][2] != surface[2][0]


def test_a_loss_that_is_no_number_is_none_on_the_surface(rows):
    net = built("none")
    directions = [torch.full_like(parameter, torch.inf) for parameter in net.parameters()]
    surface = walk(net, (directions, directions), [0.5, 1.0], rows.train_x[:4], rows.train_y[:4])
    assert surface == [[None, None], [None, None]]


def test_the_axis_has_a_middle():
    assert axis(5) == [-1.0, -0.5, 0.0, 0.5, 1.0]


SMALL_VGG = {"channels": (4, 6), "convs": (1, 1), "hidden": 8}
RATES = {"sgd": 0.05, "adam": 0.01, "rmsprop": 0.003}


@pytest.mark.parametrize("norm", ["before", "none"])
def test_lines_and_planes_pass_through_the_minima_of_three_optimizers(rows, norm):
    run = a_run(net="vgg", net_settings=SMALL_VGG, norm=norm, steps=6, learning_rate=0.0)
    cell = Minima(run=run, rates=RATES, points=5, line_points=5)
    result = cell.measure()
    assert result["finished"]
    x, y = rows.train_x[:SLICE_ROWS], rows.train_y[:SLICE_ROWS]
    losses, weights = {}, {}
    for name in (INITIAL, *OPTIMIZERS):
        net = run.build()
        if name != INITIAL:
            own = replace(run, optimizer=name, learning_rate=RATES[name])
            assert sum(1 for _ in descend(net, rows, own)) == 6
        weights[name] = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
        with torch.no_grad():
            losses[name] = cross_entropy(net.train()(x), y).item()
    assert len(set(losses.values())) == 4
    for one, other in itertools.combinations(losses, 2):
        line = result["lines"][f"{one}-{other}"]
        assert len(line) == 5
        assert (line[0], line[-1]) == pytest.approx((losses[one], losses[other]), rel=1e-4)
    plane, places = result["plane"], result["plane"]["places"]
    assert places["sgd"] == [0, 0]
    for one, other in itertools.combinations(OPTIMIZERS, 2):
        apart = sum((a - b) ** 2 for a, b in zip(places[one], places[other], strict=True)) ** 0.5
        assert apart == pytest.approx((weights[one] - weights[other]).norm().item(), rel=1e-3)
    projected = sum(value**2 for value in places[INITIAL])
    whole = (weights[INITIAL] - weights["sgd"]).norm().item() ** 2
    assert projected + plane["off_plane"] ** 2 == pytest.approx(whole, rel=1e-3)
    for name in places:
        assert all(
            min(plane[side]) < at < max(plane[side]) for side, at in zip("xy", places[name], strict=True)
        )
    assert replace(cell, points=0).measure() == {**result, "plane": None}, "the plane is beside the rest"
