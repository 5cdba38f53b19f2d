"""The Open Inference Protocol v2: bytes of a request to checked tensors, tensors to bytes of an answer."""

from service import COMPILED

if COMPILED is not None:
    __path__.insert(0, str(COMPILED / "service" / "protocol"))
