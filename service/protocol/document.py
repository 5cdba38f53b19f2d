"""The JSON of a request: bytes in, one object out.

In: the JSON part of a body.  Out: a dict, or BadRequest; nested at most 100 deep.

A document is weighed before it is built: as a Python object a string or a list costs up to 60 times its
bytes, and the interpreter's lock is held while it is made.  So 60 MB of `"ab",` would cost 3 GB and stop
every other request for seconds.  No request needs many strings, nor more numbers than its model takes.
"""

import re
from typing import Any

import numpy as np
import orjson

from service.contract.bytes_like import Buffer
from service.errors import BadRequest

MAX_DEPTH = 100
MAX_BRACKETS = 1_000_000  # each costs some hundred bytes of memory, however few of the body
MAX_STRINGS = 20_000  # keys are strings too, so this bounds members as well
_LIGHT = 64 * 1024  # bytes: whatever such a document holds, it is built within a few milliseconds
_CHUNK = 1 << 20

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# No JSON begins with such a byte, or has such a control character anywhere.
_NEVER_JSON = re.compile(rb"""\A[ \t\r\n]*[^ \t\r\n{["\-0-9tfn]|[\x00-\x08\x0b\x0c\x0e-\x1f]""")
_NO_OBJECT = "the request must be one JSON object"
_BLANKS = b" \t\r\n"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_weight(text: Buffer, max_elements: int) -> None:
    """Raise BadRequest if the JSON holds more strings, lists or elements than any request for a model needs.

    `max_elements` is how many numbers the model's inputs take in one request.  Nested lists put at most one
    more comma beside each number.  Counts are upper bounds: what stands inside a string is counted too.
    """
    if len(text) <= _LIGHT:
        return
    characters = np.frombuffer(text, np.uint8)
    quotes = commas = brackets = 0
    for start in range(0, len(characters), _CHUNK):  # in chunks, so that other threads run in between
        chunk = characters[start : start + _CHUNK]
        quotes += int(np.count_nonzero(chunk == ord('"')))
        commas += int(np.count_nonzero(chunk == ord(",")))
        brackets += int(np.count_nonzero(chunk == ord("[")) + np.count_nonzero(chunk == ord("{")))
    for found, what, limit in (
        (quotes // 2, "strings", MAX_STRINGS),
        (brackets, "arrays and objects", MAX_BRACKETS),
        (commas, "elements", 2 * (max_elements + MAX_STRINGS)),
    ):
        if found > limit:
            raise BadRequest(f"the request's JSON has {found} {what}, at most {limit} are allowed")


def check_text_start(start: Buffer) -> None:
    """Raise BadRequest if no JSON object begins with these bytes."""
    if (found := _NEVER_JSON.search(start)) is not None:
        raise BadRequest(f"the request is not JSON: unexpected byte at byte {found.end() - 1}")
    if bytes(start).lstrip(_BLANKS)[:1] not in (b"{", b""):
        raise BadRequest(_NO_OBJECT)


def read_document(text: Buffer, max_elements: int = 0) -> dict[str, Any]:
    """Check the weight, parse, and check that it is one object and not nested too deep; raises BadRequest.

    `max_elements` is that of `check_weight`.
    """
    raw = bytes(text)
    check_weight(raw, max_elements)
    num_brackets = raw.count(b"[") + raw.count(b"{")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(_why(raw, error)) from None
    if type(document) is not dict:
        raise BadRequest(_NO_OBJECT)
    if num_brackets > MAX_DEPTH and (depth := _depth(raw)) > MAX_DEPTH:
        raise BadRequest(f"the request's JSON is nested {depth} deep, at most {MAX_DEPTH} is allowed")
    return document


def may_hold_bools(text: Buffer) -> bool:
    """False if neither `true` nor `false` occurs in the text, so that no element need be checked."""
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
