"""`foldserve batch` and `bench` with an int8 graph: they say which graph answers, and a job keeps its own."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import service.engine.precision
from foldserve.batch.errors import BatchError
from foldserve.batch.job import Job, Options
from foldserve.commands.batch import main as batch
from foldserve.commands.bench import main as bench
from int8_kit import answers_of, write_int8_bundle
from service.contract.bundle import open_bundle
from service.engine.engine import EngineConfig
from tiny_nets import digits_net, write_bundle

ENGINE = EngineConfig(device="cpu", threads=1, lanes=1, buckets=(16,))
ROWS = digits_net().rows(40, seed=5)["input"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_int8_bundle(tmp_path / "models" / "digits" / "1")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.savez(tmp_path / "rows.npz", input=ROWS)
    return tmp_path / "rows.npz"


def killed(num_rows: int) -> None:
    """A job ends after its first part."""
    raise KeyboardInterrupt


def job_of(bundle: Path, rows: Path, ratio: float | None = None, **changes: object) -> Job:
    """A loaded job; `ratio` is what int8 is measured to gain."""
    with pytest.MonkeyPatch.context() as patch:
        if ratio is not None:
            patch.setattr(service.engine.precision, "_measured", lambda *_: {8: ratio, 1: ratio})
        engine = dataclasses.replace(ENGINE, **changes)  # type: ignore[arg-type]
        job = Job(
            bundle, rows, rows.with_name("o.parquet"), Options(engine=engine, with_outputs=True, part=8)
        )
        job.load()
    return job


@pytest.mark.parametrize(("before", "after", "name"), [(3.0, 0.5, "int8"), (0.5, 3.0, "float32")])
def test_a_job_that_continues_keeps_its_precision(
    bundle: Path, rows: Path, before: float, after: float, name: str
) -> None:
    first = job_of(bundle, rows, before)
    assert first.engine.precision.name == name
    with pytest.raises(KeyboardInterrupt):
        first.run(killed)
    second = job_of(bundle, rows, after)
    assert 0 < second.parts.num_rows < len(ROWS)
    assert second.engine.precision.name == name
    assert second.run(lambda done: None) == (len(ROWS), 0)
    found = np.stack(pyarrow.parquet.read_table(rows.with_name("o.parquet"))["output.logits"].to_numpy())
    opened = open_bundle(bundle)
    assert opened.int8 is not None
    if name == "int8":
        assert np.array_equal(found, answers_of(opened.int8.graph, {"input": ROWS})["logits"])
    else:
        np.testing.assert_allclose(found, digits_net().truth({"input": ROWS})["logits"], atol=1e-4)


def test_a_job_whose_precision_cannot_serve_here_says_so(
    bundle: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        job_of(bundle, rows, int8="require").run(killed)
    monkeypatch.setattr(service.engine.precision, "_why_no_int8", lambda *_: "this CPU is another")
    with pytest.raises(
        BatchError, match=r"not proved on this machine: int8 is required.*this CPU is another"
    ):
        job_of(bundle, rows)


@pytest.mark.parametrize(("use", "name"), [("require", "int8"), ("off", "float32")])
def test_both_commands_say_which(
    bundle: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    use: str, name: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(rows.parent / "cache"))
    monkeypatch.setattr("foldserve.commands.bench.SECONDS", 0.0)
    flags = ["--int8", use, "--device", "cpu", "--threads", "1"]
    assert batch([str(bundle), str(rows), str(rows.with_name("o.csv")), *flags], "batch") == 0
    assert json.loads(capsys.readouterr().out)["precision"] == name
    assert bench([str(bundle), *flags], "bench") == 0
    assert f"\nin {name}" in capsys.readouterr().out
    assert bench([str(bundle), "--json", *flags], "bench") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["precision"], facts["precision_reason"] is None) == (name, name == "int8")


def test_required_int8_that_a_bundle_lacks_is_one_sentence(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_bundle(tmp_path / "plain" / "1", digits_net())
    assert bench([str(plain), "--int8", "require", "--device", "cpu"], "bench") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "the bundle has no int8 graph" in told
