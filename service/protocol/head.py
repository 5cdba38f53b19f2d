"""The JSON of an inference request, checked: everything about its tensors except their elements.

In: a parsed document and the model's signature.  Out: a `Head`, or a BadRequest that names input and model.

A head whose inputs are all binary holds no values, so it may be kept for the next request.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from service.errors import BadRequest
from service.protocol.datatypes import SIZES
from service.protocol.parameters import check_request_parameters, flag, parameters_of, unsigned
from service.protocol.signature import Signature, Tensor

MAX_ID = 64 * 1024  # characters; the answer repeats it

_SOURCES = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output of the answer: whether as bytes after the JSON, and as how many classes (0: the values)."""

    name: str
    is_binary: bool
    num_classes: int = 0


@dataclass(frozen=True, slots=True)
class RequestInput:
    """An input and its shape, rows first: `num_bytes` after the JSON, or None and `data` from the JSON."""

    tensor: Tensor
    shape: tuple[int, ...]
    num_elements: int
    num_bytes: int | None
    data: Any = None


@dataclass(slots=True, eq=False, kw_only=True)
class Head:
    """A checked request without its rows; `timeout_s` and `priority` are 0 where the client gave none.

    `sizes` are those of its rows that the model leaves open, in the order of `Signature.size_names`.

    `num_bytes` are those of its binary inputs together. `is_long` says, once that was asked, whether its
    answer takes too long for the event loop. `answer` is the JSON of its answer, kept once it was printed and
    only if every output is binary: then it holds no values, and the next request with this head gets it too.
    """

    inputs: list[RequestInput]
    outputs: list[RequestedOutput]
    num_rows: int
    num_bytes: int = 0
    sizes: tuple[int, ...] = ()
    id: str | None = None
    timeout_s: float = 0.0
    priority: int = 0
    is_long: bool | None = None
    answer: bytes | None = None


def read_head(document: dict[str, Any], signature: Signature, *, has_header: bool) -> Head:
    """Check a request's document; raises BadRequest.  `has_header`: with Inference-Header-Content-Length."""
    request_id = document.get("id")
    if type(request_id) is not str and "id" in document:
        raise BadRequest("'id' must be a string")
    if request_id is not None and len(request_id) > MAX_ID:
        raise BadRequest(f"'id' has {len(request_id)} characters, at most {MAX_ID} are allowed")
    parameters = parameters_of(document, "the request")
    check_request_parameters(parameters)
    entries = document.get("inputs")
    if type(entries) is not list:
        raise BadRequest("Unable to parse 'inputs': expected an array of input tensors")
    inputs: dict[str, RequestInput] = {}
    for entry in entries:
        given = _read_input(entry, signature, has_header=has_header)
        if given.tensor.name in inputs:
            raise BadRequest(f"input '{given.tensor.name}' already exists in request")
        inputs[given.tensor.name] = given
    return Head(
        inputs=list(inputs.values()),
        outputs=_read_outputs(document, flag(parameters, "binary_data_output", default=False), signature),
        num_rows=_num_rows(inputs, signature),
        num_bytes=sum([given.num_bytes or 0 for given in inputs.values()]),
        sizes=_sizes(inputs, signature) if signature.size_names else (),
        id=request_id,
        timeout_s=unsigned(parameters, "timeout") / 1e6,
        priority=unsigned(parameters, "priority"),
    )


def _read_input(entry: Any, signature: Signature, *, has_header: bool) -> RequestInput:
    if type(entry) is not dict:
        raise BadRequest("Unable to parse 'inputs': each input must be an object")
    name = entry.get("name")
    if type(name) is not str:
        raise BadRequest("Unable to parse 'inputs': each input needs a 'name', a string")
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if type(datatype) is not str or datatype not in SIZES:
        raise BadRequest(f"input '{name}' needs a 'datatype', one of {', '.join(SIZES)}")
    if type(shape) is not list or any(type(dim) is not int for dim in shape):
        raise BadRequest(f"input '{name}' needs a 'shape', an array of integers")
    if shape and min(shape) < 0:
        raise BadRequest(f"input '{name}' has a negative dimension in its shape {shape}")
    parameters = parameters_of(entry, f"input '{name}'")
    _check_source(entry, parameters)
    tensor = signature.inputs.get(name)
    if tensor is None:
        raise BadRequest(f"unexpected inference input '{name}' for model '{signature.name}'")
    if datatype != tensor.datatype:
        raise BadRequest(
            f"inference input '{name}' data-type is '{datatype}', "
            f"but model '{signature.name}' expects '{tensor.datatype}'"
        )
    if len(shape) != len(tensor.row_shape) + 1 or tuple(shape[1:]) != tensor.row_shape:
        _check_open_shape(shape, tensor, signature)
    # The rank is the model's by now, so the product is of few numbers.
    num_elements = prod(shape)
    if num_elements * tensor.size > 2**63 - 1:
        raise BadRequest(f"input '{name}' for model '{signature.name}' is too large: its shape is {shape}")
    if "data" in entry:
        return RequestInput(tensor, tuple(shape), num_elements, None, entry["data"])
    num_bytes = _num_bytes(parameters, tensor, num_elements, signature, has_header=has_header)
    return RequestInput(tensor, tuple(shape), num_elements, num_bytes)


def _check_open_shape(shape: list[int], tensor: Tensor, signature: Signature) -> None:
    """Raise BadRequest unless the shape differs from the tensor's only in open sizes, within their ranges."""
    unexpected = (
        f"unexpected shape for input '{tensor.name}' for model '{signature.name}'. "
        f"Expected {tensor.shape}, got {shape}"
    )
    opened = {open_size.axis for open_size in tensor.open_sizes}
    if len(shape) != len(tensor.row_shape) + 1 or any(
        found != expected and axis not in opened
        for axis, (found, expected) in enumerate(zip(shape[1:], tensor.row_shape, strict=True))
    ):
        raise BadRequest(unexpected)
    for one in tensor.open_sizes:
        found = shape[1 + one.axis]
        if not one.minimum <= found <= one.maximum or (found - one.minimum) % one.step:
            raise BadRequest(f"{unexpected}: '{one.name}' is {found}, expected {one.range}")


def _sizes(inputs: dict[str, RequestInput], signature: Signature) -> tuple[int, ...]:
    """The open sizes of the rows; raises BadRequest where two inputs disagree on one."""
    found: dict[str, int] = {}
    for given in inputs.values():
        for one in given.tensor.open_sizes:
            size = given.shape[1 + one.axis]
            if found.setdefault(one.name, size) != size:
                raise BadRequest(
                    f"the inputs for model '{signature.name}' disagree on the size '{one.name}': "
                    f"{found[one.name]} and {size}"
                )
    return tuple([found[name] for name in signature.size_names])


def _check_source(entry: dict[str, Any], parameters: dict[str, Any]) -> None:
    is_set = {
        "'data'": "data" in entry,
        "'binary_data_size'": "binary_data_size" in parameters,
        "'shared_memory_region'": "shared_memory_region" in parameters,
    }
    if sum(is_set.values()) != 1:
        which = " and ".join(word for word in is_set if is_set[word])
        raise BadRequest(f"{_SOURCES}{which or 'none'} of them is set for input '{entry['name']}'")
    if is_set["'shared_memory_region'"]:
        raise BadRequest(f"input '{entry['name']}' is in shared memory, which is not supported")


def _num_bytes(
    parameters: dict[str, Any], tensor: Tensor, num_elements: int, signature: Signature, *, has_header: bool
) -> int:
    num_bytes = parameters["binary_data_size"]
    if type(num_bytes) is not int or num_bytes < 0:
        raise BadRequest(f"Unable to parse 'binary_data_size' of input '{tensor.name}': got {num_bytes}")
    if num_bytes > 0 and not has_header:
        raise BadRequest(
            "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' "
            "when passing inputs in binary data format"
        )
    if num_bytes != num_elements * tensor.size:
        raise BadRequest(
            f"input byte size mismatch for input '{tensor.name}' for model '{signature.name}'. "
            f"Expected {num_elements * tensor.size}, got {num_bytes}"
        )
    return num_bytes


def _num_rows(inputs: dict[str, RequestInput], signature: Signature) -> int:
    if len(inputs) != len(signature.inputs):
        missing = [name for name in signature.inputs if name not in inputs]
        raise BadRequest(
            f"expected {len(signature.inputs)} inputs but got {len(inputs)} inputs for model "
            f"'{signature.name}', missing {missing}"
        )
    rows = {given.shape[0] for given in inputs.values()}
    if len(rows) > 1:
        raise BadRequest(
            f"the inputs for model '{signature.name}' disagree on the number of rows: {sorted(rows)}"
        )
    num_rows = rows.pop()
    if num_rows > signature.max_rows:
        raise BadRequest(
            f"inference request batch-size must be <= {signature.max_rows} for '{signature.name}', "
            f"got {num_rows}"
        )
    return num_rows


def _read_outputs(document: dict[str, Any], is_binary: bool, signature: Signature) -> list[RequestedOutput]:
    entries = document.get("outputs", [])
    if type(entries) is not list:
        raise BadRequest("Unable to parse 'outputs': expected an array of requested outputs")
    requested: dict[str, RequestedOutput] = {}
    for entry in entries:
        if type(entry) is not dict or type(entry.get("name")) is not str:
            raise BadRequest("Unable to parse 'outputs': each output needs a 'name', a string")
        name = entry["name"]
        if name not in signature.outputs:
            raise BadRequest(f"unexpected inference output '{name}' for model '{signature.name}'")
        if name in requested:
            raise BadRequest(f"output '{name}' already exists in request")
        parameters = parameters_of(entry, f"output '{name}'")
        if "shared_memory_region" in parameters:
            raise BadRequest(f"output '{name}' is asked for in shared memory, which is not supported")
        is_own_binary = flag(parameters, "binary_data", default=is_binary)
        requested[name] = RequestedOutput(
            name, is_own_binary, _num_classes(parameters, signature.outputs[name])
        )
    outputs = list(requested.values()) or [RequestedOutput(name, is_binary) for name in signature.outputs]
    for output in outputs:
        is_half = signature.outputs[output.name].datatype == "FP16" and not output.num_classes
        if is_half and not output.is_binary:
            raise BadRequest(
                "sending FP16 data via JSON is not supported. "
                f"Please use the binary data format for output '{output.name}'"
            )
    return outputs


def _num_classes(parameters: dict[str, Any], tensor: Tensor) -> int:
    """How many classes are requested; 0: the output's values."""
    if "classification" not in parameters:
        return 0
    requested = unsigned(parameters, "classification")
    if requested == 0:
        raise BadRequest(f"Unable to parse 'classification' of output '{tensor.name}': expected at least 1")
    if len(tensor.row_shape) != 1:
        raise BadRequest(
            f"output '{tensor.name}' has the shape {tensor.shape}; classification needs one value per class"
        )
    return min(requested, tensor.row_elements)
