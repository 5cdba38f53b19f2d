"""Take uint8 pixels in, and fold their normalisation away like any BatchNorm.

In: a graph whose input is (pixel / 255 − mean) / std.  Out: the same net with uint8 pixels as its input.

    x = s · pixel + t      s = 1 / (255 · std)      t = −mean / std

That is a BatchNormalization with γ = s, μ = 255 · mean, β = 0, σ² = 1, after a Cast: it is put there,
folded, and has to be gone.  Where zero padding keeps its t from moving on, 255 · mean is subtracted from the
pixels before, by one Sub.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from export.errors import FoldError, SourceError
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import Price
from export.fold.stages import fold
from export.graph.edit import add_initializer
from service.contract.account import FoldSite

NAME = "pixels"


def fold_pixels(
    model: ir.Model,
    prices: frozenset[Price],
    mean: Sequence[float],
    std: Sequence[float],
    limit: float = LARGEST_CONDITION,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ir.Model, list[FoldSite]]:
    """Fold as `export.fold.stages.fold` does, with uint8 pixels as the first input."""
    whole, shifted = taking_pixels(model, mean, std), taking_pixels(model, mean, std, subtract=True)
    _, sites = fold(
        whole, prices - {Price.BORDER}, limit, kept
    )  # a Sub is cheaper than an Add after the Conv
    folded, sites = fold(shifted if sites[0].status == "declined" else whole, prices, limit, kept)
    pixels, *others = sites
    if pixels.status == "declined":
        raise FoldError(f"the input's normalisation cannot be folded: {pixels.reason}")
    return folded, others


def taking_pixels(
    model: ir.Model, mean: Sequence[float], std: Sequence[float], *, subtract: bool = False
) -> ir.Model:
    """A copy whose first input is uint8 pixels, which it casts and normalises."""
    model = model.clone()
    graph, given = model.graph, model.graph.inputs[0]
    if given.shape is None or given.dtype is None or len(given.shape) < 2 or given.shape[1] != len(mean):
        raise SourceError(
            f"input '{given.name}' has shape {given.shape}: {len(mean)} means and stds need as many channels"
        )
    dtype, kind = given.dtype.numpy(), ir.TensorType(given.dtype)
    if dtype.kind != "f":
        raise SourceError(f"input '{given.name}' is {dtype} already, not normalised pixels")

    def weight(name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(graph, f"{NAME}.{name}", array.astype(dtype))

    levels = 255 * np.asarray(mean)
    ones, zeros = np.ones(len(mean)), np.zeros(len(mean))
    pixels = ir.Value(name=given.name, shape=given.shape, type=ir.TensorType(ir.DataType.UINT8))
    nodes = [ir.node("Cast", [pixels], {"to": int(given.dtype)}, name=f"{NAME}_cast")]
    if subtract:
        by_channel = levels.reshape(-1, *[1] * (len(given.shape) - 2))
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], weight("mean", by_channel)], name=f"{NAME}_sub"))
    parameters = [1 / (255 * np.asarray(std)), zeros, zeros if subtract else levels, ones]
    inputs = [weight(name, array) for name, array in zip(("γ", "β", "μ", "σ²"), parameters, strict=True)]
    nodes.append(ir.node("BatchNormalization", [nodes[-1].outputs[0], *inputs], {"epsilon": 0.0}, name=NAME))
    for node in nodes:
        node.outputs[0].shape, node.outputs[0].type = given.shape, kind
    ir.convenience.replace_all_uses_with(given, nodes[-1].outputs[0], replace_graph_outputs=True)
    graph.inputs[0] = pixels
    first = graph[0]
    graph.insert_before(first, nodes)
    return model


def as_rows(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What the net was trained on, in float64, for uint8 pixels of shape (N, C, …)."""
    ones = [1] * (pixels.ndim - 2)
    by_channel = [np.asarray(values, dtype=np.float64).reshape(-1, *ones) for values in (mean, std)]
    return np.asarray((pixels / 255 - by_channel[0]) / by_channel[1])
