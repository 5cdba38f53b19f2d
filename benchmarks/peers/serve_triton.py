"""Triton: the C++ server of nvidia-pytriton, alone, with a Python model that calls ONNX Runtime.

Settings, and why:
- the Python backend, because PyPI's package has no other; the C++ server handles HTTP, queue and batches.
- dynamic batching of up to 64 rows without a delay: rows that arrive while a batch runs form the next one.
- one instance with all of ONNX Runtime's threads; as many HTTP threads as cores.
- no gRPC, no metrics, no request log.

Pictures are sent as binary BYTES tensors, to a separate model that decodes them.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton
from net import MAX_ROWS, Net, arguments

HERE = Path(__file__).parent
CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_rows}
input [{{ name: "{given}", data_type: {given_type}, dims: {given_dims} }}]
output [{{ name: "{asked}", data_type: {asked_type}, dims: {asked_dims} }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [{{ count: 1, kind: KIND_CPU }}]
"""


def write_models(net: Net, folder: Path) -> None:
    """Write Triton's folder of models."""
    tensors = {
        "net": {
            "given": net.input,
            "given_type": "TYPE_FP32",
            "given_dims": net.row_shape,
            "asked": net.output,
            "asked_type": "TYPE_FP32",
            "asked_dims": [net.num_classes],
        },
        "picture": {
            "given": "file",
            "given_type": "TYPE_STRING",
            "given_dims": [1],
            "asked": "predictions",
            "asked_type": "TYPE_STRING",
            "asked_dims": [1],
        },
    }
    for name, facts in tensors.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").symlink_to(HERE / "triton_model.py")
        (folder / name / "1" / "net.py").symlink_to(HERE / "net.py")
        config = CONFIG.format(name=name, max_rows=MAX_ROWS, **facts)
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")


def write_backend(server: Path, folder: Path) -> None:
    """Copy the Python backend, with the stub for this Python version."""
    shutil.copytree(server / "backends" / "python", folder / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    (folder / "python" / stub.name).symlink_to(stub)


if __name__ == "__main__":
    options = arguments()
    scratch = Path(tempfile.mkdtemp(prefix="triton_"))
    server = Path(pytriton.__file__).parent / "tritonserver"
    packages = server.parents[1]
    write_models(Net(options.bundle, threads=1), scratch / "models")
    write_backend(server, scratch / "backends")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PEER_BUNDLE": str(options.bundle),
        "PEER_THREADS": str(options.threads),
    }
    flags = [
        f"--model-repository={scratch / 'models'}",
        f"--backend-directory={scratch / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={options.port}",
        f"--http-thread-count={options.threads}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--log-verbose=0",
    ]
    program = str(server / "bin" / "tritonserver")
    os.execve(program, [program, *flags], environment)
