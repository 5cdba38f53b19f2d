"""The `parameters` objects of a request: what is reserved is checked, the rest is ignored.

In: a parsed JSON value.  Out: the same, known to map names to strings, numbers or booleans; or BadRequest.
"""

from typing import Any

from service.errors import BadRequest

Parameters = dict[str, Any]

_NONE: Parameters = {}
_SCALARS = {str, int, float, bool}
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


def parameters_of(owner: dict[str, Any], whose: str) -> Parameters:
    """The `parameters` of a request, an input or an output, {} without any; `whose` is for the message."""
    parameters = owner.get("parameters", _NONE)
    if type(parameters) is not dict:
        raise BadRequest(f"'parameters' of {whose} must be an object")
    for name, value in parameters.items():
        if type(value) not in _SCALARS:
            raise BadRequest(f"parameter '{name}' of {whose} must be a string, a number or a boolean")
    return parameters


def check_request_parameters(parameters: Parameters) -> None:
    """Raise BadRequest for parameters that the protocol reserves and this service does not offer."""
    for name in parameters:
        if name in _SEQUENCE:
            raise BadRequest(f"parameter '{name}' is not supported: no model here is a sequence model")
        if name.startswith("triton_"):
            raise BadRequest(
                f"parameter '{name}' is reserved: names that begin with 'triton_' may not be set"
            )


def flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    """A boolean parameter, or `default` if absent; raises BadRequest for any other type."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadRequest(f"Unable to parse '{name}': expected true or false")
    return value


def unsigned(parameters: Parameters, name: str) -> int:
    """An unsigned 64-bit integer parameter, 0 if absent; raises BadRequest for anything else."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**64:
        raise BadRequest(f"Unable to parse '{name}': expected an unsigned integer")
    return value
