"""`bundle`: fold, prove and pack the next version of a model."""

import argparse
import contextlib
import json
import shlex
import sys

from rich.console import Console

from export.bundle.make import make_bundle, parity_facts
from export.commands.int8 import int8_facts, show_int8
from export.commands.picture_flags import declared_in
from export.commands.shared import prices, shapes, show_sites
from export.errors import SourceError
from export.int8.gate import Limits
from export.int8.make import Int8Options
from export.sources.opening import open_source
from export.sources.source import SourceOptions


def run(options: argparse.Namespace, console: Console) -> int:
    """Print what was packed as JSON; returns 0, or raises an ExportError and leaves nothing behind."""
    int8 = _int8(options)
    # A factory of the user's may print; stdout is for data.
    with console.status(f"opening {options.source}") as status, contextlib.redirect_stdout(sys.stderr):
        source = open_source(
            options.source,
            SourceOptions(
                shapes=shapes(options.input_shape),
                rows=options.rows,
                weights=options.weights,
                labels=options.labels,
                pictures=declared_in(options),
                preprocessing=options.preprocessing,
                compare_with=options.compare_with,
                task=options.task,
                activation=options.activation,
                pixels=options.inputs == "uint8",
            ),
        )
        command = "python -m export " + shlex.join(options.arguments)
        bundle, proof = make_bundle(
            source,
            options.to,
            seed=options.seed,
            command=command,
            say=status.update,
            prices=prices(options),
            half=options.dtype == "float16",
            int8=int8,
        )
    fold = bundle.manifest.fold
    show_sites(fold, console)
    for name, tolerance in proof.tolerances.items():
        console.print(
            f"proved: '{name}' differs from the unfolded net by at most {proof.folded.worst[name]:.3g}, "
            f"tolerance {tolerance.max_abs:.3g}",
            highlight=False,
        )
    if bundle.manifest.int8 is not None:
        show_int8(bundle.manifest.int8, console)
    facts = {"bundle": str(bundle.path), **fold.model_dump(exclude={"sites", "per_channel"})}
    if fold.per_channel:
        facts["per_channel"] = {"found": len(fold.per_channel), "folded": fold.per_channel_folded}
    facts |= parity_facts(proof)
    if bundle.manifest.int8 is not None:
        facts["int8"] = int8_facts(bundle.manifest.int8)
    print(json.dumps(facts, indent=2))
    return 0


def _int8(options: argparse.Namespace) -> Int8Options | None:
    """What `--dtype int8` says; raises SourceError where its flags come without it."""
    drop = options.max_accuracy_drop
    if options.dtype == "int8":
        limits = Limits() if drop is None else Limits(max_accuracy_drop=drop)
        return Int8Options(calibrate=options.calibrate, limits=limits)
    if options.calibrate is not None or drop is not None:
        raise SourceError("--calibrate and --max-accuracy-drop belong to --dtype int8")
    return None
