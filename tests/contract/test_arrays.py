"""Archives of arrays whose bytes were changed: read, or refused as one kind of error."""

import io
import zipfile

import numpy as np
import pytest

from service.contract.arrays import ArchiveError, read_arrays

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
def test_no_damage_is_a_traceback(method):
    """Without zlib.error, LZMAError or RuntimeError in DAMAGED this fails: each is reached."""
    random, content = np.random.default_rng(method), archive(method)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        if random.random() < 0.2:
            damaged = damaged[: random.integers(len(damaged))]
        try:
            read_arrays(io.BytesIO(bytes(damaged)))
        except ArchiveError:
            refused += 1
    assert refused > 500


def test_what_is_wanted_is_read_and_a_bare_array_is_not():
    assert list(read_arrays(io.BytesIO(archive(zipfile.ZIP_DEFLATED)), lambda name: name == "y")) == ["y"]
    bare = io.BytesIO()
    np.save(bare, np.zeros(3))
    bare.seek(0)
    with pytest.raises(ArchiveError, match="one array without a name"):
        read_arrays(bare)


def test_a_pickle_is_not_opened():
    content = io.BytesIO()
    np.savez(content, x=np.array([{}], dtype=object))
    content.seek(0)
    with pytest.raises(ArchiveError, match="allow_pickle"):
        read_arrays(content)
