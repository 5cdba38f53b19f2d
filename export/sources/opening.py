"""Open SOURCE by what it is.

In: SOURCE as typed, and its options.  Out: a `Source`: the unfolded graph, its tensors, and its truth.

Only a checkpoint and `module:factory` need torch: their modules are imported when one is opened.
"""

from pathlib import Path

from export.sources.onnx_file import from_onnx_file
from export.sources.pictures import taking_pixels
from export.sources.source import Source, SourceOptions


def open_source(text: str, options: SourceOptions) -> Source:
    """Open SOURCE; raises SourceError, or TraceError where a net cannot be traced."""
    path = Path(text)
    if path.suffix == ".onnx":
        source = from_onnx_file(path, options)
    elif ":" in text and not path.exists():
        from export.sources.factory import from_factory

        source = from_factory(text, options)
    else:
        from export.sources.checkpoint import from_checkpoint

        source = from_checkpoint(path, options)
    return taking_pixels(source) if options.pixels else source
