"""A net of a test's own, given to the command line as the SOURCE `mine:make`, and what its bundle answers."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn


def offer(monkeypatch: pytest.MonkeyPatch, kind: Callable[[], nn.Module]) -> nn.Module:
    """A net of this kind, whose BatchNorms change what goes through them, as `mine:make`."""
    torch.manual_seed(0)
    net = kind().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    tensor.data.normal_()
            module.running_var.uniform_(0.5, 2)
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(make=lambda: net))
    return net


def answers(folder: Path, rows: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Of the bundle in `folder`, version 1."""
    session = ort.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, rows)
