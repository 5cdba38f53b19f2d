"""Published data sets: files that are the same everywhere, found on this machine or downloaded.

In: what a set consists of.  Out: the content of each of its files, or a DataError in one sentence.

A copy counts wherever it lies and however it is packed (plain, .gz, .tar.gz, Keras' .npz): the content of
each file must have the published SHA-256. Pickles are never opened.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.arrays import DAMAGED
from training.data.sets.download import download, find_downloads, list_places
from training.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Published:
    """`contents` and `downloads` map file names to SHA-256, of what is inside and of what is downloaded."""

    name: str
    contents: Mapping[str, str]
    downloads: Mapping[str, str]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    install: str = ""
    keras: str = ""
    pickles: tuple[str, ...] = ()


def read_contents(published: Published, places: Sequence[Path] | None = None) -> dict[str, bytes]:
    """The content of every file, from the first whole copy; downloads one if there is none."""
    places = list_places() if places is None else places
    contents, strange = _search(places, published)
    if contents is None:
        folder = find_downloads() / published.name
        try:
            for file, digest in published.downloads.items():
                download([mirror + file for mirror in published.mirrors], folder / file, digest)
        except DataError as error:
            raise DataError(_describe_absence(published, places, strange, error)) from None
        contents, strange = _search([folder], published)
    if contents is None:
        raise DataError(f"{'; '.join(strange)}: remove it, and it will be downloaded again")
    return contents


def _search(places: Sequence[Path], published: Published) -> tuple[dict[str, bytes] | None, list[str]]:
    """The first whole copy, and what is wrong with those before it."""
    strange: list[str] = []
    for place in places:
        for copy in find_copies(place, published):
            contents, why = read_copy(copy, published)
            if contents is not None:
                return contents, strange
            strange.append(f"{copy} {why}")
    return None, strange


def find_copies(place: Path, published: Published) -> Iterator[Path]:
    """Folders and archives below `place` that by their names could be this set."""
    for folder in (place, *(place / inside for inside in published.folders)):
        if any((folder / f"{name}{end}").is_file() for name in published.contents for end in ("", ".gz")):
            yield folder
        for file in (*published.downloads, published.keras):
            if file.endswith((".tar.gz", ".npz")) and (folder / file).is_file():
                yield folder / file


def read_copy(copy: Path, published: Published) -> tuple[dict[str, bytes] | None, str]:
    """Every content of a copy; or None and what is wrong with it."""
    contents: dict[str, bytes] = {}
    try:
        for name, content in _unpack(copy, published):
            if hashlib.sha256(content).hexdigest() != published.contents[name]:
                return None, f"has another {name} than the published one"
            contents[name] = content
    except (*DAMAGED, KeyError, tarfile.TarError) as error:
        return None, f"is damaged ({error})"
    missing = [name for name in published.contents if name not in contents]
    return (None, f"lacks {missing[0]}") if missing else (contents, "")


def to_idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file that holds `array` (uint8): 0, 0, 8, dimensions, sizes, levels."""
    sizes = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + np.ascontiguousarray(array, np.uint8).tobytes()


def _unpack(copy: Path, published: Published) -> Iterator[tuple[str, bytes]]:
    if copy.is_dir():
        for name in published.contents:
            if (copy / name).is_file():
                yield name, (copy / name).read_bytes()
            elif (copy / f"{name}.gz").is_file():
                yield name, gzip.decompress((copy / f"{name}.gz").read_bytes())
    elif copy.suffix == ".npz":
        with np.load(copy, allow_pickle=False) as arrays:
            for name in published.contents:
                half = "train" if name.startswith("train") else "test"
                yield name, to_idx(arrays[f"x_{half}" if "images" in name else f"y_{half}"])
    else:
        with tarfile.open(copy) as archive:
            for member in archive:
                name, file = Path(member.name).name, archive.extractfile(member)
                if name in published.contents and file is not None:
                    yield name, file.read()


def _describe_absence(
    published: Published, places: Sequence[Path], strange: Sequence[str], error: DataError
) -> str:
    looked = ", ".join(map(str, places))
    pickled = [str(place / name) for place in places for name in published.pickles if (place / name).exists()]
    remarks = [*strange, *(f"{path} holds pickles, which are not opened" for path in pickled)]
    beside = f" ({'; '.join(remarks)})" if remarks else ""
    install = f"{published.install}, or " if published.install else ""
    return (
        f"{published.name} lies in none of {looked}{beside} and cannot be downloaded ({error}): "
        f"{install}set TRAINING_DATA to a folder with {', '.join(published.downloads)}"
    )
