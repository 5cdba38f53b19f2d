"""`foldserve predict`: pictures to a running service, or to a checkpoint or bundle on this machine.

Their labels are a table or JSON lines.

In: paths of pictures, `-` for stdin.  Out: a line for each on stdout, in their order; on stderr what failed.

exit code   0 every picture has its label   1 one has none   2 a mistake, or no service   130 interrupted
"""

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from foldserve.client import AsyncClient, BadRequest, ClientError, Prediction
from foldserve.commands.parser import Parser, refuse

KEY = "FOLDSERVE_API_KEY"
PICTURES_IN_A_REQUEST = 16
Result = tuple[str, Prediction | str]  # a path, and its label or why it has none
Labels = list[tuple[str, float]]


def parser(prog: str) -> Parser:
    """The flags."""
    flags = Parser(
        prog,
        "Ask a running service, or a run or bundle here, for the labels of pictures.",
        "foldserve predict --url http://127.0.0.1:8000 pictures/*.jpg",
        "foldserve predict --model digits --top 3 --json docs/seven.png",
        "foldserve predict --from runs/digits docs/seven.png",
    )
    flags.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file; - reads stdin")
    flags.add_argument("--url", default="http://127.0.0.1:8000", help="(default http://127.0.0.1:8000)")
    flags.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="SOURCE",
        help="no service, but a run's folder, a checkpoint or a bundle's folder",
    )
    flags.add_argument("--model", metavar="NAME", help="needed where several models take pictures")
    flags.add_argument("--top", type=int, default=1, metavar="K", help="labels of each picture (default 1)")
    flags.add_argument("--json", action="store_true", help="a JSON object a line, instead of a table")
    flags.add_argument(
        "--timeout-s", type=float, default=30.0, metavar="S", help="for each request (default 30)"
    )
    flags.epilog = f"{flags.epilog}\n\nAn API key is read from the environment variable {KEY}."
    return flags


def main(words: Sequence[str], prog: str) -> int:
    """Run the command; returns the exit code."""
    options = parser(prog).parse_args(words)
    if options.top < 1:
        return refuse(f"--top must be at least 1, got {options.top}")
    if not options.timeout_s > 0:
        return refuse(f"--timeout-s must be positive, got {options.timeout_s:g}")
    if options.source and options.model:
        return refuse("--model names a model of a service, so it does not go with --from")
    try:
        code = _predict_here(options) if options.source else anyio.run(_predict, options)
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except ClientError as error:
        return refuse(str(error))
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at its end
        return 1
    except KeyboardInterrupt:
        return 130


def _predict_here(options: argparse.Namespace) -> int:
    """By a checkpoint or bundle of this machine; only here is torch needed."""
    from training.errors import TrainingError
    from training.evaluation.predicting import label_pictures, open_local

    try:
        answering, is_whole = open_local(options.source), True
        for start in range(0, len(options.pictures), PICTURES_IN_A_REQUEST):
            paths = options.pictures[start : start + PICTURES_IN_A_REQUEST]
            contents = [_read(path) for path in paths]
            readable = [content for content in contents if isinstance(content, bytes)]
            found = iter(label_pictures(answering, readable, options.top))
            for path, content in zip(paths, contents, strict=True):
                labels = next(found) if isinstance(content, bytes) else content
                is_whole = is_whole and not isinstance(labels, str)
                _print(options, path, labels, {"source": answering.where})
    except TrainingError as error:
        return refuse(str(error))
    return 0 if is_whole else 1


def _print(
    options: argparse.Namespace, path: str, found: Labels | np.ndarray | str, about: dict[str, str]
) -> None:
    """One picture's labels or values on stdout, or on stderr why it has none."""
    if isinstance(found, str):
        print(f"foldserve: {path}: {found}", file=sys.stderr)
    elif options.json:
        print(json.dumps({"file": path, **about, **_document(found)}, ensure_ascii=False))
    else:
        width = max(map(len, options.pictures))
        print(f"{path:<{width}}  {_text(found)}")


def _document(found: Labels | np.ndarray) -> dict[str, Any]:
    if isinstance(found, np.ndarray):
        return {"values": found.tolist()}
    ranked = [{"label": label, "probability": share} for label, share in found]
    return {**ranked[0], "top": ranked}


def _text(found: Labels | np.ndarray) -> str:
    if isinstance(found, np.ndarray):
        return f"{' x '.join(map(str, found.shape))} values, printed with --json"
    return "  ".join(f"{share:.4f} {label}" for label, share in found)


async def _predict(options: argparse.Namespace) -> int:
    is_whole = True
    key = os.environ.get(KEY)
    async with AsyncClient(options.url, api_key=key, timeout_s=options.timeout_s) as client:
        async for path, found in _results(client, options):
            if isinstance(found, str):
                is_whole = False
                _print(options, path, found, {})
            else:
                about = {"model": found.model, "version": found.version, "precision": found.precision}
                _print(options, path, found.top if found.values is None else found.values, about)
    return 0 if is_whole else 1


async def _results(client: AsyncClient, options: argparse.Namespace) -> AsyncIterator[Result]:
    """The results in the pictures' order, several pictures a request."""
    for start in range(0, len(options.pictures), PICTURES_IN_A_REQUEST):
        paths = options.pictures[start : start + PICTURES_IN_A_REQUEST]
        contents = [_read(path) for path in paths]
        readable = [content for content in contents if isinstance(content, bytes)]
        labels = iter(await _labels(client, readable, options))
        for path, content in zip(paths, contents, strict=True):
            yield path, next(labels) if isinstance(content, bytes) else content


async def _labels(
    client: AsyncClient, pictures: list[bytes], options: argparse.Namespace
) -> list[Prediction | str]:
    """A label for each picture, or why it has none: if one is refused, each is asked for by itself."""
    try:
        return [*await client.predict_all(pictures, model=options.model, top=options.top)]
    except BadRequest as error:
        if len(pictures) == 1:
            return [str(error)]
        return [label for one in pictures for label in await _labels(client, [one], options)]


def _read(path: str) -> bytes | str:
    """A picture's bytes, or why they cannot be read."""
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except OSError as error:
        return error.strerror or str(error)
