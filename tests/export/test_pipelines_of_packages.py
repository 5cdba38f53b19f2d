"""Rows are those of torchvision's, timm's and OpenCV's own pipelines, within a level of 255.

On foolbox's ImageNet pictures where it is installed, else on drawn ones. Each package that is missing skips.
"""

import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageFilter

from export.sources.configs import read_config
from export.sources.declared import of_timm, of_ultralytics
from export.sources.pictures import preprocessing_of
from extras import NEEDED, PACKAGES
from service.contract.framing import Resize
from service.contract.golden_pictures import row_of
from service.contract.pictures import read_image
from service.contract.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((640, 427), (300, 500), (224, 224), (97, 61), (31, 200))
WITHIN = 1.001  # levels; rows are float32


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    if PACKAGES is not None:
        monkeypatch.syspath_prepend(str(PACKAGES))


@cache
def pictures() -> tuple[bytes, ...]:
    made: list[bytes] = []
    found = importlib.util.find_spec("foolbox")
    if found is not None and found.origin is not None:
        files = sorted((Path(found.origin).parent / "data").glob("imagenet_*"))
        made = [path.read_bytes() for path in files[:6]]  # square ones: crops of others differ too
    chance = np.random.default_rng(0)
    for width, height in SIZES:
        noise = Image.fromarray(chance.integers(0, 256, (height, width, 3)).astype(np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1.2)).save(file := io.BytesIO(), "JPEG", quality=90)
        made.append(file.getvalue())
    return tuple(made)


def imported(name: str) -> Any:
    """`timm:NAME` or `torchvision:NAME`'s package, or a skip."""
    kind = name.partition(":")[0]
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is {NEEDED}")
    from training.nets.foreign.packages import import_package

    import_package(name)
    return importlib.import_module(kind)


def worst_level(how: Preprocessing, transform: Any) -> float:
    worst = 0.0
    for content in pictures():
        row = np.asarray(transform(read_image(content, how.target(10**8))))
        ours, theirs = (how.levels(each[np.newaxis]) for each in (row_of(content, how, "float32"), row))
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_torchvisions_rows(mode, interpolation):
    imported("torchvision:resnet18")
    transforms = importlib.import_module("torchvision.transforms")
    mean, std = (MEAN, STD) if mode == "RGB" else ((0.4,), (0.2,))
    for resize in (256, (224, 224), (300, 200)):
        for crop in (224, (180, 260)):
            theirs = transforms.Compose(
                [
                    transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
                    transforms.CenterCrop(crop),
                    transforms.ToTensor(),
                    transforms.Normalize(mean, std),
                ]
            )
            sides = (crop, crop) if isinstance(crop, int) else crop
            size = (resize,) if isinstance(resize, int) else resize
            rule = "shorter" if isinstance(resize, int) else "exact"
            how = Preprocessing(
                mode=mode,
                height=sides[0],
                width=sides[1],
                mean=list(mean),
                std=list(std),
                resize=Resize(mode=rule, size=size, interpolation=interpolation),
            )
            assert worst_level(how, theirs) <= WITHIN, (resize, crop)


def test_torchvisions_other_filter_is_not_within_a_level():
    """The negative control."""
    imported("torchvision:resnet18")
    transforms = importlib.import_module("torchvision.transforms")
    theirs = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
    how = Preprocessing(
        mode="RGB",
        height=64,
        width=64,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        resize=Resize(mode="exact", size=(64, 64), interpolation="bicubic"),
    )
    assert worst_level(how, theirs) > WITHIN


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_timms_rows(interpolation, crop_mode):
    imported("timm:resnet18")
    data = importlib.import_module("timm.data")
    for size in ((3, 224, 224), (3, 160, 224)):
        for fraction in (0.875, 1.0):
            said = {
                "interpolation": interpolation,
                "crop_pct": fraction,
                "crop_mode": crop_mode,
                "mean": MEAN,
                "std": STD,
            }
            theirs = data.create_transform(size, is_training=False, **said)
            how = preprocessing_of(of_timm({"input_size": size, **said}, "timm"), size)
            assert worst_level(how, theirs) <= WITHIN, (size, fraction)


@pytest.mark.parametrize("sides", [(640, 640), (320, 416), (224, 224)])
def test_the_letterbox_is_opencvs(sides):
    cv2 = pytest.importorskip("cv2", reason="pip install --no-deps opencv-python-headless")
    metadata = {"author": "Ultralytics", "imgsz": str(list(sides)), "names": "{0: 'a'}", "task": "detect"}
    how = preprocessing_of(of_ultralytics(metadata), (3, *sides))

    def letterbox(image: Image.Image) -> np.ndarray:
        levels = np.asarray(image)
        ratio = min(side / size for side, size in zip(sides, levels.shape, strict=False))
        height, width = (max(1, round(size * ratio)) for size in levels.shape[:2])
        if levels.shape[:2] != (height, width):
            levels = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
        top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
        edges = (top, sides[0] - height - top, left, sides[1] - width - left)
        levels = cv2.copyMakeBorder(levels, *edges, cv2.BORDER_CONSTANT, value=(114, 114, 114))
        return (levels / 255).transpose(2, 0, 1)

    assert worst_level(how, letterbox) <= WITHIN


STATED = {"image_mean": MEAN, "image_std": STD, "do_resize": True, "do_normalize": True}


@pytest.mark.parametrize(
    ("processor", "settings", "side"),
    [
        ("ViT", {"size": {"height": 224, "width": 224}}, 224),
        ("ViT", {"size": 96}, 96),
        ("ConvNext", {"size": 224, "crop_pct": 0.875}, 224),  # as microsoft/resnet-50 writes it
        ("ConvNext", {"size": {"shortest_edge": 384}}, 384),
        ("CLIP", {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3}, 224),
        ("MobileNetV2", {"size": {"shortest_edge": 256}}, 224),
        ("MobileViT", {"size": {"shortest_edge": 288}, "crop_size": 256, "resample": 2}, 256),
        ("EfficientNet", {"size": 224, "resample": 0}, 224),
        ("EfficientNet", {"size": 224, "rescale_factor": 1 / 127.5, "rescale_offset": True}, 224),
        ("EfficientNet", {"size": 224, "include_top": False, "do_normalize": False}, 224),
        ("Levit", {"size": 224}, 224),
        ("PoolFormer", {"size": 224, "crop_pct": 0.95}, 224),
        ("DeiT", {"size": 256}, 224),
        *((name, {"size": {"height": 64, "width": 64}}, 64) for name in ("Beit", "Blip", "Pvt", "Siglip")),
        ("Segformer", {"size": 64, "do_rescale": False}, 64),
        *((name, {"size": {"shortest_edge": 231}}, 224) for name in ("Bit", "ChineseCLIP", "MobileNetV1")),
    ],
)
def test_hugging_faces_rows(tmp_path, processor, settings, side):
    """Stated as configs of its models do; without Pil in the name, torchvision would resize tensors."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    name = f"{processor}ImageProcessor"
    theirs = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    made = theirs(**{**STATED, **settings})
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**STATED, **settings, "image_processor_type": name}))
    how = preprocessing_of(read_config(path), (3, side, side))
    assert worst_level(how, lambda image: made(image, return_tensors="np")["pixel_values"][0]) <= WITHIN


def test_metadata_that_ultralytics_writes_is_read(tmp_path):
    """As its exporter writes them: text for text."""
    model = onnx.ModelProto()
    said = {
        "description": "Ultralytics YOLO11n-cls model",
        "author": "Ultralytics",
        "date": "2026-01-01T00:00:00",
        "version": "8.4.0",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "stride": "1",
        "task": "classify",
        "batch": "1",
        "imgsz": "[224, 224]",
        "names": "{0: 'tench', 1: \"jack-o'-lantern\"}",
        "args": "{'batch': 1, 'half': False}",
        "channels": "3",
        "end2end": "False",
    }
    onnx.helper.set_model_props(model, said)
    found = of_ultralytics({entry.key: entry.value for entry in model.metadata_props})
    assert found.labels == ("tench", "jack-o'-lantern")
    assert found.resize == Resize(mode="shorter", size=(224,))
