"""`module:factory` as a source: a function of the user's that returns a net."""

import importlib
from pathlib import Path

import torch
from torch import nn

from export.errors import SourceError
from export.sources.net import of_net
from export.sources.pictures import preprocessing_of
from export.sources.source import Source, SourceOptions
from export.sources.tensors import read_labels
from service.contract.bundle import sha256
from service.contract.text import first_line


def from_factory(text: str, options: SourceOptions) -> Source:
    """Call `module:factory`, load --weights into what it returns, and trace that; raises SourceError."""
    if options.input_shape is None:
        raise SourceError(f"{text} needs --input-shape, for example --input-shape 3,224,224")
    net = _build(text)
    digest = None
    if options.weights is not None:
        _load_weights(net, options.weights)
        digest = sha256(options.weights.read_bytes())
    return of_net(
        net,
        options.input_shape,
        description=f"net {text}" + (f" with weights {options.weights.name}" if options.weights else ""),
        digest=digest,
        labels=read_labels(options.labels),
        preprocessing=preprocessing_of(options, options.input_shape),
    )


def _build(text: str) -> nn.Module:
    module_name, _, factory_name = text.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:  # importing runs the user's own code
        raise SourceError(
            f"{text}: {first_line(error)}; expected a checkpoint, an .onnx file or module:factory"
        ) from error
    try:
        net = factory()
    except (Exception, SystemExit) as error:  # the user's own code
        raise SourceError(f"{text} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise SourceError(f"{text} must return an nn.Module, it returned {type(net).__name__}")
    return net


def _load_weights(net: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state.get("state_dict", state) if isinstance(state, dict) else state)
    except Exception as error:  # pickle, zip, key and shape errors share no class
        raise SourceError(f"{path}: not the weights of this net: {first_line(error)}") from error
