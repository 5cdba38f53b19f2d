"""A visit to the page of a service, in a real browser, and the pictures that it is given."""

from typing import Any


class Visit:
    """A page of the browser, and what its console said."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on(
            "console", lambda line: line.type in ("error", "warning") and self.errors.append(line.text)
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "request", lambda asked: self.hosts.add(asked.url.split("/")[2] if "//" in asked.url else "")
        )
        self.page.goto(url)

    def wait_for(self, text: str, where: str = "#message") -> str:
        self.page.wait_for_function(
            "([where, text]) => document.querySelector(where).textContent.includes(text)", arg=[where, text]
        )
        return self.page.inner_text(where)

    def choose(self, model: str) -> None:
        self.page.wait_for_selector("#model option", state="attached")
        self.page.select_option("#model", model)

    def draw_a_seven(self) -> None:
        self.page.click("#draw-open")
        self.page.locator("#canvas").scroll_into_view_if_needed()
        box = self.page.locator("#canvas").bounding_box()
        mouse = self.page.mouse
        mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.25 * box["height"])
        mouse.down()
        for x, y in ((0.7, 0.25), (0.45, 0.8)):
            mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
        mouse.up()
        self.page.wait_for_selector("#answer:not([hidden])")


def picture(content: bytes, name: str = "picture.jpg", kind: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": content}
