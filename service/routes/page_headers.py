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
# The page at / has neither; it shows pictures of its own, and asks nothing but this service.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# A report comes from a bundle, and so from elsewhere: it runs no script and has an origin of its own.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class PageHeaders:
    """ASGI middleware; answers that are no pages pass as they are, and those with a policy keep theirs."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    own = {name for name, _ in headers}
                    message["headers"] = [*headers, *(pair for pair in HEADERS if pair[0] not in own)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
