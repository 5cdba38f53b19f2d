"""Graphs in files.

In: an ONNX file, its weights inside or beside it.  Out: an ir.Model; and an ir.Model as one file's bytes.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from export.compute.precision import computes_in_float64, from_bfloat16, in_float32
from export.compute.runtime import check_loads
from export.errors import SourceError, UnrunnableError
from export.graph.external import check_external, external_tensors
from export.graph.maps import has_maps, without_maps
from export.graph.mended import drop_repeated_weights, is_in_words, load_proto, mend
from export.graph.raised import FIRST_OPSET, RAISED_TO, is_early, opset_of, raised
from export.graph.sparse import make_dense
from service.contract.text import first_line

LARGEST_FILE = 1 << 31


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A graph as it was read.

    Attributes:
        is_whole: the file alone says the same: it holds all the weights.
        recast_from: the type that it computed in where ONNX Runtime has no kernels for that; "" where it has.
        raised_from: its opset, where that was older than any that is read; 0 where not.
    """

    model: ir.Model
    is_whole: bool
    recast_from: str = ""
    raised_from: int = 0

    @property
    def words(self) -> list[str]:
        """What was changed, for people."""
        words = [f"computed in float32 instead of {self.recast_from}"] if self.recast_from else []
        if self.raised_from:
            words.append(f"opset {self.raised_from} raised to {RAISED_TO}")
        return words


def load_graph(path: Path, *, must_run: bool = True) -> ir.Model:
    """The graph of `read_file`."""
    return read_file(path, must_run=must_run).model


def read_file(path: Path, *, must_run: bool = True) -> ReadFile:
    """Read an ONNX file (external weights too).

    Raises SourceError if it is not a valid inference graph, UnrunnableError if it `must_run` in ONNX Runtime,
    and that refuses it.
    """
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        stored, is_mended, raised_from = _deserialize(path)
        _check_header(path, stored)
        _mark_unknown_sizes(stored)
        check_external(path, stored)
        is_alone = not any(external_tensors(stored))
        if must_run:
            model, recast = _runnable(serialize(_with_weights(stored)) if is_mended else path, stored)
        else:
            model, recast = _with_weights(stored), ""
        model.graph.sort()
    except SourceError:
        raise
    except UnrunnableError as error:
        raise UnrunnableError(f"{path}: not a valid ONNX graph: {error}") from None
    except Exception as error:  # ONNX Runtime, protobuf and ir each have their own errors
        raise SourceError(f"{path}: not a valid ONNX graph: {first_line(error)}") from None
    is_whole = is_alone and not is_mended and model is stored
    return ReadFile(model=model, is_whole=is_whole, recast_from=recast, raised_from=raised_from)


def _runnable(file: Path | bytes, model: ir.Model) -> tuple[ir.Model, str]:
    """The graph with its weights, in float32 where ONNX Runtime has no kernel for its type; which it was."""
    try:
        check_loads(file)
        return _with_weights(model), ""
    except UnrunnableError as error:
        if "bfloat16" in str(error):
            single, recast_from = from_bfloat16(_with_weights(model)), "bfloat16"
        elif computes_in_float64(model):
            single, recast_from = in_float32(_with_weights(model)), "float64"
        else:
            raise
    check_loads(serialize(single))
    return single, recast_from


def _with_weights(model: ir.Model) -> ir.Model:
    """The graph with all weights in memory: initialisers, and those of Constants."""
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if isinstance(attribute.value, ir.ExternalTensor):
                tensor = ir.tensor(attribute.value.numpy().copy(), name=attribute.value.name)
                node.attributes[name] = ir.AttrTensor(name, tensor)
    return ir.external_data.load_to_model(model)


def _deserialize(path: Path) -> tuple[ir.Model, bool, int]:
    """The file's graph; whether it had to be mended before ONNX Runtime may see it; its opset if raised."""
    try:
        proto = load_proto(path)
        proto, raised_from = _raised(proto)
        make_dense(proto)
        is_mended = mend(proto) | drop_repeated_weights(proto) | (raised_from > 0) | is_in_words(path)
        for opset in (one for part in (proto, *proto.functions) for one in part.opset_import):
            opset.domain = "" if opset.domain == "ai.onnx" else opset.domain  # two names of one domain
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        return model, is_mended, raised_from
    except Exception as error:  # protobuf and ir each have their own errors
        if (with_tensors := _with_tensors_for_maps(path)) is not None:
            return with_tensors, False, 0
        reason = _what_it_is(path) or first_line(error).partition(". ")[0]
        raise SourceError(f"{path}: not a valid ONNX graph: {reason}") from None


def _raised(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A file of an early opset in a later one, and the opset that it had; 0 of all others."""
    if not is_early(proto):
        return proto, 0
    opset = opset_of(proto)
    try:
        return raised(proto), opset
    except Exception as error:  # the converter's own have no class
        why = first_line(error).rpartition("failed: ")[2]
        raise SourceError(f"opset {opset}, which cannot be raised to {RAISED_TO}: {why}") from None


def _what_it_is(path: Path) -> str | None:
    """What lies where an ONNX file should, if it is one of two usual mistakes, and what to do."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, and 'git lfs pull' fetches the file itself"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page: download the file itself"
    return None


def _with_tensors_for_maps(path: Path) -> ir.Model | None:
    """The graph of a file that answers with maps, which `ir` does not know; None if that is not its fault."""
    try:
        proto = onnx.load(path)
        return ir.from_proto(without_maps(proto)) if has_maps(proto) else None
    except Exception:
        return None


def _check_header(path: Path, model: ir.Model) -> None:
    if not model.opset_imports:
        raise SourceError(f"{path}: not a valid ONNX graph: it names no opset")
    opset, newest = model.opset_imports.get("", 0), onnx.defs.onnx_opset_version()
    if not FIRST_OPSET <= opset <= newest:
        raise SourceError(f"{path}: opset {opset}, expected {FIRST_OPSET} to {newest}")
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise SourceError(f"{path}: IR version {model.ir_version}, expected 3 to {onnx.IR_VERSION}")
    if not model.graph.outputs:
        raise SourceError(f"{path}: an empty graph: it has no outputs")


def _mark_unknown_sizes(model: ir.Model) -> None:
    """Make a size of −1 or "?" an unknown one, as exporters mean it that write either (paddle2onnx).

    Sizes that share a name are equal, but two that are called "?" need not be: each gets a name of its own.
    """
    fresh = itertools.count()
    for graph in model.graphs():
        made = (output for node in graph for output in node.outputs)
        for value in (*graph.inputs, *graph.outputs, *made):
            if value.shape is not None:
                value.shape = ir.Shape(
                    [f"size_{next(fresh)}" if _is_unknown(size) else size for size in value.shape]
                )


def _is_unknown(size: int | ir.SymbolicDim) -> bool:
    return size < 0 if isinstance(size, int) else size.value in ("?", "")


def external_files(path: Path) -> set[Path]:
    """The files beside an ONNX file that hold its weights; none if there is no such file."""
    if not path.is_file():
        return set()
    return {path.parent / tensor.location for tensor in external_tensors(_deserialize(path)[0])}


def serialize(model: ir.Model) -> bytes:
    """The graph as one self-contained file; raises SourceError over protobuf's 2 GB."""
    weights = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    try:
        if size >= LARGEST_FILE:
            raise EncodeError(f"its weights are {size:,} bytes")
        return bytes(ir.to_proto(model).SerializeToString())
    except (ValueError, EncodeError) as error:
        raise SourceError(f"the graph does not fit into one ONNX file (2 GB): {first_line(error)}") from None
