"""One flipped bit in any byte of any file of a bundle: the bundle is refused, so nothing else is served.

`FOLDSERVE_FLIP_EVERY=1 FOLDSERVE_FLIP_BUNDLE=models/digits/1 pytest tests/contract/test_flips.py` flips one
bit of every byte of every file of a bundle of yours, and every bit of its manifest; here it is a sample.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError, Manifest
from tiny_nets import digits_net, write_bundle

EVERY = int(os.environ.get("FOLDSERVE_FLIP_EVERY", "0"))  # 0: about SAMPLE of a file
GIVEN = os.environ.get("FOLDSERVE_FLIP_BUNDLE")
SAMPLE = 200


def sealed(folder: Path) -> Path:
    """A small bundle with labels, preprocessing and a report, under a manifest that holds its own digest."""
    report = b"<!doctype html><title>digits</title>"

    def complete(manifest: dict[str, Any]) -> None:
        manifest["files"]["report.html"] = hashlib.sha256(report).hexdigest()
        manifest |= {"schema_version": 2, "digest": "0" * 64}

    write_bundle(folder, digits_net(), change=complete)
    (folder / "report.html").write_bytes(report)
    manifest = folder / "manifest.json"
    manifest.write_bytes(Manifest.model_validate(json.loads(manifest.read_text())).sealed())
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("flips") / "1"
    if GIVEN is None:
        return sealed(copy)
    shutil.copytree(GIVEN, copy)
    return copy


def flips(path: Path) -> Iterator[int]:
    """Positions of bits: every bit of a small manifest that is asked for whole, else one of each byte."""
    size = path.stat().st_size
    every = EVERY or max(1, size // SAMPLE)
    if path.name == "manifest.json" and EVERY:
        yield from range(0, 8 * size, every)
    else:
        yield from (8 * at + at // every % 8 for at in range(0, size, every))


def survivors(bundle: Path, name: str) -> list[int]:
    """The flipped bits of a file after which the bundle still opens."""
    path = bundle / name
    content = path.read_bytes()
    found = []
    with path.open("r+b", buffering=0) as file:
        for bit in flips(path):
            file.seek(bit // 8)
            file.write(bytes([content[bit // 8] ^ 1 << bit % 8]))
            try:
                open_bundle(bundle)
                found.append(bit)
            except BundleError:
                pass
            file.seek(bit // 8)
            file.write(content[bit // 8 : bit // 8 + 1])
    assert path.read_bytes() == content
    return found


def test_every_file_is_under_a_digest(bundle: Path) -> None:
    """Nothing that is served is read from a file that the manifest does not name."""
    files = {path.name for path in bundle.iterdir()}
    assert files - {"manifest.json", "manifest.json.sig"} == set(open_bundle(bundle).manifest.files)


@pytest.mark.timeout(0)
def test_no_flip_of_any_file_is_served(bundle: Path) -> None:
    open_bundle(bundle)
    names = ["manifest.json", *open_bundle(bundle).manifest.files]
    assert {name: survivors(bundle, name) for name in names} == {name: [] for name in names}


def test_without_a_digest_a_flipped_label_would_be_served(tmp_path: Path) -> None:
    """The negative control: a manifest of version 1 has none."""
    old = write_bundle(tmp_path / "1", digits_net())
    assert survivors(old, "manifest.json")
    assert not survivors(old, "model.onnx")
