"""Requests and their right answers as files, for the drivers, which are processes of their own.

In: requests.  Out: a folder: `N.http` is a whole request, `plan.lua` for wrk, `plan.pickle` for our driver.
"""

import pickle
from pathlib import Path

from benchmarks.serving.wire import Request


def write_plan(folder: Path, requests: list[Request], host: str) -> None:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, request in enumerate(requests):
        file = folder / f"{index}.http"
        file.write_bytes(request.raw(host))
        told = request.expected.lua()
        numbers = told.pop("numbers")
        assert isinstance(numbers, list)
        fields = {"file": str(file), "count": len(numbers), **told}
        given = ", ".join(f"{name} = {_lua(value)}" for name, value in fields.items())
        entries.append(f"  {{{given}, numbers = {{{', '.join(map(repr, numbers))}}}}},")
    (folder / "plan.lua").write_text("\n".join(["return {", *entries, "}", ""]), encoding="utf-8")
    (folder / "plan.pickle").write_bytes(pickle.dumps((host, requests)))


def read_plan(folder: Path) -> tuple[str, list[Request]]:
    """Host and requests of a folder that we wrote."""
    host, requests = pickle.loads((folder / "plan.pickle").read_bytes())
    return host, requests


def _lua(value: object) -> str:
    return f"[==[{value}]==]" if isinstance(value, str) else repr(value)
