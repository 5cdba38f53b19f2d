"""What can go wrong on the way from a source to a bundle.

ExportError
├── SourceError    the checkpoint, factory or ONNX file cannot be used
├── UnrunnableError  ONNX Runtime has no such op, or fails on the rows
├── TraceError     the net runs, but its graph is not the net
├── FoldError      a BatchNorm's numbers are broken (not finite, of several sizes, or a variance below zero)
├── Int8Error      the graph in int8 loses too much, or is not faster
└── ProofError     the folded graph's answers are not the unfolded net's, or nothing can be proved
    └── ParityError    they are finite, but beyond the tolerance
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.contract.sizes import Sizes, described


class ExportError(Exception):
    """One sentence for the user: what was found, what was expected, where."""


class SourceError(ExportError):
    """The source is missing, torn, of an unknown kind, or does not fit its options."""


class UnrunnableError(ExportError):
    """ONNX Runtime refuses a graph, or cannot run it."""


class TraceError(ExportError):
    """The traced graph does not hold the BatchNorms that ran in the net."""


class FoldError(ExportError):
    """A BatchNorm whose parameters no fold could carry."""


class Int8Error(ExportError):
    """An int8 graph that is not worth having: the numbers, and the layers that cost most."""


class ProofError(ExportError):
    """A graph that cannot be proved to be the net."""


class ParityError(ProofError):
    """A graph whose answers are beyond the tolerance."""


def is_unprovable(error: ExportError) -> bool:
    """Whether nothing can be proved, which is not the same as a proof that failed."""
    return isinstance(error, ProofError | UnrunnableError) and not isinstance(error, ParityError)


@contextmanager
def suggesting_no_proof(*, is_given: bool) -> Iterator[None]:
    """Let an error that `--no-proof` would pass by say so, unless it `is_given`."""
    try:
        yield
    except ExportError as error:
        if is_given or not is_unprovable(error):
            raise
        rows = "--rows FILE.npz gives it rows that it takes, and " if " cannot run " in str(error) else ""
        raise type(error)(f"{error}; {rows}--no-proof would write it unproved") from error


@contextmanager
def suggesting_values(numbers: Sequence[str]) -> Iterator[None]:
    """Let an error of rows that do not fit name `--input-value`, where inputs are one number of each call."""
    try:
        yield
    except ExportError as error:
        is_of_rows = is_unprovable(error) and ("--rows" in str(error) or " cannot run " in str(error))
        if not (numbers and is_of_rows):
            raise
        raise type(error)(
            f"{error}; input '{numbers[0]}' is one number, which rows try with noise and 0: "
            f"--input-value {numbers[0]}=NUMBER makes it part of the graph"
        ) from error


@contextmanager
def naming(sizes: Sizes) -> Iterator[None]:
    """Let a ProofError that is raised within say at which sizes, where sizes are open."""
    try:
        yield
    except ProofError as error:
        if not sizes:
            raise
        raise type(error)(f"at {described(sizes)}: {error}") from error
