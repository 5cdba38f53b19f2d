"""API keys: which scopes a request has, by the key that it carries.

In: a file of key digests, a request's header.  Out: the scopes, or Unauthorized 401 or Forbidden 403.

    # NAME  SCOPES  sha256(KEY) in hex
    shop    infer           9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    ops     admin,metrics   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

    Authorization: Bearer KEY    or    X-API-Key: KEY

Keys are random (`new_key`, 256 bits), so a plain digest keeps them as safe as a slow one would: nothing can
be guessed.  A digest is looked up by hash and then compared in constant time, so that the time of a refusal
says nothing of any key.  Health routes never need a key.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from service.errors import Forbidden, Unauthorized

Scope = Literal["infer", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scopes>[a-z]+(?:,[a-z]+)*)\s+(?P<digest>[0-9a-f]{64})")


class KeyListError(Exception):
    """A file of API keys that cannot be used; one sentence."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One entry of the file: a name for logs and rates, what it allows, the digest of the secret."""

    name: str
    scopes: frozenset[str]
    digest: bytes


class ApiKeys:
    """The keys of one server; without any, everything but `admin` is open."""

    def __init__(self, keys: tuple[ApiKey, ...] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}

    def __bool__(self) -> bool:
        return bool(self._by_digest)

    def check(self, secret: bytes | None, scope: Scope) -> ApiKey | None:
        """The key of a request that may do what `scope` names; None where no keys are configured."""
        if not self._by_digest:
            return None
        if secret is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        digest = hashlib.sha256(secret).digest()
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise Unauthorized("the API key is not known here")
        if scope not in key.scopes:
            raise Forbidden(f"the API key '{key.name}' does not have the scope '{scope}'")
        return key


def secret_of(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """The secret in a request's `Authorization` or `X-API-Key` header; None if it carries none."""
    if api_key is not None:
        return api_key.strip()
    if authorization is not None:
        scheme, _, secret = authorization.strip().partition(b" ")
        if scheme.lower() == b"bearer" and secret.strip():
            return secret.strip()
    return None


def new_key(name: str, scopes: str) -> tuple[str, str]:
    """A new secret, and the line for the file that stands for it."""
    secret = secrets.token_urlsafe(32)
    line = f"{name}  {scopes}  {hashlib.sha256(secret.encode()).hexdigest()}"
    _parse(line, "the new key")
    return secret, line


def read_keys(path: Path) -> ApiKeys:
    """The keys of a file; raises KeyListError with the file's name and the line's number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise KeyListError(f"{path}: {reason}") from None
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            keys.append(_parse(line, f"{path}, line {number}"))
    if not keys:
        raise KeyListError(f"{path}: holds no keys, so every request would be refused")
    for what in ("name", "digest"):
        if len({getattr(key, what) for key in keys}) < len(keys):
            raise KeyListError(f"{path}: the same {what} stands there twice")
    return ApiKeys(tuple(keys))


def _parse(line: str, where: str) -> ApiKey:
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise KeyListError(f"{where}: expected NAME SCOPES SHA256, got {len(line.split())} words")
    scopes = frozenset(found["scopes"].split(","))
    if unknown := sorted(scopes - set(SCOPES)):
        raise KeyListError(f"{where}: unknown scope '{unknown[0]}', expected {', '.join(SCOPES)}")
    return ApiKey(found["name"], scopes, bytes.fromhex(found["digest"]))
