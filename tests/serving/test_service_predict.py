"""Pictures in, labels out: POST /predict, and the road from a picture's bytes to a row."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper
from PIL import Image

from service.contract.preprocessing import Preprocessing
from service.contract.probabilities import are_distributions, softmax
from service.errors import BadPicture
from service.pictures.request import PictureRequest
from service_kit import Server, serving
from tiny_nets import digits_net, echo_net, log_net, write_bundle

GREY = Preprocessing(mode="L", height=28, width=28, mean=[0.5], std=[0.25])
COLOUR = Preprocessing(mode="RGB", height=2, width=2, mean=[0.0] * 3, std=[1.0] * 3)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (28, 28)).astype(np.uint8)
    return Image.fromarray(levels)


def read_picture(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> np.ndarray:
    """The row (1, C, H, W) of a picture that is the body of a request."""
    return PictureRequest([(None, content)], preprocessing, max_pixels).decode()


def colours(content: bytes) -> list[float]:
    """The middle of what an RGB net sees, as three values from 0 to 255."""
    row = read_picture(content, COLOUR, 10**6)
    assert row.shape == (1, 3, 2, 2)
    assert row.dtype == np.float32
    return [round(float(value) * 255, 1) for value in row[0, :, 0, 0]]


def test_row_is_pixels_scaled_and_centred() -> None:
    image = drawing()
    row = read_picture(encoded(image), GREY, 10**6)
    expected = (np.asarray(image, np.float64) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(row[0, 0], expected, atol=1e-6)


def test_channels_come_first() -> None:
    assert colours(encoded(Image.new("RGB", (2, 2), (10, 20, 30)))) == [10, 20, 30]


def test_exif_turns_the_picture() -> None:
    image = Image.new("L", (28, 28))
    image.paste(255, (0, 0, 28, 14))  # the upper half is light
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise: the light half is right
    row = read_picture(encoded(image, "JPEG", exif=exif, quality=100), GREY, 10**6)[0, 0]
    assert row[:, 20:].min() > 1.5
    assert row[:, :8].max() < -1.5


def test_transparency_is_white_for_colour_and_black_for_grey() -> None:
    clear = encoded(Image.new("RGBA", (2, 2), (200, 100, 50, 0)))
    assert colours(clear) == [255, 255, 255]
    assert read_picture(clear, GREY, 10**6).max() == -2.0
    half = Image.new("LA", (2, 2), (100, 0))
    assert colours(encoded(half)) == [255, 255, 255]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert colours(encoded(palette)) == [255, 0, 0]
    assert colours(encoded(palette, transparency=1)) == [255, 255, 255]


def test_deep_greys_are_scaled_not_clipped() -> None:
    levels = np.full((2, 2), 0x8080, np.uint16)
    assert colours(encoded(Image.fromarray(levels))) == [128, 128, 128]


def test_cmyk_and_one_bit_and_webp() -> None:
    assert colours(encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "JPEG")) == [255, 255, 255]
    assert colours(encoded(Image.new("1", (2, 2), 1))) == [255, 255, 255]
    assert colours(encoded(Image.new("RGB", (2, 2), (9, 8, 7)), "WEBP", lossless=True)) == [9, 8, 7]


def test_other_sizes_are_resized() -> None:
    assert read_picture(encoded(Image.new("L", (500, 300), 255)), GREY, 10**6).min() == 2.0


def bomb() -> bytes:
    """A PNG of 30,000 × 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


TWELVE_BITS = re.sub(b"(\xff\xc0..)\x08", b"\\1\x0c", encoded(drawing(), "JPEG"), flags=re.DOTALL)
BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"hello", "not a JPEG, PNG or WebP"),
    "gif": (encoded(Image.new("L", (2, 2)), "GIF"), "not a JPEG, PNG or WebP"),
    "bomb": (bomb(), "30000×30000 pixels"),
    "truncated": (encoded(drawing(), "JPEG")[:-200], "cannot be decoded"),
    "torn": (encoded(drawing())[:100], "cannot be decoded: it ends too early"),
    "12 bits": (TWELVE_BITS, "the picture is a JPEG that is broken, or of a kind that is not read"),
    "corrupt": (encoded(drawing()).replace(b"IDAT", b"IDAX"), "picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_a_picture_is_told_in_one_sentence(name: str) -> None:
    content, message = BROKEN[name]
    with pytest.raises(BadPicture, match=message):
        read_picture(content, GREY, 40_000_000)


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0, -1e4]], np.float32)).tolist() == [[1, 0, 0]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("predict") / "models"
    write_bundle(models / "digits" / "1", digits_net())
    write_bundle(models / "blind" / "1", echo_net("float32"))
    with serving(models) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def expected(image: Image.Image) -> np.ndarray:
    row = (np.asarray(image, np.float64)[np.newaxis, np.newaxis] / 255 - 0.5) / 0.25
    return softmax(digits_net().truth({"input": row})["logits"])[0]


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", None])
def test_predict_one_picture(client: httpx.Client, content_type: str | None) -> None:
    image = drawing(seed=7)
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post("/predict", content=encoded(image), headers=headers).json()
    assert (answer["model_name"], answer["model_version"]) == ("digits", "1")
    (prediction,) = answer["predictions"]
    probabilities = expected(image)
    assert prediction["label"] == str(probabilities.argmax())
    assert prediction["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
    assert [entry["label"] for entry in prediction["top"]] == [str(k) for k in np.argsort(-probabilities)]
    assert sum(entry["probability"] for entry in prediction["top"]) == pytest.approx(1, abs=1e-4)


def test_predict_several_files(client: httpx.Client) -> None:
    images = {f"{seed}.png": drawing(seed) for seed in range(70)}  # more than one batch
    files = [("file", (name, encoded(image), "image/png")) for name, image in images.items()]
    predictions = client.post("/predict?top=1", files=files).json()["predictions"]
    assert [prediction["file"] for prediction in predictions] == list(images)
    assert [prediction["label"] for prediction in predictions] == [
        str(expected(image).argmax()) for image in images.values()
    ]
    assert {len(prediction["top"]) for prediction in predictions} == {1}


def refused(answer: httpx.Response, message: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_predict_refuses(client: httpx.Client) -> None:
    picture = encoded(drawing())
    refused(client.post("/predict", content=b"hello"), "not a JPEG, PNG or WebP picture")
    refused(client.post("/predict"), "empty")
    refused(client.post("/predict?model=blind", content=picture), "takes no pictures: its manifest has no")
    refused(client.post("/predict?model=nope", content=picture), "unknown model", status=404)
    for top in ("0", "-1", "x", "1.5", "²"):
        refused(client.post("/predict", params={"top": top}, content=picture), "'top' must be a number")
    two = [("file", ("good.png", picture)), ("file", ("bad.png", b"hello"))]
    refused(client.post("/predict", files=two), "bad.png: the body is not")
    refused(client.post("/predict", data={"file": "text"}, files={}), "not a JPEG")
    multipart = {"content-type": "multipart/form-data; boundary=b"}
    refused(client.post("/predict", content=b"--b--\r\n", headers=multipart), "no file")
    refused(client.post("/predict", content=b"junk", headers=multipart), "ends too early")
    whole = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture + b"\r\n"
    )
    cut = whole + whole[: len(whole) // 2]
    refused(client.post("/predict", content=cut, headers=multipart), "ends too early")
    both = client.post("/predict", content=whole + whole + b"--b--\r\n", headers=multipart)
    assert len(both.json()["predictions"]) == 2
    refused(
        client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data"}), "multipart"
    )
    assert client.post("/predict", content=picture).status_code == 200


def test_predict_asks_for_a_name_where_several_see(tmp_path_factory: pytest.TempPathFactory) -> None:
    models = tmp_path_factory.mktemp("several") / "models"
    for name in ("digits", "letters"):
        write_bundle(models / name / "1", digits_net())
    write_bundle(models / "log" / "1", log_net())
    with serving(models) as running:
        answer = httpx.post(f"{running.url}/predict", content=encoded(drawing()))
        refused(answer, "those that take pictures: digits, letters")
        named = httpx.post(f"{running.url}/predict?model=letters", content=encoded(drawing()))
        assert named.json()["model_name"] == "letters"


def test_a_softmax_inside_the_net_is_not_applied_twice(tmp_path: Path) -> None:
    net = digits_net()
    logits_truth = net.truth
    net.nodes[-1].output[0] = "raw"
    net.nodes.append(helper.make_node("Softmax", ["raw"], ["logits"], axis=1))
    net.truth = lambda rows: {"logits": softmax(logits_truth(rows)["logits"])}
    write_bundle(tmp_path / "digits" / "1", net)
    with serving(tmp_path) as server:
        answer = httpx.post(f"{server.url}/predict", content=encoded(Image.new("L", (28, 28), 200))).json()
    row = (np.full((1, 1, 28, 28), 200 / 255) - 0.5) / 0.25
    expected = net.truth({"input": row})["logits"][0]
    (prediction,) = answer["predictions"]
    assert prediction["label"] == str(expected.argmax())
    assert abs(prediction["probability"] - expected.max()) < 1e-5


def test_logits_are_not_taken_for_distributions() -> None:
    assert are_distributions(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert not are_distributions(np.array([[0.25, 0.75], [1.5, -0.5]]))
    assert not are_distributions(np.array([[0.25, 0.75], [0.5, 0.4]]))
