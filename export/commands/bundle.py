"""`bundle`: fold, prove and pack the next version of a model."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from export.bundle.make import make_bundle, parity_facts
from export.bundle.unproved import make_unproved
from export.commands.int8 import int8_facts, show_int8
from export.commands.picture_flags import declared_in
from export.commands.shared import prices, printing_on_stderr, shapes, show_sites, types, values
from export.errors import ExportError, SourceError, is_unprovable, suggesting_no_proof, suggesting_values
from export.fold.gauges.system import Price
from export.int8.gate import Limits
from export.int8.make import Int8Options
from export.sources.opening import open_source
from export.sources.source import SourceOptions
from service.contract.manifest import Manifest


def run(options: argparse.Namespace, console: Console) -> int:
    """Print what was packed as JSON; returns 0, or raises an ExportError and leaves nothing behind."""
    int8 = _int8(options)
    unproved: str | None = None
    with console.status(f"opening {options.source}") as status, printing_on_stderr():
        asked = _source_options(options)
        how: _How = {
            "seed": options.seed,
            "command": "python -m export " + shlex.join(options.arguments),
            "prices": prices(options),
            "half": options.dtype == "float16",
        }
        try:
            with suggesting_no_proof(is_given=options.no_proof):
                source = open_source(options.source, asked)
                with suggesting_values(source.read_from.numbers if source.read_from is not None else ()):
                    bundle, proof = make_bundle(source, options.to, say=status.update, int8=int8, **how)
        except ExportError as error:
            if not (options.no_proof and is_unprovable(error)):
                raise
            if int8 is not None:
                raise SourceError(f"--dtype int8 needs a proof, and there is none: {error}") from None
            # A path of this machine is not for clients, who read the manifest.
            unproved = str(error).replace(options.source, Path(options.source).name)
            source = open_source(options.source, asked, must_run=False)
            bundle = make_unproved(source, options.to, reason=unproved, **how)
    fold = bundle.manifest.fold
    show_sites(fold, console)
    for words in source.words:
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    facts = {"bundle": str(bundle.path), **fold.model_dump(exclude={"sites", "per_channel"})}
    if fold.per_channel:
        facts["per_channel"] = {"found": len(fold.per_channel), "folded": fold.per_channel_folded}
    if unproved is not None:
        console.print(f"[yellow]unproved:[/] {escape(unproved)}", highlight=False, soft_wrap=True)
        print(json.dumps(facts | {"unproved": unproved}, indent=2))
        return 0
    for name, tolerance in proof.tolerances.items():
        console.print(
            f"proved: '{name}' differs from the unfolded net by at most {proof.folded.worst[name]:.3g}, "
            f"tolerance {tolerance.max_abs:.3g}",
            highlight=False,
        )
    if bundle.manifest.int8 is not None:
        show_int8(bundle.manifest.int8, console)
    if hint := picture_hint(bundle.manifest):
        console.print(hint, highlight=False, soft_wrap=True)
    facts |= parity_facts(proof)
    if bundle.manifest.int8 is not None:
        facts["int8"] = int8_facts(bundle.manifest.int8)
    print(json.dumps(facts, indent=2))
    return 0


def picture_hint(manifest: Manifest) -> str | None:
    """What to add where the one input looks like a picture, and nothing says what a picture becomes."""
    shape = manifest.inputs[0].row_shape
    has_channels = len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3))
    if manifest.preprocessing is not None or len(manifest.inputs) > 1 or not has_channels:
        return None
    return (
        "takes arrays only: if they are pictures, say what training did to them, for example "
        "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize shorter:256 --crop 224 --labels labels.txt"
    )


class _How(TypedDict):
    """How a bundle is made, proved or not."""

    seed: int
    command: str
    prices: frozenset[Price]
    half: bool


def _source_options(options: argparse.Namespace) -> SourceOptions:
    return SourceOptions(
        shapes=shapes(options.input_shape),
        types=types(options.input_type),
        values=values(options.input_value),
        rows=options.rows,
        weights=options.weights,
        labels=options.labels,
        pictures=declared_in(options),
        preprocessing=options.preprocessing,
        compare_with=options.compare_with,
        task=options.task,
        activation=options.activation,
        pixels=options.inputs == "uint8",
    )


def _int8(options: argparse.Namespace) -> Int8Options | None:
    """What `--dtype int8` says; raises SourceError where its flags come without it."""
    drop = options.max_accuracy_drop
    if options.dtype == "int8":
        limits = Limits() if drop is None else Limits(max_accuracy_drop=drop)
        return Int8Options(calibrate=options.calibrate, limits=limits)
    if options.calibrate is not None or drop is not None:
        raise SourceError("--calibrate and --max-accuracy-drop belong to --dtype int8")
    return None
