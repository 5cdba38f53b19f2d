"""int8 as measured and as kept: honest nets on both sides, the cache, several processes, memory."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import service.engine.precision
from control_kit import control
from export.int8.cpu import saturates
from int8_kit import large_net, made_slow, quantized, write_int8_bundle
from saturation_kit import saturating
from service.contract.bundle import Bundle, open_bundle
from service.engine.engine import Engine, EngineConfig
from service.engine.precision import load_fastest
from service_kit import resident_mb, serving, wait_until
from tiny_nets import digits_net

CONFIG = EngineConfig(device="cpu", threads=2, buckets=(1, 4, 8))
FASTER, SLOWER = {8: 3.0, 1: 2.0}, {8: 0.5, 1: 2.0}
RELOADS, GROWTH_MB = 4, 15  # large_net: 9.4 MB of weights in float32, as many again in its bundle


def bundle_of(folder: Path, **options: Any) -> Bundle:
    return open_bundle(write_int8_bundle(folder / "digits" / "1", **options))


def digits_in_int8() -> bytes:
    net = digits_net()
    return quantized(net, net.rows(40))


def of(engine: Engine) -> tuple[str, bool]:
    """The precision, and whether a reason is given for float32."""
    return engine.precision.name, engine.precision.reason is not None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measurements are what the test says; the list has one entry for each."""
    done: list[str] = []

    def tell(ratios: dict[int, float]) -> list[str]:
        def measure(*_: object) -> dict[int, float]:
            done.append("measured")
            return ratios

        monkeypatch.setattr(service.engine.precision, "_measured", measure)
        return done

    return tell


def test_a_net_that_is_faster_in_int8_is_measured_so(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, net=large_net())
    assert bundle.int8 is not None
    engine = load_fastest(bundle, CONFIG)
    assert of(engine) == ("int8", False)
    answers = engine.run_all(0, bundle.golden.inputs)["logits"]
    assert np.array_equal(answers, bundle.int8.golden.outputs["logits"]), (
        "the golden int8 answers, to the bit"
    )


def test_a_net_that_is_slower_in_int8_is_measured_so(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, int8=made_slow(digits_in_int8()))
    engine = load_fastest(bundle, CONFIG)
    assert engine.precision.name == "float32"
    assert "× as fast as float32 here in batches of 8, expected over 1.05" in str(engine.precision.reason)
    answers = engine.run_all(0, bundle.golden.inputs)["logits"]
    np.testing.assert_allclose(answers, bundle.golden.outputs["logits"], atol=1e-4)


def test_golden_answers_of_a_cpu_that_saturated_do_not_replay_on_one_that_does_not(
    tmp_path: Path, measured: Any
) -> None:
    """int8.onnx is the quantizer's own here, and what saturates is its arithmetic: pairs in 16 bits.

    Nor the other way round, where this CPU is the one that saturates.
    """
    measured(FASTER)
    here, elsewhere = (16, 32) if saturates() else (32, 16)
    for bits, name in ((here, "int8"), (elsewhere, "float32")):
        bundle = bundle_of(tmp_path / name, golden_run=saturating(digits_in_int8(), bits))
        assert load_fastest(bundle, CONFIG).precision.name == name


@pytest.mark.parametrize("content", [b"garbage", b"\x00"])
def test_a_file_that_is_no_graph_leaves_float32(tmp_path: Path, content: bytes) -> None:
    assert of(load_fastest(bundle_of(tmp_path, int8=content), CONFIG)) == ("float32", True)


def test_whatever_else_int8_makes_a_library_raise_leaves_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Engine:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(service.engine.precision, "_load_int8", broken)
    engine = load_fastest(bundle_of(tmp_path), CONFIG)
    assert engine.precision.name == "float32"
    assert "deep inside" in str(engine.precision.reason)


def test_off_tries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.engine.precision, "_load_int8", None)
    engine = load_fastest(bundle_of(tmp_path), dataclasses.replace(CONFIG, int8="off"))
    assert engine.precision.reason == "FOLDSERVE_INT8 is off"


def test_on_another_device_float32_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = service.engine.precision.load_engine

    def on_cuda(bundle: Bundle, config: EngineConfig) -> Engine:
        engine = load(bundle, config)
        engine.provider = "CUDAExecutionProvider"
        return engine

    monkeypatch.setattr(service.engine.precision, "load_engine", on_cuda)
    engine = load_fastest(bundle_of(tmp_path), CONFIG)
    assert engine.precision.reason == "int8 is for CPUs, this is CUDAExecutionProvider"


def test_what_was_measured_is_kept_and_decides_the_next_start(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, cache=tmp_path / "cache")
    bundle = bundle_of(tmp_path)
    done = measured(SLOWER)
    first = load_fastest(bundle, config).precision
    measured(FASTER)
    with monkeypatch.context() as patch:
        patch.setattr(service.engine.precision, "_load_int8", None)  # known to be slower: not even loaded
        again = load_fastest(bundle, config).precision
    assert (again, done) == (first, ["measured"])
    assert again.name == "float32"
    assert of(load_fastest(bundle, dataclasses.replace(config, threads=1))) == ("int8", False)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"null", b'{"1": 2}', b'{"8": -1, "1": 0}', b"\xff"]
)
def test_what_is_kept_and_cannot_be_read_is_measured_again(
    tmp_path: Path, measured: Any, content: bytes
) -> None:
    cache = tmp_path / "cache"
    config, bundle = dataclasses.replace(CONFIG, threads=1, lanes=1, cache=cache), bundle_of(tmp_path)
    done = measured(FASTER)
    load_fastest(bundle, config)
    (kept,) = cache.iterdir()  # plans are not measured where threads and lanes are given
    kept.write_bytes(content)
    assert (of(load_fastest(bundle, config)), done) == (("int8", False), ["measured"] * 2)
    assert json.loads(kept.read_text()) == {"8": 3.0, "1": 2.0}
    assert list(cache.iterdir()) == [kept]


def test_of_several_processes_the_first_to_finish_decides(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(SLOWER)
    keep = service.engine.precision._keep

    def after_another(path: Path, ratios: Any, exact: Engine) -> Any:
        keep(path, FASTER, exact)
        return keep(path, ratios, exact)

    monkeypatch.setattr(service.engine.precision, "_keep", after_another)
    assert of(load_fastest(bundle_of(tmp_path), dataclasses.replace(CONFIG, cache=tmp_path / "cache"))) == (
        "int8",
        False,
    )


def test_a_cache_that_cannot_be_written_is_harmless(tmp_path: Path, measured: Any) -> None:
    measured(FASTER)
    (tmp_path / "cache").write_text("in the way")
    assert of(load_fastest(bundle_of(tmp_path), dataclasses.replace(CONFIG, cache=tmp_path / "cache"))) == (
        "int8",
        False,
    )


@pytest.mark.parametrize("ratios", [FASTER, SLOWER])
def test_the_graph_that_does_not_serve_is_released(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch, ratios: dict[int, float]
) -> None:
    released: list[Engine] = []
    release = Engine.release

    def note(engine: Engine) -> None:
        released.append(engine)
        release(engine)

    monkeypatch.setattr(Engine, "release", note)
    measured(ratios)
    engine = load_fastest(bundle_of(tmp_path), CONFIG)
    (other,) = released
    assert other is not engine
    assert not other._buffers


def test_workers_answer_alike_and_reloads_return_the_memory_of_both_graphs(tmp_path: Path) -> None:
    write_int8_bundle(tmp_path / "models" / "fast" / "1", large_net())
    cache = ("--cache", str(tmp_path / "cache"), "--request-log", "off")
    with (
        serving(tmp_path / "models", "--workers", "2", "--threads", "2", *cache) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200, "both are ready")
        assert client.get("/metrics").text.count("foldserve_precision{") == 1
    with (
        serving(tmp_path / "models", "--model-control", *cache) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for _ in range(2):  # what grows once: caches, arenas of threads
            assert control(client, "load", "fast").status_code == 200
        before = resident_mb(server)
        for _ in range(RELOADS):
            assert control(client, "load", "fast").status_code == 200
        wait_until(lambda: resident_mb(server) < before + GROWTH_MB, "memory has come back")
