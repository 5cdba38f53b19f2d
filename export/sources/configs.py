"""What a config file of Hugging Face or timm says of pictures.

In: a `preprocessor_config.json`, or a `config.json` with timm's `pretrained_cfg`.  Out: a `Declared`.

The same keys mean different things to different image processors: `"size": 224` is a square to ViT's, and
the shorter side to CLIP's; ConvNeXT's and PoolFormer's divide it by `crop_pct`, LeViT's multiplies it by
256/224. So only processors whose rows have been compared with ours are read; others may have steps that no
key shows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import SourceError
from export.sources.declared import Declared, floats_of, of_timm
from service.contract.framing import Interpolation, Resize

_PILLOW_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_KEYS = {"image_processor_type", "feature_extractor_type", "image_mean", "do_resize", "do_normalize"}
_WARPED_FROM = 384  # ConvNeXT's: the size from which nothing is cropped
_LEVIT = 256 / 224


@dataclass(frozen=True, kw_only=True)
class _Processor:
    """What an image processor does where its config does not say so.

    Args:
        is_square: what one number as `size` means; None if that cannot be known.
        crop_pct: the fraction that `size` is divided by; None if the processor has none.
    """

    is_square: bool | None = True
    is_cropped: bool = False
    resample: int = 3
    crop_pct: float | None = None


_SHORTER = _Processor(is_square=False, is_cropped=True)
_PROCESSORS = {
    **dict.fromkeys(("Beit", "Blip", "EfficientNet", "Pvt"), _Processor()),
    **dict.fromkeys(("DINOv3ViT", "Segformer", "ViT"), _Processor(resample=2)),
    **dict.fromkeys(("Bit", "CLIP", "ChineseCLIP", "Levit", "MobileViT"), _SHORTER),
    **dict.fromkeys(("MobileNetV1", "MobileNetV2"), _Processor(is_square=False, is_cropped=True, resample=2)),
    "ConvNext": _Processor(is_square=False, crop_pct=224 / 256),
    "DeiT": _Processor(is_cropped=True),
    "PoolFormer": _Processor(is_square=False, is_cropped=True, crop_pct=0.9),
    "Siglip": _Processor(is_square=False),
}
_UNSTATED = _Processor(is_square=None, resample=2)


def read_config(path: Path) -> Declared:
    """What the file says; raises SourceError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from None
    try:
        if isinstance(config, dict) and isinstance(config.get("pretrained_cfg"), dict):
            return of_timm({**config, **config["pretrained_cfg"]}, f"timm's {path.name}")
        if isinstance(config, dict) and _KEYS & config.keys():
            return _of_hugging_face(config, path.name)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise SourceError(f"{path}: says something else than its keys should: {error}") from None
    raise SourceError(
        f"{path}: a config of an unknown kind; expected a Hugging Face preprocessor_config.json, "
        "or timm's config.json with a pretrained_cfg"
    )


def _of_hugging_face(config: Mapping[str, Any], name: str) -> Declared:
    stated = config.get("image_processor_type") or config.get("feature_extractor_type")
    short = _short_name(stated)
    if stated is not None and short not in _PROCESSORS:
        raise SourceError(
            f"{name}: {stated} may have steps of its own; those that are known are {', '.join(_PROCESSORS)}. "
            "State the steps by flags such as --resize and --mean, and prove them by --compare-with"
        )
    if config.get("do_pad"):
        raise SourceError(f"{name}: do_pad has no counterpart here; --resize longest:SIZE and --fill pad")
    processor = _PROCESSORS.get(short, _UNSTATED)
    resize, crop = _resize_and_crop(config, processor, short, name)
    mean, std = _mean_and_std(config, short)
    is_flipped = _or_default(config, "do_flip_channel_order", short == "MobileViT")
    return Declared(
        words=f"Hugging Face {stated or 'preprocessor'} in {name}",
        mean=mean,
        std=std,
        scale=float(_or_default(config, "rescale_factor", 1 / 255))
        if _or_default(config, "do_rescale", True)
        else 1.0,
        resize=resize,
        crop=crop,
        crop_rounding="down",
        channels="BGR" if is_flipped else None,
        background=() if config.get("do_convert_rgb") else None,
    )


def _resize_and_crop(
    config: Mapping[str, Any], processor: _Processor, short: str, name: str
) -> tuple[Resize | None, tuple[int, int] | None]:
    is_cropped = _or_default(config, "do_center_crop", processor.is_cropped)
    kept = _sides(_or_default(config, "crop_size", 224), True, name)
    crop = (kept[0], kept[-1]) if is_cropped else None
    if not _or_default(config, "do_resize", True):
        return None, crop
    if config.get("size") is None:
        raise SourceError(f"{name}: says do_resize, but no size")
    size = _sides(config["size"], processor.is_square, name)
    fraction = config.get("crop_pct", processor.crop_pct)
    if fraction is not None and (processor.crop_pct is None or len(set(size)) > 1):
        raise SourceError(f"{name}: crop_pct has no counterpart here for {short or 'this processor'}'s size")
    if short == "ConvNext" and size[0] >= _WARPED_FROM:
        size = (size[0], size[0])
    elif fraction is not None:
        crop = (size[0], size[0]) if short == "ConvNext" else crop
        size = (int(size[0] / fraction),)
    elif short == "Levit" and len(size) == 1:
        size = (int(_LEVIT * size[0]),)
    number = _or_default(config, "resample", processor.resample)
    if number not in _PILLOW_FILTERS:
        raise SourceError(f"{name}: resample {number} has no counterpart here")
    return (
        Resize(
            mode="shorter" if len(size) == 1 else "exact", size=size, interpolation=_PILLOW_FILTERS[number]
        ),
        crop,
    )


def _mean_and_std(
    config: Mapping[str, Any], short: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """MobileViT's never normalises. EfficientNet's may subtract 1 first, and divide by std once more."""
    mean, std = (_floats(config.get(key)) for key in ("image_mean", "image_std"))
    is_divided_again = short == "EfficientNet" and _or_default(config, "include_top", True)
    again = std if is_divided_again else None
    if short == "MobileViT" or not _or_default(config, "do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("rescale_offset") and mean is not None:
        mean = tuple(value + 1 for value in mean)
    if again is not None and std is not None:
        std = tuple(value * factor for value, factor in zip(std, again, strict=True))
    return mean, std


def _short_name(stated: Any) -> str:
    """`ViT` of ViTImageProcessor, ViTImageProcessorFast, ViTImageProcessorPil and ViTFeatureExtractor."""
    short = str(stated or "")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        short = short.removesuffix(ending)
    return short


def _or_default(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A key's value; the default where it is missing or null."""
    value = config.get(key)
    return default if value is None else value


def _sides(size: Any, is_square: bool | None, name: str) -> tuple[int, ...]:
    """One side, the shorter, or height and width."""
    if isinstance(size, int):
        if is_square is None:
            raise SourceError(
                f"{name}: a size of {size} is a square to some processors, the shorter side to others, and "
                'none is named; write {"height": …, "width": …} or {"shortest_edge": …}'
            )
        return (size, size) if is_square else (size,)
    if isinstance(size, list | tuple):
        return tuple(size)
    if size.keys() == {"shortest_edge"}:
        return (size["shortest_edge"],)
    if size.keys() != {"height", "width"}:
        raise SourceError(f"{name}: a size of {sorted(size)} has no counterpart here")
    return (size["height"], size["width"])


def _floats(values: Any) -> tuple[float, ...] | None:
    """A number stands for three."""
    return floats_of([values] * 3 if isinstance(values, int | float) else values)
