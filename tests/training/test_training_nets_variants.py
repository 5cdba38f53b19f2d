"""What every net of ours may vary: activation, the place of BatchNorm, its γ, ε and momentum, dropout."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from export.compute.reference import reference
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from export.sources.trace import trace
from folds_kit import exact
from training.__main__ import main
from training.data import DATA_SETS
from training.nets import NETS, NetError, build_net, new_net, read_net_settings, settings_for
from training.nets.variant import ACTIVATIONS, Shift
from training_kit import FACTS, SMALLEST, lively, tiny_split

ROWS = torch.randn(6, *FACTS.input_shape, generator=torch.Generator().manual_seed(3))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def varied(name: str, **words: str) -> nn.Module:
    settings = settings_for(name, FACTS, read_net_settings(name, SMALLEST[name] | words))
    return new_net(name, settings, torch.Generator().manual_seed(1))


def count(net: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in net.modules())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", sorted(NETS))
def test_every_activation_of_every_net_is_exchanged(name, activation, monkeypatch):
    net, usual = varied(name, activation=activation), varied(name)
    kind = type(ACTIVATIONS[activation]())
    assert count(net, kind) == count(usual, nn.ReLU, nn.ReLU6) > 0
    assert net.state_dict().keys() == usual.state_dict().keys()
    if activation != "relu":
        for called in ("relu", "relu6"):  # none is left that no module stands for
            monkeypatch.setattr(functional, called, pytest.fail)
    answers = net.train()(ROWS)
    assert answers.isfinite().all()


@pytest.mark.parametrize("name", sorted(NETS))
def test_without_batchnorm_a_bias_is_left_of_each(name):
    net, usual = varied(name, bn="none"), varied(name)
    assert count(net, *NORMS) == 0
    assert count(net, Shift) == count(usual, *NORMS) > 0
    net(ROWS).sum().backward()
    assert net(ROWS).shape == (6, 10)


@pytest.mark.parametrize("name", ["mlp", "cnn", "small-cnn", "vgg", "nin"])
def test_batchnorm_after_the_activation_reads_no_negative_number(name):
    net = varied(name, bn="after")
    assert count(net, *NORMS) == count(varied(name), *NORMS)
    smallest = []
    for module in net.modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(lambda norm, args: smallest.append(args[0].min().item()))
    net(ROWS)
    assert len(smallest) == count(net, *NORMS)
    assert min(smallest) == 0


@pytest.mark.parametrize(
    ("gamma", "mean", "spread"), [("1", 1, 0), ("0", 0, 0), ("small", 0.1, 0), ("normal", 1, 0.02)]
)
def test_gamma_begins_as_said(gamma, mean, spread):
    net = new_net("mlp", settings_for("mlp", FACTS, {"hidden": (2000,), "gamma": gamma}), torch.Generator())
    (norm,) = (module for module in net.modules() if isinstance(module, NORMS))
    # 2,000 values: their mean is known to 0.02/√2000, their deviation to 0.02/√4000
    assert norm.weight.mean().item() == pytest.approx(mean, abs=5 * 0.02 / 2000**0.5)
    assert norm.weight.std().item() == pytest.approx(spread, abs=5 * 0.02 / 4000**0.5)


def test_epsilon_momentum_and_dropout_are_set_or_left_as_the_net_has_them():
    plain, set_to = varied("keras-cnn"), varied("keras-cnn", eps="0.01", bn_momentum="0.5", dropout="0.4")
    for net, eps, momentum in ((plain, 1e-3, 0.1), (set_to, 0.01, 0.5)):
        assert {(m.eps, m.momentum) for m in net.modules() if isinstance(m, NORMS)} == {(eps, momentum)}
    assert (count(plain, nn.Dropout), count(set_to, nn.Dropout)) == (0, 1)
    drop = next(module for module in set_to.modules() if isinstance(module, nn.Dropout))
    assert drop.p == 0.4
    set_to.eval()
    assert torch.equal(set_to(ROWS), set_to(ROWS))


def test_a_net_is_rebuilt_from_its_settings_and_only_what_is_varied_is_kept():
    words = {"activation": "silu", "bn": "after", "dropout": "0.2", "gamma": "small", "eps": "0.001"}
    settings = settings_for("cnn", FACTS, read_net_settings("cnn", SMALLEST["cnn"] | words))
    assert {key: str(settings[key]) for key in words} == words
    assert not words.keys() & settings_for("cnn", FACTS).keys()
    net = new_net("cnn", settings, torch.Generator().manual_seed(1)).eval()
    again = build_net("cnn", settings).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(net(ROWS), again(ROWS))


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        (
            "cnn",
            {"activation": "rellu"},
            "net cnn: unknown activation 'rellu', known: leaky_relu, relu, sigmoid, silu, tanh",
        ),
        ("cnn", {"bn": "behind"}, "unknown bn 'behind', known: after, before, none"),
        ("cnn", {"gamma": "2"}, "unknown gamma '2', known: 0, 1, normal, small"),
        ("cnn", {"eps": "-1"}, "eps must be positive"),
        ("cnn", {"bn_momentum": "2"}, "bn_momentum must lie in 0 .. 1"),
        ("cnn", {"dropout": "1"}, "dropout must lie in 0 .. 1, below 1, got 1.0"),
        ("resnet", {"bn": "after"}, "bn=after needs an activation after every BatchNorm, found 4 of 9"),
        ("keras-cnn", {"bn": "after"}, "bn=after needs an activation after every BatchNorm, found 0 of 5"),
    ],
)
def test_what_cannot_be_varied_is_one_sentence(name, words, sentence):
    with pytest.raises(NetError) as caught:
        varied(name, **words)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_hidden_layer_is_a_linear_net():
    net = varied("mlp", hidden="")
    assert [type(module) for module in net.layers] == [nn.Flatten, nn.Linear]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cnn", {"activation": "tanh"}),
        ("cnn", {"activation": "sigmoid", "bn": "after"}),
        ("mlp", {"activation": "leaky_relu", "bn": "after", "dropout": "0.3"}),
        ("resnet", {"activation": "silu", "eps": "0.01"}),
        ("repvgg", {"activation": "leaky_relu"}),
    ],
)
def test_the_batchnorms_of_a_varied_net_fold_to_the_same_answers(name, words):
    before = exact(prepare(trace(lively(varied(name, **words)), FACTS.input_shape)))
    after, sites = fold(before)
    kept = [site for site in sites if site.status != "folded"]
    assert len(list(batchnorms(after))) == len(kept)
    if "bn" not in words:
        assert not kept, "before the activation each has its Conv or Linear"
    rows = np.random.default_rng(0).normal(size=(3, *FACTS.input_shape))
    truth, answer = (reference(model).run(None, {"input": rows})[0] for model in (before, after))
    assert np.abs(answer - truth).max() < 1e-12 * np.abs(truth).max()


@pytest.fixture
def _softmax_net(monkeypatch):
    module = types.ModuleType("softmaxnets")

    def build(num_classes: int, input_shape: tuple[int, ...], last: bool = True) -> nn.Module:
        width = int(np.prod(input_shape))
        return nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes), *[nn.Softmax(1)] * last)

    module.build = build
    monkeypatch.setitem(sys.modules, "softmaxnets", module)
    monkeypatch.setitem(DATA_SETS, "tiny", tiny_split)


@pytest.mark.usefixtures("_softmax_net")
def test_a_net_that_ends_in_a_softmax_is_refused_before_training(tmp_path, capsys):
    flags = ["--out", str(tmp_path / "run"), "--data", "tiny", "--device", "cpu", "--epochs", "1"]
    assert main([*flags, "--net", "softmaxnets:build"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "net softmaxnets:build ends in a softmax, for its answers sum to 1: leave it out" in sentence
    assert not (tmp_path / "run").exists()
    assert main([*flags, "--net", "softmaxnets:build", "--net-setting", "last=False"]) == 0


@pytest.mark.usefixtures("_softmax_net")
def test_gammas_that_stay_at_zero_are_warned_of(tmp_path, capsys):
    flags = ["--data", "tiny", "--device", "cpu", "--epochs", "1", "--net", "mlp"]
    assert main(["--out", str(tmp_path / "dead"), *flags, "--net-setting", "gamma=0"]) == 0
    assert "warning: every γ is 0 or nearly so" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "alive"), *flags, "--net-setting", "gamma=small"]) == 0
    assert "warning: every γ" not in capsys.readouterr().err


@pytest.mark.usefixtures("_softmax_net")
def test_running_statistics_that_lag_are_warned_of_and_a_few_pictures_need_no_batch_size(tmp_path, capsys):
    flags = ["--data", "tiny", "--device", "cpu", "--epochs", "4", "--net", "resnet"]
    slow = ["--net-setting", "bn_momentum=0.001", "--net-setting", "depth=8", "--net-setting", "width=4"]
    assert main(["--out", str(tmp_path / "slow"), *flags, *slow]) == 0
    told = capsys.readouterr().err
    assert "warning: the running statistics lag behind" in told
    assert "data: batches of 50, for there are 200 pictures to train on" in told
    assert main(["--out", str(tmp_path / "mended"), *flags, *slow, "--recalibrate-bn", "4"]) == 0
    assert "lag behind" not in capsys.readouterr().err
