"""A bundle without a proof: folded and packed, and nothing run.

In: a `Source`, and why nothing can be proved of it.  Out: a bundle whose manifest says so.
"""

from pathlib import Path

from export.bundle.drawing import draw_fold
from export.bundle.folded import stored
from export.bundle.half import weigh
from export.bundle.make import check_outputs, model_name
from export.bundle.manifest import manifest_of, provenance_of
from export.bundle.pack import pack
from export.bundle.report import render
from export.bundle.weight_ranges import weight_ranges
from export.errors import SourceError
from export.fold.gauges.system import FREE, Price
from export.fold.proved import FoldOptions, fold_once, reference_of
from export.sources.source import Source
from service.contract.bundle import GRAPH_FILE, REPORT_FILE, Bundle, Golden


def make_unproved(
    source: Source,
    folder: Path,
    *,
    reason: str,
    seed: int,
    command: str,
    prices: frozenset[Price] = FREE,
    half: bool = False,
) -> Bundle:
    """Fold and publish the next version of `models/NAME`, which states `reason`; raises ExportError.

    `seed`, `command`, `prices` and `half` are as those of `make_bundle`.
    """
    name = model_name(folder)
    check_outputs(source)
    if source.sizes is not None:
        raise SourceError("--no-proof is for sizes that are all fixed: give numbers in --input-shape")
    pixels = (source.pixels.mean, source.pixels.std) if source.pixels is not None else None
    options = FoldOptions(prices=prices, pixels=pixels)
    after, account = fold_once(source.graph, options)
    losses = weigh(after) if half else None
    provenance = provenance_of(source, seed, command)
    before = reference_of(source.graph, options)
    report = render(
        name,
        fold=account,
        losses=losses,
        drawings=draw_fold(before, after, account),
        proof=reason,
        num_rows=0,
        golden=Golden(inputs={}, outputs={}),
        answers={},
        sizes=[],
        ranges={},
        inputs=source.inputs,
        outputs=source.outputs,
        provenance=provenance,
        batchnorm=source.batchnorm,
        curves=source.curves,
        weights=weight_ranges(before, after),
        labels=source.labels,
        preprocessing=source.preprocessing,
        pictures=[],
    )
    files = {GRAPH_FILE: stored(after, half), REPORT_FILE: report}
    manifest = manifest_of(name, source, [], account, reason, provenance, files)
    return pack(folder, files, manifest.sealed())
