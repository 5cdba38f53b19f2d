"""Decoded pictures on the disk: made once, renewed when a picture changes, never half-made."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_kit import noise, write_folder
from service.contract.target import Target
from training.errors import DataError
from training.files import OutputError
from training.pictures import make, workers
from training.pictures.store import Store, open_store
from training.pictures.tree import find_tree

TARGET = Target(mode="L", height=8, width=8, max_pixels=10_000)


@pytest.fixture
def root(tmp_path) -> Path:
    return write_folder(tmp_path / "pets", {"cat": 40, "dog": 30})


@pytest.fixture
def open_(tmp_path, root, capsys) -> Callable[[], tuple[Store, bool]]:
    """Open the store; tells also whether it was made anew."""

    def opened(target: Target = TARGET, share: float = 0.1) -> tuple[Store, bool]:
        store = open_store(find_tree(root), target, tmp_path / "cache", share)
        return store, "decoding" in capsys.readouterr().err

    return opened


def contents(store: Store) -> np.ndarray:
    return np.fromfile(store.pixels, np.uint8).reshape(-1, *store.target.shape)


def test_rows_are_the_pictures_in_the_trees_order(open_, root):
    store, made = open_()
    assert made
    names = sorted((root / "cat").iterdir()) + sorted((root / "dog").iterdir())
    expected = np.stack([np.asarray(Image.open(name))[np.newaxis] for name in names])
    np.testing.assert_array_equal(contents(store), expected)
    assert store.labels.tolist() == [0] * 40 + [1] * 30
    levels = expected.reshape(70, -1).astype(np.int64)
    np.testing.assert_array_equal(store.sums[:, 0, 0], levels.sum(1))
    np.testing.assert_array_equal(store.sums[:, 1, 0], (levels**2).sum(1))
    assert len(set(store.digests.tolist())) == 70


def repaint(root: Path) -> None:
    """Other pixels in a file of the same name, size and time."""
    path = root / "cat" / "003.png"
    before = path.stat()
    Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        repaint,
        lambda root: Image.fromarray(noise(8, 8, seed=5)).save(root / "cat" / "new.png"),
        lambda root: (root / "dog" / "001.png").unlink(),
        lambda root: (root / "dog" / "001.png").rename(root / "cat" / "zzz.png"),
    ],
    ids=["changed", "added", "removed", "moved to another class"],
)
def test_a_change_in_the_folder_makes_it_anew(open_, root, change):
    first, _ = open_()
    change(root)
    second, made = open_()
    assert made
    assert first.folder == second.folder, "the stale one does not stay behind"
    assert not open_()[1]
    assert (
        not np.array_equal(first.digests, second.digests) or first.labels.tolist() != second.labels.tolist()
    )


def test_another_target_is_kept_beside_the_first(open_):
    first, _ = open_()
    second, made = open_(Target(mode="RGB", height=4, width=6, max_pixels=10_000))
    assert made
    assert first.folder != second.folder
    assert not open_()[1]


def overwrite(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64 + b"\x00" * 64)


@pytest.mark.parametrize(
    "ruin",
    [
        lambda folder: (folder / "pixels.u8").write_bytes((folder / "pixels.u8").read_bytes()[:-1]),
        lambda folder: overwrite(folder / "pixels.u8", 64),
        lambda folder: (folder / "index.npz").write_bytes(b"PK"),
        lambda folder: (folder / "index.npz").unlink(),
        lambda folder: (folder / "about.json").write_text("[]"),
        lambda folder: (folder / "about.json").write_text(
            (folder / "about.json").read_text().replace(f'"pillow": "{Image.__version__}', '"pillow": "9')
        ),
    ],
    ids=["shorter", "other pixels", "index torn", "no index", "no record", "another Pillow"],
)
def test_a_ruined_or_old_store_is_made_anew(open_, ruin):
    store, _ = open_()
    before = contents(store)
    ruin(store.folder)
    again, made = open_()
    assert made
    np.testing.assert_array_equal(contents(again), before)


def test_an_open_file_outlives_its_renewal(open_, root):
    store, _ = open_()
    before = contents(store)
    with store.pixels.open("rb") as file:
        (root / "cat" / "000.png").unlink()
        assert open_()[1]
        np.testing.assert_array_equal(np.frombuffer(file.read(), np.uint8), before.ravel())


def test_a_run_that_was_killed_leaves_nothing_that_counts(open_, tmp_path, root, monkeypatch):
    store, _ = open_()
    aside = store.folder.with_name(f".{store.folder.name}.partial")
    store.folder.rename(aside)
    (aside / "about.json").unlink()
    _, made = open_()
    assert made
    assert not aside.exists()


def test_too_many_bad_pictures_are_an_error_but_nothing_is_decoded_twice(open_, root, monkeypatch):
    for path in sorted((root / "cat").iterdir())[:20]:
        path.write_bytes(b"bad")
    with pytest.raises(
        DataError, match=r"20 of 70 pictures \(28\.57%\) of .*; more than max_corrupt_share=0\.1"
    ):
        open_()
    monkeypatch.setattr(make, "decode_all", None)
    with pytest.raises(DataError, match="20 of 70 pictures"):
        open_()
    assert open_(share=0.3)[0].was_read.sum() == 50


def test_a_disk_without_room_is_told_before_anything_is_decoded(tmp_path, root, monkeypatch):
    usage = make.shutil.disk_usage(tmp_path)._replace(free=70 * 64 - 1)
    monkeypatch.setattr(make.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"need 4,480 bytes, .* has 4,479: set TRAINING_CACHE"):
        open_store(find_tree(root), TARGET, tmp_path / "cache", 0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.fromarray(noise(8, 8, seed=9)).save(root / "dog" / "zz.png"),
        lambda root: (root / "dog" / "000.png").unlink(),
        repaint,
    ],
    ids=["added", "removed", "changed"],
)
def test_a_folder_that_changes_between_counting_and_decoding_is_refused(tmp_path, root, monkeypatch, change):
    def meddle(work, num_workers):
        change(root)
        return workers.decode_all(work, num_workers)

    monkeypatch.setattr(make, "decode_all", meddle)
    with pytest.raises(DataError, match="changed while its pictures were being decoded"):
        open_store(find_tree(root), TARGET, tmp_path / "cache", 0.1)
    assert list((tmp_path / "cache" / "pictures").glob("[!.]*")) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path, root):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot keep the decoded pictures in .*/cache/pictures/pets-"):
        open_store(find_tree(root), TARGET, tmp_path / "cache", 0.1)


def kill_myself(work: workers.Work) -> workers.Done:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_worker_that_dies_is_one_sentence(tmp_path, root, monkeypatch):
    monkeypatch.setattr(workers, "do", kill_myself)
    with pytest.raises(DataError, match=r"was killed, .* between .*/cat/000\.png and .*/cat/031\.png"):
        open_store(find_tree(root), TARGET, tmp_path / "cache", 0.1)


def test_workers_go_when_their_parent_is_killed(tmp_path):
    """A real process is killed while its worker waits for work; the worker must not wait for ever."""
    script = (
        "import os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import multiprocessing\n"
        "from training.pictures.workers import _begin\n"
        "pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn'), initializer=_begin)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_record_says_what_was_skipped(open_, root):
    (root / "dog" / "bad.png").write_bytes(b"bad")
    store, _ = open_()
    record = json.loads((store.folder / "about.json").read_text())
    (row,) = store.skipped
    assert record["skipped"][str(row)][0] == "dog/bad.png"
    assert not store.was_read[row]
    assert store.was_read.sum() == 70
