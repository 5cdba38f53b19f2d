"""The source's own pipeline for pictures, as a function from a Pillow picture to a row.

In: `timm:NAME`, `torchvision:NAME`, or a callable of the user's.  Out: a `Pipeline`, and what it declares.

A pipeline is compared with the declared preprocessing on the golden pictures; it is never shipped.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import SourceError
from export.sources.configs import read_config
from export.sources.declared import Declared, of_timm, of_torchvision
from service.contract.text import first_line


class UnknownPipelineError(SourceError):
    """A package's net whose pipeline has no counterpart here."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """`row` makes a row, without the rows' axis, of a picture in mode L or RGB; `words` say whose it is."""

    words: str
    row: Callable[[Any], np.ndarray]


def load_callable(text: str) -> Pipeline:
    """`module:callable` of the user's; raises SourceError."""
    module_name, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # importing runs the user's own code
        raise SourceError(f"--compare-with {text}: {first_line(error)}; expected module:callable") from error
    if not callable(found):
        raise SourceError(f"--compare-with {text}: {name} is not callable")
    return Pipeline(words=text, row=lambda image: _row(found, image, text))


def declared_by(text: str) -> tuple[Declared, Pipeline | None]:
    """What `timm:NAME`, `torchvision:NAME` or a config file says of its pictures; raises SourceError."""
    if text.partition(":")[0] not in ("timm", "torchvision"):
        return read_config(Path(text)), None
    from training.errors import TrainingError
    from training.nets.foreign.packages import import_package

    kind, _, short = text.partition(":")
    try:
        package = import_package(text)
    except TrainingError as error:
        raise SourceError(str(error)) from error
    try:
        return _of_timm(short, text) if kind == "timm" else _of_torchvision(package, short, text)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UnknownPipelineError(
            f"{text}: its preprocessing cannot be read: {first_line(error)}"
        ) from error


def _of_timm(short: str, text: str) -> tuple[Declared, Pipeline | None]:
    data, models = importlib.import_module("timm.data"), importlib.import_module("timm.models")
    found = models.get_pretrained_cfg(short)
    if found is None:
        raise UnknownPipelineError(f"{text}: timm states no preprocessing for it")
    cfg = found.to_dict()
    declared = of_timm(cfg, f"{text}'s pretrained_cfg")
    if cfg.get("num_classes") == 1000:
        declared = replace(declared, labels=tuple(imagenet_labels()))
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg=cfg), is_training=False)
    return declared, Pipeline(
        words=f"timm's create_transform of {text}", row=lambda image: _row(transform, image, text)
    )


def _of_torchvision(package: Any, short: str, text: str) -> tuple[Declared, Pipeline | None]:
    weights = package.get_model_weights(short).DEFAULT
    transform = weights.transforms()
    declared = of_torchvision(
        transform, f"{weights}.transforms()", getattr(weights, "meta", {}).get("categories")
    )
    if declared is None:
        raise UnknownPipelineError(
            f"{text}: its transform {type(transform).__name__} has no counterpart here"
        )
    return declared, Pipeline(words=f"{weights}.transforms()", row=lambda image: _row(transform, image, text))


def imagenet_labels() -> list[str]:
    """The 1,000 classes of ImageNet as timm describes them; raises SourceError without timm."""
    try:
        from training.nets.foreign.packages import import_package

        import_package("timm:resnet18")
        info = importlib.import_module("timm.data").ImageNetInfo("imagenet-1k")
        return [info.index_to_description(index) for index in range(info.num_classes())]
    except Exception as error:  # packages that do not fit each other raise anything
        raise SourceError(
            f"ImageNet's labels come with timm ({first_line(error)}): pip install --no-deps timm torchvision"
        ) from error


def _row(transform: Any, image: Any, words: str) -> np.ndarray:
    try:
        made = transform(image)
        row = np.asarray(made.numpy() if hasattr(made, "numpy") else made)
    except Exception as error:  # the user's own code
        raise SourceError(f"{words} raised {type(error).__name__}: {first_line(error)}") from error
    return row[0] if row.ndim == 4 and len(row) == 1 else row
