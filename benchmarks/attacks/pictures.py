"""Pictures and forms that cost far more than they weigh, made by code."""

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image

WIDTH, HEIGHT = 8000, 5000  # 40 million pixels, the maximum of a picture by default
_BLOCK = 8


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, level: int = 0) -> bytes:
    """A PNG of one level all over; `colour` 0 is grey, 2 RGB, 6 RGBA."""
    row_bytes = 1 + width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8
    compressor = zlib.compressobj(9)
    row = b"\0" + bytes([level]) * (row_bytes - 1)
    pixels = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def png_of_chunks(count: int) -> bytes:
    """A small PNG with empty chunks that a decoder visits one by one."""
    return _with_chunks(_chunk(b"abCd", b"") * count)


def png_of_text(count: int) -> bytes:
    """A small PNG with compressed texts of almost a megabyte each."""
    return _with_chunks(_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * count)


def _with_chunks(chunks: bytes) -> bytes:
    content = png(28, 28)
    end_of_header = 8 + 12 + 13
    return content[:end_of_header] + chunks + content[end_of_header:]


def webp(width: int, height: int) -> bytes:
    """A WebP of one colour in some 40 bytes: its pixels are coded in no bits at all."""
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(buffer, "WEBP", lossless=True)
    content = bytearray(buffer.getvalue())
    start = content.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", content, start)
    size = (width - 1) | (height - 1) << 14
    struct.pack_into("<I", content, start, bits & ~0xFFFFFFF | size)
    return bytes(content)


def scan_bomb(num_scans: int, width: int = 6320, height: int = 6320) -> bytes:
    """A progressive JPEG whose every scan of a few bytes visits each of its blocks."""
    num_blocks = -(-width // _BLOCK) * -(-height // _BLOCK)
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    # DC: the code 0 for no difference. AC: 0 and 14 bits for a run of 2^14 and more empty blocks, 10 for one.
    dc_table = struct.pack(">HB", 20, 0x00) + bytes([1] + [0] * 15) + b"\x00"
    ac_table = struct.pack(">HB", 21, 0x10) + bytes([1, 1] + [0] * 14) + b"\xe0\x00"
    runs, rest = divmod(num_blocks, 1 << 14)
    ac_bits = ("0" + "0" * 14) * runs + "10" * rest
    content = b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes([1] * 64) + b"\xff\xc2" + frame
    content += b"\xff\xc4" + dc_table + b"\xff\xc4" + ac_table
    content += b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + _packed("0" * num_blocks)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + _packed(ac_bits)
    return content + scan * num_scans + b"\xff\xd9"


def _packed(bits: str) -> bytes:
    """Bits as the bytes of a scan: filled up with ones, and 0 after each 255."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")


def form(files: Sequence[bytes], boundary: bytes = b"b") -> tuple[bytes, dict[str, str]]:
    """A multipart body of these files, and its header."""
    head = b'--%b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' % boundary
    body = b"".join(head + file + b"\r\n" for file in files) + b"--%b--\r\n" % boundary
    return body, {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}


def png_of_profile(megabytes: int) -> bytes:
    """A small PNG whose compressed colour profile has so many MiB."""
    profile = zlib.compress(bytes(megabytes << 20), 9)
    return _with_chunks(_chunk(b"iCCP", b"a\0\0" + profile))


def apng(num_frames: int) -> bytes:
    """An animated PNG of small frames."""
    header = struct.pack(">II", num_frames, 0)
    frame = struct.pack(">IIIIIHHBB", 0, 28, 28, 0, 0, 1, 100, 0, 0)
    data = struct.pack(">I", 1) + zlib.compress(bytes(28 * 29))
    frames = (_chunk(b"fcTL", frame) + _chunk(b"fdAT", data)) * num_frames
    return _with_chunks(_chunk(b"acTL", header) + _chunk(b"fcTL", frame) + frames)


def webp_animation(num_frames: int) -> bytes:
    """An animated WebP of 1 Mpx in every frame."""
    frames = [Image.new("RGB", (1000, 1000), (level % 256, 0, 0)) for level in range(num_frames)]
    return _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0, quality=1)


def other(kind: str, width: int, height: int) -> bytes:
    """A picture of one colour in a format that the service does not read."""
    return _saved(Image.new("L", (width, height)), kind)


def jpeg_of_segments(count: int) -> bytes:
    """A small JPEG with EXIF, XMP and colour profiles of 64 KiB each."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + struct.pack(">HHII", 0x10F, 2, 9, 8) * 5000
    kinds = (b"\xe1" + _segment(exif), b"\xe1" + _segment(b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 65_000))
    profiles = b"".join(
        b"\xff\xe2" + _segment(b"ICC_PROFILE\0" + bytes([index % 255 + 1, 255]) + bytes(65_000))
        for index in range(count)
    )
    return _with_segments(b"".join(b"\xff" + kind for kind in kinds) + profiles)


def jpeg_of_comments(count: int) -> bytes:
    """A small JPEG with empty comments that a decoder visits one by one."""
    return _with_segments(b"\xff\xfe\0\2" * count)


def _with_segments(segments: bytes) -> bytes:
    content = _saved(Image.new("L", (28, 28)), "JPEG")
    return content[:2] + segments + content[2:]


def _segment(content: bytes) -> bytes:
    return struct.pack(">H", len(content) + 2) + content


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
