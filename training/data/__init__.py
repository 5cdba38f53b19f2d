"""Data sets: uint8 pictures, split into train and held-out rows once and for all.

`load.py` has the list of names; `sets/` has a file for each kind of data set.
"""

from training.data.facts import DataFacts
from training.data.load import DATA_SETS, FAMILIES, foresee_facts, load_split
from training.data.split import Split, normalize, sample_held_out
from training.data.streamed import Pixels, StreamedPixels

__all__ = [
    "DATA_SETS",
    "FAMILIES",
    "DataFacts",
    "Pixels",
    "Split",
    "StreamedPixels",
    "foresee_facts",
    "load_split",
    "normalize",
    "sample_held_out",
]
