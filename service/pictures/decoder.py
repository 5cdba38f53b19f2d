"""The pictures of a request as rows of a net, without harm to other clients.

In: a request's body.  Out: rows (N, C, H, W) float32, or an error that says what is too much.

    body ─▶ form.py ─▶ weight.py ─┬─ tiny ──▶ here, for 0.1 ms: the hand-off to a thread takes longer
            a thread              ├─ light ─▶ a thread, for up to about 40 ms
                                  └─ heavy ─▶ capacity.py ─▶ processes.py: one process, with a deadline

When the client hangs up, its request is cancelled: what waits is then never begun, and a process that decodes
is killed. Only a thread continues to its end, which is near.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from service.contract.bytes_like import Buffer
from service.contract.pictures import UnknownFormatError
from service.contract.preprocessing import Preprocessing
from service.errors import BadPicture, Overloaded, TooLarge
from service.isolation.capacity import Capacity
from service.isolation.pool import ProcessPool
from service.pictures.form import Picture, files_of, is_form
from service.pictures.processes import MODULE, FileError, decode_in_process
from service.pictures.request import PictureRequest, bad_picture
from service.pictures.weight import LIGHT_BYTES, Weight, are_light, are_tiny, check_format

TINY_ROW_BYTES = 5 * 64 * 64  # decoded at once, on the event loop
TINY_FORM_BYTES = 8192  # parsed at once, too
LIGHT_ROW_BYTES = 8 << 20  # of a request's rows; more are counted, and decoded when there is memory for them
FORM_START_BYTES = 16 * 1024  # of a long form: parsed on the event loop, in a millisecond

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class DecodingLimits:
    """What decoding may cost; each is the setting of the same name."""

    max_files: int  # in a request
    max_pixels: int  # in a picture
    max_request_pixels: int  # in all pictures of a request
    max_inflight_pixels: int  # in all requests with heavy pictures at once
    decode_memory_bytes: int  # for all requests at once
    decode_timeout_s: float  # for a request
    num_processes: int


class PictureDecoder:
    """Decodes for all requests of a worker; belongs to one event loop."""

    def __init__(self, threads: Executor, limits: DecodingLimits) -> None:
        self._threads = threads
        self._limits = limits
        self._capacity = Capacity(limits.num_processes, limits.decode_memory_bytes)
        self._processes = ProcessPool(MODULE, limits.decode_timeout_s)
        self._inflight_pixels = 0
        # Parsing a large form takes up to 0.2 s: one at a time, and not before light pictures in the queue.
        self._form_thread = ThreadPoolExecutor(1, thread_name_prefix="form")

    async def pictures(self, content_type: str, body: Buffer) -> list[Picture]:
        """The pictures of a body: the files of a form, or the body itself, whose name is None."""
        if not is_form(content_type):
            return [(None, body)]
        if len(body) <= TINY_FORM_BYTES:
            return files_of(content_type, body, self._limits.max_files)
        threads = self._threads if len(body) <= LIGHT_BYTES else self._form_thread
        return await asyncio.get_running_loop().run_in_executor(
            threads, files_of, content_type, body, self._limits.max_files
        )

    def check_start(self, content_type: str, start: bytes) -> None:
        """Raise what a long body that begins with `start`, 64 KiB at most, will be refused for."""
        if is_form(content_type):
            start = start[:FORM_START_BYTES]
            files = files_of(content_type, start, self._limits.max_files, is_whole=False)
        else:
            files = [(None, start)]
        for file, content in files:
            try:
                check_format(content)
            except UnknownFormatError as error:
                raise bad_picture(file, error) from None

    @asynccontextmanager
    async def rows(self, pictures: list[Picture], preprocessing: Preprocessing) -> AsyncIterator[np.ndarray]:
        """The pictures as rows (N, C, H, W) float32, whose memory is counted until the block ends.

        The list is emptied where a process gets them.
        Raises BadPicture with the file's name, TooLarge, Overloaded, or Unavailable.
        """
        request = PictureRequest(pictures, preprocessing, self._limits.max_pixels)
        weights = request.weigh() if len(pictures) == 1 else await self._in_thread(request.weigh)
        num_pixels = self._request_pixels(weights)
        if request.row_bytes <= LIGHT_ROW_BYTES and are_light(weights, request.num_file_bytes):
            is_tiny = request.row_bytes <= TINY_ROW_BYTES and are_tiny(weights, request.num_file_bytes)
            yield request.decode() if is_tiny else await self._in_thread(request.decode)
            return
        decoder_bytes = self._decoder_bytes(weights, request.row_bytes)
        self._check_inflight(num_pixels)
        self._inflight_pixels += num_pixels
        try:
            lease = await self._capacity.lease(decoder_bytes + request.row_bytes)
            try:
                pixels = await self._decode(request, decoder_bytes + request.row_bytes)
                lease.keep_bytes(request.row_bytes)
                yield await self._in_thread(lambda: request.to_rows(pixels))
            finally:
                lease.end()
        finally:
            self._inflight_pixels -= num_pixels

    async def close(self) -> None:
        """End the processes, and the thread once it is idle."""
        self._form_thread.shutdown(wait=False, cancel_futures=True)
        await self._processes.close()

    async def _decode(self, request: PictureRequest, num_bytes: int) -> np.ndarray:
        files = [file for file, _ in request.pictures]
        try:
            return await decode_in_process(
                self._processes, request.take_contents(), request.target, num_bytes
            )
        except FileError as error:
            file = None if error.index is None else files[error.index]
            raise bad_picture(file, error.reason) from None
        except TimeoutError:
            raise BadPicture(
                f"decoding takes longer than {self._limits.decode_timeout_s:g} s, "
                "the maximum of a request (FOLDSERVE_DECODE_TIMEOUT_S)"
            ) from None

    def _request_pixels(self, weights: Sequence[Weight]) -> int:
        """The pixels of all pictures of a request; raises TooLarge."""
        num_pixels = sum(weight.pixels for weight in weights)
        if num_pixels > self._limits.max_request_pixels:
            raise TooLarge(
                f"the pictures have {num_pixels} pixels together, at most {self._limits.max_request_pixels} "
                "are decoded for one request (FOLDSERVE_MAX_REQUEST_PIXELS)"
            )
        return num_pixels

    def _check_inflight(self, num_pixels: int) -> None:
        """Raise Overloaded if large pictures of other requests leave no room for so many pixels."""
        if self._inflight_pixels + num_pixels > self._limits.max_inflight_pixels:
            raise Overloaded(
                f"large pictures of {self._inflight_pixels} pixels are being decoded, at most "
                f"{self._limits.max_inflight_pixels} are at once (FOLDSERVE_MAX_INFLIGHT_PIXELS)"
            )

    def _decoder_bytes(self, weights: Sequence[Weight], row_bytes: int) -> int:
        """Bytes that decoding a request one picture at a time takes, beside its rows; raises TooLarge."""
        limit = self._limits.decode_memory_bytes
        needed = max(weight.num_bytes or 0 for weight in weights) + row_bytes
        if needed > limit:
            raise TooLarge(
                f"decoding takes {needed >> 20} MiB of memory, at most {limit >> 20} are allowed "
                "(FOLDSERVE_DECODE_MEMORY_MB)"
            )
        if any(weight.num_bytes is None for weight in weights):
            return limit - row_bytes
        return needed - row_bytes

    async def _in_thread(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
