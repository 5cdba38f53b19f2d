"""Batches read ahead: the same as by indexing, errors where they belong, and no thread left behind."""

import threading

import pytest
import torch

from data_kit import noise
from training.data import StreamedPixels
from training.data.streamed import NUM_AHEAD, batches_ahead

ROWS = [torch.tensor(rows) for rows in ([3, 1], [0, 0, 4], [2], [4, 3, 2, 1], [1], [0])]


@pytest.fixture
def pictures(tmp_path) -> torch.Tensor:
    pixels = noise(7, 3, 4, 5)
    (tmp_path / "pixels.u8").write_bytes(pixels.tobytes())
    return torch.from_numpy(pixels)


@pytest.fixture
def streamed(tmp_path, pictures) -> StreamedPixels:
    return StreamedPixels(tmp_path / "pixels.u8", torch.tensor([6, 0, 5, 2, 2]), (3, 4, 5))


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches-ahead")]


class Failing(StreamedPixels):
    """Pictures that cannot be read from a row on."""

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        if 2 in rows.tolist():
            raise OSError("the disk is gone")
        return super().__getitem__(rows)


def test_streamed_pictures_index_like_a_tensor(streamed, pictures):
    tensor = pictures[torch.tensor([6, 0, 5, 2, 2])]
    assert len(streamed) == len(tensor)
    assert streamed.shape == tensor.shape
    assert (streamed.dtype, streamed.device) == (tensor.dtype, tensor.device)
    for rows in ROWS:
        assert torch.equal(streamed[rows], tensor[rows])
    with pytest.raises(IndexError):
        streamed[torch.tensor([5])]
    for other in (streamed.to(torch.device("cpu")), streamed.take(torch.arange(5))):
        assert torch.equal(other[ROWS[0]], tensor[ROWS[0]])
    some = torch.tensor([4, 0])
    assert torch.equal(streamed.take(some)[torch.tensor([1, 0, 0])], tensor[some[[1, 0, 0]]])
    assert streamed.take(some).shape == (2, 3, 4, 5)


def test_what_is_read_can_be_changed_without_changing_the_file(streamed):
    before = streamed[ROWS[1]]
    streamed[ROWS[1]].zero_()
    assert torch.equal(streamed[ROWS[1]], before)


@pytest.mark.parametrize("number", range(len(ROWS) + 1))
def test_batches_come_in_order(streamed, pictures, number):
    expected = [streamed[rows] for rows in ROWS[:number]]
    assert all(map(torch.equal, batches_ahead(streamed, iter(ROWS[:number])), expected))
    assert len(list(batches_ahead(streamed, ROWS[:number]))) == number
    from_tensor = batches_ahead(streamed[torch.arange(5)], ROWS[:number])
    assert all(map(torch.equal, from_tensor, expected))
    assert readers() == []


def test_an_error_of_the_thread_comes_in_place_of_its_batch(tmp_path, streamed):
    failing = Failing(streamed.path, torch.arange(5), (3, 4, 5))
    batches = batches_ahead(failing, ROWS)
    assert next(batches).shape[0] == 2
    assert next(batches).shape[0] == 3
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert readers() == []


def test_who_stops_early_leaves_no_thread(streamed):
    for _ in batches_ahead(streamed, ROWS):
        assert len(readers()) == 1
        break
    assert readers() == []


def test_a_few_batches_are_read_before_they_are_asked_for_but_no_more(streamed):
    asked: list[int] = []

    class Watched(StreamedPixels):
        def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
            asked.append(len(rows))
            done.release()
            return super().__getitem__(rows)

    done = threading.Semaphore(0)
    batches = batches_ahead(Watched(streamed.path, torch.arange(5), (3, 4, 5)), ROWS)
    next(batches)
    for _ in range(1 + NUM_AHEAD):
        assert done.acquire(timeout=10)
    assert asked == [len(rows) for rows in ROWS[: 1 + NUM_AHEAD]]
    batches.close()
