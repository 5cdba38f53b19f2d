"""Our own fold: the only place that calls it.

In: an unfolded graph and the flags of `--flags`.  Out: the folded graph.
"""

import hashlib
from pathlib import Path

import onnx_ir as ir

import export
from export.fold.gauges.system import FREE, Price
from export.fold.stages import fold

FLAGS = {"threshold": Price.THRESHOLD, "pad": Price.BORDER}
"""The names for `--flags`: folds that leave an op in the graph, named as by `python -m export fold`."""


def fold_graph(model: ir.Model, flags: tuple[str, ...]) -> ir.Model:
    """Fold a prepared graph, with the folds at no price and those of `flags`."""
    folded, _ = fold(model, FREE | {FLAGS[flag] for flag in flags})
    return folded


MEASURED = ("compute", "fold", "graph", "sources")
"""The parts of export/ that make a net's graph, fold it and compute the truth; the others stale no row."""


def _digest() -> str:
    digest = hashlib.sha256()
    for part in MEASURED:
        for path in sorted((Path(export.__file__).parent / part).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_LOADED = _digest()  # at import: the files may change during a run


def code_version(flags: tuple[str, ...]) -> str:
    """A digest of the measured source as imported, and the flags: rows of another version are stale."""
    return "+".join([_LOADED, *flags])
