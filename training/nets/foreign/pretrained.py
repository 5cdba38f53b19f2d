"""A net with its weights, by a name alone: `timm:NAME`, `torchvision:NAME` or `module:factory`.

In: the name, and the weights of a file if any.  Out: the net, and what its package says of its pictures.

Without a file, a package's net gets the weights that the package publishes: out of its cache on this machine,
or from its hub where that can be reached.  With a file, it gets as many classes as the file's head has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from service.contract.framing import Interpolation
from service.contract.text import first_line
from training.nets.foreign.from_module import call_factory
from training.nets.foreign.packages import import_package, is_package
from training.nets.settings import NetError
from training.nets.weights import find_head, load_all_weights, renamed

KNOWN = get_args(Interpolation)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedNet:
    """`row_shape` is what the net was made for; the rest is what its own weights were trained with.

    `place` is the prefix of its weights in their file, where that holds more.
    """

    net: nn.Module
    place: str = ""
    row_shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None


def open_net(
    name: str,
    weights: Mapping[str, Tensor] | None = None,
    where: str = "",
    row_shape: tuple[int, ...] | None = None,
    first_run: Callable[[nn.Module], object] | None = None,
) -> OpenedNet:
    """Build the net with these weights, or with its own; raises NetError where they cannot be had or differ.

    Args:
        where: the file of the weights, for errors.
        row_shape: of a row, where it is known: a net of timm is built for as many channels.
        first_run: gives a net its first rows, which layers without sizes take theirs from.
    """
    if not is_package(name):
        opened = OpenedNet(net=call_factory(name), row_shape=row_shape)
        if first_run is not None:
            _shape_lazy_layers(opened.net, name, first_run)
    elif weights is None:
        opened = _published(name, row_shape)
    else:
        opened = _fitting(name, weights, row_shape)
    if weights is not None:
        return replace(opened, place=load_all_weights(opened.net, weights, where))
    return opened


def _shape_lazy_layers(net: nn.Module, name: str, first_run: Callable[[nn.Module], object]) -> None:
    """Run the net where layers take their sizes from their first rows; raises NetError if it fails."""
    if not any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        return
    try:
        with torch.no_grad():
            first_run(net.eval())
    except Exception as error:  # foreign code may raise anything
        raise NetError(f"net {name} cannot take its first rows: {first_line(error)}") from error


def _published(name: str, row_shape: tuple[int, ...] | None) -> OpenedNet:
    import_package(name)  # what is wrong with the name or the package is nothing of a hub's
    try:
        return _build(name, row_shape, is_published=True)
    except Exception as error:  # the hub's client raises anything
        raise NetError(
            f"the weights of {name} are not on this machine, and its hub cannot be reached "
            f"({first_line(error)}): name a file with --weights"
        ) from error


def _fitting(name: str, weights: Mapping[str, Tensor], row_shape: tuple[int, ...] | None) -> OpenedNet:
    """With random weights, and as many classes as the file's head has."""
    try:
        opened = _build(name, row_shape, is_published=False)
        head = f"{find_head(opened.net)}.weight"
        wanted, given = opened.net.state_dict(), renamed(weights, opened.net)
        if head in given and len(given[head]) != len(wanted[head]):
            opened = _build(name, row_shape, is_published=False, num_classes=len(given[head]))
    except Exception as error:  # foreign code may raise anything
        raise NetError(f"net {name} raised {type(error).__name__}: {first_line(error)}") from error
    return opened


def _build(name: str, row_shape: tuple[int, ...] | None, *, is_published: bool, **settings: Any) -> OpenedNet:
    package = import_package(name)
    kind, _, short = name.partition(":")
    if kind == "timm":
        channels = {"in_chans": row_shape[0]} if row_shape else {}
        net = package.create_model(short, pretrained=is_published, **channels, **settings)
        said = net.pretrained_cfg
        size, mean, std = said.get("input_size"), said.get("mean"), said.get("std")
        interpolation = said.get("interpolation")
    else:
        published = getattr(package.get_model_weights(short), "DEFAULT", None)
        if is_published and published is None:
            raise NetError("torchvision publishes none")
        net = package.get_model(short, weights=published if is_published else None, **settings)
        transform = published.transforms() if published is not None else None
        crop = getattr(transform, "crop_size", None)
        size = (3, crop[0], crop[0]) if crop else None
        mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
        interpolation = getattr(getattr(transform, "interpolation", None), "value", None)
    if not is_published or not mean or not std or (size and len(mean) != (row_shape or size)[0]):
        mean, std = None, None
    return OpenedNet(
        net=net,
        row_shape=row_shape or (tuple(size) if size else None),
        mean=tuple(map(float, mean)) if mean else None,
        std=tuple(map(float, std)) if std else None,
        interpolation=interpolation if is_published and interpolation in KNOWN else None,
    )
