"""A checkpoint or a bundle, as something that answers pictures.

In: a run's folder, its checkpoint, a bundle's folder or a model's.  Out: an `Answering`: pixels → logits,
and what it knows of its pictures and classes.

A bundle answers through ONNX Runtime, as it will be served; where it ends in a softmax, its logits are the
logarithms of what it says.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.contract.bundle import Bundle, open_bundle
from service.contract.manifest import BundleError
from service.contract.preprocessing import Preprocessing
from service.contract.probabilities import are_distributions
from service.contract.target import Target
from service.contract.versions import newest
from training.data import DataFacts, Pixels
from training.data.streamed import batches_ahead
from training.errors import TrainingError
from training.loop.device import place
from training.loop.evaluate import predict
from training.runs.checkpoint import Checkpoint, load_checkpoint
from training.runs.run import CHECKPOINT

BATCH_ROWS = 64
INSTALL = "pip install 'foldserve[fold]'"


class EvaluationError(TrainingError):
    """Something that cannot be evaluated, or a test set that does not fit it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answering:
    """`config` holds the settings of the run, where it is a checkpoint's; `trained_on` names its data.

    `target` says what a picture of at most so many pixels becomes.
    """

    where: str
    facts: DataFacts
    trained_on: str
    target: Callable[[int], Target]
    logits: Callable[[Pixels], Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None


def open_answering(path: Path, device: torch.device) -> Answering:
    """Open what `path` names; raises EvaluationError, or CheckpointError for a damaged checkpoint."""
    if path.is_dir() and not (path / CHECKPOINT).exists():
        try:
            return _of_bundle(newest(path))
        except BundleError as error:
            raise EvaluationError(f"{error}, nor {CHECKPOINT}") from None
    file = path / CHECKPOINT if path.is_dir() else path
    checkpoint = load_checkpoint(file)
    net = place(checkpoint.build_net(), device)
    return Answering(
        where=str(path),
        facts=checkpoint.data,
        trained_on=checkpoint.data.name,
        target=checkpoint.data.preprocessing().target,
        logits=lambda pixels: predict(net, pixels.to(device), checkpoint.data).float().cpu(),
        config=checkpoint.resume.config if checkpoint.resume else {},
        checkpoint=checkpoint,
    )


def _of_bundle(path: Path) -> Answering:
    try:
        bundle = open_bundle(path)
    except BundleError as error:
        raise EvaluationError(f"{path}: {error}") from None
    manifest, given = bundle.manifest, bundle.manifest.preprocessing
    task = manifest.postprocessing.task if manifest.postprocessing else "classification"
    if given is None or not manifest.labels or len(manifest.inputs) != 1 or task != "classification":
        raise EvaluationError(f"{path} takes no pictures, or does not give each one of its classes")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise EvaluationError(f"a bundle needs the package onnxruntime: {INSTALL}") from None
    options = runtime.SessionOptions()
    # As the service does: MatMulNBits, made of a MatMul by integers, would round the rows to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = runtime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
    facts = DataFacts(
        name=manifest.name,
        labels=list(manifest.labels),
        input_shape=(len(given.mean), given.height, given.width),
        mode="L" if given.mode == "L" else "RGB",
        mean=list(given.mean),
        std=list(given.std),
    )
    return Answering(
        where=str(path),
        facts=facts,
        trained_on=manifest.provenance.source.rpartition("trained on ")[2],
        target=given.target,
        logits=lambda pixels: _run(session, bundle, given, pixels),
    )


def _run(session: Any, bundle: Bundle, given: Preprocessing, pixels: Pixels) -> Tensor:
    (spec,), output = bundle.manifest.inputs, bundle.manifest.outputs[0].name
    batches = torch.split(torch.arange(len(pixels)), BATCH_ROWS)
    answers = []
    for batch in batches_ahead(pixels, batches):
        rows = np.empty((len(batch), *given.row_shape), np.float32)
        for row, picture in zip(rows, batch.cpu().numpy(), strict=True):
            given.write_row(picture, row)
        if spec.dtype == "uint8":  # the graph normalises, so a row is the pixels but for rounding
            rows = rows.round()
        answers.append(torch.from_numpy(session.run([output], {spec.name: rows.astype(spec.dtype)})[0]))
    logits = torch.cat(answers).float()
    return logits.clamp(min=1e-30).log() if are_distributions(bundle.golden.outputs[output]) else logits
