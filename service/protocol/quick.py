"""The quick way to read a JSON request: numbers go to arrays without becoming Python objects.

In: the bytes of a request.  Out: the document, where `data` that is a flat list of numbers, or one nested as
`shape` says, is a flat array (float64 or int64); or None when anything is unusual: then document.py
reads it again, and says what is wrong if it is.

simdjson keeps what it parsed on a tape of its own; `data` is copied from there in one piece. A copy does not
show how the numbers were nested. So every list but the innermost ones is visited and its length compared with
`shape`, and the brackets of the whole document are counted: were there one more anywhere, an innermost list
would hold a list, or the protocol's scalars would not be scalars.
"""

import threading
from typing import Any

import numpy as np
import simdjson

_LONGEST_KEPT = 1 << 20  # a parser keeps memory of the size of its longest document
_MAX_MEMBERS = 64  # simdjson searches an object from its start for each key: n keys cost n² / 2 steps
_SCALARS = (str, int, float, bool, type(None))


class _Kept(threading.local):
    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_kept = _Kept()


def quick_document(raw: bytes) -> dict[str, Any] | None:
    """The document, or None if anything in it is not as plain requests have it."""
    if raw[:1] != b"{":
        return None
    parser = _kept.parser if len(raw) <= _LONGEST_KEPT else simdjson.Parser()
    try:
        return _document(parser.parse(raw), raw.count(b"["))
    except (ValueError, TypeError, RuntimeError, LookupError):
        _kept.parser = simdjson.Parser()  # the old one may still be held by the error
        return None


def _document(document: Any, num_brackets: int) -> dict[str, Any]:
    read = _members(document)
    inputs, outputs = read.get("inputs"), read.get("outputs")
    if not isinstance(inputs, simdjson.Array) or len(inputs) > _MAX_MEMBERS:
        raise ValueError("unusual")
    entries = [_input(entry) for entry in inputs]
    if num_brackets != 1 + sum(lists for _, lists in entries) + (outputs is not None):
        raise ValueError("unusual")
    read["inputs"] = [entry for entry, _ in entries]
    if outputs is not None:
        if len(outputs) > _MAX_MEMBERS:
            raise ValueError("unusual")
        read["outputs"] = [_entry(entry) for entry in outputs]
    _convert_parameters(read, but=("inputs", "outputs"))
    return read


def _members(value: Any) -> dict[str, Any]:
    """An object's members; of a name that stands twice the last one would count, which is unusual enough."""
    if len(value) > _MAX_MEMBERS:
        raise ValueError("unusual")
    read = {name: value[name] for name in value}
    if len(read) < len(value):
        raise ValueError("unusual")
    return read


def _input(entry: Any) -> tuple[dict[str, Any], int]:
    """One input, its `data` as a flat array, and how many lists its `shape` and `data` are made of."""
    read = _members(entry)
    data, dims = read.get("data"), read.get("shape")
    if not isinstance(data, simdjson.Array) or not isinstance(dims, simdjson.Array):
        raise ValueError("unusual")
    shape: list[Any] = dims.as_list()
    read["shape"] = shape
    if any(type(dim) is not int for dim in shape):
        raise ValueError("unusual")
    is_nested = len(shape) > 1 and len(data) > 0 and isinstance(data[0], simdjson.Array)
    num_lists = _num_lists(data, shape) if is_nested else 1
    read["data"] = _numbers(data, read.get("datatype"))
    _convert_parameters(read, but=("data", "shape"))
    return read, 1 + num_lists


def _num_lists(data: Any, shape: list[int]) -> int:
    """How many lists nested data is made of, each as long as `shape` says; raises ValueError otherwise."""
    if not isinstance(data, simdjson.Array) or len(data) != shape[0]:
        raise ValueError("unusual")
    return 1 if len(shape) == 1 else 1 + sum(_num_lists(part, shape[1:]) for part in data)


def _entry(entry: Any) -> dict[str, Any]:
    read = _members(entry)
    _convert_parameters(read, but=())
    return read


def _convert_parameters(read: dict[str, Any], but: tuple[str, ...]) -> None:
    """Parameters to a dict of scalars; every other member must be a scalar."""
    for name, value in read.items():
        if isinstance(value, _SCALARS) or name in but:
            continue
        if name != "parameters" or not isinstance(value, simdjson.Object):
            raise ValueError("unusual")
        read[name] = _members(value)
        if not all(isinstance(parameter, _SCALARS) for parameter in read[name].values()):
            raise ValueError("unusual")


def _numbers(data: simdjson.Array, datatype: Any) -> np.ndarray:
    """All numbers in a row, nested or not; raises what simdjson raises if one is not of this kind."""
    if isinstance(datatype, str) and datatype.startswith("FP"):
        return np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    return np.frombuffer(data.as_buffer(of_type="i"), np.int64)
