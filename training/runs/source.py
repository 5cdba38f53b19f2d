"""The file that a run is fine-tuned from: one of our checkpoints, a state dict of torch, or .safetensors.

In: a path.  Out: a `Source`: weights, and of our own checkpoints also the net and what its pictures became.

    .safetensors    8 bytes n (little-endian), n bytes of JSON: {name: {dtype, shape, data_offsets}}, data

Nothing is unpickled but tensors and plain values.
"""

import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.data import DataFacts, Split
from training.nets.weights import load_weights
from training.runs.checkpoint import FORMAT, CheckpointError, parse_checkpoint, read_checkpoint

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Where trainers put the weights inside what they save.
KEYS = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """`config` holds the settings `net` and `net_settings` of our own checkpoint, else nothing."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    facts: DataFacts | None


def read_source(path: Path) -> Source:
    """Read and check the file; raises CheckpointError if it is missing, damaged, or holds no weights."""
    content = read_checkpoint(path)
    if path.suffix == ".safetensors":
        return Source(weights=parse_safetensors(content, str(path)), config={}, facts=None)
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        sentence = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no file of weights: {sentence[:200]}") from None
    if isinstance(record, Mapping) and record.get("format") == FORMAT:
        checkpoint = parse_checkpoint(content, str(path))
        began = checkpoint.resume.config if checkpoint.resume else {}
        config: dict[str, Any] = {key: began[key] for key in ("net", "net_settings") if key in began}
        return Source(weights=checkpoint.state_dict, config=config, facts=checkpoint.data)
    return Source(weights=find_weights(record, str(path)), config={}, facts=None)


def find_weights(record: Any, where: str) -> dict[str, Tensor]:
    """The state dict itself, or inside one of KEYS; raises CheckpointError if there is none."""
    candidates = [record, *(record.get(key) for key in KEYS)] if isinstance(record, Mapping) else []
    for each in candidates:
        if isinstance(each, Mapping) and each and all(isinstance(value, Tensor) for value in each.values()):
            return {str(name): value for name, value in each.items()}
    raise CheckpointError(
        f"{where} holds no state dict: names with a tensor each, or those in {', '.join(KEYS)}"
    )


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


def load_source(net: nn.Module, source: Source, name: str, split: Split) -> list[str]:
    """Copy into `net` what fits; returns what was not loaded. See `load_weights` for its errors."""
    # A head of as many but other classes would fit, and would mean nothing.
    keep_head = source.facts is None or source.facts.labels == split.facts.labels
    return load_weights(net, source.weights, name, keep_head=keep_head)


def keep_normalisation(split: Split, source: Source) -> Split:
    """The split with the mean and std of the source, which its weights are used to, where it has any."""
    facts = source.facts
    if facts is None or facts.mode != split.facts.mode:
        return split
    return replace(split, facts=replace(split.facts, mean=facts.mean, std=facts.std))
