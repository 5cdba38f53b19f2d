"""A search on the terminal: a line for each trial on stderr, then a table, the best command and a picture.

In: a `Search`.  Out: text for stdout; `search.png` in its folder.
"""

import shlex
from collections.abc import Sequence
from dataclasses import fields

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from training.console import new_console, new_progress, say, to_markdown
from training.files import publish
from training.search.plot import draw_search
from training.search.space import CHOSEN
from training.search.trials import Search, TrialFacts
from training.settings.config import FitConfig

PLOT = "search.png"
HEADS = [
    "trial",
    "accuracy, %",
    "loss",
    "learning rate",
    "momentum",
    "weight decay",
    "batch",
    "width",
    "epochs",
    "",
]


def narrate(search: Search) -> str:
    """Run what is left of the search; returns the table and the command."""
    console = new_console()
    done = len(search.results)
    say(
        console,
        f"{len(search.split.train_labels):,} rows to train on, judged on "
        f"{len(search.split.held_out_labels):,} others of the train half, {search.device}"
        + (f"; resuming after trial {done}" if done else ""),
    )
    columns = (TextColumn("trial"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with new_progress(console, *columns) as progress:
        bar = progress.add_task("trials", total=search.num_trials, completed=done)
        for number, facts in search.trials():
            row = zip(HEADS, to_row(search, number, facts), strict=True)
            say(console, "   ".join(f"{head} {text}".strip() for head, text in row))
            progress.update(bar, completed=len(search.results))
    if elsewhere := search.num_elsewhere:
        say(console, f"{elsewhere} of the trials still run in other processes")
    publish(search.out / PLOT, draw_search(search))
    command = best_command(search)
    if command is None:
        return f"{to_table(search)}\n\nno trial was completed: try --learning-rate 0.01, or more --trials\n"
    return f"{to_table(search)}\n\nthe best settings, with the whole train half:\n{command}\n"


def to_table(search: Search) -> str:
    """Every trial, the best first."""
    ranked = sorted(enumerate(search.results, start=1), key=lambda pair: pair[1].rank, reverse=True)
    rows = [to_row(search, number, facts) for number, facts in ranked]
    return to_markdown(HEADS, rows, aligned=True)


def to_row(search: Search, number: int, facts: TrialFacts) -> Sequence[str]:
    """One line of the table."""
    config = search.config_of(facts.settings, 1.0)
    return (
        str(number),
        "" if facts.accuracy is None else f"{100 * facts.accuracy:.2f}",
        "" if facts.loss is None else f"{facts.loss:.4f}",
        f"{config.learning_rate:.3g}",
        f"{config.momentum:.3g}",
        f"{config.weight_decay:.3g}",
        str(config.batch_size),
        f"{facts.width:g}",
        str(facts.epochs),
        ", ".join(str(facts.settings[name]) for name in CHOSEN if name in facts.settings)
        if facts.outcome == "done"
        else facts.outcome,
    )


def best_command(search: Search) -> str | None:
    """What trains with the best settings, on the whole train half; every other setting as it was fixed."""
    if (best := search.best) is None:
        return None
    config, usual = search.config_of(best.settings, best.width), FitConfig()
    words = ["python", "-m", "training", "--out", str(search.out / "best")]
    for field in fields(FitConfig):
        value = getattr(config, field.name)
        is_given = field.name in search.fixed or field.name in best.settings
        if not is_given and value == getattr(usual, field.name):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, dict):
            for name, word in value.items():
                words += [flag.removesuffix("s"), f"{name}={word}"]
        elif isinstance(value, bool):
            # A switch is only written where it is not as usual: --compile, but --no-nesterov.
            if value != getattr(usual, field.name):
                words.append(flag if value else flag.replace("--", "--no-"))
        else:
            words += [flag, str(value)]
    return shlex.join(words)
