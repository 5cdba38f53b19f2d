"""Pictures that stay on the disk: indexed like a tensor, read when asked for.

In: a file of uint8 pixels, picture after picture, and which of them, in order.  Out: batches on a device.

The next batch is read while the net works on this one.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

NUM_AHEAD = 2


class StreamedPixels:
    """(N, C, H, W) uint8 pictures: rows `pictures` (N, int64) of the file at `path`, which is memory-mapped.

    The system keeps what is read often; nothing else of the file is in memory.
    """

    dtype = torch.uint8

    def __init__(
        self,
        path: Path,
        pictures: Tensor,
        picture_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.path = path
        self.device = torch.device(device)
        self.shape = torch.Size([len(pictures), *picture_shape])
        self._pictures, self._picture_shape = pictures, picture_shape
        size = path.stat().st_size
        self._file = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(
            -1, *picture_shape
        )

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The pictures of `rows` (n, int64, on any device), on this object's device."""
        batch = self._file[self._pictures[rows.cpu()]]
        if self.device.type != "cuda":
            return batch
        return batch.pin_memory().to(self.device, non_blocking=True)

    def to(self, device: torch.device) -> "StreamedPixels":
        """The same pictures; batches arrive on `device`."""
        return StreamedPixels(self.path, self._pictures, self._picture_shape, device)

    def take(self, rows: Tensor) -> "StreamedPixels":
        """Only the pictures of `rows`, in that order."""
        return StreamedPixels(self.path, self._pictures[rows.cpu()], self._picture_shape, self.device)


Pixels = Tensor | StreamedPixels


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
