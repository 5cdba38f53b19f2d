"""Small nets that take pictures, and the flags that say what a picture becomes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnx_graphs import batchnorm, batchnorm_arrays, graph

FLAGS = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.1", "--resize", "shorter:14", "--crop", "12")


def save_net(folder: Path, *, tail: str = "classes", shape: tuple[int, int, int] = (3, 12, 12)) -> Path:
    """Conv → BatchNormalization, then an average per channel, or a map."""
    arrays = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)), **batchnorm_arrays(4, 0)}
    nodes = []
    entry = "x"
    if shape[2] == 3:
        nodes.append(helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
        entry = "t"
    nodes += [
        helper.make_node("Conv", [entry, "w"], ["h"], name="conv"),
        batchnorm("h", "n" if tail == "classes" else "y"),
    ]
    if tail == "classes":
        nodes += [
            helper.make_node("GlobalAveragePool", ["n"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ]
    path = folder / f"{tail}.onnx"
    onnx.save(graph(nodes, arrays, ["rows", *shape], dtype=np.float32), path)
    return path
