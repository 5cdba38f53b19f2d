"""`verify`: prove a bundle again on this machine.  It needs no torch."""

import argparse
import json

from rich.console import Console

from export.proof.verify import verify
from service.contract.versions import newest


def run(options: argparse.Namespace, console: Console) -> int:
    """Print what was measured as JSON; returns 0 if the bundle is proved, else 1."""
    bundle = newest(options.bundle)
    with console.status(f"replaying the golden rows of {bundle}"):
        facts = verify(bundle)
    print(json.dumps(facts, indent=2))
    return 0 if facts["proved"] else 1
