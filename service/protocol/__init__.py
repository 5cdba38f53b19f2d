"""The Open Inference Protocol v2: bytes of a request to checked tensors, tensors to bytes of an answer."""
