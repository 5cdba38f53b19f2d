"""Download a file once and whole: a broken connection loses nothing, and the digest decides.

In: addresses of the same file, where it goes, its SHA-256.  Out: the file at its place, or a DataError.

    .FILE.partial     grows; the next try, or the next run, asks for the rest with `Range: bytes=N-`
    FILE              renamed from it when its digest is right

Where data sets are on this machine, and where what was made of them is kept:

    TRAINING_DATA     a folder of data sets: searched first, and downloaded into
    TRAINING_CACHE    downloads, if that is not set, and decoded pictures (default ~/.cache/foldserve)
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from service.contract.files import sync
from training.console import show_progress
from training.errors import DataError
from training.files import OutputError

TIMEOUT_S = 30
BLOCK = 1 << 18


class _TornError(Exception):
    """The connection broke, or the server did not send the rest: retry with what is there."""


def download(urls: Sequence[str], path: Path, sha256: str) -> None:
    """Fetch `path` from the first of `urls` that has it; several processes may ask at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _fetch_from_any(urls, path, sha256)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _fetch_from_any(urls: Sequence[str], path: Path, sha256: str) -> None:
    partial, failures = path.with_name(f".{path.name}.partial"), []
    for url in urls:
        try:
            _fetch(url, partial, sha256)
        except DataError as error:
            failures.append(f"{url}: {error}")
        else:
            sync(partial)
            partial.replace(path)
            return
    raise DataError("; ".join(failures))


def _fetch(url: str, partial: Path, sha256: str) -> None:
    """Fill `partial` until it is whole; a try that brings nothing new is the last one."""
    began_with = have = _size(partial)
    while True:
        try:
            _fetch_rest(url, partial)
        except _TornError as error:
            if _size(partial) <= have:
                raise DataError(str(error)) from None
            have = _size(partial)
            continue
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == sha256:
            return
        partial.unlink()
        if not began_with:
            raise DataError(f"its SHA-256 is {found}, it should be {sha256}")
        began_with = have = 0  # perhaps the old part was of another file: retry once, from the start


def _fetch_rest(url: str, partial: Path) -> None:
    """Append what `partial` lacks, or all of it where the server knows no ranges."""
    have = _size(partial)
    headers = {"User-Agent": "foldserve", "Range": f"bytes={have}-"} if have else {"User-Agent": "foldserve"}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # the server says that nothing is missing: the digest decides
        raise DataError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise _TornError(f"asked for bytes from {have} on, got {answer.headers.get('Content-Range')}")
        first = have if resumed else 0
        missing = answer.headers.get("Content-Length")
        total = first + int(missing) if missing else None
        with (
            partial.open("ab" if resumed else "wb") as file,
            show_progress(f"downloading {url}", total, done=first, in_bytes=True) as advance,
        ):
            while block := _read(answer):
                file.write(block)
                advance(len(block))
    if total is not None and _size(partial) < total:
        raise _TornError(f"the connection broke after {_size(partial)} of {total} bytes")


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; none where the connection broke or timed out, which the size shows."""
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException):
        return b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def find_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for what can be made again."""
    if given := environment.get("TRAINING_CACHE"):
        return Path(given).expanduser()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foldserve"


def find_downloads(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that downloads go to, one folder in it for each data set."""
    given = environment.get("TRAINING_DATA")
    return Path(given).expanduser() if given else find_cache(environment) / "data"


def list_places(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Folders that may hold data sets, in the order in which they are searched.

    Ours; where torchvision's tutorials and npm put them in a project; Keras' cache; Debian's packages.
    """
    return [
        find_downloads(environment),
        Path("data"),
        Path("node_modules"),
        Path.home() / ".keras" / "datasets",
        Path("/usr/share/datasets"),
    ]
