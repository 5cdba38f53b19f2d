"""ONNX Runtime and OpenVINO on one graph, in an interpreter that has both.  It imports nothing of ours.

In: the folder of a bundle.  Out: a line for each batch size, × ONNX Runtime in float32.

    PYTHON benchmarks/int8/engines.py models/NAME/1

All engines run in turn, one thread each; medians.  Rows are normal.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import openvino
from peers import BATCHES, onnxruntime_run, openvino_run

SECONDS, MIN_ROUNDS = 3.0, 15
FLOAT32 = "ONNX Runtime float32"


def main(folder: Path) -> None:
    """Print the table's lines; `int8.onnx` is measured too where there is one."""
    source = folder / "model.onnx"
    (first,) = onnx.load(source).graph.input
    shape = [size.dim_value for size in first.type.tensor_type.shape.dim[1:]]
    rows = np.random.default_rng(0).normal(size=(max(BATCHES), *shape)).astype(np.float32)
    runs = {FLOAT32: onnxruntime_run(source, first.name)}
    if (folder / "int8.onnx").exists():
        runs["ONNX Runtime int8"] = onnxruntime_run(folder / "int8.onnx", first.name)
    for precision, words in (("f32", "float32"), ("bf16", "bf16")):
        runs[f"OpenVINO {words}"] = openvino_run(openvino.Core().read_model(str(source)), precision)
    for size in BATCHES:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in (*runs.values(), *runs.values()):
            run(rows[:size])
        begun = time.perf_counter()
        while len(times[FLOAT32]) < MIN_ROUNDS or time.perf_counter() - begun < SECONDS:
            for name, run in runs.items():
                start = time.perf_counter()
                run(rows[:size])
                times[name].append(time.perf_counter() - start)
        medians = {name: float(np.median(taken)) for name, taken in times.items()}
        ratios = ", ".join(f"{name} {medians[FLOAT32] / taken:.2f} ×" for name, taken in medians.items())
        print(f"batch {size}: {1e3 * medians[FLOAT32]:.2f} ms; {ratios}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
