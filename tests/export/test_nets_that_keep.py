"""Nets that keep things between runs, in attributes and through hooks: they go in as they were given."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from export.compute.runtime import load
from export.errors import TraceError
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.sources.net import of_net

COLLECTED: list[torch.Tensor] = []
ROWS = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        nn.init.normal_(self.norm.running_mean)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu()

    def forward(self, x: torch.Tensor):
        return self.head(self.features(x).mean((2, 3)))


class Grid(Block):
    """YOLO's: made anew where the shape, with its number of rows, is another."""

    shape, grid = None, torch.empty(0)

    def forward(self, x: torch.Tensor):
        y = self.features(x)
        if self.shape != y.shape:
            self.grid, self.shape = torch.arange(8.0).repeat(8, 1), y.shape
        return (y + self.grid).reshape(self.shape[0], -1)


class Collected(Block):
    """What a hook writes into: a dict of its own, or the net itself."""

    def __init__(self, *, is_dict: bool) -> None:
        super().__init__()
        found: dict[str, torch.Tensor] = {}
        self.found, self.is_dict, self.last = found, is_dict, None

        def keep(module, inputs, output) -> None:
            if is_dict:
                found["norm"] = output
            else:
                self.last = output

        self.norm.register_forward_hook(keep)

    def forward(self, x: torch.Tensor):
        y = super().forward(x)
        return y + (self.found["norm"] if self.is_dict else self.last).amax((2, 3))[:, :2]


class Listed(Block):
    """A list that each run empties, and a hook fills."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []
        self.norm.register_forward_hook(lambda _, __, y, outputs=self.outputs: outputs.append(y))

    def forward(self, x: torch.Tensor):
        self.outputs.clear()
        super().forward(x)
        return self.outputs[0].mean((2, 3))


class Hooked(Block):
    """Its first run installs the hooks that collect its features, as the nets of transformers do."""

    installed = False

    def forward(self, x: torch.Tensor):
        found: list[torch.Tensor] = COLLECTED
        found.clear()
        if not self.installed:
            self.norm.register_forward_hook(lambda _, __, y: found.append(y))
            self.norm.register_forward_pre_hook(lambda _, given: found.append(given[0]))
            self.installed = True
        super().forward(x)
        (before, after) = found
        return (before + after).mean((2, 3))


class Writes(Block):
    """RawNet2's: filters that each run writes into a tensor that is neither a buffer nor a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = torch.zeros(2, 4)

    def forward(self, x: torch.Tensor):
        for place in range(2):
            self.filters[place] = torch.sinc(torch.arange(4.0) * (place + 1))
        return self.features(x).mean((2, 3)) @ self.filters.mT


class Unprintable(Block):
    """Names what is only there once weights were downloaded, as an autoencoder of torchxrayvision does."""

    def __repr__(self) -> str:
        return f"{self.weights}"


class UnprintableInside(Block):
    """torch's own way to print a BatchNorm fails where a subclass has an attribute of this name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.use_bias = True


class ReturnsNothing(Block):
    """OpenMMLab's backbones do: `train`, and with it `eval`."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)


class Warm(Block):
    """An attribute that was computed when the net was made, and has a gradient's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.start = self.conv(torch.ones(1, 3, 8, 8)).mean()

    def forward(self, x: torch.Tensor):
        return super().forward(x) - self.start


class Asks(Block):
    """As detectron2's FrozenBatchNorm2d: another way to compute it where gradients are wanted."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if y.requires_grad:
            return y * 0
        return super().features(x)


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor
    hidden: torch.Tensor | None = None


def patched(answer) -> Block:
    net = Block()
    net.forward = lambda x: answer(Block.forward(net, x))
    return net


def patched_inside() -> Block:
    net = Block()
    conv = net.conv
    conv.forward = lambda x: conv._conv_forward(x, conv.weight, conv.bias) * 2
    return net


class SetsAnew(Block):
    """As neurons of snnTorch do: a buffer of as many rows as there were."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("potential", torch.zeros(0), persistent=False)

    def forward(self, x: torch.Tensor):
        y = self.features(x)
        if self.potential.shape != y.shape:
            self.potential = torch.zeros_like(y)
        self.potential = 0.9 * self.potential + y
        answer = self.head(self.potential.mean((2, 3)))
        self.potential = torch.zeros(0)
        return answer


MAKERS = {
    "a grid by shape": Grid,
    "a hook and a dict": lambda: Collected(is_dict=True),
    "a hook and the net": lambda: Collected(is_dict=False),
    "a hook and a list": Listed,
    "hooks that its first run installs": Hooked,
    "a plain tensor that it writes into": Writes,
    "a buffer that it sets anew": SetsAnew,
    "that cannot be printed": Unprintable,
    "that holds what cannot be printed": UnprintableInside,
    "an eval that returns nothing": ReturnsNothing,
    "computed when made": Warm,
    "asks for gradients": Asks,
    "a forward of its own": lambda: patched(lambda y: y),
    "a forward of its own, a dict": lambda: patched(lambda y: {"scores": y}),
    "a forward of its own inside": patched_inside,
    "a dataclass": lambda: patched(lambda y: Answer(y)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_net_goes_in_as_it_was_given(name):
    net = MAKERS[name]()
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    attributes, buffers, kind = dict(vars(net)), dict(net.named_buffers()), type(net)
    source = of_net(net, (3, 8, 8), preprocessing=None, labels=None, description="a net", digest=None)
    assert len(list(batchnorms(source.graph))) == 1
    answer = next(iter(load(serialize(source.graph), optimised=True)({"input": ROWS}).values()))
    truth = next(iter(source.evaluate({"input": ROWS}).values()))
    assert truth.dtype == np.float64
    assert vars(net).keys() == attributes.keys()
    assert type(net) is kind
    assert all(vars(net)[key] is value for key, value in attributes.items())
    assert all(dict(net.named_buffers())[key] is buffer for key, buffer in buffers.items())
    for key, value in net.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    with torch.no_grad():
        own = net(torch.from_numpy(ROWS))
    own = own["scores"] if isinstance(own, dict) else own.scores if isinstance(own, Answer) else own
    np.testing.assert_allclose(answer, own.numpy(), atol=1e-5)
    np.testing.assert_allclose(truth, own.numpy(), atol=1e-5)


def test_an_answer_that_depends_on_what_is_kept_is_refused():
    class Remembers(Block):
        total = 0

        def forward(self, x: torch.Tensor):
            self.total = super().forward(x) + self.total
            return self.total

    net = Remembers()
    with pytest.raises(TraceError, match="changes its attribute 'total', and with it what it answers"):
        of_net(net, (3, 8, 8), preprocessing=None, labels=None, description="a net", digest=None)
    assert "total" not in vars(net)


def test_a_conv3d_without_a_bias_folds():
    """torch's exporter gives it zeros of the shape (C, 2), which only ONNX Runtime takes for (C,)."""
    net = nn.Sequential(nn.Conv3d(1, 4, 3, bias=False), nn.BatchNorm3d(4), nn.Flatten())
    source = of_net(net, (1, 4, 4, 4), preprocessing=None, labels=None, description="a net", digest=None)
    (conv,) = (node for node in source.graph.graph if node.op_type == "Conv")
    assert len([value for value in conv.inputs if value is not None]) == 2
