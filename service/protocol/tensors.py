"""One tensor from a request: JSON numbers or little-endian bytes in, an array of its shape out.

In: `data` (nested as the shape says, or flat, row-major) or a slice of the body.
Out: an array of the input's datatype and shape, or BadRequest.

    elements(data) = product(shape)        bytes = product(shape) · size
"""

from array import array
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from service.contract.bytes_like import Buffer
from service.errors import BadRequest
from service.protocol.datatypes import ARRAY_CODES, NUMPY

Shape = tuple[int, ...]


def from_json(data: Any, name: str, datatype: str, shape: Shape, *, may_hold_bools: bool) -> np.ndarray:
    """An array of `shape` from parsed JSON; raises BadRequest, with the input's `name`.

    `may_hold_bools` is False if the text had no `true` or `false`: then no element is checked for being one.
    """
    if isinstance(data, np.ndarray):
        return _from_numbers(data, name, datatype, shape)
    if type(data) is not list:
        raise BadRequest(f"'data' of input '{name}' must be an array, got {_shown(data)}")
    if datatype in ("FP16", "BF16"):
        raise BadRequest(
            f"receiving {datatype} data via JSON is not supported. "
            f"Please use the binary data format for input '{name}'"
        )
    flat = _flattened(data, name, shape)
    if datatype == "BOOL":
        if set(map(type, flat)) - {bool}:
            raise BadRequest(f"input '{name}' is BOOL: its data must be true or false")
        return np.array(flat, np.bool_).reshape(shape)
    if may_hold_bools and bool in set(map(type, flat)):
        raise BadRequest(f"input '{name}' is {datatype}: its data must be numbers, got true or false")
    values = _numbers(flat, name, datatype)
    return values.reshape(shape)


def _from_numbers(numbers: np.ndarray, name: str, datatype: str, shape: Shape) -> np.ndarray:
    """Flat numbers that are known to be numbers of the datatype's kind, whatever their size and count."""
    if datatype in ("FP16", "BF16", "BOOL"):
        return from_json(numbers.tolist(), name, datatype, shape, may_hold_bools=False)
    if len(numbers) != prod(shape):
        raise _wrong_count(name, shape, len(numbers))
    dtype = NUMPY[datatype]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = numbers.astype(dtype)
        is_within = bool(np.isfinite(values).all())
    else:
        values = numbers.astype(dtype)
        is_within = dtype.itemsize == 8 or bool((values == numbers).all())
    if not is_within:
        raise _out_of_range(name, datatype)
    return values.reshape(shape)


def from_bytes(body: Buffer, offset: int, datatype: str, name: str, shape: Shape, count: int) -> np.ndarray:
    """A view on `count` elements of the body; their bytes are known to be there."""
    if count == 0:
        return np.empty(shape, NUMPY[datatype])
    if datatype == "BOOL":
        raw = np.frombuffer(body, np.uint8, count, offset)
        if count and int(raw.max()) > 1:
            raise BadRequest(f"input '{name}' is BOOL: its bytes must be 0 or 1, got {int(raw.max())}")
        return raw.view(np.bool_).reshape(shape)
    return np.frombuffer(body, NUMPY[datatype], count, offset).reshape(shape)


def _flattened(data: list[Any], name: str, shape: Shape) -> list[Any]:
    """Row-major elements of flat or correctly nested data."""
    count = prod(shape)
    is_nested = len(shape) > 1 and bool(data) and type(data[0]) is list
    if is_nested or (len(shape) > 1 and not data and shape[0] == 0):
        level = data
        for axis, dim in enumerate(shape):
            if axis > 0:
                if not all(type(part) is list for part in level):
                    raise BadRequest(
                        f"'data' of input '{name}' is not nested as its shape {list(shape)} says"
                    )
                if lengths := {len(part) for part in level} - {dim}:
                    raise _wrong_nesting(name, shape, axis, lengths.pop())
                level = list(chain.from_iterable(level))
            elif len(level) != dim:
                raise _wrong_nesting(name, shape, axis, len(level))
        return level
    if len(data) != count:
        raise _wrong_count(name, shape, len(data))
    return data


def _numbers(flat: list[Any], name: str, datatype: str) -> np.ndarray:
    if not flat:
        return np.empty(0, NUMPY[datatype])
    try:
        values = np.frombuffer(array(ARRAY_CODES[datatype], flat), NUMPY[datatype])
    except OverflowError:
        raise _out_of_range(name, datatype) from None
    except TypeError:
        kind = "numbers" if datatype.startswith("FP") else "integers"
        wrong = next((value for value in flat if not _is_number(value, datatype)), None)
        raise BadRequest(
            f"input '{name}' is {datatype}: its data must be {kind}, got {_shown(wrong)}"
        ) from None
    if datatype == "FP32" and not np.isfinite(values).all():
        raise _out_of_range(name, datatype)
    return values


def _is_number(value: Any, datatype: str) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and datatype.startswith("FP"))


def _wrong_nesting(name: str, shape: Shape, axis: int, found: int) -> BadRequest:
    return BadRequest(
        f"'data' of input '{name}' has {found} parts along axis {axis}, "
        f"its shape {list(shape)} says {shape[axis]}"
    )


def _wrong_count(name: str, shape: Shape, found: int) -> BadRequest:
    return BadRequest(
        f"'data' of input '{name}' has {found} elements, its shape {list(shape)} needs {prod(shape)}"
    )


def _out_of_range(name: str, datatype: str) -> BadRequest:
    return BadRequest(f"input '{name}' is {datatype}: its data holds a number out of range")


def _shown(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), str(value)[:40])
