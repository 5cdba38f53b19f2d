"""Build a net of the zoo and give it difficult numbers.

In: a name of `nets.py`.  Out: a `Subject`: its unfolded graph, and its true answers, for each kind of γ.

The weights are as the library draws them, seeded. Fresh nets would hide every mistake (γ = 1, β = 0,
mean 0, variance 1; layer scales of 1e-6), so statistics, γ, β and every constant parameter are drawn at
random: γ of both signs, or γ above 0.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from benchmarks.fold_zoo.draw import randomise_graph, randomise_net
from export.compute.reference import Evaluate, graph_evaluator
from export.errors import SourceError
from export.graph.file import load_graph
from export.graph.prepare import prepare, tidy, with_symbolic_rows
from export.sources.answering import net_evaluator
from export.sources.trace import trace

MAX_SIDE = 224
IR_VERSION = 8
"""Minimum version of a light model's file: their own, 3, requires every initialiser among the inputs."""
_torchvision_operators: list[Any] = []


@dataclass(kw_only=True)
class Subject:
    """A net with its traced graph; for an ONNX model, the graph alone (`net` is None)."""

    net: nn.Module | None
    graph: ir.Model
    row_shape: tuple[int, ...]

    def unfolded(self, gammas: str) -> tuple[ir.Model, Evaluate]:
        """The prepared graph with random numbers, and its float64 evaluator.

        `gammas` is "both" (signs) or "positive".
        """
        if self.net is None:
            graph = prepare(randomise_graph(self.graph, gammas))
            return graph, graph_evaluator(graph)
        randomise_net(self.net, gammas)
        graph = self.graph.clone()
        _load_numbers(graph, self.net)
        outputs = [value.name or "" for value in graph.graph.outputs]
        return prepare(graph), net_evaluator(self.net, outputs)


def build(name: str) -> Subject:
    """Build and trace a net; raises whatever the library or the exporter raises."""
    library, _, short = name.partition("/")
    torch.manual_seed(0)
    if library == "onnx":
        return _light(short)
    import_torchvision()
    net, row_shape = _timm(short) if library == "timm" else _torchvision(short)
    net.eval().requires_grad_(False)
    return Subject(net=net, graph=trace(net, row_shape), row_shape=row_shape)


def _timm(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import timm

    net = timm.create_model(name, pretrained=False)
    channels, *size = net.default_cfg["input_size"]
    if not net.default_cfg.get("fixed_input_size"):
        size = [min(side, MAX_SIDE) for side in size]
    return net, (channels, *size)


def _torchvision(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision import models

    # These two warn about their slow default initialisation.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **options), (3, MAX_SIDE, MAX_SIDE)


def _light(name: str) -> Subject:
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    graph = prepare(with_symbolic_rows(prepare(load_graph(folder / f"light_{name}.onnx"))))
    graph.ir_version = max(graph.ir_version, IR_VERSION)
    _drop_softmax(graph)
    (shape,) = [value.shape for value in graph.graph.inputs]
    if shape is None:
        raise SourceError(f"light_{name}.onnx: its input has no shape")
    return Subject(net=None, graph=graph, row_shape=tuple(int(str(size)) for size in shape[1:]))


def _drop_softmax(model: ir.Model) -> None:
    """Return logits: a softmax that gives 1 and 0 hides every error."""
    node = model.graph.outputs[0].producer()
    if node is not None and node.op_type == "Softmax" and node.inputs[0] is not None:
        model.graph.outputs[0] = node.inputs[0]
        tidy(model)


def _load_numbers(graph: ir.Model, net: nn.Module) -> None:
    """Set every initialiser that is a parameter or buffer of the net to its current value."""
    numbers = dict(net.named_parameters(remove_duplicate=False)) | dict(
        net.named_buffers(remove_duplicate=False)
    )
    for name, value in graph.graph.initializers.items():
        if name in numbers:
            value.const_value = ir.tensor(numbers[name].detach().numpy().copy(), name=name)


def import_torchvision() -> None:
    """Import torchvision although its C++ operators were not built for this torch.

    It registers Python kernels for operators that do not exist; each missing one is declared, and the import
    is retried. None of the nets calls them.
    """
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _torchvision_operators.append(library)  # keeps its declarations from being garbage-collected
    for _ in range(30):
        try:
            import torchvision  # noqa: F401

            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor a) -> Tensor")
            for module in [module for module in sys.modules if module.startswith("torchvision")]:
                del sys.modules[module]
