"""Work on behalf of a client who may hang up.

In: the client's connection and what is to be awaited.  Out: its result, or HungUp, or Draining.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from service.errors import Draining, HungUp
from service.http.reply import Receive

Result = TypeVar("Result")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; it is cancelled when the client hangs up or the server ends."""
    this = asyncio.current_task()
    assert this is not None
    watching = asyncio.ensure_future(_hang_up(receive))
    is_over = False

    def cancel(_: object) -> None:
        if not is_over:  # else it was called for too late, and would cancel what comes next
            this.cancel()

    watching.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if not watching.done():
            raise Draining("the server shut down before the answer was ready") from None
        this.uncancel()
        raise HungUp("the client hung up before its answer was ready") from None
    finally:
        is_over = True
        watching.cancel()
        del watching, cancel


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
