"""Buffers of a net whose sizes are open: one flat array for each input, viewed in the shape of each batch.

In: the manifest's tensors.  Out: for each batch, views of its size on arrays that never grow.

    input  = flat[: bucket · numbers of a row] as (bucket, …)  ← rows of several jobs, then zeros
    output = new arrays from ONNX Runtime, whose sizes only it knows

Nothing is kept for a size, so a client that sends every size there is costs no memory (decision 30).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from service.batching.job import Tensors
from service.contract.manifest import Manifest
from service.contract.sizes import BATCH_BYTES


class SizedBuffers:
    """The arrays that one lane's batches are read from; for one thread at a time.

    A batch holds BATCH_BYTES of input at most, or else one row.
    """

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session = session
        self._output_names = [spec.name for spec in manifest.outputs]
        largest = {name: held.maximum for name, held in manifest.input_sizes.items()}
        self._flat: dict[str, np.ndarray] = {}
        for spec in manifest.inputs:
            elements = prod(spec.at(largest).row_shape)
            whole = max(elements, BATCH_BYTES // np.dtype(spec.dtype).itemsize)
            self._flat[spec.name] = np.zeros(whole, spec.dtype)
        self._feeds: dict[str, np.ndarray] = {}

    @property
    def num_bytes(self) -> int:
        """The memory of the inputs' arrays; outputs are new ones for each batch."""
        return sum(array.nbytes for array in self._flat.values())

    def fill(self, jobs: Sequence[Tensors], num_rows: int, bucket: int) -> None:
        """Copy in the `num_rows` rows of `jobs`, all of one size, and zeros up to the bucket."""
        for name, flat in self._flat.items():
            shape = (bucket, *jobs[0][name].shape[1:])
            buffer = flat[: prod(shape)].reshape(shape)
            np.concatenate([job[name] for job in jobs], out=buffer[:num_rows])
            buffer[num_rows:] = 0
            self._feeds[name] = buffer

    def run(self, bucket: int) -> list[np.ndarray]:
        """Run the rows that were filled in: each output (bucket, …) as a new array."""
        arrays: list[np.ndarray] = self._session.run(self._output_names, self._feeds)
        return arrays

    def copied(self, arrays: Sequence[np.ndarray], num_rows: int) -> dict[str, np.ndarray]:
        """The outputs of the first `num_rows` by name."""
        return {name: array[:num_rows] for name, array in zip(self._output_names, arrays, strict=True)}
