"""NNCF and OpenVINO, in an interpreter of their own.  It imports nothing of ours.

In: `float32.onnx` and `rows.npz` (fit, judge) in a folder.  Out: `nncf.onnx`; answers and ratios in
`peers.npz`.

    PYTHON benchmarks/int8/peers.py FOLDER

Times are × ONNX Runtime in float32, in turn with it and in this process, one thread.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCHES = (1, 8)
SECONDS, MIN_PAIRS = 2.0, 7
Run = Callable[[np.ndarray], np.ndarray]


def ratio(exact: Run, other: Run, rows: np.ndarray) -> float:
    """Median of exact ÷ median of other."""
    times: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    for run in (exact, other):
        run(rows)
    while len(times[0]) < MIN_PAIRS or time.perf_counter() - begun < SECONDS:
        for run, taken in zip((exact, other), times, strict=True):
            start = time.perf_counter()
            run(rows)
            taken.append(time.perf_counter() - start)
    return float(np.median(times[0]) / np.median(times[1]))


def onnxruntime_run(path: Path, name: str) -> Run:
    """One thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda rows: np.asarray(session.run(None, {name: rows})[0])


def openvino_run(model: object, precision: str) -> Run:
    """One thread, in `precision` where the graph leaves the choice."""
    import openvino

    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()

    def run(rows: np.ndarray) -> np.ndarray:
        return np.asarray(next(iter(request.infer([rows]).values())))

    return run


def main(folder: Path) -> None:
    """Measure every peer that imports."""
    source = folder / "float32.onnx"
    with np.load(folder / "rows.npz") as file:
        fit, judge = file["fit"], file["judge"]
    import onnx

    graph = onnx.load(source)
    name = graph.graph.input[0].name
    exact = onnxruntime_run(source, name)
    found: dict[str, np.ndarray] = {}
    speeds: dict[str, list[float]] = {}

    def add(peer: str, run: Run) -> None:
        parts = [run(judge[start : start + 8]) for start in range(0, len(judge), 8)]
        found[peer] = np.concatenate(parts)
        speeds[peer] = [ratio(exact, run, np.resize(judge, (size, *judge.shape[1:]))) for size in BATCHES]

    try:
        import nncf

        batches = [{name: fit[start : start + 1]} for start in range(min(len(fit), 300))]
        quantized = nncf.quantize(graph, nncf.Dataset(batches))
        onnx.save(quantized, folder / "nncf.onnx")
        add("NNCF default, ONNX Runtime", onnxruntime_run(folder / "nncf.onnx", name))
    except Exception as error:
        print(f"NNCF: {error}"[:200], file=sys.stderr)
    try:
        import openvino

        for precision, words in (("f32", "float32"), ("bf16", "bf16")):
            add(f"OpenVINO {words}", openvino_run(openvino.Core().read_model(str(source)), precision))
        if (folder / "nncf.onnx").exists():
            import nncf

            model = openvino.Core().read_model(str(source))
            data = nncf.Dataset([fit[start : start + 1] for start in range(min(len(fit), 300))])
            add("OpenVINO int8 (NNCF)", openvino_run(nncf.quantize(model, data), "f32"))
    except Exception as error:
        print(f"OpenVINO: {error}"[:200], file=sys.stderr)
    arrays = {f"answers.{peer}": array for peer, array in found.items()}
    arrays |= {f"speed.{peer}": np.array(both) for peer, both in speeds.items()}
    np.savez(folder / "peers.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
