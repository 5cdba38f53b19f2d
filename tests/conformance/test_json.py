"""Vectors 3, 4, 5, 6, 8, 20: tensors in JSON."""

import time
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from conformance.asking import LENGTH, Model, Request, answered, same
from conformance.memory import peak_of_addresses_mb

Refused = Callable[..., str]


def json_with(model: Model, data: Any) -> Request:
    """A request whose first input holds `data`."""
    request = model.json_request(model.rows(2 if model.has_rows else 1))
    request.first["data"] = data
    return request


def values(model: Model) -> np.ndarray:
    """What `json_with` would send of the first input; it has more than one dimension and element."""
    array = model.rows(2 if model.has_rows else 1)[model.inputs[0]["name"]]
    if array.ndim < 2 or array.size < 2 or array.dtype == object:
        pytest.skip(f"an input of shape {list(array.shape)} can be nested in one way only")
    return array


def test_vector_03_flat_equals_nested(model: Model) -> None:
    """6.6.10: row-major, either way."""
    array = values(model)
    flat = answered(model.send(json_with(model, array.ravel().tolist())))
    nested = answered(model.send(json_with(model, array.tolist())))
    same(flat[1], nested[1])


def test_vector_03_answers_are_flat(model: Model) -> None:
    """6.7: the answer's data is flat, its shape beside it."""
    for told in answered(model.send(model.json_request()))[0]["outputs"]:
        if "data" in told:
            assert not any(isinstance(element, list) for element in told["data"])
            assert len(told["data"]) == prod(told["shape"])


def transposed(array: np.ndarray) -> Any:
    return array.reshape(array.shape[::-1]).tolist() if array.shape != array.shape[::-1] else None


def too_deep(array: np.ndarray) -> Any:
    return np.expand_dims(array, 1).tolist()


def ragged(array: np.ndarray) -> Any:
    """As many elements, but the first of the innermost lists has one too few, the last one too many."""
    data = array.tolist()
    first, last = data[0], data[-1]
    while isinstance(first[0], list):
        first, last = first[0], last[-1]
    if first is last:
        return None
    last.append(first.pop())
    return data


@pytest.mark.parametrize("nest", [transposed, too_deep, ragged])
def test_vector_04_nested_otherwise_than_the_shape(
    model: Model, refused: Refused, nest: Callable[[np.ndarray], Any]
) -> None:
    """6.6.10 [US]: as many elements, in other brackets, 400; Triton and OVMS only count (200)."""
    data = nest(values(model))
    if data is None:
        pytest.skip("the model's shape looks the same either way")
    refused(model.send(json_with(model, data)), 400, 200)
    model.works()


@pytest.mark.parametrize("change", [-1, 1])
def test_vector_05_count_of_elements(model: Model, refused: Refused, change: int) -> None:
    """6.6.10: one too few or too many, 400 [US] (Triton: 500), and the next request works."""
    request = model.json_request()
    data = request.first["data"]
    request.first["data"] = data[:-1] if change < 0 else [*data, data[0]]
    refused(model.send(request), 400, 500)
    model.works()


SHAPES = [-1, -(2**63), 2**31, 2**40, 2**60 + 2, 2**62, 2**63, 2**64]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dim", SHAPES)
def test_vector_06_impossible_shapes(model: Model, refused: Refused, dim: int, binary: bool) -> None:
    """6.6.5: negative, overflowing, far more than the data: 400."""
    request = model.request(binary=True) if binary else model.json_request()
    request.first["shape"][0] = dim
    refused(model.send(request), 400)
    model.works()


@pytest.mark.parametrize("dim", SHAPES)
def test_vector_06_they_are_refused_quickly(model: Model, dim: int) -> None:
    """6.13: in < 50 ms. The best of five on a machine that may be busy, and ten times as long, is allowed."""
    request = model.request(binary=True)
    request.first["shape"][0] = dim
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        assert model.send(request).status_code >= 400
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 10 * 0.050, f"{min(seconds) * 1e3:.0f} ms"


def test_vector_06_nothing_is_allocated(model: Model, option: Callable[[str], Any]) -> None:
    """6.6.5: sizes are checked before anything of them is allocated."""
    pid = option("--pid")
    model.works()
    before = peak_of_addresses_mb(pid)
    for dim in (2**22, 2**28, 2**31, 2**40):  # at least one is more than 1 GiB and less than a machine has
        request = model.request(binary=True)
        request.first["shape"][0] = dim
        model.send(request)
    assert peak_of_addresses_mb(pid) - before < 1024


@pytest.mark.parametrize("value", [256, -1, 1.5, True])
def test_vector_08_what_is_no_uint8(model_of: Callable[[str], Model], refused: Refused, value: Any) -> None:
    """6.6.11: 400."""
    model = model_of("UINT8")
    request = model.json_request()
    request.first["data"][0] = value
    refused(model.send(request), 400)
    model.works()


def deep(request: Request, depth: int) -> bytes:
    """The request's JSON with a member that makes it `depth` deep in all."""
    brackets = "[" * (depth - 1) + "]" * (depth - 1)
    request.document["unknown"] = "DEEP"
    return request.body.replace(b'"DEEP"', brackets.encode())


@pytest.mark.parametrize("depth", [101, 1000, 100_000])
def test_vector_20_json_that_is_too_deep(model: Model, refused: Refused, depth: int) -> None:
    """6.6.1: deeper than 100, 400, and the server lives."""
    refused(model.post(deep(model.json_request(), depth)), 400)
    model.works()


def test_vector_20_a_hundred_deep_is_allowed(model: Model) -> None:
    """6.6.1: up to 100, 200."""
    answered(model.post(deep(model.json_request(), 100)))


def test_vector_20_deep_json_in_front_of_bytes(model: Model, refused: Refused) -> None:
    """6.6.1, 6.8.3: the same for the JSON of a binary request."""
    request = model.request(binary=True)
    tail, request.tail = request.tail, b""
    head = deep(request, 101)
    refused(model.post(head + tail, {LENGTH: str(len(head))}), 400)
