"""`foldserve batch` where the net's sizes are open: rows of several sizes in one table."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from foldserve.batch.errors import BatchError
from foldserve.batch.job import Job, Options
from foldserve.commands.bench import main as bench
from open_kit import WIDTHS, bundled, itself, recogniser
from service.engine.engine import EngineConfig

ENGINE = EngineConfig(device="cpu", threads=2, lanes=2, buckets=(16,))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(recogniser(), tmp_path_factory.mktemp("batch") / "models", "words", WIDTHS)


def run(bundle: Path, source: Path, target: Path) -> list[dict[str, Any]]:
    job = Job(bundle, source, target, Options(engine=ENGINE, part=8))
    job.load()
    assert job.run(lambda done: None)[1] == 0
    return pyarrow.parquet.read_table(target).to_pylist()


def rows_of(num_rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(width).normal(size=(num_rows, 3, 8, width)).astype(np.float32)


def is_answer_to(found: dict[str, Any], row: np.ndarray) -> bool:
    expected = itself(recogniser(), {"x": row[np.newaxis]})["y"][0]
    values = np.reshape(found["output.y"], found["shape.y"])
    return values.shape == expected.shape and bool(np.abs(values - expected).max() < 1e-4)


def test_an_array_has_one_size_of_the_range(words, tmp_path):
    rows = rows_of(40, 48)
    np.savez(tmp_path / "rows.npz", x=rows)
    found = run(words, tmp_path / "rows.npz", tmp_path / "out.parquet")
    assert all(is_answer_to(one, row) for one, row in zip(found, rows, strict=True))


def test_a_table_may_have_rows_of_many_sizes(words, tmp_path):
    rows = [row for width in (16, 160, 16, 64) for row in rows_of(5, width)]
    column = pyarrow.array([row.tolist() for row in rows])
    pyarrow.parquet.write_table(pyarrow.table({"x": column}), tmp_path / "rows.parquet")
    found = run(words, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert [one["key"] for one in found] == [str(number) for number in range(20)]
    assert all(is_answer_to(one, row) for one, row in zip(found, rows, strict=True))
    assert not is_answer_to(found[0], rows[1])


def test_bench_measures_each_golden_size(words, capsys, monkeypatch):
    monkeypatch.setattr("foldserve.commands.bench.SECONDS", 0.0)
    assert bench([str(words), "--threads", "1"], "foldserve bench") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("W=160") for line in lines) == 7


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((4, 3, 8, 40), "'W' of 'x' is 40, expected 16 to 160 in steps of 16"),
        ((4, 3, 9, 48), r"of shape \[3, 9, 48\], the model takes float32 of shape \[3, 8, 'W'\]"),
    ],
)
def test_another_size_is_one_sentence(words, tmp_path, shape, sentence):
    np.savez(tmp_path / "rows.npz", x=np.zeros(shape, np.float32))
    with pytest.raises(BatchError, match=sentence):
        run(words, tmp_path / "rows.npz", tmp_path / "out.parquet")
