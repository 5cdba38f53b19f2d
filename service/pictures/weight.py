"""What it costs to decode a picture, read from its header alone.

In: the bytes of a JPEG, PNG or WebP file.  Out: a `Weight`, or a PictureError if it has too many pixels.

    work    pixels × scans: each scan of a JPEG may change every pixel once more
    bytes   what is held at once: the decoder's own planes, the picture, what is made of it, and the lines
            between resizing one side and the other

Nothing is decoded and every loop is bounded, so this may run on the event loop. A header that cannot be read
that way is not refused here: it weighs as much as a picture may, and the decoder says what is wrong with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.contract.bytes_like import Buffer
from service.contract.pictures import UnknownFormatError, check_size
from service.contract.resampling import working_bytes
from service.contract.target import Target

LIGHT_WORK = 1_000_000  # pixels × scans, 10 to 40 ms of a core
LIGHT_BYTES = 1 << 20  # of the file: bounds what a decoder does with bytes that are not pixels
LIGHT_MEMORY = 128 << 20  # of decoding and resizing at once; threads are few, and none can be stopped
TINY_WORK = 64 * 64  # pixels × scans, 0.1 ms
TINY_BYTES = 4096  # of the file: inflates to at most 4 MB
LIGHT_FILES = 16  # of a request: each takes 0.2 ms, in which no other thread runs Python
LIGHT_METADATA = 1 << 16  # bytes of profiles and EXIF, which are read in Python, entry by entry

MAX_SEGMENTS = 256  # of a JPEG before its first scan
MAX_CHUNKS = 256  # of a PNG; libpng writes one for each 8 kB of compressed pixels

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NO_PICTURE = "is none of JPEG, PNG, WEBP"
_PNG_CHANNELS = {0: 1, 2: 4, 3: 1, 4: 4, 6: 4}  # bytes of a pixel in memory, by colour type
_PIXEL_CHUNKS = (b"IDAT", b"fdAT")
_COMPRESSED_TEXT = (b"zTXt", b"iTXt")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Pixels, pixels × scans, bytes of memory at once (None: unknown), and whether a thread may decode it."""

    pixels: int
    work: int
    num_bytes: int | None
    is_light: bool  # short enough for a thread of the server, which cannot be stopped


@dataclass(frozen=True, kw_only=True)
class _Header:
    width: int
    height: int
    pixel_bytes: int  # of a pixel of the decoded picture
    decoder_bytes: int = 0  # of a pixel, beside the picture while it is decoded
    kept_bytes: int = 0  # of a pixel, beside it until it is used
    scans: int = 1
    is_plain: bool = True  # nothing in the file but pixels costs anything worth counting


def weigh(content: Buffer, target: Target) -> Weight:
    """The weight of one picture that becomes pixels of `target`.

    Raises PictureError if it is over `max_pixels`, UnknownFormatError if it is none.
    """
    start = bytes(content[:12])
    if start.startswith(_PNG):
        header = _png(content)
    elif start.startswith(_JPEG):
        header = _jpeg(content)
    elif start.startswith(b"RIFF") and start[8:] == b"WEBP":
        header = _webp(content)
    elif content:
        raise UnknownFormatError(_NO_PICTURE)
    else:
        return Weight(pixels=0, work=0, num_bytes=0, is_light=True)
    max_pixels, num_channels = target.max_pixels, target.num_channels
    if header is None:
        return Weight(pixels=max_pixels, work=max_pixels, num_bytes=None, is_light=False)
    check_size(header.width, header.height, max_pixels)
    pixels = header.width * header.height
    work = pixels * header.scans
    made_bytes = max(header.pixel_bytes, 1 if num_channels == 1 else 4)  # the same, turned, or converted
    sides = (max(1, header.height), max(1, header.width))  # without pixels it is refused, but later
    # Decoding holds some lines, which is much if they are long. EXIF may turn the picture.
    edge_bytes = 4 * header.pixel_bytes * header.width
    resize_bytes = max(working_bytes(*turned, num_channels, target.frame) for turned in (sides, sides[::-1]))
    beside_bytes = max(header.decoder_bytes, header.kept_bytes + made_bytes)
    num_bytes = pixels * (header.pixel_bytes + beside_bytes) + edge_bytes + resize_bytes
    is_plain = header.is_plain and len(content) <= LIGHT_BYTES
    return Weight(
        pixels=pixels,
        work=work,
        num_bytes=num_bytes,
        is_light=is_plain and work <= LIGHT_WORK and num_bytes <= LIGHT_MEMORY,
    )


def check_format(start: Buffer) -> None:
    """Raise UnknownFormatError if no picture begins with these bytes."""
    head = bytes(start[:12])
    is_webp = head.startswith(b"RIFF") and head[8:] == b"WEBP"
    if len(head) == 12 and not is_webp and not head.startswith((_PNG, _JPEG)):
        raise UnknownFormatError(_NO_PICTURE)


def are_light(weights: Iterable[Weight], num_file_bytes: int) -> bool:
    """Whether all pictures of a request together are light; `num_file_bytes` is what their files have."""
    weights = list(weights)
    return (
        len(weights) <= LIGHT_FILES
        and all(weight.is_light for weight in weights)
        and sum(weight.work for weight in weights) <= LIGHT_WORK
        and num_file_bytes <= LIGHT_BYTES
    )


def are_tiny(weights: Sequence[Weight], num_file_bytes: int) -> bool:
    """Whether decoding takes less time than handing it to a thread, whatever the bytes are."""
    return (
        len(weights) == 1
        and weights[0].is_light
        and weights[0].work <= TINY_WORK
        and num_file_bytes <= TINY_BYTES
    )


def _png(content: Buffer) -> _Header | None:
    """From IHDR; every chunk is visited, because one may hold a megabyte of text in a kilobyte."""
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    depth, colour = content[24:25], content[25:26]
    if content[12:16] != b"IHDR" or not colour or colour[0] not in _PNG_CHANNELS:
        return None
    metadata_bytes = 0
    is_plain = True
    position = 8
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(content[position : position + 4])
        kind = bytes(content[position + 4 : position + 8])
        if kind == b"IEND" or position >= len(content):
            break
        if kind == b"IHDR" and position != 8:
            return None
        if kind not in _PIXEL_CHUNKS:
            metadata_bytes += length
            is_plain = is_plain and kind not in _COMPRESSED_TEXT
        position += 12 + length
    else:
        is_plain = False
    return _Header(
        width=width,
        height=height,
        pixel_bytes=2 if depth[0] == 16 and colour[0] == 0 else _PNG_CHANNELS[colour[0]],
        is_plain=is_plain and metadata_bytes <= LIGHT_METADATA,
    )


def _jpeg(content: Buffer) -> _Header | None:
    """From the frame's segment, which comes before the first scan."""
    frame: Buffer | None = None
    marker_of_frame = 0
    position = 2
    for _ in range(MAX_SEGMENTS):
        if len(content) < position + 4 or content[position] != 0xFF:
            return None
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        segment = content[position + 4 : position + 2 + length]
        if marker in _FRAME_MARKERS:
            if frame is not None:
                return None
            frame, marker_of_frame = segment, marker
        elif marker == _START_OF_SCAN:
            break
        position += 2 + length
    else:
        return None
    if frame is None or len(frame) < 6 or len(frame) != 6 + 3 * frame[5] or frame[5] not in (1, 3, 4):
        return None
    # libjpeg keeps every coefficient, 2 bytes each, unless one scan holds all components at once.
    is_one_scan = marker_of_frame in _SEQUENTIAL and segment[:1] == frame[5:6]
    return _Header(
        width=int.from_bytes(frame[3:5]),
        height=int.from_bytes(frame[1:3]),
        pixel_bytes=1 if frame[5] == 1 else 4,
        decoder_bytes=0 if is_one_scan else _coefficient_bytes(frame),
        scans=1 if is_one_scan else _scans(content),
        is_plain=position <= LIGHT_METADATA,
    )


def _scans(content: Buffer) -> int:
    """How many scans may follow; after one of all components libjpeg accepts no other."""
    # In a larger file, which is not light whatever it holds, the search itself would take long.
    return max(1, bytes(content).count(bytes((0xFF, _START_OF_SCAN)))) if len(content) <= LIGHT_BYTES else 1


def _coefficient_bytes(frame: Buffer) -> int:
    """Bytes of coefficients for a pixel: fewer where colours have been sampled more coarsely."""
    sampling = [(factors >> 4) * (factors & 15) for factors in frame[7::3]]
    largest = max(factors >> 4 for factors in frame[7::3]) * max(factors & 15 for factors in frame[7::3])
    return -(-2 * sum(sampling) // max(1, largest))


def _webp(content: Buffer) -> _Header | None:
    """From the first chunk: lossy, lossless, or extended."""
    kind = content[12:16]
    if len(content) < 30:
        content = bytes(content).ljust(30, b"\0")
    if kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    elif kind == b"VP8L" and content[20] == 0x2F:
        bits = int.from_bytes(content[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
    else:
        return None
    # Two canvases of 4 bytes stay as long as the picture, and the frame as bytes.
    return _Header(
        width=width,
        height=height,
        pixel_bytes=4,
        decoder_bytes=12,
        kept_bytes=12,
        is_plain=kind != b"VP8X" or len(content) <= LIGHT_METADATA,
    )
