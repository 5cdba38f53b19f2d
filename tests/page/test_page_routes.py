"""What the page reads: its files, the models with their proofs, reports, and what a picture became."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service_kit import ROOT, serving
from tiny_nets import digits_net, log_net, write_bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "models"
    write_bundle(folder / "digits" / "1", digits_net())
    write_bundle(folder / "log" / "1", log_net())
    return folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx.Client]:
    with serving(models) as server, httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def test_the_page_is_asked_again_only_when_it_changed(client: httpx.Client) -> None:
    page = client.get("/")
    again = client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text):
        file = client.get(path)
        assert (file.status_code, file.headers["x-content-type-options"]) == (200, "nosniff"), path
    assert "unsafe" not in page.headers["content-security-policy"]


def test_a_report_runs_no_script_and_only_a_listed_one_is_read(client: httpx.Client, models: Path) -> None:
    folder = models / "digits" / "1"
    (folder / "report.html").write_text("<title>told</title>")
    report = client.get("/models/digits/versions/1/report")
    assert (report.status_code, report.text) == (200, "<title>told</title>")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for path in ("digits/versions/2", "nope/versions/1", "..%2Fdigits/versions/1", "digits/versions/..%2F1"):
        refused = client.get(f"/models/{path}/report")
        assert (refused.status_code, list(refused.json())) == (404, ["error"]), path
    (folder / "report.html").unlink()
    assert client.get("/models/digits/versions/1/report").status_code == 404


def test_every_model_with_its_versions_and_proof(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    proof = models["digits"]["served"]["proof"]
    assert proof["golden_rows"] >= 32
    assert all(0 <= one["difference"] <= one["tolerance"] for one in proof["outputs"])
    assert models["digits"]["versions"][0]["state"] == "READY"
    assert models["log"]["served"]["no_pictures"] == "its manifest has no preprocessing"


def test_what_a_picture_became_is_drawn(client: httpx.Client) -> None:
    content = (ROOT / "docs/seven.png").read_bytes()
    plain = client.post("/predict?model=digits", content=content).json()["predictions"][0]
    drawn = client.post("/predict?model=digits&row=true", content=content).json()["predictions"][0]
    row = drawn.pop("row")
    assert drawn == plain
    pixels = Image.open(io.BytesIO(base64.b64decode(row["png"].partition(",")[2])))
    expected = Image.open(ROOT / "docs/seven.png").convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    assert (row["shape"], pixels.tobytes()) == ([1, 28, 28], expected.tobytes())
    two = {"files": [("file", content), ("file", content)]}
    for path, options in (("row=true", two), ("row=1", {"content": content})):
        assert client.post(f"/predict?model=digits&{path}", **options).status_code == 400
