"""Random numbers: every use has a stream of its own, all from the one seed."""

import hashlib

from torch import Generator

STREAMS = ("order", "augment")  # those that a resumed run continues


def seeded_generator(seed: int, stream: str) -> Generator:
    """A generator for one use; equal seeds and streams give equal numbers, other streams independent ones."""
    digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)
