"""`verify`: prove a bundle again on this machine, or fold and prove a SOURCE and write nothing.

A bundle and an ONNX file need no torch.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from export.commands.fold import asked_by
from export.commands.folding import Asked, fold_source
from export.commands.shared import printing_on_stderr
from export.errors import ParityError, SourceError
from export.proof.verify import verify
from export.sources.opening import is_onnx_file
from service.contract.versions import newest


def run(options: argparse.Namespace, console: Console) -> int:
    """Print what was measured as JSON; returns 0 if it is proved, else 1, or raises an ExportError."""
    asked = asked_by(options)
    if _is_bundle(options.source):
        if asked != Asked(source=asked.source, options=asked.options) or options.inputs is not None:
            raise SourceError(f"{options.source} is a bundle: it brings its own rows, shapes and weights")
        bundle = newest(Path(options.source))
        with console.status(f"replaying the golden rows of {bundle}"):
            facts = verify(bundle)
    else:
        with console.status(f"folding {options.source}") as status, printing_on_stderr():
            facts = _verify_source(
                asked,
                say=status.update,
                note=lambda text: console.print(escape(text), highlight=False, soft_wrap=True),
            )
    print(json.dumps(facts, indent=2))
    return 0 if facts["proved"] else 1


def _is_bundle(text: str) -> bool:
    """A folder; and whatever is not there and looks like one, whose absence is then told."""
    path = Path(text)
    return path.is_dir() or not (path.exists() or ":" in text or is_onnx_file(text))


def _verify_source(asked: Asked, say: Callable[[str], None], note: Callable[[str], None]) -> dict[str, Any]:
    facts: dict[str, Any] = {"source": asked.source, "proved": False, "error": None}
    try:
        folding = fold_source(asked, say, note, prove_untouched=True)
    except ParityError as error:
        return facts | {"error": str(error)}
    assert folding.tolerances is not None
    return facts | {
        "proved": True,
        **folding.account.model_dump(exclude={"sites", "per_channel"}),
        "tolerances": {name: one.max_abs for name, one in folding.tolerances.items()},
        "differences": {"worst": {name: one.folded_error for name, one in folding.tolerances.items()}},
    }
