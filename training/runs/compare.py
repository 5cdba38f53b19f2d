"""Runs side by side: where their settings differ, and which did better.

In: folders of runs.  Out: a table with a column for each run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.console import to_markdown
from training.loop.facts import EpochFacts
from training.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.runs.run import CHECKPOINT
from training.settings.config import FitConfig

ABSENT = "–"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a run's folder holds: settings by dotted names, facts of each epoch, and the published net."""

    name: str
    settings: Mapping[str, Any]
    history: Sequence[EpochFacts]
    num_parameters: int
    checkpoint: Checkpoint

    @property
    def best(self) -> EpochFacts:
        """The first epoch of the highest held-out accuracy."""
        return max(self.history, key=lambda facts: facts.held_out_accuracy)


FACTS: dict[str, Callable[[Result], str]] = {
    "parameters": lambda run: f"{run.num_parameters:,}",
    "epochs done": lambda run: f"{len(run.history)} of {run.settings['epochs']}",
    "steps": lambda run: f"{run.history[-1].step:,}",
    "train loss": lambda run: f"{run.history[-1].train_loss:.4f}",
    "train accuracy": lambda run: f"{run.history[-1].train_accuracy:.2%}",
    "held-out loss": lambda run: f"{run.history[-1].held_out_loss:.4f}",
    "held-out accuracy": lambda run: f"{run.history[-1].held_out_accuracy:.2%}",
    "best held-out accuracy": lambda run: f"{run.best.held_out_accuracy:.2%} (epoch {run.best.epoch})",
}


def read_run(folder: Path) -> Result:
    """Read and check the checkpoint of a run."""
    path = folder / CHECKPOINT
    checkpoint = load_checkpoint(path)
    if checkpoint.resume is None:
        raise CheckpointError(f"{path} is of an older version: it has no history of its epochs")
    try:
        history = [EpochFacts(**facts) for facts in checkpoint.resume.history]
    except TypeError as error:
        raise CheckpointError(f"{path}: resume: history: {error}") from None
    if not history or "epochs" not in checkpoint.resume.config:
        raise CheckpointError(f"{path} has no history of its epochs")
    # A run of an older version has none of the newer settings: it was trained with their defaults.
    settings = _flatten(
        asdict(FitConfig()) | checkpoint.resume.config | {"net_settings": checkpoint.net_settings}
    )
    num_parameters = sum(parameter.numel() for parameter in checkpoint.build_net().parameters())
    return Result(
        name=str(folder),
        settings=settings,
        history=history,
        num_parameters=num_parameters,
        checkpoint=checkpoint,
    )


def find_differences(runs: Sequence[Result]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs, with the value of each run."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [_to_text(run.settings.get(name, ABSENT)) for run in runs] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def to_table(runs: Sequence[Result]) -> str:
    """Markdown, aligned, a column for each run: first the settings that differ, then the facts."""
    rows = [[name, *texts] for name, texts in find_differences(runs).items()]
    rows += [[name, *(describe(run) for run in runs)] for name, describe in FACTS.items()]
    return to_markdown(["", *(run.name for run in runs)], rows, numbers=False, aligned=True)


def describe_incomparable(runs: Sequence[Result]) -> str | None:
    """A warning if the runs' accuracies cannot be compared, else None."""
    if all(run.checkpoint.data == runs[0].checkpoint.data for run in runs):
        return None
    names = ", ".join(dict.fromkeys(run.checkpoint.data.name for run in runs))
    return f"these runs were measured on different held-out pictures ({names}), so accuracies do not compare"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name.removesuffix('_settings')}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _to_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
