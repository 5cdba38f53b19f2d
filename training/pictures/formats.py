"""The picture files that a folder may hold: more kinds than the service reads."""

from pathlib import Path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".pgm", ".ppm", ".tif", ".tiff"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "PPM", "TIFF")
# What files of these formats begin with; an AVIF says so from byte 4 on.
BEGINNINGS = (*(b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"GIF8", b"P5", b"P6", b"II*\0", b"MM\0*"),)


def is_picture(path: Path) -> bool:
    """Whether a file is one by its suffix, or where it has none, by what it begins with."""
    return path.suffix.lower() in SUFFIXES if path.suffix else _begins_as_picture(path)


def _begins_as_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(BEGINNINGS) or is_webp or head[4:12] in (b"ftypavif", b"ftypavis")
