"""A data set in two halves, on one device: what is trained on, and what is held out.

In: pictures and labels.  Out: rows for a net:

    row = (pixel / 255 − mean) / std          per channel, NCHW, float32
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.data.facts import DataFacts
from training.data.streamed import Pixels

PICTURES_IDENTIFIED = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Pictures (uint8, NCHW) and labels (int64), all on one device.

    `pixels[rows]` is uint8 NCHW on that device, whether the pictures are one tensor or lie on the disk.
    `notes` are sentences that the user should read, such as which pictures were skipped. `name_held_out`
    gives the files of some held-out rows, if they are files. `is_divided_here`: the data came without halves.
    """

    facts: DataFacts
    train_pixels: Pixels
    train_labels: Tensor
    held_out_pixels: Pixels
    held_out_labels: Tensor
    notes: tuple[str, ...] = ()
    name_held_out: Callable[[Sequence[int]], list[str]] | None = None
    is_divided_here: bool = False

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return replace(
            self,
            train_pixels=self.train_pixels.to(device),
            train_labels=self.train_labels.to(device),
            held_out_pixels=self.held_out_pixels.to(device),
            held_out_labels=self.held_out_labels.to(device),
        )


def identify(split: Split) -> str:
    """A digest of every label and of some pictures of both halves, whatever the data set is called."""
    digest = hashlib.blake2b(digest_size=16)
    for pixels, labels in (
        (split.train_pixels, split.train_labels),
        (split.held_out_pixels, split.held_out_labels),
    ):
        digest.update(labels.cpu().numpy().tobytes())
        rows = torch.arange(0, len(labels), max(len(labels) // PICTURES_IDENTIFIED, 1))
        digest.update(pixels[rows.to(pixels.device)].cpu().numpy().tobytes())
    return digest.hexdigest()


def normalize(pixels_u8_nchw: Tensor, facts: DataFacts) -> Tensor:
    """Pictures to rows: the one preprocessing that training and serving share."""
    # Made on the CPU and sent without waiting: torch.tensor(…, device=…) waits for all that a GPU has to do.
    mean, std = (
        torch.tensor(values).view(-1, 1, 1).to(pixels_u8_nchw.device, non_blocking=True)
        for values in (facts.mean, facts.std)
    )
    return (pixels_u8_nchw.float() / 255 - mean) / std


def sample_held_out(split: Split, num_rows: int) -> tuple[Tensor, Tensor]:
    """Held-out pixels (n, C, H, W) and labels (n,), n ≥ `num_rows` if there are as many.

    Classes take turns, 0, 1, 2 … 0, 1, 2 …, so that each has equally many rows.
    """
    by_class = [
        torch.nonzero(split.held_out_labels == label).flatten() for label in range(len(split.facts.labels))
    ]
    per_class = min(-(-num_rows // len(by_class)), *(len(rows) for rows in by_class))
    rows = torch.stack([rows[:per_class] for rows in by_class], dim=1).flatten()
    return split.held_out_pixels[rows], split.held_out_labels[rows]
