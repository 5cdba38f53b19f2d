"""The next batch is read while the net works on this one.

In: pictures, and the rows of each batch.  Out: the batches in that order, uint8 (n, C, H, W).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from training.data.split import Pixels

NUM_AHEAD = 2


def batches_ahead(pixels: Pixels, rows_of_batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Index a tensor; read streamed pictures in a thread, which ends with this generator.

    An error in the thread is raised here, in place of the batch.
    """
    if isinstance(pixels, Tensor):
        for rows in rows_of_batches:
            yield pixels[rows]
        return
    reader = ThreadPoolExecutor(1, thread_name_prefix="batches-ahead")
    waiting: deque[Future[Tensor]] = deque()
    try:
        for rows in rows_of_batches:
            waiting.append(reader.submit(pixels.__getitem__, rows))
            if len(waiting) > NUM_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)
