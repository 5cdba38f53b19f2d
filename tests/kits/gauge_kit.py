"""Grow random ONNX graphs op by op, at any opset, fold them, and measure what the fold changed in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from export.compute.operators import OPERATORS
from export.fold.gauges.system import FREE, Price
from export.fold.stages import LARGEST_CONDITION, fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from onnx_graphs import graph
from service.contract.account import FoldSite

EXACT = 1e-12
EPSILON = 2.0**-16
"""The same number in float32 and float64."""


@dataclass
class Net:
    """Nodes and weights so far; each method adds an op and returns the name of its output."""

    seed: int
    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    captured: list[onnx.ValueInfoProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: object) -> list[str]:
        name = f"{kind.lower()}{len(self.nodes)}"
        outputs = [f"{name}.{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, array: object) -> str:
        name = f"k{len(self.arrays)}"
        self.arrays[name] = np.asarray(array)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.normal(size=shape))

    def factor(self, *shape: int) -> str:
        """A weight of both signs that is nowhere near 0."""
        return self.constant(self.random.uniform(0.5, 2, shape) * self.random.choice([-1, 1], shape))

    def norm(
        self, x: str, channels: int, *, positive: bool = False, shift: bool = True, **attributes: object
    ) -> str:
        """A BatchNormalization, named bn0, bn1 …"""
        name = f"bn{sum(node.op_type == 'BatchNormalization' for node in self.nodes)}"
        gamma = self.random.uniform(0.5, 1.5, channels)
        if not positive:
            gamma *= self.random.permutation([-1, *self.random.choice([-1, 1], channels - 1)])
        beta, mean = self.random.normal(size=(2, channels)) * shift
        arrays = {"gamma": gamma, "beta": beta, "mean": mean}
        arrays["var"] = self.random.uniform(0.3, 2, channels)
        self.arrays |= {f"{name}.{key}": array for key, array in arrays.items()}
        inputs = [x, *(f"{name}.{key}" for key in arrays)]
        self.nodes.append(
            helper.make_node(
                "BatchNormalization", inputs, [f"{name}.y"], name=name, epsilon=EPSILON, **attributes
            )
        )
        return f"{name}.y"

    def conv(
        self, x: str, inputs: int, outputs: int, *kernel: int, bias: bool = True, **attributes: object
    ) -> str:
        """Kernel 1 in two dimensions unless told."""
        shape = (outputs, inputs // int(str(attributes.get("group", 1))), *(kernel or (1, 1)))
        return self.op(
            "Conv", x, self.weight(*shape), *([self.weight(outputs)] if bias else []), **attributes
        )

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        return self.op("Gemm", x, self.weight(inputs, outputs), self.weight(outputs))

    def linear(self, x: str, inputs: int, outputs: int, rank: int) -> str:
        """Channels on axis 1 into other channels."""
        if rank == 2:
            return self.gemm(x, inputs, outputs)
        return self.conv(x, inputs, outputs, *[1] * (rank - 2))

    def with_ints(self, kind: str, since: int, *inputs: str, count: int = 1, **ints: object) -> list[str]:
        """`ints` as inputs from opset `since` on, as attributes before."""
        if self.opset < since:
            return self.ops(kind, count, *inputs, **ints)
        return self.ops(kind, count, *inputs, *(self.constant(np.array(number)) for number in ints.values()))

    def squeeze(self, x: str, *axes: int) -> str:
        return self.with_ints("Squeeze", 13, x, axes=axes)[0]

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.with_ints("Unsqueeze", 13, x, axes=axes)[0]

    def reduce(self, kind: str, x: str, axes: Sequence[int], *, keepdims: int = 1) -> str:
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, axes=axes, keepdims=keepdims)
        return self.op(kind, x, self.constant(np.array(axes)), keepdims=keepdims)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        if self.opset < 13:
            return self.ops("Split", len(sizes), x, split=sizes, axis=axis)
        return self.ops("Split", len(sizes), x, self.constant(np.array(sizes)), axis=axis)

    def slice(
        self,
        x: str,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] = (),
    ) -> str:
        parts = {"starts": starts, "ends": ends, "axes": axes} | ({"steps": steps} if steps else {})
        return self.with_ints("Slice", 10, x, **parts)[0]

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def pad(self, x: str, pads: Sequence[int], mode: str = "constant") -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=pads, mode=mode)
        return self.op("Pad", x, self.constant(np.array(pads)), mode=mode)

    def resize(self, x: str, scales: Sequence[float], mode: str = "nearest") -> str:
        if self.opset < 9:
            return self.op("Upsample", x, scales=[float(scale) for scale in scales], mode=mode)
        self.arrays[name := f"scales{len(self.arrays)}"] = np.array(scales, dtype=np.float32)
        if self.opset < 11:
            return self.op("Upsample" if self.opset == 9 else "Resize", x, name, mode=mode)
        region = self.constant(np.zeros(0)) if self.opset == 11 else ""
        return self.op("Resize", x, region, name, mode=mode)

    def model(self, shape: Sequence[int | str], *outputs: str) -> onnx.ModelProto:
        """Input x; scales stay float32, as their op wants them."""
        proto = graph(self.nodes, self.arrays, shape, outputs, opset=self.opset, extra_inputs=self.captured)
        for tensor in proto.graph.initializer:
            if tensor.name.startswith("scales"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.arrays[tensor.name], name=tensor.name))
        return proto


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a fold did: what became of each BatchNorm, the op types left, and the relative difference."""

    fates: dict[str, FoldSite]
    ops: list[str]
    difference: float
    unfolded: ir.Model
    folded: ir.Model

    def how(self, name: str = "bn0") -> str:
        fate = self.fates[name]
        return fate.how or f"declined: {fate.reason}"

    def gone(self) -> set[str]:
        return {name for name, fate in self.fates.items() if fate.status != "declined"}


class Upsample(OpRun):
    """Nearest, by whole numbers: onnx has it from opset 9 only."""

    def _run(self, x, scales=None, **attributes):
        for axis, scale in enumerate(attributes["scales"] if scales is None else scales):
            x = np.repeat(x, int(scale), axis)
        return (x,)


def difference(unfolded: ir.Model, folded: ir.Model, rows: np.ndarray) -> float:
    """The largest over all outputs, each relative to its own range."""
    pairs = zip(answers(unfolded, rows), answers(folded, rows), strict=True)
    return max(float(np.abs(e - a).max() / max(np.abs(e).max(), 1e-30)) for e, a in pairs if e.size)


def answers(model: ir.Model, rows: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph in float64."""
    with np.errstate(over="ignore", invalid="ignore"):  # a Sigmoid far from 0
        return ReferenceEvaluator(ir.to_proto(model), new_ops=[*OPERATORS, Upsample]).run(None, {"x": rows})


def folded(
    net: Net,
    shape: Sequence[int | str],
    *outputs: str,
    prices: frozenset[Price] = FREE,
    limit: float = LARGEST_CONDITION,
) -> Result:
    """Fold at these prices; whatever goes or stays, the answers are the same."""
    unfolded = prepare(ir.from_proto(net.model(shape, *outputs)))
    model, sites = fold(unfolded, prices, limit)
    rows = net.random.normal(size=[size if isinstance(size, int) else 2 for size in shape])
    result = Result(
        fates={site.name: site for site in sites},
        ops=[node.op_type for node in model.graph],
        difference=difference(unfolded, model, rows),
        unfolded=unfolded,
        folded=model,
    )
    assert result.difference < EXACT, (result.difference, result.fates)
    assert len(list(batchnorms(model))) == len(sites) - len(result.gone())
    return result


def assert_gone(
    net: Net,
    shape: Sequence[int | str],
    *outputs: str,
    prices: frozenset[Price] = FREE,
    limit: float = LARGEST_CONDITION,
) -> Result:
    """Every BatchNorm goes."""
    result = folded(net, shape, *outputs, prices=prices, limit=limit)
    assert len(result.gone()) == len(result.fates) > 0, result.fates
    return result


def assert_stays(
    net: Net, shape: Sequence[int | str], *outputs: str, because: str, prices: frozenset[Price] = FREE
) -> Result:
    """The only BatchNorm stays, for this reason."""
    result = folded(net, shape, *outputs, prices=prices)
    assert because in result.how(), result.fates
    assert "declined" in result.how()
    return result
