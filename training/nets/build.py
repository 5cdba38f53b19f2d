"""A net by its name, rebuilt from plain settings alone.

In: a name and settings, as a checkpoint keeps them.
Out: an `nn.Module` from rows (N, C, H, W) to logits (N, num_classes).

Initial weights (He et al. 2015):

    weight ~ N(0, 2 / fan_in)      bias = 0      gamma = 1      beta = 0

A net from elsewhere (`foreign/`) keeps the initial weights that its own code gives it.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

import torch
from torch import Generator, nn

from training.data.facts import DataFacts
from training.errors import describe_unknown
from training.nets.cnn import Cnn, CnnSettings, SmallCnnSettings
from training.nets.densenet import DenseNet, DenseNetSettings
from training.nets.foreign.build import build_foreign, is_foreign, read_foreign_words, require_logits
from training.nets.keras_cnn import KerasCnn, KerasCnnSettings
from training.nets.mlp import Mlp, MlpSettings
from training.nets.mobilenet import MobileNet, MobileNetSettings
from training.nets.nin import Nin, NinSettings
from training.nets.preact_resnet import PreActResNet, PreActResNetSettings
from training.nets.repvgg import RepVgg, RepVggSettings
from training.nets.resnet import ResNet, ResNetSettings
from training.nets.settings import FROM_DATA, NetError, NetSettings, read_words
from training.nets.variant import standardising, start_gamma, vary
from training.nets.vgg import Vgg, VggSettings
from training.settings.config import FitConfig

NETS: dict[str, tuple[type[NetSettings], Callable[[Any], nn.Module]]] = {
    "mlp": (MlpSettings, Mlp),
    "cnn": (CnnSettings, Cnn),
    "small-cnn": (SmallCnnSettings, Cnn),
    "keras-cnn": (KerasCnnSettings, KerasCnn),
    "vgg": (VggSettings, Vgg),
    "nin": (NinSettings, Nin),
    "resnet": (ResNetSettings, ResNet),
    "preact-resnet": (PreActResNetSettings, PreActResNet),
    "mobilenet": (MobileNetSettings, MobileNet),
    "densenet": (DenseNetSettings, DenseNet),
    "repvgg": (RepVggSettings, RepVgg),
}
FOREIGN = ("timm:NAME", "torchvision:NAME", "module:factory")


def given_settings(config: FitConfig) -> dict[str, Any]:
    """What a run asks of its net, before the data is known."""
    given = read_net_settings(config.net, config.net_settings)
    return {**given, "per_picture": True} if config.normalise == "per-picture" else given


def read_net_settings(name: str, words: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a command line gives in words, as values; no data is needed for that."""
    if is_foreign(name):
        return read_foreign_words(name, words)
    return read_words(name, _settings_class(name), words)


def settings_for(name: str, facts: DataFacts, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All the settings that net `name` gets for this data, those given and the defaults included."""
    settings = {"input_shape": facts.input_shape, "num_classes": len(facts.labels), **(given or {})}
    if is_foreign(name):
        return settings
    checked = asdict(_check_settings(name, settings))
    # What every net may vary is only kept where it is varied: checkpoints stay as they were without it.
    usual = {each.name: each.default for each in fields(NetSettings) if each.default is not MISSING}
    return {key: value for key, value in checked.items() if usual.get(key, MISSING) != value}


def build_net(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build net `name`; its weights are whatever torch chose, so load or `initialize` them."""
    per_picture = settings.get("per_picture", False)
    if is_foreign(name):
        plain = {key: value for key, value in settings.items() if key != "per_picture"}
        return standardising(build_foreign(name, plain)) if per_picture else build_foreign(name, plain)
    checked = _check_settings(name, settings)
    try:
        net = NETS[name][1](checked)
        vary(net, checked)
        if per_picture:
            standardising(net)
    except (RuntimeError, MemoryError, OverflowError, ValueError) as error:
        sentence = " ".join(str(error).split())
        own = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in FROM_DATA)
        raise NetError(f"net {name} cannot be built with {own or 'its defaults'}: {sentence}") from None
    return net


def new_net(name: str, settings: Mapping[str, Any], generator: Generator) -> nn.Module:
    """Build net `name` with the weights that it begins with: the same generator, the same weights."""
    if not is_foreign(name):
        net = build_net(name, settings)
        initialize(net, generator)
        if (gamma := settings.get("gamma", NetSettings.gamma)) != NetSettings.gamma:
            start_gamma(net, gamma, generator)
        return net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        net = build_net(name, settings)
    require_logits(net, name, tuple(settings["input_shape"]))
    return net


def initialize(net: nn.Module, generator: Generator) -> None:
    """Draw the weights (He et al. 2015); what BatchNorm holds stays as it is built."""
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _settings_class(name: str) -> type[NetSettings]:
    if name not in NETS:
        raise NetError(describe_unknown("net", name, [*NETS, *FOREIGN]))
    return NETS[name][0]


def _check_settings(name: str, settings: Mapping[str, Any]) -> NetSettings:
    cls = _settings_class(name)
    try:
        checked = cls(**settings)
        checked.check_shared()
        return checked
    except (TypeError, ValueError) as error:
        raise NetError(f"net {name}: {error}") from None
