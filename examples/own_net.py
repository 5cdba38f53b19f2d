"""A net of your own, from nothing to proved answers: `python examples/own_net.py FOLDER [PORT]`.

Trains a small BatchNorm net on drawn shapes, exports it to FOLDER/models/shapes (folded and proved), serves
it, and compares the service's answers with the net's own in float64.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from foldserve.client import Client

LABELS = ("disc", "square")
SIDE, MEAN, STD = 16, 0.3, 0.4
FOLDSERVE = (sys.executable, "-m", "foldserve")


def make_net() -> nn.Module:
    """The net, untrained: the export calls this too, and then loads the weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, len(LABELS))),
    )


def draw(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (num, SIDE, SIDE), uint8, and which of LABELS each shows."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, num)
    center, radius = rng.uniform(6, 10, (2, num, 1, 1)), rng.uniform(3, 5, (num, 1, 1))
    y, x = np.abs(np.indices((SIDE, SIDE))[:, None] - center)
    is_inside = np.where(classes[:, None, None] == 0, np.hypot(x, y) <= radius, np.maximum(x, y) <= radius)
    return (180 * is_inside + rng.integers(0, 60, is_inside.shape)).astype(np.uint8), classes


def rows_of(pixels: np.ndarray) -> np.ndarray:
    """What the net takes: (num, 1, SIDE, SIDE), normalised, float64."""
    return ((pixels / 255 - MEAN) / STD)[:, None]


def train(net: nn.Module) -> None:
    """100 small batches, a second or two."""
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for step in range(100):
        pixels, classes = draw(32, seed=step)
        logits = net(torch.tensor(rows_of(pixels), dtype=torch.float32))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.tensor(classes)).backward()
        optimizer.step()
    net.eval()


def export(net: nn.Module, folder: Path) -> None:
    """Fold, prove and pack: FOLDER/models/shapes/1."""
    torch.save(net.state_dict(), folder / "shapes.pt")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    pictures = ("--mean", str(MEAN), "--std", str(STD), "--labels", str(folder / "labels.txt"))
    source = ("own_net:make_net", "--weights", str(folder / "shapes.pt"), "--input-shape", f"1,{SIDE},{SIDE}")
    bundle = (*FOLDSERVE, "export", "bundle", *source, *pictures, "--to", str(folder / "models/shapes"))
    subprocess.run(bundle, cwd=Path(__file__).parent, check=True)  # from here `own_net` can be imported


@contextlib.contextmanager
def serving(models: Path, port: str) -> Iterator[Client]:
    """A client of a service that has proved its models."""
    process = subprocess.Popen((*FOLDSERVE, "serve", "--models", str(models), "--port", port))
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            while process.poll() is None and not client.is_ready():
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait()


def main(folder: Path, port: str = "8000") -> None:
    torch.manual_seed(0)
    net = make_net()
    train(net)
    export(net, folder)
    pixels, classes = draw(200, seed=1000)
    rows = rows_of(pixels)
    with torch.no_grad():
        expected = net.double()(torch.tensor(rows)).numpy()
    with serving(folder / "models", port) as client:
        (logits,) = client.infer("shapes", rows).outputs.values()
        predicted = [LABELS.index(found.label) for found in client.predict_all(pixels)]
    print(f"largest difference from the net in float64: {np.abs(logits - expected).max():.1e}")
    print(f"pictures with the net's label: {np.mean(predicted == expected.argmax(1)):.1%}")
    print(f"pictures with the right label: {np.mean(predicted == classes):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:3])
