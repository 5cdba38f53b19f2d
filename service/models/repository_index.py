"""The model repository extension: every model of the folder and its state.

In: what is known of each model.  Out: the array of POST /v2/repository/index.
"""

from collections.abc import Sequence
from typing import Any

from service.models.registry import ModelState


def repository_index(states: Sequence[ModelState], *, only_ready: bool) -> list[dict[str, Any]]:
    """One entry for each version that is served or refused; one without a version if there is neither."""
    entries: list[dict[str, Any]] = []
    for state in states:
        if state.served is not None:
            entries.append(_entry(state.name, state.served.version, "READY", ""))
        elif state.is_unloaded:
            entries.append(_entry(state.name, None, "UNAVAILABLE", "unloaded"))
        elif state.is_loading:
            entries.append(_entry(state.name, None, "LOADING", ""))
        for version, reason in state.refused.items():
            entries.append(_entry(state.name, version, "UNAVAILABLE", reason))
    return [entry for entry in entries if entry["state"] == "READY" or not only_ready]


def _entry(name: str, version: str | None, state: str, reason: str) -> dict[str, Any]:
    versioned = {} if version is None else {"version": version}
    return {"name": name, **versioned, "state": state, "reason": reason}
