"""Security headers of pages: a browser loads nothing from elsewhere, and no other page may frame them.

In: an ASGI app.  Out: the same app, whose HTML answers carry the headers.
"""

from service.http.reply import Message, Receive, Scope, Send
from service.http.shared import App

# The documentation's own script and styles stand in its HTML.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class PageHeaders:
    """ASGI middleware; answers that are no pages pass as they are."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    message["headers"] = [*headers, *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)
