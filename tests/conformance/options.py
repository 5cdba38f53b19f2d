"""The suite's options: where the server is, and what it has for vectors that a bare URL cannot ask for."""

import pytest

from conformance.tensors import NUMPY


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance vectors of the Open Inference Protocol v2")
    group.addoption("--url", help="base URL of the server, http://host:port")
    group.addoption("--model", metavar="NAME", help="the model to ask; else the first of GET /v2/models")
    group.addoption(
        "--our-choices",
        action="store_true",
        help="where the specification leaves a choice, accept only what foldserve chose",
    )
    group.addoption(
        "--model-of",
        action="append",
        default=[],
        metavar="DATATYPE=NAME",
        help="a model with one input that answers it unchanged; may be given for each datatype",
    )
    group.addoption("--pair-model", metavar="NAME", help="a model with two inputs and two outputs")
    group.addoption("--quoted-model", metavar="NAME", help="a model whose name has a space or the like")
    group.addoption("--nan-model", metavar="NAME", help="a model that is not finite where its input is −1")
    group.addoption("--slow-model", metavar="NAME", help="a model that works the longer the larger its input")
    group.addoption(
        "--slow-value", type=float, default=70000.0, help="what keeps --slow-model busy for seconds [70000]"
    )
    group.addoption("--slow-queue", type=int, metavar="N", help="requests that may wait for --slow-model")
    group.addoption(
        "--unready",
        nargs=2,
        metavar=("URL", "NAME"),
        help="such a server one of whose models could not be loaded, and that model",
    )
    group.addoption("--batch-rows", type=int, default=64, metavar="N", help="rows of a full batch [64]")
    group.addoption("--max-rows", type=int, metavar="N", help="the most rows that one request may have")
    group.addoption("--max-body-mb", type=float, default=64.0, help="the server's limit for a body [64]")
    group.addoption("--control", action="store_true", help="the server loads models when asked to")
    group.addoption("--pid", type=int, help="the server's process on this machine: its memory is read")
    group.addoption(
        "--may-end", action="store_true", help="the last test ends --pid with SIGTERM; needs --slow-model"
    )
    group.addoption(
        "--patience",
        type=float,
        default=5.0,
        metavar="S",
        help="wait so long before a test for a server that the one before has ended, and that is restarted",
    )
    group.addoption("--table", metavar="FILE", help="write every vector's outcome to FILE, as JSON")


def models_by_datatype(config: pytest.Config) -> dict[str, str]:
    """What --model-of says."""
    named = {}
    for option in config.getoption("--model-of"):
        datatype, _, name = option.partition("=")
        if datatype not in NUMPY or not name:
            raise pytest.UsageError(f"--model-of {option}: expected DATATYPE=NAME, one of {', '.join(NUMPY)}")
        named[datatype] = name
    return named
