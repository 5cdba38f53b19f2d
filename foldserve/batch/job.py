"""The job: rows of an input through a proved engine, into parts of an output.

In: a bundle, an input, an output.  Out: OUTPUT; how many rows, and how many of them have no answer.

    input ─▶ decoding in threads, ahead ─▶ batches of the largest bucket ─▶ lanes ─▶ a part each PART rows
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
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
from service.contract.pictures import PictureError, Target, read_pixels, to_row
from service.contract.probabilities import are_distributions, softmax
from service.engine.engine import Engine, EngineConfig, load_engine
from service.engine.session import EngineError
from service.errors import ModelFailed

PART = 8192  # rows that are lost when a job is killed, at most
MAX_PIXELS = 40_000_000
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
        self.input = Input(source, self._manifest)
        job = {"bundle": self._bundle.digest, "input": self.input.digest(), "top": options.top}
        self.parts = Parts(output, {**job, "outputs": options.with_outputs})

    def load(self) -> None:
        """Load the engine and prove it on this machine; raises BatchError."""
        try:
            self.engine: Engine = load_engine(self._bundle, self._options.engine)
        except EngineError as error:
            raise BatchError(f"the bundle is not proved on this machine: {error}") from None

    def run(self, say: Callable[[int], None]) -> tuple[int, int]:
        """Answer every row that has no answer yet; `say` is called with the rows that are done.

        Returns the rows of the whole output, and how many of this run have no answer.
        """
        lanes: SimpleQueue[int] = SimpleQueue()
        for lane in range(self.engine.plan.lanes):
            lanes.put(lane)

        def compute(batch: Batch) -> pyarrow.Table:
            lane = lanes.get()
            try:
                return self._columns.table(batch, self._answered(lane, batch))
            finally:
                lanes.put(lane)

        num_failed = 0
        with ExitStack() as stack:
            decoding = stack.enter_context(ThreadPoolExecutor(self._options.engine.threads))
            computing = stack.enter_context(ThreadPoolExecutor(self.engine.plan.lanes))
            chunks = self.input.chunks(self.engine.largest, self.parts.num_rows)
            ahead = 2 * self._options.engine.threads + 1
            batches = in_order(decoding, self._decoded, chunks, ahead)
            tables = in_order(computing, compute, batches, 2 * self.engine.plan.lanes)
            for part in _grouped(tables, self._options.part):
                num_failed += len(part) - part["error"].null_count
                self.parts.add(part)
                say(self.parts.num_rows)
        self.parts.finish(self._columns.schema)
        return self.parts.num_rows, num_failed

    def _decoded(self, chunk: Chunk) -> Batch:
        if chunk.arrays is not None:
            return Batch(keys=chunk.keys, errors=[None] * len(chunk.keys), tensors=dict(chunk.arrays))
        assert chunk.pictures is not None
        return _rows_of(chunk.keys, chunk.pictures, self._manifest)

    def _answered(self, lane: int, batch: Batch) -> dict[str, np.ndarray]:
        if not len(next(iter(batch.tensors.values()))):
            return {spec.name: np.empty((0, *spec.row_shape), spec.dtype) for spec in self._manifest.outputs}
        try:
            return dict(self.engine.run(lane, [batch.tensors]).answers)
        except ModelFailed as error:
            raise BatchError(f"{error}, on the rows from '{batch.keys[0]}' on") from None


class Columns:
    """The columns of the output, and how answers become them."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        manifest, first = bundle.manifest, bundle.manifest.outputs[0]
        is_classifier = len(first.row_shape) == 1 and first.dtype.startswith("float")
        self._labels: list[str] | None = None
        if is_classifier and (manifest.labels is None or len(manifest.labels) == first.row_shape[0]):
            self._labels = labels_of(manifest)
        self._first = first.name
        self._is_distribution = are_distributions(bundle.golden.outputs[first.name])
        self._top = min(options.top, len(self._labels or ()))
        self._raw = manifest.outputs if options.with_outputs or self._labels is None else []
        fields = [("key", pyarrow.string())]
        for rank in range(1, self._top + 1):
            end = "" if rank == 1 else f"_{rank}"
            fields += [(f"label{end}", pyarrow.string()), (f"probability{end}", pyarrow.float64())]
        fields += [(f"output.{spec.name}", pyarrow.list_(_type(spec.dtype))) for spec in self._raw]
        self.schema = pyarrow.schema([*fields, ("error", pyarrow.string())])

    def table(self, batch: Batch, answers: dict[str, np.ndarray]) -> pyarrow.Table:
        """The rows of a batch; those without an answer say why."""
        has_answer = np.array([error is None for error in batch.errors])
        row_of = np.cumsum(has_answer) - 1
        columns: list[Any] = [batch.keys]
        if self._labels is not None:
            scores = answers[self._first]
            shares_nk = scores.astype(np.float64) if self._is_distribution else softmax(scores)
            order = np.argsort(-shares_nk, axis=1, kind="stable")[:, : self._top]
            best = np.take_along_axis(shares_nk, order, axis=1)
            for rank in range(self._top):
                labels = [self._labels[k] for k in order[:, rank]]
                columns.append([labels[row_of[i]] if ok else None for i, ok in enumerate(has_answer)])
                columns.append([best[row_of[i], rank] if ok else None for i, ok in enumerate(has_answer)])
        for spec in self._raw:
            flat = answers[spec.name].reshape(len(answers[spec.name]), -1)
            columns.append([flat[row_of[i]] if ok else None for i, ok in enumerate(has_answer)])
        return pyarrow.table([*columns, batch.errors], schema=self.schema)


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


def _rows_of(keys: list[str], pictures: Sequence[bytes | str], manifest: Manifest) -> Batch:
    """Pictures as rows, exactly as the service makes them."""
    if reason := unsupported_reason(manifest):
        raise BatchError(f"the model takes no pictures: {reason}")
    made = manifest.preprocessing
    assert made is not None
    target = Target(mode=made.mode, height=made.height, width=made.width, max_pixels=MAX_PIXELS)
    rows, errors = [], []
    for picture in pictures:
        error = None
        try:
            if isinstance(picture, str):
                raise PictureError(picture)
            rows.append(to_row(read_pixels(picture, target), made.mean, made.std))
        except PictureError as raised:
            error = f"the picture {raised}" if isinstance(picture, bytes) else str(raised)
        errors.append(error)
    tensor = manifest.inputs[0]
    whole = np.concatenate(rows) if rows else np.empty((0, *target.shape), np.float32)
    if tensor.dtype == "uint8":  # the graph normalises pixels itself: a row is whole but for rounding
        whole = np.rint(whole)
    return Batch(keys=keys, errors=errors, tensors={tensor.name: whole.astype(tensor.dtype, copy=False)})


def _grouped(tables: Iterable[pyarrow.Table], size: int) -> Iterator[pyarrow.Table]:
    """Tables joined to at least `size` rows each, the last one fewer."""
    waiting: list[pyarrow.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= size:
            yield pyarrow.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pyarrow.concat_tables(waiting)


def _type(dtype: str) -> pyarrow.DataType:
    return pyarrow.bool_() if dtype == "bool" else pyarrow.from_numpy_dtype(np.dtype(dtype))
