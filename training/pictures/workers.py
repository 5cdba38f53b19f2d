"""Processes that decode pictures, each writing the pixels of its pictures to their place in one file.

In: pieces of work.  Out: digests, sums and errors of each picture, in the order of the work.

A hostile file that kills its decoder kills a worker, not the run's own process.
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

from service.contract.pictures import PictureError, read_pixels
from service.contract.target import Target
from training.errors import DataError
from training.pictures.digest import DIGEST_SIZE, digest_pixels
from training.pictures.formats import FORMATS
from training.settings.environment import keep_freed_memory


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
    """Yield the result of each piece, in order; raises DataError if a worker is killed.

    `work` may be millions of pieces, so only a few more than the workers can do at once are held.
    """
    # Not fork: torch's threads do not survive it, and a lock that one of them held would stay locked.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin)
    waiting: deque[tuple[Work, Future[Done]]] = deque()
    try:
        for piece in work:
            waiting.append((piece, pool.submit(do, piece)))
            # Twice as many as workers: one piece in work and one ready for each, so that none idles.
            if len(waiting) > 2 * num_workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def do(work: Work) -> Done:
    """Decode one piece of work, in a worker; a file that cannot be read becomes a reason, not an error."""
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
                content = pixels.tobytes()
                file.seek((work.first_row + index) * len(content))
                file.write(content)
                digests[index] = digest_pixels(content)
                levels = pixels.reshape(channels, -1)
                squares = np.square(levels, dtype=np.uint16)  # 255² still fits
                sums[index] = levels.sum(1, dtype=np.int64), squares.sum(1, dtype=np.int64)
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
    """Leave Ctrl-C to the parent, end this worker when the parent is gone, and keep freed memory."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed with SIGKILL cannot stop its workers, so they have to watch it themselves.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
