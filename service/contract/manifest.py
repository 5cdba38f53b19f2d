"""What `manifest.json` may say: every key, its type, and nothing else.

In: the bytes of a manifest.  Out: a `Manifest`, or a `BundleError` that names the first wrong key.

The manifest holds the digest of every other file, and from schema version 2 on its own:

    digest = sha256(the manifest's bytes with the digest's 64 characters set to 0)

so that a flipped bit in a label or a mean is found as one in a weight is.  It is no defence against someone
who can write the file, and so its digest too.

From schema version 4 on, sizes may be open: a shape names them, `sizes` gives their ranges, and the golden
rows are in groups, one for each of `golden_sizes`.  A net of fixed sizes is still written as version 3.
From then on a bundle may also be `unproved`: it has no golden rows and no tolerances.
"""

import hashlib
import math
import re
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from service.contract.account import FoldAccount
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE, Int8
from service.contract.preprocessing import Postprocessing, Preprocessing
from service.contract.sizes import SizeRange, Sizes, max_rows_of
from service.contract.strict import Name, Strict
from service.contract.tensors import TensorSpec
from service.contract.tolerances import Tolerance

SCHEMA_VERSION: Literal[3] = 3  # of a manifest that has none of the keys of version 4
INT8_SCHEMA_VERSION: Literal[4] = 4
PER_CHANNEL_VERSION: Literal[4] = 4
OPEN_SIZES_VERSION: Literal[4] = 4
UNPROVED_VERSION: Literal[4] = 4
MIN_GOLDEN_ROWS = 32
PICTURE_TOLERANCE = 1 / 255

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_BLANK = "0" * 64
_OWN_DIGEST = re.compile(rb'(?<="digest": ")[0-9a-f]{64}(?=")')


class BundleError(Exception):
    """A bundle that cannot be served; the message says what was found, what was expected, where."""


class Provenance(Strict):
    """Where the bundle comes from; `truth` says what computed the golden answers."""

    created: str
    command: str
    source: str
    source_sha256: Digest | None
    truth: str
    seed: int
    versions: dict[str, str]
    training: dict[str, Any]


class GoldenPictures(Strict):
    """Encoded pictures in `pictures.npz`, and the golden rows that they must become.

    Args:
        names: of the pictures, each an array of that name in the file.
        first_row: the golden row of the first picture; those of the others follow.
        pipeline: what computed these rows, in words.
        max_difference: largest |pixel of our row − golden pixel| at export, pixels being in 0…1.
    """

    names: Annotated[list[Name], Field(min_length=1)]
    first_row: Annotated[int, Field(ge=0)]
    pipeline: str
    max_difference: Annotated[float, Field(ge=0, le=PICTURE_TOLERANCE)]


class GoldenSize(Strict):
    """A group of golden rows: a number for each open size of the inputs, and the tolerances of that group."""

    sizes: dict[Name, Annotated[int, Field(ge=1)]]
    tolerances: dict[str, Tolerance]


class Manifest(Strict):
    """The whole of `manifest.json`.

    `max_rows` is the maximum of a batch, for a net whose rows are not independent; None: any number goes.
    `sizes` are the ranges of all open sizes, None where there are none; `golden_sizes` are ascending, and
    `tolerances` are then the widest of theirs.  `unproved` says why nothing could be proved; None: it is.
    """

    schema_version: Literal[1, 2, 3, 4]
    digest: Digest | None = None
    name: Name
    files: dict[str, Digest]
    inputs: Annotated[list[TensorSpec], Field(min_length=1)]
    outputs: Annotated[list[TensorSpec], Field(min_length=1)]
    labels: list[str] | None
    preprocessing: Preprocessing | None
    postprocessing: Postprocessing | None = None
    max_rows: Annotated[int, Field(ge=1)] | None = None
    sizes: dict[Name, SizeRange] | None = None
    golden_sizes: Annotated[list[GoldenSize], Field(min_length=1)] | None = None
    golden_pictures: GoldenPictures | None = None
    tolerances: dict[str, Tolerance]
    fold: FoldAccount
    provenance: Provenance
    int8: Int8 | None = None
    unproved: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        outputs = [spec.name for spec in self.outputs]
        if self.unproved is None and sorted(self.tolerances) != sorted(outputs):
            raise ValueError(f"tolerances must name the outputs {outputs}, got {list(self.tolerances)}")
        needed = {"model.onnx"} if self.unproved is not None else {"model.onnx", "golden.npz"}
        if missing := needed - set(self.files):
            raise ValueError(f"files must give the digest of {sorted(missing)}")
        takes_pictures = self.preprocessing is not None and len(self.inputs) == 1
        if self.golden_pictures is not None and not (takes_pictures and "pictures.npz" in self.files):
            raise ValueError("golden_pictures need a preprocessing, one input, and pictures.npz")
        if nested := [name for name in self.files if "/" in name or name.startswith(".")]:
            raise ValueError(f"files must be plain names, got {nested}")
        if (self.digest is not None) != (self.schema_version >= 2):
            raise ValueError(f"schema version {self.schema_version}: digest belongs to version 2 and later")
        return self

    @model_validator(mode="after")
    def _newer_keys_are_of_version_3(self) -> Self:
        if self.schema_version >= 3:
            return self
        newer = {
            name
            for name in ("postprocessing", "golden_pictures", "max_rows")
            if getattr(self, name) is not None
        }
        if self.preprocessing is not None:
            newer |= self.preprocessing.keys_since_version_3()
        if newer:
            raise ValueError(f"schema version {self.schema_version}: {sorted(newer)} belong to version 3")
        return self

    @model_validator(mode="after")
    def _chains_are_of_version_4(self) -> Self:
        if self.fold.per_channel and self.schema_version < PER_CHANNEL_VERSION:
            raise ValueError(f"schema version {self.schema_version}: fold.per_channel belongs to version 4")
        return self

    @model_validator(mode="after")
    def _unproved_has_no_proof(self) -> Self:
        if self.unproved is None:
            return self
        if self.schema_version < UNPROVED_VERSION:
            raise ValueError(f"schema version {self.schema_version}: unproved belongs to version 4")
        proofs = (self.tolerances, self.golden_pictures, self.sizes, self.int8)
        if any(proofs) or "golden.npz" in self.files:
            raise ValueError(
                "what is unproved has no golden rows or pictures, tolerances, open sizes or int8"
            )
        return self

    @model_validator(mode="after")
    def _int8_fits(self) -> Self:
        if (self.int8 is not None) != bool({INT8_GRAPH_FILE, INT8_GOLDEN_FILE} & set(self.files)):
            raise ValueError(f"int8, {INT8_GRAPH_FILE} and {INT8_GOLDEN_FILE} go together")
        if self.int8 is None:
            return self
        if self.schema_version < INT8_SCHEMA_VERSION:
            raise ValueError(f"schema version {self.schema_version}: int8 belongs to version 4")
        if missing := {INT8_GRAPH_FILE, INT8_GOLDEN_FILE} - set(self.files):
            raise ValueError(f"files must give the digest of {sorted(missing)}")
        outputs = sorted(self.tolerances)
        if sorted(self.int8.tolerances) != outputs or sorted(self.int8.sqnr_db) != outputs:
            raise ValueError(f"int8's tolerances and sqnr_db must name the outputs {outputs}")
        return self

    @model_validator(mode="after")
    def _open_sizes_agree(self) -> Self:
        named = {name for spec in (*self.inputs, *self.outputs) for name in spec.open_sizes.values()}
        if named != set(self.sizes or {}) or (self.sizes is None) != (self.golden_sizes is None):
            raise ValueError(
                f"sizes must give the range of each open size, {sorted(named)}, and golden_sizes go with it; "
                f"got {sorted(self.sizes or {})}"
            )
        if self.sizes is None:
            return self
        if self.schema_version < OPEN_SIZES_VERSION:
            raise ValueError(f"schema version {self.schema_version}: open sizes belong to version 4")
        if self.int8 is not None:
            raise ValueError("int8 is for nets whose sizes are all fixed")
        for group in self.golden_sizes or []:
            given, ranges = group.sizes, self.input_sizes
            if set(given) != set(ranges) or not all(ranges[name].holds(given[name]) for name in given):
                raise ValueError(f"golden_sizes must be within the ranges of the inputs' sizes, got {given}")
            if sorted(group.tolerances) != sorted(self.tolerances):
                raise ValueError(f"golden_sizes must give a tolerance for each output, at {group.sizes}")
        return self

    @property
    def input_sizes(self) -> dict[str, SizeRange]:
        """The ranges of the inputs' open sizes; empty where all are fixed."""
        names = {name for spec in self.inputs for name in spec.open_sizes.values()}
        return {name: held for name, held in (self.sizes or {}).items() if name in names}

    def tolerances_at(self, group: int) -> dict[str, Tolerance]:
        """The tolerances of a group of golden rows."""
        return self.tolerances if self.golden_sizes is None else self.golden_sizes[group].tolerances

    def max_rows_at(self, sizes: Sizes) -> int | None:
        """The maximum of a batch of rows of these sizes; None: any number goes."""
        return self.max_rows if self.sizes is None else max_rows_of(self.row_bytes(sizes), self.max_rows)

    def row_bytes(self, sizes: Sizes) -> int:
        """The bytes of one row of all inputs together, at these sizes."""
        return sum(math.prod(at.row_shape) * np.dtype(at.dtype).itemsize for at in self._inputs_at(sizes))

    def _inputs_at(self, sizes: Sizes) -> list[TensorSpec]:
        return [spec.at(sizes) for spec in self.inputs]

    def sealed(self) -> bytes:
        """The content of manifest.json: indented JSON that holds its own digest.

        Keys of version 4 that say nothing are left out: readers of version 3 open what they can serve.
        """
        unused = ("int8", "sizes", "golden_sizes", "unproved")
        left_out = {name for name in unused if getattr(self, name) is None}
        blanked = self.model_copy(update={"digest": _BLANK})
        blank = blanked.model_dump_json(indent=2, exclude=left_out).encode()
        return blank.replace(_BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Read a manifest; the error names the first wrong key and `where` it stands."""
    manifest = _validated(text, where)
    if manifest.digest is not None:
        blank = _OWN_DIGEST.sub(_BLANK.encode(), text, count=1)
        if (found := hashlib.sha256(blank).hexdigest()) != manifest.digest:
            raise BundleError(f"{where}: its sha-256 is {found[:12]}…, it says {manifest.digest[:12]}…")
    return manifest


def _validated(text: bytes, where: str) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(f"{where}: {key}: {first['msg']}") from None
