"""Make an API key: the line for the key file on stdout, the secret on stderr, once.

In: a name, scopes.  Out: a line that holds the secret's digest alone.

    foldserve key shop --scopes infer >> keys.txt
"""

import argparse
import sys
from collections.abc import Sequence

from service.access.keys import SCOPES, KeyListError, new_key


def main(arguments: Sequence[str] | None = None, prog: str = "python -m service.access") -> int:
    """Print a new key; returns the exit code: 0, or 2 for a name or scopes that cannot be."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make an API key for --api-keys: its line on stdout, the secret on stderr.",
        epilog="example:\n  foldserve key shop --scopes infer >> keys.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="stands for the key in logs and rates; one word")
    parser.add_argument(
        "--scopes", default="infer", metavar="A,B", help=f"of {','.join(SCOPES)} (default infer)"
    )
    options = parser.parse_args(arguments)
    try:
        secret, line = new_key(options.name, options.scopes)
    except KeyListError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(line)
    print(f"the key, shown this once: {secret}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
