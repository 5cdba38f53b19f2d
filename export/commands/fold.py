"""`fold`: fold a SOURCE's BatchNorms into an ONNX file, nothing else.  An ONNX file needs no torch."""

import argparse

from rich.console import Console
from rich.markup import escape

from export.commands.fold_file import fold_file
from export.commands.folding import Asked
from export.commands.shared import prices, printing_on_stderr, shapes, show_sites, types, values
from export.errors import SourceError, suggesting_no_proof
from export.fold.proved import FoldOptions


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the account of every BatchNorm as JSON; returns 0, or raises an ExportError."""
    asked = asked_by(options, no_proof=options.no_proof)
    hint = suggesting_no_proof(is_given=options.no_proof)
    with console.status(f"folding {options.source}") as status, printing_on_stderr(), hint:
        fold = fold_file(
            asked,
            options.target,
            report=options.report,
            say=status.update,
            note=lambda text: console.print(escape(text), highlight=False, soft_wrap=True),
        )
    show_sites(fold, console)
    print(fold.model_dump_json(indent=2))
    return 0


def asked_by(options: argparse.Namespace, *, no_proof: bool = False) -> Asked:
    """What the flags of `fold` and of `verify SOURCE` ask for; raises SourceError where they disagree."""
    if options.rows is not None and options.inputs is not None:
        raise SourceError("--rows are of SOURCE's input, which --inputs uint8 changes: give one of them")
    given = (options.inputs, options.mean, options.std)
    if None in given and given != (None, None, None):
        raise SourceError("--inputs uint8, --mean and --std go together: pixels need both to become rows")
    return Asked(
        source=options.source,
        options=FoldOptions(
            prices=prices(options), pixels=(options.mean, options.std) if options.inputs else None
        ),
        shapes=shapes(options.input_shape),
        types=types(options.input_type),
        values=values(options.input_value),
        rows=options.rows,
        weights=options.weights,
        seed=options.seed,
        no_proof=no_proof,
    )
