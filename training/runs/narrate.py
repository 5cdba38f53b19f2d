"""A run on the terminal: lines on stderr while it runs, then the final facts.

In: a `Run`.  Out: its facts, for stdout.
"""

import time
from contextlib import ExitStack
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from training.batchnorm.report import BatchNormReport
from training.console import new_console, say
from training.figures.tensorboard import Board
from training.loop.loss_watch import CHECK_EVERY
from training.runs.display import Display
from training.runs.run import Run

LAYERS_SHOWN = 8
LAG = 0.05  # of accuracy by running statistics, from which on a run warns


def narrate(
    run: Run, *, wants_board: bool = False, log_every: int = 0, checkpoint_every: int = 0
) -> dict[str, Any]:
    """Train, showing each epoch on stderr, and to TensorBoard if wanted; returns the final facts.

    With `log_every`, loss and accuracy are printed after as many steps, terminal or not. With
    `checkpoint_every`, the run is saved as often within an epoch.
    """
    console = new_console(quiet=not run.group.is_first)
    config, num_rows = run.config, len(run.split.train_labels)
    num_parameters = sum(parameter.numel() for parameter in run.net.parameters())
    say(
        console,
        f"{config.net} ({num_parameters:,} parameters) on {config.data} "
        f"({num_rows:,} train, {len(run.split.held_out_labels):,} held out), "
        f"{run.device}{f' and {run.group.size} processes' if run.group.size > 1 else ''}",
    )
    if run.warning:
        say(console, f"warning: {run.warning}")
    for note in run.split.notes:
        say(console, f"data: {note}")
    for note in run.notes:
        say(console, f"fine-tuning: {note}")
    if len(run.history) == config.epochs:
        say(console, "every epoch is done already")
    elif run.steps_saved:
        say(console, f"resuming in epoch {len(run.history) + 1}, after its step {run.steps_saved:,}")
    elif run.history:
        say(console, f"resuming after epoch {len(run.history)}")
    began = time.perf_counter()
    with ExitStack() as stack:
        rows_done = run.steps_saved * config.batch_size
        display = stack.enter_context(
            Display(console, config.epochs, len(run.history), log_every, rows_done=rows_done)
        )
        wants_board = wants_board and run.group.is_first
        board = stack.enter_context(Board(run.out, run.history)) if wants_board else None
        check_every = min(log_every or CHECK_EVERY, CHECK_EVERY)
        for facts in run.epochs(display.on_step, check_every, checkpoint_every):
            display.end_epoch(facts)
            if board:
                board.add(facts)
        if board:
            board.add_pictures(len(run.history))
    if run.batchnorm:
        show_batchnorm(run.batchnorm, console)
    if len(run.history) < config.epochs:
        say(console, f"ended early: no better epoch in the last {config.early_stop}")
    last = run.metrics or run.history[-1]
    if last.epoch < len(run.history):
        say(console, f"kept the net of epoch {last.epoch}, the best of {len(run.history)}")
    return {
        "out": str(run.out),
        "epoch": last.epoch,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "held_out_loss": last.held_out_loss,
        "held_out_accuracy": last.held_out_accuracy,
        "parameters": num_parameters,
        "device": str(run.device),
        "seconds": round(time.perf_counter() - began, 1),
        "batchnorm": run.batchnorm.summary() if run.batchnorm else None,
    }


def show_batchnorm(report: BatchNormReport, console: Console) -> None:
    """The layers whose running statistics drifted furthest, and what that does to the answers."""
    shown = sorted(report.layers, key=lambda layer: layer.mean_drift, reverse=True)[:LAYERS_SHOWN]
    title = f"{len(shown)} of {len(report.layers)} BatchNorms, those that drifted most"
    name = Column("BatchNorm", overflow="fold")
    heads = ("μ drift", "σ² drift", "min σ²", "σ² < ε", "γ ≈ 0", "γ < 0")
    table = Table(name, *heads, title=title, title_justify="left", box=SIMPLE_HEAD)
    for layer in shown:
        table.add_row(
            layer.name,
            f"{layer.mean_drift:.2g} σ",
            f"× {layer.variance_drift:.3g}",
            f"{layer.smallest_variance:.3g}",
            *(f"{count}/{layer.channels}" for count in (layer.near_zero_variance, layer.dead_gamma)),
            f"{layer.negative_gamma}/{layer.channels}",
        )
    console.print(table)
    if all(layer.dead_gamma == layer.channels for layer in report.layers):
        say(console, "warning: every γ is 0 or nearly so: start it elsewhere, such as --net-setting gamma=1")
    recalibrated = report.accuracy_recalibrated
    after = "" if recalibrated is None else f", {recalibrated:.2%} recalibrated"
    say(
        console,
        f"{report.rows:,} train rows, not augmented: {report.accuracy_by_batch:.2%} right by their batches' "
        f"statistics, {report.accuracy_by_running:.2%} by the running ones{after}",
    )
    lost = report.accuracy_by_batch - report.accuracy_by_running
    if lost > LAG and recalibrated is None:
        say(
            console,
            "warning: the running statistics lag behind the weights, and these are what is served: train for "
            "more steps, or re-estimate them with --recalibrate-bn",
        )
