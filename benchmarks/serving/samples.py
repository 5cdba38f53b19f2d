"""The inputs of every system and their right answers: 16 rows and 16 pictures, all distinct.

In: a bundle.  Out: `Samples`.

Rows are golden rows of the bundle (except constant ones, whose JSON is short), with the unfolded net's
answers and the bundle's tolerance.  Pictures are random soft blobs as JPEG; their answers are computed
here, one at a time, with the code that the peers use.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers.net import Net
from benchmarks.serving.answers import PICTURE_TOLERANCE
from service.contract.bundle import open_bundle

NUM_SAMPLES = 16
DISTINCT_BY = 4  # times the tolerance
MIN_VALUES = 16
MAX_DRAWN = 1000


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Rows (N, …) with answers (N, K) within `tolerance`; JPEGs with their label and its probability."""

    input_name: str
    rows: np.ndarray
    answers: np.ndarray
    tolerance: float
    pictures: list[bytes]
    labels: list[str]
    probabilities: list[float]


def read_samples(bundle_folder: Path) -> Samples:
    """Read the samples of a bundle; ValueError if its answers are too similar to detect mixed-up rows."""
    bundle = open_bundle(bundle_folder)
    manifest = bundle.manifest
    (given,), (asked,) = manifest.inputs, manifest.outputs
    answers, tolerance = bundle.golden.outputs[asked.name], manifest.tolerances[asked.name].max_abs
    rows = bundle.golden.inputs[given.name]
    varied = np.array([index for index, row in enumerate(rows) if len(np.unique(row)) >= MIN_VALUES])
    chosen = varied[choose_distinct(answers[varied], DISTINCT_BY * tolerance)]
    pictures, labels, probabilities = _draw_pictures(Net(bundle_folder, threads=1))
    return Samples(
        input_name=given.name,
        rows=rows[chosen],
        answers=answers[chosen],
        tolerance=tolerance,
        pictures=pictures,
        labels=labels,
        probabilities=probabilities,
    )


def choose_distinct(answers: np.ndarray, distance: float) -> list[int]:
    """The first rows, at most NUM_SAMPLES, whose answers differ pairwise by more than `distance`."""
    chosen: list[int] = []
    for index, answer in enumerate(answers):
        if all(np.abs(answer - answers[other]).max() > distance for other in chosen):
            chosen.append(index)
    if len(chosen) < 2:
        raise ValueError("the golden answers are all alike: a mixed-up row would not be detected")
    return chosen[:NUM_SAMPLES]


def _draw_pictures(net: Net) -> tuple[list[bytes], list[str], list[float]]:
    generator = np.random.default_rng(0)
    found: list[tuple[bytes, str, float]] = []
    for _ in range(MAX_DRAWN):
        picture = _picture(generator, net.row_shape)
        best = net.predictions(net.run(net.row_of(picture))[0])["predictions"][0]
        label, probability = best["label"], best["probability"]
        if not any(
            label == other
            and abs(probability - its) < DISTINCT_BY * PICTURE_TOLERANCE * max(probability, its)
            for _, other, its in found
        ):
            found.append((picture, label, probability))
        if len(found) == NUM_SAMPLES:
            break
    if len(found) < 2:
        raise ValueError("the net gives every picture the same answer: a mixed-up one would not be detected")
    pictures, labels, probabilities = zip(*found, strict=True)
    return list(pictures), list(labels), list(probabilities)


def _picture(generator: np.random.Generator, row_shape: list[int]) -> bytes:
    """A JPEG of soft blobs with noise: of the net's own size if that is small, otherwise 500 × 375."""
    channels, height, width = row_shape
    if height > 64:
        height, width = 375, 500
    num_blobs = generator.integers(2, 9, 2)
    blobs = generator.integers(0, 256, (*num_blobs, channels), np.uint8)
    image = Image.fromarray(blobs.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    grain = generator.normal(0, 12, (height, width, channels)).squeeze()
    pixels = np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
