"""Pillow's own limit on pixels: off while any thread decodes, and as it was before once all have left."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from service.contract import pictures
from service.contract.pictures import PictureError, read_pixels
from service.contract.preprocessing import Preprocessing
from service.contract.target import Target

TARGET = Target(mode="L", height=2, width=2, max_pixels=10_000)


def encoded(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 7).save(file, "PNG")
    return file.getvalue()


def test_our_limit_counts_and_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_pixels(encoded(50, 50), TARGET).tolist() == [[[7, 7], [7, 7]]]
    with pytest.raises(PictureError, match=r"^has 200×200 pixels, at most 10000 are decoded$"):
        read_pixels(encoded(200, 200), TARGET)
    assert Image.MAX_IMAGE_PIXELS == 10, "as it was before"


def test_the_limit_stays_off_until_the_last_thread_has_left(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    is_inside, may_leave = threading.Event(), threading.Event()

    def decode_slowly() -> None:
        with pictures._pillow_limit_off():
            is_inside.set()
            may_leave.wait(10)

    thread = threading.Thread(target=decode_slowly)
    thread.start()
    assert is_inside.wait(10)
    read_pixels(encoded(50, 50), TARGET)
    assert Image.MAX_IMAGE_PIXELS is None, "the other thread still decodes"
    may_leave.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_row_is_normalised_by_channel():
    pixels = np.array([[[0, 255]], [[255, 0]], [[51, 51]]], np.uint8)
    how = Preprocessing(mode="RGB", height=1, width=2, mean=[0.5, 0.0, 0.2], std=[0.5, 2.0, 1.0])
    row = np.empty(how.row_shape, np.float32)
    how.write_row(pixels, row)
    assert row[:2].tolist() == [[[-1.0, 1.0]], [[0.5, 0.0]]]
    assert np.abs(row[2]).max() < 1e-7
    np.testing.assert_allclose(how.levels(row[np.newaxis])[0], pixels, atol=1e-4)
