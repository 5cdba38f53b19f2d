"""Rows to calibrate with: streamed, halved, labelled where they say so, refused in one sentence each."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from export.errors import SourceError
from export.int8.data import open_rows
from export.int8.make import rows_to_fit
from export.int8.rows import made_rows, of_arrays
from service.contract.preprocessing import Preprocessing
from service.contract.tensors import TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", shape=[None, 1, 4, 4], minimum=-1.0, maximum=3.0)
CHANCE = np.random.default_rng(0)
ROWS = CHANCE.uniform(-1, 3, (40, 1, 4, 4)).astype(np.float32)
GREY = Preprocessing(mode="L", height=4, width=4, mean=[0.25], std=[0.25])


def saved(tmp_path, **arrays):
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    return path


def all_of(rows):
    return np.concatenate([batch.inputs["x"] for batch in rows.read()])


def test_rows_stream_in_order_and_again(tmp_path):
    rows = open_rows(saved(tmp_path, any_name=ROWS), [SPEC], None, None)
    assert rows.num_rows == 40
    for _ in range(2):
        assert np.array_equal(all_of(rows), ROWS)
    assert max(len(batch.inputs["x"]) for batch in rows.read()) == 8


def test_compressed_files_stream_too(tmp_path):
    np.savez_compressed(tmp_path / "rows.npz", x=ROWS.astype(np.float64))
    rows = open_rows(tmp_path / "rows.npz", [SPEC], None, None)
    assert np.array_equal(all_of(rows), ROWS)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_halves_are_every_second_row(batch):
    rows = of_arrays({"x": ROWS}, np.arange(40), "rows", batch)
    halves = rows.split(2)
    assert [half.num_rows for half in halves] == [20, 20]
    assert np.array_equal(all_of(halves[0]), ROWS[::2])
    assert np.array_equal(all_of(halves[1]), ROWS[1::2])
    assert np.concatenate([one.labels for one in halves[1].read()]).tolist() == list(range(1, 40, 2))
    few, others = rows.split(7)
    assert (few.num_rows, others.num_rows) == (6, 34)
    assert np.array_equal(all_of(few), ROWS[::7])
    assert np.array_equal(all_of(others), np.delete(ROWS, np.s_[::7], axis=0))


def test_labels_travel_with_their_rows(tmp_path):
    rows = open_rows(saved(tmp_path, x=ROWS, labels=np.arange(40) % 3), [SPEC], None, ["a", "b", "c"])
    assert np.concatenate([one.labels for one in rows.read()]).tolist() == (np.arange(40) % 3).tolist()


def _not_finite():
    rows = ROWS.copy()
    rows[33, 0, 1, 1] = np.nan
    return {"x": rows}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": ROWS[:, :, :3]}, "has rows of shape [1, 3, 4], the net takes [1, 4, 4]"),
        ({"x": 255 * ROWS}, "give rows as the net takes them, normalised"),
        (_not_finite(), "is not finite in row 33"),
        ({"x": ROWS[:31]}, "31 rows, expected at least 32"),
        ({"x": ROWS, "z": ROWS}, "must have the arrays ['x'], found ['x', 'z']"),
        ({"x": ROWS, "labels": np.zeros(39)}, "its arrays must have as many rows each"),
        ({"x": ROWS.astype(str)}, "expected numbers"),
        ({"x": ROWS, "labels": np.full(40, 3)}, "labels must be whole numbers 0 … 2, found 3"),
        ({"x": ROWS, "labels": np.full(40, 0.5)}, "labels must be whole numbers 0 … 2"),
        ({"x": np.array(["a", None], dtype=object)}, "must hold plain numbers"),
    ],
)
def test_other_rows_are_refused_in_one_sentence(tmp_path, arrays, sentence):
    with pytest.raises(SourceError) as refused:  # noqa: PT012  (it is read where it is refused)
        rows = open_rows(saved(tmp_path, **arrays), [SPEC], None, ["a", "b", "c"])
        all_of(rows)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive"])
def test_files_that_are_no_archive_are_refused(tmp_path, content):
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"not an \.npz file of arrays"):
        open_rows(tmp_path / "rows.npz", [SPEC], None, None)


def test_a_file_that_is_damaged_inside_is_refused(tmp_path):
    path = saved(tmp_path, x=np.tile(ROWS, (20, 1, 1, 1)))
    content = bytearray(path.read_bytes())
    content[40_000] ^= 255
    path.write_bytes(content)
    rows = open_rows(path, [SPEC], None, None)
    with pytest.raises(SourceError, match="cannot be read to its end"):
        all_of(rows)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        open_rows(tmp_path / "none", [SPEC], None, None)


def _picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_folder_of_pictures_goes_through_the_preprocessing(tmp_path):
    for index in range(36):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{index:02}.png").write_bytes(_picture(7 * index))
    rows = open_rows(tmp_path, [SPEC], GREY, ["a", "b"])
    levels = np.sort(all_of(rows)[:, 0, 0, 0] * 0.25 + 0.25) * 255
    assert levels == pytest.approx(7 * np.arange(36), abs=0.01)
    assert np.concatenate([one.labels for one in rows.read()]).tolist() == [0] * 18 + [1] * 18
    unlabelled = open_rows(tmp_path, [SPEC], GREY, ["a", "c"])
    assert all(one.labels is None for one in unlabelled.read())


def test_a_picture_that_is_not_decoded_is_named(tmp_path):
    for index in range(32):
        (tmp_path / f"{index:02}.png").write_bytes(_picture(index) if index else b"\x89PNG\r\n\x1a\n torn")
    rows = open_rows(tmp_path, [SPEC], GREY, None)
    with pytest.raises(SourceError, match=r"picture 00\.png"):
        all_of(rows)


def test_a_folder_needs_a_preprocessing(tmp_path):
    with pytest.raises(SourceError, match="needs a preprocessing"):
        open_rows(tmp_path, [SPEC], None, None)


def test_made_rows_stay_in_the_range_and_pictures_are_smooth():
    spec = TensorSpec(name="x", dtype="float32", shape=[None, 3, 32, 32], minimum=-2.0, maximum=2.0)
    made = made_rows([spec], 0)
    assert made is not None
    rows = all_of(made)
    assert rows.min() >= -2
    assert rows.max() <= 2
    assert np.abs(np.diff(rows, axis=3)).mean() < 0.8 * rows.std(), "white noise has 1.13"
    integers = TensorSpec(name="x", dtype="uint8", shape=[None, 3, 32, 32])
    assert made_rows([integers], 0) is None


@pytest.mark.parametrize(("number", "fit", "judge"), [(20, None, 20), (100, 50, 50), (400, 50, 350)])
def test_rows_that_a_checkpoint_brings_fit_and_judge(number, fit, judge):
    """Every eighth fits where there are many; too few to fit to still judge."""
    rows = np.zeros((number, 1, 4, 4), np.float32)
    source = SimpleNamespace(held_out=rows, held_out_labels=np.zeros(number), given=None, inputs=[SPEC])
    fits, judges = rows_to_fit(source, None, 8)
    assert (fits and fits.num_rows, judges.num_rows) == (fit, judge)
