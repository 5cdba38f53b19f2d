"""A real browser, where there is one: Debian's chromium, driven by playwright.

In: nothing.  Out: `WHY_NOT`, the reason to skip with, or None; a browser; axe-core's script, or None.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from extras import AXE, BROWSER, NEEDED

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),  # a camera of its own
]
if BROWSER is not None and str(BROWSER) not in sys.path:
    sys.path.append(str(BROWSER))
WHY_NOT = f"chromium or playwright is {NEEDED}" if CHROMIUM is None or BROWSER is None else None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page; its script needs the page's policy to be set aside."""
    assert AXE is not None
    page.context.new_cdp_session(page).send("Page.setBypassCSP", {"enabled": True})
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['html'][:150]}" for one in found for node in one["nodes"]]
