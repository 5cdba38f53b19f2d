"""Vectors 7, 9: every datatype, as JSON and as bytes, through models that answer what they are given."""

from collections.abc import Callable

import numpy as np
import pytest

from conformance.asking import LENGTH, Arrays, Model, answered
from conformance.tensors import NOT_IN_JSON, NUMPY, extreme_values

Refused = Callable[..., str]


def extremes(model: Model) -> Arrays:
    """Two rows of the datatype's extreme values."""
    (told,) = model.inputs
    shape = model.shape(told, 2)
    values = extreme_values(told["datatype"], int(np.prod(shape)))
    return {told["name"]: values.reshape(shape)}


def comes_back(model: Model, arrays: Arrays, answer: tuple[dict, Arrays]) -> None:
    document, outputs = answer
    (sent,) = arrays.values()
    (output,) = outputs.values()
    assert document["outputs"][0]["datatype"] == model.inputs[0]["datatype"]
    np.testing.assert_array_equal(output, sent)


@pytest.mark.parametrize("datatype", NUMPY)
def test_vector_07_as_bytes(model_of: Callable[[str], Model], datatype: str) -> None:
    """6.6, 6.8.5: little-endian, row-major, both ways."""
    model = model_of(datatype)
    arrays = extremes(model)
    request = model.request(arrays, binary=True, parameters={"binary_data_output": True})
    response = model.send(request)
    comes_back(model, arrays, answered(response))
    assert LENGTH in response.headers


@pytest.mark.parametrize("datatype", sorted(NUMPY.keys() - NOT_IN_JSON))
def test_vector_07_as_json(model_of: Callable[[str], Model], datatype: str) -> None:
    """6.6: JSON both ways; every value of the datatype is the same afterwards."""
    model = model_of(datatype)
    arrays = extremes(model)
    response = model.send(model.request(arrays, binary=False))
    comes_back(model, arrays, answered(response))
    assert response.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("datatype", sorted(NOT_IN_JSON))
def test_vector_09_sixteen_bits_in_json(
    model_of: Callable[[str], Model], refused: Refused, datatype: str
) -> None:
    """6.6.12: 400."""
    model = model_of(datatype)
    request = model.request(binary=False)
    refused(model.send(request), 400)
    model.works()


@pytest.mark.parametrize("datatype", sorted(NOT_IN_JSON))
def test_vector_09_sixteen_bits_answered_in_json(
    model_of: Callable[[str], Model], refused: Refused, datatype: str
) -> None:
    """6.7: an answer in JSON is refused too."""
    model = model_of(datatype)
    request = model.request(binary=True, parameters={"binary_data_output": False})
    refused(model.send(request), 400)


@pytest.mark.parametrize("datatype", sorted(NOT_IN_JSON))
def test_vector_09_sixteen_bits_as_bytes(model_of: Callable[[str], Model], datatype: str) -> None:
    """6.8: 200."""
    model = model_of(datatype)
    answered(model.send(model.request(binary=True, parameters={"binary_data_output": True})))
