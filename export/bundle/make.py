"""Everything between a source and its bundle: fold, golden rows, proof, manifest, pack.

In: a `Source` and the folder `models/NAME`.  Out: the bundle, reopened by the service's own reader.
"""

import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime

from export.bundle.drawing import draw_fold
from export.bundle.half import to_half, weigh
from export.bundle.pack import pack
from export.bundle.report import render
from export.compute.runtime import load
from export.errors import SourceError
from export.fold.gauges.system import FREE, Price
from export.fold.proved import FoldOptions, fold_proved, reference_of
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.int8.make import Int8Graph, Int8Options, make_int8
from export.int8.moments import carry_moments
from export.proof.choices import choices, untied
from export.proof.golden import blended_inputs, golden_inputs
from export.proof.prove import Proof, prove
from export.proof.reading import prove_reading
from export.proof.truth import true_answers
from export.sources.source import Source
from service.contract.bundle import (
    GOLDEN_FILE,
    GRAPH_FILE,
    REPORT_FILE,
    Bundle,
    Golden,
    golden_bytes,
    int8_golden_bytes,
    sha256,
)
from service.contract.golden_pictures import PICTURES_FILE, pictures_bytes
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE
from service.contract.manifest import (
    INT8_SCHEMA_VERSION,
    PER_CHANNEL_VERSION,
    PICTURE_TOLERANCE,
    SCHEMA_VERSION,
    FoldAccount,
    GoldenPictures,
    Manifest,
    Provenance,
)
from service.contract.parity import in_batches
from service.contract.preprocessing import Postprocessing
from service.contract.probabilities import are_distributions

if TYPE_CHECKING:  # they need Pillow
    from export.bundle.picture_table import ShownPicture
    from export.proof.pictures import PictureProof

PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")
SPARE_ROWS = 16  # zeros and other made rows are likelier to make scores tie
RESERVED_NAME = "stats"  # /v2/models/stats is a route

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Folded:
    """What folding and proving made: both graphs, the folded one as it is stored, and what is said of it."""

    before: ir.Model
    after: ir.Model
    stored: bytes
    account: FoldAccount
    proof: Proof


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
    name = _model_name(folder)
    _check_outputs(source)
    if source.read_from is not None:
        prove_reading(source.read_from.path, source.read_from.graph, seed=0, given=source.given)
    pictures = _pictures(source)
    golden = make_golden(source, seed, say, pictures)
    if source.pixels is None:
        golden = untied(source.graph, golden)
        pictures = _kept(pictures, golden)
    say("folding, and proving the folded graph one by one, all together, and in every bucket")
    if int8 is not None:
        source = replace(source, graph=source.graph.clone())
        carry_moments(source.graph)  # before the fold, which moves them along
    folded = _fold(source, golden, prices, half)
    quantized = None
    if int8 is not None:
        quantized = make_int8(source, folded.after, folded.stored, golden, int8, say)
    provenance = _provenance(source, seed, command)
    files = {
        GRAPH_FILE: folded.stored,
        GOLDEN_FILE: golden_bytes(golden),
        REPORT_FILE: _report(name, source, golden, folded, provenance, half, pictures),
    }
    if pictures is not None:
        files[PICTURES_FILE] = pictures_bytes(pictures.pictures)
    if quantized is not None:
        files[INT8_GRAPH_FILE] = quantized.graph
        files[INT8_GOLDEN_FILE] = int8_golden_bytes(quantized.answers)
    manifest = _manifest(name, source, golden, folded, provenance, files, pictures, quantized)
    say("packing")
    return pack(folder, files, manifest.sealed()), folded.proof


def _model_name(folder: Path) -> str:
    name = folder.resolve().name
    if not name:
        raise SourceError(f"--to {folder}: expected the folder of a model, such as models/digits")
    if name == RESERVED_NAME:
        raise SourceError(f"a model cannot be called '{name}': /v2/models/{name} is a route of its own")
    return name


def _check_outputs(source: Source) -> None:
    """A client asks for outputs by name, and labels are the numbers of one output's row."""
    names = [spec.name for spec in source.outputs]
    if not names or len(set(names)) != len(names):
        raise SourceError(f"the outputs must have names of their own, found {names}")
    output = source.outputs[0]
    if source.labels is not None and output.row_shape != (len(source.labels),):
        raise SourceError(
            f"{len(source.labels)} labels, but a row of '{output.name}' is {list(output.row_shape)}"
        )


def _fold(source: Source, golden: Golden, prices: frozenset[Price], half: bool) -> _Folded:
    pixels = (source.pixels.mean, source.pixels.std) if source.pixels is not None else None
    options = FoldOptions(prices=prices, pixels=pixels)
    before = reference_of(source.graph, options)
    unfolded = _stored(before, half)
    noise = None
    if source.graph_truth is not None:
        noise = replace(source.graph_truth, model=before).noise(golden.inputs, golden.outputs)

    def proof_of(graph: ir.Model) -> Proof:
        if half:
            weigh(graph)  # an overflow is named by its layer, before its answers are only "not finite"
        return prove(unfolded, _stored(graph, half), golden, noise, source.max_rows)

    after, account, proof = fold_proved(source.graph, options, proof_of)
    assert len(list(batchnorms(after))) == account.declined, "every BatchNorm is accounted for"
    return _Folded(before=before, after=after, stored=_stored(after, half), account=account, proof=proof)


def _report(
    name: str,
    source: Source,
    golden: Golden,
    folded: _Folded,
    provenance: Provenance,
    half: bool,
    pictures: "PictureProof | None",
) -> bytes:
    return render(
        name,
        fold=folded.account,
        losses=weigh(folded.after) if half else None,
        drawings=draw_fold(folded.before, folded.after, folded.account),
        proof=folded.proof,
        golden=golden,
        answers=in_batches(load(folded.stored, optimised=True), golden.inputs, source.max_rows),
        inputs=source.inputs,
        outputs=source.outputs,
        provenance=provenance,
        batchnorm=source.batchnorm,
        labels=source.labels,
        preprocessing=source.preprocessing,
        pictures=_shown(source, pictures),
    )


def _pictures(source: Source) -> "PictureProof | None":
    if source.preprocessing is None:  # a net that takes none is bundled without Pillow
        return None
    from export.proof.pictures import prove_pictures

    return prove_pictures(source)


def _kept(pictures: "PictureProof | None", golden: Golden) -> "PictureProof | None":
    """The pictures whose golden rows are left: rows whose scores tie have been dropped."""
    if pictures is None:
        return None
    (inputs,) = golden.inputs.values()
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


def _stored(graph: ir.Model, half: bool) -> bytes:
    return to_half(serialize(graph)) if half else serialize(graph)


def make_golden(source: Source, seed: int, say: Say, pictures: "PictureProof | None" = None) -> Golden:
    """The golden rows of a source and their true answers."""
    spare = SPARE_ROWS if choices(source.graph) else 0
    if source.given is not None:
        inputs = blended_inputs(source.given, seed, spare)
    else:
        inputs = golden_inputs(source.inputs, source.held_out, seed, spare)
    if pictures is not None:  # first, so that no later step moves them
        (name,) = inputs
        inputs = {name: np.concatenate([pictures.rows, inputs[name]])}
    num_rows = len(next(iter(inputs.values())))
    say(f"computing {num_rows} golden answers: {source.truth}")
    outputs = true_answers(
        source.evaluate,
        inputs,
        lambda row: say(f"golden answer {row} of {num_rows}: {source.truth}"),
        is_exact=source.graph_truth is None or source.graph_truth.is_exact,
        max_rows=source.max_rows,
    )
    return Golden(inputs=inputs, outputs={spec.name: outputs[spec.name] for spec in source.outputs})


def _manifest(
    name: str,
    source: Source,
    golden: Golden,
    folded: _Folded,
    provenance: Provenance,
    files: dict[str, bytes],
    pictures: "PictureProof | None",
    quantized: Int8Graph | None,
) -> Manifest:
    return Manifest(
        schema_version=_version_of(folded.account, quantized),
        digest="0" * 64,  # until it is sealed
        name=name,
        files={file: sha256(content) for file, content in files.items()},
        inputs=source.inputs,
        outputs=source.outputs,
        labels=source.labels,
        preprocessing=source.preprocessing,
        postprocessing=postprocessing_of(source, golden),
        golden_pictures=None
        if pictures is None
        else GoldenPictures(
            names=list(pictures.pictures),
            first_row=0,
            pipeline=pictures.pipeline,
            max_difference=min(PICTURE_TOLERANCE, max(pictures.differences.values())),
        ),
        max_rows=source.max_rows,
        tolerances=folded.proof.tolerances,
        fold=folded.account,
        provenance=provenance,
        int8=None if quantized is None else quantized.block,
    )


def _version_of(fold: FoldAccount, quantized: Int8Graph | None) -> Literal[3, 4]:
    """The oldest version that has every key of the manifest, so that older readers open what they can."""
    if quantized is not None:
        return INT8_SCHEMA_VERSION
    return PER_CHANNEL_VERSION if fold.per_channel else SCHEMA_VERSION


def postprocessing_of(source: Source, golden: Golden) -> Postprocessing | None:
    """What `/predict` makes of the first output, as the flags say or else as its shape and answers do."""
    if source.preprocessing is None:
        if source.task or source.activation:
            raise SourceError("--task and --activation are for nets that take pictures: say --mean and --std")
        return None
    output = source.outputs[0]
    has_classes = len(output.row_shape) == 1
    task = source.task or ("classification" if has_classes else "spatial")
    if has_classes == (task == "spatial"):
        raise SourceError(f"task {task} contradicts '{output.name}', whose row is {list(output.row_shape)}")
    activation = source.activation
    if activation is None:
        is_probability = are_distributions(golden.outputs[output.name])
        activation = {
            "classification": "none" if is_probability else "softmax",
            "multi-label": "sigmoid",
        }.get(task, "none")
    return Postprocessing.model_validate({"task": task, "activation": activation})


def _provenance(source: Source, seed: int, command: str) -> Provenance:
    versions = {package: version for package in PACKAGES if (version := _version(package)) is not None}
    versions |= {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description,
        source_sha256=source.digest,
        truth=source.truth,
        seed=seed,
        versions=versions,
        training=source.training,
    )


def _version(package: str) -> str | None:
    """An ONNX file is bundled without torch, if that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parity_facts(proof: Proof) -> dict[str, object]:
    """The proof as the command line prints it."""
    return {
        "tolerances": {name: tolerance.model_dump() for name, tolerance in proof.tolerances.items()},
        "differences": asdict(proof.folded),
    }
