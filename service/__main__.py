"""`python -m service`: check which code runs, then serve the models of a folder until told to stop.

In: flags and FOLDSERVE_* variables.
Out: HTTP; narration on stderr; exit code 0 after a signal, 2 if it could not start.

    python -m service --models models --port 8000
    python -m service --version             compiled or interpreted, and which modules are compiled
"""

import gc
import os
import signal
import sys

from service import __version__
from service.compiled import CompiledError, compiled_modules


def main(arguments: list[str], prog: str = "python -m service") -> int:
    """Serve as the flags say; `prog` is what --help calls the command. Returns the exit code."""
    # While it still imports, Python would miss a SIGTERM as process 1 of a container, and show a traceback
    # after Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    # What is imported stays: looking for garbage meanwhile, and for plugins, only makes the start slower.
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        modules = compiled_modules()
    except CompiledError as error:
        print(f"foldserve: {error}", file=sys.stderr)
        return 2
    if "--version" in arguments:
        first = f"foldserve {__version__}, {'compiled:' if modules else 'interpreted'}"
        sys.stdout.write("\n  ".join([first, *modules]) + "\n")
        return 0
    # Only now: machine code of other sources could fail to import, and would say nothing of why.
    from service.processes.serve import serve

    return serve(arguments, prog=prog, is_compiled=bool(modules))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
