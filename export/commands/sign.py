"""`sign`: put a signature beside a bundle's manifest, for services that ask for one.  It needs no torch."""

import argparse
import json

from rich.console import Console

from export.errors import ExportError
from service.contract.bundle import MANIFEST_FILE, open_bundle
from service.contract.files import publish
from service.contract.signature import SIGNATURE_FILE, KeyFileError, sign


def run(options: argparse.Namespace, console: Console) -> int:
    """Sign the bundle if it is whole; prints its digest; returns the exit code 0."""
    bundle = open_bundle(options.bundle)  # what is damaged is not vouched for
    try:
        signature = sign((options.bundle / MANIFEST_FILE).read_bytes(), options.key)
        publish(options.bundle / SIGNATURE_FILE, signature)
    except KeyFileError as error:
        raise ExportError(str(error)) from None
    except OSError as error:
        raise ExportError(f"{options.bundle / SIGNATURE_FILE}: {error.strerror or error}") from None
    print(json.dumps({"bundle": str(options.bundle), "digest": bundle.digest, "signature": SIGNATURE_FILE}))
    return 0
