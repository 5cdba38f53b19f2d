"""Resizing, cropping and padding in one step are Pillow's, torchvision's and timm's in several."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.contract import filters
from service.contract.framing import Frame, Resize, centred
from service.contract.pictures import read_pixels
from service.contract.preprocessing import Preprocessing
from service.contract.resampling import framed
from service.contract.target import Target

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
SIDES = st.integers(1, 300)


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Noise over a gradient: every pixel differs from its neighbours."""
    chance = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(chance.integers(0, 256, shape).astype(np.uint8))


def in_steps(image: Image.Image, frame: Frame) -> np.ndarray:
    """All of the picture resized, then padded, then cropped, as torchvision's center_crop does."""
    height, width = frame.resize.resized(image.height, image.width)
    resized = np.asarray(image.resize((width, height), FILTERS[frame.resize.interpolation]))
    pads = [(max(0, row - side)) for row, side in ((frame.height, height), (frame.width, width))]
    before = [pad // 2 for pad in pads]
    widths = [(before[0], pads[0] - before[0]), (before[1], pads[1] - before[1]), (0, 0)]
    padded = np.pad(resized, widths, constant_values=frame.fill[0])
    top, left = (
        round((size - row) / 2)
        for size, row in zip(padded.shape[:2], (frame.height, frame.width), strict=True)
    )
    return padded[top : top + frame.height, left : left + frame.width]


@settings(max_examples=150)
@given(
    size=st.tuples(SIDES, SIDES),
    row=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    mode=st.sampled_from(["exact", "shorter", "longest"]),
    resize=st.one_of(st.tuples(st.integers(1, 80)), st.tuples(st.integers(1, 80), st.integers(1, 80))),
    interpolation=st.sampled_from(sorted(FILTERS)),
    fill=st.integers(0, 255),
)
def test_one_step_gives_the_pixels_of_several(size, row, mode, resize, interpolation, fill):
    image = picture(*size)
    how = Resize(mode=mode, size=resize, interpolation=interpolation)
    frame = Frame(height=row[0], width=row[1], resize=how, fill=(fill,))
    difference = np.abs(framed(image, frame).astype(int) - in_steps(image, frame))
    assert difference.max() == 0


def test_a_part_of_a_large_result_is_what_a_crop_of_it_would_be(monkeypatch):
    monkeypatch.setattr(filters, "IS_COMPILED", False)  # the compiled ones compute no whole result
    monkeypatch.setattr(filters, "MAX_WHOLE", 0)
    image = picture(97, 140).resize((420, 290), Image.Resampling.BICUBIC)
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        how = Resize(mode="shorter", size=(61,), interpolation=interpolation)
        frame = Frame(height=50, width=40, resize=how, fill=(0,))
        assert np.abs(framed(image, frame).astype(int) - in_steps(image, frame)).max() <= 1


@pytest.mark.parametrize("size", [(427, 640), (640, 427), (500, 333), (224, 224), (1, 900), (7, 5)])
@pytest.mark.parametrize("side", [224, 256, 235])
def test_the_sizes_are_those_of_torchvision(size, side):
    height, width = size
    short, long = min(size), max(size)
    expected = (side, int(side * long / short))
    assert Resize(mode="shorter", size=(side,)).resized(height, width) == (
        expected if width >= height else expected[::-1]
    )


def test_a_letterbox_fits_in_and_is_filled():
    image = Image.new("RGB", (640, 320), (9, 9, 9))
    how = Resize(mode="longest", size=(64,), antialias=False)
    pixels = framed(image, Frame(height=64, width=64, resize=how, fill=(114,)))
    assert how.resized(320, 640) == (32, 64)
    assert (pixels[:16] == 114).all()
    assert (pixels[48:] == 114).all()
    assert (pixels[16:48] == 9).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 60), (90, 35), (3, 2), (1, 1), (1200, 1100)])
def test_without_antialias_the_pixels_are_torchs(interpolation, size):
    torch = pytest.importorskip("torch")
    image = picture(*size)
    how = Resize(mode="exact", size=(24, 31), interpolation=interpolation, antialias=False)
    found = framed(image, Frame(height=24, width=31, resize=how, fill=(0,)))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(pixels, (24, 31), mode=interpolation, align_corners=False)
    expected = expected.clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize("antialias", [True, False])
def test_a_long_thin_picture_costs_no_more_than_its_row(interpolation, antialias):
    """All of it would be 224 × 14,680,064 pixels."""
    if interpolation == "lanczos" and not antialias:
        pytest.skip("lanczos is defined with antialias only")
    how = Resize(mode="shorter", size=(224,), interpolation=interpolation, antialias=antialias)
    pixels = framed(picture(1, 65_536), Frame(height=224, width=224, resize=how, fill=(0,)))
    assert pixels.shape == (224, 224, 3)


def test_rules_that_nothing_can_follow_are_refused():
    for wrong in ({"size": ()}, {"size": (0,)}, {"size": (1, 2, 3)}, {"size": (70_000,)}):
        with pytest.raises(ValueError, match="size must be 1 or 2 sides from 1 to 65536"):
            Resize(mode="exact", **wrong)
    with pytest.raises(ValueError, match="lanczos is defined with antialias only"):
        Resize(mode="exact", size=(2,), interpolation="lanczos", antialias=False)


def test_a_crop_begins_where_torchvision_rounds_it():
    larger, smaller = (225, 226, 227, 229), (223, 222, 221)
    assert [centred(resized, 224, "nearest").start for resized in larger] == [0, 1, 2, 2]
    assert [centred(resized, 224, "down").start for resized in larger] == [0, 1, 1, 2]
    for rounding in ("nearest", "down"):
        assert [centred(resized, 224, rounding).before for resized in smaller] == [0, 1, 1]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_old_keys_mean_what_they_meant():
    image = picture(50, 80)
    how = Preprocessing(mode="RGB", height=20, width=30, mean=[0.5] * 3, std=[0.25] * 3)
    expected = np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    for each in (how, how.complete()):
        assert (read_pixels(png(image), each.target(10**6)) == expected).all()
    assert how.row_shape == (3, 20, 30)


def test_channels_and_layout_are_the_rows():
    content = png(Image.new("RGB", (4, 4), (10, 20, 30)))
    how = Preprocessing(
        mode="BGR", height=2, width=4, mean=[0.0, 0.0, 10.0], std=[1.0] * 3, scale=1.0, layout="NHWC"
    )
    row = np.empty(how.row_shape, np.float32)
    how.write_row(read_pixels(content, how.target(100)), row)
    assert row.shape == (2, 4, 3)
    assert row[0, 0].tolist() == [30, 20, 0]
    assert how.levels(row[None])[0, 1, 1].tolist() == [30, 20, 10]


def test_transparency_lies_over_the_stated_colour_or_is_dropped():
    content = png(Image.new("RGBA", (2, 2), (200, 100, 50, 0)))
    for background, expected in (((1, 2, 3), [1, 2, 3]), ((), [200, 100, 50]), (None, [255, 255, 255])):
        target = Target(mode="RGB", height=1, width=1, max_pixels=4, background=background)
        assert read_pixels(content, target)[:, 0, 0].tolist() == expected


def test_exif_may_be_ignored():
    image, file = Image.new("L", (4, 2)), io.BytesIO()
    image.paste(255, (0, 0, 1, 2))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(file, "PNG", exif=exif)
    for is_turned, expected in ((True, [0, 0, 0, 255]), (False, [255, 0, 0, 0])):
        target = Target(mode="L", height=2, width=4, max_pixels=8, is_turned=is_turned)
        assert read_pixels(file.getvalue(), target)[0, 0].tolist() == expected


def test_a_target_travels_to_another_process():
    resize = Resize(mode="shorter", size=(8,), interpolation="bicubic")
    for target in (
        Target(mode="L", height=2, width=3, max_pixels=4),
        Target(mode="BGR", height=2, width=3, max_pixels=4, resize=resize, background=(), fill=(1, 2, 3)),
    ):
        assert Target.from_json(target.to_json()) == target
