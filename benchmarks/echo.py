"""The reference: an ASGI app that reads a body and sends it back, on uvicorn's fastest settings.

In: a port.  Out: each request's body.  No Python server on this stack can answer faster.

    python -m benchmarks.echo 8001
"""

import sys

import uvicorn

from service.http.reply import Receive, Scope, Send, send_reply
from service.processes.server import bind


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the body back."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    message = await receive()
    while message["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
        message = await receive()
    await send_reply(send, 200, [(b"content-type", b"application/octet-stream")], body)


if __name__ == "__main__":
    config = uvicorn.Config(
        echo,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=bind("127.0.0.1", int(sys.argv[1])))
