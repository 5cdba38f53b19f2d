"""Vectors 12, 13, 14, 15, 16: tensors as bytes behind the JSON."""

from collections.abc import Callable
from typing import Any

import pytest

from conformance.asking import LENGTH, Model, answered, same
from conformance.tensors import to_bytes
from conformance.wire import ask_once

Refused = Callable[..., str]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_vector_12_json_and_bytes_mix(pair: Model, which: int, backwards: bool) -> None:
    """6.8.3: any of the inputs may be bytes, in any order of the inputs."""
    arrays = pair.rows(seed=1)
    expected = answered(pair.send(pair.request(arrays)))[1]
    mixed, in_bytes = pair.request(arrays), pair.request(arrays, binary=True)
    mixed.document["inputs"][which] = in_bytes.document["inputs"][which]
    mixed.tail = to_bytes(arrays[pair.inputs[which]["name"]])
    if backwards:
        mixed.document["inputs"].reverse()
    same(answered(pair.send(mixed))[1], expected)


def test_vector_12_two_in_bytes_backwards(pair: Model) -> None:
    """6.8.3: the tail is in the order of the request's inputs, not of the model's."""
    arrays = pair.rows(seed=2)
    request = pair.request(arrays, binary=True)
    request.document["inputs"].reverse()
    names = [told["name"] for told in request.document["inputs"]]
    request.tail = b"".join(to_bytes(arrays[name]) for name in names)
    same(answered(pair.send(request))[1], answered(pair.send(pair.request(arrays)))[1])


def length_of(model: Model, url: str, value: str | None, *, tail: bool = True) -> Any:
    """A binary request that says `value` is the length of its JSON."""
    request = model.request(binary=True)
    body = request.body if tail else request.body.removesuffix(request.tail)
    value = value and value.replace("TOO LONG", str(len(body) + 1))
    kind = {"Content-Type": "application/octet-stream"}
    return ask_once(url, "POST", model.path, body, kind if value is None else {**kind, LENGTH: value})


@pytest.mark.parametrize("value", [None, "-1", "x", "TOO LONG", str(2**40)])
def test_vector_13_wrong_lengths(url: str, model: Model, refused: Refused, value: str | None) -> None:
    """6.8.1, 6.8.2: 400, and the next request works."""
    refused(length_of(model, url, value), 400)
    model.works()


def test_vector_13_bytes_announced_without_a_length(url: str, model: Model, refused: Refused) -> None:
    """6.8.1: all of the body is JSON, whose inputs claim bytes: 400."""
    refused(length_of(model, url, None, tail=False), 400)


def test_vector_13_zero_with_a_body_of_another_size(url: str, model: Model, refused: Refused) -> None:
    """6.8: 0 says that the whole body is the one tensor; this one is not as long: 400."""
    refused(length_of(model, url, "0"), 400)
    model.works()


def test_vector_13_zero_is_a_raw_tensor(url: str, model: Model) -> None:
    """6.8: the body is one row of the only input; all outputs are bytes."""
    if len(model.inputs) != 1 or model.inputs[0]["datatype"] == "BYTES":
        pytest.skip("the model has not one input of fixed size")
    arrays = model.rows(1, seed=3)
    (array,) = arrays.values()
    headers = {"Content-Type": "application/octet-stream", LENGTH: "0"}
    raw = ask_once(url, "POST", model.path, to_bytes(array), headers)
    asked = model.request(arrays, parameters={"binary_data_output": True})
    same(answered(raw)[1], answered(model.send(asked))[1])
    assert LENGTH in raw.headers


@pytest.mark.parametrize("change", [-1, 1])
def test_vector_14_the_tail_is_exactly_the_tensors(model: Model, refused: Refused, change: int) -> None:
    """6.8.4: one byte too few or too many, 400; twice, because a server may remember the JSON."""
    for _ in range(2):
        request = model.request(binary=True)
        request.tail = request.tail[:-1] if change < 0 else request.tail + b"\0"
        refused(model.send(request), 400)
        model.works()
        answered(model.send(model.request(binary=True)))


@pytest.mark.parametrize("change", [-1, 1])
def test_vector_14_binary_data_size_is_the_shapes(model: Model, refused: Refused, change: int) -> None:
    """6.8.4: it must be what the shape and the datatype say, even where the tail has as many bytes."""
    request = model.request(binary=True)
    request.document["inputs"][-1]["parameters"]["binary_data_size"] += change
    request.tail = request.tail[:-1] if change < 0 else request.tail + b"\0"
    refused(model.send(request), 400)


def test_vector_15_data_from_two_places(model: Model, refused: Refused) -> None:
    """6.6.4: `data` and `binary_data_size`, 400."""
    both, in_json = model.request(binary=True), model.json_request()
    both.first["data"] = in_json.first["data"]
    refused(model.send(both), 400)
    model.works()


@pytest.mark.parametrize(
    ("all_binary", "flag", "ours", "other"),
    [
        (True, None, "bytes", "JSON"),
        (True, "listed", "bytes", "JSON"),
        (True, True, "bytes", None),
        (True, False, "JSON", None),
        (False, None, "JSON", None),
        (False, "listed", "JSON", None),
        (False, True, "bytes", None),
        (False, False, "JSON", None),
        (None, True, "bytes", None),
        (None, "listed", "JSON", None),
        (None, None, "JSON", None),
    ],
)
def test_vector_16_which_outputs_are_binary(
    model: Model, choose: Callable[..., Any], all_binary: bool | None, flag: Any, ours: str, other: str | None
) -> None:
    """6.8: the output's flag, else the request's, else JSON; where only the request has one, they differ."""
    members: dict[str, Any] = {} if all_binary is None else {"parameters": {"binary_data_output": all_binary}}
    if flag is not None:
        told = {} if flag == "listed" else {"parameters": {"binary_data": flag}}
        members["outputs"] = [{"name": name, **told} for name in model.output_names]
    answer = model.send(model.json_request(**members))
    document = answered(answer)[0]
    forms = {"JSON" if "data" in told else "bytes" for told in document["outputs"]}
    (form,) = forms
    choose(form, ours, *([other] if other else []))
    assert (LENGTH in answer.headers) == (form == "bytes"), "tritonclient goes by this header alone"
    kind = "application/octet-stream" if form == "bytes" else "application/json"
    told = answer.headers.get("content-type", "none")
    assert told.startswith(kind), f"Content-Type of {form}: {told}"
