"""The JSON of a request: bytes in, one object out.

In: the JSON part of a body.  Out: a dict, or BadRequest; nested at most 100 deep.
"""

import re
from typing import Any

import numpy as np
import orjson

from service.errors import BadRequest

MAX_DEPTH = 100
MAX_BRACKETS = 1_000_000  # each costs some hundred bytes of memory, however few of the body

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_document(text: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Parse and check the outside."""
    raw = bytes(text)
    num_brackets = raw.count(b"[") + raw.count(b"{")
    if num_brackets > MAX_BRACKETS:
        raise BadRequest(f"the request's JSON has {num_brackets} arrays and objects, at most {MAX_BRACKETS}")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(_why(raw, error)) from None
    if type(document) is not dict:
        raise BadRequest("the request must be one JSON object")
    if num_brackets > MAX_DEPTH and (depth := _depth(raw)) > MAX_DEPTH:
        raise BadRequest(f"the request's JSON is nested {depth} deep, at most {MAX_DEPTH} is allowed")
    return document


def may_hold_bools(text: bytes | bytearray | memoryview) -> bool:
    """False if no `true` or `false` stands anywhere in the text, so that no element need be looked at."""
    raw = bytes(text)
    return b"true" in raw or b"false" in raw


def _depth(text: bytes) -> int:
    """How deep valid JSON is nested: +1 for [ and {, −1 for ] and }, those in strings apart."""
    brackets = np.frombuffer(_STRING.sub(b"", text).translate(None, _NOT_BRACKETS), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _why(text: bytes, error: orjson.JSONDecodeError) -> str:
    if b"NaN" in text or b"Infinity" in text:
        return (
            "the request is not JSON: NaN and Infinity are not JSON numbers; "
            "send them in the binary data format"
        )
    return f"the request is not JSON: {error.msg} at byte {error.pos}"
