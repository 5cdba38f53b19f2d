"""Our own fold: the only place that calls it.

In: an unfolded graph and the flags of `--flags`.  Out: the folded graph.
"""

import hashlib
from pathlib import Path

import onnx_ir as ir

import export
from export.fold.usual import FREE, Price, fold

FLAGS = {"threshold": Price.THRESHOLD, "pad": Price.BORDER}
"""What `--flags` may name: folds that leave an op behind, as `python -m export fold` calls them."""


def fold_graph(model: ir.Model, flags: tuple[str, ...]) -> ir.Model:
    """Fold a prepared graph."""
    folded, _ = fold(model, FREE | {FLAGS[flag] for flag in flags})
    return folded


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(export.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_LOADED = _digest()  # now: the files may change while a run goes on


def code_version(flags: tuple[str, ...]) -> str:
    """A digest of export/'s source as imported, and the flags: rows of another version are stale."""
    return "+".join([_LOADED, *flags])
