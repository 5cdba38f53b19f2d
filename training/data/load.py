"""A data set by its name.

In: the name that `--data` takes and the settings of `--data-setting`, as typed.
Out: a `Split` with its `DataFacts`, which travel on into the checkpoint and the bundle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from training.data.facts import DataFacts
from training.data.sets.cifar import CIFAR10, CIFAR100, LABELS_10, LABELS_100, load_cifar
from training.data.sets.digits import find_digits, load_digits
from training.data.sets.folder_settings import FolderSettings
from training.data.sets.mnist import CLOTHES, DIGITS, FASHION_MNIST, MNIST, load_mnist
from training.data.sets.npz import load_npz
from training.data.sets.synthetic import SyntheticSettings, load_synthetic
from training.data.split import Split
from training.errors import DataError, describe_unknown
from training.settings.words import read_words

DATA_SETS: dict[str, Callable[[], Split]] = {
    "digits": lambda: load_digits(find_digits()),
    "mnist": lambda: load_mnist(MNIST, DIGITS),
    "fashion-mnist": lambda: load_mnist(FASHION_MNIST, CLOTHES),
    "cifar10": lambda: load_cifar(CIFAR10, LABELS_10, num_labels=1),
    "cifar100": lambda: load_cifar(CIFAR100, LABELS_100, num_labels=2),
}


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Of a data set that leaves nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Data sets that are named KIND:WHICH."""

    usage: str
    settings: type[Any]
    load: Callable[[str, Any], Split]
    foresee: Callable[[str, Any], DataFacts] | None = None


def _pictures(kind: str) -> "Family":
    """Picture files, listed by a folder or by a table; only here is Pillow needed: export does without."""

    def finder() -> Any:
        from training.pictures.table import find_table
        from training.pictures.tree import find_tree

        return find_table if kind == "table" else find_tree

    def load(path: str, settings: FolderSettings) -> Split:
        from training.data.sets.folder import load_folder

        return load_folder(finder(), Path(path).expanduser(), settings)

    def foresee(path: str, settings: FolderSettings) -> DataFacts:
        from training.data.sets.folder import foresee_folder

        return foresee_folder(finder(), Path(path).expanduser(), settings)

    return Family(usage=f"{kind}:PATH", settings=FolderSettings, load=load, foresee=foresee)


FAMILIES = {
    "folder": _pictures("folder"),
    "table": _pictures("table"),
    "npz": Family(
        usage="npz:PATH", settings=NoSettings, load=lambda path, settings: load_npz(Path(path).expanduser())
    ),
    "synthetic": Family(usage="synthetic", settings=SyntheticSettings, load=load_synthetic),
}


def load_split(name: str, settings: Mapping[str, str] | None = None) -> Split:
    """Load a data set by the name that `--data` takes, with the words that `--data-setting` takes."""
    family, which, values = _find(name, settings or {})
    return family.load(which, values) if family else DATA_SETS[name]()


def foresee_facts(name: str, settings: Mapping[str, str] | None = None) -> DataFacts | None:
    """What is known at once of a data set that takes long to load, all but mean and std; None of others."""
    family, which, values = _find(name, settings or {})
    return family.foresee(which, values) if family and family.foresee else None


def _describe_path(name: str) -> str | None:
    """What to write in the place of a path without its kind; None if there is nothing at it."""
    path = Path(name).expanduser()
    if not path.exists():
        return None
    kind = {".npz": "npz", ".csv": "table", ".tsv": "table", ".jsonl": "table", ".parquet": "table"}.get(
        path.suffix.lower(), "folder"
    )
    return f"unknown data set {name!r}: did you mean {kind}:{name}?"


def _find(name: str, settings: Mapping[str, str]) -> tuple[Family | None, str, Any]:
    kind, _, which = name.partition(":")
    family = FAMILIES.get(kind)
    if name not in DATA_SETS and (family is None or (family.usage.endswith(":PATH") and not which)):
        known = [*DATA_SETS, *(family.usage for family in FAMILIES.values())]
        raise DataError(_describe_path(name) or describe_unknown("data set", name, known))
    cls = family.settings if family else NoSettings
    hints = get_type_hints(cls)
    if settings and not hints:
        raise DataError(f"data set {name} has no settings, got {', '.join(settings)}")
    return family, which, cls(**read_words(f"data set {kind}", hints, settings, DataError))
