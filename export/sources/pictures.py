"""Nets that take pictures: how a picture becomes a row, what range rows have, and pixels as the input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import ValidationError

from export.errors import SourceError
from export.sources.declared import Declared
from export.sources.source import Source, SourceOptions
from export.sources.transforms import Pipeline, declared_by, load_callable
from service.contract.framing import Layout, Resize
from service.contract.preprocessing import SCALE, Preprocessing
from service.contract.tensors import TensorSpec


def as_rows(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What the net was trained on, in float64, for uint8 pixels of shape (N, C, …)."""
    ones = [1] * (pixels.ndim - 2)
    by_channel = [np.asarray(values, dtype=np.float64).reshape(-1, *ones) for values in (mean, std)]
    return np.asarray((pixels / 255 - by_channel[0]) / by_channel[1])


def taking_pixels(source: Source) -> Source:
    """The same net with uint8 pixels as its input; raises SourceError if its normalisation is not known."""
    given = source.preprocessing
    if given is None or len(source.inputs) != 1:
        raise SourceError("--inputs uint8 needs a net of one input, and --mean and --std to normalise it")
    if given.layout != "NCHW":
        raise SourceError("--inputs uint8 needs rows in the layout NCHW")
    # As if the scale were 1 / 255, which is what the graph's new input is divided by.
    factor = 255 * given.scale
    given = given.model_copy(
        update={
            "mean": [value / factor for value in given.mean],
            "std": [value / factor for value in given.std],
            "scale": SCALE,
        }
    )
    (spec,) = source.inputs
    pixels = spec.model_copy(update={"dtype": "uint8", "minimum": 0.0, "maximum": 255.0})
    held_out = source.held_out
    if held_out is not None:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (given.mean, given.std))
        held_out = np.rint(255 * (held_out * std + mean)).astype(np.uint8)
    channels = len(given.mean)
    return replace(
        source,
        inputs=[pixels],
        held_out=held_out,
        evaluate=lambda rows: source.evaluate({spec.name: as_rows(rows[spec.name], given.mean, given.std)}),
        preprocessing=given.model_copy(update={"mean": [0.0] * channels, "std": [1 / 255] * channels}),
        pixels=given,
    )


def with_range(specs: list[TensorSpec], preprocessing: Preprocessing | None) -> list[TensorSpec]:
    """Pictures lie in 0…1 before (x − mean) / std, so the row's range follows."""
    if preprocessing is None:
        return specs
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    known = {
        "minimum": min((0 - mean) / std for mean, std in pairs),
        "maximum": max((255 * preprocessing.scale - mean) / std for mean, std in pairs),
        "layout": preprocessing.layout,
    }
    return [specs[0].model_copy(update=known), *specs[1:]]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is known of a source's pictures: what they become, who computes that, and the classes' labels."""

    preprocessing: Preprocessing | None
    pipeline: Pipeline | None
    labels: tuple[str, ...] | None


def pictures_of(options: SourceOptions, row_shape: Sequence[int], said: Declared) -> Pictures:
    """Flags over --preprocessing over what the source itself `said`; raises SourceError."""
    declared, pipeline = said, None
    if options.preprocessing is not None:
        named, pipeline = declared_by(options.preprocessing)
        declared = named.over(said)
    if options.pictures != Declared():
        pipeline = None  # the flags change what that pipeline does
        declared = options.pictures.over(declared)
    if options.compare_with is not None:
        pipeline = load_callable(options.compare_with)
    preprocessing = preprocessing_of(declared, row_shape)
    if preprocessing is None and options.compare_with is not None:
        raise SourceError("--compare-with needs a preprocessing to compare: --mean, --std, --preprocessing …")
    return Pictures(preprocessing=preprocessing, pipeline=pipeline, labels=declared.labels)


def preprocessing_of(declared: Declared, row_shape: Sequence[int]) -> Preprocessing | None:
    """What is declared, complete and fitting the row; None if nothing is; raises SourceError.

    Where `row_shape` is open (−1), a picture still becomes a row of one size: the declared one.
    """
    if replace(declared, words=None) == Declared():
        return None
    if declared.mean is None or declared.std is None:
        raise SourceError("pictures need --mean and --std, per channel, such as 0,0,0 and 1,1,1 for none")
    layout = declared.layout or ("NHWC" if _is_channels_last(row_shape) else "NCHW")
    channels, height, width = _sizes(_stated(row_shape, layout, declared), layout, declared)
    mode = declared.channels or ("L" if channels == 1 else "RGB")
    if (mode == "L") != (channels == 1):
        raise SourceError(f"channels {mode} contradict the input, whose row is {list(row_shape)}")
    if declared.crop is not None and declared.crop != (height, width):
        raise SourceError(
            f"a crop of {'×'.join(map(str, declared.crop))} contradicts the input, whose row is "
            f"{list(row_shape)} in {layout}"
        )
    if not np.isfinite([*declared.mean, *declared.std]).all() or min(declared.std) <= 0:
        raise SourceError("--mean must be finite and --std positive and finite")
    try:
        return Preprocessing(
            mode=mode,
            height=height,
            width=width,
            mean=list(declared.mean),
            std=list(declared.std),
            resize=_resize(declared, height, width),
            background=declared.background,
            fill=declared.fill or (0,),
            orientation=declared.orientation or "exif",
            crop_rounding=declared.crop_rounding or "nearest",
            scale=SCALE if declared.scale is None else declared.scale,
            layout=layout,
        ).complete()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = [*map(str, first["loc"][:1]), str(first["msg"]).removeprefix("Value error, ")]
        raise SourceError(f"the preprocessing makes no sense: {': '.join(named)}") from None


def _is_channels_last(row_shape: Sequence[int]) -> bool:
    return len(row_shape) == 3 and row_shape[0] not in (1, 3) and row_shape[2] in (1, 3)


def _stated(row_shape: Sequence[int], layout: Layout, declared: Declared) -> tuple[int, ...]:
    """The row's shape, with the declared height and width where it is open."""
    if min(row_shape, default=0) >= 0:
        return tuple(row_shape)
    resize = declared.resize
    size = declared.crop or (resize.size if resize is not None and resize.mode != "shorter" else None)
    if size is None:
        raise SourceError(
            f"a picture must become a row of one size, and the row is {list(row_shape)}: say which with "
            "--crop, or with --resize exact:HxW"
        )
    picture = [size[0], size[-1]]
    axes = [0, 1] if layout == "NHWC" else [1, 2]
    stated = list(row_shape)
    for axis, side in zip(axes, picture, strict=True):
        if len(stated) == 3 and stated[axis] < 0:
            stated[axis] = side
    return tuple(stated)


def _sizes(row_shape: Sequence[int], layout: Layout, declared: Declared) -> tuple[int, int, int]:
    """Channels, height and width of the row."""
    row = tuple(row_shape) if layout == "NCHW" else (*row_shape[2:], *row_shape[:2])
    values = (len(declared.mean or ()), len(declared.std or ()))
    if len(row) != 3 or row[0] not in (1, 3) or set(values) != {row[0]}:
        raise SourceError(
            f"--mean and --std need a picture of 1 or 3 channels and a value for each; the row is "
            f"{list(row_shape)}, got {values[0]} and {values[1]} values"
        )
    return row[0], row[1], row[2]


def _resize(declared: Declared, height: int, width: int) -> Resize:
    resize = declared.resize
    if declared.crop_fraction is not None:
        # As timm: a square shorter side is torchvision's, any other its own.
        sides = tuple(math.floor(side / declared.crop_fraction) for side in (height, width))
        resize = Resize(mode="shorter", size=sides[:1] if height == width else sides)
    resize = resize or Resize(mode="exact", size=(height, width))
    try:
        return replace(
            resize,
            interpolation=declared.interpolation or resize.interpolation,
            antialias=resize.antialias if declared.antialias is None else declared.antialias,
        )
    except ValueError as error:
        raise SourceError(f"the resize makes no sense: {error}") from None
