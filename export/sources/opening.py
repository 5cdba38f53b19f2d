"""Open SOURCE by what it is.

In: SOURCE as typed, and its options.  Out: a `Source`: the unfolded graph, its tensors, and its truth.

Only a checkpoint, TorchScript and `module:factory` need torch: their modules are imported when one is opened.
"""

from pathlib import Path

from export.graph.mended import is_in_words
from export.sources.onnx_file import from_onnx_file, from_unrunnable_file
from export.sources.pictures import taking_pixels
from export.sources.source import Source, SourceOptions

_MAX_IR_VERSION = 32
_HEAD = 400
_IN_WORDS = (b"ir_version", b"irVersion")
"""What a file that was written in words has near its beginning."""


def is_onnx_file(text: str) -> bool:
    """Whether SOURCE is an ONNX file, by its name, or by its content where it is called otherwise."""
    path = Path(text)
    if path.suffix.lower() == ".onnx" or not path.is_file():
        return path.suffix.lower() == ".onnx"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    # An ONNX file begins with the field of its IR version; a .safetensors may too, and then has its JSON.
    is_binary = head[:1] == b"\x08" and 0 < max(head[1:2], default=0) < _MAX_IR_VERSION and head[8:9] != b"{"
    return is_binary or (is_in_words(path) and any(word in head for word in _IN_WORDS))


def open_source(text: str, options: SourceOptions, *, must_run: bool = True) -> Source:
    """Open SOURCE; raises SourceError, or TraceError where a net cannot be traced.

    An ONNX file that `must_run` is tried in ONNX Runtime; another is only read, and cannot be proved.
    """
    path = Path(text)
    if is_onnx_file(text):
        source = from_onnx_file(path, options) if must_run else from_unrunnable_file(path, options)
    elif ":" in text and not path.exists():
        from export.sources.factory import from_factory

        source = from_factory(text, options)
    else:
        from export.sources.checkpoint import from_checkpoint
        from export.sources.scripted import from_torchscript, is_torchscript

        source = (from_torchscript if is_torchscript(path) else from_checkpoint)(path, options)
    return taking_pixels(source) if options.pixels else source
