"""Are the rows of pictures those of torchvision's, timm's and Hugging Face's own pipelines?

    python -m benchmarks.picture_rows FOLDER [FOLDER …]

Every JPEG and PNG of the folders is decoded once, and goes through each combination of resize, crop,
interpolation and mode twice: by the package's own transforms, and by the contract's implementation of what
they declare. One level of 255 is allowed.

Needs: pip install --no-deps timm torchvision transformers. What is missing is left out.
"""

import importlib
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.common import new_parser
from export.sources.configs import read_config
from export.sources.declared import of_timm
from export.sources.pictures import preprocessing_of
from service.contract.framing import Interpolation, Resize
from service.contract.golden_pictures import row_of
from service.contract.pictures import read_image
from service.contract.preprocessing import Preprocessing
from training.nets.foreign.packages import import_package

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZES: tuple[int | tuple[int, int], ...] = (256, 96, (224, 224), (300, 200))
CROPS: tuple[int | tuple[int, int], ...] = (224, 97, (180, 260))
FILTERS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
MODES: tuple[Literal["RGB", "L"], ...] = ("RGB", "L")
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224},
    "ConvNext": {"size": 224, "crop_pct": 0.875},
    "CLIP": {"size": 224},
    "MobileNetV2": {"size": {"shortest_edge": 256}},
    "EfficientNet": {"size": 224},
    "Levit": {"size": 224},
    "PoolFormer": {"size": 224},
    "DeiT": {"size": 256},
}
Case = tuple[Preprocessing, Callable[[Any], Any]]
"""What is declared, and the package's own pipeline from a Pillow picture to a row."""


def of_torchvision_transforms() -> Iterator[Case]:
    """Resize, CenterCrop, ToTensor and Normalize in every combination."""
    import_package("torchvision:resnet18")
    transforms = importlib.import_module("torchvision.transforms")
    for resize, crop, kind, mode in itertools.product(RESIZES, CROPS, FILTERS, MODES):
        mean, std = (MEAN, STD) if mode == "RGB" else ((0.4,), (0.2,))
        steps = [
            transforms.Resize(resize, transforms.InterpolationMode(kind)),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        height, width = (crop, crop) if isinstance(crop, int) else crop
        rule = Resize(
            mode="shorter" if isinstance(resize, int) else "exact",
            size=(resize,) if isinstance(resize, int) else resize,
            interpolation=kind,
        )
        declared = Preprocessing(
            mode=mode, height=height, width=width, mean=list(mean), std=list(std), resize=rule
        )
        yield declared, transforms.Compose(steps)


def of_timms() -> Iterator[Case]:
    """create_transform for every crop mode and interpolation."""
    import_package("timm:resnet18")
    create = importlib.import_module("timm.data").create_transform
    sizes = ((3, 224, 224), (3, 97, 97), (3, 160, 224))
    modes = ("center", "squash", "border")
    for size, fraction, kind, mode in itertools.product(sizes, (0.875, 0.95, 1.0), FILTERS, modes):
        stated = {"interpolation": kind, "crop_pct": fraction, "crop_mode": mode, "mean": MEAN, "std": STD}
        declared = preprocessing_of(of_timm({"input_size": size, **stated}, "timm"), size)
        assert declared is not None
        yield declared, create(size, is_training=False, **stated)


def of_hugging_faces() -> Iterator[Case]:
    """Image processors, in Pillow's variant, with their filter and another one."""
    transformers = importlib.import_module("transformers")
    for (name, settings), resample in itertools.product(PROCESSORS.items(), (0, 1, 2, 3)):
        stated = {"image_mean": MEAN, "image_std": STD, "resample": resample, **settings}
        processor = getattr(transformers, f"{name}ImageProcessorPil")(**stated)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "preprocessor_config.json")
            path.write_text(json.dumps({**stated, "image_processor_type": f"{name}ImageProcessor"}))
            declared = preprocessing_of(read_config(path), (3, 224, 224))
        assert declared is not None

        def row(image: Any, made: Callable[..., Any] = processor) -> Any:
            return made(image, return_tensors="np")["pixel_values"][0]

        yield declared, row


def levels_apart(case: Case, pictures: list[bytes]) -> float:
    """The maximum difference of both rows over all pictures."""
    declared, transform = case
    maximum = 0.0
    for content in pictures:
        theirs = np.asarray(transform(read_image(content, declared.target(10**8))))
        ours = row_of(content, declared, "float32")
        apart = np.abs(np.subtract(*(declared.levels(row[np.newaxis]) for row in (ours, theirs)))).max()
        maximum = max(maximum, float(apart))
    return maximum


def main() -> int:
    """One line for each package; 1 if any row is further than a level away."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    folders: list[Path] = parser.parse_args().folders
    files = [path for folder in folders for ending in ("jpg", "png") for path in folder.glob(f"*.{ending}")]
    pictures = [path.read_bytes() for path in sorted(files)]
    print("| pipeline | combinations | rows | maximum difference, levels of 255 |\n|---|---:|---:|---:|")
    maximum = 0.0
    makers = {"torchvision": of_torchvision_transforms, "timm": of_timms, "transformers": of_hugging_faces}
    for name, make in makers.items():
        if importlib.util.find_spec(name) is None:
            continue
        apart = [levels_apart(case, pictures) for case in make()]
        print(f"| {name} | {len(apart)} | {len(apart) * len(pictures)} | {max(apart):.3f} |", flush=True)
        maximum = max(maximum, *apart)
    return int(maximum > 1.001)


if __name__ == "__main__":
    sys.exit(main())
