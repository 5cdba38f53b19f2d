"""A search on a few made-up rows, opened or run to its end."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from training.search.opening import open_search
from training.search.trials import Search, TrialFacts

FIXED = {"data": "tiny", "net": "mlp", "net_settings": {"hidden": "4"}, "epochs": 2}


def opened(out: Path, num_trials: int = 3, **changes: Any) -> AbstractContextManager[Search]:
    """A search of `num_trials`, whose `changes` are of its settings or, in `fixed`, of what is not drawn."""
    settings: dict[str, Any] = {
        "width": None,
        "num_trials": num_trials,
        "sampler": "tpe",
        "pruner": "none",
        "device": "cpu",
    }
    fixed = FIXED | changes.pop("fixed", {})
    return open_search(out, fixed, **settings | changes)


def searched(out: Path, num_trials: int = 3, **changes: Any) -> list[TrialFacts]:
    """The results of a search that was run to its end."""
    with opened(out, num_trials, **changes) as search:
        list(search.trials())
        return search.results


def interrupt(*arguments: object) -> None:
    """In the place of a function: what Ctrl-C does."""
    raise KeyboardInterrupt
