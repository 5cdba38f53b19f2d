"""Nets that are not ours, from timm, torchvision or your own code.

In: `timm:NAME`, `torchvision:NAME` or `module:factory`, and settings.
Out: the net; it has answered rows of the data's shape with logits.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from service.contract.text import first_line
from training.nets.foreign.from_module import find_factory
from training.nets.foreign.packages import find_in_package, is_package
from training.nets.settings import FROM_DATA, NetError


def is_foreign(name: str) -> bool:
    """Whether `name` is `timm:NAME`, `torchvision:NAME` or `module:factory`."""
    return ":" in name


def read_foreign_words(name: str, words: Mapping[str, str]) -> dict[str, Any]:
    """Words as Python literals, or as text where they are none. Raises NetError unless the net takes them."""
    values = {key: _read(word) for key, word in words.items()}
    if given := sorted(values.keys() & set(FROM_DATA)):
        raise NetError(f"setting {given[0]} of net {name} comes from the data")
    _find(name, values)
    return values


def build_foreign(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build the net and run it once on rows of its input shape; raises NetError if either fails."""
    build = _find(name, {key: value for key, value in settings.items() if key not in FROM_DATA})
    try:
        net = build(**settings)
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise NetError(f"net {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise NetError(f"net {name} must be an nn.Module, its factory returned {type(net).__name__}")
    _try(net, name, tuple(settings["input_shape"]), settings["num_classes"])
    return net


def _find(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    return find_in_package(name, options) if is_package(name) else find_factory(name, options)


def _read(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _try(net: nn.Module, name: str, row_shape: tuple[int, ...], num_classes: int) -> None:
    """Run 2 rows through the net in eval mode; raises NetError unless it gives (2, num_classes) logits."""
    was_training = net.training
    try:
        with torch.no_grad():
            answer = net.eval()(torch.zeros(2, *row_shape))
    except Exception as error:  # foreign code may raise anything
        raise NetError(f"net {name} cannot take rows of {row_shape}: {first_line(error)}") from error
    found = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if found != (2, num_classes):
        raise NetError(f"net {name} answers 2 rows with {found}, expected logits of {(2, num_classes)}")
    net.train(was_training)


def require_logits(net: nn.Module, name: str, row_shape: tuple[int, ...]) -> None:
    """Raise NetError if the net answers with probabilities: a softmax twice learns badly."""
    was_training = net.training
    rows = torch.randn(4, *row_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = net.eval()(rows)
    net.train(was_training)
    # Four rows of logits that are all positive and each sum to 1 by chance: not in practice.
    if (answers >= 0).all() and ((answers.sum(1) - 1).abs() < 1e-3).all():
        raise NetError(
            f"net {name} ends in a softmax, for its answers sum to 1: leave it out, the loss applies one"
        )
