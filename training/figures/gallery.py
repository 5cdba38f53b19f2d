"""The pictures in a run's folder.

    curves.png       the epochs so far, drawn when the run ends or is interrupted
    confusion.png    which classes are taken for which       both by the published net, in one evaluation of
    mistakes.png     the held-out pictures that it finds hardest    the held-out half, when the run has ended

In: facts; a net and a split.  Out: files, each whole or not there.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from training.data import Split
from training.figures.confusion import count_confusions, draw_confusion
from training.figures.curves import draw_curves
from training.figures.figure import to_png
from training.figures.mistakes import draw_mistakes, find_mistakes
from training.files import publish
from training.loop.evaluate import predict
from training.loop.facts import EpochFacts

CURVES, CONFUSION, MISTAKES = "curves.png", "confusion.png", "mistakes.png"


def publish_curves(out: Path, history: Sequence[EpochFacts], title: str) -> None:
    """Draw the epochs so far."""
    publish(out / CURVES, to_png(draw_curves(history, title)))


def publish_predictions(out: Path, net: nn.Module, split: Split, title: str) -> None:
    """Draw what `net`, on the device of `split`, makes of the held-out half."""
    logits, labels = predict(net, split.held_out_pixels, split.facts), split.held_out_labels
    names = split.facts.labels
    publish(out / CONFUSION, to_png(draw_confusion(count_confusions(logits, labels), names, title)))
    mistakes = find_mistakes(logits, labels)
    publish(out / MISTAKES, to_png(draw_mistakes(mistakes, split.held_out_pixels, names, title)))
