"""Classes of unequal size: weights on the loss, or an order in which all classes come equally often.

In: labels (N,), n_c of them of class c of K.  Out: weights (K,), or row numbers (N,).

    balanced weights    w_c = N / (K · n_c)                a row of a rare class counts more; their mean is 1
    balanced order      a class by even chance, then a row of it by even chance, with replacement

Use one of them, not both: each alone makes all classes count equally.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from training.settings.config import ConfigError, FitConfig

BALANCED = "balanced"


def settle_class_weights(config: FitConfig, names: list[str]) -> FitConfig:
    """The config with weights written out, class by class, if it names a file: the run needs no file later.

    The file is JSON, a weight for each class name. Raises ConfigError with what is wrong.
    """
    text = config.class_weights
    if text in ("", BALANCED) or _read_numbers(text):
        return config
    try:
        table = json.loads(Path(text).read_bytes())
        weights = [float(table[name]) for name in names]
    except OSError as error:
        raise ConfigError(f"class_weights must be {BALANCED} or a file, {text}: {error.strerror}") from None
    except KeyError as error:
        raise ConfigError(f"{text} has no weight for class {error}") from None
    except (ValueError, TypeError):
        raise ConfigError(
            f"{text} must be JSON with a number for each class, such as {{{names[0]!r}: 2}}"
        ) from None
    return replace(config, class_weights=",".join(map(repr, weights)))


def class_weights(text: str, labels: Tensor, num_classes: int) -> Tensor | None:
    """The weights (K,) float32 on the device of `labels`, or None for no weights; raises ConfigError."""
    if not text:
        return None
    if text == BALANCED:
        counts = torch.bincount(labels, minlength=num_classes)
        return len(labels) / (num_classes * counts.clamp(min=1)).float()
    weights = _read_numbers(text)
    if (
        len(weights) != num_classes
        or not all(0 <= weight < math.inf for weight in weights)
        or not any(weights)
    ):
        raise ConfigError(
            f"class_weights must be {num_classes} numbers, zero or positive, one of them positive, got {text}"
        )
    return torch.tensor(weights, device=labels.device)


def balanced_order(labels: Tensor, generator: Generator) -> Tensor:
    """Row numbers (N,) on the CPU, drawn with replacement, every class that has rows equally often."""
    labels = labels.cpu()
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    present = torch.nonzero(counts).flatten()
    chosen = present[torch.randint(len(present), (len(labels),), generator=generator)]
    within = torch.rand(len(labels), generator=generator, dtype=torch.float64) * counts[chosen]
    return by_class[starts[chosen] + within.long()]


def _read_numbers(text: str) -> list[float]:
    """`0.5,1,2` as numbers; none for anything else."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        return []
