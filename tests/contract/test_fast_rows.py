"""The fast decoder and the compiled filters: Pillow's levels to the last bit, or Pillow itself."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from service.contract import filters, jpeg
from service.contract.filters import filtered
from service.contract.framing import Span
from service.contract.jpeg import decoded_jpeg
from service.contract.pictures import PictureError, read_image, read_pixels
from service.contract.target import Target

needs_decoder = pytest.mark.skipif(not jpeg.IS_FAST, reason="simplejpeg is not installed")
needs_compiled = pytest.mark.skipif(not filters.IS_COMPILED, reason="not compiled: make compiled")
TARGET = Target(mode="RGB", height=37, width=53, max_pixels=10**6)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise, blurred: smooth colours and edges, as in a photograph."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


BASELINE = {
    "4:2:0": encoded(photo(121, 67), subsampling=2),
    "4:2:2": encoded(photo(121, 67), subsampling=1),
    "4:4:4": encoded(photo(121, 67), subsampling=0, quality=97),
    "coarse": encoded(photo(64, 64), quality=5),
    "restarts": encoded(photo(121, 67), restart_marker_rows=1),
    "no conversion": encoded(photo(40, 30), keep_rgb=True),
    "profile": encoded(photo(40, 30), icc_profile=bytes(3000), comment=b"a comment"),
    "1 pixel high": encoded(photo(300, 1)),
    "1 pixel wide": encoded(photo(1, 300)),
    "grey": encoded(photo(77, 50).convert("L")),
}


@needs_decoder
@pytest.mark.parametrize("name", BASELINE)
def test_every_level_of_a_baseline_jpeg_is_pillows(name):
    content = BASELINE[name]
    for given_content in (content, bytearray(content)):
        levels = decoded_jpeg(opened(content), given_content)
        assert levels is not None
        expected = np.asarray(opened(content))
        assert (levels[..., :3] == expected.reshape(*expected.shape[:2], -1)).all()
    for mode in ("RGB", "BGR", "L"):
        target = Target(mode=mode, height=37, width=53, max_pixels=10**6)
        plain = read_image(content, target)
        expected = read_pixels(encoded(plain, "PNG"), target)
        assert (read_pixels(content, target) == expected).all(), mode


@needs_decoder
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_jpeg_is_turned(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    content = encoded(photo(60, 40), exif=exif)
    expected = read_pixels(encoded(read_image(content, TARGET), "PNG"), TARGET)
    assert (read_pixels(content, TARGET) == expected).all()


def torn(content: bytes) -> bytes:
    """Zeros in the middle: libjpeg warns, and Pillow shows what there is."""
    middle = 2 * len(content) // 3
    return content[:middle] + bytes(40) + content[middle + 40 :]


ORDINARY = BASELINE["4:2:0"]
SCAN = ORDINARY[ORDINARY.index(b"\xff\xda") : -2]
LEFT_TO_PILLOW = {
    "progressive": encoded(photo(60, 40), progressive=True),
    "cmyk": encoded(photo(60, 40).convert("CMYK")),
    "png": encoded(photo(60, 40), "PNG"),
    "torn": torn(ORDINARY),
    "truncated": ORDINARY[:-200],
    "two scans": ORDINARY[:-2] + SCAN + b"\xff\xd9",
}


@needs_decoder
@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_what_is_unusual_or_broken_is_left_to_pillow(name, monkeypatch):
    content = LEFT_TO_PILLOW[name]
    assert decoded_jpeg(opened(content), content) is None

    def outcome() -> Any:
        try:
            return read_pixels(content, TARGET).tobytes()
        except PictureError as error:
            return str(error)

    found = outcome()
    monkeypatch.setattr(jpeg, "decode_jpeg", None)
    assert outcome() == found


@needs_decoder
def test_a_size_that_changes_after_the_check_is_not_decoded():
    small, large = BASELINE["coarse"], BASELINE["4:2:0"]
    assert decoded_jpeg(opened(small), large) is None


SIDES = st.integers(1, 400)


@pytest.fixture(params=[True, False], ids=["avx2", "plain"])
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """The compiled loops with AVX2, where the processor has it, and without."""
    filters._resample.use_avx2(request.param)
    yield
    filters._resample.use_avx2(True)


def by_pillow(image: Image.Image, *how: Any) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "IS_COMPILED", False)
        patch.setattr(filters, "MAX_WHOLE", 1 << 40)
        return filtered(image, *how)


@needs_compiled
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    size=st.tuples(SIDES, SIDES),
    resized=st.tuples(SIDES, SIDES),
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    mode=st.sampled_from(["L", "RGB"]),
)
def test_every_level_of_a_filtered_part_is_pillows(instructions, size, resized, parts, interpolation, mode):
    image = photo(*size).convert(mode)
    rows, columns = (
        Span(start=int(start * (side - length)), length=length, before=0)
        for start, side, length in (
            (parts[0], resized[0], max(1, int(parts[1] * resized[0]))),
            (parts[2], resized[1], max(1, int(parts[3] * resized[1]))),
        )
    )
    expected = by_pillow(image, resized, rows, columns, interpolation)
    levels = np.asarray(image).reshape(image.height, image.width, -1)
    with_fourth = np.dstack([levels, levels[..., :1]]) if mode == "RGB" else levels
    for picture in (image, levels, np.ascontiguousarray(with_fourth)):
        found = filtered(picture, resized, rows, columns, interpolation)
        assert (found[..., :3] == expected).all()


def order_of_pillow(size: tuple[int, int], resized: tuple[int, int]) -> set[bool]:
    """Whether Pillow may have resized the height first, or second: what gives its levels for some noise."""
    (height, width), (to_height, to_width) = size, resized
    found = {True, False}
    for seed in range(8):
        noise = np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)
        image = Image.fromarray(noise)
        levels = np.asarray(image.resize((to_width, to_height), Image.Resampling.BILINEAR))
        for is_first, between in ((True, (width, to_height)), (False, (to_width, height))):
            lines = image.resize(between, Image.Resampling.BILINEAR)
            two = np.asarray(lines.resize((to_width, to_height), Image.Resampling.BILINEAR))
            if (two != levels).any():
                found.discard(is_first)
    return found


def test_the_order_of_both_sides_is_pillows():
    chance = np.random.default_rng(1)
    for _ in range(100):
        height, width, to_height, to_width = chance.integers(20, 99, 4).tolist()
        is_first = filters.is_height_before_width((height, width), (to_height, to_width))
        assert is_first in order_of_pillow((height, width), (to_height, to_width))


@needs_compiled
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(3000, 7), (7, 3000), (1, 5000), (1400, 1100)])
def test_pictures_of_every_shape_are_filtered_in_bands(instructions, size, interpolation, monkeypatch):
    monkeypatch.setattr(filters, "BAND_BYTES", 4096)
    image, whole = photo(*size), (Span(start=0, length=64, before=0), Span(start=0, length=50, before=0))
    expected = by_pillow(image, (64, 50), *whole, interpolation)
    assert (filtered(image, (64, 50), *whole, interpolation)[..., :3] == expected).all()


@needs_compiled
def test_a_picture_of_white_noise_is_clipped_as_pillow_clips(instructions):
    """Black beside white: sums go beyond 0 and 255 between both passes."""
    noise = np.random.default_rng(0).integers(0, 2, (90, 70, 3)).astype(np.uint8) * 255
    image, whole = Image.fromarray(noise), (Span(start=0, length=120, before=0),) * 2
    for interpolation in ("bicubic", "lanczos"):
        expected = by_pillow(image, (120, 120), *whole, interpolation)
        assert (filtered(image, (120, 120), *whole, interpolation)[..., :3] == expected).all()


@needs_compiled
def test_another_filter_gives_other_levels():
    """The negative control: bicubic in the place of bilinear."""
    image, span = photo(640, 427), Span(start=16, length=224, before=0)
    bicubic = filtered(image, (256, 383), span, span, "bicubic").astype(np.int16)
    assert np.abs(bicubic - filtered(image, (256, 383), span, span, "bilinear")).max() > 1


@needs_compiled
def test_buffers_that_do_not_fit_are_refused():
    compiled = filters._resample
    taps = compiled.taps(10, 5, 0, 5, 0)
    pixels, lines = bytes(3 * 10 * 4), bytearray(3 * 5 * 4)
    compiled.columns(pixels, 4, 0, 10, taps, lines)
    for wrong in (
        (pixels, 4, 1, 10, taps, lines),  # the first pixel is not there
        (pixels[:-4], 4, 0, 10, taps, lines),
        (pixels, 4, 0, 10, taps, lines[:-1]),
        (pixels, 4, 0, 10, taps[:-1], lines),
        (pixels, 5, 0, 10, taps, lines),
        (pixels, 4, 0, 0, taps, lines),
        (pixels, 4, 0, 10, b"", lines),
        (b"", 4, 0, 10, taps, lines),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            compiled.columns(*wrong)
    with pytest.raises(ValueError, match="do not fit together"):
        compiled.rows(bytes(9 * 20), 4, 0, 9, taps, bytearray(100))
    for wrong in ((0, 5, 0, 5, 0), (10, 5, 1, 5, 0), (10, 5, -1, 5, 0), (10, 5, 0, 5, 3), (10, 5, 0, 0, 0)):
        with pytest.raises(ValueError, match="no such side, part or filter"):
            compiled.taps(*wrong)
    with pytest.raises(ValueError, match="too large"):
        compiled.taps(1 << 30, 2, 0, 1, 2)


def test_rows_of_many_threads_at_once_are_those_of_one():
    content = encoded(photo(500, 400))
    target = Target(mode="RGB", height=224, width=224, max_pixels=10**6)
    expected = read_pixels(content, target)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: read_pixels(content, target), range(40)))
    assert all((pixels == expected).all() for pixels in made)


def test_without_the_compiled_filters_rows_are_the_same(monkeypatch):
    content, target = ORDINARY, Target(mode="RGB", height=30, width=40, max_pixels=10**6)
    found = read_pixels(content, target)
    monkeypatch.setattr(filters, "IS_COMPILED", False)
    assert (read_pixels(content, target) == found).all()
    monkeypatch.setattr(jpeg, "decode_jpeg", None)
    assert (read_pixels(content, target) == found).all()
