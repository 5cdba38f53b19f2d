"""Golden pictures: encoded files with the rows that the source's own pipeline makes of them.

In: a bundle's `pictures.npz` and golden rows.  Out: how far our rows are from them, or why they are refused.

    difference = max |level of our row − level of the golden row| / 255          at most 1 / 255

The golden rows are those of golden.npz from `first_row` on, so their answers are proved with all others.
"""

import io
from collections.abc import Mapping

import numpy as np

from service.contract.arrays import ArchiveError, read_arrays
from service.contract.manifest import PICTURE_TOLERANCE, BundleError, Manifest
from service.contract.preprocessing import Preprocessing

PICTURES_FILE = "pictures.npz"
MAX_PIXELS = 1 << 24
_ROUNDING = 1e-3  # of a level: rows are float32, or float16


def pictures_bytes(pictures: Mapping[str, bytes]) -> bytes:
    """The content of pictures.npz: an array of uint8 for each encoded picture, by its name."""
    buffer = io.BytesIO()
    arrays = {name: np.frombuffer(content, np.uint8) for name, content in pictures.items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_pictures(content: bytes, manifest: Manifest) -> dict[str, bytes]:
    """The encoded pictures that the manifest names, in its order; raises BundleError."""
    try:
        arrays = read_arrays(io.BytesIO(content))
    except ArchiveError as error:
        raise BundleError(f"{PICTURES_FILE}: not an archive of arrays: {error}") from None
    golden = manifest.golden_pictures
    names = [] if golden is None else golden.names
    if sorted(arrays) != sorted(names):
        raise BundleError(f"{PICTURES_FILE}: holds {sorted(arrays)}, the manifest says {sorted(names)}")
    return {name: arrays[name].tobytes() for name in names}


def row_of(content: bytes, preprocessing: Preprocessing, dtype: str) -> np.ndarray:
    """The row, in the input's dtype, that the declared preprocessing makes; raises PictureError."""
    from service.contract.pictures import read_pixels  # a bundle is opened without Pillow

    row = np.empty(preprocessing.row_shape, np.float32)
    preprocessing.write_row(read_pixels(content, preprocessing.target(MAX_PIXELS)), row)
    return (np.rint(row) if dtype == "uint8" else row).astype(dtype)


def picture_difference(content: bytes, golden_row: np.ndarray, preprocessing: Preprocessing) -> float:
    """max |our level − golden level| / 255; raises PictureError."""
    rows = np.stack([row_of(content, preprocessing, golden_row.dtype.name), golden_row])
    ours, golden = preprocessing.levels(rows)
    difference = float(np.abs(ours - golden).max()) if np.isfinite(golden).all() else float("inf")
    return difference / 255


def measure_pictures(manifest: Manifest, pictures: Mapping[str, bytes], rows: np.ndarray) -> dict[str, float]:
    """The difference of each golden picture; `rows` are the golden rows of the only input.

    Raises BundleError for the first picture beyond the tolerance, or that is not decoded.
    """
    golden, preprocessing = manifest.golden_pictures, manifest.preprocessing
    if golden is None or preprocessing is None:
        return {}
    from service.contract.pictures import PictureError

    differences = {}
    for name, row in zip(golden.names, rows[golden.first_row :], strict=False):
        try:
            differences[name] = picture_difference(pictures[name], row, preprocessing)
        except PictureError as error:
            raise BundleError(f"golden picture '{name}' {error}") from None
        if not is_within(differences[name]):
            raise BundleError(
                f"golden picture '{name}' becomes a row that differs from its golden row by "
                f"{255 * differences[name]:.3g} of 255 levels, at most 1 is allowed: another decoder, or "
                f"another preprocessing than {golden.pipeline}"
            )
    return differences


def is_within(difference: float) -> bool:
    """Whether a picture's difference is at most 1 / 255, but for the rounding of rows."""
    return difference <= PICTURE_TOLERANCE + _ROUNDING / 255
