"""Downloads: whole or not there, resumed where the connection broke, refused when the digest differs."""

import threading

import pytest

from data_kit import Shelf, sha256, shelf
from training.data.sets.download import BLOCK, download
from training.errors import DataError
from training.files import OutputError

CONTENT = bytes(range(251)) * 4000  # about four blocks; no two blocks alike
assert len(CONTENT) > 3 * BLOCK


@pytest.fixture
def server():
    with shelf({"file.gz": CONTENT}) as running:
        yield running


def fetch(server: Shelf, path, digest=None) -> None:
    download([f"{server.url}file.gz"], path, digest or sha256(CONTENT))


def leftovers(path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock"))


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, tmp_path):
    path = tmp_path / "set" / "file.gz"
    fetch(server, path)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/file.gz", None)]
    assert leftovers(path) == ["file.gz"]


def test_a_broken_line_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks_after = [300_000, 200_000]
    fetch(server, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_line_that_brings_nothing_any_more_is_an_error_and_the_next_run_goes_on(server, tmp_path):
    server.breaks_after = [300_000, 0]
    path = tmp_path / "file.gz"
    with pytest.raises(DataError, match=f"the connection broke after 300000 of {len(CONTENT)} bytes"):
        fetch(server, path)
    assert leftovers(path) == [".file.gz.partial"]
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == ("/file.gz", "bytes=300000-")


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.breaks_after, server.knows_ranges = [300_000], False
    fetch(server, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_server_that_sends_another_range_is_not_believed(server, tmp_path):
    path = tmp_path / "file.gz"
    (tmp_path / ".file.gz.partial").write_bytes(CONTENT[:100])
    server.lies_about_ranges = True
    with pytest.raises(DataError, match="asked for bytes from 100 on, got bytes 0-"):
        fetch(server, path)
    assert leftovers(path) == []


def test_a_wrong_digest_is_refused_and_leaves_nothing(server, tmp_path):
    path = tmp_path / "file.gz"
    with pytest.raises(DataError, match=f"its SHA-256 is {sha256(CONTENT)}, it should be 0000"):
        fetch(server, path, "0" * 64)
    assert leftovers(path) == []


@pytest.mark.parametrize(
    "remains", [b"something else", b"x" * (len(CONTENT) + 7)], ids=["of another file", "longer than the file"]
)
def test_remains_that_lead_to_a_wrong_digest_are_thrown_away_once(server, tmp_path, remains):
    path = tmp_path / "file.gz"
    (tmp_path / ".file.gz.partial").write_bytes(remains)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(remains)}-", None]


def test_remains_that_are_whole_are_enough(server, tmp_path):
    (tmp_path / ".file.gz.partial").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_the_next_address_is_tried_and_every_failure_is_told(server, tmp_path):
    download([f"{server.url}gone", f"{server.url}file.gz"], tmp_path / "file.gz", sha256(CONTENT))
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"/gone: HTTP 404 .*; http://127\.0\.0\.1:1/: .*refused"):
        download([f"{server.url}gone", "http://127.0.0.1:1/"], tmp_path / "other", sha256(b""))


def test_several_who_ask_at_once_share_one_download(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(server, tmp_path / "file.gz")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_place_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/set/file.gz"):
        fetch(server, tmp_path / "set" / "file.gz")
