"""Event files for TensorBoard in a run's folder; `tensorboard --logdir runs` shows them.

In: the facts of each epoch, and the run's pictures at the end.  Out: events.out.tfevents.*

A run that resumes or restarts in the same folder writes a file of its own with every epoch so far, and
tells TensorBoard to forget what older files say of them.
"""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

from training.errors import TrainingError
from training.figures.gallery import CONFUSION, MISTAKES
from training.files import OutputError
from training.loop.facts import EpochFacts

INSTALL = "pip install -c constraints.txt 'foldserve[tensorboard]'"
TAGS = {
    "loss/train": "train_loss",
    "loss/held out": "held_out_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/held out": "held_out_accuracy",
    "learning rate": "learning_rate",
}


class TensorBoardError(TrainingError):
    """The package is not installed."""


def check_tensorboard() -> None:
    """Raise TensorBoardError unless it can be imported."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TensorBoardError(f"--tensorboard needs the package tensorboard: {INSTALL}")


class Board:
    """A context around a run; `history` are the epochs done before."""

    def __init__(self, out: Path, history: Sequence[EpochFacts]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._out = out
        try:
            self._writer: Any = SummaryWriter(str(out), purge_step=1)
        except OSError as error:
            raise OutputError(f"cannot write events into {out}: {error.strerror}") from None
        for facts in history:
            self.add(facts)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, facts: EpochFacts) -> None:
        """One point of each curve; on the disk when this returns."""
        for tag, name in TAGS.items():
            self._writer.add_scalar(tag, getattr(facts, name), facts.epoch)
        self._writer.flush()

    def add_pictures(self, epoch: int) -> None:
        """Those that stand in the folder when a run has ended."""
        for name in (CONFUSION, MISTAKES):
            pixels_hwc = imread(io.BytesIO((self._out / name).read_bytes()))
            self._writer.add_image(name, np.asarray(pixels_hwc)[..., :3], epoch, dataformats="HWC")
