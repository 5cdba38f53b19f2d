"""Vectors 10, 11, 27: what the JSON of a request says beside its inputs."""

from collections.abc import Callable
from typing import Any

import pytest

from conformance.asking import Model, answered, same

Refused = Callable[..., str]


@pytest.mark.parametrize("told", ["42", "é", '"\\', "two\nlines", "x" * 1000])
def test_vector_10_the_id_comes_back(model: Model, told: str) -> None:
    """6.7"""
    document = answered(model.send(model.request(id=told)))[0]
    assert document["id"] == told


def test_vector_10_no_id_unless_given(model: Model, choose: Callable[..., Any]) -> None:
    """6.7: SHOULD be absent; MLServer and others invent one."""
    document = answered(model.send(model.request()))[0]
    choose("an id" if document.get("id") else "no id", "no id", "an id")


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def test_vector_11_outputs_in_the_order_asked(pair: Model) -> None:
    """6.7: request order if listed."""
    names = pair.output_names[::-1]
    document = answered(pair.send(pair.request(outputs=listed(*names))))[0]
    assert [told["name"] for told in document["outputs"]] == names


def test_vector_11_only_the_outputs_asked(pair: Model) -> None:
    """6.6.13: those that are listed, with the values that they have among all."""
    everything = answered(pair.send(pair.request()))[1]
    for name in pair.output_names:
        some = answered(pair.send(pair.request(outputs=listed(name))))[1]
        same(some, {name: everything[name]})


@pytest.mark.parametrize("members", [{}, {"outputs": []}])
def test_vector_11_all_outputs_unless_asked(model: Model, members: dict[str, Any]) -> None:
    """6.6.13: absent or []."""
    document = answered(model.send(model.request(**members)))[0]
    assert [told["name"] for told in document["outputs"]] == model.output_names


def test_vector_11_an_output_twice(model: Model, refused: Refused) -> None:
    """6.6.13: 400."""
    refused(model.send(model.request(outputs=listed(model.output_names[0], model.output_names[0]))), 400)
    model.works()


def test_vector_11_an_unknown_output(model: Model, refused: Refused) -> None:
    """6.6.13: 400."""
    refused(model.send(model.request(outputs=listed("no such output"))), 400)
    model.works()


def with_parameters(model: Model, **parameters: Any) -> Any:
    request = model.request()
    request.document.setdefault("parameters", {}).update(parameters)
    return request


@pytest.mark.parametrize("value", ["x", 1.5, 7, True])
def test_vector_27_unknown_parameters_are_ignored(model: Model, value: Any) -> None:
    """6.6.14"""
    answered(model.send(with_parameters(model, mine=value)))


def test_vector_27_unknown_members_are_ignored(model: Model) -> None:
    """6.6.3"""
    answered(model.send(model.request(model_name="other", more={"deep": [None]})))


def test_vector_27_triton_parameters_are_reserved(model: Model, refused: Refused) -> None:
    """6.6.14: any triton_*, 400."""
    refused(model.send(with_parameters(model, triton_x="y")), 400)
    model.works()
