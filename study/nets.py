"""Nets of the study, with BatchNorm before or after the activation, or with none.

In: a name, settings and how to normalise.  Out: a net; for one seed its weights are the same in all three.

`plain` is a ResNet of He et al. 2015 (section 4.2) with its shortcuts taken out, of depth 6n + 2:

    Conv 3×3, stride 2 → BN → ReLU
    [ Conv 3×3 → BN → ReLU ] × 2n        of width, 2·width and 4·width; the 2nd and 3rd halve the picture
    mean over pixels → Linear

Without BatchNorm, each one is replaced by what is left of it when nothing is normalised: a shift per channel,
which is a bias of the layer before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training import nets
from training.data import DataFacts
from training.loop.chance import seeded_generator
from training.nets.layers import conv_bn, mean_over_pixels
from training.nets.resnet import ResNetSettings
from training.nets.variant import Shift, remove_batchnorms

Norm = Literal["before", "after", "none"]
IN_WORDS: dict[Norm, str] = {"before": "with BatchNorm", "none": "without", "after": "BatchNorm after ReLU"}


@dataclass(frozen=True, kw_only=True)
class PlainSettings(ResNetSettings):
    """Depth and width as those of a ResNet; whether BatchNorm comes after the ReLU."""

    after_activation: bool = False


class Plain(nn.Module):
    def __init__(self, settings: PlainSettings) -> None:
        super().__init__()
        width = settings.width
        shapes = [(settings.input_shape[0], width, 2)]
        for channels_in, channels_out, stride in settings.blocks():
            shapes += [(channels_in, channels_out, stride), (channels_out, channels_out, 1)]
        layers: list[nn.Module] = []
        for channels_in, channels_out, stride in shapes:
            conv, norm = conv_bn(channels_in, channels_out, 3, stride=stride)
            if settings.after_activation:
                layers += [conv, Shift(channels_out), nn.ReLU(), norm]
            else:
                layers += [conv, norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(mean_over_pixels(self.layers(rows_nchw)))
        return logits_nk


def build_study_net(
    name: str, given: Mapping[str, Any], norm: Norm, facts: DataFacts, *, seed: int, init_scale: float = 1.0
) -> nn.Module:
    """A net with weights ~ N(0, init_scale² · 2 / fan_in), biases 0, γ = 1, β = 0."""
    generator = seeded_generator(seed, "weights")
    if name == "plain":
        settings = PlainSettings(
            input_shape=facts.input_shape,
            num_classes=len(facts.labels),
            after_activation=norm == "after",
            **given,
        )
        net: nn.Module = Plain(settings)
        nets.initialize(net, generator)
    else:
        assert norm != "after", f"only plain can have its BatchNorms after the ReLU, {name} can't"
        net = nets.new_net(name, nets.settings_for(name, facts, given), generator)
    with torch.no_grad():
        for weight in weights_of(net):
            weight.mul_(init_scale)
    if norm == "none":
        remove_batchnorms(net)
    return net


def weights_of(net: nn.Module) -> list[nn.Parameter]:
    """Of Convs and Linears, in the order of the net: all that has more than one dimension."""
    return [parameter for parameter in net.parameters() if parameter.ndim > 1]
