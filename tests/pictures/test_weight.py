"""What pictures cost, read from their headers: never less than decoding takes."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.attacks import pictures as hostile
from service.contract.pictures import PictureError, UnknownFormatError
from service.contract.target import Target
from service.pictures.weight import LIGHT_BYTES, LIGHT_FILES, TINY_BYTES, Weight, are_light, are_tiny, weigh

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8))


def target(num_channels: int, max_pixels: int, **how: Any) -> Target:
    sides = {"height": 28, "width": 28, **how}
    return Target(mode="L" if num_channels == 1 else "RGB", max_pixels=max_pixels, **sides)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = NOISE.convert("RGB")
ORDINARY = {
    "png": encoded(NOISE, "PNG"),
    "grey png": encoded(NOISE.convert("L"), "PNG"),
    "one bit": encoded(NOISE.convert("1"), "PNG"),
    "palette": encoded(RGB.convert("P"), "PNG", transparency=0),
    "16 bits": encoded(Image.new("I;16", (60, 40), 7), "PNG"),
    "jpeg": encoded(RGB, "JPEG"),
    "grey jpeg": encoded(NOISE.convert("L"), "JPEG"),
    "cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "progressive": encoded(RGB, "JPEG", progressive=True),
    "restarts": encoded(RGB, "JPEG", restart_marker_rows=1),
    "profile": encoded(RGB, "JPEG", icc_profile=bytes(3000), comment=b"a comment"),
    "lossy webp": encoded(RGB, "WEBP"),
    "lossless webp": encoded(RGB, "WEBP", lossless=True),
    "transparent webp": encoded(NOISE, "WEBP"),
    "exif webp": encoded(RGB, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_picture_is_light_and_has_its_size(name: str) -> None:
    weight = weigh(ORDINARY[name], target(3, 10**6))
    assert weight.is_light
    assert weight.pixels == 60 * 40
    assert weight.work >= weight.pixels
    assert weight.num_bytes is not None
    assert weight.num_bytes >= 2 * weight.pixels


def test_scans_are_counted() -> None:
    assert weigh(ORDINARY["jpeg"], target(3, 10**6)).work == 60 * 40
    assert weigh(ORDINARY["progressive"], target(3, 10**6)).work == 60 * 40 * 10
    bomb = weigh(hostile.scan_bomb(100, 200, 200), target(3, 10**6))
    assert bomb.work >= 101 * 200 * 200
    assert not bomb.is_light


@pytest.mark.parametrize(
    "content",
    [
        hostile.png(1001, 1000),
        hostile.webp(1001, 1000),
        encoded(Image.new("L", (1001, 1000)), "JPEG"),
        hostile.png_of_chunks(1000),
        hostile.png_of_text(1),
        encoded(RGB, "JPEG", comment=bytes(60_000), icc_profile=bytes(60_000)),
        ORDINARY["jpeg"].ljust(LIGHT_BYTES + 1),
    ],
    ids=["png", "webp", "jpeg", "chunks", "text", "metadata", "bytes"],
)
def test_what_takes_long_is_not_light(content: bytes) -> None:
    assert not weigh(content, target(1, 10**8)).is_light


def second_frame(content: bytes) -> bytes:
    """A JPEG that states another size after the first."""
    start = content.index(b"\xff\xc0")
    (length,) = struct.unpack_from(">H", content, start + 2)
    frame = bytearray(content[start : start + 2 + length])
    frame[5:9] = struct.pack(">HH", 6000, 6000)
    return content[: start + 2 + length] + frame + content[start + 2 + length :]


def second_header(content: bytes) -> bytes:
    """A PNG that states another size after the first."""
    return content[:33] + hostile.png(6000, 6000)[8:33] + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        second_frame(ORDINARY["jpeg"]),
        second_header(ORDINARY["png"]),
        b"\xff\xd8\xff" + b"junk" * 50 + ORDINARY["jpeg"][2:],
        b"\xff\xd8\xff",
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1000 + ORDINARY["jpeg"][2:],
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0abCd\0\0\0\0" + ORDINARY["png"][8:],
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBPABCD" + bytes(30),
        b"RIFF\0\0\0\0WEBPVP8L",
    ],
)
def test_a_header_that_hides_its_size_weighs_as_much_as_a_picture_may(content: bytes) -> None:
    assert weigh(content, target(1, 10**7)) == Weight(
        pixels=10**7, work=10**7, num_bytes=None, is_light=False
    )


@pytest.mark.parametrize("name", ORDINARY)
def test_no_prefix_of_a_picture_makes_weighing_fail(name: str) -> None:
    content = ORDINARY[name]
    for length in range(12, min(len(content), 700)):
        weigh(content[:length], target(3, 10**9))


def test_what_is_no_picture_is_refused() -> None:
    assert weigh(b"", target(1, 10)).is_light, "the decoder says that it is empty"
    for content in (b"GIF89a", b"\r" * 100, ORDINARY["jpeg"][1:]):
        with pytest.raises(UnknownFormatError):
            weigh(content, target(1, 10))


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(PictureError, match="has 60×40 pixels, at most 2399 are decoded"):
        weigh(ORDINARY["png"], target(1, 2399))


def test_light_pictures_are_heavy_together() -> None:
    weight = weigh(encoded(Image.new("L", (800, 800)), "PNG"), target(1, 10**6))
    assert are_light([weight], 1000)
    assert not are_light([weight, weight], 1000)
    assert not are_light([weight], LIGHT_BYTES + 1)
    small = weigh(ORDINARY["grey jpeg"], target(1, 10**6))
    assert are_light([small] * LIGHT_FILES, 1000)
    assert not are_light([small] * (LIGHT_FILES + 1), 1000)


def test_only_one_small_file_of_few_pixels_is_decoded_on_the_event_loop() -> None:
    digit = weigh(encoded(Image.new("L", (64, 64)), "JPEG"), target(1, 10**6))
    assert are_tiny([digit], TINY_BYTES)
    assert not are_tiny([digit], TINY_BYTES + 1)
    assert not are_tiny([digit, digit], 1000)
    png = encoded(Image.new("L", (9, 9)), "PNG")
    for other in (
        encoded(Image.new("L", (65, 64)), "JPEG"),
        encoded(Image.new("L", (64, 64)), "JPEG", progressive=True),
        png[:33] + b"\0\0\0\0zTXt\0\0\0\0" + png[33:],  # text that may inflate, after the header
    ):
        assert not are_tiny([weigh(other, target(1, 10**6))], len(other))
