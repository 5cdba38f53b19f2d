"""Signed bundles: a signature over the manifest, which holds the digest of everything else.

In: a manifest's bytes and a key.  Out: the content of manifest.json.sig, or a BundleError.

    openssl genpkey -algorithm ed25519 -out key.pem        keeps signing; stays with those who release models
    openssl pkey -in key.pem -pubout -out key.pub          goes to every server

The signature is Ed25519 (RFC 8032) over the manifest's bytes, 64 bytes raw, as `openssl pkeyutl -rawin` makes
and checks it too.  A file of public keys may hold several, for a time in which one replaces another.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.contract.manifest import BundleError

SIGNATURE_FILE = "manifest.json.sig"

# RFC 8410: what stands in DER before the 32 bytes of an Ed25519 key, public and private.
_PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PRIVATE_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s*(.*?)\s*-----END \1-----", re.DOTALL)


class KeyFileError(Exception):
    """A key file that is missing, of another kind, or that nothing here can read; one sentence."""


class TrustedKeys:
    """The public keys of those whose bundles may be served; each is 32 bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        signing = _library()
        self._keys = [signing.VerifyKey(key) for key in keys]

    def check(self, manifest: bytes, signature: bytes | None) -> None:
        """Raise BundleError unless one of the keys has signed exactly these bytes; None: no signature."""
        from nacl.exceptions import CryptoError

        if signature is None:
            raise BundleError(f"{SIGNATURE_FILE}: there is none, and only signed bundles are served")
        for key in self._keys:
            try:
                key.verify(manifest, signature)
            except (CryptoError, ValueError):  # ValueError: not of a signature's length
                continue
            return
        raise BundleError(
            f"{SIGNATURE_FILE}: none of {len(self._keys)} trusted keys has signed this manifest"
        )


def read_trusted_keys(path: Path) -> TrustedKeys:
    """The public keys of a PEM file; raises KeyFileError."""
    keys = _keys_in(path, b"PUBLIC KEY", _PUBLIC_PREFIX)
    if not keys:
        raise KeyFileError(f"{path}: holds no public key in PEM (openssl pkey -in key.pem -pubout)")
    return TrustedKeys(keys)


def sign(manifest: bytes, key_file: Path) -> bytes:
    """The signature of a manifest's bytes by the private key of a PEM file; raises KeyFileError."""
    keys = _keys_in(key_file, b"PRIVATE KEY", _PRIVATE_PREFIX)
    if len(keys) != 1:
        raise KeyFileError(f"{key_file}: expected one unencrypted private key in PEM, found {len(keys)}")
    signature: bytes = _library().SigningKey(keys[0]).sign(manifest).signature
    return signature


def _keys_in(path: Path, kind: bytes, prefix: bytes) -> list[bytes]:
    """The 32 bytes of each key of a kind in a PEM file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from None
    keys = []
    for found, text in _BLOCK.findall(content):
        if found != kind:
            continue
        try:
            der = base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error as error:
            raise KeyFileError(f"{path}: not a key in PEM: {error}") from None
        if not der.startswith(prefix) or len(der) != len(prefix) + 32:
            raise KeyFileError(f"{path}: expected an Ed25519 key, got another kind")
        keys.append(der.removeprefix(prefix))
    return keys


def _library() -> Any:
    """PyNaCl's signatures, imported only where bundles are signed or checked."""
    try:
        from nacl import signing
    except ImportError:
        raise KeyFileError("signatures need the package PyNaCl: pip install 'foldserve[signing]'") from None
    return signing
