"""Archives of arrays whose bytes were changed: read, or refused as one kind of error."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from service.contract.arrays import ArchiveError, array_heads, read_arrays, stream_rows

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def archive(method: int) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as file:
        for name in ("x", "y"):
            array = io.BytesIO()
            np.save(array, np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32))
            file.writestr(f"{name}.npy", array.getvalue())
    return whole.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's, of names that stand twice
@pytest.mark.parametrize("method", METHODS)
def test_no_damage_is_a_traceback(method, tmp_path):
    """Without zlib.error, LZMAError or RuntimeError in DAMAGED this fails: each is reached."""
    random, content = np.random.default_rng(method), archive(method)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        if random.random() < 0.2:
            damaged = damaged[: random.integers(len(damaged))]
        (tmp_path / "x.npz").write_bytes(damaged)
        outcomes = []
        for read in (
            lambda: read_arrays(io.BytesIO(bytes(damaged))),  # noqa: B023
            lambda: list(stream_rows(tmp_path / "x.npz", list(array_heads(tmp_path / "x.npz")), 2)),
        ):
            try:
                read()
            except ArchiveError:
                outcomes.append("refused")
        refused += outcomes == ["refused", "refused"]
    assert refused > 500


def test_what_is_wanted_is_read_and_a_bare_array_is_not():
    assert list(read_arrays(io.BytesIO(archive(zipfile.ZIP_DEFLATED)), lambda name: name == "y")) == ["y"]
    bare = io.BytesIO()
    np.save(bare, np.zeros(3))
    bare.seek(0)
    with pytest.raises(ArchiveError, match="one array without a name"):
        read_arrays(bare)


@pytest.mark.parametrize("content", [b"", b"P", b"path,label\n", b"\x80\x04N."])
def test_what_is_no_archive_is_not_said_to_be_a_pickle(content):
    with pytest.raises(ArchiveError, match=r"^it is no zip archive$"):
        read_arrays(io.BytesIO(content))


def test_a_pickle_is_not_opened():
    content = io.BytesIO()
    np.savez(content, x=np.array([{}], dtype=object))
    content.seek(0)
    with pytest.raises(ArchiveError, match="allow_pickle"):
        read_arrays(content)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0, 1, 7])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_streamed_rows_are_those_of_the_whole(tmp_path, method, start, size):
    """In C's order and in Fortran's, of every type that a model may take."""
    arrays = {
        "x": np.arange(7 * 6, dtype=np.float32).reshape(7, 2, 3),
        "t": np.asfortranarray(np.arange(7 * 5, dtype=np.int64).reshape(7, 5)),
        "one": np.array([True] * 7),
    }
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            file.writestr(f"{name}.npy", content.getvalue())
    heads = array_heads(tmp_path / "x.npz")
    assert heads == {name: (array.shape, array.dtype) for name, array in arrays.items()}
    parts = list(stream_rows(tmp_path / "x.npz", ["t", "x", "one"], size, start))
    assert max((len(part["x"]) for part in parts), default=0) <= size
    for name, array in arrays.items():
        streamed = np.concatenate([array[:0], *(part[name] for part in parts)])
        assert streamed.dtype == array.dtype
        assert np.array_equal(streamed, array[start:])


def test_changed_bytes_are_seen_at_the_end(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((1000, 8)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ArchiveError, match="CRC"):
        list(stream_rows(tmp_path / "x.npz", ["x"], 10, 990))


def test_bytes_after_the_rows_are_refused_unread(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros((10, 2)))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", array.getvalue() + bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="more bytes than its shape"):
        list(stream_rows(tmp_path / "x.npz", ["x"], 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 23


def test_what_has_no_rows_is_not_streamed(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.float32(1), o=np.array([{}], dtype=object))
    with pytest.raises(ArchiveError, match="plain numbers"):
        array_heads(tmp_path / "x.npz")
    with pytest.raises(ArchiveError, match="one number, expected rows"):
        list(stream_rows(tmp_path / "x.npz", ["x"], 10))
