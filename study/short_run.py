"""The cell of nearly every experiment: one net, trained for a number of steps, then measured.

In: its settings, which decide everything.  Out: plain values for JSON.

    SGD with Nesterov momentum 0.9 on the mean cross-entropy, no augmentation, no weight decay unless asked
    for; the learning rate is constant, or one cycle (training/loop/optimize.py); Adam and RMSprop as there

`rows_per_device` plays DistributedDataParallel without SyncBatchNorm, exactly: the batch is cut in equal
parts, each normalised by its own statistics, the gradient is the whole batch's, and the running averages
are those of the first part, as they are those of the first process. SyncBatchNorm computes the statistics
of the whole batch, so to leave the batch whole is to play it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from study.measures import (
    ACCURACIES,
    accuracies,
    count_gammas,
    gradient_norms,
    recalls,
    saturation,
    to_json,
)
from study.nets import Norm, build_study_net
from study.rows import Rows, load_rows, with_class_counts
from training.batchnorm.statistics import find_batchnorms, keep_gamma_positive
from training.loop.chance import seeded_generator
from training.loop.optimize import build_optimizer, schedule, set_learning_rate
from training.nets.variant import ACTIVATIONS, replace_modules
from training.settings.config import FitConfig

MOMENTUM = 0.9
PROBE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """Settings of one run; `gradients_after` and `saturation_after` are steps after which these are measured.

    `class_counts` are the train rows of each class, the largest first; the seed draws which class has which.
    """

    data: str
    num_rows: int
    seed: int
    steps: int
    learning_rate: float
    norm: Norm
    net: str = "plain"
    net_settings: dict[str, Any] = field(default_factory=lambda: {"depth": 8, "width": 8})
    activation: str = "relu"
    optimizer: str = "sgd"
    class_counts: tuple[int, ...] = ()
    batch_size: int = 32
    rows_per_device: int | None = None
    init_scale: float = 1.0
    gamma: float = 1.0
    one_cycle: bool = False
    weight_decay: float = 0.0
    positive_gamma: bool = False
    gradients_after: tuple[int, ...] = ()
    saturation_after: tuple[int, ...] = ()

    def build(self) -> nn.Module:
        """The net as it begins."""
        net = build_study_net(
            self.net,
            self.net_settings,
            self.norm,
            load_rows(self.data, self.num_rows).facts,
            seed=self.seed,
            init_scale=self.init_scale,
        )
        if self.activation != "relu":
            replace_modules(net, (nn.ReLU,), lambda _: ACTIVATIONS[self.activation]())
        for norm in find_batchnorms(net):
            nn.init.constant_(norm.weight, self.gamma)
        return net

    def measure(self) -> dict[str, Any]:
        """Train; a run whose loss is no longer finite ends there, and counts as guessing."""
        rows, net = load_rows(self.data, self.num_rows), self.build()
        ranks: list[int] = []
        if self.class_counts:
            rows, ranks = with_class_counts(rows, self.class_counts, self.seed)
        probe = rows.train_x[:PROBE_ROWS], rows.train_y[:PROBE_ROWS]
        probed: dict[str, dict[str, list[float]]] = {"gradients": {}, "saturation": {}}
        losses: list[float] = []

        def measure_within() -> None:
            if (step := len(losses)) in self.gradients_after:
                probed["gradients"][str(step)] = gradient_norms(net, *probe)
            if step in self.saturation_after:
                probed["saturation"][str(step)] = saturation(net, probe[0])

        measure_within()
        for loss in descend(net, rows, self):
            losses.append(loss)
            measure_within()
        finished = len(losses) == self.steps
        part, guessed = self.rows_per_device or self.batch_size, 1 / rows.num_classes
        found = accuracies(net, rows, part) if finished else dict.fromkeys(ACCURACIES, guessed)
        result = {
            "losses": [to_json(loss) for loss in losses],
            "finished": finished,
            **probed,
            **found,
            **count_gammas(net),
        }
        if ranks:
            by_label = recalls(net, rows) if finished else [guessed] * len(ranks)
            result["recalls"] = [by_label[label] for label in ranks]
        return result


def descend(net: nn.Module, rows: Rows, run: ShortRun) -> Iterator[float]:
    """Train `net` in place; yields each step's loss, and ends early after a non-finite one."""
    config = FitConfig(
        optimizer=run.optimizer,
        learning_rate=run.learning_rate,
        momentum=0.0 if run.optimizer == "rmsprop" else MOMENTUM,
        weight_decay=run.weight_decay,
    )
    optimizer = build_optimizer(net, config)
    net.train()
    for step, batch in enumerate(draw_batches(len(rows.train_y), run)):
        if run.one_cycle:
            set_learning_rate(optimizer, schedule(step, run.steps, run.learning_rate))
        optimizer.zero_grad()
        loss = accumulate_gradients(
            net, rows.train_x[batch], rows.train_y[batch], run.rows_per_device or run.batch_size
        )
        if not math.isfinite(loss):
            return
        optimizer.step()
        if run.positive_gamma:
            keep_gamma_positive(net)
        yield loss


def draw_batches(num_rows: int, run: ShortRun) -> Iterator[Tensor]:
    """Indices of `steps` batches; every pass over the rows is in a new order."""
    generator, left = seeded_generator(run.seed, "order"), torch.empty(0, dtype=torch.int64)
    for _ in range(run.steps):
        if len(left) < run.batch_size:
            left = torch.randperm(num_rows, generator=generator)
        batch, left = left[: run.batch_size], left[run.batch_size :]
        yield batch


def accumulate_gradients(net: nn.Module, x: Tensor, y: Tensor, rows_per_device: int) -> float:
    """Mean loss of the batch, each part normalised by itself; only the first moves the running averages."""
    norms, total = find_batchnorms(net), 0.0
    usual = [norm.momentum for norm in norms]
    parts = list(zip(torch.split(x, rows_per_device), torch.split(y, rows_per_device), strict=True))
    for part_x, part_y in parts:
        loss = cross_entropy(net(part_x), part_y, reduction="sum") / len(y)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        for norm in norms:
            norm.momentum = 0.0
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return total
