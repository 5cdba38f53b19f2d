"""A store of models in a bucket, mirrored into a folder: whole and checked versions only.

In: a URL (s3://, gs://, az://, file://; http:// of a WebDAV server).
Out: `NAME/VERSION/` of each model's newest versions, in a folder.

    list → pull aside → open as the service does (each digest) → rename

A version that is uploaded in part, or by two writers at once, does not open: it is left where it is and tried
again the next time. Credentials and endpoints come from the environment, as each cloud's own tools name them.
"""

import logging
import shutil
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from service.contract.bundle import MANIFEST_FILE, open_bundle
from service.contract.files import aside
from service.contract.manifest import BundleError
from service.contract.signature import TrustedKeys
from service.contract.versions import find_versions, is_version

KEPT = 2  # newest versions of each model: one that does not prove leaves the one before it
SCHEMES = ("s3", "gs", "az", "file", "http", "https")
_CHUNK = 8 << 20
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
_log = logging.getLogger("foldserve")

Versions = dict[str, dict[str, dict[str, int]]]  # name → version → file → bytes


class StoreError(Exception):
    """A store that cannot be opened or read, in one sentence."""


class Store:
    """The store at `url`, mirrored into `folder`; blocks, so it belongs into a thread.

    Raises StoreError where the URL or the package that reads it is wrong; nothing is asked for yet.
    """

    def __init__(
        self, url: str, folder: Path, trusted: TrustedKeys | None = None, *, allow_unproved: bool = False
    ) -> None:
        self.url = url
        self.folder = folder
        self._trusted = trusted
        self._allow_unproved = allow_unproved
        self._seen: dict[str, list[str]] = {}
        self._warned: dict[tuple[str, str], str] = {}
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise StoreError(f"a store is one of {', '.join(SCHEMES)}, got '{scheme}://'")
        try:
            from obstore.store import from_url
        except ModuleNotFoundError:
            raise StoreError(f"{url} needs the package obstore: pip install 'foldserve[store]'") from None
        self._prefix = ""
        more: dict[str, Any] = {} if scheme == "file" else {"retry_config": _RETRIES}
        if scheme in ("http", "https"):
            url, self._prefix, more["client_options"] = _of_webdav(url)
            self.url = f"{url}/{self._prefix}".rstrip("/")
        try:
            self._store: Any = from_url(url, **more)
        except Exception as error:
            raise StoreError(f"{self.url} cannot be opened: {_sentence(error)}") from None

    def pull(self) -> list[str]:
        """Bring the newest versions; the names of the models whose versions are others than the last time.

        Raises StoreError if the store cannot be read; the folder then stays as it is.
        """
        changed = []
        held = self._listed()
        for name in sorted(held):
            versions = sorted(held[name], key=int, reverse=True)[:KEPT]
            for version in versions:
                self._pull(name, version, held[name][version])
            # Seen by this process: another worker may have pulled a version, and this one has to load it too.
            here = self._here(name, versions)
            if here and here != self._seen.get(name):
                changed.append(name)
            self._seen[name] = here
        return changed

    def _listed(self) -> Versions:
        """The files of each version that has a manifest."""
        import obstore

        held: Versions = defaultdict(lambda: defaultdict(dict))
        try:
            for batch in obstore.list(self._store, prefix=self._prefix or None):
                for entry in batch:
                    match entry["path"].removeprefix(f"{self._prefix}/").split("/"):
                        case [name, version, file] if is_version(version):
                            if not name.startswith(".") and not file.startswith("."):
                                held[name][version][file] = entry["size"]
        except Exception as error:
            raise StoreError(f"the store {self.url} cannot be read: {_sentence(error)}") from None
        return {
            name: {version: files for version, files in versions.items() if MANIFEST_FILE in files}
            for name, versions in held.items()
        }

    def _pull(self, name: str, version: str, files: dict[str, int]) -> None:
        """Bring one version; one that is there already is never pulled again."""
        target = self.folder / name / version
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside(target, is_shared=True) as place:
                place.mkdir()
                for file, num_bytes in files.items():
                    self._download(f"{name}/{version}/{file}", place / file, num_bytes)
                open_bundle(place, self._trusted, allow_unproved=self._allow_unproved)
                if not target.exists():  # another worker may have been faster
                    place.rename(target)
        except (BundleError, StoreError, OSError) as error:
            self._warn(name, version, str(error))
            return
        _log.info("event=pulled model=%s version=%s store=%s", name, version, self.url)

    def _download(self, path: str, file: Path, num_bytes: int) -> None:
        import obstore

        written = 0
        try:
            with file.open("wb") as out:
                for chunk in obstore.get(self._store, f"{self._prefix}/{path}".lstrip("/")).stream(
                    min_chunk_size=_CHUNK
                ):
                    written += out.write(chunk)
        except OSError:
            raise
        except Exception as error:
            raise StoreError(f"{path} cannot be read: {_sentence(error)}") from None
        if written != num_bytes:
            raise StoreError(f"{path} has {written} bytes, the store listed {num_bytes}")

    def _here(self, name: str, wanted: list[str]) -> list[str]:
        """The versions in the folder, once those are removed that are old, or have gone from the store.

        If none of the wanted ones could be pulled, the older ones stay: they may be all that there is.
        """
        folder = self.folder / name
        here = find_versions(folder) if folder.is_dir() else []
        kept = [version for version in here if version in wanted]
        if kept:
            for version in set(here) - set(kept):
                shutil.rmtree(folder / version, ignore_errors=True)
        return kept or here

    def _warn(self, name: str, version: str, reason: str) -> None:
        """Say it once, and not at each poll."""
        if self._warned.get((name, version)) != reason:
            self._warned[name, version] = reason
            _log.error("event=not_pulled model=%s version=%s reason=%r", name, version, reason)


def _of_webdav(url: str) -> tuple[str, str, dict[str, Any]]:
    """The server, a path on it, and the client's options: WebDAV lists paths from the server's root.

    A user and password are sent as a header, so that no log and no answer shows them.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = {"allow_http": True}
    login, _, host = parts.netloc.rpartition("@")
    if login:
        words = b64encode(unquote(login).encode()).decode()
        options["default_headers"] = {"authorization": f"Basic {words}"}
    return f"{parts.scheme}://{host}", parts.path.strip("/"), options


def _sentence(error: Exception) -> str:
    """The first line of what the library says; the rest is its own account of itself."""
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]
