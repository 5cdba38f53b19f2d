"""Answers to many pictures or rows with Ray Data: each row once, whatever becomes of single nodes.

In: a bundle, and pictures or Parquet, both where every node reads them.  Out: a folder of Parquet files.

    python deploy/ray/bulk.py models/digits/3 pictures/ answers/
    python deploy/ray/bulk.py models/digits/3 rows.parquet answers/ --address auto --actors 8 --outputs

Columns are those of `foldserve batch`.  A table needs a column `key`; its rows are in columns named as the
model's inputs, or pictures in a column `image`.  Every actor opens and proves the bundle on its own node.  A
block whose node is lost is computed again, and written under the same name: a row appears once.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from foldserve.batch.errors import BatchError
from foldserve.batch.inputs import PICTURE_COLUMNS, SUFFIXES, picture_of, rows_of_column
from foldserve.batch.job import Batch, Columns, Options, rows_of_pictures
from service.contract.bundle import open_bundle
from service.engine.engine import EngineConfig, load_engine

ROWS = 1024  # of a block that goes to an actor at once


class Answering:
    """One actor: a proved engine with one thread, in float32, so that all nodes answer by one graph."""

    def __init__(self, bundle: str, top: int = 1, *, with_outputs: bool = False) -> None:
        config = EngineConfig(device="cpu", threads=1, lanes=1)
        opened = open_bundle(Path(bundle))
        if opened.manifest.sizes is not None:
            raise BatchError("rows of open sizes are for `foldserve batch`")
        self._manifest = opened.manifest
        self._engine = load_engine(opened, config)
        self._columns = Columns(opened, Options(engine=config, top=top, with_outputs=with_outputs))

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The answers to a table's rows, in their order."""
        batch = self._batch(table.combine_chunks())
        num_rows = len(next(iter(batch.tensors.values())))
        answers = (
            self._engine.run_all(0, batch.tensors)
            if num_rows
            else {spec.name: np.empty((0, *spec.row_shape), spec.dtype) for spec in self._manifest.outputs}
        )
        return self._columns.table(batch.keys, batch.errors, answers)

    def _batch(self, table: pyarrow.Table) -> Batch:
        names = table.column_names
        key = "path" if "path" in names and "bytes" in names else "key"  # read_binary_files names them so
        if key not in names:
            raise BatchError(f"the table has the columns {', '.join(names)}; it needs `key`")
        keys = [str(value) for value in table[key].to_pylist()]
        inputs = {spec.name: spec for spec in self._manifest.inputs}
        if inputs.keys() <= set(names):
            tensors = {name: rows_of_column(_one(table[name]), spec) for name, spec in inputs.items()}
            return Batch(keys=keys, errors=[None] * len(keys), tensors=tensors)
        column = next((name for name in ("bytes", *PICTURE_COLUMNS) if name in names), None)
        if column is None:
            raise BatchError(f"the table has the columns {', '.join(names)}; expected {', '.join(inputs)}")
        pictures = [picture_of(value) for value in table[column].to_pylist()]
        return rows_of_pictures(keys, pictures, self._manifest)


def _one(column: pyarrow.ChunkedArray) -> Any:
    """A column's only chunk; Ray's own tensors as lists."""
    chunk = column.chunk(0) if column.num_chunks else pyarrow.array([], column.type)
    return chunk.storage if isinstance(chunk, pyarrow.ExtensionArray) else chunk


def main() -> int:
    """Answer everything; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path, help="folder of pictures, or Parquet: a file or a folder")
    parser.add_argument("output", type=Path, help="folder for Parquet files; must not be there")
    parser.add_argument("--address", help="a Ray cluster; unset: one on this machine, until the end")
    parser.add_argument("--actors", type=int, default=4, help="maximum processes, one core each")
    parser.add_argument("--top", type=int, default=1, help="labels of each row")
    parser.add_argument("--outputs", action="store_true", help="the raw outputs too")
    # Ray's own 128 MiB are millions of labels: one file at the very end, and all of it again for a lost node.
    parser.add_argument(
        "--block-mb", type=float, default=8, help="MiB of answers in a file, and lost with a node (default 8)"
    )
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} is there already")

    import ray

    ray.init(address=given.address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.target_max_block_size = int(given.block_mb * 2**20)
    is_table = given.input.suffix == ".parquet" or any(given.input.glob("*.parquet"))
    if is_table:
        rows = ray.data.read_parquet(str(given.input))
    else:
        suffixes = [suffix.lstrip(".") for suffix in SUFFIXES]
        rows = ray.data.read_binary_files(str(given.input), include_paths=True, file_extensions=suffixes)
    answers = rows.map_batches(
        Answering,
        fn_constructor_args=(str(given.bundle.resolve()), given.top),
        fn_constructor_kwargs={"with_outputs": given.outputs},
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=given.actors),
        num_cpus=1,
    )
    answers.write_parquet(str(given.output.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
