"""The job: rows of an input through a proved engine, into parts of an output.

In: a bundle, an input, an output.  Out: OUTPUT; how many rows, and how many of them have no answer.

    input ─▶ decoding in threads, ahead ─▶ batches of the largest bucket ─▶ lanes ─▶ a part each PART rows
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import pyarrow

from foldserve.batch.errors import BatchError
from foldserve.batch.inputs import Chunk, Input
from foldserve.batch.outputs import Parts
from service.contract.bundle import Bundle, open_bundle
from service.contract.manifest import BundleError, Manifest
from service.contract.picture_support import labels_of, unsupported_reason
from service.contract.pictures import PictureError, read_pixels
from service.contract.probabilities import softmax
from service.engine.engine import Engine, EngineConfig
from service.engine.precision import load_fastest
from service.engine.session import EngineError
from service.errors import ModelFailed

PART = 8192  # rows that are lost when a job is killed, at most
MAX_PIXELS = 40_000_000
AHEAD = 64  # batches whose answers may wait for a part to be written
Answered = tuple[list[str], list[str | None], dict[str, np.ndarray]]
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the job runs, and what its columns are: `top` labels, and the raw outputs where they are wanted."""

    engine: EngineConfig
    top: int = 1
    with_outputs: bool = False
    part: int = PART


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that run together: keys, why a row has no tensor, and the tensors of all others."""

    keys: list[str]
    errors: list[str | None]
    tensors: dict[str, np.ndarray]


class Job:
    """A bundle, loaded and proved, and where its answers go."""

    def __init__(self, bundle: Path, source: Path, output: Path, options: Options) -> None:
        try:
            self._bundle = open_bundle(bundle)
        except BundleError as error:
            raise BatchError(f"{bundle}: {error}") from None
        self._manifest = self._bundle.manifest
        self._options = options
        self._columns = Columns(self._bundle, options)
        self.input = Input(source, self._manifest, options.part)
        job = {"bundle": self._bundle.digest, "input": self.input.digest(), "top": options.top}
        self.parts = Parts(output, {**job, "outputs": options.with_outputs})

    def load(self) -> None:
        """Load the engine and prove it on this machine; raises BatchError.

        A job that continues keeps its precision, whatever is faster now: an output is all of one graph.
        """
        config = self._options.engine
        if self.parts.precision is not None:
            config = replace(config, int8="require" if self.parts.precision == "int8" else "off")
        try:
            self.engine: Engine = load_fastest(self._bundle, config)
        except EngineError as error:
            raise BatchError(f"the bundle is not proved on this machine: {error}") from None
        self.parts.begin(self.engine.precision.name)

    def run(self, say: Callable[[int], None]) -> tuple[int, int]:
        """Answer every row that has no answer yet; `say` is called with the rows that are done.

        Returns the rows of the whole output, and how many of this run have no answer.
        """
        lanes: SimpleQueue[int] = SimpleQueue()
        for lane in range(self.engine.plan.lanes):
            lanes.put(lane)

        def compute(batch: Batch) -> Answered:
            lane = lanes.get()
            try:
                return batch.keys, batch.errors, self._answered(lane, batch)
            finally:
                lanes.put(lane)

        num_failed = 0
        with ExitStack() as stack:
            decoding = stack.enter_context(ThreadPoolExecutor(self._options.engine.threads))
            computing = stack.enter_context(ThreadPoolExecutor(self.engine.plan.lanes))
            chunks = self.input.chunks(self.engine.largest, self.parts.num_rows)
            ahead = 2 * self._options.engine.threads + 1
            batches = in_order(decoding, self._decoded, chunks, ahead)
            # The lanes have work while a part is written.
            answered = in_order(computing, compute, batches, AHEAD + self.engine.plan.lanes)
            for group in _grouped(answered, self._options.part):
                part = self._columns.table(*group)
                num_failed += len(part) - part["error"].null_count
                self.parts.add(part)
                say(self.parts.num_rows)
        self.parts.finish(self._columns.schema)
        return self.parts.num_rows, num_failed

    def _decoded(self, chunk: Chunk) -> Batch:
        if chunk.arrays is not None:
            return Batch(keys=chunk.keys, errors=[None] * len(chunk.keys), tensors=dict(chunk.arrays))
        assert chunk.pictures is not None
        return rows_of_pictures(chunk.keys, chunk.pictures, self._manifest)

    def _answered(self, lane: int, batch: Batch) -> dict[str, np.ndarray]:
        if not len(next(iter(batch.tensors.values()))):
            return {
                spec.name: np.empty(0, object)
                if spec.open_sizes
                else np.empty((0, *spec.row_shape), spec.dtype)
                for spec in self._manifest.outputs
            }
        try:
            # Small rows come as several batches, large ones do not all fit in one.
            answers = self.engine.run_all(lane, batch.tensors)
            # Answers of several sizes share a part.
            return {
                spec.name: _apart(answers[spec.name]) if spec.open_sizes else answers[spec.name]
                for spec in self._manifest.outputs
            }
        except ModelFailed as error:
            raise BatchError(f"{error}, on the rows from '{batch.keys[0]}' on") from None


class Columns:
    """The columns of the output, and how answers become them."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        manifest, first = bundle.manifest, bundle.manifest.outputs[0]
        declared = manifest.postprocessing
        is_classifier = len(first.row_shape) == 1 and first.dtype.startswith("float")
        if declared is not None and declared.task not in ("classification", "multi-label"):
            is_classifier = False
        self._labels: list[str] | None = None
        if is_classifier and (manifest.labels is None or len(manifest.labels) == first.row_shape[0]):
            self._labels = labels_of(manifest)
        self._first = first.name
        self._activation = (
            declared.activation if declared else "none" if bundle.ends_in_softmax else "softmax"
        )
        self._top = min(options.top, len(self._labels or ()))
        self._raw = manifest.outputs if options.with_outputs or self._labels is None else []
        fields = [("key", pyarrow.string())]
        for rank in range(1, self._top + 1):
            end = "" if rank == 1 else f"_{rank}"
            fields += [(f"label{end}", pyarrow.string()), (f"probability{end}", pyarrow.float64())]
        fields += [(f"output.{spec.name}", pyarrow.list_(_type(spec.dtype))) for spec in self._raw]
        self._open = [spec.name for spec in self._raw if spec.open_sizes]
        fields += [(f"shape.{name}", pyarrow.list_(pyarrow.int64())) for name in self._open]
        self.schema = pyarrow.schema([*fields, ("error", pyarrow.string())])

    def table(
        self, keys: list[str], errors: list[str | None], answers: dict[str, np.ndarray]
    ) -> pyarrow.Table:
        """Rows of the output; those with an error have no answer, and `answers` has the others'."""
        has_none = np.array([error is not None for error in errors], bool)
        row_of = np.cumsum(~has_none) - 1  # where the answer of each row stands
        row_of[has_none] = 0

        def column(values: np.ndarray) -> pyarrow.Array:
            if not len(values):
                return pyarrow.nulls(len(keys))
            return pyarrow.array(values[row_of], mask=has_none)

        columns: list[Any] = [keys]
        if self._labels is not None:
            shares_nk = self._probabilities(answers[self._first])
            order = np.argsort(-shares_nk, axis=1, kind="stable")[:, : self._top]
            best = np.take_along_axis(shares_nk, order, axis=1)
            labels = np.array(self._labels, object)
            for rank in range(self._top):
                columns += [column(labels[order[:, rank]]), column(best[:, rank])]
        for spec in self._raw:
            rows = answers[spec.name]
            columns.append([None if has_none[i] else rows[row_of[i]].ravel() for i in range(len(keys))])
        for name in self._open:
            rows = answers[name]
            columns.append([None if has_none[i] else rows[row_of[i]].shape for i in range(len(keys))])
        columns.append(pyarrow.array(errors, pyarrow.string()))
        arrays = [
            values.cast(field.type)
            if isinstance(values, pyarrow.Array)
            else pyarrow.array(values, field.type)
            for values, field in zip(columns, self.schema, strict=True)
        ]
        return pyarrow.Table.from_arrays(arrays, schema=self.schema)

    def _probabilities(self, scores_nk: np.ndarray) -> np.ndarray:
        if self._activation == "softmax" and len(scores_nk):
            return softmax(scores_nk)
        if self._activation == "sigmoid":
            shares_nk: np.ndarray = 1 / (1 + np.exp(-scores_nk.astype(np.float64)))
            return shares_nk
        return scores_nk.astype(np.float64)


def in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """`map` in a pool's threads, in order, which reads at most `ahead` items before it needs them."""
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def rows_of_pictures(keys: list[str], pictures: Sequence[bytes | str], manifest: Manifest) -> Batch:
    """Pictures as rows, exactly as the service makes them."""
    if reason := unsupported_reason(manifest):
        raise BatchError(f"the model takes no pictures: {reason}")
    made = manifest.preprocessing
    assert made is not None
    target = made.target(MAX_PIXELS)
    rows = np.empty((len(pictures), *made.row_shape), np.float32)
    errors: list[str | None] = []
    for picture in pictures:
        error = None
        try:
            if isinstance(picture, str):
                raise PictureError(picture)
            made.write_row(read_pixels(picture, target), rows[errors.count(None)])
        except PictureError as raised:
            error = f"the picture {raised}" if isinstance(picture, bytes) else str(raised)
        errors.append(error)
    tensor = manifest.inputs[0]
    rows = rows[: errors.count(None)]
    if tensor.dtype == "uint8":  # the graph normalises pixels itself: a row is whole but for rounding
        rows = np.rint(rows)
    return Batch(keys=keys, errors=errors, tensors={tensor.name: rows.astype(tensor.dtype, copy=False)})


def _apart(rows: np.ndarray) -> np.ndarray:
    """The rows as objects, so that they may stand beside rows of other sizes."""
    apart = np.empty(len(rows), object)
    for place, row in enumerate(rows):
        apart[place] = row
    return apart


def _grouped(batches: Iterable[Answered], size: int) -> Iterator[Answered]:
    """Batches joined to at least `size` rows each, the last one fewer."""
    waiting: list[Answered] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(keys) for keys, _, _ in waiting) >= size:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Answered]) -> Answered:
    return (
        [key for keys, _, _ in batches for key in keys],
        [error for _, errors, _ in batches for error in errors],
        {name: np.concatenate([answers[name] for _, _, answers in batches]) for name in batches[0][2]},
    )


def _type(dtype: str) -> pyarrow.DataType:
    return pyarrow.bool_() if dtype == "bool" else pyarrow.from_numpy_dtype(np.dtype(dtype))
