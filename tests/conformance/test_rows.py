"""Vectors 21, 25, 26: more rows than a batch holds, none at all, and answers that are not numbers."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conformance.asking import LENGTH, Model, answered, same

Refused = Callable[..., str]


@pytest.fixture
def batched(model: Model) -> Model:
    if not model.has_rows:
        pytest.skip("the model takes no rows: its first dimension is fixed")
    return model


@pytest.mark.parametrize("factor", [1, 3])
def test_vector_21_more_rows_than_a_batch(
    batched: Model, refused: Refused, choose: Callable[..., Any], request: pytest.FixtureRequest, factor: int
) -> None:
    """6.6.9: 400, or split, and then every row has its own answer. Either is right; ours splits."""
    num_rows = factor * request.config.getoption("--batch-rows") + 1
    arrays = batched.rows(num_rows, seed=4)
    answer = batched.send(batched.request(arrays))
    if choose("split" if answer.status_code == 200 else "refused", "split", "refused") == "refused":
        refused(answer, 400)
        return
    together = answered(answer)[1]
    for row in (0, num_rows // 2, num_rows - 1):
        alone = {name: array[row : row + 1] for name, array in arrays.items()}
        apart = answered(batched.send(batched.request(alone)))[1]
        same({name: array[row : row + 1] for name, array in together.items()}, apart)


def test_vector_21_more_rows_than_ever(
    batched: Model, refused: Refused, option: Callable[[str], Any]
) -> None:
    """6.6.9: one more than the most, 400; the most, 200."""
    most = option("--max-rows")
    refused(batched.send(batched.request(batched.rows(most + 1))), 400)
    answered(batched.send(batched.request(batched.rows(most))))


def minus_ones(option: Callable[[str], Any], model: Model) -> tuple[Model, dict[str, np.ndarray]]:
    arrays = model.rows(1)
    return model, {name: np.full_like(array, -1) for name, array in arrays.items()}


def test_vector_25_in_json(option: Callable[[str], Any], model: Model, choose: Callable[..., Any]) -> None:
    """6.7 [US]: NaN and Infinity as Triton prints them and a parameter that says so, or 500; never null."""
    net, arrays = minus_ones(option, Model.read(model.client, option("--nan-model")))
    answer = net.send(net.request(arrays, binary=False))
    if choose(answer.status_code, 200, 500) == 500:
        return
    (told,) = json.loads(answer.content)["outputs"]
    assert None not in told["data"], "null is not what the model answered"
    assert not np.isfinite(np.array(told["data"], np.float64)).any()
    flag = told.get("parameters", {}).get("nonfinite")
    choose("flagged" if flag else "not flagged", "flagged", "not flagged")


def test_vector_25_in_bytes(option: Callable[[str], Any], model: Model) -> None:
    """6.7: bytes hold them as they are."""
    net, arrays = minus_ones(option, Model.read(model.client, option("--nan-model")))
    request = net.request(arrays, binary=True, parameters={"binary_data_output": True})
    (output,) = answered(net.send(request))[1].values()
    assert not np.isfinite(output).any()


@pytest.mark.parametrize("binary", [False, True])
def test_vector_26_zero_rows(
    batched: Model, choose: Callable[..., Any], refused: Refused, binary: bool
) -> None:
    """6.6.8 [US]: 200 with outputs of zero rows, or 400; no binary byte, so no header of their length."""
    if not binary:
        batched.json_request()
    arrays = batched.rows(0)
    answer = batched.send(batched.request(arrays, binary=binary, parameters={"binary_data_output": binary}))
    if choose(answer.status_code, 200, 400) == 400:
        refused(answer, 400)
    else:
        outputs = answered(answer)[1]
        assert list(outputs) == batched.output_names
        assert all(len(array) == 0 for array in outputs.values())
        assert LENGTH not in answer.headers
    batched.works()
