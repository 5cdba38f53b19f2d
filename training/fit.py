"""The loop: a net and a split in, one `Epoch` of facts out after each pass over the train half.

    t = step / num_steps,  w = WARM_UP
    learning rate = peak · t / w                              for t < w
                    peak · ½ (1 + cos π (t − w) / (1 − w))    after
    SGD with Nesterov momentum; weight decay on weights, not on biases or what BatchNorm learns
    care for γ after each step, and for the running statistics at the end, where asked for (batchnorm.py)

The schedule is a function of the step and keeps no state. What a resumed run needs besides the weights is
the optimizer's momenta and the state of each generator; both come with every epoch.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from training.augment import Affine, apply_affine, draw_affine
from training.batchnorm import keep_gamma_positive, recalibrate
from training.config import ConfigError, FitConfig
from training.data import DataFacts, Split, normalize
from training.errors import TrainingError

WARM_UP = 0.25
EVALUATION_ROWS = 500
STREAMS = ("order", "augment")


class DivergedError(TrainingError):
    """The loss is no longer a number; the last good checkpoint is still there."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """Losses are mean cross-entropies; the train half is measured on the way, as augmented."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch:
    """Facts, and what a run resumed here needs; `optimizer` is live: save it before the next epoch."""

    facts: EpochFacts
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where a run begins: after `epochs_done` epochs, with these momenta and generator states."""

    epochs_done: int
    optimizer: dict[str, Any]
    generators: Mapping[str, Tensor]


def fit(net: nn.Module, split: Split, config: FitConfig, start: Start | None = None) -> Iterator[Epoch]:
    """Train `net` in place, on the device of `split`; yield after each epoch."""
    device = split.train_labels.device
    steps_per_epoch = count_steps(split, config)
    optimizer = build_optimizer(net, config)
    generators = {name: seeded_generator(config.seed, name) for name in STREAMS}
    if start is not None:
        restore(optimizer, generators, start)
    for epoch in range(start.epochs_done if start else 0, config.epochs):
        net.train()
        order = torch.randperm(len(split.train_labels), generator=generators["order"]).to(device)
        theta = draw_affine(len(order), Affine(), generators["augment"]).to(device)
        loss_sum, num_right = 0.0, torch.zeros((), dtype=torch.int64, device=device)
        for index in range(steps_per_epoch):
            step = epoch * steps_per_epoch + index
            set_learning_rate(
                optimizer, schedule(step, config.epochs * steps_per_epoch, config.learning_rate)
            )
            rows = order[index * config.batch_size : (index + 1) * config.batch_size]
            pixels, labels = apply_affine(split.train_pixels[rows], theta[rows]), split.train_labels[rows]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = net(normalize(pixels, split.facts))
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += _finite(loss.item(), step, config)
            optimizer.step()
            if config.positive_gamma:
                keep_gamma_positive(net)
            num_right += (logits.argmax(1) == labels).sum()
        num_rows = steps_per_epoch * config.batch_size
        if config.recalibrate_bn and epoch + 1 == config.epochs:
            recalibrate(net, plain_batches(split, config))
        held_out_loss, held_out_accuracy = evaluate(
            net, split.held_out_pixels, split.held_out_labels, split.facts
        )
        yield Epoch(
            facts=EpochFacts(
                epoch=epoch + 1,
                step=(epoch + 1) * steps_per_epoch,
                learning_rate=optimizer.param_groups[0]["lr"],
                train_loss=loss_sum / steps_per_epoch,
                train_accuracy=num_right.item() / num_rows,
                held_out_loss=held_out_loss,
                held_out_accuracy=held_out_accuracy,
            ),
            optimizer=optimizer.state_dict(),
            generators={name: generator.get_state() for name, generator in generators.items()},
        )


def plain_batches(split: Split, config: FitConfig) -> Iterator[Tensor]:
    """Rows of `recalibrate_bn` random train batches, not augmented; none comes twice."""
    generator = seeded_generator(config.seed, "recalibrate")
    order = torch.randperm(len(split.train_labels), generator=generator).to(split.train_labels.device)
    for rows in torch.split(order[: config.recalibrate_bn * config.batch_size], config.batch_size):
        yield normalize(split.train_pixels[rows], split.facts)


def evaluate(net: nn.Module, pixels: Tensor, labels: Tensor, facts: DataFacts) -> tuple[float, float]:
    """Mean loss and accuracy in eval mode, in float32."""
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(normalize(batch, facts)) for batch in torch.split(pixels, EVALUATION_ROWS)])
    loss = functional.cross_entropy(logits, labels).item()
    return loss, (logits.argmax(1) == labels).sum().item() / len(labels)


def schedule(step: int, num_steps: int, peak: float) -> float:
    """One cycle: a straight climb to `peak`, then a cosine down to nearly nothing."""
    t = (step + 0.5) / num_steps
    if t < WARM_UP:
        return peak * t / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * (t - WARM_UP) / (1 - WARM_UP)))


def build_optimizer(net: nn.Module, config: FitConfig) -> torch.optim.SGD:
    """SGD whose weight decay leaves biases, gammas and betas alone: all that has one dimension."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)


def restore(optimizer: torch.optim.Optimizer, generators: Mapping[str, Generator], start: Start) -> None:
    """Take up the momenta and the generator states of a run that stopped."""
    try:
        optimizer.load_state_dict(start.optimizer)
        for name, generator in generators.items():
            generator.set_state(start.generators[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"the checkpoint does not hold what this run needs to go on: {error!r}") from None


def seeded_generator(seed: int, stream: str) -> Generator:
    """An independent source of chance for each use, all from the one seed."""
    digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def count_steps(split: Split, config: FitConfig) -> int:
    """Whole batches only: a last batch of a few rows would give BatchNorm a poor variance."""
    num_rows = len(split.train_labels)
    if config.batch_size > num_rows:
        raise ConfigError(
            f"batch_size must be at most {num_rows}, the rows to train on, got {config.batch_size}"
        )
    num_steps = num_rows // config.batch_size
    if (asked := config.recalibrate_bn) > num_steps:
        raise ConfigError(f"recalibrate_bn must be at most {num_steps}, the batches of an epoch, got {asked}")
    return num_steps


def _finite(loss: float, step: int, config: FitConfig) -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss became {loss} at step {step}; try a learning rate below {config.learning_rate}"
        )
    return loss
