"""The model configuration extension: how a model is run, as far as the service knows it.

In: a signature and the batcher's facts.  Out: the JSON of GET /v2/models/M/config.

Rows are not among `dims`: a `max_batch_size` over 0 says that the first dimension of every tensor is rows.
"""

from collections.abc import Sequence
from typing import Any

from service.protocol.signature import Signature, Tensor

_TYPES = {"BYTES": "TYPE_STRING"}


def model_configuration(
    signature: Signature,
    *,
    buckets: Sequence[int],
    max_wait_s: float,
    queue_rows: int,
    provider: str,
    lanes: int,
    default_priority: int,
) -> dict[str, Any]:
    """The body of GET /v2/models/M/config.

    `max_wait_s` are seconds that a batch waits for more rows; `queue_rows` rows may wait; `default_priority`
    is the level of a request that names none.
    """
    return {
        "name": signature.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [signature.version]}},
        "max_batch_size": signature.max_rows,
        "input": [_described(tensor) for tensor in signature.inputs.values()],
        "output": [_described(tensor) for tensor in signature.outputs.values()],
        "dynamic_batching": {
            "preferred_batch_size": list(buckets),
            "max_queue_delay_microseconds": round(max_wait_s * 1e6),
            "default_priority_level": default_priority,
            "default_queue_policy": {"allow_timeout_override": True, "max_queue_size": queue_rows},
        },
        "instance_group": [
            {"name": signature.name, "kind": "KIND_GPU" if "CUDA" in provider else "KIND_CPU", "count": lanes}
        ],
        "parameters": {},
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    data_type = _TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return {"name": tensor.name, "data_type": data_type, "dims": list(tensor.row_shape)}
