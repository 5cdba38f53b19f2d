"""Signed bundles: only what a trusted key signed is opened; openssl makes and checks the same bytes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from export.__main__ import main
from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError
from service.contract.signature import SIGNATURE_FILE, KeyFileError, read_trusted_keys, sign
from tiny_nets import digits_net, write_bundle


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_keys(folder: Path, name: str, algorithm: str = "ed25519") -> tuple[Path, Path]:
    """A private and a public key."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    openssl("genpkey", "-algorithm", algorithm, "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "1", digits_net())
    return tmp_path / "1"


def sign_bundle(bundle: Path, private: Path) -> None:
    (bundle / SIGNATURE_FILE).write_bytes(sign((bundle / "manifest.json").read_bytes(), private))


def test_a_signed_bundle_is_opened_and_an_unsigned_one_refused(tmp_path: Path, bundle: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    with pytest.raises(BundleError, match=r"manifest\.json\.sig: there is none"):
        open_bundle(bundle, read_trusted_keys(public))
    sign_bundle(bundle, private)
    open_bundle(bundle, read_trusted_keys(public))
    open_bundle(bundle)  # without keys nothing changes


def test_the_command_signs_what_is_whole(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_keys(tmp_path, "ours")
    assert main(["sign", str(bundle), "--key", str(private)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == open_bundle(bundle, read_trusted_keys(public)).digest
    assert main(["sign", str(bundle), "--key", str(public)]) == 2
    assert "expected one unencrypted private key" in capsys.readouterr().err
    (bundle / "model.onnx").write_bytes(b"changed")
    (bundle / SIGNATURE_FILE).unlink()
    assert main(["sign", str(bundle), "--key", str(private)]) == 2
    assert "model.onnx: sha-256 is" in capsys.readouterr().err
    assert not (bundle / SIGNATURE_FILE).exists()


def test_a_changed_manifest_or_signature_is_refused(tmp_path: Path, bundle: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    trusted = read_trusted_keys(public)
    sign_bundle(bundle, private)
    text, signature = (bundle / "manifest.json").read_bytes(), (bundle / SIGNATURE_FILE).read_bytes()
    for changed_text, changed_signature in (
        (text + b" ", signature),
        (text, signature[:-1] + bytes([signature[-1] ^ 1])),
        (text, b""),
        (text, signature + b"\0"),
    ):
        (bundle / "manifest.json").write_bytes(changed_text)
        (bundle / SIGNATURE_FILE).write_bytes(changed_signature)
        with pytest.raises(BundleError, match="none of 1 trusted keys has signed"):
            open_bundle(bundle, trusted)


def test_another_key_is_refused_and_a_file_may_hold_several(tmp_path: Path, bundle: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    _, other = make_keys(tmp_path, "theirs")
    sign_bundle(bundle, private)
    with pytest.raises(BundleError, match="none of 1 trusted keys"):
        open_bundle(bundle, read_trusted_keys(other))
    both = tmp_path / "both.pub"
    both.write_bytes(other.read_bytes() + b"# the new one\n" + public.read_bytes())
    open_bundle(bundle, read_trusted_keys(both))


def test_openssl_makes_and_checks_the_same_bytes(tmp_path: Path, bundle: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    manifest, signature = bundle / "manifest.json", bundle / SIGNATURE_FILE
    openssl("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", manifest, "-out", signature)
    assert signature.read_bytes() == sign(manifest.read_bytes(), private)
    openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", manifest, "-sigfile", signature
    )


def test_key_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "curve", "x25519")
    with pytest.raises(KeyFileError, match="expected an Ed25519 key, got another kind"):
        read_trusted_keys(public)
    with pytest.raises(KeyFileError, match="expected an Ed25519 key"):
        sign(b"{}", private)
    with pytest.raises(KeyFileError, match="No such file"):
        read_trusted_keys(tmp_path / "none")
    with pytest.raises(KeyFileError, match="holds no public key"):
        read_trusted_keys(private)
    with pytest.raises(KeyFileError, match="expected one unencrypted private key in PEM, found 0"):
        sign(b"{}", public)


def test_a_pipe_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: not a regular file"):
        open_bundle(bundle)


@pytest.mark.parametrize(("name", "size"), [("manifest.json", 64 << 20), ("model.onnx", 2 << 30)])
def test_a_file_that_would_fill_the_memory_is_not_read(bundle: Path, name: str, size: int) -> None:
    os.truncate(bundle / name, size + 1)  # a sparse one
    with pytest.raises(BundleError, match=f"{name}: has {size + 1} bytes, at most {size} are read"):
        open_bundle(bundle)
