"""`sign`: put a signature beside a bundle's manifest, for services that ask for one.  It needs no torch."""

import argparse
import json

from rich.console import Console

from export.errors import ExportError
from service.contract.bundle import MANIFEST_FILE, open_bundle
from service.contract.files import publish
from service.contract.signature import SIGNATURE_FILE, KeyFileError, sign
from service.contract.versions import newest


def run(options: argparse.Namespace, console: Console) -> int:
    """Sign the bundle if it is whole; prints its digest; returns the exit code 0."""
    folder = newest(options.bundle)
    bundle = open_bundle(folder, allow_unproved=True)  # what is damaged is not vouched for
    try:
        signature = sign((folder / MANIFEST_FILE).read_bytes(), options.key)
        publish(folder / SIGNATURE_FILE, signature)
    except KeyFileError as error:
        raise ExportError(str(error)) from None
    except OSError as error:
        raise ExportError(f"{folder / SIGNATURE_FILE}: {error.strerror or error}") from None
    print(json.dumps({"bundle": str(folder), "digest": bundle.digest, "signature": SIGNATURE_FILE}))
    return 0
