"""Golden pictures: measured at export, replayed at load and by verify, refused when they differ."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.proof.pictures import golden_pictures, plain_row
from export_kit import assert_refused, run_here
from picture_kit import FLAGS, save_net
from service.contract import golden_pictures as contract
from service.contract.bundle import open_bundle, sha256
from service.contract.framing import Resize
from service.contract.golden_pictures import measure_pictures, pictures_bytes, row_of
from service.contract.manifest import BundleError
from service.contract.picture_support import picture_facts
from service.contract.pictures import read_image
from service.contract.preprocessing import Preprocessing
from service.engine.engine import EngineConfig
from service.models.repository import Refused, load_version


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    done = run_here("bundle", save_net(folder), "--to", folder / "models" / "net", *FLAGS)
    assert done.returncode == 0, done.stderr
    return folder / "models" / "net" / "1"


def rows_of(opened) -> np.ndarray:
    return next(iter(opened.golden.inputs.values()))


def test_every_kind_of_picture_is_there_and_equal(bundle):
    opened = open_bundle(bundle)
    assert opened.manifest.schema_version == 3
    assert set(opened.pictures) >= {
        "landscape",
        "cmyk",
        "16-bit",
        "webp",
        "progressive",
        "1-pixel-high",
        "exif-8",
    }
    assert len(opened.pictures) >= 12
    differences = measure_pictures(opened.manifest, opened.pictures, rows_of(opened))
    assert max(differences.values()) < 1e-4, differences
    report = (bundle / "report.html").read_text()
    assert report.count('<img src="data:image/png;base64,') == 2 * len(opened.pictures)


def test_verify_prints_the_differences(bundle):
    facts = json.loads(run_here("verify", bundle).stdout)
    assert facts["proved"]
    assert "step by step in Pillow" in facts["pictures"]["pipeline"]
    assert len(facts["pictures"]["differences"]) == len(open_bundle(bundle).pictures)


def test_show_tells_what_clients_ask(bundle):
    facts = json.loads(run_here("show", bundle).stdout)
    assert facts["preprocessing"]["resize"]["size"] == [14]
    assert facts["postprocessing"] == {"task": "classification", "activation": "softmax", "threshold": 0.5}
    assert facts["ranges"]["x"]["layout"] == "NCHW"
    manifest = open_bundle(bundle).manifest
    assert facts["labels"] == manifest.labels
    assert picture_facts(manifest.model_copy(update={"labels": ["a", "b"]}))["labels"] == ["a", "b"]
    assert_refused(run_here("show", bundle / "no"), "No such file or directory")


def altered(bundle: Path, to: Path, change) -> Path:
    """A copy whose manifest and pictures `change(manifest, pictures)` changed, with digests that fit."""
    shutil.copytree(bundle, to)
    opened = open_bundle(bundle)
    pictures = dict(opened.pictures)
    manifest = change(opened.manifest, pictures)
    (to / "pictures.npz").write_bytes(pictures_bytes(pictures))
    files = {**manifest.files, "pictures.npz": sha256((to / "pictures.npz").read_bytes())}
    (to / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).sealed())
    return to


def other_interpolation(manifest, pictures):
    how = manifest.preprocessing
    resize = Resize(mode="shorter", size=(14,), interpolation="nearest")
    return manifest.model_copy(update={"preprocessing": how.model_copy(update={"resize": resize})})


def other_picture(manifest, pictures):
    pictures["landscape"] = pictures["portrait"]
    return manifest


def flipped_byte(manifest, pictures):
    content = bytearray(pictures["larger"])  # a JPEG: what follows in the scan is another picture
    content[len(content) // 2] ^= 0xFF
    pictures["larger"] = bytes(content)
    return manifest


def torn_picture(manifest, pictures):
    pictures["webp"] = pictures["webp"][:60]
    return manifest


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_interpolation, "becomes a row that differs from its golden row by .* of 255 levels"),
        (other_picture, "golden picture 'landscape' becomes a row that differs"),
        (flipped_byte, "golden picture 'larger' becomes a row that differs"),
        (torn_picture, "golden picture 'webp' cannot be decoded"),
    ],
)
def test_what_decodes_otherwise_is_refused_at_load_and_by_verify(bundle, tmp_path, change, sentence):
    opened = open_bundle(altered(bundle, tmp_path / "models" / "net" / "1", change))
    with pytest.raises(BundleError, match=sentence):
        measure_pictures(opened.manifest, opened.pictures, rows_of(opened))
    done = run_here("verify", tmp_path / "models" / "net" / "1")
    assert done.returncode == 1
    assert not json.loads(done.stdout)["proved"]
    refused = load_version(tmp_path / "models/net/1", "net", "1", EngineConfig(device="cpu"))
    assert isinstance(refused, Refused)
    assert re.search(sentence, refused.reason)


def test_a_flipped_byte_is_found_by_its_digest(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "1")
    content = bytearray((tmp_path / "1" / "pictures.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "1" / "pictures.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"pictures\.npz: sha-256 is"):
        open_bundle(tmp_path / "1")


def test_another_decoder_is_refused(bundle, monkeypatch):
    opened = open_bundle(bundle)
    ours = contract.row_of

    def brighter(content, preprocessing, dtype):
        return ours(content, preprocessing, dtype) + np.float32(2 / 255 / 0.1)

    monkeypatch.setattr(contract, "row_of", brighter)
    with pytest.raises(BundleError, match="another decoder, or another preprocessing than"):
        measure_pictures(opened.manifest, opened.pictures, rows_of(opened))
    refused = load_version(bundle, "net", "1", EngineConfig(device="cpu"))
    assert isinstance(refused, Refused)
    assert "another decoder" in refused.reason


def squashed(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR), np.float32)
    return ((pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]).transpose(2, 0, 1)


def right(image: Image.Image) -> np.ndarray:
    width, height = image.size
    short = min(width, height)
    sized = image.resize((int(14 * width / short), int(14 * height / short)), Image.Resampling.BILINEAR)
    left, top = round((sized.width - 12) / 2), round((sized.height - 12) / 2)
    pixels = np.asarray(sized.crop((left, top, left + 12, top + 12)), np.float32)
    return ((pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]).transpose(2, 0, 1)


def broken(image: Image.Image) -> np.ndarray:
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("right", None),
        (
            "squashed",
            "is not test_golden_pictures:squashed: picture 'landscape' differs by",
        ),
        ("broken", "test_golden_pictures:broken raised KeyError"),
        ("golden_pictures_none", "expected module:callable"),
        ("FLAGS", "FLAGS is not callable"),
    ],
)
def test_a_pipeline_of_the_users_is_compared_and_not_shipped(tmp_path, monkeypatch, name, sentence):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    done = run_here(
        "bundle", save_net(tmp_path), "--to", tmp_path / "m" / "n", *FLAGS,
        "--compare-with", f"test_golden_pictures:{name}",
    )  # fmt: skip
    if sentence is not None:
        assert_refused(done, sentence)
        assert not (tmp_path / "m" / "n").exists()
        return
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(tmp_path / "m" / "n" / "1").manifest
    assert manifest.golden_pictures.pipeline == "test_golden_pictures:right"


@pytest.mark.parametrize(
    "how",
    [
        {"resize": Resize(mode="longest", size=(30,), antialias=False), "fill": (114,)},
        {"resize": Resize(mode="longest", size=(40, 30), interpolation="bicubic", antialias=False)},
        {"resize": Resize(mode="shorter", size=(33, 30), interpolation="lanczos")},
        {"resize": Resize(mode="exact", size=(20, 50), interpolation="nearest"), "layout": "NHWC"},
        {"mode": "BGR", "scale": 1.0, "fill": (1, 2, 3), "resize": Resize(mode="longest", size=(25,))},
        {"mode": "L", "mean": [0.1], "std": [0.3]},
    ],
)
def test_the_one_implementation_is_the_plain_steps(how):
    declared = {
        "mode": "RGB",
        "height": 30,
        "width": 30,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        **how,
    }
    preprocessing = Preprocessing(**declared)
    for name, content in golden_pictures(30, 30).items():
        image = read_image(content, preprocessing.target(10**7))
        rows = np.stack([row_of(content, preprocessing, "float32"), plain_row(image, preprocessing)])
        ours, plain = preprocessing.levels(rows)
        assert np.abs(ours - plain).max() < 1.001, name
