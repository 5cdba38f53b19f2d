"""Buffers on a device with memory of its own: rows go there from pinned memory, answers come back.

In: the manifest's tensors, the largest bucket.  Out: for each bucket a binding to tensors at fixed addresses,
as a CUDA graph needs them.

    pinned input[:bucket] → device input → run (or replay of this bucket's graph) → device output → copy

Two lanes have two sets of these, so that one batch is copied while the other computes.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from service.batching.job import Tensors
from service.contract.manifest import Manifest
from service.contract.tensors import TensorSpec
from service.engine.session import CUDA

_NO_GRAPH = -1
_log = logging.getLogger("foldserve")


class DeviceBuffers:
    """The tensors that one lane's batches are read from and written to on a device; for one thread at a time.

    `largest` is the largest bucket; `has_graphs`: each bucket's run is captured once as a CUDA graph.
    """

    def __init__(
        self, session: Any, manifest: Manifest, largest: int, *, has_graphs: bool, device: str = "cuda"
    ) -> None:
        self._session = session
        self._device = device
        self._has_graphs = has_graphs
        self._specs = manifest.inputs
        self._outputs = manifest.outputs
        self._hosts = {spec.name: _pinned(spec, largest) for spec in manifest.inputs}
        self._bound: dict[int, tuple[Any, dict[str, Any], list[Any], Any]] = {}

    @property
    def num_bytes(self) -> int:
        """About the memory of the inputs: pinned, and on the device once for each bucket, half the next's."""
        return 3 * sum(array.nbytes for array in self._hosts.values())

    def fill(self, jobs: Sequence[Tensors], num_rows: int, bucket: int) -> None:
        """Copy the `num_rows` rows of `jobs`, and zeros up to the bucket, to the device."""
        inputs = self._binding(bucket)[1]
        for spec in self._specs:
            host = self._hosts[spec.name]
            np.concatenate([job[spec.name] for job in jobs], out=host[:num_rows])
            host[num_rows:bucket] = 0
            inputs[spec.name].update_inplace(host[:bucket])

    def run(self, bucket: int) -> list[np.ndarray]:
        """Run the rows that were filled in: each output (bucket, …) as a new array on the host."""
        binding, _, outputs, options = self._binding(bucket)
        self._session.run_with_iobinding(binding, options)
        return [np.array(value.numpy()) for value in outputs]

    def copied(self, arrays: Sequence[np.ndarray], num_rows: int) -> dict[str, np.ndarray]:
        """The outputs of the first `num_rows` by name."""
        return {spec.name: array[:num_rows] for spec, array in zip(self._outputs, arrays, strict=True)}

    def _binding(self, bucket: int) -> tuple[Any, dict[str, Any], list[Any], Any]:
        kept = self._bound.get(bucket)
        if kept is None:
            binding = self._session.io_binding()
            inputs = {spec.name: self._value(spec, bucket) for spec in self._specs}
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            outputs = [self._value(spec, bucket) for spec in self._outputs]
            for spec, value in zip(self._outputs, outputs, strict=True):
                binding.bind_ortvalue_output(spec.name, value)
            options = ort.RunOptions()
            graph = bucket if self._has_graphs else _NO_GRAPH  # one graph for each bucket
            options.add_run_config_entry("gpu_graph_id", str(graph))
            kept = self._bound[bucket] = (binding, inputs, outputs, options)
        return kept

    def _value(self, spec: TensorSpec, bucket: int) -> Any:
        rows = np.zeros((bucket, *spec.row_shape), spec.dtype)
        return ort.OrtValue.ortvalue_from_numpy(rows, self._device, 0)


def _pinned(spec: TensorSpec, largest: int) -> np.ndarray:
    """Host memory that the device reads without a copy in between, where this build offers it."""
    shape = [largest, *spec.row_shape]
    try:
        device = next(device for device in ort.get_ep_devices() if device.ep_name == CUDA)
        place = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), memory_info=place)
        array: np.ndarray = value.numpy()
        return array
    except Exception as error:  # slower, and as right
        _log.debug("event=not_pinned reason=%r", str(error))
        return np.zeros(shape, spec.dtype)
