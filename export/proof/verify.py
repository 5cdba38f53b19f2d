"""Prove a bundle again, here, as the service would: digests, golden rows, every bucket.

In: a bundle's directory.  Out: the differences as plain values, with the verdict.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from export.compute.runtime import load
from export.errors import ExportError, SourceError
from export.graph.edit import batchnorms
from service.contract.bundle import Bundle, open_bundle
from service.contract.golden_pictures import measure_pictures
from service.contract.manifest import BundleError
from service.contract.parity import BUCKETS, Parity, excess_at_sizes, measure
from service.contract.text import first_line


def verify(path: Path) -> dict[str, Any]:
    """Facts with `proved` true or false, and the `error` where false; SourceError if there is no bundle."""
    if not path.is_dir():
        raise SourceError(f"{path}: no such bundle; expected a directory models/NAME/VERSION")
    facts: dict[str, Any] = {"bundle": str(path), "proved": False, "error": None}
    try:
        bundle = open_bundle(path)
        unnamed = _unnamed_batchnorms(bundle.graph, bundle.manifest.fold.declined)
        pictures = measure_pictures(bundle.manifest, bundle.pictures, bundle.picture_rows)
        run = load(bundle.graph, optimised=True)
        parities = [
            measure(run, golden, BUCKETS, bundle.manifest.max_rows_at(golden.sizes))
            for golden in bundle.goldens
        ]
        int8, int8_failure = _replay_int8(bundle)
    except ModuleNotFoundError:
        raise  # the command line says how to install it
    except (BundleError, ExportError) as error:
        return facts | {"error": str(error)}
    except Exception as error:  # whatever a strange file makes a library raise, it is not proved
        return facts | {"error": f"{type(error).__name__}: {first_line(error)}"}
    tolerances, parity = bundle.manifest.tolerances, Parity.over(parities)
    failure = unnamed or excess_at_sizes(bundle, parities) or int8_failure
    return facts | {
        "proved": failure is None,
        "error": failure,
        "golden_rows": bundle.num_golden_rows,
        **({} if not bundle.by_size else {"golden_sizes": [dict(golden.sizes) for golden in bundle.by_size]}),
        "tolerances": {name: tolerance.max_abs for name, tolerance in tolerances.items()},
        "pictures": {
            "pipeline": bundle.manifest.golden_pictures.pipeline,
            "differences": pictures,
        }
        if bundle.manifest.golden_pictures
        else None,
        "differences": {"worst": parity.worst, **asdict(parity)},
        "int8": int8,
    }


def _replay_int8(bundle: Bundle) -> tuple[dict[str, Any] | None, str | None]:
    """How far this machine's int8 answers are from the golden ones, and why they are refused; None, None
    where the bundle has no int8 graph."""
    stated = bundle.manifest.int8
    if bundle.int8 is None or stated is None:
        return None, None
    run = load(bundle.int8.graph, optimised=True)
    parity = measure(run, bundle.int8.golden, BUCKETS, bundle.manifest.max_rows)
    excess = parity.excess(stated.tolerances)
    facts = {
        "tolerances": {name: tolerance.max_abs for name, tolerance in stated.tolerances.items()},
        "differences": parity.worst,
    }
    return facts, None if excess is None else f"int8.onnx computes something else on this CPU: {excess}"


def _unnamed_batchnorms(graph: bytes, declined: int) -> str | None:
    left = len(list(batchnorms(ir.from_proto(onnx.load_from_string(graph)))))
    if left == declined:
        return None
    return f"the graph holds {left} BatchNormalization nodes, the manifest names {declined} that stayed"
