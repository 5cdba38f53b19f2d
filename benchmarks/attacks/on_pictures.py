"""Attacks on POST /predict: forms, and pictures that cost far more than they weigh."""

from collections.abc import Callable

from benchmarks.attacks import pictures
from benchmarks.attacks.attack import MB, Attack, predict

FORM = "Content-Type: multipart/form-data; boundary=b"
# The start of a file: what is no picture, and no form, is refused by the body's first 64 KiB.
PICTURE = b"\xff\xd8\xff".ljust(100_000)


def _part(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="x"; filename="f"\r\n\r\n' + content + b"\r\n"


def _field(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + content + b"\r\n"


def _form(name: str, body: bytes, headers: str = FORM) -> Attack:
    return predict(f"form: {name}", body + b"--b--\r\n", headers)


def _files(name: str, files: list[bytes], *, hangs_up: bool = False) -> Attack:
    body, headers = pictures.form(files)
    return predict(name, body, f"Content-Type: {headers['content-type']}", hangs_up=hangs_up)


def _charset() -> Attack:
    body = _field(b"a" * 400_000 + b"-" + b"a" * 400_000)
    return _form("charset=punycode", body, f"{FORM}; charset=punycode")


ATTACKS: dict[str, Callable[[], Attack]] = {
    "charset": _charset,
    "spaces": lambda: _form(
        "60 MB of spaces after a boundary", _part(PICTURE + b"\r\n--b" + b" " * (60 * MB))
    ),
    "boundaries": lambda: _form("60 MB of repeated boundaries", _part(PICTURE + b"\r\n--bX" * (10 * MB))),
    "almost": lambda: _form("60 MB of almost boundaries", _part(PICTURE + b"\r\n--" * (15 * MB))),
    "lines": lambda: _form("60 MB of line ends", _part(PICTURE + b"\r" * (60 * MB))),
    "parts": lambda: _form("a million empty parts", _part(PICTURE) + _field(b"") * MB),
    "fields": lambda: _form("no file, 60 MB of fields", _field(bytes(MB)) * 60),
    "part-head": lambda: _form(
        "60 MB of a part's headers", _part(PICTURE) + b"--b\r\n" + b"a: b\r\n" * (10 * MB)
    ),
    "no-end": lambda: predict("form: 60 MB without an end", _part(PICTURE + bytes(60 * MB))[:-2], FORM),
    "webp-40": lambda: predict("46 bytes of 40 Mpx", pictures.webp(8000, 5000)),
    "webp-20": lambda: predict("46 bytes of 20 Mpx", pictures.webp(5000, 4000)),
    "webp-form": lambda: _files("a form of 8 × 20 Mpx", [pictures.webp(5000, 4000)] * 8),
    "webp-gone": lambda: _files("the same, hanging up", [pictures.webp(5000, 4000)] * 8, hangs_up=True),
    "webp-256": lambda: _files("a form of 256 × 40 Mpx", [pictures.webp(8000, 5000)] * 256),
    "16-bit": lambda: predict("40 Mpx of 16 bits", pictures.png(8000, 5000, depth=16)),
    "rgba": lambda: predict("40 Mpx with transparency", pictures.png(8000, 5000, colour=6, level=9)),
    "scans": lambda: predict("a JPEG of 20,000 scans", pictures.scan_bomb(20_000)),
    "scans-gone": lambda: predict("the same, hanging up", pictures.scan_bomb(20_000), hangs_up=True),
    "chunks": lambda: predict("a PNG of 2 million chunks", pictures.png_of_chunks(2_000_000)),
    "texts": lambda: predict("a PNG of 60 MB in compressed texts", pictures.png_of_text(60)),
    "profile": lambda: predict("a PNG whose colour profile has 60 MB", pictures.png_of_profile(60)),
    "apng": lambda: predict("an animation of 5,000 frames, PNG", pictures.apng(5_000)),
    "webp-anim": lambda: predict("an animation of 200 frames, WebP", pictures.webp_animation(200)),
    "gif": lambda: predict("a GIF of 40 Mpx", pictures.other("GIF", 8000, 5000)),
    "tiff": lambda: predict("a TIFF of 40 Mpx", pictures.other("TIFF", 8000, 5000)),
    "bmp": lambda: predict("a BMP of 10 Mpx", pictures.other("BMP", 4000, 2500)),
    "icon": lambda: predict("an icon", pictures.other("ICO", 256, 256)),
    "exif": lambda: predict("a JPEG with 3 MB of EXIF and profiles", pictures.jpeg_of_segments(50)),
    "comments": lambda: predict("a JPEG with 15 million empty segments", pictures.jpeg_of_comments(15 * MB)),
    "small": lambda: _files("a form of 256 small pictures", [pictures.png(60, 60)] * 256),
    "noise": lambda: predict("60 MB that are no picture", b"\xff\xd8\xff" + bytes(range(256)) * (60 * 4096)),
}
