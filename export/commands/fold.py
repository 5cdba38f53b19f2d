"""`fold`: fold an ONNX file's BatchNorms, nothing else.  It needs no torch."""

import argparse

from rich.console import Console
from rich.markup import escape

from export.commands.fold_file import fold_file
from export.commands.shared import prices, shapes, show_sites
from export.errors import SourceError
from export.fold.proved import FoldOptions


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the account of every BatchNorm as JSON; returns 0, or raises an ExportError."""
    if options.rows is not None and options.inputs is not None:
        raise SourceError("--rows are of IN.onnx's input, which --inputs uint8 changes: give one of them")
    given = (options.inputs, options.mean, options.std)
    if None in given and given != (None, None, None):
        raise SourceError("--inputs uint8, --mean and --std go together: pixels need both to become rows")
    with console.status(f"folding {options.source}") as status:
        fold = fold_file(
            options.source,
            options.target,
            report=options.report,
            seed=options.seed,
            say=status.update,
            note=lambda text: console.print(escape(text), highlight=False, soft_wrap=True),
            shapes=shapes(options.input_shape),
            rows_file=options.rows,
            options=FoldOptions(
                prices=prices(options),
                pixels=(options.mean, options.std) if options.inputs else None,
            ),
        )
    show_sites(fold, console)
    print(fold.model_dump_json(indent=2))
    return 0
