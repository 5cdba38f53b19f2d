"""`--calibrate DATA`: an .npz file or a folder of pictures, opened as rows and checked as it is read.

In: DATA as typed, and the net's inputs.  Out: `Rows`.

    rows.npz     an array for each input by name (any name where there is one input); `labels`, if known
    folder/      pictures through the declared preprocessing; LABEL/picture.jpg if subfolders name all classes

Neither is read whole: 2,000 rows of 3×224×224 are 1.2 GB.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from export.errors import SourceError
from export.int8.rows import BATCH, Batch, Rows
from service.contract.arrays import ArchiveError, array_heads, stream_rows
from service.contract.preprocessing import Preprocessing
from service.contract.tensors import TensorSpec

MIN_ROWS = 32
LABELS = "labels"
_SLACK = 1e-3  # of a range's width: what rounding may add


def open_rows(
    path: Path,
    specs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    labels: Sequence[str] | None,
    batch: int = BATCH,
) -> Rows:
    """Open `--calibrate DATA`; every row is checked as it is read.

    Raises SourceError: not there, of another shape, type or range, non-finite, or fewer than 32.
    """
    if path.is_dir():
        rows = _of_folder(path, specs, preprocessing, labels, batch)
    elif path.is_file():
        rows = _of_npz(path, specs, batch)
    else:
        raise SourceError(f"--calibrate {path}: no such file or folder")
    if rows.num_rows < MIN_ROWS:
        raise SourceError(f"--calibrate {path}: {rows.num_rows} rows, expected at least {MIN_ROWS}")

    def checked() -> Iterator[Batch]:
        done = 0
        for one in rows.read():
            yield _checked(one, specs, path, done, labels)
            done += len(next(iter(one.inputs.values())))

    return Rows(num_rows=rows.num_rows, read=checked, words=rows.words)


def _checked(
    batch: Batch, specs: Sequence[TensorSpec], path: Path, first: int, labels: Sequence[str] | None
) -> Batch:
    """The batch in the inputs' types; `first` is the number of its first row."""
    _check_labels(batch.labels, path, labels)
    inputs = {}
    for spec in specs:
        array, where = batch.inputs[spec.name], f"--calibrate {path}: '{spec.name}'"
        if array.shape[1:] != spec.row_shape:
            raise SourceError(
                f"{where} has rows of shape {list(array.shape[1:])}, the net takes {list(spec.row_shape)}"
            )
        if array.dtype.kind not in "fiub":
            raise SourceError(f"{where} is {array.dtype}, expected numbers")
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise SourceError(f"{where} is not finite in row {first + int(np.argmin(finite))}")
        low, high = float(array.min(initial=0)), float(array.max(initial=0))
        if spec.minimum is not None and spec.maximum is not None:
            slack = _SLACK * (spec.maximum - spec.minimum)
            if low < spec.minimum - slack or high > spec.maximum + slack:
                raise SourceError(
                    f"{where} reaches from {low:.4g} to {high:.4g}, the net's rows from {spec.minimum:.4g} "
                    f"to {spec.maximum:.4g}: give rows as the net takes them, normalised"
                )
        inputs[spec.name] = array.astype(spec.dtype)
    return Batch(inputs=inputs, labels=batch.labels)


def _check_labels(found: np.ndarray | None, path: Path, labels: Sequence[str] | None) -> None:
    if found is None:
        return
    last = len(labels) - 1 if labels else None
    is_whole = found.ndim == 1 and found.dtype.kind in "iu"
    if not is_whole or found.min() < 0 or (last is not None and found.max() > last):
        wanted = "0, 1, 2 …" if last is None else f"0 … {last}"
        raise SourceError(
            f"--calibrate {path}: labels must be whole numbers {wanted}, found {np.ravel(found)[0]}"
        )


def _of_npz(path: Path, specs: Sequence[TensorSpec], batch: int) -> Rows:
    try:
        heads = array_heads(path)
    except ArchiveError as error:
        raise SourceError(f"--calibrate {path}: not an .npz file of arrays: {error}") from None
    inputs = [spec.name for spec in specs]
    arrays = [name for name in heads if name != LABELS or LABELS in inputs]
    of_input = dict(zip(inputs, arrays, strict=True)) if len(inputs) == len(arrays) == 1 else {}
    of_input = of_input or {name: name for name in inputs}
    if sorted(arrays) != sorted(of_input.values()):
        raise SourceError(f"--calibrate {path}: must have the arrays {inputs}, found {arrays}")
    labelled = LABELS in heads and LABELS not in inputs
    read_names = [*of_input.values(), *([LABELS] if labelled else [])]
    if len(counts := {heads[name][0][:1] for name in read_names}) != 1 or counts == {()}:
        raise SourceError(f"--calibrate {path}: its arrays must have as many rows each")
    ((number,),) = counts

    def read() -> Iterator[Batch]:
        try:
            for part in stream_rows(path, read_names, batch):
                labels = part.get(LABELS) if labelled else None
                yield Batch(inputs={name: part[array] for name, array in of_input.items()}, labels=labels)
        except ArchiveError as error:
            raise SourceError(f"--calibrate {path}: cannot be read to its end: {error}") from None

    return Rows(num_rows=number, read=read, words=f"{number} rows of {path.name}")


def _of_folder(
    path: Path,
    specs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    labels: Sequence[str] | None,
    batch: int,
) -> Rows:
    from service.contract.golden_pictures import row_of
    from service.contract.pictures import PictureError

    if preprocessing is None or len(specs) != 1:
        raise SourceError(f"--calibrate {path}: a folder of pictures needs a preprocessing: --mean and --std")
    suffixes = {".jpg", ".jpeg", ".png", ".webp"}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    index = {label: number for number, label in enumerate(labels or ())}
    folders = {file.relative_to(path).parts[0] for file in files if file.parent != path}
    is_labelled = bool(folders) and all(file.parent != path for file in files) and folders <= set(index)
    (spec,) = specs

    def row(file: Path) -> np.ndarray:
        try:
            return row_of(file.read_bytes(), preprocessing, spec.dtype)
        except (PictureError, OSError) as error:
            raise SourceError(f"--calibrate {path}: picture {file.relative_to(path)} {error}") from None

    def read() -> Iterator[Batch]:
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            known = [index[file.relative_to(path).parts[0]] for file in part] if is_labelled else None
            yield Batch(
                inputs={spec.name: np.stack([row(file) for file in part])},
                labels=None if known is None else np.array(known),
            )

    return Rows(num_rows=len(files), read=read, words=f"{len(files)} pictures of {path.name}")
