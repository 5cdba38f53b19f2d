"""`show`: what a bundle takes and answers.  It needs no torch."""

import argparse
import json

from rich.console import Console

from service.contract.bundle import open_bundle
from service.contract.picture_support import picture_facts
from service.contract.versions import newest


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the facts of a whole bundle as JSON; returns 0, or raises a BundleError."""
    bundle = open_bundle(newest(options.bundle), allow_unproved=True)
    manifest = bundle.manifest
    facts = {
        "name": manifest.name,
        "schema_version": manifest.schema_version,
        "source": manifest.provenance.source,
        "digest": bundle.digest,
        **({} if manifest.unproved is None else {"unproved": manifest.unproved}),
        "inputs": [spec.model_dump(mode="json") for spec in manifest.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in manifest.outputs],
        **picture_facts(manifest),
        "training": manifest.provenance.training,
    }
    print(json.dumps(facts, indent=2, ensure_ascii=False))
    return 0
