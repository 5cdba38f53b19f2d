"""`verify`: prove a bundle again on this machine.  It needs no torch."""

import argparse
import json

from rich.console import Console

from export.proof.verify import verify


def run(options: argparse.Namespace, console: Console) -> int:
    """Print what was measured as JSON; returns 0 if the bundle is proved, else 1."""
    with console.status(f"replaying the golden rows of {options.bundle}"):
        facts = verify(options.bundle)
    print(json.dumps(facts, indent=2))
    return 0 if facts["proved"] else 1
