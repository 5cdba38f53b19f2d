"""How well a net answers: logits in eval mode, their loss, and the share of right ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data import DataFacts, normalize
from training.data.streamed import batches_ahead
from training.distributed.group import ALONE, Group

EVALUATION_ROWS = 500


def evaluate(
    net: nn.Module, pixels: Any, labels: Tensor, facts: DataFacts, group: Group = ALONE
) -> tuple[float, float]:
    """Mean loss and accuracy in eval mode."""
    logits = predict(net, pixels, facts, group)
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).sum().item() / len(labels)


def predict(net: nn.Module, pixels: Any, facts: DataFacts, group: Group = ALONE) -> Tensor:
    """Logits (N, K) in eval mode, in the net's own number format; processes share the batches."""
    dtype, num_rows = next(net.parameters()).dtype, len(pixels)
    batches = group.share(torch.split(torch.arange(num_rows, device=pixels.device), EVALUATION_ROWS))
    logits = torch.zeros(num_rows, len(facts.labels), dtype=dtype, device=pixels.device)
    net.eval()
    with torch.no_grad():
        for rows, batch in zip(batches, batches_ahead(pixels, batches), strict=True):
            logits[rows] = net(normalize(batch, facts).to(dtype))
    return group.total(logits)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Mean over rows () of logits (N, K), in float32 at least; `weights` (K,) and `counts` (N,) are factors.

    `labels` are (N,), or shares of every class (N, K).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if weights is None and counts is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    # torch's own mean divides by the weights of the batch: the same row would count more in one batch
    # than in another, and shares of a batch could not be averaged.
    weights = None if weights is None else weights.to(logits.dtype)
    losses = functional.cross_entropy(
        logits, labels, weights, reduction="none", label_smoothing=label_smoothing
    )
    return (losses if counts is None else losses * counts).mean()
