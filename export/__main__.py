"""The command line of export: bundle, fold, verify, show, sign.  Data on stdout, narration on stderr."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve a neighbour
# Rows are computed in threads (`export.proof.truth`); on a busy machine NumPy's own cost five times the work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console
from rich.markup import escape

from export.commands.parser import parse
from export.commands.quick_imports import import_quickly
from export.errors import ExportError
from service.contract.manifest import BundleError

# What `pip install 'foldserve[…]'` brings for a verb that needs less than all of export.
EXTRAS = {"fold": "fold", "verify": "fold", "show": "fold", "sign": "fold,signing"}


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export") -> int:
    """Run one verb; `prog` is what --help calls the command.

    Returns the exit code: 0 done, 1 not proved, 2 a mistake, 130 interrupted.
    """
    for package in ("onnx_ir", "onnxscript"):  # what they cannot infer stays open; they log tracebacks
        logging.getLogger(package).setLevel(logging.CRITICAL)
    options = parse(prog, arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(stderr=True, emoji=False)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what matters is said once, in our own sentence
    try:
        # A verb's module is imported when it is asked for: `fold` and `verify` need no torch.
        run: Callable[[argparse.Namespace, Console], int]
        run = import_quickly(f"export.commands.{options.verb}").run
        code = run(options, console)
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except (ExportError, BundleError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except ModuleNotFoundError as error:
        extra = "export" if error.name in ("PIL", "torch") else EXTRAS.get(options.verb, "export")
        console.print(
            f"[red]error:[/] {options.verb} needs the package {error.name}, which is not installed: "
            f"pip install 'foldserve\\[{extra}]'",
            highlight=False,
            soft_wrap=True,
        )
        return 2
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at its end
        return 1
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written", highlight=False)
        return 130


if __name__ == "__main__":
    sys.exit(main())
