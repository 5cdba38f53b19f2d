"""A manifest's own digest: no bit of it can change unnoticed, and manifests from before it still open."""

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError, Manifest, parse_manifest
from tiny_nets import digits_net, write_bundle


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sealed manifest with labels and preprocessing."""
    folder = tmp_path_factory.mktemp("bundle") / "1"
    write_bundle(folder, digits_net())
    document = json.loads((folder / "manifest.json").read_text()) | {
        "schema_version": 2,
        "digest": "0" * 64,
        "labels": [f"digit {index}" for index in range(10)],
        "preprocessing": {"mode": "L", "height": 28, "width": 28, "mean": [0.13], "std": [0.31]},
    }
    return Manifest.model_validate(document).sealed()


def test_it_reads_what_was_sealed(text: bytes) -> None:
    manifest = parse_manifest(text, "manifest.json")
    assert manifest.digest == hashlib.sha256(re.sub(rb"(?<=digest\": \")\w{64}", b"0" * 64, text)).hexdigest()
    assert manifest.sealed() == text


@given(st.data())
def test_no_bit_can_change(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    changed = bytearray(text)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BundleError):
        parse_manifest(bytes(changed), "manifest.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"digit 3", b"digit 4", "manifest.json: its sha-256 is"),
        (b"0.13", b"0.12", "manifest.json: its sha-256 is"),
        (b'"schema_version": 2', b'"schema_version": 1', "digest belongs to version 2"),
        (b'"digest"', b'"digesu"', "digesu: Extra inputs"),
    ],
)
def test_what_changed_is_refused_in_one_sentence(text: bytes, old: bytes, new: bytes, message: str) -> None:
    assert old in text
    with pytest.raises(BundleError, match=message):
        parse_manifest(text.replace(old, new, 1), "manifest.json")


def test_a_manifest_of_version_1_still_opens(tmp_path) -> None:
    write_bundle(tmp_path / "1", digits_net())
    assert open_bundle(tmp_path / "1").manifest.schema_version == 1
