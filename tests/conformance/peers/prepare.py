"""The suite's nets, laid out for Triton, MLServer and KServe: ONNX Runtime in each of them.

    PYTHONPATH=tests:. python tests/conformance/peers/prepare.py FOLDER

In: nothing.  Out: FOLDER/nets (NAME/model.onnx, NAME/net.json), FOLDER/triton, FOLDER/mlserver;
KServe reads FOLDER/nets.  The same under FOLDER/unready, where the net `wrong` cannot be loaded.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from tiny_nets import ONNX_TYPES, TinyNet, busy_net, digits_net, log_net, pair_net

Nets = dict[str, tuple[bytes, dict[str, Any]]]

HERE = Path(__file__).parent
MAX_ROWS = 64
DATATYPES = {
    **{dtype: dtype.replace("float", "fp").upper() for dtype in ONNX_TYPES},
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "string": "BYTES",
}


def echo(dtype: str) -> bytes:
    """An Identity of three numbers a row; the project's own tiny nets lack some of these types."""
    kind = getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    tensors = [helper.make_tensor_value_info(name, kind, ["rows", 3]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "echo", [tensors[0]], [tensors[1]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def tensors_of(told: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": DATATYPES[dtype], "shape": [-1, *shape]}
        for name, (dtype, shape) in told.items()
    ]


def nets() -> Nets:
    """Every net: its graph, and its inputs and outputs as the protocol tells them."""
    tiny: dict[str, TinyNet] = {
        "digits": digits_net(),
        "pair": pair_net(),
        "log": log_net(),
        "busy": busy_net(),
    }
    told = {
        name: (net.graph(), {"inputs": tensors_of(net.inputs), "outputs": tensors_of(net.outputs)})
        for name, net in tiny.items()
    }
    for dtype in DATATYPES:
        sides = {"inputs": tensors_of({"x": (dtype, [3])}), "outputs": tensors_of({"y": (dtype, [3])})}
        told[f"echo-{dtype}"] = (echo(dtype), sides)
    told["a+model"] = told["echo-float32"]  # Triton's python backend starts nothing in a folder with a space
    return told


def triton_config(name: str, told: dict[str, Any]) -> str:
    """A model of the python backend, batched as ours is: whatever waits, up to 64 rows."""

    def side(tensors: list[dict[str, Any]]) -> str:
        return ", ".join(
            f'{{name: "{tensor["name"]}", data_type: {triton_type(tensor["datatype"])}, '
            f"dims: {tensor['shape'][1:]}}}"
            for tensor in tensors
        )

    rows = 4 if name == "busy" else MAX_ROWS
    policy = (
        "default_queue_policy {max_queue_size: 8, allow_timeout_override: true, "
        "default_timeout_microseconds: 60000000}"
        if name == "busy"
        else ""
    )
    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {rows}\n'
        f"input [{side(told['inputs'])}]\noutput [{side(told['outputs'])}]\n"
        f"dynamic_batching {{{policy}}}\ninstance_group [{{kind: KIND_CPU, count: 1}}]\n"
    )


def triton_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def lay_out(folder: Path, nets: Nets) -> None:
    for name, (graph, told) in nets.items():
        plain, triton, mlserver = (folder / peer / name for peer in ("nets", "triton", "mlserver"))
        (triton / "1").mkdir(parents=True)
        plain.mkdir(parents=True)
        mlserver.mkdir(parents=True)
        for room in (plain, triton / "1", mlserver):
            (room / "model.onnx").write_bytes(graph)
        (plain / "net.json").write_text(json.dumps(told))
        (triton / "config.pbtxt").write_text(triton_config(name, told))
        shutil.copy(HERE / "triton_model.py", triton / "1" / "model.py")
        settings = {
            "name": name,
            "implementation": "mlserver_model.OnnxModel",
            "parameters": {"uri": "./model.onnx", "version": "1"},
            "platform": "onnxruntime_onnx",
            "versions": ["1"],
            **told,
        }
        (mlserver / "model-settings.json").write_text(json.dumps(settings))
    shutil.copy(HERE / "mlserver_model.py", folder / "mlserver")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    lay_out(folder, nets())
    good = nets()["digits"]
    lay_out(folder / "unready", {"wrong": (b"no graph", good[1]), "digits": good})
