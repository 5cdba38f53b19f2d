"""`python -m training`: flags in; progress on stderr, the final facts on stdout.

They are a table on a terminal, and one JSON line for a pipe or with --json.

    python -m training --out FOLDER ...              trains
    python -m training compare FOLDER FOLDER ...     see compare_command.py
    python -m training search --out FOLDER ...       see search/command.py
    python -m training evaluate SOURCE               see evaluation/command.py

exit code   0 done   1 training diverged   2 the user's mistake, in one sentence   130 interrupted

Of several processes that torchrun starts, only the first one prints.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.console import to_markdown
from training.distributed.launch import Launch, end, read_launch
from training.errors import TrainingError
from training.evaluation import command as evaluate_command
from training.runs import compare_command
from training.search import command as search_command
from training.settings.config import ConfigError
from training.settings.environment import ENVIRONMENT as ENVIRONMENT
from training.settings.environment import keep_freed_memory, set_environment
from training.settings.flags import build_parser, read_settings

if TYPE_CHECKING:
    from training.runs.run import Run

COMMANDS = {
    "compare": compare_command.main,
    "search": search_command.main,
    "evaluate": evaluate_command.main,
}


def main(argv: Sequence[str] | None = None, prog: str = "python -m training") -> int:
    """Run the command line, which --help calls `prog`; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:], f"{prog} {words[0]}")
    launch, run = Launch(), None
    try:
        launch = read_launch(os.environ)
        flags = vars(build_parser(prog).parse_args(words))
        settings = read_settings(flags)
        for name in ("log_every", "checkpoint_every"):
            if flags[name] < 0:
                raise ConfigError(f"{name} must be zero or positive, got {flags[name]}")
        set_environment()
        # Torch takes seconds to import: --help must not wait for it, nor Ctrl-C show a traceback.
        from training.distributed.group import joined
        from training.figures.tensorboard import check_tensorboard
        from training.loop.device import find_device
        from training.runs.narrate import narrate
        from training.runs.open import open_run

        if flags["tensorboard"]:
            check_tensorboard()
        keep_freed_memory()
        with joined(launch, find_device(flags["device"], launch)) as group:
            run = open_run(
                flags["out"],
                settings,
                device=flags["device"],
                resume=flags["resume"],
                overwrite=flags["overwrite"],
                group=group,
            )
            facts = narrate(
                run,
                wants_board=flags["tensorboard"],
                log_every=flags["log_every"],
                checkpoint_every=flags["checkpoint_every"],
            )
        if launch.is_first:
            # A table for people, JSON for whatever reads a pipe.
            is_read = flags["json"] or not sys.stdout.isatty()
            print(json.dumps(facts) if is_read else describe_facts(facts))
    except TrainingError as error:
        launch.report(error)
        return error.exit_code
    except KeyboardInterrupt:
        if launch.is_first:
            print(f"training: interrupted {describe_progress(run)}", file=sys.stderr)
        return 130
    return 0


def describe_facts(facts: dict[str, Any]) -> str:
    """The final facts as a table of at most 80 columns."""
    rows = [(key.replace("_", " "), f"{facts[key]:.2%}") for key in facts if key.endswith("accuracy")]
    rows += [(key.replace("_", " "), f"{facts[key]:.4f}") for key in facts if key.endswith("loss")]
    rows += [(key, f"{facts[key]:,}") for key in ("epoch", "parameters", "seconds")]
    return to_markdown([facts["out"], ""], rows, aligned=True)


def describe_progress(run: "Run | None") -> str:
    """How far the run came before the interruption, and how to continue it."""
    if run is not None and run.steps_saved:
        epoch = f"{len(run.history) + 1} of {run.config.epochs}"
        return f"in epoch {epoch}, saved after its step {run.steps_saved:,}; add --resume to continue"
    if run is None or not run.history:
        return "before the first epoch ended; nothing was saved"
    return f"after epoch {len(run.history)} of {run.config.epochs}; add --resume to continue"


if __name__ == "__main__":
    end(main())
