"""What a request's bytes may lie in: a memoryview where a long body arrived in parts."""

Buffer = bytes | bytearray | memoryview
