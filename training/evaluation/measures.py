"""What an evaluation measures, from logits (N, K) and labels (N,).

precision_c = right answers c / answers c       recall_c = right answers c / pictures of c
F1_c        = 2 · precision · recall / (precision + recall)     macro: the mean over classes with pictures
ECE         = Σ_b n_b / N · |accuracy_b − confidence_b|         15 bins of equal width (Guo et al., 2017)
temperature   the T > 0 of the smallest cross-entropy of logits / T: only confidence changes, no answer
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.figures.confusion import count_confusions, find_recall

NUM_BINS = 15


@dataclass(frozen=True, kw_only=True)
class ClassFacts:
    """Of one class; what would be divided by zero is None."""

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of all classes; `confusion[i][j]` pictures of class i were called j."""

    rows: int
    accuracy: float
    loss: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    ece: float
    classes: list[ClassFacts]
    confusion: list[list[int]]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(logits_nk: Tensor, labels: Tensor, names: list[str]) -> Measures:
    """Everything at once; a class that never was the answer has no precision, and counts as 0 in the mean."""
    counts = count_confusions(logits_nk, labels)
    recall, precision = find_recall(counts), find_recall(counts.T)
    classes = []
    for index, name in enumerate(names):
        r, p = (None if math.isnan(share[index]) else float(share[index]) for share in (recall, precision))
        f1 = None if r is None else 0.0 if not r or not p else 2 * p * r / (p + r)
        classes.append(ClassFacts(name=name, rows=int(counts[index].sum()), precision=p, recall=r, f1=f1))
    present = [each for each in classes if each.rows]
    return Measures(
        rows=len(labels),
        accuracy=float(counts.trace() / counts.sum()),
        loss=functional.cross_entropy(logits_nk.double(), labels).item(),
        macro_precision=float(np.mean([each.precision or 0.0 for each in present])),
        macro_recall=float(np.mean([each.recall or 0.0 for each in present])),
        macro_f1=float(np.mean([each.f1 or 0.0 for each in present])),
        ece=calibration_error(logits_nk, labels),
        classes=classes,
        confusion=counts.tolist(),
    )


def calibration_error(logits_nk: Tensor, labels: Tensor) -> float:
    """The expected calibration error, 0 … 1."""
    confidence, said = functional.softmax(logits_nk.double(), 1).max(1)
    right = (said == labels).double()
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return gaps.abs().sum().item() / len(labels)


def find_temperature(logits_nk: Tensor, labels: Tensor) -> float:
    """By golden-section search over log T, in which the loss has one minimum, from 1/20 to 20."""
    logits = logits_nk.double()
    low, high, ratio = -math.log(20), math.log(20), (math.sqrt(5) - 1) / 2

    def loss(log_t: float) -> float:
        return functional.cross_entropy(logits / math.exp(log_t), labels).item()

    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)
