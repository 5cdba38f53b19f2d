"""Each command of the README's first block and of the tutorials runs, in order, but for installing."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw

from extras import NEEDED, PACKAGES
from file_kit import model, node, norm, norm_arrays, value, weights
from service_kit import ROOT, Server, serving

NOT_RUN = ("python3 -m venv ", "pip install ", "python -m tf2onnx.convert ", "docker ", "kubectl ")
PORT = "http://127.0.0.1:8000"


def shapes(folder: Path) -> None:
    """Three classes of thirty pictures each."""
    for number in range(90):
        picture = Image.new("RGB", (60 + number % 30, 90 - number % 30), (number, 20, 40))
        box = (20, 15, 50, 45)
        draw = ImageDraw.Draw(picture)
        name = ("circle", "square", "line")[number % 3]
        {"circle": draw.ellipse, "square": draw.rectangle, "line": draw.line}[name](box, fill=(200, 220, 180))
        (folder / "shapes" / name).mkdir(parents=True, exist_ok=True)
        picture.save(folder / "shapes" / name / f"{1 + number // 3}.jpg")


def timm_weights(folder: Path) -> None:
    """As timm makes them at random: the file of a pretrained net is not at hand."""
    if PACKAGES is None:
        pytest.skip(NEEDED)
    photo(folder)
    code = (
        "import torch\n"
        "from training.nets.foreign.packages import import_package\n"
        "net = import_package('timm:mobilenetv2_100').create_model('mobilenetv2_100')\n"
        "torch.save(net.state_dict(), 'mobilenet.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), check=True)


def classifier(folder: Path, shape: list[str | int], name: str = "classifier", num_labels: int = 3) -> None:
    """What an exporter wrote: sizes open, or channels last as tf2onnx leaves them; and three labels."""
    photo(folder)
    (folder / "labels.txt").write_text("cat\ndog\nbird\n")
    is_nhwc = shape[-1] == 3
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2])] if is_nhwc else []
    conv = node("Conv", "t w" if is_nhwc else "x w", "h", strides=[2, 2])
    nodes += [conv, norm("h", "n"), node("Relu", "n", "r")]
    nodes += [node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "f"), node("Gemm", "f d", "y")]
    arrays = {"w": weights(4, 3, 3, 3), **norm_arrays(4), "d": weights(4, num_labels)}
    graph = model(nodes, arrays, {"x": shape}, [value("y", ["N", num_labels])], opset=17)
    onnx.save(graph, folder / f"{name}.onnx")


def photo(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")


FILES: dict[str, Callable[[Path], None]] = {
    "pictures": shapes,
    "timm": timm_weights,
    "keras": lambda folder: classifier(folder, ["N", 32, 32, 3]),
    "onnx": lambda folder: classifier(folder, ["N", 3, "H", "W"]),
    "README": lambda folder: classifier(folder, ["N", 3, 224, 224], "resnet", 1000),
}
"""What a reader has before the first command."""


def environment() -> dict[str, str]:
    path = [str(ROOT), *([str(PACKAGES)] if PACKAGES else [])]
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path),
    }


def commands(page: str) -> Iterator[str]:
    """The commands of a page's blocks, of the README's first, continued lines joined."""
    path = ROOT / "README.md" if page == "README" else ROOT / "docs/tutorials" / f"{page}.md"
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks[:1] if page == "README" else blocks:
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("page", FILES)
def test_a_tutorial_can_be_followed(page: str, tmp_path: Path) -> None:
    FILES[page](tmp_path)
    with contextlib.ExitStack() as until_the_end:
        server: Server | None = None
        for command in commands(page):
            if command.startswith(NOT_RUN):
                continue
            if command == "foldserve serve --models models":
                server = until_the_end.enter_context(serving(tmp_path / "models"))
                continue
            if PORT in command:
                assert server is not None, f"{command}: nothing is served yet"
                command = command.replace(PORT, server.url)
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert server is not None


def test_every_tutorial_is_followed() -> None:
    assert {path.stem for path in (ROOT / "docs/tutorials").glob("*.md")} - {"kubernetes"} == set(FILES) - {
        "README"
    }
