"""A net by its name as a source: `timm:NAME`, `torchvision:NAME`, or `module:factory` of the user's."""

from dataclasses import replace

from export.errors import SourceError
from export.sources.net import of_net
from export.sources.pictures import preprocessing_of
from export.sources.source import Source, SourceOptions
from export.sources.tensors import read_labels
from service.contract.bundle import sha256
from training.errors import TrainingError
from training.nets.foreign.pretrained import open_net
from training.runs.source import read_source


def from_factory(text: str, options: SourceOptions) -> Source:
    """Build the net, load --weights or what its package publishes, and trace it; raises SourceError."""
    file = options.weights
    try:
        weights = read_source(file).weights if file is not None else None
        opened = open_net(text, weights, str(file), options.input_shape)
    except TrainingError as error:
        raise SourceError(str(error)) from error
    if opened.row_shape is None:
        raise SourceError(f"{text} needs --input-shape, for example --input-shape 3,224,224")
    if options.mean is None and opened.mean is not None:
        options = replace(options, mean=opened.mean, std=opened.std)
    return of_net(
        opened.net,
        opened.row_shape,
        description=f"net {text}" + (f" with weights {file.name}" if file else ""),
        digest=sha256(file.read_bytes()) if file else None,
        labels=read_labels(options.labels),
        preprocessing=preprocessing_of(options, opened.row_shape),
    )
