"""A checkpoint of `python -m training` as a source: it says all that a bundle needs."""

from dataclasses import replace
from pathlib import Path

from export.errors import SourceError
from export.sources.net import of_net
from export.sources.source import Source, SourceOptions
from export.sources.transforms import load_callable
from service.contract.bundle import sha256
from service.contract.text import first_line
from training.data import normalize
from training.loop.facts import EpochFacts
from training.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint


def from_checkpoint(path: Path, options: SourceOptions) -> Source:
    """Rebuild the net of a checkpoint that training saved, and trace it; raises SourceError."""
    own = replace(options, pixels=False, compare_with=None, task=None, activation=None)
    if own != SourceOptions():
        raise SourceError(f"{path} is a checkpoint: it brings its own shape, weights, labels, mean and std")
    try:
        checkpoint = load_checkpoint(path)
        net = checkpoint.build_net()
    except CheckpointError as error:
        todo = "; weights alone go with their net: module:factory --weights FILE" if path.is_file() else ""
        raise SourceError(f"{error}{todo}") from error
    except ValueError as error:
        raise SourceError(f"{path}: {first_line(error)}") from error
    facts = checkpoint.data
    rows = normalize(checkpoint.held_out_pixels, facts)
    return of_net(
        net,
        facts.input_shape,
        description=f"checkpoint of {checkpoint.net_name} trained on {facts.name}",
        digest=sha256(path.read_bytes()),
        held_out=rows.numpy(),
        held_out_labels=checkpoint.held_out_labels.numpy(),
        labels=list(facts.labels),
        preprocessing=facts.preprocessing().complete(),
        pipeline=load_callable(options.compare_with) if options.compare_with else None,
        task=options.task,
        activation=options.activation,
        training={**checkpoint.metrics, "seed": checkpoint.seed},
        batchnorm=checkpoint.batchnorm,
        curves=_curves(checkpoint),
    )


def _curves(checkpoint: Checkpoint) -> str | None:
    """Loss and accuracy of every epoch as SVG; None without a history, or without matplotlib to draw it."""
    if checkpoint.resume is None or not checkpoint.resume.history:
        return None
    try:
        from training.figures.curves import draw_curves
        from training.figures.figure import to_svg
    except ModuleNotFoundError:
        return None
    try:
        history = [EpochFacts(**facts) for facts in checkpoint.resume.history]
    except TypeError:  # of another version: a picture is no reason to refuse the net
        return None
    return to_svg(draw_curves(history, ""))
