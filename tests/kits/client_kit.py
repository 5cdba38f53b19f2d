"""What the tests of real clients share: tritonclient's inputs, and pictures with their true logits."""

from typing import Any

import numpy as np
import tritonclient.http as triton

from tiny_nets import digits_net


def given(name: str, array: np.ndarray, datatype: str, *, is_binary: bool) -> Any:
    """An input of tritonclient."""
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array, binary_data=is_binary)
    return tensor


def pictures(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows for the digits net, and its true logits."""
    rows = digits_net().rows(num_rows, seed=seed)
    return rows["input"], digits_net().truth(rows)["logits"]
