"""Work on behalf of a client who may hang up.

In: the client's connection and what is to be awaited.  Out: its result, or HungUp, or Draining.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from service.errors import Draining, HungUp
from service.http.reply import Receive

Result = TypeVar("Result")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; it is cancelled when the client hangs up or the server ends."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise HungUp("the client hung up before its answer was ready")
    except asyncio.CancelledError:
        raise Draining("the server shut down before the answer was ready") from None
    finally:
        for task in (working, watching):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({working, watching})
        # An error that `working` ended with holds this frame, and through it the request: not in a circle.
        del task, working, watching


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
