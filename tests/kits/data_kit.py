"""Small data sets in the forms that users bring, and a server that can be made to misbehave."""

import gzip
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.data.sets.published import Published, to_idx


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Levels that no two pictures share."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_folder(
    root: Path, classes: Mapping[str, int], *, shape: tuple[int, ...] = (8, 8), seed: int = 0
) -> Path:
    """A folder with so many PNG pictures of each class, all different."""
    for index, (name, number) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for row, pixels in enumerate(noise(number, *shape, seed=1000 * seed + index)):
            Image.fromarray(pixels).save(root / name / f"{row:03}.png")
    return root


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def idx_files() -> dict[str, bytes]:
    """A set in the form of MNIST: 20 pictures to train on and 10 held out, of 10 classes."""
    return {
        "train-images-idx3-ubyte": to_idx(noise(20, 28, 28, seed=1)),
        "train-labels-idx1-ubyte": to_idx(np.arange(20) % 10),
        "t10k-images-idx3-ubyte": to_idx(noise(10, 28, 28, seed=2)),
        "t10k-labels-idx1-ubyte": to_idx(np.arange(10)),
    }


def sha256(content: bytes) -> str:
    """As in a table of digests."""
    return hashlib.sha256(content).hexdigest()


def pack_tar(files: Mapping[str, bytes], folder: str) -> bytes:
    """The bytes of a .tar.gz with these files in a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def publish_idx(
    files: Mapping[str, bytes], mirrors: tuple[str, ...] = ()
) -> tuple[Published, dict[str, bytes]]:
    """A published set of these files, and what its server has."""
    served = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    published = Published(
        name="tiny-mnist",
        contents={name: sha256(content) for name, content in files.items()},
        downloads={name: sha256(content) for name, content in served.items()},
        mirrors=mirrors,
        folders=("tiny", "MNIST/raw"),
        install="apt install tiny",
        keras="tiny.npz",
        pickles=("tiny-py",),
    )
    return published, served


def levels(pixels: torch.Tensor) -> list[bytes]:
    """Each picture's bytes."""
    return [picture.numpy().tobytes() for picture in pixels]


@dataclass
class Shelf:
    """What a file server has, how it behaves, and what it was asked: (path, Range or None)."""

    url: str
    files: dict[str, bytes]
    knows_ranges: bool = True
    lies_about_ranges: bool = False
    breaks_after: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def shelf(files: Mapping[str, bytes]) -> Iterator[Shelf]:
    """Serve files on this machine; each number in `breaks_after` breaks one answer after so many bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            here.asked.append((self.path, wanted))
            content = here.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and here.knows_ranges else 0
            if first and first >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            if first:
                told = 0 if here.lies_about_ranges else first
                self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            body = content[first:]
            if here.breaks_after:
                body = body[: here.breaks_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Shelf(f"http://127.0.0.1:{server.server_port}/", dict(files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
