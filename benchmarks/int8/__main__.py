"""One table for all nets: see `benchmarks.int8`."""

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.fold_zoo.timing import interleaved, medians
from benchmarks.int8.nets import Net, find_nets
from benchmarks.int8.ways import FLOAT32, ways_of
from export.compute.runtime import load
from export.int8.cpu import cpu_in_words
from export.int8.measure import BATCHES, Comparison, class_output
from export.int8.rows import Rows

SECONDS = 4.0
HEAD = "| net | way | batch 1, ms | × float32 | batch 8, ms | × float32 | SQNR, dB | agreement | accuracy |"


def main() -> None:
    """Print the table; what is skipped goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--trained", type=Path, help="a folder of NAME/checkpoint.pt")
    parser.add_argument("--pictures", type=Path, help="rows for pretrained nets that take pictures")
    parser.add_argument("--files", default="", help="ONNX files, with commas")
    parser.add_argument("--peers", type=Path, help="an interpreter with nncf and openvino")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # quantize_static's advice
    only = [name for name in options.only.split(",") if name]
    files = [Path(name) for name in options.files.split(",") if name]
    print(f"ONNX Runtime {ort.__version__}, one thread, {cpu_in_words()}\n\n{HEAD}")
    print("|---|---|" + "---:|" * 7, flush=True)
    for net in find_nets(only, options.trained, options.pictures, files):
        if isinstance(net, str):
            print(f"skipped: {net}", file=sys.stderr)
            continue
        for line in lines_of(net, options.peers):
            print(line, flush=True)


def lines_of(net: Net, peers: Path | None) -> list[str]:
    """The lines of one net: every second row fits (of many rows every eighth), the others judge."""
    fit, judge = net.rows.split(8 if net.rows.num_rows > 1000 else 2)
    graphs = ways_of(net, fit, judge)
    name = net.source.inputs[0].name
    inputs, labels = _whole(judge, name)
    classes = class_output([(spec.name, spec.row_shape) for spec in net.source.outputs])
    output = net.source.outputs[0].name
    times = {size: _times(graphs, {name: np.resize(inputs, (size, *inputs.shape[1:]))}) for size in BATCHES}
    exact = _answers(graphs[FLOAT32], name, inputs, output)
    lines = []
    for way, graph in graphs.items():
        found = Comparison(classes=classes)
        found.add({output: exact}, {output: _answers(graph, name, inputs, output)}, labels)
        cells = [
            cell
            for size in BATCHES
            for cell in (f"{times[size][way]:.2f}", f"{times[size][FLOAT32] / times[size][way]:.2f}")
        ]
        lines.append(_line(net, way, cells, found, is_exact=way == FLOAT32))
    for peer, (answers, speeds) in _peers(peers, graphs[FLOAT32], name, _whole(fit, name)[0], inputs).items():
        found = Comparison(classes=classes)
        found.add({output: exact}, {output: answers}, labels)
        lines.append(_line(net, peer, ["", f"{speeds[0]:.2f}", "", f"{speeds[1]:.2f}"], found))
    return lines


def _line(net: Net, way: str, cells: list[str], found: Comparison, *, is_exact: bool = False) -> str:
    agreement = "" if found.agreement is None else f"{100 * found.agreement.share:.2f} %"
    accuracy = "" if found.accuracy is None else f"{100 * found.accuracy.int8:.2f} %"
    exact = ["", ""] if is_exact else [f"{found.worst_db:.1f}", agreement]
    name = f"{net.name} ({net.words})" if is_exact else net.name
    return f"| {' | '.join([name, way, *cells, *exact, accuracy])} |"


def _whole(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    batches = list(rows.read())
    labels = [batch.labels for batch in batches if batch.labels is not None]
    inputs = np.concatenate([batch.inputs[name] for batch in batches])
    return inputs, np.concatenate(labels) if labels else None


def _answers(graph: bytes, name: str, inputs: np.ndarray, output: str) -> np.ndarray:
    run = load(graph, optimised=True)
    parts = [run({name: inputs[start : start + 8]})[output] for start in range(0, len(inputs), 8)]
    return np.concatenate(parts)


def _times(graphs: Mapping[str, bytes], rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for index, (way, graph) in enumerate(graphs.items()):
            paths[way] = Path(folder) / f"{index}.onnx"
            paths[way].write_bytes(graph)
        return medians(interleaved(paths, rows, SECONDS))


def _peers(
    python: Path | None, graph: bytes, name: str, fit: np.ndarray, judge: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Answers and ratios of each peer that runs there."""
    if python is None:
        return {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "float32.onnx").write_bytes(graph)
        np.savez(folder / "rows.npz", fit=fit, judge=judge)
        script = Path(__file__).with_name("peers.py")
        done = subprocess.run([python, script, folder], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            print(f"skipped: {python} {script.name}: exit code {done.returncode}", file=sys.stderr)
            return {}
        with np.load(folder / "peers.npz") as file:
            names = [key.removeprefix("speed.") for key in file.files if key.startswith("speed.")]
            return {peer: (file[f"answers.{peer}"], file[f"speed.{peer}"]) for peer in names}


if __name__ == "__main__":
    main()
