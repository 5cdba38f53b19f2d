"""The page at `/`, and what it reads: the models with their proofs, and their bundles' reports.

In: the app, the models.  Out: routes on the app.

The page's own files need no key; everything that it asks for does, where keys are needed.
"""

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from service.contract.bundle import REPORT_FILE
from service.errors import UnknownModel
from service.models.overview import overview
from service.models.registry import ModelRegistry
from service.page.files import PageFile, page_files
from service.routes.describe import answer, get
from service.routes.page_headers import PAGE_POLICY, REPORT_POLICY


def add_page(app: FastAPI, models: ModelRegistry) -> None:
    """The page, its files, GET /models and GET /models/{model}/versions/{version}/report."""
    folder = models.config.folder
    for path, file in page_files().items():
        get(app, path, include_in_schema=False)(_answering(file))

    @get(app, "/models", tags=["metadata"], summary="Every model, its versions, and the proof of each served")
    async def model_overview() -> Response:
        return answer(200, orjson.dumps({"models": await run_in_threadpool(overview, models.states, folder)}))

    @get(
        app,
        "/models/{model}/versions/{version}/report",
        tags=["metadata"],
        summary="The report of a bundle",
        response_class=Response,
        responses={200: {"content": {"text/html": {}}}},
    )
    async def report(model: str, version: str) -> Response:
        def read() -> bytes | None:
            # Only names that the folder lists: neither may lead out of it.
            if model not in models.names or version not in folder.versions(model):
                return None
            path = folder.version(model, version) / REPORT_FILE
            return path.read_bytes() if path.is_file() else None

        try:
            content = await run_in_threadpool(read)
        except OSError:  # deleted meanwhile
            content = None
        if content is None:
            raise UnknownModel(f"model '{model}' version '{version}' has no report")
        headers = {"content-security-policy": REPORT_POLICY}
        return Response(content, headers=headers, media_type="text/html")


def _answering(file: PageFile) -> Callable[[Request], Any]:
    async def page_file(request: Request) -> Response:
        headers = {
            "etag": file.etag,
            "cache-control": "no-cache",
            "content-security-policy": PAGE_POLICY,
            "x-content-type-options": "nosniff",
        }
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.content_type)

    return page_file
