"""The OpenAPI document is made once, however many ask at once."""

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi import FastAPI, Request

from service.models.registry import ModelRegistry
from service.routes import openapi


async def test_the_document_is_made_once_for_all_who_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def describe(app: FastAPI, models: object) -> dict[str, int]:
        time.sleep(0.05)
        made.append(app)
        if len(made) == 1:
            raise ValueError("the first fails, for all who wait for it")
        return {"made": len(made)}

    monkeypatch.setattr(openapi, "describe", describe)
    models = SimpleNamespace(served=[SimpleNamespace(signature=object())])
    document = openapi.KeptDocument(FastAPI(), cast(ModelRegistry, models))

    async def ask() -> bytes | None:
        with contextlib.suppress(ValueError):
            return bytes((await document(cast(Request, None))).body)
        return None

    assert await asyncio.gather(*(ask() for _ in range(9))) == [None] * 9
    hasty = asyncio.ensure_future(ask())
    others = asyncio.gather(*(ask() for _ in range(9)))
    await asyncio.sleep(0)
    hasty.cancel()
    assert await others == [b'{"made":2}'] * 9, "a client that hangs up takes it from no other"
    models.served = [SimpleNamespace(signature=object())]
    assert (await ask(), len(made)) == (b'{"made":3}', 3)
