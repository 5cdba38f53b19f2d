"""Nets whose sizes are open, and their bundles: a recogniser of any width, a segmentation of any picture."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from service.contract.bundle import GOLDEN_FILE, Golden, golden_bytes, open_bundle, sha256

Shape = tuple[int, ...]
WIDTHS = "x=N,3,8,16..160/16"
PICTURES = ("H=8..24/4", "W=8..32/8")


def recogniser() -> onnx.ModelProto:
    """x (N, 3, 8, W) → y (N, W / 4, 6): two Convs of stride 2, as OCR has it."""
    arrays = {
        **norm_arrays(4, prefix="a"),
        **norm_arrays(8, prefix="b", seed=1),
        **{"w1": weights(4, 3, 3, 3, seed=1), "w2": weights(8, 4, 3, 3, seed=2), "fc": weights(8, 6)},
    }
    nodes = [
        *(node("Conv", "x w1", "c1", pads=[1] * 4, strides=[2, 2]), norm("c1", "n1", "a")),
        *(node("Relu", "n1", "r1"), node("Conv", "r1 w2", "c2", pads=[1] * 4, strides=[2, 2])),
        *(norm("c2", "n2", "b"), node("ReduceMean", "n2", "m", axes=[2], keepdims=0)),
        *(node("Transpose", "m", "t", perm=[0, 2, 1]), node("MatMul", "t fc", "y")),
    ]
    return model(nodes, arrays, {"x": ["N", 3, 8, "W"]}, [value("y", ["N", "T", 6])])


def segmentation() -> onnx.ModelProto:
    """x (N, 3, H, W) → scores (N, 5, H, W), and their mean over the picture (N, 5)."""
    arrays = {
        **norm_arrays(4, prefix="a"),
        **norm_arrays(5, prefix="b", seed=1),
        **{"w1": weights(4, 3, 3, 3, seed=1), "w2": weights(5, 4, 3, 3, seed=2)},
    }
    nodes = [
        *(node("Conv", "x w1", "c1", pads=[1] * 4), norm("c1", "n1", "a"), node("Relu", "n1", "r1")),
        *(node("Conv", "r1 w2", "c2", pads=[1] * 4), norm("c2", "scores", "b")),
        *(node("GlobalAveragePool", "scores", "p"), node("Flatten", "p", "mean")),
    ]
    return model(nodes, arrays, {"x": ["N", 3, "H", "W"]}, ["scores", "mean"])


def two_inputs() -> onnx.ModelProto:
    """x (N, 3, H, W) and z (N, 3, H, W), which must be as large; y = norm(x + z), any size."""
    nodes = [node("Add", "x z", "s"), node("Conv", "s w", "h", pads=[1] * 4), norm("h", "y")]
    inputs = {"x": ["N", 3, "H", "W"], "z": ["N", 3, "H", "W"]}
    return model(nodes, {"w": weights(4, 3, 3, 3), **norm_arrays(4)}, inputs)


def bundled(
    proto: onnx.ModelProto, models: Path, name: str, *shapes: str, flags: tuple[str, ...] = ()
) -> Path:
    """The bundle `models/NAME/1` of a net with these `--input-shape`s."""
    models.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, models.parent / f"{name}.onnx")
    given = [f"--input-shape={shape}" for shape in shapes]
    done = run_here("bundle", models.parent / f"{name}.onnx", "--to", models / name, *given, *flags)
    assert done.returncode == 0, done.stderr
    return models / name / "1"


def itself(proto: onnx.ModelProto, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime says of the unfolded file."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(rows)), strict=True))


def rewritten(bundle: Path, copy: Path, change: Callable[[list[Golden]], list[Golden]]) -> Path:
    """A copy of the bundle with other golden groups, under digests that are right."""
    copy.mkdir(parents=True)
    opened = open_bundle(bundle)
    content = golden_bytes(change(list(opened.goldens)))
    files = {**opened.manifest.files, GOLDEN_FILE: sha256(content)}
    for name in files:
        (copy / name).write_bytes((bundle / name).read_bytes())
    (copy / GOLDEN_FILE).write_bytes(content)
    (copy / "manifest.json").write_bytes(opened.manifest.model_copy(update={"files": files}).sealed())
    return copy


def nudged(goldens: list[Golden]) -> list[Golden]:
    """The same but for the fourth size, whose answers are wrong by a thousandth."""
    outputs = {name: array * 1.001 for name, array in goldens[3].outputs.items()}
    goldens[3] = Golden(inputs=goldens[3].inputs, outputs=outputs, sizes=goldens[3].sizes)
    return goldens
