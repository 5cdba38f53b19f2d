"""The measured cases: nets, sizes of pictures and batches, and random pictures to match.

In: the device's type, quick or not.  Out: `Case`s; a case gives its net and its data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.resnets import resnet18, resnet50
from training import nets
from training.data import DataFacts, Split
from training.loop.chance import seeded_generator
from training.loop.device import place
from training.settings.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """A net on pictures of `shape`; a round is `num_steps` batches of `batch_size`."""

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    num_steps: int

    @property
    def facts(self) -> DataFacts:
        """The facts of pictures with uniformly distributed values."""
        channels = self.shape[0]
        return DataFacts(
            name="synthetic",
            labels=[str(label) for label in range(self.num_classes)],
            input_shape=self.shape,
            mode="L" if channels == 1 else "RGB",
            mean=[0.5] * channels,
            std=[0.29] * channels,
        )

    def build_net(self, device: torch.device) -> nn.Module:
        """Build the net on `device`, with the same weights each time."""
        net = BUILDERS[self.name](self)
        nets.initialize(net, seeded_generator(0, "weights"))
        return place(net, device)

    def make_split(self, device: torch.device) -> Split:
        """Random noise on `device`: nothing can be learnt from it, but it costs the same time as pictures."""
        generator = torch.Generator().manual_seed(0)
        num_rows, num_held_out = self.batch_size * self.num_steps, 8
        pixels = torch.randint(
            256, (num_rows + num_held_out, *self.shape), dtype=torch.uint8, generator=generator
        )
        labels = torch.randint(self.num_classes, (len(pixels),), generator=generator)
        return Split(
            facts=self.facts,
            train_pixels=pixels[:num_rows],
            train_labels=labels[:num_rows],
            held_out_pixels=pixels[num_rows:],
            held_out_labels=labels[num_rows:],
        ).to(device)

    def config(self, num_epochs: int) -> FitConfig:
        """The settings of both sides; the small learning rate keeps the weights from diverging on noise."""
        return FitConfig(
            data="synthetic",
            augment="none",
            epochs=num_epochs,
            batch_size=self.batch_size,
            learning_rate=0.01,
            weight_decay=5e-4,
        )


def _ours(case: Case) -> nn.Module:
    return nets.build_net(case.name, nets.settings_for(case.name, case.facts))


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "small-cnn": _ours,
    "resnet18": lambda case: resnet18(case.shape[1], case.num_classes),
    "resnet50": lambda case: resnet50(case.shape[1], case.num_classes),
}


def choose_cases(device_type: str, *, quick: bool) -> list[Case]:
    """The cases of a device; a round takes at least a second, so that its steps dominate."""
    if device_type == "cuda":
        sizes = ((1024, 50), (512, 20), (64, 8)) if quick else ((1024, 200), (512, 100), (128, 32))
        side = 224
    else:
        sizes = ((64, 200), (16, 6), (8, 4)) if quick else ((64, 400), (64, 16), (16, 4))
        side = 64 if quick else 224
    (small, small_steps), (middle, middle_steps), (large, large_steps) = sizes
    return [
        Case(name="small-cnn", shape=(1, 28, 28), num_classes=10, batch_size=small, num_steps=small_steps),
        Case(name="resnet18", shape=(3, 32, 32), num_classes=10, batch_size=middle, num_steps=middle_steps),
        Case(
            name="resnet50", shape=(3, side, side), num_classes=1000, batch_size=large, num_steps=large_steps
        ),
    ]
