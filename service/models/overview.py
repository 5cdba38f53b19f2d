"""What people read of the models: every version with its state, and the proof of the one that answers.

In: what is known of each model, the models folder.  Out: plain values, for JSON.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.contract.bundle import REPORT_FILE
from service.contract.int8 import Int8
from service.contract.picture_support import labels_of, unsupported_reason
from service.models.folder import ModelsFolder
from service.models.repository_index import versions_of
from service.models.served import Served
from service.models.state import ModelState


def overview(states: Sequence[ModelState], folder: ModelsFolder) -> list[dict[str, Any]]:
    """One entry for each model; reads the names in its folder, so call it in a thread."""
    return [
        {
            "name": state.name,
            "reason": None if state.served is not None else state.reason,
            "versions": [
                {
                    **version,
                    "has_report": version["version"] is not None
                    and (folder.version(state.name, version["version"]) / REPORT_FILE).is_file(),
                }
                for version in versions_of(state, folder)
            ],
            "served": None if state.served is None else _served(state.served),
        }
        for state in states
    ]


def _served(served: Served) -> dict[str, Any]:
    manifest = served.manifest
    preprocessing = manifest.preprocessing
    reason = unsupported_reason(manifest)
    return {
        "version": served.version,
        "digest": served.digest,
        "created": manifest.provenance.created,
        "source": manifest.provenance.source,
        "no_pictures": reason,
        "labels": len(labels_of(manifest)) if reason is None else None,
        "preprocessing": None if preprocessing is None else preprocessing.model_dump(),
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.row_shape),
                "smallest": list(tensor.extreme("minimum")),
            }
            for tensor in served.signature.inputs.values()
        ],
        "sizes": ", ".join(f"{name} from {held}" for name, held in manifest.input_sizes.items()),
        "outputs": [tensor.name for tensor in served.signature.outputs.values()],
        "proof": {
            "unproved": manifest.unproved,
            "proved_at": served.proved_at,
            "provider": served.engine.provider,
            "precision": asdict(served.engine.precision),
            "int8": None if manifest.int8 is None else _said_of(manifest.int8),
            "golden_rows": served.num_golden_rows,
            "golden_pictures": 0 if manifest.golden_pictures is None else len(manifest.golden_pictures.names),
            "batch_norms": {"found": manifest.fold.found, "folded": manifest.fold.folded},
            "outputs": [
                {"name": name, "difference": difference, "tolerance": manifest.tolerances[name].max_abs}
                for name, difference in served.metrics.parity.items()
            ],
        },
    }


def _said_of(int8: Int8) -> dict[str, Any]:
    """How near the int8 graph's answers are to float32's, as the manifest says."""
    return {
        "sqnr_db": int8.sqnr_db,
        "agreement": None if int8.agreement is None else int8.agreement.model_dump(),
        "accuracy": None if int8.accuracy is None else int8.accuracy.model_dump(),
        "ranges": int8.ranges.source,
    }
