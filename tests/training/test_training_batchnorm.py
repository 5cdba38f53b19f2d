"""Care for BatchNorms: γ stays positive, and re-estimated statistics are those of the population."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from batchnorm_reference import population
from export.fold.stages import fold
from export.graph.prepare import prepare
from export.sources.trace import trace
from training.__main__ import main
from training.batchnorm.statistics import (
    SMALLEST_GAMMA,
    Moments,
    find_batchnorms,
    keep_gamma_positive,
    recalibrate,
)
from training.data import DATA_SETS, Split, normalize
from training.loop.batches import count_steps, plain_batches
from training.loop.fit import fit
from training.nets import new_net, read_net_settings, settings_for
from training.runs.checkpoint import load_checkpoint
from training.settings.config import ConfigError, FitConfig
from training_kit import FACTS, SMALLEST, tiny_split

EXACT = 1e-12


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


@pytest.fixture
def _tiny_data(tiny, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)


def built(name: str) -> nn.Module:
    settings = settings_for(name, FACTS, read_net_settings(name, SMALLEST[name]))
    return new_net(name, settings, torch.Generator().manual_seed(1))


def smallest_gamma(net: nn.Module) -> float:
    return min(norm.weight.min().item() for norm in find_batchnorms(net))


def fitted(tiny: Split, *, positive_gamma: bool) -> nn.Module:
    """A pre-activation net that begins with γ so small that steps carry some below zero."""
    net = built("preact-resnet")
    for norm in find_batchnorms(net):
        nn.init.constant_(norm.weight, 0.03)
    config = FitConfig(epochs=2, batch_size=50, learning_rate=0.3, positive_gamma=positive_gamma)
    for epoch in fit(net, tiny, config):
        assert epoch.facts.epoch <= 2
        if positive_gamma:
            assert smallest_gamma(net) >= SMALLEST_GAMMA
    return net.eval()


@pytest.mark.parametrize(("positive_gamma", "goes"), [(True, 13), (False, None)])
def test_with_positive_gammas_a_preact_resnet_folds_completely(tiny, positive_gamma, goes):
    net = fitted(tiny, positive_gamma=positive_gamma)
    _, sites = fold(prepare(trace(net, FACTS.input_shape)))
    folded = sum(site.status == "folded" for site in sites)
    if positive_gamma:
        assert smallest_gamma(net) == pytest.approx(SMALLEST_GAMMA), "it was needed"
        assert folded == len(sites) == goes
    else:
        assert smallest_gamma(net) < 0
        assert folded < len(sites)


def test_only_gammas_are_lifted_and_only_small_ones():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.LayerNorm(3)
    )
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-2.0, SMALLEST_GAMMA / 2, 0.5]))
        net[1].bias.fill_(-1)
        net[0].weight.fill_(-1)
        net[3].weight.fill_(-1)
    keep_gamma_positive(net)
    assert torch.equal(net[1].weight, torch.tensor([SMALLEST_GAMMA, SMALLEST_GAMMA, 0.5]))
    assert (net[1].bias == -1).all()
    assert (net[0].weight == -1).all()
    assert (net[3].weight == -1).all()


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 4, 3)], ids=["NC", "NCL", "NCHW"])
def test_pooled_moments_are_those_of_all_rows_at_once(shape):
    """Batches of different sizes, around a mean that a sum of squares would not survive."""
    rows = torch.randn(50, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    moments = Moments()
    for batch in torch.split(rows, [1, 20, 22, 7]):
        moments.add(batch)
    mean, variance = population(rows.numpy())
    count = rows.numel() // 6
    assert moments.count == count
    assert np.abs(moments.mean.numpy() / mean - 1).max() < EXACT
    assert np.abs(moments.variance().numpy() * (count - 1) / count - variance).max() < 1e-9


class Recorder(nn.Module):
    """Keeps what a BatchNorm reads."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.seen = norm, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.norm(x)


def test_recalibrated_statistics_are_those_of_the_population(tiny):
    """Every layer's, over all that it read; the reference's mean and variance are NumPy's own."""
    net = built("vgg").double()
    norms = find_batchnorms(net)
    recorders = []
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if child in norms:
                recorders.append(Recorder(child))
                setattr(parent, name, recorders[-1])
    rows = normalize(tiny.train_pixels, tiny.facts).double()
    recalibrate(net, torch.split(rows, 50))
    assert len(recorders) == 4
    for recorder in recorders:
        assert len(recorder.seen) == 4
        read = torch.cat(recorder.seen).numpy()
        mean, variance = population(read)
        count = read.size // read.shape[1]
        assert np.abs(recorder.norm.running_mean.numpy() - mean).max() < EXACT
        assert np.abs(recorder.norm.running_var.numpy() - variance * count / (count - 1)).max() < EXACT


def test_with_one_batch_of_everything_eval_mode_answers_as_train_mode_does(tiny):
    net = built("resnet").double()
    rows = normalize(tiny.train_pixels, tiny.facts).double()
    recalibrate(net, [rows])
    assert not any(module.training for module in net.modules())
    with torch.no_grad():
        in_eval = net(rows)
        in_train = net.train()(rows)
    # They differ by n against n − 1 in the variance, n = 200·4·4 in the smallest layer.
    assert 0 < (in_eval - in_train).abs().max() < 1e-2 * in_train.abs().max()


def test_recalibration_changes_statistics_and_nothing_else_and_dropout_rests(tiny):
    net = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(256), nn.Linear(256, 10), nn.BatchNorm1d(3)
    )
    net[4] = nn.Identity()
    rows = normalize(tiny.train_pixels, tiny.facts)
    before = {key: value.clone() for key, value in net.named_parameters()}
    recalibrate(net, torch.split(rows, 100))
    assert all(torch.equal(before[key], value) for key, value in net.named_parameters())
    torch.testing.assert_close(net[2].running_mean, rows.flatten(1).mean(0))
    torch.testing.assert_close(net[2].running_var, rows.flatten(1).var(0))
    assert not net[2]._forward_pre_hooks


def test_a_norm_that_never_runs_keeps_what_it_has(tiny):
    net = built("mlp")
    net.unused = nn.BatchNorm1d(3)
    recalibrate(net, [normalize(tiny.train_pixels, tiny.facts)])
    assert torch.equal(net.unused.running_var, torch.ones(3))


def test_the_batches_are_train_rows_as_they_are_and_none_comes_twice(tiny):
    config = FitConfig(batch_size=30, recalibrate_bn=6)
    net = built("mlp")
    batches = [rows for rows, _ in plain_batches(net, tiny, config)]
    assert [len(batch) for batch in batches] == [30] * 6
    rows = normalize(tiny.train_pixels, tiny.facts)
    known = {row.numpy().tobytes(): label for row, label in zip(rows, tiny.train_labels, strict=True)}
    drawn = [row.numpy().tobytes() for batch in batches for row in batch]
    assert set(drawn) <= known.keys()
    assert len(set(drawn)) == 180
    labels = torch.cat([labels for _, labels in plain_batches(net, tiny, config)])
    assert labels.tolist() == [known[row] for row in drawn]
    again, other = (
        torch.cat([rows for rows, _ in plain_batches(net, tiny, replace(config, seed=seed))])
        for seed in (0, 1)
    )
    assert torch.equal(torch.cat(batches), again)
    assert not torch.equal(other, again)
    assert next(plain_batches(net.double(), tiny, config))[0].dtype == torch.float64


def test_a_fit_recalibrates_once_at_the_end(tiny):
    plain, careful = (
        FitConfig(epochs=2, batch_size=50, net="mlp", recalibrate_bn=batches) for batches in (0, 4)
    )
    one, other = built("mlp"), built("mlp")
    for epoch, (first, second) in enumerate(
        zip(fit(one, tiny, plain), fit(other, tiny, careful), strict=True)
    ):
        assert (first.facts == second.facts) == (epoch == 0)
    (norm,), (expected,) = find_batchnorms(other), find_batchnorms(one)
    assert torch.equal(norm.weight, expected.weight)
    with torch.no_grad():
        read = other.layers[1](normalize(tiny.train_pixels, tiny.facts).flatten(1))
    torch.testing.assert_close(norm.running_mean, read.mean(0))
    torch.testing.assert_close(norm.running_var, read.var(0))
    assert not torch.allclose(expected.running_var, read.var(0), rtol=0.01)


def test_more_batches_than_there_are_or_fewer_than_none_are_refused(tiny):
    with pytest.raises(ConfigError, match="recalibrate_bn must be at most 4, the batches of an epoch, got 5"):
        count_steps(tiny, FitConfig(batch_size=50, recalibrate_bn=5))
    with pytest.raises(ConfigError, match="recalibrate_bn must be zero or positive, got -1"):
        FitConfig(recalibrate_bn=-1)


@pytest.mark.usefixtures("_tiny_data")
def test_the_command_takes_both_and_resumes_to_the_same_bits(tmp_path):
    flags = ["--data", "tiny", "--epochs", "2", "--batch-size", "50", "--device", "cpu"]
    flags += [
        "--net",
        "preact-resnet",
        "--net-setting",
        "depth=8",
        "--positive-gamma",
        "--recalibrate-bn",
        "3",
    ]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["--out", str(whole), *flags]) == 0
    with pytest.MonkeyPatch.context() as patch:
        # The first epoch of a run that is stopped after it.
        patch.setattr("training.runs.run.Run._write_metrics", _interrupt)
        assert main(["--out", str(stopped), *flags]) == 130
    assert load_checkpoint(stopped / "checkpoint.pt").epoch == 1
    assert main(["--out", str(stopped), "--resume", "--device", "cpu"]) == 0
    checkpoint, resumed = (load_checkpoint(out / "checkpoint.pt") for out in (whole, stopped))
    assert all(torch.equal(resumed.state_dict[key], value) for key, value in checkpoint.state_dict.items())
    assert resumed.metrics == checkpoint.metrics
    assert checkpoint.resume.config["positive_gamma"] is True
    assert checkpoint.resume.config["recalibrate_bn"] == 3
    assert smallest_gamma(checkpoint.build_net()) >= SMALLEST_GAMMA


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt
