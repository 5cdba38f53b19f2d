"""The answers on disk: parts that are whole or not there, then one file.

In: tables of answers, each of the next rows.  Out: OUTPUT, a .parquet or .csv file.

    OUTPUT.parts/job.json       what the parts belong to: the bundle, the input, the columns, the precision
    OUTPUT.parts/00000.parquet  the first rows; a killed job leaves whole parts only
    OUTPUT                      all of them, once the last one is there; then the parts are removed
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from foldserve.batch.errors import BatchError
from service.contract.files import aside, publish, sync


class Parts:
    """The parts of an output; those that are there already count.

    `precision` is that of the answers; None until a job has begun.
    """

    def __init__(self, output: Path, job: dict[str, Any]) -> None:
        if output.suffix not in (".parquet", ".csv"):
            raise BatchError(f"{output}: the output is a .parquet or a .csv file")
        if output.exists():
            raise BatchError(f"{output}: is there already; remove it, or choose another name")
        self._output = output
        self._job = job
        self.precision: str | None = None
        self._folder = output.with_name(f"{output.name}.parts")
        try:
            self._open()
        except OSError as error:
            raise BatchError(f"{self._folder}: {error.strerror}") from None

    def _open(self) -> None:
        told = self._folder / "job.json"
        if told.exists():
            known = json.loads(told.read_text())
            self.precision = known.pop("precision", None)
            if known != self._job:
                raise BatchError(
                    f"{self._folder}: holds parts of a job with another input, bundle or columns; remove it"
                )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._files = sorted(self._folder.glob("[0-9]*.parquet"))
        self.num_rows = sum(pyarrow.parquet.ParquetFile(file).metadata.num_rows for file in self._files)

    def begin(self, precision: str) -> None:
        """Note the precision of the answers, so that a job that continues gives no others."""
        self.precision = precision
        self._write()

    def _write(self) -> None:
        known = {} if self.precision is None else {"precision": self.precision}
        publish(self._folder / "job.json", json.dumps({**self._job, **known}).encode())

    def add(self, table: pyarrow.Table) -> None:
        """Write the next part."""
        path = self._folder / f"{len(self._files):06}.parquet"
        with aside(path) as place:
            pyarrow.parquet.write_table(table, place)
            sync(place)
            place.replace(path)
        self._files.append(path)
        self.num_rows += len(table)

    def finish(self, schema: pyarrow.Schema) -> None:
        """Join the parts as OUTPUT, in one step for a reader of it, and remove them."""
        is_csv = self._output.suffix == ".csv"
        writer = pyarrow.csv.CSVWriter if is_csv else pyarrow.parquet.ParquetWriter
        with aside(self._output) as place:
            with writer(place, schema) as joined:
                for file in self._files:
                    joined.write_table(pyarrow.parquet.read_table(file))
            sync(place)
            place.replace(self._output)
        shutil.rmtree(self._folder)
