"""Requests and their right answers as files, for the drivers, which are separate processes.

In: requests.  Out: a folder: `N.http` is a whole request, `plan.lua` for wrk, `plan.pickle` for our driver.
"""

import pickle
from pathlib import Path

from benchmarks.serving.wire import Request


def write_plan(folder: Path, requests: list[Request], host: str) -> None:
    """Write one file per request, and both plans."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, request in enumerate(requests):
        file = folder / f"{index}.http"
        file.write_bytes(request.raw(host))
        expected = request.expected.lua()
        numbers = expected.pop("numbers")
        assert isinstance(numbers, list)
        fields = {"file": str(file), "count": len(numbers), **expected}
        given = ", ".join(f"{name} = {_lua(value)}" for name, value in fields.items())
        entries.append(f"  {{{given}, numbers = {{{', '.join(map(repr, numbers))}}}}},")
    (folder / "plan.lua").write_text("\n".join(["return {", *entries, "}", ""]), encoding="utf-8")
    (folder / "plan.pickle").write_bytes(pickle.dumps((host, requests)))


def read_plan(folder: Path) -> tuple[str, list[Request]]:
    """The host and the requests of a folder that `write_plan` wrote."""
    host, requests = pickle.loads((folder / "plan.pickle").read_bytes())
    return host, requests


def _lua(value: object) -> str:
    return f"[==[{value}]==]" if isinstance(value, str) else repr(value)
