"""A random graph on its way: its tensors, chances, weights and BatchNorms.

In: a seed.  Out: a `Grower`, to which the ops of gauge_fuzz.py add.
"""

import numpy as np

from gauge_kit import Net
from gauge_op_cases import OPSETS

Size = tuple[int, ...]
Tensor = tuple[str, Size]
"""A name, and its sizes without the rows: (C, H, W), (C, L) or (F,)."""

WORN = (
    *(("gamma", 1e-6), ("gamma", 0.0), ("gamma", 30.0), ("var", 0.0), ("var", 1e6), ("mean", 1e4)),
    *(("mean", -300.0), ("beta", -50.0)),
)


class Grower:
    """A graph on its way; `tensors` are what the next op may read, `read` what some op has read."""

    def __init__(self, seed: int, trained: bool = False) -> None:
        random = np.random.default_rng(seed)
        self.net = Net(seed, int(random.choice(OPSETS)))
        self.random = self.net.random
        channels, height, width = random.integers([1, 4, 4], [4, 8, 8]).tolist()
        self.shape: Size = (2 * channels, height, width)
        self.tensors: list[Tensor] = [("x", self.shape)]
        self.read: set[str] = {"x"}
        self.weights: dict[Size, str] = {}
        self.is_positive = bool(random.random() < 0.5)
        self.has_shift = bool(random.random() < 0.8)
        self.trained = trained

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, *choices: object) -> object:
        return choices[int(self.random.integers(len(choices)))]

    def weight(self, *shape: int) -> str:
        """Sometimes one that another op has."""
        if shape not in self.weights or not self.chance(0.2):
            scale = 1 / np.sqrt(max(np.prod(shape[1:]), 1))
            self.weights[shape] = self.net.constant(self.random.normal(size=shape) * scale)
        return self.weights[shape]

    def norm(self, x: str, size: Size) -> Tensor:
        positive = self.is_positive or self.chance(0.3)
        y = self.net.norm(x, size[0], positive=positive, shift=self.has_shift or self.chance(0.2))
        if self.trained and self.chance(0.5):
            self.wear(y.removesuffix(".y"), int(self.random.integers(size[0])))
        return y, size

    def wear(self, norm: str, channel: int) -> None:
        """Give a channel a statistic that training leaves behind."""
        kind, number = self.pick(*WORN)
        self.net.arrays[f"{norm}.{kind}"][channel] = number

    def add(self, outputs: list[Tensor]) -> None:
        self.read |= {name for node in self.net.nodes for name in node.input}
        self.tensors += outputs
