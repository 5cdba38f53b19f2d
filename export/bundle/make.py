"""Everything between a source and its bundle: fold, golden rows, proof, manifest, pack.

In: a `Source` and the folder `models/NAME`.  Out: the bundle, reopened by the service's own reader.
"""

import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from export.bundle.drawing import draw_fold
from export.bundle.half import to_half, weigh
from export.bundle.pack import pack
from export.bundle.report import render
from export.compute.runtime import load
from export.errors import SourceError
from export.fold.account import account
from export.fold.gauges.system import FREE, Price
from export.fold.proved import FoldOptions, fold_proved, reference_of
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.proof.choices import choices, untied
from export.proof.golden import golden_inputs
from export.proof.prove import Proof, prove
from export.proof.reading import prove_reading
from export.proof.truth import true_answers
from export.sources.source import Source
from service.contract.bundle import GOLDEN_FILE, GRAPH_FILE, REPORT_FILE, Bundle, Golden, golden_bytes, sha256
from service.contract.manifest import SCHEMA_VERSION, FoldAccount, Manifest, Provenance

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
) -> tuple[Bundle, Proof]:
    """Fold, prove and publish the next version of `models/NAME`.

    Args:
        seed: of the golden rows' noise.
        command: what was typed, for the manifest.
        say: a callback, given what is being done.
        prices: what a fold may cost.
        half: store the weights in float16.

    Raises:
        ExportError: and then nothing is left behind.
    """
    name = _model_name(folder)
    _check_outputs(source)
    if source.read_from is not None:
        prove_reading(source.read_from.path, source.read_from.graph, seed=0)
    golden = make_golden(source, seed, say)
    if source.pixels is None:
        golden = untied(source.graph, golden)
    say("folding, and proving the folded graph one by one, all together, and in every bucket")
    folded = _fold(source, golden, prices, half)
    provenance = _provenance(source, seed, command)
    files = {
        GRAPH_FILE: folded.stored,
        GOLDEN_FILE: golden_bytes(golden),
        REPORT_FILE: _report(name, source, golden, folded, provenance, half),
    }
    manifest = _manifest(name, source, folded, provenance, files)
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
        return prove(unfolded, _stored(graph, half), golden, noise)

    after, sites, proof = fold_proved(source.graph, options, proof_of)
    assert len(list(batchnorms(after))) == account(sites).declined, "every BatchNorm is accounted for"
    return _Folded(
        before=before, after=after, stored=_stored(after, half), account=account(sites), proof=proof
    )


def _report(
    name: str, source: Source, golden: Golden, folded: _Folded, provenance: Provenance, half: bool
) -> bytes:
    return render(
        name,
        fold=folded.account,
        losses=weigh(folded.after) if half else None,
        drawings=draw_fold(folded.before, folded.after, folded.account),
        proof=folded.proof,
        golden=golden,
        answers=load(folded.stored, optimised=True)(golden.inputs),
        inputs=source.inputs,
        outputs=source.outputs,
        provenance=provenance,
        batchnorm=source.batchnorm,
        labels=source.labels,
        preprocessing=source.preprocessing,
    )


def _stored(graph: ir.Model, half: bool) -> bytes:
    return to_half(serialize(graph)) if half else serialize(graph)


def make_golden(source: Source, seed: int, say: Say) -> Golden:
    """The golden rows of a source and their true answers."""
    spare = SPARE_ROWS if choices(source.graph) else 0
    inputs = golden_inputs(source.inputs, source.held_out, seed, spare)
    num_rows = len(next(iter(inputs.values())))
    say(f"computing {num_rows} golden answers: {source.truth}")
    outputs = true_answers(
        source.evaluate,
        inputs,
        lambda row: say(f"golden answer {row} of {num_rows}: {source.truth}"),
        is_exact=source.graph_truth is None or source.graph_truth.is_exact,
    )
    return Golden(inputs=inputs, outputs={spec.name: outputs[spec.name] for spec in source.outputs})


def _manifest(
    name: str, source: Source, folded: _Folded, provenance: Provenance, files: dict[str, bytes]
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        digest="0" * 64,  # until it is sealed
        name=name,
        files={file: sha256(content) for file, content in files.items()},
        inputs=source.inputs,
        outputs=source.outputs,
        labels=source.labels,
        preprocessing=source.preprocessing,
        tolerances=folded.proof.tolerances,
        fold=folded.account,
        provenance=provenance,
    )


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
