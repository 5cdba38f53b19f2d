"""What is really seen, for the documents: docs/seen/.

    python tools/screenshots.py models/digits resnet.onnx

In: a model of the digits; an unfolded ONNX file; Debian's chromium, and playwright from `make test-extras`.
Out: terminal.svg, page.png, page-dark-phone.png and report.png.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
SEEN = ROOT / "docs/seen"
WIDTH = 100
PICTURES = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize shorter:256 --crop 224"
sys.path[:0] = [str(ROOT), str(ROOT / "tests/kits")]

from browser_kit import chromium  # noqa: E402
from service.contract.versions import newest  # noqa: E402
from service_kit import serving  # noqa: E402


def typed(command: str, folder: Path) -> str:
    """What a terminal shows of a command: the prompt, and all that it prints, with its colours."""
    environment = os.environ | {"COLUMNS": str(WIDTH), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    words = command.replace("foldserve", f"{sys.executable} -m foldserve", 1)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, shell=True, cwd=folder, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = b""
    try:
        while part := os.read(ours, 65536):
            printed += part
    except OSError:  # how a terminal says that the other end is closed
        pass
    process.wait()
    shown = printed.decode().replace("\r", "")
    # A line of progress, drawn again and again, is erased at its end.
    shown = re.sub(r"[^\n]*\n\x1b\[\?25h\x1b\[1A\x1b\[2K|\x1b\[\?25[hl]|[^\n]*\x1b\[2K", "", shown)
    return f"\x1b[1m$ {command}\x1b[0m\n{shown}"


def terminal(graph: Path) -> None:
    """An ONNX file folded, proved and packed: what the README's first block shows."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(graph, Path(folder) / "resnet.onnx")
        export = (
            "foldserve export bundle resnet.onnx --to models/resnet \\\n    " + PICTURES + " > facts.json"
        )
        text = typed(export, Path(folder))
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text.from_ansi(text))
        drawn = console.export_svg(title="foldserve")
    # Its font would come from another host.
    (SEEN / "terminal.svg").write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S), encoding="utf-8")


@contextmanager
def page(browser: Any, url: str, width: int, height: int, scheme: str) -> Iterator[Any]:
    """A page of the browser."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(url)
    yield opened
    context.close()


def main(model: Path, graph: Path) -> None:
    """Draw everything anew."""
    SEEN.mkdir(exist_ok=True)
    bundle = newest(model)
    with chromium() as browser, serving(model) as server:
        shots = {"page": (1200, 1000, "light"), "page-dark-phone": (390, 1400, "dark")}
        for name, size in shots.items():
            with page(browser, server.url, *size) as seen:
                for _ in range(40):  # so that the page's figures and curves have something to show
                    seen.set_input_files("#file", ROOT / "docs/seven.png")
                    seen.wait_for_selector("#answer:not([hidden])")
                    seen.wait_for_timeout(100)
                seen.screenshot(path=SEEN / f"{name}.png")
        with page(browser, f"file://{(bundle / 'report.html').resolve()}", 1200, 1000, "light") as seen:
            seen.screenshot(path=SEEN / "report.png")
    terminal(graph)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
