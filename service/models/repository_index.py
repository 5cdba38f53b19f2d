"""The model repository extension: every model of the folder, each version on disk, and its state.

In: what is known of each model, the models folder.  Out: the array of POST /v2/repository/index.
"""

from collections.abc import Sequence
from typing import Any

from service.models.folder import ModelsFolder
from service.models.state import ModelState


def repository_index(
    states: Sequence[ModelState], folder: ModelsFolder, *, only_ready: bool
) -> list[dict[str, Any]]:
    """One entry for each version; one without a version if there is none.  Reads the folder's names."""
    entries = []
    for state in states:
        for version in versions_of(state, folder):
            of_version = {} if version["version"] is None else {"version": version["version"]}
            entries.append(
                {"name": state.name, **of_version, "state": version["state"], "reason": version["reason"]}
            )
    return [entry for entry in entries if entry["state"] == "READY" or not only_ready]


def versions_of(state: ModelState, folder: ModelsFolder) -> list[dict[str, Any]]:
    """The versions of a model, each with its state and why it is not served: the served one first."""
    entries: list[dict[str, Any]] = []
    if state.served is not None:
        entries.append(_entry(state.served.version, "READY", ""))
    elif state.is_unloaded:
        entries.append(_entry(None, "UNAVAILABLE", "unloaded"))
    elif state.is_loading:
        entries.append(_entry(None, "LOADING", ""))
    entries += [_entry(version, "UNAVAILABLE", reason) for version, reason in state.refused.items()]
    known = {entry["version"] for entry in entries}
    served = None if state.served is None else int(state.served.version)
    for version in _on_disk(folder, state.name):
        if version not in known and not state.is_loading:
            reason = "an older version" if served is not None and int(version) < served else "not loaded"
            entries.append(_entry(version, "UNAVAILABLE", reason))
    return entries


def _on_disk(folder: ModelsFolder, name: str) -> list[str]:
    try:
        return folder.versions(name)
    except OSError:  # deleted since, or unreadable: what is known of the model says so
        return []


def _entry(version: str | None, state: str, reason: str) -> dict[str, Any]:
    return {"version": version, "state": state, "reason": reason}
