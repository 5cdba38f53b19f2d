"""Buffers that ONNX Runtime reads and writes in place: one set for each lane, used again for every batch.

In: the manifest's tensors, the largest bucket.  Out: for each bucket a binding of a session to views on them.

    input  = buffer[:bucket]  ← rows of several jobs, then zeros
    output = buffer[:bucket]  → a copy of the first rows, so that the next batch may overwrite it
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from service.batching.job import Tensors
from service.contract.manifest import Manifest


class Buffers:
    """The arrays that one lane's batches are read from and written to; for one thread at a time.

    `largest` is the largest bucket; `has_bindings`: ONNX Runtime reads and writes the arrays in place.
    """

    def __init__(self, session: Any, manifest: Manifest, largest: int, *, has_bindings: bool) -> None:
        self._session = session
        self._names = [spec.name for spec in manifest.inputs]
        self._inputs = {
            spec.name: np.zeros((largest, *spec.row_shape), spec.dtype) for spec in manifest.inputs
        }
        self._output_names = [spec.name for spec in manifest.outputs]
        self._outputs = {
            spec.name: np.zeros((largest, *spec.row_shape), spec.dtype) for spec in manifest.outputs
        }
        # An empty tensor has no memory that could be bound.
        has_memory = all(array.size for array in (*self._inputs.values(), *self._outputs.values()))
        self._has_bindings = has_bindings and has_memory
        self._bindings: dict[int, tuple[Any, list[Any]]] = {}

    @property
    def num_bytes(self) -> int:
        """The memory of all arrays."""
        return sum(array.nbytes for array in (*self._inputs.values(), *self._outputs.values()))

    def fill(self, jobs: Sequence[Tensors], num_rows: int, bucket: int) -> None:
        """Copy in the `num_rows` rows of `jobs`, one after another, and zeros up to the bucket."""
        for name in self._names:
            buffer = self._inputs[name]
            if len(jobs) == 1:
                buffer[:num_rows] = jobs[0][name]
            else:
                np.concatenate([job[name] for job in jobs], out=buffer[:num_rows])
            if num_rows < bucket:
                buffer[num_rows:bucket] = 0

    def run(self, bucket: int) -> list[np.ndarray]:
        """Run the rows that were filled in: each output (bucket, …), which the next run may overwrite."""
        if self._has_bindings:
            self._session.run_with_iobinding(self._binding(bucket))
            return [self._outputs[name][:bucket] for name in self._output_names]
        feeds = {name: self._inputs[name][:bucket] for name in self._names}
        arrays: list[np.ndarray] = self._session.run(self._output_names, feeds)
        return arrays

    def copied(self, arrays: Sequence[np.ndarray], num_rows: int) -> dict[str, np.ndarray]:
        """The outputs of the first `num_rows` by name, which no later run overwrites; without the padding."""
        if self._has_bindings:
            arrays = [array[:num_rows].copy() for array in arrays]
        return {name: array[:num_rows] for name, array in zip(self._output_names, arrays, strict=True)}

    def _binding(self, bucket: int) -> Any:
        kept = self._bindings.get(bucket)
        if kept is None:
            binding = self._session.io_binding()
            values = []
            for name, buffer in self._inputs.items():
                values.append(ort.OrtValue.ortvalue_from_numpy(buffer[:bucket]))
                binding.bind_ortvalue_input(name, values[-1])
            for name, buffer in self._outputs.items():
                values.append(ort.OrtValue.ortvalue_from_numpy(buffer[:bucket]))
                binding.bind_ortvalue_output(name, values[-1])
            kept = self._bindings[bucket] = (binding, values)
        return kept[0]
