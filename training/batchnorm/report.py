"""What training leaves in the BatchNorms: facts for people, for the checkpoint and for the export report.

In: a net, and batches of train rows with their labels, not augmented.  Out: a `BatchNormReport`.

    drift of the mean        max over channels |r_μ − μ| / √(σ² + ε)
    drift of the variance    max over channels (r_σ² + ε) / (σ² + ε), or its inverse where that is larger
    near zero                r_σ² < ε: ε and not the data sets the scale
    dead                     |γ| ≤ SMALLEST_GAMMA: the channel contributes next to nothing
    gap                      accuracy by the batch's statistics − accuracy by the running ones, the same rows

r are the running statistics; μ and σ² are re-estimated from all that the BatchNorm reads in those batches.
They are estimates too: of n values, the mean's standard error is about σ / √n.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.batchnorm.statistics import (
    SMALLEST_GAMMA,
    Moments,
    find_batchnorms,
    normalizing_by_batch,
    take_statistics,
)

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class BatchNormLayer:
    """One BatchNorm; `values` is n, what each of its statistics was estimated from."""

    name: str
    channels: int
    values: int
    mean_drift: float
    variance_drift: float
    smallest_variance: float
    near_zero_variance: int
    dead_gamma: int
    negative_gamma: int


@dataclass(frozen=True, kw_only=True)
class BatchNormReport:
    """Accuracies are of `rows` train rows; the last is None where nothing was recalibrated."""

    rows: int
    accuracy_by_batch: float
    accuracy_by_running: float
    accuracy_recalibrated: float | None
    layers: list[BatchNormLayer]

    def summary(self) -> dict[str, float | int | None]:
        """The worst of all layers, and their counts added up."""
        layers = self.layers
        return {
            "layers": len(layers),
            "channels": sum(layer.channels for layer in layers),
            "largest_mean_drift": max(layer.mean_drift for layer in layers),
            "largest_variance_drift": max(layer.variance_drift for layer in layers),
            "smallest_variance": min(layer.smallest_variance for layer in layers),
            "near_zero_variance": sum(layer.near_zero_variance for layer in layers),
            "dead_gamma": sum(layer.dead_gamma for layer in layers),
            "negative_gamma": sum(layer.negative_gamma for layer in layers),
            "accuracy_by_batch": self.accuracy_by_batch,
            "accuracy_by_running": self.accuracy_by_running,
            "accuracy_recalibrated": self.accuracy_recalibrated,
            "gap": self.accuracy_by_batch - self.accuracy_by_running,
        }


def examine(net: nn.Module, batches: Batches, *, recalibrate: bool) -> BatchNormReport | None:
    """Report on `net`, leaving it in eval mode, recalibrated if asked; None if no BatchNorm ran."""
    if not find_batchnorms(net):
        return None
    with normalizing_by_batch(net) as moments:
        by_batch, num_rows = _accuracy(net, batches())
    names = {module: name for name, module in net.named_modules()}
    layers = [_describe(names[norm], norm, seen) for norm, seen in moments.items() if seen.count]
    if not layers:
        return None
    by_running, _ = _accuracy(net, batches())
    if recalibrate:
        take_statistics(moments)
    return BatchNormReport(
        rows=num_rows,
        accuracy_by_batch=by_batch,
        accuracy_by_running=by_running,
        accuracy_recalibrated=_accuracy(net, batches())[0] if recalibrate else None,
        layers=layers,
    )


def _describe(name: str, norm: _BatchNorm, seen: Moments) -> BatchNormLayer:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    running_mean, running_variance = norm.running_mean.double(), norm.running_var.double()
    variance = seen.variance()
    ratio = (running_variance + norm.eps) / (variance + norm.eps)
    gamma = norm.weight if norm.affine else torch.ones(norm.num_features)
    return BatchNormLayer(
        name=name,
        channels=norm.num_features,
        values=seen.count,
        mean_drift=((running_mean - seen.mean).abs() / (variance + norm.eps).sqrt()).max().item(),
        variance_drift=torch.maximum(ratio, 1 / ratio).max().item(),
        smallest_variance=running_variance.min().item(),
        near_zero_variance=int((running_variance < norm.eps).sum()),
        dead_gamma=int((gamma.abs() <= SMALLEST_GAMMA).sum()),
        negative_gamma=int((gamma < 0).sum()),
    )


@torch.no_grad()
def _accuracy(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Share of rows answered right, and how many there were."""
    right, num_rows = 0, 0
    for rows, labels in batches:
        right += int((net(rows).argmax(1) == labels).sum())
        num_rows += len(labels)
    return right / num_rows, num_rows
