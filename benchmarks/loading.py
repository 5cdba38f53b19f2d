"""How near the trainer's first reading of a folder of JPEGs comes to decoding alone: pictures a second.

    python -m benchmarks.loading --photographs FOLDER --count 20000

The pictures are random crops of the JPEGs in FOLDER (scikit-learn ships two of 640×427, `datasets/images`),
each resized to 500×375 and saved at a quality of 90, in ten classes.  The limits: as many processes as the
trainer has, which decode each file with Pillow and drop it; and which decode and resize it, what a row needs
at least.  The trainer: `--data folder:PATH --data-setting size=SIDE` with an empty cache, up to a split that
could be trained on: files listed, decoded, resized, hashed, summed, written, flushed and read back.  Every
side reads every file, alternating; the files are in the page cache for all.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import cpu_model, new_parser

WIDTH, HEIGHT, QUALITY, CLASSES = 500, 375, 90, 10
PIECE = 32  # files handed to a process at once, as the trainer does


def make_folder(folder: Path, photographs: Path, count: int) -> None:
    """`count` JPEGs below `folder`, no two the same."""
    sources = [Image.open(path).convert("RGB") for path in sorted(photographs.glob("*.jpg"))]
    random = np.random.default_rng(0)
    for index in range(count):
        place = folder / f"class-{index % CLASSES}"
        place.mkdir(exist_ok=True)
        source = sources[index % len(sources)]
        width = int(random.integers(source.width // 2, source.width))
        height = min(width * HEIGHT // WIDTH, source.height)
        left, top = random.integers(source.width - width + 1), random.integers(source.height - height + 1)
        crop = source.crop((int(left), int(top), int(left) + width, int(top) + height))
        crop.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(place / f"{index}.jpg", quality=QUALITY)


def decode(paths: Sequence[Path], side: int | None) -> int:
    """Decode each file, resize it if there is a side, and drop it."""
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            if side is not None:
                picture.resize((side, side), Image.Resampling.BILINEAR)
    return len(paths)


def limit(paths: Sequence[Path], processes: int, side: int | None = None) -> float:
    """Pictures a second of decoding, or of decoding and resizing; starting the processes is not counted."""
    work = partial(decode, side=side)
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(work, [paths[:PIECE]] * processes))
        begun = time.perf_counter()
        pieces = [paths[first : first + PIECE] for first in range(0, len(paths), PIECE)]
        assert sum(pool.map(work, pieces)) == len(paths)
        return len(paths) / (time.perf_counter() - begun)


def trainer(folder: Path, count: int, side: int) -> float:
    """Pictures a second of the trainer's reading, from an empty cache; starting its processes is counted."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRAINING_CACHE"] = cache
        begun = time.perf_counter()
        # Not above: the trainer's processes import this module again, and need no torch.
        from training.data.load import load_split

        split = load_split(f"folder:{folder}", {"size": str(side)})
        seconds = time.perf_counter() - begun
    assert len(split.train_labels) + len(split.held_out_labels) == count
    return count / seconds


def quotient(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' quotients."""
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--photographs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=20_000, help="(default 20000)")
    parser.add_argument("--side", type=int, default=224, help="what each picture becomes (default 224)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    return parser.parse_args()


def main() -> int:
    """Print one line of JSON."""
    options, processes = arguments(), len(os.sched_getaffinity(0))
    took: dict[str, list[float]] = {"decoding": [], "decoding and resizing": [], "trainer": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder, options.photographs, options.count)
        paths = sorted(folder.rglob("*.jpg"))
        for _ in range(options.rounds):
            took["decoding"].append(limit(paths, processes))
            took["decoding and resizing"].append(limit(paths, processes, options.side))
            took["trainer"].append(trainer(folder, options.count, options.side))
    facts = {
        "cpu": cpu_model(),
        "processes": processes,
        "pictures": options.count,
        "side": options.side,
        **{f"{name}, pictures/s": round(statistics.median(each), 1) for name, each in took.items()},
        **{f"trainer ÷ {name}": quotient(took["trainer"], took[name]) for name in list(took)[:2]},
        "load": os.getloadavg()[0],
    }
    print(json.dumps(facts, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
