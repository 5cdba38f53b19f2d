"""Rows as arrays, 32 requests at once: `python examples/arrays.py URL MODEL`.

The service runs rows of different requests together, so many small requests cost little more than few large
ones.
"""

import asyncio
import sys

import numpy as np

from foldserve.client import AsyncClient


async def main(url: str, model: str) -> None:
    async with AsyncClient(url) as client:
        (tensor,) = (await client.metadata(model))["inputs"]
        rows = np.random.default_rng(0).normal(size=(32, *tensor["shape"][1:]))
        answers = await asyncio.gather(*(client.infer(model, row[np.newaxis]) for row in rows))
        for answer in answers[:3]:
            ((name, values),) = answer.outputs.items()
            print(f"{name}: class {values.argmax()}, {answer.timing_ms['total']:.2f} ms in the service")


asyncio.run(main(*sys.argv[1:3]))
