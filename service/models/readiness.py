"""Whether a server is ready for work, by the states of its models.

In: states.  Out: why it is not ready, in one sentence, or None. What `strict`, `lenient` and on demand mean
stands in registry.py.
"""

from collections.abc import Sequence

from service.models.state import ModelState


def reason_of(at_start: Sequence[ModelState], *, is_lenient: bool) -> str | None:
    """The reason with the models that were there at the start; those that a client unloaded do not count."""
    wanted = [state for state in at_start if not state.is_unloaded]
    missing = [state for state in wanted if state.served is None]
    if is_lenient:
        is_tried = not any(state.is_loading for state in missing)
        if is_tried and len(missing) < max(1, len(wanted)):
            return None
    return missing[0].reason if missing else None


def reason_on_demand(states: Sequence[ModelState]) -> str:
    """The reason while none of the models was proved so far, where each is loaded when it is asked for."""
    refused = [state for state in states if state.refused]
    return refused[0].reason if refused else "no model is proved yet"
