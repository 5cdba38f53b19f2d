"""The page's files, as they are answered.

In: the folder of this module.  Out: for each path its content type, its bytes and its ETag.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file: its bytes, and the headers that go with them."""

    content: bytes
    content_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """The files by their path below the service: `/` and `/page/NAME`."""
    files = {}
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            files["/" if path.name == "index.html" else f"/page/{path.name}"] = PageFile(
                content=content,
                content_type=_TYPES[path.suffix],
                etag=f'"{hashlib.sha256(content).hexdigest()[:16]}"',
            )
    return files
