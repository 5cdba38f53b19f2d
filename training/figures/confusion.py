"""Which classes are taken for which: the confusion matrix of the held-out half, and its picture.

In: logits (N, K) and labels (N), int64.  Out: counts (K, K), and the bytes of a PNG.

    counts[i, j] = number of rows of class i that are called j
    recall[i]    = counts[i, i] / Σ_j counts[i, j]               nan for a class without rows
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from training.figures.figure import (
    HELD_OUT_COLOR,
    INK,
    TRAIN_COLOR,
    drawable_names,
    new_figure,
    place_axes,
)

MAX_NUMBERED, MAX_NAMED, MAX_PAIRS = 24, 120, 24
POINTS_PER_INCH = 72

Counts = NDArray[np.int64]


def count_confusions(logits_nk: Tensor, labels: Tensor) -> Counts:
    """Logits (N, K) and labels (N,) → counts (K, K): rows are true classes, columns predicted ones."""
    num_classes = logits_nk.shape[1]
    cells = labels * num_classes + logits_nk.argmax(1)
    counts = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    table: Counts = counts.cpu().numpy()
    return table


def find_recall(counts: Counts) -> NDArray[np.float64]:
    """Counts (K, K) → the share of each class that is predicted right, (K,); NaN for a class without rows."""
    totals = counts.sum(1).astype(float)
    shares: NDArray[np.float64] = np.full(len(counts), np.nan)
    np.divide(counts.diagonal(), totals, out=shares, where=totals > 0)
    return shares


def list_confusions(counts: Counts, limit: int = MAX_PAIRS) -> list[tuple[int, int, int]]:
    """(true, predicted, how often), the most frequent first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return [(i, j, int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def draw_confusion(counts: Counts, labels: Sequence[str], title: str) -> Figure:
    """Counts stand in the cells of up to 24 classes; beyond 120 the axes bear numbers instead of names."""
    num_classes, names = len(counts), drawable_names(labels)
    is_numbered, is_named = num_classes <= MAX_NUMBERED, num_classes <= MAX_NAMED
    # In inches: the matrix, what its names need, the bars, the list.
    cell = min(max(0.52, 3.2 / num_classes), 1.0) if is_numbered else 0.16 if is_named else 14 / num_classes
    side, size = cell * num_classes, min(9.0, 0.62 * cell * POINTS_PER_INCH)
    longest = max(map(len, names)) if is_named else 4
    margin = 0.55 + 0.62 * longest * max(size, 6.0) / POINTS_PER_INCH
    figure = new_figure(margin + side + 6.0, margin + side + 0.85, _describe(counts, title), layout=None)
    matrix = place_axes(figure, margin, margin, side, side)
    _draw_matrix(matrix, counts)
    if is_named:
        places = range(num_classes)
        matrix.set_yticks(places, names, fontsize=size, parse_math=False)
        matrix.set_xticks(places, names, fontsize=size, rotation=90, parse_math=False)
    _draw_recall(place_axes(figure, margin + side + 0.2, margin, 1.6, side), counts)
    _list_pairs(place_axes(figure, margin + side + 2.2, margin, 3.7, side), counts, names, side)
    return figure


def _describe(counts: Counts, title: str) -> str:
    total, right = int(counts.sum()), int(counts.trace())
    return f"{title}: {total - right:,} of {total:,} held-out pictures are taken for another class"


def _draw_matrix(axes: Axes, counts: Counts) -> None:
    """Shades are shares of the true class, on a root scale so that rare confusions show."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_color("#c5ced6")
    if len(counts) > MAX_NUMBERED:
        return
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            axes.text(
                predicted,
                true,
                f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f}k",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[true, predicted] > 0.4 else INK,
            )


def _draw_recall(axes: Axes, counts: Counts) -> None:
    """A bar for each class, in the line of its row."""
    recall = find_recall(counts)
    places = np.arange(len(counts))
    if len(counts) <= MAX_NAMED:
        axes.barh(places, np.nan_to_num(recall), height=0.8, color=TRAIN_COLOR)
    else:
        axes.fill_betweenx(places, np.nan_to_num(recall), step="mid", color=TRAIN_COLOR, linewidth=0)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_title("recall", loc="left", color=INK, fontsize=10)
    axes.set_xticks([0, 1], ["0", "100 %"])
    axes.set_yticks([])
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if len(counts) <= MAX_NAMED:
        size = 8 if len(counts) <= MAX_NUMBERED else 6
        for place, share in enumerate(recall):
            text = "no rows" if np.isnan(share) else f"{100 * share:.1f}"
            axes.text(0.03, place, text, va="center", fontsize=size, color=INK)


def _list_pairs(axes: Axes, counts: Counts, names: Sequence[str], height: float) -> None:
    """The pairs that are confused, the most frequent first, in lines of 0.2 of `height` inches."""
    axes.axis("off")
    axes.set_title("most often confused", loc="left", color=INK, fontsize=10)
    for place, (true, predicted, count) in enumerate(list_confusions(counts)[: int(height / 0.2)]):
        top = 1 - 0.2 * (place + 0.8) / height
        for left, text, color in (
            (0.0, f"{count:,}", HELD_OUT_COLOR),
            (0.15, f"{names[true]} → {names[predicted]}", INK),
        ):
            axes.text(left, top, text, color=color, fontsize=8, transform=axes.transAxes, parse_math=False)
