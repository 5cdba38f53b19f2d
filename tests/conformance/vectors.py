"""What each conformance vector asks for, in a few words: the rows of every table of results."""

import re

VECTORS = {
    1: "live, ready, model ready: 200 and 503 or 404",
    2: "metadata with and without version, unknown: 404",
    3: "flat data = nested data",
    4: "nested differently from the shape: 400",
    5: "one element too few or too many: 400, then 200",
    6: "negative, overflowing, huge shapes: 400 in < 50 ms, nothing allocated",
    7: "each datatype makes the round trip, JSON and binary",
    8: "UINT8 of 256, −1, 1.5, true: 400",
    9: "FP16 in JSON: 400, binary: 200",
    10: "id comes back, or is absent",
    11: "outputs: subset, order, duplicate, unknown",
    12: "JSON and binary inputs in one request",
    13: "Inference-Header-Content-Length: none, 0, −1, x, too long, 2^40",
    14: "one byte too few or too many after the JSON: 400",
    15: "data and binary_data_size at once: 400",
    16: "which outputs are binary",
    17: "gzip, deflate; zip bomb: 413; unknown encoding: 415",
    18: "no Content-Type is needed",
    19: '404 and 405 are {"error"}',
    20: "JSON nested 101 deep: 400",
    21: "more rows than a batch holds: split, or 400",
    22: "queue full: 503 and Retry-After",
    23: "timeout of 1 µs: 504, its batch-mates unharmed",
    24: "hung up while waiting: never executed",
    25: "answers that are not finite",
    26: "zero rows: 200 or 400",
    27: "unknown parameter ignored, triton_x: 400",
    28: "/v2 = /v2/",
    29: "percent-encoded model names",
    30: "the connection is used again after each error",
    31: "1000 invalid headers: memory stays flat",
    32: "reload under load: nothing but 200",
    33: "SIGTERM under load: every accepted request answered",
}

_NAME = re.compile(r"test_vector_(\d\d)_")


def vector_of(test: str) -> int | None:
    """The vector that a test belongs to, by its name."""
    found = _NAME.search(test)
    return int(found[1]) if found else None
