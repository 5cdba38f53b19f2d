"""A store of models, followed: what there is at the start, and what comes later.

In: a `Store`, the folder that mirrors it.  Out: names of models to begin with, then those that changed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from service.models.background import in_thread
from service.models.folder import ModelsFolder
from service.models.store import Store, StoreError

_log = logging.getLogger("foldserve")


def first_names(
    store: Store, folder: ModelsFolder, poll_s: float, refused: Callable[[str], object]
) -> Sequence[str]:
    """The models to begin with: of the store once it could be read, or what was pulled before.

    Blocks, so it belongs into a thread; `refused` is called with the reason of each failure. Raises OSError.
    """
    while True:
        reason = None
        try:
            store.pull()
        except StoreError as error:
            reason = str(error)
            _log.error("event=store_failed reason=%r", reason)
        names = folder.names()
        if reason is None or names:
            return names
        refused(reason)
        time.sleep(poll_s)


async def follow(store: Store, poll_s: float, changed: Callable[[str], Awaitable[None]]) -> None:
    """Call `changed` for each model whose versions change, until cancelled."""
    last = ""
    while True:
        await asyncio.sleep(poll_s)
        try:
            for name in await in_thread(store.pull):
                await changed(name)
            last = ""
        except (StoreError, OSError) as error:
            if str(error) != last:
                last = str(error)
                _log.error("event=store_failed reason=%r", last)
