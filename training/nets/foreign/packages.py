"""Nets of the packages timm and torchvision, by name: `timm:NAME`, `torchvision:NAME`.

    timm.create_model(NAME, num_classes=…, in_chans=…, **settings)
    torchvision.models.get_model(NAME, num_classes=…, **settings)

timm imports torchvision, whose published builds may not be made for the torch that is here. Its import then
fails on the first of its C++ operators; each missing one is declared, and the import tried again. No
classifier calls them.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from service.contract.text import first_line
from training.nets.settings import NetError

MODULES = {"timm": "timm", "torchvision": "torchvision.models"}
INSTALL = "pip install --no-deps timm torchvision"
DOWNLOADS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "weights",
    "weights_backbone",
)
MAX_OPERATORS = 30

_declared: list[Any] = []  # a Library that is collected takes its operators with it


def is_package(name: str) -> bool:
    """Whether `name` is `timm:NAME` or `torchvision:NAME`."""
    return name.partition(":")[0] in MODULES


def find_in_package(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that builds the net, with random weights, from `num_classes`, `input_shape` and `options`.

    Nothing that a name or a setting says is downloaded or read: a checkpoint holds its own weights.
    """
    package = import_package(name)
    if refused := sorted(options.keys() & set(DOWNLOADS)):
        raise NetError(
            f"net {name} cannot take the setting {refused[0]}: a checkpoint must hold its own weights"
        )
    kind, _, short = name.partition(":")

    def build(*, num_classes: int, input_shape: tuple[int, ...], **settings: Any) -> Any:
        if kind == "timm":
            return package.create_model(short, num_classes=num_classes, in_chans=input_shape[0], **settings)
        return package.get_model(short, weights=None, num_classes=num_classes, **settings)

    return build


def import_package(name: str) -> Any:
    """The package that has the net; raises NetError if it is not installed, or has no net of that name."""
    kind, _, short = name.partition(":")
    try:
        package = _import(MODULES[kind])
    except Exception as error:  # packages that do not fit each other raise anything
        raise NetError(f"net {name} needs the package {kind} ({first_line(error)}): {INSTALL}") from error
    # A name of timm may end in a tag, which says whose weights: resnet50.a1_in1k.
    arch = short.partition(".")[0] if kind == "timm" else short
    known: Iterable[str] = package.list_models()
    if arch not in known:
        near = ", ".join(get_close_matches(short, known, n=3, cutoff=0.5))
        raise NetError(f"{kind} has no net {short!r}" + (f"; did you mean {near}?" if near else ""))
    return package


def _import(module_name: str) -> Any:
    for _ in range(MAX_OPERATORS):
        try:
            return importlib.import_module(module_name)
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{missing[1]}(Tensor a) -> Tensor")
            _declared.append(library)
            for module in [module for module in sys.modules if re.match(r"(torchvision|timm)(\.|$)", module)]:
                del sys.modules[module]
    raise NetError(f"torchvision lacks more than {MAX_OPERATORS} operators")
