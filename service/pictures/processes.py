"""Pictures decoded in isolated processes.

In: the files of a request.  Out: their pixels, or which of them cannot be decoded and why.
"""

import math

import numpy as np

from service.contract.bytes_like import Buffer
from service.contract.pictures import PictureError, UnknownFormatError
from service.contract.target import Target
from service.isolation.pool import ProcessPool
from service.isolation.process import Ended
from service.pictures.child import PIXELS, UNKNOWN

MODULE = "service.pictures.child"
_MAX_REASON_BYTES = 10_000


class FileError(Exception):
    """Why the files of a request are not decoded; `index` of the one that it is about, where it is known."""

    def __init__(self, index: int | None, reason: PictureError) -> None:
        super().__init__(str(reason))
        self.index = index
        self.reason = reason


async def decode_in_process(
    pool: ProcessPool, contents: list[Buffer], target: Target, num_bytes: int
) -> np.ndarray:
    """Pixels (N, C, H, W) uint8 of N files, within `num_bytes` of memory beside the files.

    Files are taken from the list as the process gets them: 60 MB need not be held twice.
    Raises FileError, TimeoutError at the pool's deadline, Unavailable.
    """
    shape = (len(contents), *target.shape)
    async with pool.borrow() as process:
        parts: list[Buffer] = [target.to_json(), *contents]
        contents.clear()
        try:
            kind, content, index = await process.ask(
                parts, num_bytes, max(math.prod(shape), _MAX_REASON_BYTES)
            )
        except Ended as ended:
            raise FileError(None, PictureError(f"cannot be decoded: the decoder's {ended}")) from None
    # The process is not believed: one that was taken over by a picture may say anything.
    if kind == PIXELS and len(content) == math.prod(shape):
        return np.frombuffer(content, np.uint8).reshape(shape)
    reason = content[:_MAX_REASON_BYTES].decode(errors="replace")
    about = index if index < shape[0] else None
    raise FileError(about, UnknownFormatError(reason) if kind == UNKNOWN else PictureError(reason))
