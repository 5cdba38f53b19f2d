"""Chance: every use has a stream of its own, all from the one seed."""

import hashlib

from torch import Generator

STREAMS = ("order", "augment")  # those that a run goes on with


def seeded_generator(seed: int, stream: str) -> Generator:
    """An independent source of chance for each use, all from the one seed."""
    digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)
