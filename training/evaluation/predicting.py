"""Labels of picture files by a checkpoint or a bundle, without a server.

In: what was opened, and pictures as bytes.  Out: for each its labels with probabilities, or why it has none.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from service.contract.pictures import PictureError, read_pixels
from training.evaluation.answering import Answering, open_answering
from training.evaluation.test_set import MAX_PIXELS
from training.loop.device import find_device
from training.pictures.formats import FORMATS

Labels = list[tuple[str, float]]


def open_local(source: Path) -> Answering:
    """Open a run's folder, a checkpoint or a bundle; raises a TrainingError of one sentence."""
    return open_answering(source, find_device("auto"))


def label_pictures(answering: Answering, contents: Sequence[bytes], top: int) -> list[Labels | str]:
    """The `top` labels of each picture, the most probable first; a sentence for one that cannot be read."""
    target = answering.target(MAX_PIXELS)
    read: list[np.ndarray | str] = []
    for content in contents:
        try:
            read.append(read_pixels(content, target, FORMATS))
        except PictureError as error:
            read.append(f"the picture {error}")
    pixels = [each for each in read if not isinstance(each, str)]
    if not pixels:
        return [each for each in read if isinstance(each, str)]
    shares = torch.softmax(answering.logits(torch.from_numpy(np.stack(pixels))).double(), 1)
    ranked = iter([_rank(row, answering.facts.labels, top) for row in shares.tolist()])
    return [each if isinstance(each, str) else next(ranked) for each in read]


def _rank(shares: list[float], labels: list[str], top: int) -> Labels:
    return sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])[:top]
