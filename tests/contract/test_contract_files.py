"""A file is whole or absent: publishing is one step, and a killed process leaves the last good file."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.contract.files import aside, publish

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        publish(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    publish(path, b"good")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(path, b"torn")
    assert path.read_bytes() == b"good"
    assert names(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_last_good_file_and_the_next_one_what_it_left(tmp_path):
    path = tmp_path / "file"
    publish(path, b"good")
    script = (
        "import os, signal, sys; from pathlib import Path; from service.contract import files\n"
        "files.os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.publish(Path(sys.argv[1]), b'torn')"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"good"
    assert names(tmp_path) == [".file.partial", "file"]
    publish(path, b"better")
    assert path.read_bytes() == b"better"
    assert names(tmp_path) == ["file"]


def test_several_writers_of_one_path_each_write_their_own_file_aside(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def write_often(content: bytes) -> None:
        for _ in range(5):
            publish(path, content, is_shared=True)

    threads = [threading.Thread(target=write_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


def test_a_folder_that_was_not_renamed_is_removed(tmp_path):
    with aside(tmp_path / "folder") as new:
        new.mkdir()
        (new / "half").write_bytes(b"half")
    assert names(tmp_path) == []


def test_a_long_name_fits_into_the_file_system(tmp_path):
    publish(tmp_path / ("n" * 255), b"content", is_shared=True)
    assert names(tmp_path) == ["n" * 255]
