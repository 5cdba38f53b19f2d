"""What the manifest says of a bundle that was folded and proved.

In: the source, its golden rows, the account of the fold, the proof, the files.  Out: a `Manifest`.
"""

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import onnxruntime

from export.errors import SourceError
from export.int8.make import Int8Graph
from export.proof.prove import Proof
from export.sources.source import Source
from service.contract.account import FoldAccount
from service.contract.bundle import Golden, sha256
from service.contract.manifest import (
    INT8_SCHEMA_VERSION,
    OPEN_SIZES_VERSION,
    PER_CHANNEL_VERSION,
    PICTURE_TOLERANCE,
    SCHEMA_VERSION,
    UNPROVED_VERSION,
    GoldenPictures,
    GoldenSize,
    Manifest,
    Provenance,
)
from service.contract.preprocessing import Postprocessing
from service.contract.probabilities import are_distributions

if TYPE_CHECKING:  # it needs Pillow
    from export.proof.pictures import PictureProof


PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")


def manifest_of(
    name: str,
    source: Source,
    goldens: Sequence[Golden],
    fold: FoldAccount,
    proof: Proof | str,
    provenance: Provenance,
    files: dict[str, bytes],
    pictures: "PictureProof | None" = None,
    quantized: Int8Graph | None = None,
) -> Manifest:
    """The manifest of these `files`, still without its own digest.

    Args:
        goldens: a group of golden rows for each golden size, one where sizes are fixed, none without a proof.
        fold, proof: of the graph that is stored; instead of a proof, why there is none.
        pictures, quantized: what the bundle holds beside it, if anything.
    """
    sizes = source.sizes
    golden = goldens[len(goldens) // 2] if goldens else None
    unproved = proof if isinstance(proof, str) else None
    return Manifest(
        schema_version=UNPROVED_VERSION if unproved else _version_of(source, fold, quantized),
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
        sizes=None if sizes is None else dict(sizes.ranges),
        golden_sizes=None
        if sizes is None or isinstance(proof, str)
        else [
            GoldenSize(sizes=dict(golden.sizes), tolerances=at_size.tolerances)
            for golden, at_size in zip(goldens, proof.by_size, strict=True)
        ],
        tolerances={} if isinstance(proof, str) else proof.tolerances,
        fold=fold,
        provenance=provenance,
        int8=None if quantized is None else quantized.block,
        unproved=unproved,
    )


def _version_of(source: Source, fold: FoldAccount, quantized: Int8Graph | None) -> Literal[3, 4]:
    """The oldest version that has every key of the manifest, so that older readers open what they can."""
    if quantized is not None:
        return INT8_SCHEMA_VERSION
    if source.sizes is not None:
        return OPEN_SIZES_VERSION
    return PER_CHANNEL_VERSION if fold.per_channel else SCHEMA_VERSION


def postprocessing_of(source: Source, golden: Golden | None) -> Postprocessing | None:
    """What `/predict` makes of the first output, as the flags say or else as its shape and answers do.

    Without golden answers, classes are taken for logits.
    """
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
        is_probability = golden is not None and are_distributions(golden.outputs[output.name])
        activation = {
            "classification": "none" if is_probability else "softmax",
            "multi-label": "sigmoid",
        }.get(task, "none")
    return Postprocessing.model_validate({"task": task, "activation": activation})


def provenance_of(source: Source, seed: int, command: str) -> Provenance:
    """Where the bundle comes from, and by which packages it is made."""
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
