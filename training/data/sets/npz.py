"""A NumPy archive of pictures and labels.

In: a .npz file with one of these sets of arrays.  Out: a `Split`, or a DataError in one sentence.

    x_train, y_train, x_test, y_test                           two halves, as Keras names them; or …_val
    train_images, train_labels, val_images, val_labels         two halves, as MedMNIST names them; or test_…
    x, y   or   images, labels   or   data, labels             one set: a fifth of each class is held out
    class_names (or labels, where that is free), optional      a name for each label 0, 1, 2 … (or 1, 2, 3 …)

The names may be in capitals. Pictures are whole numbers 0 … 255, or floating ones in 0 … 1 or 0 … 255 (then
rounded to 256 levels), of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1 or 3. Labels are whole
numbers of shape (N,) or (N, 1), text, or one-hot (N, K).  Nothing is unpickled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.contract.arrays import ArchiveError, read_arrays
from training.data.divide import digest_pictures, keep_apart, split_as_given, split_once
from training.data.split import Split
from training.errors import DataError

FORMS = (
    ("x_train", "y_train", "x_val", "y_val"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "val_images", "val_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x", "y"),
    ("data", "labels"),
    ("images", "labels"),
)
CHANNELS = (1, 3)


def load_npz(path: Path) -> Split:
    """Read, check and split the archive at `path`."""
    arrays = _read_arrays(path)
    keys = next((keys for keys in FORMS if arrays.keys() >= set(keys)), None)
    if keys is None:
        expected = " or ".join(", ".join(keys) for keys in FORMS)
        raise DataError(f"{path} must hold {expected}, got {', '.join(arrays) or 'nothing'}")
    names = arrays.get("class_names", None if "labels" in keys else arrays.get("labels"))
    if names is None:
        names = _number_text(arrays, keys[1::2])
    pairs = [
        _read_pair(path, arrays, images, labels) for images, labels in zip(keys[::2], keys[1::2], strict=True)
    ]
    label_names, pairs = _name_labels(path, names, pairs)
    name = f"npz:{path.name}"
    if len(pairs) == 1:
        return split_once(name, *pairs[0], label_names=label_names)
    (train, train_labels), held_out = pairs
    if train.shape[1:] != held_out[0].shape[1:]:
        shapes = " and ".join(str(tuple(pixels.shape[1:])) for pixels, _ in pairs)
        raise DataError(f"{path}: the pictures of both halves must have one shape, got {shapes}")
    new, notes = keep_apart(name, digest_pictures(train), digest_pictures(held_out[0]))
    unused = sorted(key for key in arrays if "test" in key and key not in keys)
    if unused:
        notes.append(f"{path} is held out by its {keys[-2]}; {', '.join(unused)} is not used")
    return split_as_given(
        name, (train[new], train_labels[new]), held_out, label_names=label_names, notes=notes
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    known = {"class_names", *(key for keys in FORMS for key in keys)}
    try:
        with path.open("rb") as file:
            arrays = read_arrays(file, lambda key: key.lower() in known)
            return {key.lower(): array for key, array in arrays.items()}
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except (OSError, ArchiveError) as error:
        raise DataError(f"{path} is no .npz archive of plain arrays: {error}") from None


def _read_pair(
    path: Path, arrays: Mapping[str, np.ndarray], images: str, labels: str
) -> tuple[Tensor, Tensor]:
    pixels, classes = _to_levels(path, images, arrays[images]), _to_numbers(arrays[labels])
    for key, array in ((images, pixels), (labels, classes)):
        if array.dtype.kind not in "ui":
            raise DataError(f"{path}: {key} must hold whole numbers, got {array.dtype}")
    if classes.shape not in ((len(pixels),), (len(pixels), 1)) or not len(pixels):
        raise DataError(
            f"{path}: {labels} must hold a label for each picture of {images}, got {classes.shape} for "
            f"{pixels.shape}"
        )
    if pixels.dtype != np.uint8 and not 0 <= pixels.min() <= pixels.max() <= 255:
        raise DataError(f"{path}: {images} must lie in 0 .. 255, got {pixels.min()} .. {pixels.max()}")
    if classes.max() > np.iinfo(np.int64).max:
        raise DataError(f"{path}: label {classes.max()} of {labels} is out of range")
    nchw = np.ascontiguousarray(_to_nchw(path, images, pixels), np.uint8)
    return torch.from_numpy(nchw), torch.from_numpy(classes.reshape(-1).astype(np.int64))


def _to_levels(path: Path, key: str, pixels: np.ndarray) -> np.ndarray:
    """Floating pictures as levels 0 … 255, rounded; others as they are."""
    if pixels.dtype.kind != "f" or not pixels.size:
        return pixels
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not 0 <= lowest <= highest <= 255:  # NaN fails this too
        raise DataError(
            f"{path}: {key} must lie in 0 .. 1 or 0 .. 255, got {lowest:g} .. {highest:g}: save it before "
            f"it is normalised, for training does that itself"
        )
    levels: np.ndarray = np.rint(pixels * (255 if highest <= 1 else 1)).astype(np.uint8)
    return levels


def _to_numbers(classes: np.ndarray) -> np.ndarray:
    """One-hot labels (N, K), and floating ones that are whole, as whole numbers; others as they are."""
    if classes.dtype.kind in "fb" and np.isfinite(classes).all() and (classes == np.rint(classes)).all():
        classes = classes.astype(np.int64)
    is_one_hot = classes.ndim == 2 and classes.shape[1] > 1 and classes.dtype.kind in "ui"
    if is_one_hot and ((classes == 0) | (classes == 1)).all() and (classes.sum(1) == 1).all():
        return np.asarray(classes.argmax(1))
    return classes


def _number_text(arrays: dict[str, np.ndarray], keys: Sequence[str]) -> np.ndarray | None:
    """Put numbers in place of text labels; returns their names in order, or None if they are no text."""
    if any(arrays[key].dtype.kind not in "US" for key in keys):
        return None
    texts = {key: np.char.decode(a) if (a := arrays[key]).dtype.kind == "S" else a for key in keys}
    names = np.unique(np.concatenate([text.ravel() for text in texts.values()]))
    arrays.update({key: np.searchsorted(names, text) for key, text in texts.items()})
    return names


def _to_nchw(path: Path, key: str, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4:
        first, last = pixels.shape[1] in CHANNELS, pixels.shape[3] in CHANNELS
        if first != last:
            return pixels if first else pixels.transpose(0, 3, 1, 2)
        if first:
            raise DataError(f"{path}: {key} of shape {pixels.shape} could be NCHW as well as NHWC")
    raise DataError(
        f"{path}: {key} must be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, "
        f"got {pixels.shape}"
    )


def _name_labels(
    path: Path, names: np.ndarray | None, pairs: list[tuple[Tensor, Tensor]]
) -> tuple[list[str], list[tuple[Tensor, Tensor]]]:
    """A name for each class, and the pairs, their labels counted from 0."""
    every = torch.cat([labels for _, labels in pairs])
    lowest, highest = int(every.min()), int(every.max())
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) < len(names):
            raise DataError(f"{path}: class_names must be different words, got {names.dtype} {names.shape}")
    elif lowest < 0 or highest >= len(every):
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"{path}: label {wrong} is out of range: classes are 0, 1, 2 …, each with a picture")
    # Counted from 1, as by MATLAB and in EMNIST's letters.
    first = int(lowest == 1 and (names is None or highest == len(names)))
    if first:
        pairs = [(pixels, labels - first) for pixels, labels in pairs]
    return [str(name) for name in (range(first, highest + 1) if names is None else names)], pairs
