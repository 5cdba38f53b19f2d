"""What a source says of its pictures, in one form, whichever way it says it.

In: flags, timm's `pretrained_cfg`, torchvision's `weights.transforms()`, a Hugging Face
`preprocessor_config.json`, or Ultralytics' metadata.  Out: a `Declared`, whose missing parts are None.
"""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from export.errors import SourceError
from service.contract.framing import Interpolation, Layout, Resize

LETTERBOX_FILL = 114  # Ultralytics' grey
_PILLOW_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_HF_KEYS = {"image_processor_type", "feature_extractor_type", "image_mean", "do_resize", "do_normalize"}

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
    mean, std = _floats(cfg.get("mean")), _floats(cfg.get("std"))
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
        mean=_floats(transform.mean),
        std=_floats(transform.std),
        scale=1 / 255,
        resize=Resize(
            mode="shorter" if len(transform.resize_size) == 1 else "exact",
            size=tuple(transform.resize_size),
            interpolation=_interpolation(transform.interpolation.value, words),
        ),
        crop=(crop[0], crop[-1]),
        labels=tuple(labels) if labels else None,
    )


def read_config(path: Path) -> Declared:
    """A Hugging Face `preprocessor_config.json`, or a `config.json` of timm; raises SourceError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from None
    try:
        if isinstance(config, dict) and isinstance(config.get("pretrained_cfg"), dict):
            return of_timm({**config, **config["pretrained_cfg"]}, f"timm's {path.name}")
        if isinstance(config, dict) and _HF_KEYS & config.keys():
            return _of_hugging_face(config, path.name)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"{path}: says something else than its keys should: {error}") from None
    raise SourceError(
        f"{path}: a config of an unknown kind; expected a Hugging Face preprocessor_config.json, "
        "or timm's config.json with a pretrained_cfg"
    )


def _of_hugging_face(config: Mapping[str, Any], name: str) -> Declared:
    words = f"Hugging Face {config.get('image_processor_type', 'preprocessor')} in {name}"
    if config.get("do_pad") or config.get("rescale_offset"):
        raise SourceError(f"{name}: do_pad and rescale_offset have no counterpart here")
    size, crop = _hf_size(config.get("size")), _hf_size(config.get("crop_size"))
    resize = None
    if config.get("do_resize", True) and size is not None:
        fraction = config.get("crop_pct")
        if fraction and len(size) == 1 and size[0] < 384:  # ConvNeXt: larger ones are not cropped
            crop, size = crop or (size[0], size[0]), (int(size[0] / fraction),)
        elif fraction and len(size) == 1:
            size = (size[0], size[0])
        filter_number = config.get("resample", 2)
        if filter_number not in _PILLOW_FILTERS:
            raise SourceError(f"{name}: resample {filter_number} has no counterpart here")
        resize = Resize(
            mode="shorter" if len(size) == 1 else "exact",
            size=size,
            interpolation=_PILLOW_FILTERS[filter_number],
        )
    is_cropped = crop is not None and config.get("do_center_crop", "crop_pct" in config)
    is_normalised = config.get("do_normalize", True)
    return Declared(
        words=words,
        mean=_floats(config.get("image_mean")) if is_normalised else (0.0, 0.0, 0.0),
        std=_floats(config.get("image_std")) if is_normalised else (1.0, 1.0, 1.0),
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        resize=resize,
        crop=(crop[0], crop[-1]) if is_cropped and crop else None,
        channels="BGR" if config.get("do_flip_channel_order") else None,
    )


def _hf_size(size: Any) -> tuple[int, ...] | None:
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    if isinstance(size, list | tuple):
        return tuple(size)
    if "shortest_edge" in size:
        return (size["shortest_edge"],)
    return (size["height"], size["width"])


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
    if name not in _PILLOW_FILTERS.values():
        raise SourceError(f"{words}: interpolation {name!r} has no counterpart here")
    return cast(Interpolation, name)


def _floats(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
