"""`module:factory`: a net of your own code.

    factory(num_classes=…, input_shape=…, **settings)

Those two come where its parameters name them; every setting must be a parameter too. A checkpoint holds the
name and the settings, so opening it needs the module, and runs its code. A factory with
parameters must be a class of nets or name `num_classes`: a file must not have any function called.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from service.contract.text import first_line
from training.nets.settings import FROM_DATA, NetError


def find_factory(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that builds the net from `num_classes`, `input_shape` and `options`."""
    factory = _import_factory(name)
    parameters = _parameters(name, factory)
    is_net_class = isinstance(factory, type) and issubclass(factory, nn.Module)
    if parameters and not is_net_class and "num_classes" not in parameters:
        raise NetError(f"net {name} must have a parameter num_classes, it has {', '.join(parameters)}")
    if unknown := sorted(options.keys() - set(parameters)):
        takes = ", ".join(key for key in parameters if key not in FROM_DATA) or "none"
        raise NetError(f"unknown setting of net {name} {unknown[0]!r}, its factory takes {takes}")

    def build(**settings: Any) -> Any:
        taken = {key: value for key, value in settings.items() if key in parameters or key not in FROM_DATA}
        return factory(**taken)

    return build


def call_factory(name: str) -> nn.Module:
    """The net that a factory returns when called with nothing; raises NetError if it is none."""
    factory = _import_factory(name)
    try:
        net = factory()
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise NetError(f"net {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise NetError(f"net {name} must return an nn.Module, it returned {type(net).__name__}")
    return net


def _import_factory(name: str) -> Callable[..., Any]:
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:  # importing runs foreign code, which may raise anything
        raise NetError(
            f"net {name} cannot be imported here ({first_line(error)}): "
            f"it must lie in this folder or on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise NetError(f"net {name} must be a callable that returns an nn.Module")
    return factory  # type: ignore[no-any-return]


def _parameters(name: str, factory: Callable[..., Any]) -> list[str]:
    """Those that can be given by name."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        raise NetError(f"net {name} has no readable parameters, so it cannot build a net") from None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [key for key, parameter in signature.parameters.items() if parameter.kind in by_name]
