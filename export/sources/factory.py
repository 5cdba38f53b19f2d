"""A net by its name as a source: `timm:NAME`, `torchvision:NAME`, or `module:factory` of the user's."""

from collections.abc import Sequence
from dataclasses import replace

from export.errors import SourceError
from export.sources.asked import asked_of_net
from export.sources.declared import Declared
from export.sources.net import of_net, uncompiled
from export.sources.net_inputs import NetInput, first_run, inputs_of
from export.sources.pictures import Pictures, pictures_of
from export.sources.source import Source, SourceOptions
from export.sources.transforms import UnknownPipelineError
from service.contract.bundle import sha256
from training.errors import TrainingError
from training.nets.foreign.pretrained import OpenedNet, open_net
from training.runs.source import read_source
from training.runs.weights_file import is_index


def from_factory(text: str, options: SourceOptions) -> Source:
    """Build the net, load --weights or what its package publishes, and trace it; raises SourceError."""
    file = options.weights
    asked = asked_of_net(options)
    try:
        weights = read_source(file).weights if file is not None else None
        opened = open_net(
            text,
            weights,
            str(file),
            asked[0].row_shape if len(asked) == 1 else None,
            lambda net: first_run(net, asked),
        )
    except TrainingError as error:
        raise SourceError(str(error)) from error
    if opened.row_shape is None and not asked:
        raise SourceError(f"{text} needs --input-shape, for example --input-shape 3,224,224")
    pictures = _pictures(text, options, opened, _row_shape(opened, asked))
    return of_net(
        opened.net,
        asked or opened.row_shape or (),
        given=options.rows,
        description=f"net {text}"
        + (f" with weights {file.name}" if file else "")
        + (f"; the weights are those at '{opened.place.removesuffix('.')}'" if opened.place else ""),
        digest=sha256(file.read_bytes()) if file and not is_index(file) else None,
        labels=options.labels,
        said_labels=pictures.labels,
        preprocessing=pictures.preprocessing,
        pipeline=pictures.pipeline,
        task=options.task,
        activation=options.activation,
    )


def _row_shape(opened: OpenedNet, asked: Sequence[NetInput]) -> tuple[int, ...]:
    """Of the first input, which pictures become."""
    if len(asked) > 1 or any(one.row_shape[:1] == (1,) for one in asked):
        return inputs_of(uncompiled(opened.net), asked).inputs[0].row_shape
    return asked[0].row_shape if asked else opened.row_shape or ()


def _pictures(text: str, options: SourceOptions, opened: OpenedNet, row_shape: tuple[int, ...]) -> Pictures:
    """What is declared; with a package's own weights its own pipeline, as far as that can be read."""
    said = Declared()
    if opened.mean is not None and options.preprocessing is None:
        try:
            return pictures_of(replace(options, preprocessing=text), row_shape, said)
        except UnknownPipelineError:
            said = Declared(mean=opened.mean, std=opened.std)
    return pictures_of(options, row_shape, said)
