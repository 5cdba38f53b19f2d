"""The checkpoint: all that a trained net is, in one file; the seam between training and export.

In: a `Checkpoint`.  Out: `checkpoint.pt`, a dict of plain values and tensors, and back again.

    torch.load(path, weights_only=True)     opens it
    load_checkpoint(path).build_net()       rebuilds the net, ready to answer

It also carries a class-balanced sample of held-out pictures, so that export needs no data set, and what a
resumed run needs. It holds no time of day: on one CPU the same config gives the same bytes.
"""

import io
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.contract.arrays import DAMAGED
from training import nets
from training.batchnorm.report import BatchNormReport
from training.data import DataFacts
from training.errors import TrainingError
from training.files import publish
from training.loop.state import State
from training.runs.records import RecordError, read_record, to_plain

FORMAT = "foldserve checkpoint"
SCHEMA_VERSION = 2


class CheckpointError(TrainingError):
    """Missing, torn, not a checkpoint, of another version, or with a wrong key, which it names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resume:
    """What resuming needs besides the weights; `history` holds the facts of every epoch so far.

    `threads` decides in which order a CPU sums, and so the last bits of every weight. `data_digest` proves
    that data found elsewhere are the same (data/split.py).
    """

    config: dict[str, Any]
    threads: int
    history: list[dict[str, Any]]
    state: State
    data_digest: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A net after `epoch` epochs; `metrics` are that epoch's facts, `held_out_pixels` uint8 NCHW.

    Within an epoch the file has no `metrics`: none were measured of such a net.

    `batchnorm` is there once every epoch is done, if the net has a BatchNorm; `resume` is None in files of
    version 1, which can be exported but not resumed.
    """

    net_name: str
    net_settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    seed: int
    epoch: int
    metrics: dict[str, Any]
    data: DataFacts
    held_out_pixels: Tensor
    held_out_labels: Tensor
    batchnorm: BatchNormReport | None
    resume: Resume | None

    def __post_init__(self) -> None:
        pixels, labels = self.held_out_pixels, self.held_out_labels
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != self.data.input_shape:
            raise ValueError(
                f"held_out_pixels must be uint8 rows of {self.data.input_shape}, "
                f"got {pixels.dtype} {tuple(pixels.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise ValueError(
                f"held_out_labels must be {len(pixels)} × int64, got {labels.dtype} {tuple(labels.shape)}"
            )
        if not ((labels >= 0) & (labels < len(self.data.labels))).all():
            raise ValueError(f"held_out_labels must lie in 0 .. {len(self.data.labels) - 1}")

    def build_net(self) -> nn.Module:
        """The trained net, in eval mode, on the CPU."""
        try:
            net = nets.build_net(self.net_name, self.net_settings)
        except nets.NetError as error:
            raise CheckpointError(f"the checkpoint's net cannot be rebuilt: {error}") from None
        try:
            net.load_state_dict(self.state_dict)
        except RuntimeError as error:
            sentence = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint's weights do not fit its net: {sentence}") from None
        return net.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write aside, having read it back, and rename."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_plain(checkpoint)}, buffer)
    content = buffer.getvalue()
    parse_checkpoint(content, str(path))
    publish(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check every key; see `CheckpointError` for what can be wrong."""
    return parse_checkpoint(read_checkpoint(path), str(path))


def read_checkpoint(path: Path) -> bytes:
    """The file as it is."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from None


def parse_checkpoint(content: bytes, where: str) -> Checkpoint:
    """Turn the bytes of a checkpoint into one; errors say `where` they stood."""
    try:
        # torch does not verify the archive's check sums, so a changed byte would pass as a weight.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            torn = archive.testzip()
        if torn is not None:
            raise CheckpointError(f"{where} is torn: the check sum of {torn} is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said in one sentence below
            record = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{where} is torn, or is not a checkpoint: {error}") from None
    except (*DAMAGED, pickle.UnpicklingError):
        raise CheckpointError(f"{where} is not a checkpoint of plain tensors and values") from None
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise CheckpointError(f"{where} is not a checkpoint that `python -m training` wrote")
    version = record.pop("schema_version", None)
    if version == 1:
        record |= {"batchnorm": None, "resume": None}
    elif version != SCHEMA_VERSION:
        raise CheckpointError(f"{where} has schema_version {version}, this reader knows 1 and 2")
    try:
        return read_record(Checkpoint, record, where)
    except RecordError as error:
        raise CheckpointError(str(error)) from None
