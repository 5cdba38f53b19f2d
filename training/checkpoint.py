"""The checkpoint: all that a trained net is, in one file; the seam between training and export.

In: a `Checkpoint`.  Out: `checkpoint.pt`, a dict of plain values and tensors, and back again.

    torch.load(path, weights_only=True)     opens it
    load_checkpoint(path).build_net()       rebuilds the net, ready to answer

It also carries a class-balanced sample of held-out pictures, so that export needs no data set, and what a
resumed run needs. It holds no time of day: on one CPU the same config gives the same bytes.
"""

import io
import pickle
import zipfile
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from training import nets
from training.data import DataFacts
from training.errors import TrainingError
from training.files import publish

FORMAT = "foldserve checkpoint"
SCHEMA_VERSION = 1

T = TypeVar("T")


class CheckpointError(TrainingError):
    """Missing, torn, not a checkpoint, of another version, or with a wrong key, which it names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resume:
    """What going on needs besides the weights; `history` holds the facts of every epoch so far.

    `threads` decides in which order a CPU sums, and so the last bits of every weight.
    """

    config: dict[str, Any]
    threads: int
    history: list[dict[str, Any]]
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A net after `epoch` epochs; `metrics` are that epoch's facts, `held_out_pixels` uint8 NCHW."""

    net_name: str
    net_settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    seed: int
    epoch: int
    metrics: dict[str, Any]
    data: DataFacts
    held_out_pixels: Tensor
    held_out_labels: Tensor
    resume: Resume

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
    torch.save({"format": FORMAT, "schema_version": SCHEMA_VERSION, **_to_plain(checkpoint)}, buffer)
    content = buffer.getvalue()
    parse_checkpoint(content, str(path))
    publish(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check every key; see `CheckpointError` for what can be wrong."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    return parse_checkpoint(content, str(path))


def parse_checkpoint(content: bytes, where: str) -> Checkpoint:
    """Turn the bytes of a checkpoint into one; errors say `where` they stood."""
    try:
        # torch does not look at the archive's check sums, so a changed byte would pass as a weight.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            torn = archive.testzip()
        if torn is not None:
            raise CheckpointError(f"{where} is torn: the check sum of {torn} is wrong")
        record = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{where} is torn, or is not a checkpoint: {error}") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError):
        raise CheckpointError(f"{where} is not a checkpoint of plain tensors and values") from None
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise CheckpointError(f"{where} is not a checkpoint that `python -m training` wrote")
    if (version := record.pop("schema_version", None)) != SCHEMA_VERSION:
        raise CheckpointError(f"{where} has schema_version {version}, this reader knows {SCHEMA_VERSION}")
    return _read_record(Checkpoint, record, where)


def _read_record(cls: type[T], record: Any, where: str) -> T:
    """Build a dataclass from a dict with exactly its keys, each of its type."""
    if not isinstance(record, dict):
        raise CheckpointError(f"{where} must be a dict, got {type(record).__name__}")
    hints = get_type_hints(cls)
    if missing := sorted(hints.keys() - record.keys()):
        raise CheckpointError(f"{where}: {missing[0]} is missing")
    if unknown := sorted(str(key) for key in record.keys() - hints.keys()):
        raise CheckpointError(f"{where}: {unknown[0]} is unknown")
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        if isinstance(hint, type) and is_dataclass(hint):
            values[key] = _read_record(hint, record[key], f"{where}: {key}")
        elif _fits(record[key], hint):
            values[key] = record[key]
        else:
            name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else hint
            raise CheckpointError(f"{where}: {key} must be {name}, got {type(record[key]).__name__}")
    try:
        return cls(**values)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that `hint` names, all the way down."""
    outer, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if outer is Literal:
        return value in inner
    if outer is list:
        return isinstance(value, list) and all(_fits(entry, inner[0]) for entry in value)
    if outer is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(inner)
            and all(_fits(entry, of) for entry, of in zip(value, inner, strict=True))
        )
    if outer is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(entry, inner[1]) for key, entry in value.items()
        )
    return isinstance(value, hint) and not isinstance(value, bool)


def _to_plain(value: Any) -> Any:
    """Dataclasses to dicts; tensors to the CPU, one after the other in memory."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, dict):
        return {key: _to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_to_plain(entry) for entry in value]
    return value
