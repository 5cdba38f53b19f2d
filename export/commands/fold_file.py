"""Fold a SOURCE into an ONNX file, proved before it appears.

In: what is asked, and the paths.  Out: the account of every BatchNorm.
"""

from collections.abc import Callable
from pathlib import Path

from export.bundle.pack import write_whole
from export.commands.folding import Asked, fold_source
from export.errors import SourceError
from export.graph.file import external_files, serialize
from export.sources.opening import is_onnx_file
from service.contract.account import FoldAccount


def fold_file(
    asked: Asked,
    target: Path,
    *,
    report: Path | None,
    say: Callable[[str], None],
    note: Callable[[str], None],
) -> FoldAccount:
    """Fold, and write the account to `report`; on any error, both files are as they were.

    `say` and `note` are the callbacks of `fold_source`.
    """
    _check_targets(asked, [target, *([report] if report else [])])
    folding = fold_source(asked, say, note)
    files: dict[Path, bytes | Path] = {target: folding.file or serialize(folding.graph)}
    if report is not None:
        files[report] = folding.account.model_dump_json(indent=2).encode() + b"\n"
    write_whole(files)
    return folding.account


def _check_targets(asked: Asked, targets: list[Path]) -> None:
    """Nothing that is written may be SOURCE's own file, its weights, or the other file."""
    kept = {path.resolve(): path for path in (Path(asked.source), asked.weights) if path}
    for target in targets:
        try:
            if (
                target.exists()
            ):  # what does not exist holds no weights of SOURCE: to ask takes a reading of it
                kept |= {path.resolve(): path for path in _beside(asked)}
            is_kept = target.resolve() in kept or any(
                target.exists() and path.exists() and target.samefile(path) for path in kept
            )
        except OSError as error:
            raise SourceError(f"{target}: cannot be written: {error.strerror}") from error
        if is_kept:
            raise SourceError(f"{target}: SOURCE is never modified, and each file needs a name of its own")
        kept[target.resolve()] = target


def _beside(asked: Asked) -> set[Path]:
    return external_files(Path(asked.source)) if is_onnx_file(asked.source) else set()
