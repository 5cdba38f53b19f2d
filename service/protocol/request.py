"""An inference request: the bytes of a body in, checked tensors out.

In: the decompressed body, the value of Inference-Header-Content-Length or None.
Out: an `InferRequest`, or a BadRequest that names the input and the model.

    body = JSON                                     without the header
    body = JSON[:N] + binary tensors in order        N > 0
    body = the one input's one row                   N = 0

Every size is compared with what came before anything is allocated. Binary tensors are views on the body.
"""

from dataclasses import dataclass

import numpy as np

from service.contract.bytes_like import Buffer
from service.errors import BadRequest
from service.protocol.document import check_text_start, check_weight, may_hold_bools, read_document
from service.protocol.head import Head, RequestedOutput, RequestInput, read_head
from service.protocol.quick import quick_document
from service.protocol.signature import Signature
from service.protocol.tensors import from_bytes, from_json

MAX_KEPT_HEADS = 256
MAX_KEPT_BYTES = 2048


@dataclass(slots=True, eq=False)
class InferRequest:
    """A checked request: its head, and for each input an array in the model's dtype, rows first."""

    head: Head
    tensors: dict[str, np.ndarray]


class RequestParser:
    """Reads requests to one version of a model.

    A client sends the same JSON with every binary request, so heads without `data` are kept once checked:
    parsing and checking it costs more than all the rest of such a request.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._heads: dict[bytes, Head] = {}

    def parse(self, body: Buffer, header_length: bytes | None) -> InferRequest:
        """Read and check a decompressed body; raises BadRequest.  The arrays may be views on `body`."""
        if header_length is None:
            check_weight(body, self.signature.max_elements)
            document = quick_document(bytes(body)) or read_document(body, self.signature.max_elements)
            head = read_head(document, self.signature, has_header=False)
            return self._with_tensors(head, body, body, None)
        tail = _parse_length(header_length, len(body))
        if tail == 0:
            return self._with_tensors(self._raw_head(len(body)), b"", body, None)
        text = _text(body, tail)
        head = self._head(text)
        self._check_sizes(head, tail, len(body))
        return self._with_tensors(head, text, body, tail)

    def check_start(self, start: Buffer, num_bytes: int, header_length: bytes | None) -> None:
        """Raise the BadRequest that a body beginning with `start` would get, whatever else it holds.

        `num_bytes` are those of the whole body, −1 if that is not known yet.
        """
        if header_length is None:
            check_text_start(start)
            return
        if num_bytes < 0:
            return
        tail = _parse_length(header_length, num_bytes)
        if tail > len(start):
            check_text_start(start)
        elif tail == 0:
            self._raw_head(num_bytes)
        else:
            self._check_sizes(self._head(_text(start, tail)), tail, num_bytes)

    def _head(self, text: bytes | memoryview) -> Head:
        """The checked JSON of a binary request; bytes are kept, if they hold no values, for the next one."""
        if isinstance(text, memoryview):
            return self._read(text)
        kept = self._heads.get(text)
        if kept is None:
            kept = self._read(text)
            if all(given.num_bytes is not None for given in kept.inputs):
                if len(self._heads) >= MAX_KEPT_HEADS:
                    self._heads.clear()
                self._heads[text] = kept
        return kept

    def _read(self, text: bytes | memoryview) -> Head:
        return read_head(read_document(text, self.signature.max_elements), self.signature, has_header=True)

    def _with_tensors(self, head: Head, text: Buffer, body: Buffer, tail: int | None) -> InferRequest:
        tensors: dict[str, np.ndarray] = {}
        offset = tail or 0
        for given in head.inputs:
            tensor = given.tensor
            if given.num_bytes is None:
                bools = type(given.data) is list and may_hold_bools(text)
                tensors[tensor.name] = from_json(
                    given.data, tensor.name, tensor.datatype, given.shape, may_hold_bools=bools
                )
                continue
            tensors[tensor.name] = from_bytes(
                body, offset, tensor.datatype, tensor.name, given.shape, given.num_elements
            )
            offset += given.num_bytes
        return InferRequest(head, tensors)

    def _check_sizes(self, head: Head, tail: int, num_bytes: int) -> None:
        """Raise BadRequest unless the binary inputs after `tail` bytes of JSON fill a body of `num_bytes`."""
        if tail + head.num_bytes == num_bytes:
            return
        end = tail
        for given in head.inputs:
            end += given.num_bytes or 0
            if end > num_bytes:
                raise BadRequest(
                    f"unexpected size for input '{given.tensor.name}', expecting {end - num_bytes} "
                    f"additional bytes for model '{self.signature.name}'"
                )
        raise BadRequest(f"unexpected additional input data for model '{self.signature.name}'")

    def _raw_head(self, num_bytes: int) -> Head:
        """Of a body that is one row of the only input and nothing else; every output is binary."""
        signature = self.signature
        if len(signature.inputs) != 1:
            raise BadRequest(
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(signature.inputs)} "
                f"inputs in '{signature.name}' model configuration"
            )
        tensor = next(iter(signature.inputs.values()))
        if tensor.open_sizes:
            raise BadRequest(
                f"a raw request gives no shape, and input '{tensor.name}' of model '{signature.name}' has "
                f"open sizes: {tensor.shape}"
            )
        row_bytes = tensor.row_elements * tensor.size
        if num_bytes != row_bytes:
            raise BadRequest(
                f"unexpected size for input '{tensor.name}' for model '{signature.name}': "
                f"one row has {row_bytes} bytes, got {num_bytes}"
            )
        given = RequestInput(tensor, (1, *tensor.row_shape), tensor.row_elements, num_bytes)
        outputs = [RequestedOutput(name, True) for name in signature.outputs]
        return Head(inputs=[given], outputs=outputs, num_rows=1)


def _text(body: Buffer, tail: int) -> bytes | memoryview:
    return memoryview(body)[:tail] if tail > MAX_KEPT_BYTES else bytes(body[:tail])


def _parse_length(text: bytes, num_bytes: int) -> int:
    if text.isdigit() and len(text) < 10:
        length = int(text)
        if length <= num_bytes:
            return length
    shown = text.decode("latin-1").strip()
    digits = shown.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise BadRequest(f"Unable to parse Inference-Header-Content-Length, got: {shown[:40]}")
    raise BadRequest(f"inference header size should be in range (0, {num_bytes}), got: {shown[:40]}")
