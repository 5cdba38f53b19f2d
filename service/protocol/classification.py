"""The classification extension: an output's k largest values, each with its index and label.

In: an output (rows, classes).  Out: BYTES of shape (rows, k), the largest value first.

    "<value>:<index>[:<label>]"          e.g. "11.25:7:seven"
"""

from collections.abc import Sequence

import numpy as np


def classes_of(values_nk: np.ndarray, num_classes: int, labels: Sequence[str] | None) -> np.ndarray:
    """Strings of values (rows, classes) as objects (rows, num_classes); ties in the order of the classes."""
    is_float = values_nk.dtype.kind == "f"
    keys_nk = np.where(np.isnan(values_nk), -np.inf, values_nk) if is_float else values_nk  # NaN comes last
    # Reversed, sorted ascending, and reversed again: descending, with ties in the order of the classes.
    rising_nk = np.argsort(keys_nk[:, ::-1], axis=1, kind="stable")
    order_nk = (values_nk.shape[1] - 1 - rising_nk[:, ::-1])[:, :num_classes]
    named = labels is not None and len(labels) == values_nk.shape[1]
    strings = np.empty(order_nk.shape, object)
    for row, order in enumerate(order_nk):
        for place, index in enumerate(order):
            label = f":{labels[index]}" if named and labels is not None else ""
            strings[row, place] = f"{values_nk[row, index]!s}:{index}{label}"
    return strings


def bytes_of(strings: np.ndarray) -> bytes:
    """Strings in the binary data format: each one's length (uint32, little-endian), then its UTF-8 bytes."""
    encoded = [string.encode() for string in strings.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
