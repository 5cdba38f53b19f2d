"""The rows of an input, in an order that is the same whenever it is read.

    a folder                pictures, by their paths below it, sorted       key: the path
    .tar .tar.gz …          pictures, in the archive's order (WebDataset)   key: the member's name
    .npz                    arrays by the model's inputs' names             key: the row's number
    .parquet                columns by those names, or one of pictures      key: column `key`, or the number

In: a path.  Out: chunks of records from a given row on: keys, with pictures' bytes or arrays.

A table's column of pictures is called `image`, `jpg`, `png` or `picture`, and holds bytes, or structs with
`bytes`, as Hugging Face writes them.
"""

import hashlib
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from foldserve.batch.errors import BatchError
from service.contract.arrays import ArchiveError, array_heads, stream_rows
from service.contract.manifest import Manifest
from service.contract.tensors import TensorSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CHUNK_BYTES = 2 << 20  # of small rows of arrays
PICTURE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "picture")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive rows: their keys, and their pictures (or why one cannot be read), or their arrays."""

    keys: list[str]
    pictures: Sequence[bytes | str] | None = None
    arrays: Mapping[str, np.ndarray] | None = None


class Input:
    """An input that has been recognised; `num_rows` is None where only reading tells.

    `part` is the number of rows of a part of the output, which a chunk does not exceed.
    """

    def __init__(self, path: Path, manifest: Manifest, part: int) -> None:
        if not path.exists():
            raise BatchError(f"{path}: no such file or folder")
        self._path = path
        self._manifest = manifest
        self._files: list[Path] = []
        self._part = part
        self.num_rows: int | None = None
        if path.is_dir():
            self._read = self._folder
            found = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            self._files = sorted(found)
            self.num_rows = len(self._files)
        elif path.suffix == ".npz":
            self._read = self._npz
            self._arrays, self.num_rows = _arrays(path, manifest)
        elif path.suffix in (".parquet", ".pq"):
            self._read = self._parquet
            import pyarrow.parquet

            self.num_rows = pyarrow.parquet.ParquetFile(path).metadata.num_rows
        elif path.suffix == ".tar" or ".tar" in path.suffixes[-2:-1] or path.suffix == ".tgz":
            self._read = self._tar
        else:
            raise BatchError(f"{path}: neither a folder of pictures nor a .tar, .npz or .parquet file")

    def digest(self) -> str:
        """What tells this input from another one: names, sizes and times of its files."""
        files = self._files or [self._path]
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def chunks(self, size: int, start: int) -> Iterator[Chunk]:
        """Chunks of `size` rows, the last one smaller, from row `start` on; raises BatchError.

        Small rows of arrays come several times `size` at once, up to a part: a chunk has its price.
        """
        try:
            yield from self._read(size, start)
        except (OSError, EOFError, tarfile.TarError, ValueError) as error:
            raise BatchError(f"{self._path}: cannot be read: {error}") from None

    def _folder(self, size: int, start: int) -> Iterator[Chunk]:
        for first in range(start, len(self._files), size):
            files = self._files[first : first + size]
            yield Chunk(
                keys=[file.relative_to(self._path).as_posix() for file in files],
                pictures=[_content(file) for file in files],
            )

    def _tar(self, size: int, start: int) -> Iterator[Chunk]:
        with tarfile.open(self._path) as archive:
            members = (
                member
                for member in archive
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
            )
            wanted = islice(members, start, None)
            while part := list(_taken(archive, wanted, size)):
                yield Chunk(keys=[name for name, _ in part], pictures=[content for _, content in part])

    def _npz(self, size: int, start: int) -> Iterator[Chunk]:
        first = start
        for part in stream_rows(self._path, list(self._arrays.values()), self._rows_of_a_chunk(size), start):
            arrays = {
                spec.name: _typed(part[self._arrays[spec.name]], spec) for spec in self._manifest.inputs
            }
            stop = first + len(next(iter(part.values())))
            yield Chunk(keys=[str(row) for row in range(first, stop)], arrays=arrays)
            first = stop

    def _rows_of_a_chunk(self, size: int) -> int:
        """The largest multiple of `size` that CHUNK_BYTES and a part hold, at least `size` itself."""
        specs = self._manifest.inputs
        if self._manifest.sizes is not None:
            return size
        row_bytes = sum(math.prod(spec.row_shape) * np.dtype(spec.dtype).itemsize for spec in specs)
        return size * max(1, min(CHUNK_BYTES // (size * row_bytes), self._part // size))

    def _parquet(self, size: int, start: int) -> Iterator[Chunk]:
        import pyarrow.parquet

        table = pyarrow.parquet.ParquetFile(self._path)
        names = table.schema_arrow.names
        inputs = [spec.name for spec in self._manifest.inputs]
        of_pictures = next((name for name in PICTURE_COLUMNS if name in names), None)
        if not set(inputs) <= set(names) and of_pictures is None:
            raise BatchError(
                f"{self._path}: has the columns {', '.join(names)}; expected {', '.join(inputs)}, "
                f"or pictures in one of {', '.join(PICTURE_COLUMNS)}"
            )
        columns = inputs if set(inputs) <= set(names) else [str(of_pictures)]
        chunk = self._rows_of_a_chunk(size) if columns == inputs else size
        with_keys = [*columns, "key"] if "key" in names and "key" not in columns else columns
        rows = (
            record.slice(max(start - first, 0))
            for record, first in _counted(table.iter_batches(chunk, columns=with_keys))
            if first + len(record) > start
        )
        for row, record in _positions(rows, start):
            keys = [str(key) for key in record["key"].to_pylist()] if "key" in with_keys else None
            keys = keys or [str(number) for number in range(row, row + len(record))]
            if columns == inputs and self._manifest.sizes is not None:
                yield from _open_chunks(keys, record, self._manifest)
            elif columns == inputs:
                specs = self._manifest.inputs
                arrays = {spec.name: rows_of_column(record[spec.name], spec) for spec in specs}
                yield Chunk(keys=keys, arrays=arrays)
            else:
                pictures = [picture_of(value) for value in record[columns[0]].to_pylist()]
                yield Chunk(keys=keys, pictures=pictures)


def _arrays(path: Path, manifest: Manifest) -> tuple[dict[str, str], int]:
    """The name of each input's array, and how many rows; an archive's only array may have any name."""
    specs = manifest.inputs
    try:
        heads = array_heads(path)
    except ArchiveError as error:
        raise BatchError(f"{path}: cannot be read: {error}") from None
    names = {spec.name: spec.name for spec in specs}
    if len(names) == len(heads) == 1:
        names = dict.fromkeys(names, next(iter(heads)))
    if missing := sorted(set(names.values()) - set(heads)):
        raise BatchError(f"{path}: has no array {', '.join(missing)}, only {', '.join(heads)}")
    rows = {}
    for spec in specs:
        shape, dtype = heads[names[spec.name]]
        if not shape:
            raise BatchError(f"{path}: the array {names[spec.name]} is one number, expected rows")
        rows[spec.name] = _typed(np.zeros((1, *shape[1:]), dtype), spec)
    if len(counts := {heads[name][0][0] for name in names.values()}) != 1:
        raise BatchError(f"{path}: the arrays disagree on the number of rows: {sorted(counts)}")
    _check_sizes(rows, manifest)
    (num_rows,) = counts
    return names, num_rows


def _check_sizes(arrays: Mapping[str, np.ndarray], manifest: Manifest) -> None:
    """Raise BatchError unless the open sizes of these rows agree, and are within their ranges."""
    found: dict[str, int] = {}
    for spec in manifest.inputs:
        for name, size in (spec.sizes_of(arrays[spec.name].shape[1:]) or {}).items():
            if found.setdefault(name, size) != size or not manifest.input_sizes[name].holds(size):
                raise BatchError(
                    f"'{name}' of '{spec.name}' is {size}, expected {manifest.input_sizes[name]}, "
                    "and the same in every input"
                )


def _open_chunks(keys: list[str], record: Any, manifest: Manifest) -> Iterator[Chunk]:
    """Consecutive rows of one size each, of columns whose nested lists have the shape of a row."""
    columns = {
        spec.name: [np.asarray(row) for row in record[spec.name].to_pylist()] for spec in manifest.inputs
    }
    shapes = [tuple(rows[place].shape for rows in columns.values()) for place in range(len(keys))]
    for _, places in groupby(range(len(keys)), key=lambda place: shapes[place]):
        run = list(places)
        arrays = {
            spec.name: _typed(np.stack(columns[spec.name][run[0] : run[-1] + 1]), spec)
            for spec in manifest.inputs
        }
        _check_sizes(arrays, manifest)
        yield Chunk(keys=keys[run[0] : run[-1] + 1], arrays=arrays)


def _typed(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Rows in an input's shape and datatype; raises BatchError."""
    if not spec.open_sizes and array[:1].size == np.prod(spec.row_shape):
        array = array.reshape(len(array), *spec.row_shape)
    if spec.sizes_of(array.shape[1:]) is None or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise BatchError(
            f"rows of '{spec.name}' are {array.dtype} of shape {list(array.shape[1:])}, "
            f"the model takes {spec.dtype} of shape {list(spec.shape[1:])}"
        )
    return array.astype(spec.dtype, copy=False)


def rows_of_column(values: Any, spec: TensorSpec) -> np.ndarray:
    """A column of numbers, or of lists of them, as rows of an input."""
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    elements = int(np.prod(spec.row_shape))
    if len(flat) % max(elements, 1):
        raise BatchError(f"a row of the column '{spec.name}' has not {elements} values")
    return _typed(flat.reshape(-1, *spec.row_shape), spec)


def picture_of(value: Any) -> bytes | str:
    """The bytes of a picture in a table's row, or why there are none."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else "the row holds no picture"


def _content(file: Path) -> bytes | str:
    try:
        return file.read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _taken(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], size: int
) -> Iterator[tuple[str, bytes]]:
    for member in islice(members, size):
        file = archive.extractfile(member)
        assert file is not None
        yield member.name, file.read()


def _counted(records: Iterator[Any]) -> Iterator[tuple[Any, int]]:
    first = 0
    for record in records:
        yield record, first
        first += len(record)


def _positions(records: Iterator[Any], start: int) -> Iterator[tuple[int, Any]]:
    for record in records:
        yield start, record
        start += len(record)
