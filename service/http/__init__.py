"""HTTP/1.1 on a socket: bytes in, requests out, one write for each answer."""
