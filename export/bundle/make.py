"""Everything between a source and its bundle: fold, golden rows, proof, manifest, pack.

In: a `Source` and the folder `models/NAME`.  Out: the bundle, reopened by the service's own reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.bundle.drawing import draw_fold
from export.bundle.folded import Folded, fold_source
from export.bundle.goldens import as_answered, make_goldens, max_rows_at
from export.bundle.half import weigh
from export.bundle.int8_section import int8_section
from export.bundle.manifest import manifest_of, provenance_of
from export.bundle.pack import pack
from export.bundle.report import render, shown_sizes
from export.bundle.weight_ranges import weight_ranges
from export.compute.runtime import load
from export.errors import SourceError
from export.fold.gauges.system import FREE, Price
from export.int8.make import Int8Graph, Int8Options, make_int8
from export.int8.moments import carry_moments
from export.proof.prove import Proof
from export.proof.reading import prove_reading
from export.sources.parts import suggesting_parts
from export.sources.source import Source
from service.contract.bundle import (
    GOLDEN_FILE,
    GRAPH_FILE,
    REPORT_FILE,
    Bundle,
    Golden,
    golden_bytes,
    int8_golden_bytes,
)
from service.contract.golden_pictures import PICTURES_FILE, pictures_bytes
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE
from service.contract.manifest import (
    Provenance,
)
from service.contract.parity import in_batches

if TYPE_CHECKING:  # they need Pillow
    from export.bundle.picture_table import ShownPicture
    from export.proof.pictures import PictureProof

RESERVED_NAME = "stats"  # /v2/models/stats is a route

Say = Callable[[str], None]


def make_bundle(
    source: Source,
    folder: Path,
    *,
    seed: int,
    command: str,
    say: Say,
    prices: frozenset[Price] = FREE,
    half: bool = False,
    int8: Int8Options | None = None,
) -> tuple[Bundle, Proof]:
    """Fold, prove and publish the next version of `models/NAME`.

    Args:
        seed: of the golden rows' noise.
        command: what was typed, for the manifest.
        say: a callback, given what is being done.
        prices: what a fold may cost.
        half: store the weights in float16.
        int8: add an int8 graph, None to add none.

    Raises:
        ExportError: and then nothing is left behind.
    """
    name = model_name(folder)
    check_outputs(source)
    if int8 is not None and source.sizes is not None:
        raise SourceError("--dtype int8 is for nets whose sizes are all fixed: give numbers in --input-shape")
    read = source.read_from
    with suggesting_parts(source.graph if read is None else read.graph):
        pictures, goldens = _proved_rows(source, seed, say)
    source = as_answered(source, goldens)
    check_outputs(source)
    if source.pixels is None:
        pictures = _kept(pictures, goldens)
    say("folding, and proving the folded graph one by one, all together, and in every bucket")
    if int8 is not None:
        source = replace(source, graph=source.graph.clone())
        carry_moments(source.graph)  # before the fold, which moves them along
    folded, goldens = fold_source(source, goldens, prices, half, seed, say)
    pictures = _kept(pictures, goldens) if source.pixels is None else pictures
    quantized = None
    if int8 is not None:
        quantized = make_int8(source, folded.after, folded.stored, goldens[0], int8, say)
    provenance = provenance_of(source, seed, command)
    files = {
        GRAPH_FILE: folded.stored,
        GOLDEN_FILE: golden_bytes(goldens[0] if source.sizes is None else goldens),
        REPORT_FILE: _report(name, source, goldens, folded, provenance, half, pictures, quantized),
    }
    if pictures is not None:
        files[PICTURES_FILE] = pictures_bytes(pictures.pictures)
    if quantized is not None:
        files[INT8_GRAPH_FILE] = quantized.graph
        files[INT8_GOLDEN_FILE] = int8_golden_bytes(quantized.answers)
    manifest = manifest_of(
        name, source, goldens, folded.account, folded.proof, provenance, files, pictures, quantized
    )
    say("packing")
    return pack(folder, files, manifest.sealed()), folded.proof


def _proved_rows(source: Source, seed: int, say: Say) -> "tuple[PictureProof | None, list[Golden]]":
    """The golden pictures and rows, after the proof that a file was read as it says."""
    if (read := source.read_from) is not None:
        golden_sizes = source.sizes.golden if source.sizes is not None else ()
        prove_reading(read.path, read.graph, 0, source.given, golden_sizes, read.arrangement)
    pictures = _pictures(source)
    return pictures, make_goldens(source, seed, say, pictures)


def model_name(folder: Path) -> str:
    """The name of the model in `models/NAME`; raises SourceError where no model can be called so."""
    name = folder.resolve().name
    if not name:
        raise SourceError(f"--to {folder}: expected the folder of a model, such as models/digits")
    if name == RESERVED_NAME:
        raise SourceError(f"a model cannot be called '{name}': /v2/models/{name} is a route of its own")
    return name


def check_outputs(source: Source) -> None:
    """Raise SourceError unless outputs have names to ask for them, and labels fit the first one's row."""
    names = [spec.name for spec in source.outputs]
    if not names or len(set(names)) != len(names):
        raise SourceError(f"the outputs must have names of their own, found {names}")
    output = source.outputs[0]
    if source.labels is not None and output.row_shape != (len(source.labels),):
        raise SourceError(
            f"{len(source.labels)} labels, but a row of '{output.name}' is {list(output.row_shape)}"
        )


def _report(
    name: str,
    source: Source,
    goldens: Sequence[Golden],
    folded: Folded,
    provenance: Provenance,
    half: bool,
    pictures: "PictureProof | None",
    quantized: Int8Graph | None,
) -> bytes:
    golden = goldens[len(goldens) // 2]
    answers = in_batches(load(folded.stored, optimised=True), golden.inputs, max_rows_at(source, golden))
    return render(
        name,
        fold=folded.account,
        losses=weigh(folded.after) if half else None,
        drawings=draw_fold(folded.before, folded.after, folded.account),
        proof=folded.proof,
        num_rows=sum(golden.num_rows for golden in goldens),
        golden=golden,
        answers=answers,
        sizes=[] if source.sizes is None else shown_sizes(goldens, folded.proof),
        ranges={} if source.sizes is None else source.sizes.ranges,
        inputs=source.inputs,
        outputs=source.outputs,
        provenance=provenance,
        batchnorm=source.batchnorm,
        curves=source.curves,
        weights=weight_ranges(folded.before, folded.after),
        labels=source.labels,
        preprocessing=source.preprocessing,
        pictures=_shown(source, pictures),
        int8=None if quantized is None else int8_section(quantized.block, answers, quantized.answers),
    )


def _pictures(source: Source) -> "PictureProof | None":
    if source.preprocessing is None:  # a net that takes none is bundled without Pillow
        return None
    from export.proof.pictures import prove_pictures

    return prove_pictures(source)


def _kept(pictures: "PictureProof | None", goldens: Sequence[Golden]) -> "PictureProof | None":
    """The pictures whose golden rows are left: rows whose scores tie have been dropped."""
    if pictures is None:
        return None
    groups = (next(iter(golden.inputs.values())) for golden in goldens)
    inputs = next(rows for rows in groups if rows.shape[1:] == pictures.rows.shape[1:])
    kept: list[int] = []
    for index, row in enumerate(pictures.rows):
        if len(kept) < len(inputs) and np.array_equal(inputs[len(kept)], row):
            kept.append(index)
    names = [list(pictures.pictures)[index] for index in kept]
    if not names:
        return None
    return replace(
        pictures,
        pictures={name: pictures.pictures[name] for name in names},
        rows=pictures.rows[kept],
        differences={name: pictures.differences[name] for name in names},
    )


def _shown(source: Source, pictures: "PictureProof | None") -> "list[ShownPicture]":
    if pictures is None:
        return []
    from export.bundle.picture_table import shown_pictures

    return shown_pictures(source.preprocessing, pictures)


def parity_facts(proof: Proof) -> dict[str, object]:
    """The proof as the command line prints it."""
    return {
        "tolerances": {name: tolerance.model_dump() for name, tolerance in proof.tolerances.items()},
        "differences": asdict(proof.folded),
    }
