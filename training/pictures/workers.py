"""Processes that decode pictures, each writing the pixels of its pictures to their place in one file.

In: pieces of work.  Out: what is to be known of each picture, in the order of the work.

A decoder that a hostile file kills takes a worker with it, not the run's own process.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.pictures import PictureError, Target, read_pixels
from training.errors import DataError
from training.pictures.digest import DIGEST_SIZE, digest_pixels
from training.pictures.formats import FORMATS


@dataclass(frozen=True, kw_only=True)
class Work:
    """Decode the files `names` below `root` into rows `first_row` … of the file `pixels`."""

    root: Path
    names: tuple[str, ...]
    first_row: int
    pixels: Path
    target: Target


@dataclass(frozen=True, kw_only=True)
class Done:
    """Of n pictures: digests (n,), Σ k and Σ k² of each channel (n, 2, C), and why some could not be read."""

    work: Work
    digests: np.ndarray
    sums: np.ndarray
    reasons: dict[int, str]


def decode_all(work: Iterable[Work], num_workers: int) -> Iterator[Done]:
    """Do all the work, never much more of it at hand than the workers can do at once."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin)
    waiting: deque[tuple[Work, Future[Done]]] = deque()
    try:
        for piece in work:
            waiting.append((piece, pool.submit(do, piece)))
            if len(waiting) > 2 * num_workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def do(work: Work) -> Done:
    """One piece of work, in a worker."""
    channels = work.target.shape[0]
    digests = np.zeros(len(work.names), f"S{DIGEST_SIZE}")
    sums = np.zeros((len(work.names), 2, channels), np.int64)
    reasons: dict[int, str] = {}
    with work.pixels.open("r+b") as file:
        for index, name in enumerate(work.names):
            try:
                pixels = read_pixels((work.root / name).read_bytes(), work.target, FORMATS)
            except OSError as error:
                reasons[index] = str(error.strerror)
            except PictureError as error:
                reasons[index] = f"it {error}"
            else:
                file.seek((work.first_row + index) * pixels.size)
                file.write(pixels.tobytes())
                digests[index] = digest_pixels(pixels.tobytes())
                levels = pixels.reshape(channels, -1).astype(np.int64)
                sums[index] = levels.sum(1), (levels**2).sum(1)
    return Done(work=work, digests=digests, sums=sums, reasons=reasons)


def _result(work: Work, future: Future[Done]) -> Done:
    try:
        return future.result()
    except BrokenProcessPool:
        first, last = work.names[0], work.names[-1]
        raise DataError(
            f"a process that decodes pictures was killed, by a lack of memory or by a picture between "
            f"{work.root / first} and {work.root / last}"
        ) from None


def _begin() -> None:
    """Ctrl-C is for the parent, and so is staying alive: a worker whose parent is gone goes too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
