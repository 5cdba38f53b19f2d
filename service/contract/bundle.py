"""The contract between export and service: a bundle on disk, opened and checked.

In: a directory `models/NAME/VERSION/` with manifest.json, model.onnx, golden.npz, pictures.npz, report.html,
and int8.onnx with int8.npz where there is an int8 graph.
Out: a `Bundle` whose every byte has the digest that the manifest gives, or a `BundleError`.

The files are read once: the bytes that were checked are the bytes that are used.  Messages name files, never
the directory: they reach clients.
"""

import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.contract.golden_pictures import PICTURES_FILE, read_pictures
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE
from service.contract.manifest import MIN_GOLDEN_ROWS, BundleError, Manifest, TensorSpec, parse_manifest
from service.contract.signature import SIGNATURE_FILE, TrustedKeys

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
REPORT_FILE = "report.html"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Rows with the unfolded net's answers: inputs (N, …) in the graph's dtypes, outputs in float64."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

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
    """An opened bundle; `digest` is the sha-256 of its manifest, which vouches for everything else."""

    path: Path
    manifest: Manifest
    digest: str
    graph: bytes
    golden: Golden
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # golden ones, encoded, by name
    int8: QuantizedGraph | None = None


def sha256(content: bytes) -> str:
    """The sha-256 of `content` as 64 lower-case hex digits."""
    return hashlib.sha256(content).hexdigest()


def open_bundle(path: Path, trusted: TrustedKeys | None = None) -> Bundle:
    """Open the bundle directory `path`; raises BundleError if anything is missing, changed or unknown.

    With `trusted` keys the manifest must be signed by one of them, which is checked before it is parsed.
    """
    text = _read(path / MANIFEST_FILE)
    if trusted is not None:
        has_signature = (path / SIGNATURE_FILE).exists()
        trusted.check(text, _read(path / SIGNATURE_FILE) if has_signature else None)
    manifest = parse_manifest(text, MANIFEST_FILE)
    content: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        content[name] = _read(path / name)
        if (found := sha256(content[name])) != expected:
            raise BundleError(f"{name}: sha-256 is {found[:12]}…, the manifest says {expected[:12]}…")
    golden = read_golden(content[GOLDEN_FILE], manifest, GOLDEN_FILE)
    pictures = {}
    if manifest.golden_pictures is not None:
        last = manifest.golden_pictures.first_row + len(manifest.golden_pictures.names)
        if last > golden.num_rows:
            raise BundleError(f"{GOLDEN_FILE}: {golden.num_rows} rows, the golden pictures need {last}")
        pictures = read_pictures(content[PICTURES_FILE], manifest)
    return Bundle(
        path=path,
        manifest=manifest,
        digest=sha256(text),
        graph=content[GRAPH_FILE],
        golden=golden,
        pictures=pictures,
        int8=_read_int8(content, manifest, golden),
    )


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


def read_golden(content: bytes, manifest: Manifest, where: str) -> Golden:
    """Read golden.npz and check it against the manifest's tensors; raises BundleError, naming `where`."""
    arrays = _read_arrays(content, where)
    expected = {f"input.{spec.name}" for spec in manifest.inputs}
    expected |= {f"output.{spec.name}" for spec in manifest.outputs}
    if set(arrays) != expected:
        raise BundleError(f"{where}: holds arrays {sorted(arrays)}, expected {sorted(expected)}")
    inputs = {spec.name: _checked(arrays, "input", spec, spec.dtype, where) for spec in manifest.inputs}
    outputs = {spec.name: _checked(arrays, "output", spec, "float64", where) for spec in manifest.outputs}
    if len(counts := {len(array) for array in (*inputs.values(), *outputs.values())}) != 1:
        raise BundleError(f"{where}: the arrays disagree on the number of rows: {sorted(counts)}")
    golden = Golden(inputs=inputs, outputs=outputs)
    if golden.num_rows < MIN_GOLDEN_ROWS:
        raise BundleError(f"{where}: {golden.num_rows} rows, expected at least {MIN_GOLDEN_ROWS}")
    return golden


def golden_bytes(golden: Golden) -> bytes:
    """The content of golden.npz: arrays `input.<name>` and `output.<name>`, rows first."""
    arrays = {f"input.{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"output.{name}": array for name, array in golden.outputs.items()}
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
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{where}: not an archive of arrays: {error}") from None


def _checked(arrays: Arrays, kind: str, spec: TensorSpec, dtype: str, where: str) -> np.ndarray:
    array = arrays[f"{kind}.{spec.name}"]
    if array.dtype != np.dtype(dtype) or array.shape[1:] != spec.row_shape:
        raise BundleError(
            f"{where}: {kind}.{spec.name} is {array.dtype} of shape {list(array.shape)}, "
            f"expected {dtype} of shape [rows, {', '.join(map(str, spec.row_shape))}]"
        )
    if kind == "output" and not np.isfinite(array).all():
        raise BundleError(f"{where}: output.{spec.name} holds answers that are not finite")
    return array


def _read(path: Path) -> bytes:
    """A regular file's bytes; a pipe in its place would be waited for without end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BundleError(f"{path.name}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name}: {error.strerror or error}") from None
