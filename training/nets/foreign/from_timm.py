"""`timm:NAME`: a net of the package timm, with random weights.

    timm.create_model(NAME, num_classes=…, in_chans=…, **settings)

Nothing that a name or a setting says is downloaded or read: a checkpoint holds its own weights.

timm imports torchvision, whose published builds may not be made for the torch that is here. Its import then
fails on the first of its C++ operators; each missing one is declared, and the import tried again. No net of
timm calls them.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from service.contract.text import first_line
from training.nets.settings import NetError

PREFIX = "timm"
INSTALL = "pip install --no-deps timm torchvision"
DOWNLOADS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
MAX_OPERATORS = 30

_declared: list[Any] = []  # a Library that is collected takes its operators with it


def find_timm(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that builds the net from `num_classes`, `input_shape` and `options`."""
    try:
        timm = _import_timm()
    except Exception as error:  # packages that do not fit each other raise anything
        raise NetError(f"net {name} needs the package timm ({first_line(error)}): {INSTALL}") from error
    short, known = name.partition(":")[2], timm.list_models()
    if short not in known:
        near = ", ".join(get_close_matches(short, known, n=3, cutoff=0.5))
        raise NetError(f"timm has no net {short!r}" + (f"; did you mean {near}?" if near else ""))
    if refused := sorted(options.keys() & set(DOWNLOADS)):
        raise NetError(
            f"net {name} cannot take the setting {refused[0]}: a checkpoint must hold its own weights"
        )

    def build(*, num_classes: int, input_shape: tuple[int, int, int], **settings: Any) -> Any:
        return timm.create_model(short, num_classes=num_classes, in_chans=input_shape[0], **settings)

    return build


def _import_timm() -> Any:
    for _ in range(MAX_OPERATORS):
        try:
            return importlib.import_module(PREFIX)
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
