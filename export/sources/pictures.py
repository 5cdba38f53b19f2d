"""Nets that take pictures: how a picture becomes a row, what range rows have, and pixels as the input."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.errors import SourceError
from export.sources.source import Source, SourceOptions
from service.contract.manifest import TensorSpec
from service.contract.preprocessing import Preprocessing


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
        "maximum": max((1 - mean) / std for mean, std in pairs),
        "layout": "NCHW",
    }
    return [specs[0].model_copy(update=known), *specs[1:]]


def preprocessing_of(options: SourceOptions, row_shape: Sequence[int]) -> Preprocessing | None:
    if options.mean is None or options.std is None:
        return None
    if (
        len(row_shape) != 3
        or row_shape[0] not in (1, 3)
        or {len(options.mean), len(options.std)} != {row_shape[0]}
    ):
        raise SourceError(
            f"--mean and --std need a picture of 1 or 3 channels and a value for each; the row is "
            f"{list(row_shape)}, got {len(options.mean)} and {len(options.std)} values"
        )
    channels, height, width = row_shape
    mode = "L" if channels == 1 else "RGB"
    if not np.isfinite([*options.mean, *options.std]).all() or min(options.std) <= 0:
        raise SourceError("--mean must be finite and --std positive and finite")
    return Preprocessing.model_validate(
        {"mode": mode, "height": height, "width": width, "mean": list(options.mean), "std": list(options.std)}
    )
