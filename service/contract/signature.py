"""Signed bundles: a signature over the manifest, which holds the digest of everything else.

In: a manifest's bytes and a key.  Out: the content of manifest.json.sig, or a BundleError.

    openssl genpkey -algorithm ed25519 -out key.pem        keeps signing; stays with those who release models
    openssl pkey -in key.pem -pubout -out key.pub          goes to every server

The signature is Ed25519 (RFC 8032) over the manifest's bytes, 64 bytes raw, as `openssl pkeyutl -rawin` makes
and checks it too.  A file of public keys may hold several, for a time in which one replaces another.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.contract.manifest import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_FILE = "manifest.json.sig"
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\s*", re.DOTALL)


class KeyFileError(Exception):
    """A key file that is missing, of another kind, or that nothing here can read; one sentence."""


class TrustedKeys:
    """The public keys of those whose bundles may be served."""

    def __init__(self, keys: "Sequence[Ed25519PublicKey]") -> None:
        self._keys = keys

    def check(self, manifest: bytes, signature: bytes | None) -> None:
        """Raise BundleError unless one of the keys has signed exactly these bytes; None: no signature."""
        from cryptography.exceptions import InvalidSignature

        if signature is None:
            raise BundleError(f"{SIGNATURE_FILE}: there is none, and only signed bundles are served")
        for key in self._keys:
            try:
                key.verify(signature, manifest)
            except InvalidSignature:
                continue
            return
        raise BundleError(
            f"{SIGNATURE_FILE}: none of {len(self._keys)} trusted keys has signed this manifest"
        )


def read_trusted_keys(path: Path) -> TrustedKeys:
    """The public keys of a PEM file; raises KeyFileError."""
    serialization, ed25519 = _library()
    keys = []
    for block in _PUBLIC.findall(_read(path)):
        try:
            key = serialization.load_pem_public_key(block)
        except ValueError as error:
            raise KeyFileError(f"{path}: not a public key: {error}") from None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise KeyFileError(f"{path}: expected Ed25519 keys, got {type(key).__name__}")
        keys.append(key)
    if not keys:
        raise KeyFileError(f"{path}: holds no public key in PEM (openssl pkey -in key.pem -pubout)")
    return TrustedKeys(keys)


def sign(manifest: bytes, key_file: Path) -> bytes:
    """The signature of a manifest's bytes by the private key of a PEM file; raises KeyFileError."""
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(_read(key_file), password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{key_file}: not an unencrypted private key in PEM: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{key_file}: expected an Ed25519 key, got {type(key).__name__}")
    signature: bytes = key.sign(manifest)
    return signature


def _library() -> tuple[Any, Any]:
    """The parts of `cryptography` that are needed, imported only where bundles are signed or checked."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise KeyFileError(
            "signatures need the package cryptography: pip install 'foldserve[signing]'"
        ) from None
    return serialization, ed25519


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from None
