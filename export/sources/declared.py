"""What a source says of its pictures, in one form, whichever way it says it.

In: flags, timm's `pretrained_cfg`, torchvision's `weights.transforms()`, or Ultralytics' metadata; files are
read by configs.py.  Out: a `Declared`, whose missing parts are None.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast, get_args

from export.errors import SourceError
from service.contract.framing import CropRounding, Interpolation, Layout, Resize

LETTERBOX_FILL = 114  # Ultralytics' grey

Task = Literal["classification", "multi-label", "embedding", "spatial"]
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Parts of a preprocessing; `crop` is the row's height and width, `words` says who declared it."""

    words: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    crop_fraction: float | None = None
    crop_rounding: CropRounding | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    channels: Literal["L", "RGB", "BGR"] | None = None
    layout: Layout | None = None
    background: tuple[int, ...] | None = None
    fill: tuple[int, ...] | None = None
    orientation: Literal["exif", "ignored"] | None = None
    labels: tuple[str, ...] | None = field(default=None, compare=False)

    def over(self, other: "Declared") -> "Declared":
        """These parts, and the other's where this has none."""
        return replace(
            other,
            **{f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None},
        )


def read_resize(text: str) -> Declared:
    """`shorter:256`, `exact:224x224`, `longest:640` or `letterbox:640`; raises ValueError."""
    kind, _, sizes = text.partition(":")
    size = tuple(int(side) for side in sizes.split("x"))
    if kind == "letterbox":
        return Declared(
            resize=Resize(mode="longest", size=size, antialias=False), antialias=False, fill=(LETTERBOX_FILL,)
        )
    if kind not in ("exact", "shorter", "longest"):
        raise ValueError(f"expected exact, shorter, longest or letterbox, got {kind!r}")
    return Declared(resize=Resize(mode=cast(Any, kind), size=size))


def of_timm(cfg: Mapping[str, Any], words: str) -> Declared:
    """What timm's `create_transform` makes of a `pretrained_cfg`."""
    _, height, width = cfg.get("input_size") or (3, 224, 224)
    fraction = cfg.get("crop_pct") or 0.875
    mean, std = floats_of(cfg.get("mean")), floats_of(cfg.get("std"))
    sides = (math.floor(height / fraction), math.floor(width / fraction))
    mode = {"squash": "exact", "border": "longest"}.get(cfg.get("crop_mode") or "center", "shorter")
    square = mode == "shorter" and sides[0] == sides[1]
    fill = tuple(round(255 * value) for value in mean) if mode == "longest" and mean else (0,)
    return Declared(
        words=words,
        mean=mean,
        std=std,
        scale=1 / 255,
        resize=Resize(
            mode=cast(Any, mode),
            size=sides[:1] if square else sides,
            interpolation=_interpolation(cfg.get("interpolation") or "bicubic", words),
        ),
        crop=(height, width),
        fill=fill,
    )


def of_torchvision(transform: Any, words: str, labels: Sequence[str] | None = None) -> Declared | None:
    """Of an `ImageClassification` transform; None if it is another one."""
    parts = ("crop_size", "resize_size", "interpolation", "mean", "std")
    if not all(hasattr(transform, part) for part in parts):
        return None
    crop = transform.crop_size
    return Declared(
        words=words,
        mean=floats_of(transform.mean),
        std=floats_of(transform.std),
        scale=1 / 255,
        resize=Resize(
            mode="shorter" if len(transform.resize_size) == 1 else "exact",
            size=tuple(transform.resize_size),
            interpolation=_interpolation(transform.interpolation.value, words),
        ),
        crop=(crop[0], crop[-1]),
        labels=tuple(labels) if labels else None,
    )


def of_ultralytics(metadata: Mapping[str, str]) -> Declared | None:
    """Of the metadata that Ultralytics writes in an ONNX file; None if it is not there."""
    if metadata.get("author") != "Ultralytics" or "imgsz" not in metadata:
        return None
    try:
        sizes, names = ast.literal_eval(metadata["imgsz"]), ast.literal_eval(metadata.get("names", "{}"))
        height, width = (int(side) for side in (sizes if len(sizes) == 2 else (*sizes, *sizes)))
        labels = tuple(str(names[index]) for index in range(len(names)))
    except (ValueError, TypeError, SyntaxError, KeyError) as error:
        raise SourceError(f"Ultralytics' metadata cannot be read: {error}") from None
    is_classifier = metadata.get("task") == "classify"
    resize = (
        Resize(mode="shorter", size=(height,))
        if is_classifier and height == width
        else Resize(mode="longest", size=(height, width), antialias=False)
    )
    return Declared(
        words=f"Ultralytics' metadata, task {metadata.get('task')}",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        scale=1 / 255,
        resize=resize,
        crop=(height, width),
        fill=(0,) if is_classifier else (LETTERBOX_FILL,),
        labels=labels if is_classifier and labels else None,
    )


def _interpolation(name: str, words: str) -> Interpolation:
    if name not in get_args(Interpolation):
        raise SourceError(f"{words}: interpolation {name!r} has no counterpart here")
    return cast(Interpolation, name)


def floats_of(values: Any) -> tuple[float, ...] | None:
    """Values of a config as a tuple."""
    return None if values is None else tuple(float(value) for value in values)
