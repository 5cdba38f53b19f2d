"""tritonclient.http, unmodified: statistics, configuration, the repository. docs/protocol.md, 6.10."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from client_kit import given, pictures
from service_kit import Server, every_net, serving

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
CACHE = ("cache_hit", "cache_miss")  # perf_analyzer reads them, so they exist


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of a test's own: it counts from nothing."""
    with serving(every_net(tmp_path / "models"), environment={"FOLDSERVE_MODEL_CONTROL": "true"}) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


def ask(client: Any, num_rows: int, **options: Any) -> Any:
    return client.infer("digits", [given("input", pictures(num_rows)[0], "FP32", is_binary=True)], **options)


def statistics(client: Any) -> dict[str, Any]:
    (told,) = client.get_inference_statistics("digits")["model_stats"]
    return told


def test_statistics_count_what_was_asked(client: Any) -> None:
    """6.10.1: rows, batches, requests; nanoseconds that only grow; every key that perf_analyzer reads."""
    before = statistics(client)
    assert (before["name"], before["version"]) == ("digits", "1")
    assert (before["inference_count"], before["execution_count"]) == (0, 0)
    for num_rows in (1, 3, 5):
        ask(client, num_rows)
    with pytest.raises(InferenceServerException):
        ask(client, 1, timeout=1)
    after = statistics(client)
    assert (after["inference_count"], after["execution_count"]) == (9, 3)
    told = after["inference_stats"]
    assert set(told) >= {*DURATIONS, *CACHE}
    assert told["success"]["count"] == 3
    assert told["fail"]["count"] == 1
    assert told["compute_infer"]["ns"] > 0
    assert told["success"]["ns"] >= told["compute_infer"]["ns"]
    for kind in (*DURATIONS, *CACHE):
        for number in told[kind].values():
            assert type(number) is int
            assert number >= 0
    assert after["last_inference"] > 1.6e12, "milliseconds since 1970"
    assert sum(size["compute_infer"]["count"] for size in after["batch_stats"]) == 3
    assert {"batch_size", "compute_input", "compute_infer", "compute_output"} <= set(after["batch_stats"][0])
    assert after["memory_usage"] == []


def test_statistics_of_all_models_and_of_one_version(client: Any) -> None:
    """6.2: /v2/models/stats comes before a model of that name."""
    everything = client.get_inference_statistics()["model_stats"]
    assert {"digits", "pair", "a model", "echo-uint8"} <= {told["name"] for told in everything}
    (one,) = client.get_inference_statistics("digits", "1")["model_stats"]
    assert one["name"] == "digits"


def test_configuration(client: Any) -> None:
    """6.10.2: dims without rows, whose most is `max_batch_size`."""
    told = client.get_model_config("digits")
    assert told["name"] == "digits"
    assert told["platform"] == "onnxruntime_onnx"
    assert told["max_batch_size"] > 0
    assert (
        told["input"][0].items() >= {"name": "input", "data_type": "TYPE_FP32", "dims": [1, 28, 28]}.items()
    )
    assert told["output"][0].items() >= {"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}.items()
    assert type(told["dynamic_batching"]["max_queue_delay_microseconds"]) is int
    assert client.get_model_config("digits", "1") == told
    types = {"a": "TYPE_FP32", "b": "TYPE_INT64"}
    assert {one["name"]: one["data_type"] for one in client.get_model_config("pair")["input"]} == types


def test_the_extensions_that_work_are_named(client: Any) -> None:
    """6.4: and no others."""
    named = set(client.get_server_metadata()["extensions"])
    works = {"binary_tensor_data", "classification", "model_configuration", "model_repository"}
    assert named >= {*works, "parameters", "schedule_policy", "statistics"}
    for unsupported in (client.get_log_settings, client.get_trace_settings):
        with pytest.raises(InferenceServerException):
            unsupported()
    assert not named & {"logging", "trace", "sequence", "system_shared_memory", "cuda_shared_memory"}


def states(client: Any) -> dict[str, str]:
    return {told["name"]: told["state"] for told in client.get_model_repository_index()}


def test_a_model_is_unloaded_and_loaded(client: Any) -> None:
    """6.10.3: gone for those who ask, back when `load` has answered; the others never notice."""
    assert set(states(client).values()) == {"READY"}
    client.unload_model("digits")
    assert states(client)["digits"] == "UNAVAILABLE"
    assert states(client)["pair"] == "READY"
    assert not client.is_model_ready("digits")
    with pytest.raises(InferenceServerException) as refused:
        ask(client, 1)
    assert refused.value.status() in ("404", "503")
    client.load_model("digits")
    assert states(client)["digits"] == "READY"
    assert client.is_model_ready("digits")
    assert ask(client, 2).as_numpy("logits").shape == (2, 10)


def test_load_takes_no_configuration_and_no_files(client: Any) -> None:
    """6.10.3: 501, and the model stays as it was."""
    for inline in ({"config": '{"name": "digits"}'}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("digits", **inline)
        assert refused.value.status() == "501"
    assert ask(client, 1).as_numpy("logits").shape == (1, 10)


def test_unknown_models_are_neither_loaded_nor_unloaded(client: Any) -> None:
    """6.10.3: an error, and the rest still serves."""
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException) as refused:
            change("no-such-model")
        assert refused.value.status() in ("400", "404")
    assert ask(client, 1).as_numpy("logits").shape == (1, 10)


def test_without_model_control_nobody_loads(tmp_path: Path) -> None:
    """6.10.3: off by default; the index can be read."""
    with (
        serving(every_net(tmp_path / "more")) as closed,
        triton.InferenceServerClient(f"127.0.0.1:{closed.port}") as client,
    ):
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException):
                change("digits")
        assert ask(client, 1).as_numpy("logits").shape == (1, 10)
        assert states(client)["digits"] == "READY"
