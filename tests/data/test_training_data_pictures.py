"""One picture, one row: what training makes of a file is what the service makes of it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_kit import encode, noise
from service.contract.pictures import PictureError, inspect_picture, read_pixels
from service.contract.preprocessing import Preprocessing
from service.contract.target import Target
from service.errors import BadPicture
from service.pictures.request import PictureRequest
from training.pictures.formats import FORMATS

TARGET = Target(mode="RGB", height=13, width=17, max_pixels=40_000_000)


def served(content: bytes, target: Target) -> np.ndarray:
    """The levels that the service's row was made of: row = level / 255, and 255 · row is within 0.5 of it."""
    channels = target.shape[0]
    preprocessing = Preprocessing(
        height=target.height,
        width=target.width,
        mode=target.mode,
        mean=[0.0] * channels,
        std=[1.0] * channels,
    )
    row = PictureRequest([(None, content)], preprocessing, target.max_pixels).decode()
    return np.rint(row[0] * 255).astype(np.uint8)


PLAIN = Image.fromarray(noise(19, 23, 3))


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PLAIN, "JPEG", exif=exif, quality=95)


def palette(**options: object) -> bytes:
    return encode(PLAIN.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", **options)


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(noise(9, 9, 3, seed=seed)) for seed in range(3)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def deep() -> bytes:
    levels = np.random.default_rng(3).integers(0, 65536, (19, 23)).astype(np.uint16)
    return encode(Image.fromarray(levels))


RGBA = Image.fromarray(noise(19, 23, 4, seed=9))
ODD = {
    **{f"EXIF {orientation}": oriented(orientation) for orientation in range(1, 9)},
    "EXIF of no meaning": oriented(77),
    "CMYK": encode(PLAIN.convert("CMYK"), "JPEG"),
    "grey JPEG": encode(Image.fromarray(noise(19, 23)), "JPEG"),
    "progressive": encode(PLAIN, "JPEG", progressive=True),
    "palette": palette(),
    "palette, one transparent": palette(transparency=3),
    "palette, alphas": palette(transparency=bytes(range(256))),
    "RGB, one transparent": encode(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)),
    "grey, one transparent": encode(Image.new("L", (9, 9), 200), transparency=200),
    "RGBA": encode(RGBA),
    "RGBA WebP": encode(RGBA, "WEBP", lossless=True),
    "LA": encode(RGBA.convert("LA")),
    "1 bit": encode(Image.fromarray(noise(19, 23)).convert("1")),
    "16 bits": deep(),
    "animated PNG": animated("PNG"),
    "animated WebP": animated("WEBP"),
    "one pixel": encode(Image.new("RGB", (1, 1), (9, 8, 7))),
    "of the size asked for": encode(Image.fromarray(noise(13, 17, 3))),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_the_same_in_training_and_in_the_service(name, mode):
    target = replace(TARGET, mode=mode)
    pixels = read_pixels(ODD[name], target, FORMATS)
    assert pixels.dtype == np.uint8
    assert pixels.shape == target.shape
    np.testing.assert_array_equal(pixels, served(ODD[name], target))


def test_what_a_picture_becomes_is_what_earlier_nets_were_trained_on():
    """Of the lossless pictures, whose pixels no version of a decoder may change."""
    digest = hashlib.sha256()
    for mode in ("L", "RGB"):
        for content in ODD.values():
            if content.startswith(b"\x89PNG"):
                digest.update(read_pixels(content, replace(TARGET, mode=mode), FORMATS).tobytes())
    assert digest.hexdigest() == "7a05b6f632bf8feabd38c6f7da0cdd57583593e862c4bac850d386840adc973c"


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4])),
    kind=st.sampled_from(["PNG", "WEBP", "JPEG"]),
    mode=st.sampled_from(["L", "RGB"]),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    seed=st.integers(0, 1000),
)
def test_any_picture_is_the_same_in_training_and_in_the_service(shape, kind, mode, size, seed):
    image = Image.fromarray(
        noise(*shape, seed=seed).squeeze(2) if shape[2] == 1 else noise(*shape, seed=seed)
    )
    content = encode(image.convert("RGB") if kind == "JPEG" and shape[2] == 4 else image, kind)
    target = Target(mode=mode, height=size[0], width=size[1], max_pixels=10_000)
    np.testing.assert_array_equal(read_pixels(content, target, FORMATS), served(content, target))


WHOLE = encode(Image.fromarray(noise(50, 50, 3)))
BAD = {
    "empty": b"",
    "no picture": b"GIF is not what this is",
    "torn PNG": WHOLE[: len(WHOLE) // 2],
    "torn JPEG": encode(Image.fromarray(noise(90, 90, 3)), "JPEG")[:-2000],
    "header only": WHOLE[:40],
    "too many pixels": encode(Image.new("1", (3000, 3000))),
    "a bomb": encode(Image.new("1", (14_000, 14_000))),
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_service_refuses_is_refused(name):
    target = replace(TARGET, max_pixels=2_000_000)
    with pytest.raises(BadPicture):
        served(BAD[name], target)
    with pytest.raises(PictureError) as caught:
        read_pixels(BAD[name], target, FORMATS)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_before_any_is_decoded():
    with pytest.raises(PictureError, match=r"^has 14000×14000 pixels, at most 2000000 are decoded"):
        read_pixels(BAD["a bomb"], replace(TARGET, max_pixels=2_000_000), FORMATS)


def test_an_inspection_tells_grey_from_colour_and_the_size_as_turned():
    assert inspect_picture(encode(Image.fromarray(noise(19, 23))), 1000) == (True, 19, 23)
    assert inspect_picture(ODD["LA"], 1000) == (True, 19, 23)
    assert inspect_picture(ODD["16 bits"], 1000) == (True, 19, 23)
    assert inspect_picture(ODD["EXIF 6"], 1000) == (False, 23, 19)
    assert inspect_picture(ODD["palette"], 1000) == (False, 19, 23)


def test_formats_beyond_the_services_are_decoded_too():
    image = Image.fromarray(noise(13, 17, 3))
    for kind in ("BMP", "PPM", "TIFF"):
        np.testing.assert_array_equal(
            read_pixels(encode(image, kind), TARGET, FORMATS), np.asarray(image).transpose(2, 0, 1)
        )
    assert read_pixels(encode(image, "GIF"), TARGET, FORMATS).shape == TARGET.shape
    with pytest.raises(PictureError, match=r"^is none of JPEG, PNG"):
        read_pixels(encode(image, "ICO"), TARGET, FORMATS)
