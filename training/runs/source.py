"""What a run is fine-tuned from: one of our checkpoints, any file of weights, or a net with its own.

In: SOURCE as typed.  Out: a `Source`: weights, and of our own checkpoints also the net and what its pictures
became.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.data import DataFacts, Split
from training.nets.foreign.build import is_foreign
from training.nets.foreign.pretrained import OpenedNet, open_net
from training.nets.weights import load_weights
from training.runs.checkpoint import FORMAT, parse_checkpoint, read_checkpoint
from training.runs.weights_file import (
    find_weights,
    is_index,
    parse_safetensors,
    read_index,
    read_npz,
    read_record,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Weights, and what is known of how they were trained.

    `config` holds the settings `net` and `net_settings` of our own checkpoint, else nothing; `data_settings`
    what its pictures were resized to, `statistics` mean and std of each channel.
    """

    weights: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    facts: DataFacts | None = None
    data_settings: dict[str, str] = field(default_factory=dict)
    statistics: tuple[list[float], list[float]] | None = None


def open_weights(text: str) -> Source:
    """The weights of a file, or of `timm:NAME`, `torchvision:NAME` or `module:factory`.

    Raises CheckpointError as `read_source` does, NetError if the net cannot be built with its weights.
    """
    if is_foreign(text) and not Path(text).exists():
        return _of_package(open_net(text))
    return read_source(Path(text))


def read_source(path: Path) -> Source:
    """Read and check the file; raises CheckpointError if it is missing, damaged, or holds no weights."""
    content = read_checkpoint(path)
    if is_index(path):
        parts = [read_source(path.with_name(name)).weights for name in read_index(content, str(path))]
        return Source(weights={name: value for part in parts for name, value in part.items()})
    if path.suffix == ".safetensors" or content[8:10] == b'{"':  # Hugging Face's .bin may be one
        return Source(weights=parse_safetensors(content, str(path)))
    if path.suffix == ".npz":
        return Source(weights=read_npz(path))
    record = read_record(path)
    if isinstance(record, Mapping) and record.get("format") == FORMAT:
        checkpoint = parse_checkpoint(content, str(path))
        began = checkpoint.resume.config if checkpoint.resume else {}
        config: dict[str, Any] = {key: began[key] for key in ("net", "net_settings") if key in began}
        if began.get("normalise") == "per-picture":  # a part of the net
            config["normalise"] = "per-picture"
        facts = checkpoint.data
        _, height, width = facts.input_shape
        return Source(
            weights=checkpoint.state_dict,
            config=config,
            facts=facts,
            data_settings={
                "size": f"{height}x{width}",
                "mode": facts.mode,
                "resize": facts.resize,
                "interpolation": facts.interpolation,
            },
            statistics=(facts.mean, facts.std),
        )
    return Source(weights=find_weights(record, str(path)))


def load_source(net: nn.Module, source: Source, name: str, split: Split) -> list[str]:
    """Copy into `net` what fits; returns what was not loaded. See `load_weights` for its errors."""
    # A head of as many but other classes would fit, and would mean nothing.
    keep_head = source.facts is None or source.facts.labels == split.facts.labels
    return load_weights(net, source.weights, name, keep_head=keep_head)


def adopted(flags: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The flags, with the source's net and the size of its pictures where nothing else is asked for."""
    given = dict(flags)
    if "net" not in given:
        given |= source.config
    if str(given.get("data", "")).partition(":")[0] in ("folder", "table"):
        given["data_settings"] = {**source.data_settings, **given.get("data_settings", {})}
    return given


def keep_normalisation(split: Split, source: Source) -> Split:
    """The split with the mean and std of the source, which its weights are used to, where it has any."""
    if source.statistics is None or len(source.statistics[0]) != len(split.facts.mean):
        return split
    mean, std = source.statistics
    return replace(split, facts=replace(split.facts, mean=mean, std=std))


def _of_package(opened: OpenedNet) -> Source:
    shape = opened.row_shape
    resized = opened.interpolation and {"resize": "shorter", "interpolation": opened.interpolation}
    mode = {1: "L", 3: "RGB"}.get(shape[0]) if shape else None
    sizes = {"size": f"{shape[1]}x{shape[2]}", "mode": mode} if shape and mode else {}
    return Source(
        weights=opened.net.state_dict(),
        data_settings={**sizes, **(resized or {})},
        statistics=(list(opened.mean), list(opened.std)) if opened.mean and opened.std else None,
    )
