"""The weights in a file that a trainer saved: one reader for fine-tuning and for export.

In: a path.  Out: names with a tensor each.

    .index.json     {"weight_map": {name: file}}: the names of several such files, which lie beside it
    .safetensors    8 bytes n (little-endian), n bytes of JSON: {name: {dtype, shape, data_offsets}}, data
    .npz            NumPy's archive of arrays, by the names of the weights
    any other       torch.save of a state dict, or of a dict with one in it: under one of KEYS, or others

No code of the file's is run: only tensors, NumPy arrays and plain values are unpickled. Trainers save their
arguments and NumPy numbers beside the weights; each such object becomes an `_Unread` in its place.
"""

import json
import math
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.contract.arrays import ArchiveError, read_arrays
from service.contract.text import first_line
from training.runs.checkpoint import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Where trainers put the weights inside what they save. An average comes first: it is what they evaluate.
KEYS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "params_ema",
    "ema_model",
    "ema_weights",
    "ema",
    "swa_state_dict",
    "averaged_model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "params",
    "weights",
)
# What a trainer also saves, and whose tensors are no weights.
_NO_WEIGHTS = ("optim", "sched", "scaler", "lr_", "rng", "amp")
_DEPTH = 3
_ARRAY_KINDS = "fdeilqhbBH?"
# What a pickled array is made by, which runs nothing of the file's.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_ARRAYS: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
}


def read_record(path: Path) -> Any:
    """What torch.save wrote; raises CheckpointError if it is damaged, or a TorchScript archive."""
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip file, or a torn one: torch.load finds out which
        foreign = []
    known: list[Any] = [(_ARRAYS.get(name) or _stand_in(name), name) for name in foreign]
    known += [type(np.dtype(kind)) for kind in _ARRAY_KINDS]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below, in one sentence
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no file of weights: it cannot be read without running code of its own "
            f"({first_line(error).partition('. ')[0][:120]}); save its state_dict alone"
        ) from None
    except Exception as error:  # torch.load raises whatever a damaged file makes it raise
        if "TorchScript" in first_line(error):
            sentence = "it is a TorchScript archive; save the net's state_dict instead"
        else:
            sentence = "neither torch.save nor safetensors wrote it, or it is damaged"
        raise CheckpointError(f"{path} is no file of weights: {sentence}") from None


class _Unread:
    """Stands for an object of a class that is not imported; it holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Whatever it is called with is left out."""

    def __setstate__(self, state: Any) -> None:
        """What the object held is left out."""


def _stand_in(name: str) -> Any:
    if name == "collections.defaultdict":
        return lambda *_: {}
    return type(name, (_Unread,), {})


def find_weights(record: Any, where: str) -> dict[str, Tensor]:
    """The state dict itself, inside one of KEYS, or the only one; raises CheckpointError if there is none.

    Of several all tensors, named `generator.` and so on after the key of their state dict.
    """
    if isinstance(record, list | tuple):  # (state dict, what else was saved)
        record = dict(enumerate(record))
    found = _search(record)
    if found is not None:
        return found
    objects = [record, *(record.get(key) for key in KEYS)] if isinstance(record, Mapping) else [record]
    if net := next((type(each).__name__ for each in objects if isinstance(each, _Unread)), None):
        raise CheckpointError(
            f"{where} is no file of weights: it holds a pickled net ({net}), and opening that would run its "
            f"code; where its class is at hand: torch.save(net.state_dict(), FILE)"
        )
    has = f", it has {', '.join(map(str, list(record)[:6])) or 'none'}" if isinstance(record, Mapping) else ""
    raise CheckpointError(
        f"{where} holds no state dict, which is names with a tensor each{has}: save net.state_dict() alone"
    )


def _search(record: Any, depth: int = _DEPTH) -> dict[str, Tensor] | None:
    if not isinstance(record, Mapping) or not record or depth == 0:
        return None
    tensors = {
        str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in record.items()
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.char in _ARRAY_KINDS)
    }
    # Some trainers write a number such as the epoch among the weights.
    is_flat = not any(isinstance(value, Mapping | list | tuple | _Unread) for value in record.values())
    if is_flat and 2 * len(tensors) > len(record):
        return tensors
    for key in KEYS:
        if (found := _search(record.get(key), depth - 1)) is not None:
            return found
    others = {
        key: found
        for key, value in record.items()
        if not _is_of_training(str(key).lower()) and (found := _search(value, depth - 1)) is not None
    }
    if len(others) == 1:
        return next(iter(others.values()))
    # Which of several is meant says the net: it is found by its names and shapes below one of these.
    return {f"{key}.{name}": value for key, found in others.items() for name, value in found.items()} or None


def _is_of_training(key: str) -> bool:
    return key.startswith(_NO_WEIGHTS) or "optim" in key


def parse_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; raises CheckpointError if its parts do not fit each other."""
    try:
        length = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
        weights = {}
        for name, about in header.items():
            if name == "__metadata__":
                continue
            first, last = about["data_offsets"]
            dtype, shape = DTYPES[about["dtype"]], about["shape"]
            if not 0 <= first <= last <= len(data) or last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} does not lie within the file")
            chunk = bytearray(data[first:last])
            weights[name] = (
                torch.frombuffer(chunk, dtype=dtype).reshape(shape) if chunk else torch.empty(shape)
            )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is no whole .safetensors file: {error}") from None
    return weights


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz file; raises CheckpointError if it is damaged, or holds other things."""
    try:
        with path.open("rb") as file:
            return find_weights(read_arrays(file), str(path))
    except ArchiveError as error:
        raise CheckpointError(f"{path} is no whole .npz file: {first_line(error)}") from None


def read_index(content: bytes, where: str) -> list[str]:
    """The names of the files that an index says the weights are in; raises CheckpointError."""
    try:
        names = sorted(set(json.loads(content)["weight_map"].values()))
        if not names or any(Path(name).name != name or is_index(Path(name)) for name in names):
            raise ValueError("it names no files beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where} is no index of weights, which has a 'weight_map' of names and files: {error}"
        ) from None
    return names


def is_index(path: Path) -> bool:
    """Whether it names the files that weights were split into, as Hugging Face's libraries do."""
    return path.name.endswith(".index.json")
