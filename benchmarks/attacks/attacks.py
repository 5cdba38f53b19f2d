"""The attacks: what a hostile client sends, and whether it waits for an answer.

In: nothing; the inputs are made by code.  Out: `Attack`s, each one request that is sent again and again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.attacks import pictures

MB = 1 << 20
MULTIPART = "multipart/form-data; boundary=b"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One request of `POST /predict`; a client that hangs up does so shortly after sending it."""

    name: str
    body: bytes
    content_type: str = "application/octet-stream"
    hangs_up: bool = False


def _part(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="x"; filename="f"\r\n\r\n' + content + b"\r\n"


def _field(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + content + b"\r\n"


def _charset() -> Attack:
    body = _field(b"a" * 400_000 + b"-" + b"a" * 400_000) + b"--b--\r\n"
    return Attack(name="form: charset=punycode", body=body, content_type=f"{MULTIPART}; charset=punycode")


def _form(name: str, body: bytes) -> Attack:
    return Attack(name=f"form: {name}", body=body + b"--b--\r\n", content_type=MULTIPART)


def _files(name: str, files: list[bytes], *, hangs_up: bool = False) -> Attack:
    body, headers = pictures.form(files)
    return Attack(name=name, body=body, content_type=headers["content-type"], hangs_up=hangs_up)


ATTACKS: dict[str, Callable[[], Attack]] = {
    "charset": _charset,
    "spaces": lambda: _form("60 MB of spaces after a boundary", _part(b"\r\n--b" + b" " * (60 * MB))),
    "boundaries": lambda: _form("60 MB of repeated boundaries", _part(b"\r\n--bX" * (10 * MB))),
    "almost": lambda: _form("60 MB of almost boundaries", _part(b"\r\n--" * (15 * MB))),
    "parts": lambda: _form("a million empty parts", _field(b"") * MB),
    "no-end": lambda: Attack(
        name="form: 60 MB without an end", body=_part(bytes(60 * MB))[:-2], content_type=MULTIPART
    ),
    "webp-40": lambda: Attack(name="46 bytes of 40 Mpx", body=pictures.webp(8000, 5000)),
    "webp-20": lambda: Attack(name="46 bytes of 20 Mpx", body=pictures.webp(5000, 4000)),
    "webp-form": lambda: _files("a form of 8 × 20 Mpx", [pictures.webp(5000, 4000)] * 8),
    "webp-gone": lambda: _files("the same, hanging up", [pictures.webp(5000, 4000)] * 8, hangs_up=True),
    "webp-256": lambda: _files("a form of 256 × 40 Mpx", [pictures.webp(8000, 5000)] * 256),
    "16-bit": lambda: Attack(name="40 Mpx of 16 bits", body=pictures.png(8000, 5000, depth=16)),
    "rgba": lambda: Attack(name="40 Mpx with transparency", body=pictures.png(8000, 5000, colour=6, level=9)),
    "scans": lambda: Attack(name="a JPEG of 20,000 scans", body=pictures.scan_bomb(20_000)),
    "scans-gone": lambda: Attack(name="the same, hanging up", body=pictures.scan_bomb(20_000), hangs_up=True),
    "chunks": lambda: Attack(name="a PNG of 2 million chunks", body=pictures.png_of_chunks(2_000_000)),
    "small": lambda: _files("a form of 256 small pictures", [pictures.png(60, 60)] * 256),
}


def choose(names: list[str] | None) -> Iterator[Attack]:
    """The attacks of these names, or all, each made when its turn comes."""
    for name in names or ATTACKS:
        yield ATTACKS[name]()
