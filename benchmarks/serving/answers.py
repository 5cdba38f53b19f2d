"""Is an answer right?  Four kinds of answers, found wherever a system puts them.

In: the body of a 200.  Out: True or False.  `lua()` describes the same check for check.lua, which wrk runs.

    Tail      the last 4·K bytes are the K logits, little-endian float32
    Numbers   the list of numbers under a key of a JSON document, or the document itself, nested or not
    Picture   the first label of a JSON document, and its probability
    Same      the body that was sent
"""

import re
from dataclasses import dataclass

import numpy as np
import orjson

# JPEG decoders differ by single grey levels, and so do the answers: 5 % of the probability.
PICTURE_TOLERANCE = 0.05

_LABEL = re.compile(rb'"label"\s*:\s*"([^"]*)"')
_PROBABILITY = re.compile(rb'"probability"\s*:\s*([-+.\deE]+)')


@dataclass(frozen=True, eq=False)
class Tail:
    """Logits as bytes, at the end of the body."""

    logits_k: np.ndarray
    tolerance: float

    def holds(self, body: bytes) -> bool:
        size = 4 * len(self.logits_k)
        if len(body) < size:
            return False
        return _are_near(np.frombuffer(body[-size:], "<f4"), self.logits_k, self.tolerance)

    def lua(self) -> dict[str, object]:
        return {"kind": "tail", "numbers": self.logits_k.tolist(), "tolerance": self.tolerance}


@dataclass(frozen=True, eq=False)
class Numbers:
    """Logits as JSON numbers, under a key."""

    key: str
    logits_k: np.ndarray
    tolerance: float

    def holds(self, body: bytes) -> bool:
        try:
            document = orjson.loads(body)
            if self.key:
                document = document.get("outputs", [document])[0][self.key]
            return _are_near(np.asarray(document, np.float64).ravel(), self.logits_k, self.tolerance)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return False

    def lua(self) -> dict[str, object]:
        return {
            "kind": "numbers",
            "key": self.key,
            "numbers": self.logits_k.tolist(),
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True)
class Picture:
    """The most probable label comes first, with its probability."""

    label: str
    probability: float

    def holds(self, body: bytes) -> bool:
        label, probability = _LABEL.search(body), _PROBABILITY.search(body)
        if label is None or probability is None or label[1].decode() != self.label:
            return False
        return abs(float(probability[1]) - self.probability) <= PICTURE_TOLERANCE * self.probability

    def lua(self) -> dict[str, object]:
        return {
            "kind": "picture",
            "label": self.label,
            "numbers": [self.probability],
            "tolerance": PICTURE_TOLERANCE * self.probability,
        }


@dataclass(frozen=True, eq=False)
class Same:
    """The body of the request, sent back by an echo."""

    body: bytes

    def holds(self, body: bytes) -> bool:
        return body == self.body

    def lua(self) -> dict[str, object]:
        return {"kind": "same", "numbers": [], "tolerance": 0.0}


Expected = Tail | Numbers | Picture | Same


def _are_near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return found.shape == expected.shape and bool((np.abs(found - expected) <= tolerance).all())
