"""Nets whose sizes are open, served: every client its own answer, whatever sizes the others send."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from open_kit import (
    PICTURES,
    WIDTHS,
    bundled,
    itself,
    nudged,
    recogniser,
    rewritten,
    segmentation,
    two_inputs,
)
from service_kit import Server, binary_body, read_answer, resident_mb, serving

NETS = {"words": recogniser(), "seen": segmentation(), "two": two_inputs()}
TOLERANCE = 1e-4
SOME_SIZES = 800
GROWTH_MB = 8  # what ONNX Runtime remembers of as many shapes, unless it must not, is more


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("open") / "models"
    bundled(NETS["words"], models, "words", WIDTHS)
    flags = ("--mean=0.5,0.5,0.5", "--std=0.2,0.2,0.2", "--crop=12x16")
    bundled(NETS["seen"], models, "seen", *PICTURES, flags=flags)
    bundled(NETS["two"], models, "two", "H=4..64", "W=4..64")
    return models


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serving(models) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def rows_of(name: str, num_rows: int, *sizes: int, seed: int = 0) -> dict[str, np.ndarray]:
    shape = {"words": (num_rows, 3, 8, *sizes), "seen": (num_rows, 3, *sizes), "two": (num_rows, 3, *sizes)}[
        name
    ]
    chance = np.random.default_rng(seed)
    return {
        name: chance.normal(size=shape).astype(np.float32) for name in (("x", "z")[: 1 + (name == "two")])
    }


def post(
    client: httpx.Client, name: str, rows: dict[str, np.ndarray], *, is_binary: bool, **parameters: object
) -> httpx.Response:
    document = {"inputs": [], "parameters": {"binary_data_output": is_binary, **parameters}}
    tails = []
    for tensor, array in rows.items():
        entry = {"name": tensor, "datatype": "FP32", "shape": list(array.shape)}
        entry |= (
            {"parameters": {"binary_data_size": array.nbytes}}
            if is_binary
            else {"data": array.ravel().tolist()}
        )
        document["inputs"].append(entry)
        tails.append(array.tobytes())
    path = f"/v2/models/{name}/infer"
    if not is_binary:
        return client.post(path, json=document)
    body, headers = binary_body(document, *tails)
    return client.post(path, content=body, headers=headers)


def answered(
    client: httpx.Client, name: str, rows: dict[str, np.ndarray], **how: object
) -> dict[str, np.ndarray]:
    answer = post(client, name, rows, **how)
    assert answer.status_code == 200, answer.text
    return read_answer(answer.headers, answer.content)[1]


def is_answer_to(name: str, rows: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> bool:
    return all(
        answers[output].shape == expected.shape and np.abs(answers[output] - expected).max() < TOLERANCE
        for output, expected in itself(NETS[name], rows).items()
    )


ASKED = st.lists(
    st.one_of(
        st.tuples(st.just("words"), st.integers(1, 9), st.tuples(st.integers(1, 10).map(lambda n: 16 * n))),
        st.tuples(
            st.just("seen"),
            st.integers(1, 5),
            st.tuples(st.integers(2, 6).map(lambda n: 4 * n), st.integers(1, 4).map(lambda n: 8 * n)),
        ),
        st.tuples(st.just("two"), st.integers(1, 5), st.tuples(st.integers(4, 64), st.integers(4, 64))),
    ),
    min_size=2,
    max_size=40,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(asked=ASKED, seed=st.integers(0, 2**20))
def test_each_of_many_clients_gets_the_answer_to_its_own_rows(client, asked, seed):
    given_rows = [
        (name, rows_of(name, num_rows, *sizes, seed=seed + place))
        for place, (name, num_rows, sizes) in enumerate(asked)
    ]
    with ThreadPoolExecutor(16) as clients:
        answers = list(
            clients.map(
                lambda one: answered(client, one[1][0], one[1][1], is_binary=one[0] % 2 == 0),
                enumerate(given_rows),
            )
        )
    for (name, rows), found in zip(given_rows, answers, strict=True):
        assert is_answer_to(name, rows, found)


def test_another_rows_answer_would_be_seen(client):
    """The negative control of the property above: rows of one size, answers swapped."""
    one, other = (rows_of("words", 2, 64, seed=seed) for seed in (1, 2))
    found = answered(client, "words", one, is_binary=True)
    assert is_answer_to("words", one, found)
    assert not is_answer_to("words", other, found)
    assert not is_answer_to("words", one, {"y": found["y"][::-1]})


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize(
    ("name", "sizes", "sentence"),
    [
        ("words", (33,), "'W' is 33, expected 16 to 160 in steps of 16"),
        ("words", (0,), "'W' is 0, expected 16 to 160 in steps of 16"),
        ("words", (176,), "Expected [-1, 3, 8, -1], got [1, 3, 8, 176]: 'W' is 176, expected 16 to 160"),
        ("seen", (8, 12), "'W' is 12, expected 8 to 32 in steps of 8"),
        ("two", (65, 4), "'H' is 65, expected 4 to 64"),
    ],
)
def test_a_size_out_of_its_range_is_one_sentence(client, name, sizes, sentence, is_binary):
    answer = post(client, name, rows_of(name, 1, *sizes), is_binary=is_binary)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_other_mistakes_are_one_sentence(client):
    unlike = {"x": rows_of("two", 1, 8, 8)["x"], "z": rows_of("two", 1, 8, 9)["z"]}
    answer = post(client, "two", unlike, is_binary=True)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "the inputs for model 'two' disagree on the size 'W': 8 and 9",
    )
    fixed = post(client, "words", {"x": np.zeros((1, 4, 8, 16), np.float32)}, is_binary=True)
    assert fixed.json()["error"].endswith("Expected [-1, 3, 8, -1], got [1, 4, 8, 16]")
    raw = client.post(
        "/v2/models/words/infer",
        content=bytes(3 * 8 * 16 * 4),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert (raw.status_code, "a raw request gives no shape" in raw.text) == (400, True)


def test_no_rows_many_rows_and_long_json(client):
    assert answered(client, "words", rows_of("words", 0, 32), is_binary=False)["y"].shape[0] == 0
    for is_binary in (True, False):  # this much JSON is read in a process of its own
        many = rows_of("words", 150, 96)
        assert is_answer_to("words", many, answered(client, "words", many, is_binary=is_binary))


def test_what_is_published_says_minus_one_and_its_example_works(client):
    metadata = client.get("/v2/models/words").json()
    assert metadata["inputs"][0]["shape"] == [-1, 3, 8, -1]
    assert metadata["outputs"][0]["shape"] == [-1, -1, 6]
    assert metadata["sizes"]["W"] == {"minimum": 16, "maximum": 160, "step": 16}
    assert client.get("/v2/models/words/config").json()["input"][0]["dims"] == [3, 8, -1]
    (first,) = [one for one in client.get("/models").json()["models"] if one["name"] == "seen"]
    assert first["served"]["inputs"][0]["smallest"] == [3, 8, 8]
    path = client.get("/openapi.json").json()["paths"]["/v2/models/{model}/infer"]
    example = path["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v2/models/seen/infer", json=example).status_code == 200


def test_a_picture_becomes_a_row_of_its_declared_size(client):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(buffer, "PNG")
    answer = client.post("/predict?model=seen", content=buffer.getvalue())
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["output"]["shape"] == [5, 12, 16]
    refused = client.post("/predict?model=words", content=buffer.getvalue())
    assert refused.json()["error"].startswith("model 'words' takes no pictures: ")


def test_every_size_there_is_costs_no_memory(client, server):
    chance = np.random.default_rng(0)
    sizes = [tuple(chance.integers(4, 65, 2)) for _ in range(SOME_SIZES)]
    for size in sizes[:50]:
        answered(client, "two", rows_of("two", 1, *size), is_binary=True)
    before = resident_mb(server)
    for size in sizes:
        answered(client, "two", rows_of("two", 1, *size), is_binary=True)
    assert resident_mb(server) < before + GROWTH_MB


def test_golden_rows_of_every_size_are_replayed_before_a_model_is_ready(models, tmp_path):
    rewritten(models / "words" / "1", tmp_path / "words" / "1", nudged)
    with serving(tmp_path) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.get("/v2/models/words/ready")
        assert answer.status_code == 503
        assert (
            " at W=80 (on CPU"
            in post(client, "words", rows_of("words", 1, 32), is_binary=True).json()["error"]
        )
