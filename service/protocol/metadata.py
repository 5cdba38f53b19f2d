"""Metadata of the server and of a model.

In: a signature.  Out: the JSON objects of GET /v2 and GET /v2/models/M.
"""

from collections.abc import Mapping
from typing import Any

from service import __version__
from service.protocol.signature import Signature, Tensor

# Only what works: perf_analyzer calls /stats as soon as "statistics" is listed.
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
]


def server_metadata(*, has_control: bool) -> dict[str, Any]:
    """The body of GET /v2; `has_control`: clients may load and unload models."""
    extensions = [*EXTENSIONS, "model_repository"] if has_control else EXTENSIONS
    return {"name": "foldserve", "version": __version__, "extensions": extensions}


def model_metadata(
    signature: Signature, properties: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of GET /v2/models/M; `versions` are those that a request may name.

    `facts` of pictures stand beside what the protocol lists: it allows further keys.
    """
    return {
        "name": signature.name,
        "versions": [signature.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_described(tensor) for tensor in signature.inputs.values()],
        "outputs": [_described(tensor) for tensor in signature.outputs.values()],
        "properties": dict(properties),
        **facts,
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
