"""`foldserve batch`: the service's answers for every kind of input, and no row lost or twice after a kill."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from foldserve.batch.errors import BatchError
from foldserve.batch.job import Job, Options, in_order
from foldserve.commands.bench import main as bench
from service.contract.bundle import open_bundle
from service.contract.pictures import read_pixels
from service.engine.engine import EngineConfig
from service_kit import ROOT
from tiny_nets import digits_net, log_net, pair_net, write_bundle

ENGINE = EngineConfig(device="cpu", threads=2, lanes=1, buckets=(16,))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "models"
    for name, net in {"digits": digits_net(), "pair": pair_net(), "log": log_net()}.items():
        write_bundle(folder / name / "1", net)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 50 pictures of several sizes, two of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for number in range(50):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(exist_ok=True)
        Image.fromarray(chance.integers(0, 255, (28 + number % 3, 28), "u1")).save(place / f"{number}.png")
    (folder / "a" / "broken.jpg").write_bytes(b"no picture")
    (folder / "b" / "empty.webp").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(bundle: Path, source: Path, target: Path, **options: Any) -> tuple[int, int]:
    job = Job(bundle, source, target, Options(engine=ENGINE, part=8, **options))
    job.load()
    return job.run(lambda done: None)


def expected(models: Path, content: bytes) -> str:
    """The label by the truth in float64, of what the service would make of a picture."""
    made = open_bundle(models / "digits" / "1").manifest.preprocessing
    assert made is not None
    row = np.empty((1, 1, 28, 28), np.float32)
    made.write_row(read_pixels(content, made.target(10_000)), row[0])
    return str(digits_net().truth({"input": row})["logits"].argmax())


def test_a_folder_of_pictures(models: Path, pictures: Path, tmp_path: Path) -> None:
    assert run(models / "digits" / "1", pictures, tmp_path / "o.csv", top=2) == (52, 2)
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = sorted(
        path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*") if path.suffix != ".txt"
    )
    assert sorted(row["key"] for row in rows) == names
    for row in rows:
        if row["error"]:
            assert (row["label"], row["probability"]) == ("", "")
            assert row["error"] in ("the picture is none of JPEG, PNG, WEBP", "the picture is empty: 0 bytes")
        else:
            assert row["label"] == expected(models, (pictures / row["key"]).read_bytes())
            assert 1 >= float(row["probability"]) >= float(row["probability_2"])
    assert list(tmp_path.iterdir()) == [tmp_path / "o.csv"], "the parts are gone"


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_of_pictures_in_its_own_order(
    models: Path, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    names = [f"b/{number}.png" for number in (8, 2, 30)]
    with tarfile.open(tmp_path / f"in{suffix}", f"w:{suffix[5:]}") as archive:
        for name in names:
            archive.add(pictures / name, name)
            archive.addfile(tarfile.TarInfo(name.replace("png", "cls")), io.BytesIO())
    assert run(models / "digits" / "1", tmp_path / f"in{suffix}", tmp_path / "o.parquet") == (3, 0)
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pydict()
    assert table["key"] == names
    assert table["label"] == [expected(models, (pictures / name).read_bytes()) for name in names]


def test_arrays_and_raw_outputs(models: Path, tmp_path: Path) -> None:
    net = digits_net()
    rows = net.rows(41)
    np.savez(tmp_path / "in.npz", anything=rows["input"].astype("float64"))
    assert run(models / "digits" / "1", tmp_path / "in.npz", tmp_path / "o.parquet", with_outputs=True) == (
        41,
        0,
    )
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pydict()
    logits = net.truth(rows)["logits"]
    assert np.abs(np.array(table["output.logits"]) - logits).max() < 1e-4
    assert table["label"] == [str(best) for best in logits.argmax(axis=1)]
    assert table["key"] == [str(number) for number in range(41)]


def test_a_net_with_several_inputs(models: Path, tmp_path: Path) -> None:
    net = pair_net()
    rows = net.rows(20)
    np.savez(tmp_path / "in.npz", **rows)
    assert run(models / "pair" / "1", tmp_path / "in.npz", tmp_path / "o.parquet", with_outputs=True) == (
        20,
        0,
    )
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pydict()
    for name, truth in net.truth(rows).items():
        assert np.allclose(np.array(table[f"output.{name}"]).reshape(truth.shape), truth, atol=1e-4)


@pytest.mark.parametrize("kind", ["bytes", "struct", "lists"])
def test_a_table(models: Path, pictures: Path, tmp_path: Path, kind: str) -> None:
    names = [f"b/{number}.png" for number in range(0, 40, 2)]
    contents = [(pictures / name).read_bytes() for name in names]
    rows = digits_net().rows(20)["input"]
    column = {
        "bytes": ("image", contents),
        "struct": ("image", [{"bytes": content, "path": "x"} for content in contents]),
        "lists": ("input", rows.tolist()),
    }[kind]
    pyarrow.parquet.write_table(pyarrow.table({column[0]: column[1], "key": names}), tmp_path / "in.parquet")
    assert run(models / "digits" / "1", tmp_path / "in.parquet", tmp_path / "o.parquet") == (20, 0)
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pydict()
    assert table["key"] == names
    logits = digits_net().truth({"input": rows})["logits"].argmax(axis=1)
    labels = (
        [str(best) for best in logits] if kind == "lists" else [expected(models, one) for one in contents]
    )
    assert table["label"] == labels


@pytest.mark.parametrize("kind", ["folder", "tar", "npz", "parquet"])
def test_a_job_that_was_killed_continues_without_a_row_lost_or_twice(
    models: Path, pictures: Path, tmp_path: Path, kind: str
) -> None:
    source = {"folder": pictures}.get(kind, tmp_path / f"in.{kind}")
    rows = digits_net().rows(52)["input"]
    if kind == "tar":
        with tarfile.open(source, "w") as archive:
            archive.add(pictures, "")
    elif kind == "npz":
        np.savez(source, rows)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"input": rows.reshape(52, -1).tolist()}), source)
    run(models / "digits" / "1", source, tmp_path / "whole.parquet")

    class Killed(BaseException):
        pass

    def die(done: int) -> None:
        raise Killed

    kills = 0
    while True:
        job = Job(models / "digits" / "1", source, tmp_path / "o.parquet", Options(engine=ENGINE, part=8))
        job.load()
        before = job.parts.num_rows
        try:
            job.run(die)
        except Killed:
            kills += 1
            assert job.parts.num_rows > before
            if kills < 3:
                continue
        break
    job = Job(models / "digits" / "1", source, tmp_path / "o.parquet", Options(engine=ENGINE, part=8))
    job.load()
    assert job.run(lambda done: None)[0] == 52
    assert kills == 3
    assert pyarrow.parquet.read_table(tmp_path / "o.parquet") == pyarrow.parquet.read_table(
        tmp_path / "whole.parquet"
    )


def test_the_command_is_killed_and_continues(models: Path, tmp_path: Path) -> None:
    rows = digits_net().rows(120_000)["input"]
    np.savez(tmp_path / "in.npz", rows)
    words = [sys.executable, "-m", "foldserve", "batch", str(models / "digits"), str(tmp_path / "in.npz")]
    command = [*words, str(tmp_path / "o.parquet"), "--threads", "1"]
    parts = tmp_path / "o.parquet.parts"
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(parts.glob("[0-9]*")) and first.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    facts = json.loads(done.stdout)
    assert facts["rows"] == 120_000
    assert facts["rows_before"] > 0
    keys = pyarrow.parquet.read_table(tmp_path / "o.parquet")["key"].to_pylist()
    assert keys == [str(number) for number in range(120_000)]


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("nowhere", "o.csv", "no such file or folder"),
        ("in.txt", "o.csv", r"neither a folder of pictures nor a \.tar"),
        ("other.npz", "o.csv", "rows of 'input' are float64 of shape .5., the model takes float32"),
        ("torn.npz", "o.csv", "cannot be read"),
        ("torn.tar", "o.csv", "cannot be read"),
        ("in.npz", "o.txt", "a .parquet or a .csv file"),
        ("in.npz", "in.npz.csv", "is there already"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    models: Path, tmp_path: Path, source: str, target: str, sentence: str
) -> None:
    np.savez(tmp_path / "in.npz", digits_net().rows(4)["input"])
    np.savez(tmp_path / "other.npz", np.zeros((2, 5)))
    for name in ("in.txt", "torn.npz", "torn.tar", "in.npz.csv"):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(BatchError, match=sentence):
        run(models / "digits" / "1", tmp_path / source, tmp_path / target)


def test_parts_of_another_job_are_not_continued(models: Path, pictures: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", digits_net().rows(40)["input"])
    Job(models / "digits" / "1", tmp_path / "in.npz", tmp_path / "o.csv", Options(engine=ENGINE))
    with pytest.raises(BatchError, match="another input, bundle or columns"):
        Job(models / "digits" / "1", pictures, tmp_path / "o.csv", Options(engine=ENGINE))
    with pytest.raises(BatchError, match="takes no pictures: its manifest has no preprocessing"):
        run(models / "log" / "1", pictures, tmp_path / "p.csv")


def test_little_is_read_ahead() -> None:
    from concurrent.futures import ThreadPoolExecutor

    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda number: number * 2, items(), ahead=3)
        assert [next(results) for _ in range(10)] == [2 * number for number in range(10)]
        assert len(read) <= 13
        results.close()


def test_bench_measures_every_batch_size(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench([str(models / "digits"), "--threads", "1", "--json"], "foldserve bench") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [one["rows"] for one in facts["batches"]] == [1, 2, 4, 8, 16, 32, 64]
    assert all(one["ms"] > 0 and one["rows_per_second"] > 0 for one in facts["batches"])
    assert bench([str(models / "nowhere")], "foldserve bench") == 2
    assert "No such file or directory" in capsys.readouterr().err
