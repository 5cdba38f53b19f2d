"""The held-out pictures that a net finds hardest, as it sees them: the worst mistakes.

In: logits (N, K), labels (N), and pictures.  Out: rows with what was said of them, and the bytes of a PNG.

    loss of a row = −log p(true)        p = softmax(logits)        the largest first
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from training.data import Pixels
from training.figures.figure import HELD_OUT_COLOR, INK, drawable_names, new_figure, place_axes

MAX_ROWS, COLUMNS = 30, 6
CELL, GAP, TEXT, HEAD = 1.5, 0.15, 0.5, 0.6  # inches: a picture's side, between two, the words under it


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A held-out row, its class, the class that it is called, and the probability of each."""

    row: int
    loss: float
    true: int
    predicted: int
    p_true: float
    p_predicted: float

    @property
    def is_wrong(self) -> bool:
        """The hardest rows of a very good net may be right."""
        return self.true != self.predicted


def find_mistakes(logits_nk: Tensor, labels: Tensor, limit: int = MAX_ROWS) -> list[Mistake]:
    """The rows of the highest losses; of equal ones, the first."""
    log_p = functional.log_softmax(logits_nk.double(), dim=1)
    losses = -log_p.gather(1, labels[:, None]).flatten()
    rows = torch.argsort(losses, descending=True, stable=True)[:limit]
    predicted = logits_nk[rows].argmax(1)
    columns = (
        rows,
        losses[rows],
        labels[rows],
        predicted,
        log_p[rows, labels[rows]].exp(),
        log_p[rows, predicted].exp(),
    )
    return [
        Mistake(row=row, loss=loss, true=true, predicted=said, p_true=p_true, p_predicted=p_said)
        for row, loss, true, said, p_true, p_said in zip(*(it.tolist() for it in columns), strict=True)
    ]


def draw_mistakes(mistakes: Sequence[Mistake], pixels: Pixels, labels: Sequence[str], title: str) -> Figure:
    """Six in a line; under each, what is said of it, what is true, and the probability of both."""
    rows = torch.tensor([mistake.row for mistake in mistakes], device=pixels.device)
    pictures = pixels[rows].permute(0, 2, 3, 1).cpu().numpy()
    num_lines = -(-len(mistakes) // COLUMNS)
    width, height = COLUMNS * (CELL + GAP) + GAP, num_lines * (CELL + TEXT) + HEAD
    figure = new_figure(width, height, _describe(mistakes, title), layout=None)
    names = drawable_names(labels, longest=12)
    for place, (mistake, picture) in enumerate(zip(mistakes, pictures, strict=True)):
        line, column = divmod(place, COLUMNS)
        left, bottom = GAP + column * (CELL + GAP), height - HEAD - line * (CELL + TEXT) - CELL
        axes = place_axes(figure, left, bottom, CELL, CELL)
        axes.imshow(np.squeeze(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.axis("off")
        said = f"predicted {names[mistake.predicted]}, {_percent(mistake.p_predicted)}"
        true = f"true {names[mistake.true]}, {_percent(mistake.p_true)}"
        for down, text, color in (
            (0.05, said, HELD_OUT_COLOR if mistake.is_wrong else INK),
            (0.21, true, INK),
        ):
            figure.text(
                left / width,
                (bottom - down) / height,
                text,
                color=color,
                fontsize=7,
                va="top",
                parse_math=False,
            )
    return figure


def _describe(mistakes: Sequence[Mistake], title: str) -> str:
    wrong = sum(mistake.is_wrong for mistake in mistakes)
    told = "all of them wrong" if wrong == len(mistakes) else f"{wrong} of them wrong"
    return f"{title}: the {len(mistakes)} held-out pictures of the highest loss, {told}"


def _percent(probability: float) -> str:
    share = 100 * probability
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %" if share >= 0.1 else "<0.1 %"
