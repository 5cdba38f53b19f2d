"""The contract between export and service: a bundle on disk, opened and checked.

In: a directory `models/NAME/VERSION/` with manifest.json, model.onnx, golden.npz, pictures.npz, report.html,
and int8.onnx with int8.npz where there is an int8 graph; an unproved bundle has no golden.npz.
Out: a `Bundle` whose every byte has the digest that the manifest gives, or a `BundleError`.

golden.npz holds `input.NAME` and `output.NAME`, rows first; where sizes are open, `GROUP.input.NAME` and
`GROUP.output.NAME`, with the group's place in the manifest's `golden_sizes`.

The files are read once: the bytes that were checked are the bytes that are used.  Messages name files, never
the directory: they reach clients.
"""

import hashlib
import io
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.contract.arrays import ArchiveError, read_arrays
from service.contract.golden_pictures import PICTURES_FILE, read_pictures
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE
from service.contract.manifest import MIN_GOLDEN_ROWS, BundleError, Manifest, parse_manifest
from service.contract.probabilities import are_distributions
from service.contract.signature import SIGNATURE_FILE, TrustedKeys
from service.contract.sizes import Sizes, described
from service.contract.tensors import TensorSpec

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
REPORT_FILE = "report.html"

MAX_TEXT_BYTES = 64 << 20  # of a manifest or a signature
MAX_FILE_BYTES = 2 << 30  # of any other file: protobuf allows a graph no more

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Rows with the unfolded net's answers: inputs (N, …) in the graph's dtypes, outputs in float64.

    `sizes` are the open sizes that these rows have; empty where all are fixed.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    sizes: Sizes = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """N, the number of golden rows."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, kw_only=True)
class QuantizedGraph:
    """int8.onnx, and the golden rows with its own answers to them; what is said of it: `Manifest.int8`."""

    graph: bytes
    golden: Golden


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle; `digest` is the sha-256 of its manifest, which vouches for everything else.

    `golden` are the golden rows; where sizes are open, those of the size in the middle, and `by_size` those
    of every golden size, ascending.  An unproved bundle has none: a row of zeros without answers stands
    there, for what is measured with any rows.
    """

    path: Path
    manifest: Manifest
    digest: str
    graph: bytes
    golden: Golden
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # golden ones, encoded, by name
    int8: QuantizedGraph | None = None
    by_size: Sequence[Golden] = ()

    @property
    def goldens(self) -> Sequence[Golden]:
        """The golden rows of every golden size; one group where all sizes are fixed."""
        return self.by_size or (self.golden,)

    @property
    def num_golden_rows(self) -> int:
        """The number of golden rows of all sizes."""
        if self.manifest.unproved is not None:
            return 0
        return sum(golden.num_rows for golden in self.goldens)

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the golden answers of the first output are probabilities; False where there are none."""
        answers = self.golden.outputs.get(self.manifest.outputs[0].name)
        return answers is not None and are_distributions(answers)

    @property
    def picture_rows(self) -> np.ndarray:
        """The golden rows of the first input that golden pictures become: those of the pictures' size."""
        return picture_group(self.manifest, self.goldens).inputs[self.manifest.inputs[0].name]


def sha256(content: bytes) -> str:
    """The sha-256 of `content` as 64 lower-case hex digits."""
    return hashlib.sha256(content).hexdigest()


def open_bundle(path: Path, trusted: TrustedKeys | None = None, *, allow_unproved: bool = False) -> Bundle:
    """Open the bundle directory `path`; raises BundleError if anything is missing, changed or unknown.

    With `trusted` keys the manifest must be signed by one of them, which is checked before it is parsed.
    A bundle whose manifest says that it is unproved opens only with `allow_unproved`.
    """
    text = _read(path / MANIFEST_FILE, MAX_TEXT_BYTES)
    if trusted is not None:
        has_signature = (path / SIGNATURE_FILE).exists()
        trusted.check(text, _read(path / SIGNATURE_FILE, MAX_TEXT_BYTES) if has_signature else None)
    manifest = parse_manifest(text, MANIFEST_FILE)
    if manifest.unproved is not None and not allow_unproved:
        raise BundleError(
            f"{MANIFEST_FILE}: it is unproved, which only a service with --allow-unproved serves "
            f"(bundled with --no-proof because {manifest.unproved})"
        )
    content: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        content[name] = _read(path / name)
        if (found := sha256(content[name])) != expected:
            raise BundleError(f"{name}: sha-256 is {found[:12]}…, the manifest says {expected[:12]}…")
    if manifest.unproved is None:
        goldens = read_goldens(content[GOLDEN_FILE], manifest, GOLDEN_FILE)
    else:
        goldens = [_without_answers(manifest)]
    middle = goldens[len(goldens) // 2]
    pictures = {}
    if manifest.golden_pictures is not None:
        golden = picture_group(manifest, goldens)
        last = manifest.golden_pictures.first_row + len(manifest.golden_pictures.names)
        if last > golden.num_rows:
            raise BundleError(f"{GOLDEN_FILE}: {golden.num_rows} rows, the golden pictures need {last}")
        pictures = read_pictures(content[PICTURES_FILE], manifest)
    return Bundle(
        path=path,
        manifest=manifest,
        digest=sha256(text),
        graph=content[GRAPH_FILE],
        golden=middle,
        pictures=pictures,
        int8=_read_int8(content, manifest, middle),
        by_size=() if manifest.sizes is None else goldens,
    )


def _without_answers(manifest: Manifest) -> Golden:
    rows = {spec.name: np.zeros((1, *spec.row_shape), spec.dtype) for spec in manifest.inputs}
    return Golden(inputs=rows, outputs={})


def _read_int8(content: Mapping[str, bytes], manifest: Manifest, golden: Golden) -> QuantizedGraph | None:
    if manifest.int8 is None:
        return None
    arrays = _read_arrays(content[INT8_GOLDEN_FILE], INT8_GOLDEN_FILE)
    expected = {f"output.{spec.name}" for spec in manifest.outputs}
    if set(arrays) != expected:
        raise BundleError(f"{INT8_GOLDEN_FILE}: holds arrays {sorted(arrays)}, expected {sorted(expected)}")
    outputs = {
        spec.name: _checked(arrays, "output", spec, spec.dtype, INT8_GOLDEN_FILE).astype(np.float64)
        for spec in manifest.outputs
    }
    if any(len(array) != golden.num_rows for array in outputs.values()):
        raise BundleError(f"{INT8_GOLDEN_FILE}: must answer the {golden.num_rows} rows of {GOLDEN_FILE}")
    return QuantizedGraph(
        graph=content[INT8_GRAPH_FILE], golden=Golden(inputs=golden.inputs, outputs=outputs)
    )


def picture_group(manifest: Manifest, goldens: Sequence[Golden]) -> Golden:
    """The golden rows that have the size of a picture's row; raises BundleError if there are none."""
    if manifest.preprocessing is None or manifest.sizes is None:
        return goldens[0]
    sizes = manifest.inputs[0].sizes_of(manifest.preprocessing.row_shape)
    for golden in goldens:
        if golden.sizes == sizes:
            return golden
    raise BundleError(f"{GOLDEN_FILE}: no golden rows of the size of a picture's row")


def read_goldens(content: bytes, manifest: Manifest, where: str) -> list[Golden]:
    """Read golden.npz and check it against the manifest's tensors; raises BundleError, naming `where`."""
    arrays = _read_arrays(content, where)
    groups = (
        [("", {})]
        if manifest.golden_sizes is None
        else [(f"{index}.", group.sizes) for index, group in enumerate(manifest.golden_sizes)]
    )
    names = [f"{side}.{spec.name}" for side, specs in _sides(manifest) for spec in specs]
    expected = {prefix + name for prefix, _ in groups for name in names}
    if set(arrays) != expected:
        raise BundleError(f"{where}: holds arrays {sorted(arrays)}, expected {sorted(expected)}")
    goldens = [_group(arrays, prefix, sizes, manifest, where) for prefix, sizes in groups]
    if (num_rows := sum(golden.num_rows for golden in goldens)) < MIN_GOLDEN_ROWS:
        raise BundleError(f"{where}: {num_rows} rows, expected at least {MIN_GOLDEN_ROWS}")
    return goldens


def golden_bytes(goldens: Golden | Sequence[Golden]) -> bytes:
    """The content of golden.npz: one group of rows without a prefix, or several, each with its number."""
    groups = {"": goldens} if isinstance(goldens, Golden) else {f"{i}.": one for i, one in enumerate(goldens)}
    arrays: Arrays = {}
    for prefix, golden in groups.items():
        arrays |= {f"{prefix}input.{name}": array for name, array in golden.inputs.items()}
        arrays |= {f"{prefix}output.{name}": array for name, array in golden.outputs.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def int8_golden_bytes(answers: Mapping[str, np.ndarray]) -> bytes:
    """The content of int8.npz: arrays `output.<name>`, the int8 graph's answers to the golden rows."""
    buffer = io.BytesIO()
    arrays = {f"output.{name}": array for name, array in answers.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_arrays(content: bytes, where: str) -> Arrays:
    try:
        return read_arrays(io.BytesIO(content))
    except ArchiveError as error:
        raise BundleError(f"{where}: not an archive of arrays: {error}") from None


def _sides(manifest: Manifest) -> tuple[tuple[str, list[TensorSpec]], ...]:
    return ("input", manifest.inputs), ("output", manifest.outputs)


def _group(arrays: Arrays, prefix: str, sizes: Sizes, manifest: Manifest, where: str) -> Golden:
    """One group's arrays, checked; its inputs have exactly its sizes, its outputs what the graph makes."""
    inputs = {
        spec.name: _checked(arrays, f"{prefix}input", spec.at(sizes), spec.dtype, where)
        for spec in manifest.inputs
    }
    outputs = {
        spec.name: _checked(arrays, f"{prefix}output", spec.at(sizes), "float64", where)
        for spec in manifest.outputs
    }
    if len(counts := {len(array) for array in (*inputs.values(), *outputs.values())}) != 1:
        raise BundleError(f"{where}: the arrays disagree on the number of rows: {sorted(counts)}")
    golden = Golden(inputs=inputs, outputs=outputs, sizes=sizes)
    if golden.num_rows == 0:
        raise BundleError(f"{where}: no golden rows at {described(sizes)}")
    return golden


def _checked(arrays: Arrays, kind: str, spec: TensorSpec, dtype: str, where: str) -> np.ndarray:
    array = arrays[f"{kind}.{spec.name}"]
    if array.dtype != np.dtype(dtype) or array.ndim == 0 or spec.sizes_of(array.shape[1:]) is None:
        raise BundleError(
            f"{where}: {kind}.{spec.name} is {array.dtype} of shape {list(array.shape)}, "
            f"expected {dtype} of shape [rows, {', '.join(map(str, spec.shape[1:]))}]"
        )
    if kind.endswith("output") and not np.isfinite(array).all():
        raise BundleError(f"{where}: {kind}.{spec.name} holds answers that are not finite")
    return array


def _read(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """A regular file's bytes; a pipe in its place would be waited for without end, unless opened so."""
    try:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except BlockingIOError:  # another process holds a lease, as only a regular file has: it is given up
            descriptor = os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise BundleError(f"{path.name}: not a regular file")
            if facts.st_size > limit:
                raise BundleError(f"{path.name}: has {facts.st_size} bytes, at most {limit} are read")
            return file.read()
    except OSError as error:
        raise BundleError(f"{path.name}: {error.strerror or error}") from None
