"""The block `int8` of a manifest, int8.onnx and int8.npz: opened, checked, left out where there is none."""

import hashlib
import json

import numpy as np
import pytest

from int8_kit import write_int8_bundle
from service.contract.bundle import int8_golden_bytes, open_bundle
from service.contract.int8 import Int8Accuracy
from service.contract.manifest import BundleError, Manifest
from tiny_nets import digits_net, nudged, write_bundle


def test_a_bundle_with_an_int8_graph_opens(tmp_path):
    bundle = open_bundle(write_int8_bundle(tmp_path / "1"))
    assert bundle.manifest.schema_version == 4
    assert bundle.manifest.int8 is not None
    assert bundle.int8 is not None
    assert bundle.int8.golden.inputs is bundle.golden.inputs
    assert bundle.int8.golden.outputs["logits"].dtype == np.float64
    assert bundle.int8.golden.num_rows == bundle.golden.num_rows


def test_every_byte_of_it_is_vouched_for(tmp_path):
    folder = write_int8_bundle(tmp_path / "1")
    for name in ("int8.onnx", "int8.npz"):
        right = (folder / name).read_bytes()
        (folder / name).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name}: sha-256 is"):
            open_bundle(folder)
        (folder / name).write_bytes(right)
    (folder / "int8.npz").unlink()
    with pytest.raises(BundleError, match=r"int8\.npz: No such file"):
        open_bundle(folder)


def test_a_manifest_without_it_is_written_as_before(tmp_path):
    document = json.loads((write_bundle(tmp_path / "1", digits_net()) / "manifest.json").read_text())
    sealed = Manifest.model_validate(document | {"schema_version": 3, "digest": "0" * 64}).sealed()
    assert b"int8" not in sealed
    assert Manifest.model_validate_json(sealed).int8 is None


def test_accuracy_is_paired():
    accuracy = Int8Accuracy(rows=200, both=180, only_float32=4, only_int8=1)
    assert (accuracy.float32, accuracy.int8) == (0.92, 0.905)
    assert accuracy.drop == pytest.approx(1.5)


def _without_npz(manifest):
    del manifest["files"]["int8.npz"]


def _older(manifest):
    manifest["schema_version"] = 3


def _loosened(manifest):
    manifest["int8"]["tolerances"]["logits"]["max_abs"] *= 2


def _unnamed(manifest):
    manifest["int8"]["sqnr_db"] = {}


def _silent(manifest):
    manifest["int8"] = None


def _unreasoned(manifest):
    manifest["int8"]["layers"][1]["reason"] = None


def _half_a_range(manifest):
    manifest["int8"]["layers"][0]["high"] = None


def _more_than_all(manifest):
    manifest["int8"]["accuracy"]["both"] = 98


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_without_npz, "files must give the digest of"),
        (_older, "int8 belongs to version 4"),
        (_loosened, "max_abs must follow from the measurements"),
        (_unnamed, "must name the outputs"),
        (_silent, "go together"),
        (_unreasoned, "what stays float says its reason"),
        (_half_a_range, "low, high and range_source go together"),
        (_more_than_all, "rows are 100"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_int8_bundle(tmp_path / "1", change=change)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"logits": np.zeros((40, 9), np.float32)}, "expected float32 of shape"),
        ({"logits": np.zeros((39, 10), np.float32)}, "must answer the 40 rows"),
        ({"logits": np.full((40, 10), np.nan, np.float32)}, "not finite"),
        ({"other": np.zeros((40, 10), np.float32)}, r"holds arrays \['output.other'\]"),
    ],
)
def test_golden_int8_answers_must_fit(tmp_path, arrays, sentence):
    folder = write_int8_bundle(tmp_path / "1")
    content = int8_golden_bytes(arrays)
    (folder / "int8.npz").write_bytes(content)
    document = json.loads((folder / "manifest.json").read_text())
    document["files"]["int8.npz"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_bytes(Manifest.model_validate_json(json.dumps(document)).sealed())
    with pytest.raises(BundleError, match=sentence):
        open_bundle(folder)


def test_another_graph_under_its_name_still_opens_and_is_for_the_replay_to_find(tmp_path):
    bundle = open_bundle(write_int8_bundle(tmp_path / "1", int8=nudged(digits_net())))
    assert bundle.int8 is not None
