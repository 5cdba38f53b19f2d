"""What a study measures of nets: gradients, shares of a batch, surfaces; all beside other arithmetic."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy

from distributed_kit import processes
from study.measures import SATURATED, SMALLEST, accuracies, accuracy, gradient_norms, saturation
from study.nets import Plain, build_study_net, weights_of
from study.scale import QUICK, Scale, describe_left_out
from study.short_run import accumulate_gradients, descend
from study_kit import a_run
from training.batchnorm.statistics import SMALLEST_GAMMA, find_batchnorms
from training.nets.variant import Shift, remove_batchnorms
from training_kit import FACTS

DEEP = {"depth": 8, "width": 4}


pytestmark = pytest.mark.usefixtures("tiny_data")


def built(norm="before", **changes) -> nn.Module:
    return build_study_net("plain", DEEP, norm, FACTS, seed=changes.pop("seed", 3), **changes)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_the_gradient_of_a_softmax_layer_is_what_calculus_says(rows):
    """∂L/∂W = (softmax(x W) − one-hot)ᵀ x / n."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)).double()
    x, y = rows.train_x[:50].double(), rows.train_y[:50]
    wrong = net(x).softmax(1) - nn.functional.one_hot(y, 10)
    by_hand = (wrong.T @ x.flatten(1) / len(y)).norm().item()
    assert gradient_norms(net, x, y) == [pytest.approx(by_hand, rel=1e-12)]


@pytest.mark.parametrize("norm", ["before", "after", "none"])
def test_each_layers_gradient_is_that_of_a_backward_pass(rows, norm):
    net = built(norm).double()
    x, y = rows.train_x.double(), rows.train_y
    before = state(net)
    norms = gradient_norms(net, x, y)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.train()
    cross_entropy(net(x), y).backward()
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == DEEP["depth"] == len(norms)
    assert norms == pytest.approx(
        [layer.weight.grad.square().sum().sqrt().item() for layer in layers], rel=1e-12
    )


def test_a_gradient_that_is_gone_has_a_logarithm(rows):
    net = built("none")
    with torch.no_grad():
        net.layers[1].bias.fill_(-1e9)  # every ReLU after it is off
    assert set(gradient_norms(net, rows.train_x, rows.train_y)) == {SMALLEST}
    assert min(gradient_norms(built("none"), rows.train_x, rows.train_y)) > SMALLEST


def test_with_and_without_batchnorm_a_seed_begins_with_the_same_weights():
    nets = {norm: built(norm) for norm in ("before", "after", "none")}
    for one, *others in zip(*(weights_of(net) for net in nets.values()), strict=True):
        assert all(torch.equal(one, other) for other in others)
    counts = {norm: len(find_batchnorms(net)) for norm, net in nets.items()}
    assert counts == {"before": 7, "after": 7, "none": 0}
    assert not torch.equal(weights_of(built(seed=4))[0], weights_of(nets["none"])[0])
    for one, other in zip(weights_of(built(init_scale=3.0)), weights_of(nets["before"]), strict=True):
        assert torch.equal(one, 3.0 * other)


def test_the_orders_are_what_they_are_called():
    kinds = {
        norm: [type(layer).__name__ for layer in built(norm).layers[:4]]
        for norm in ("before", "after", "none")
    }
    assert kinds["before"] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert kinds["after"] == ["Conv2d", "Shift", "ReLU", "BatchNorm2d"]
    assert kinds["none"] == ["Conv2d", "Shift", "ReLU", "Conv2d"]
    assert isinstance(built(), Plain)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)], ids=["NC", "NCHW"])
def test_a_shift_is_a_bias_per_channel(shape):
    shift, x = Shift(3), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shift(x), x)
    with torch.no_grad():
        shift.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    for channel in range(3):
        assert torch.equal(shift(x)[:, channel], x[:, channel] + (channel + 1))


def test_any_net_can_lose_its_batchnorms(rows):
    net = build_study_net("vgg", {"channels": (4, 6), "convs": (1, 2), "hidden": 8}, "before", FACTS, seed=0)
    assert len(find_batchnorms(net)) == 4
    remove_batchnorms(net)
    assert not find_batchnorms(net)
    assert net(rows.train_x[:2]).shape == (2, 10)


def test_the_parts_of_a_batch_are_normalised_by_themselves(rows):
    """Gradients of 4 parts of 8 rows, each normalised alone, are the mean of 4 backward passes."""
    x, y = rows.train_x[:32].double(), rows.train_y[:32]
    net = built().double().train()
    expected, first = copy.deepcopy(net), copy.deepcopy(net)
    loss = accumulate_gradients(net, x, y, 8)
    parts = [cross_entropy(expected(x[at : at + 8]), y[at : at + 8]) for at in range(0, 32, 8)]
    torch.stack(parts).mean().backward()
    assert loss == pytest.approx(torch.stack(parts).mean().item(), rel=1e-12)
    for one, other in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-14)
    first(x[:8])
    for norm, seen, all_parts in zip(*map(find_batchnorms, (net, first, expected)), strict=True):
        assert torch.equal(norm.running_mean, seen.running_mean), "the first device's are kept"
        assert not torch.allclose(norm.running_mean, all_parts.running_mean)
        assert norm.momentum == 0.1
    whole = built().double().train()
    accumulate_gradients(whole, x, y, 32)
    assert not torch.allclose(net.head.weight.grad, whole.head.weight.grad)


def share_a_step(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Within one of several processes: DistributedDataParallel without SyncBatchNorm, one backward pass."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    net = build_study_net("plain", DEEP, "before", FACTS, seed=3).double().train()
    parallel = nn.parallel.DistributedDataParallel(net)
    cross_entropy(parallel(x.chunk(size)[rank]), y.chunk(size)[rank]).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return {name: value.clone() for name, value in {**gradients, **dict(net.named_buffers())}.items()}


def test_parts_are_what_processes_without_syncbatchnorm_do(rows):
    """Two real ones; the first one's statistics are the ones that are kept."""
    x, y = rows.train_x[:16].double(), rows.train_y[:16]
    with processes(2) as everywhere:
        first, second = everywhere(share_a_step, x, y)
    net = built().double().train()
    accumulate_gradients(net, x, y, 8)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(first[name], parameter.grad, rtol=1e-10, atol=1e-14)
    statistics = [name for name, _ in net.named_buffers() if "running" in name]
    assert len(statistics) == 14
    for name in statistics:
        torch.testing.assert_close(first[name], net.get_buffer(name), rtol=1e-12, atol=1e-15)
        assert not torch.allclose(second[name], first[name])


def test_without_batchnorm_parts_make_no_difference(rows):
    x, y = rows.train_x[:32].double(), rows.train_y[:32]
    parted, whole = built("none").double(), built("none").double()
    accumulate_gradients(parted, x, y, 8)
    accumulate_gradients(whole, x, y, 32)
    for one, other in zip(parted.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-14)


def test_the_same_settings_give_the_same_numbers_and_each_setting_counts(rows):
    run = a_run(steps=4, gradients_after=(0, 2))
    result = run.measure()
    assert run.measure() == result
    assert set(result["gradients"]) == {"0", "2"}
    losses = list(descend(run.build(), rows, run))
    assert losses == pytest.approx(result["losses"], rel=1e-5)
    for changes in (
        {"seed": 1},
        {"learning_rate": 0.1},
        {"norm": "none"},
        {"norm": "after"},
        {"batch_size": 16},
        {"rows_per_device": 4},
        {"init_scale": 0.5},
        {"gamma": 0.5},
        {"one_cycle": True},
        {"weight_decay": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "rmsprop"},
        {"activation": "sigmoid"},
    ):
        other = replace(run, **changes)
        assert list(descend(other.build(), rows, other)) != losses, changes


def test_a_run_that_blows_up_ends_and_counts_as_guessing():
    result = a_run(norm="none", steps=60, learning_rate=1e6).measure()
    assert not result["finished"]
    assert 0 < len(result["losses"]) < 60
    assert all(isinstance(loss, float) for loss in result["losses"])
    assert result["held_out_accuracy"] == 0.1


def test_positive_gammas_stay_positive_and_are_counted():
    run = a_run(
        net="cnn",
        net_settings={"channels": (4, 8), "kernels": (3, 3)},
        gamma=0.01,
        steps=8,
        learning_rate=0.5,
    )
    free, positive = run.measure(), replace(run, positive_gamma=True).measure()
    assert free["gammas"] == 4 + 8 + 128
    assert free["gammas_below_zero"] > 0 == positive["gammas_below_zero"]
    assert positive["gammas_at_floor"] > 0 == free["gammas_at_floor"]
    assert SMALLEST_GAMMA < 0.01


def test_modes_and_statistics_are_told_apart(rows):
    """Running averages that are nonsense: only what reads them suffers, and re-estimating mends it."""
    run, net = a_run(steps=60, learning_rate=0.1), a_run().build()
    assert sum(1 for _ in descend(net, rows, run)) == 60
    for norm in find_batchnorms(net):
        norm.running_mean.fill_(100.0)
    found = accuracies(net, rows, 32)
    assert found["train_mode_accuracy"] > 0.5
    assert found["recalibrated_eval_mode_accuracy"] > 0.5
    assert found["recalibrated_held_out_accuracy"] > 0.4
    assert found["eval_mode_accuracy"] < 0.3
    assert found["held_out_accuracy"] < 0.3


def test_accuracy_is_the_share_that_is_right_and_leaves_out_a_row_alone():
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x) > 1
            return nn.functional.one_hot(x[:, 0].long(), 3).float()

    x = torch.tensor([[0.0], [1.0], [2.0], [0.0], [1.0]])
    assert accuracy(Echo(), x, torch.tensor([0, 1, 0, 0, 9]), 2) == 0.75


def test_without_batchnorm_both_modes_are_one(rows):
    found = accuracies(built("none"), rows, 32)
    assert (
        found["train_mode_accuracy"]
        == found["eval_mode_accuracy"]
        == found["recalibrated_eval_mode_accuracy"]
    )


def test_a_sigmoid_is_saturated_where_its_gradient_is_below_a_tenth_of_its_largest():
    edge = torch.tensor([SATURATED])
    assert (edge.sigmoid() * (1 - edge.sigmoid())).item() == pytest.approx(0.25 / 10, rel=0.01)
    net = nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Linear(4, 2, bias=False), nn.Sigmoid())
    nn.init.constant_(net[2].weight, 2.0)
    x = torch.tensor([[[9.0, -9.0], [0.0, 3.0]], [[4.0, 4.0], [4.0, 4.0]]])
    assert saturation(net, x) == [6 / 8, 1.0]
    run = a_run(activation="sigmoid", init_scale=10.0, steps=2, saturation_after=(0, 2))
    found = run.measure()["saturation"]
    assert {step: len(shares) for step, shares in found.items()} == {"0": 7, "2": 7}
    without = replace(run, norm="none").measure()
    assert max(found["0"]) < 0.01 < min(without["saturation"]["0"])


def test_what_a_quick_study_leaves_out_is_told():
    assert describe_left_out(Scale()) == []
    told = "\n".join(describe_left_out(Scale(**QUICK)))
    assert "depths: 8, 32 instead of 8, 20, 32" in told
    assert "slice nets: vgg instead of vgg, nin" in told
    assert set(QUICK) - {"looks"} == {line.split(":")[0].replace(" ", "_") for line in told.splitlines()}
