"""`foldserve.client` and `foldserve predict` against a real service: pictures and arrays in every form."""

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from foldserve.client import (
    AsyncClient,
    BadRequest,
    Client,
    DeadlineExceeded,
    NotFound,
)
from foldserve.client.clients import MAX_FILES
from foldserve.client.wire import encoded
from foldserve.commands.predict import _document, _text
from service_kit import ROOT, Server

SEVEN = ROOT / "docs/seven.png"


@pytest.fixture(scope="module")
def own(server: Server) -> Client:
    with Client(server.url) as client:
        yield client


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "pixels", "colour", "pillow"])
def test_a_picture_may_come_in_any_form(own: Client, kind: str) -> None:
    picture = Image.open(SEVEN).convert("L")
    given = {
        "path": SEVEN,
        "text": str(SEVEN),
        "bytes": SEVEN.read_bytes(),
        "pixels": np.asarray(picture),
        "colour": np.asarray(picture.convert("RGBA")),
        "pillow": picture,
    }[kind]
    found = own.predict(given, model="digits", top=3)
    assert found == own.predict(SEVEN, model="digits", top=3)
    assert (found.label, found.probability) == found.top[0]
    assert (len(found.top), found.model, found.version) == (3, "digits", "1")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 33)])
def test_pixels_become_a_png_without_loss(mode: str, size: tuple[int, int]) -> None:
    pixels = np.asarray(Image.effect_noise(size, 90).convert(mode))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(pixels)))), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(pixels[::-1, ::-1])))), pixels[::-1, ::-1])


@pytest.mark.parametrize("picture", [np.zeros((4, 4)), np.zeros((4, 4, 2), "u1"), np.zeros((0, 4), "u1"), 7])
def test_what_is_no_picture_is_refused_before_it_is_sent(picture: object) -> None:
    with pytest.raises(BadRequest, match=r"pixels are uint8|a picture is"):
        encoded(picture)


def test_a_photograph_is_turned_as_its_file_would_be(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    noise = Image.effect_noise((7, 5), 90)
    noise.save(tmp_path / "photo.png", exif=turned)
    again = Image.open(io.BytesIO(encoded(Image.open(tmp_path / "photo.png"))))
    assert ImageOps.exif_transpose(again).size == (5, 7)


def test_many_pictures_keep_their_order(own: Client) -> None:
    pictures = [np.full((28, 28), shade % 256, "u1") for shade in range(MAX_FILES + 6)]
    found = own.predict_all(pictures, model="digits")
    assert found == [own.predict(picture, model="digits") for picture in pictures]
    assert own.predict_all([]) == []


@pytest.mark.parametrize("name", ["FP32", "FP16", "FP64", "UINT8", "INT8", "INT16", "INT32", "INT64", "BOOL"])
def test_every_datatype_comes_back(own: Client, name: str) -> None:
    dtype = {"FP": "float", "UI": "uint", "IN": "int", "BO": "bool"}[name[:2]] + name.strip("BOLFPUINT")
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    answer = own.infer(f"echo-{dtype}", rows)
    (output,) = answer.outputs.values()
    assert output.dtype == rows.dtype
    assert np.array_equal(output, rows)
    assert answer.timing_ms["total"] > 0
    assert answer.request_id


def test_several_inputs_and_chosen_outputs(own: Client) -> None:
    described = own.metadata("pair")
    inputs = {one["name"]: np.ones((2, *one["shape"][1:]), "i2") for one in described["inputs"]}
    last = described["outputs"][-1]["name"]
    assert list(own.infer("pair", inputs, outputs=[last]).outputs) == [last]
    with pytest.raises(BadRequest, match="give a dict of arrays"):
        own.infer("pair", np.ones((2, 3), "f4"))
    with pytest.raises(BadRequest, match="has no input 'zzz'"):
        own.infer("pair", {"zzz": np.ones((2, 3), "f4")})


def test_an_array_is_cast_only_within_its_kind(own: Client) -> None:
    rows = np.ones((1, 1, 28, 28))
    assert own.infer("digits", rows).outputs["logits"].shape == (1, 10)
    assert own.infer("echo-float32", [[1, 2, 3]]).outputs
    with pytest.raises(BadRequest, match="is float64, the model takes UINT8: cast it yourself"):
        own.infer("echo-uint8", np.ones((1, 3)))


def test_the_servers_sentence_is_the_errors(own: Client) -> None:
    with pytest.raises(NotFound, match="unknown model: 'nope'") as unknown:
        own.infer("nope", np.ones(3))
    assert unknown.value.status == 404
    with pytest.raises(BadRequest, match="unexpected shape for input 'input'") as refused:
        own.infer("digits", np.ones((1, 5), "f4"))
    assert refused.value.request_id
    with pytest.raises(BadRequest, match="takes no pictures"):
        own.predict(SEVEN, model="log")


def test_names_are_quoted_and_models_listed(own: Client) -> None:
    assert "a model" in own.models()
    assert own.metadata("a model", "1")["name"] == "a model"
    assert own.is_ready()


def test_the_servers_own_timeout_is_the_clients(own: Client) -> None:
    own.metadata("digits")
    with pytest.raises(DeadlineExceeded):
        own.infer("digits", np.ones((1, 1, 28, 28), "f4"), timeout_s=1e-6)


async def test_asynchronous_calls_run_together(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        rows = [np.full((1, 3), number, "f4") for number in range(20)]
        answers = await asyncio.gather(*(client.infer("echo-float32", row) for row in rows))
        assert [next(iter(answer.outputs.values())).tolist() for answer in answers] == [
            row.tolist() for row in rows
        ]
        assert (await client.predict(SEVEN, model="digits")).label
        assert await client.is_ready()


def test_a_client_that_is_not_closed_ends_with_its_program(server: Server) -> None:
    code = f"from foldserve.client import Client; c = Client({server.url!r}); print(c.is_ready())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def predict(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "foldserve", "predict", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, input=stdin, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_command_prints_a_table_or_json(server: Server, own: Client) -> None:
    expected = own.predict(SEVEN, model="digits", top=2)
    flags = ("--url", server.url, "--model", "digits", "--top", "2")
    code, table, _ = predict(*flags, str(SEVEN))
    ranked = "  ".join(f"{share:.4f} {label}" for label, share in expected.top)
    assert (code, table) == (0, f"{SEVEN}  {ranked}\n")
    code, lines, _ = predict(*flags, "--json", "-", stdin=SEVEN.read_bytes())
    (told,) = map(json.loads, lines.splitlines())
    assert (code, told["file"], told["label"], told["model"]) == (0, "-", expected.label, "digits")
    assert [(one["label"], one["probability"]) for one in told["top"]] == expected.top


def test_a_bad_picture_costs_only_itself(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    pictures = [str(SEVEN), str(tmp_path / "text.png"), str(tmp_path / "gone.png"), str(SEVEN)]
    code, table, errors = predict("--url", server.url, "--model", "digits", *pictures)
    assert code == 1
    assert [line.split()[0] for line in table.splitlines()] == [str(SEVEN)] * 2
    assert len(errors.splitlines()) == 2
    assert "text.png: " in errors
    assert "gone.png: No such file" in errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--url", "http://127.0.0.1:9", "--timeout-s", "1", str(SEVEN)),
            "no answer from http://127.0.0.1:9",
        ),
        (("--top", "0", str(SEVEN)), "--top must be at least 1, got 0"),
        (("--timeout-s", "nan", str(SEVEN)), "--timeout-s must be positive, got nan"),
        ((), "the following arguments are required: PICTURE; see foldserve predict --help"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    code, table, errors = predict(*words)
    assert (code, table, errors.count("\n")) == (2, "", 1)
    assert sentence in errors


def test_values_are_printed_as_json_only() -> None:
    values = np.array([0.25, -1.5])
    assert _text(values) == "2 values, printed with --json"
    assert _document(values) == {"values": [0.25, -1.5]}
