"""The quick way through a JSON request: flat numbers go to arrays without becoming Python objects.

In: the bytes of a request.  Out: the document, where `data` that is a flat list of numbers is an array
(float64 or int64); or None when anything is unusual, and the thorough way tells what.

simdjson keeps what it parsed on a tape of its own; `data` is copied from there in one piece. A tape does not
say whether numbers were nested, so a document with more brackets than flat data needs goes the thorough way;
so does one that holds objects or arrays where the protocol has none, however deep.
"""

import threading
from typing import Any

import numpy as np
import simdjson

_LONGEST_KEPT = 1 << 20  # a parser keeps memory of the size of its longest document
_SCALARS = (str, int, float, bool, type(None))


class _Kept(threading.local):
    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_kept = _Kept()


def quick_document(raw: bytes) -> dict[str, Any] | None:
    """The document, or None if it is not plain."""
    if raw[:1] != b"{":
        return None
    parser = _kept.parser if len(raw) <= _LONGEST_KEPT else simdjson.Parser()
    try:
        return _document(parser.parse(raw), raw.count(b"["))
    except (ValueError, TypeError, RuntimeError, LookupError):
        _kept.parser = simdjson.Parser()  # the old one may still be held by the error
        return None


def _document(document: Any, num_brackets: int) -> dict[str, Any]:
    read = {name: document[name] for name in document}
    inputs, outputs = read.get("inputs"), read.get("outputs")
    if not isinstance(inputs, simdjson.Array) or len(read) < len(document):
        raise ValueError("unusual")
    if num_brackets != 1 + 2 * len(inputs) + (outputs is not None):
        raise ValueError("unusual")
    read["inputs"] = [_input(entry) for entry in inputs]
    if outputs is not None:
        read["outputs"] = [_entry(entry) for entry in outputs]
    _convert_parameters(read, but=("inputs", "outputs"))
    return read


def _input(entry: Any) -> dict[str, Any]:
    read = {name: entry[name] for name in entry}
    data, shape = read.get("data"), read.get("shape")
    if not isinstance(data, simdjson.Array) or not isinstance(shape, simdjson.Array):
        raise ValueError("unusual")
    read["data"] = _numbers(data, read.get("datatype"))
    read["shape"] = shape.as_list()
    _convert_parameters(read, but=("data", "shape"))
    if len(read) < len(entry) or any(type(dim) is not int for dim in read["shape"]):
        raise ValueError("unusual")
    return read


def _entry(entry: Any) -> dict[str, Any]:
    read = {name: entry[name] for name in entry}
    _convert_parameters(read, but=())
    if len(read) < len(entry):  # of a name that stands twice, the last one counts
        raise ValueError("unusual")
    return read


def _convert_parameters(read: dict[str, Any], but: tuple[str, ...]) -> None:
    """Parameters to a dict of scalars; every other member must be a scalar."""
    for name, value in read.items():
        if isinstance(value, _SCALARS) or name in but:
            continue
        if name != "parameters" or not isinstance(value, simdjson.Object):
            raise ValueError("unusual")
        read[name] = {key: value[key] for key in value}
        if len(read[name]) < len(value) or not all(
            isinstance(told, _SCALARS) for told in read[name].values()
        ):
            raise ValueError("unusual")


def _numbers(data: simdjson.Array, datatype: Any) -> np.ndarray:
    """A flat array; raises what simdjson raises if an element is not a number of this kind."""
    if isinstance(datatype, str) and datatype.startswith("FP"):
        return np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    return np.frombuffer(data.as_buffer(of_type="i"), np.int64)
