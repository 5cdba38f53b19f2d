"""Where bundles lie: a folder of models, the folder of one model, or one bundle.

In: the path of `--models`.  Out: for each layout the models, their versions, and where each lies.

    models/NAME/VERSION/   what `foldserve export` writes            every NAME
    models/NAME/           as a storage initializer mounts it        one model, its folder's name
    models/NAME/VERSION/   a bundle itself                           one model, version VERSION (or 1)

A mount's name says nothing (/mnt/models): `--model-name` says what the one model is called.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.contract.bundle import MANIFEST_FILE
from service.contract.versions import find_versions, is_version

NO_MODELS = frozenset({"lost+found"})  # what a file system puts into an empty volume


@dataclass(frozen=True, kw_only=True)
class ModelsFolder:
    """The models below `root`. `only`: it holds the versions of this one; `bundle`: it is this version."""

    root: Path
    only: str | None = None
    bundle: str | None = None

    @classmethod
    def find(cls, root: Path, name: str | None = None) -> Self:
        """Recognise the layout of `root`; `name` is for a lone model. Raises OSError or ValueError."""
        place = root.resolve()
        if (root / MANIFEST_FILE).is_file():
            is_named = is_version(place.name)
            version = place.name if is_named else "1"
            return cls(root=root, only=name or (place.parent if is_named else place).name, bundle=version)
        if any((root / version / MANIFEST_FILE).is_file() for version in find_versions(root)):
            return cls(root=root, only=name or place.name)
        if name is not None:
            raise ValueError(f"'{root}' is a folder of models: model_name names a lone bundle or model")
        return cls(root=root)

    def names(self) -> list[str]:
        """Names of the models, sorted; hidden folders and files are none. Raises OSError.

        In a name that is not UTF-8, which no answer and no address could hold, � stands for what is not.
        """
        if self.only is not None:
            return [os.fsencode(self.only).decode(errors="replace")]
        paths = (path for path in self.root.iterdir() if path.is_dir())
        folders = (os.fsencode(path.name).decode(errors="replace") for path in paths)
        return sorted(name for name in folders if not name.startswith(".") and name not in NO_MODELS)

    def versions(self, name: str) -> list[str]:
        """The versions of a model, newest first; raises OSError."""
        if self.bundle is not None:
            return [self.bundle]
        return find_versions(self.root if self.only is not None else self.root / name)

    def version(self, name: str, version: str) -> Path:
        """The folder of one bundle."""
        if self.bundle is not None:
            return self.root
        return (self.root if self.only is not None else self.root / name) / version
