"""Heavy requests, long JSON or much that was compressed, read in isolated processes.

In: a body as the client sent it.  Out: the same request in the binary form, which is read at no cost.

Python's and the parsers' work on 60 MB of JSON takes up to a second, in which no other thread of a process
runs Python. In a process of its own it holds up no other client, and ends with its own.
"""

from dataclasses import dataclass

from service.contract.bytes_like import Buffer
from service.errors import BadRequest, ServiceError, TooLarge
from service.isolation.capacity import Capacity
from service.isolation.pool import ProcessPool
from service.isolation.process import Ended
from service.protocol.child import READ, expected_json
from service.protocol.signature import Signature

MODULE = "service.protocol.child"
TIMEOUT_S = 20.0
IDLE_S = 600.0  # longer than a picture's process: its start takes as long as reading 20 MB
MEMORY_BYTES = 256 << 20  # for all heavy requests at once, unless one alone may take more
RESIDENT = 4  # bytes for each byte of JSON: text, the parser's copy and index, numbers
VIRTUAL = 24  # what simdjson reserves for the worst document, and does not touch

_MAX_TEXT_BYTES = 1 << 20  # of the answer's JSON, which holds the request's id
_ERRORS = {error.status: error for error in (BadRequest, TooLarge)}


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """A request in the binary form: its body, and its Inference-Header-Content-Length."""

    body: bytes
    header_length: bytes


class HeavyRequests:
    """Reads heavy requests in `num_processes`, none of more than `max_body_bytes` once decompressed."""

    def __init__(self, num_processes: int, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        memory = max(MEMORY_BYTES, RESIDENT * max_body_bytes)
        self._capacity = Capacity(num_processes, memory)
        self._processes = ProcessPool(MODULE, TIMEOUT_S, idle_s=IDLE_S)

    async def read(
        self, signature: Signature, body: list[Buffer], encoding: bytes | None, header_length: bytes | None
    ) -> BinaryRequest:
        """The request in the binary form; cancelled, what waits is dropped and the process is killed.

        The body is the only element of its list, and is taken from there: once the process has it, a caller
        that holds it nowhere else has let it go. Raises what reading it raises, and Unavailable.
        """
        most_bytes = len(body[0]) if encoding is None else self._max_body_bytes
        expected = expected_json(signature, encoding, header_length, self._max_body_bytes)
        num_tensor_bytes = sum(tensor.row_elements * tensor.size for tensor in signature.inputs.values())
        max_answer_bytes = _MAX_TEXT_BYTES + signature.max_rows * num_tensor_bytes
        lease = await self._capacity.lease(RESIDENT * most_bytes)
        try:
            return await self._ask([expected, body.pop()], VIRTUAL * most_bytes, max_answer_bytes)
        finally:
            lease.end()

    async def close(self) -> None:
        """End the processes."""
        await self._processes.close()

    async def _ask(self, parts: list[Buffer], num_bytes: int, max_answer_bytes: int) -> BinaryRequest:
        try:
            async with self._processes.borrow() as process:
                kind, content, number = await process.ask(parts, num_bytes, max_answer_bytes)
        except TimeoutError:
            raise BadRequest(f"reading the request takes longer than {TIMEOUT_S:g} s") from None
        except Ended as ended:
            raise ServiceError(f"the request cannot be read: its reader's {ended}") from None
        if kind == READ:
            return BinaryRequest(content, b"%d" % number)
        raise _ERRORS.get(number, ServiceError)(content.decode(errors="replace"))
