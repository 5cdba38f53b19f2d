"""`foldserve COMMAND …`: what the modules and commands/ do, under one name.

In: a command and its flags.  Out: whatever that one prints; its exit code.

exit code 2 is a mistake, in one sentence: an unknown command, or one whose packages are not installed
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

# Where a wheel has training, export, service and study; in a checkout they stand at the top.
PACKAGES = Path(__file__).with_name("_packages")


def _train(words: Sequence[str], prog: str) -> int:
    from training.__main__ import main
    from training.distributed.launch import end

    end(main(words, prog))  # one of several processes that torchrun starts must not outlive an error


def _search(words: Sequence[str], prog: str) -> int:
    from training.search.command import main

    return main(words, prog)


def _evaluate(words: Sequence[str], prog: str) -> int:
    from training.evaluation.command import main

    return main(words, prog)


def _study(words: Sequence[str], prog: str) -> int:
    from study.__main__ import main

    return main(words, prog)


def _export(words: Sequence[str], prog: str) -> int:
    from export.__main__ import main

    return main(words, prog)


def _serve(words: Sequence[str], prog: str) -> int:
    from service.__main__ import main

    return main(list(words), prog)


def _key(words: Sequence[str], prog: str) -> int:
    from service.access.__main__ import main

    return main(words, prog)


def _predict(words: Sequence[str], prog: str) -> int:
    from foldserve.commands.predict import main

    return main(words, prog)


def _batch(words: Sequence[str], prog: str) -> int:
    from foldserve.commands.batch import main

    return main(words, prog)


def _bench(words: Sequence[str], prog: str) -> int:
    from foldserve.commands.bench import main

    return main(words, prog)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: `run` imports what it needs, which `pip install 'foldserve[extra]'` brings."""

    run: Callable[[Sequence[str], str], int]
    extra: str
    summary: str
    example: str


COMMANDS = {
    "train": Command(
        run=_train,
        extra="training",
        summary="train a BatchNorm net; `train compare` compares runs",
        example="foldserve train --out runs/digits",
    ),
    "search": Command(
        run=_search,
        extra="search",
        summary="search for learning rate, batch size and width",
        example="foldserve search --out runs/search --trials 30",
    ),
    "evaluate": Command(
        run=_evaluate,
        extra="training",
        summary="measure a checkpoint or a bundle on a test set",
        example="foldserve evaluate runs/digits",
    ),
    "study": Command(
        run=_study,
        extra="training",
        summary="measure what articles claim about BatchNorm",
        example="foldserve study --quick",
    ),
    "export": Command(
        run=_export,
        extra="export",
        summary="bundle, fold, verify, sign: BatchNorms away, and proof",
        example="foldserve export bundle runs/digits/checkpoint.pt --to models/digits",
    ),
    "serve": Command(
        run=_serve,
        extra="service",
        summary="serve a folder of bundles over HTTP",
        example="foldserve serve --models models --port 8000",
    ),
    "predict": Command(
        run=_predict,
        extra="client",
        summary="ask a running service for the labels of pictures",
        example="foldserve predict --url http://127.0.0.1:8000 pictures/*.jpg",
    ),
    "batch": Command(
        run=_batch,
        extra="batch",
        summary="answer a whole data set with a bundle, without a server",
        example="foldserve batch models/digits pictures/ labels.parquet",
    ),
    "bench": Command(
        run=_bench,
        extra="service",
        summary="measure how fast a bundle answers on this machine",
        example="foldserve bench models/digits",
    ),
    "key": Command(
        run=_key,
        extra="service",
        summary="make an API key for `serve --api-keys`",
        example="foldserve key shop --scopes infer >> keys.txt",
    ),
}


def find_packages() -> None:
    """Let training, export, service and study be imported, wherever this package is installed."""
    if PACKAGES.is_dir() and str(PACKAGES) not in sys.path:
        sys.path.insert(0, str(PACKAGES))


def describe() -> str:
    """The text of --help, at most 80 columns wide."""
    lines = ["usage: foldserve COMMAND …", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<10}{command.summary}", f"{'':12}{command.example}"]
    return "\n".join(
        [
            *lines,
            "  --version   which version this is, and whether its hot path is compiled",
            "",
            "`foldserve COMMAND --help` lists the flags of a command.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    find_packages()
    if not words:
        print(describe(), file=sys.stderr)
        return 2
    name, *rest = words
    if name in ("-h", "--help"):
        print(describe())
        return 0
    if name == "--version":
        return _serve([name], "foldserve")
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS)
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"foldserve: there is no command '{name}'; {meant}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    try:
        return command.run(rest, f"foldserve {name}")
    except ModuleNotFoundError as error:
        print(
            f"foldserve: {name} needs the package {error.name}, which is not installed: "
            f"pip install 'foldserve[{command.extra}]'",
            file=sys.stderr,
        )
        return 2


def run() -> NoReturn:
    """What the installed script `foldserve` calls."""
    sys.exit(main())


if __name__ == "__main__":
    run()
