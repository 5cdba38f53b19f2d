"""Nets by name: one small file each, rebuilt from plain settings alone.

In: a name and settings, as a checkpoint keeps them.  Out: an `nn.Module` from rows to logits.

    weight ~ N(0, 2 / fan_in)      bias = 0      gamma = 1      beta = 0
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Generator, nn

from training.data import DataFacts
from training.errors import TrainingError, describe_unknown
from training.nets.cnn import Cnn, CnnSettings, SmallCnnSettings


class NetError(TrainingError):
    """No such net, or settings that it cannot take."""


NETS: dict[str, tuple[type[Any], Callable[[Any], nn.Module]]] = {
    "cnn": (CnnSettings, Cnn),
    "small-cnn": (SmallCnnSettings, Cnn),
}


def settings_for(name: str, facts: DataFacts) -> dict[str, Any]:
    """All the settings that net `name` gets for this data, defaults included."""
    return asdict(_read_settings(name, {"input_shape": facts.input_shape, "num_classes": len(facts.labels)}))


def build_net(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build net `name`; its weights are whatever torch chose, so load or `initialize` them."""
    checked = _read_settings(name, settings)
    return NETS[name][1](checked)


def initialize(net: nn.Module, generator: Generator) -> None:
    """Draw the weights (He et al. 2015); what BatchNorm holds stays as it is built."""
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _read_settings(name: str, settings: Mapping[str, Any]) -> Any:
    if name not in NETS:
        raise NetError(describe_unknown("net", name, NETS))
    try:
        return NETS[name][0](**settings)
    except (TypeError, ValueError) as error:
        raise NetError(f"net {name} cannot take the settings {dict(settings)}: {error}") from None
