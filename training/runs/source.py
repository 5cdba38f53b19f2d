"""What a run is fine-tuned from: one of our checkpoints, any file of weights, or a net with its own.

In: SOURCE as typed.  Out: a `Source`: weights, and of our own checkpoints also the net and what its pictures
became.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.data import DataFacts, Split
from training.nets.foreign.build import is_foreign
from training.nets.foreign.pretrained import open_net
from training.nets.weights import load_weights
from training.runs.checkpoint import FORMAT, parse_checkpoint, read_checkpoint
from training.runs.weights_file import find_weights, parse_safetensors, read_record


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """`config` holds the settings `net` and `net_settings` of our own checkpoint, else nothing."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    facts: DataFacts | None


def open_weights(text: str) -> Source:
    """The weights of a file, or of `timm:NAME`, `torchvision:NAME` or `module:factory`.

    Raises CheckpointError as `read_source` does, NetError if the net cannot be built with its weights.
    """
    if is_foreign(text) and not Path(text).exists():
        return Source(weights=open_net(text).net.state_dict(), config={}, facts=None)
    return read_source(Path(text))


def read_source(path: Path) -> Source:
    """Read and check the file; raises CheckpointError if it is missing, damaged, or holds no weights."""
    content = read_checkpoint(path)
    if path.suffix == ".safetensors":
        return Source(weights=parse_safetensors(content, str(path)), config={}, facts=None)
    record = read_record(path)
    if isinstance(record, Mapping) and record.get("format") == FORMAT:
        checkpoint = parse_checkpoint(content, str(path))
        began = checkpoint.resume.config if checkpoint.resume else {}
        config: dict[str, Any] = {key: began[key] for key in ("net", "net_settings") if key in began}
        return Source(weights=checkpoint.state_dict, config=config, facts=checkpoint.data)
    return Source(weights=find_weights(record, str(path)), config={}, facts=None)


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
