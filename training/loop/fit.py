"""The loop: a net and a split in, one `Epoch` of facts out after each pass over the train half.

    order, augmentation       drawn for a whole epoch, on the CPU; each batch takes its rows of both
    loss                      mean cross-entropy of the batch
    step                      optimize.py, in the number format of precision.py; none is taken behind a loss
                              that is no number (loss_watch.py), which is an error (diagnosis.py)
    behind each step          γ stays positive (batchnorm.py), weights are averaged (ema.py), where asked for
    behind the last epoch     BatchNorms are reported on, and recalibrated where asked for
    chance in the net itself  (dropout) starts anew with each epoch, from torch's own generator
    several processes         share each batch, and each evaluation (distributed/group.py)

What a resumed run needs besides the weights that are published comes with every epoch, as its `State`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from training.augment import choose_augmentation
from training.batchnorm.report import BatchNormReport, examine
from training.batchnorm.statistics import keep_gamma_positive
from training.data import Split
from training.distributed.group import ALONE, Group
from training.loop.batches import count_steps, first_row, plain_batches, read_batches
from training.loop.chance import STREAMS, seeded_generator
from training.loop.device import settle
from training.loop.diagnosis import check_published, describe_origin, diverged
from training.loop.ema import WeightAverage
from training.loop.evaluate import cross_entropy, evaluate
from training.loop.facts import EpochFacts, StepFacts
from training.loop.loss_watch import LossWatch
from training.loop.optimize import build_optimizer, schedule, set_learning_rate
from training.loop.precision import Precision
from training.loop.state import State, capture, restore
from training.settings.config import FitConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch:
    """Facts, the net to publish, and a state to go on from; all live: save them before the next epoch."""

    facts: EpochFacts
    net: nn.Module
    state: State
    batchnorm: BatchNormReport | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where a run goes on: with the published net of epoch `epochs_done`, and this state."""

    epochs_done: int
    state: State


def fit(
    net: nn.Module,
    split: Split,
    config: FitConfig,
    start: Start | None = None,
    group: Group = ALONE,
    on_step: Callable[[StepFacts], None] | None = None,
) -> Iterator[Epoch]:
    """Train `net` in place, on the device of `split`; yield after each epoch, in each process of `group`."""
    settle()
    device, num_steps = split.train_labels.device, count_steps(split, config)
    wrapped = group.wrap(net, first_row(net, split))
    forward = torch.compile(wrapped) if config.compile else wrapped
    optimizer, precision = build_optimizer(net, config), Precision(config.precision, device)
    average = WeightAverage(net, config.ema) if config.ema else None
    generators = {name: seeded_generator(config.seed, name) for name in STREAMS}
    augmentation = choose_augmentation(config.augment, config.data, split.facts)
    if start is not None:
        restore(start.state, net, optimizer, precision, generators)
    for epoch in range(start.epochs_done if start else 0, config.epochs):
        net.train()
        torch.manual_seed(seeded_generator(config.seed, group.own_stream(f"net {epoch}")).initial_seed())
        order = torch.randperm(len(split.train_labels), generator=generators["order"]).to(device)
        plan = augmentation.draw(len(order), generators["augment"]).to(device)
        batches = torch.split(order[: num_steps * config.batch_size], config.batch_size)
        watch = LossWatch(num_steps, device)
        shares = [group.share(batch) for batch in batches]
        reader = group.together(net, read_batches(net, split, shares, plan))
        for index, (rows, labels) in enumerate(reader):
            step = epoch * num_steps + index
            rate = schedule(step, config.epochs * num_steps, config.learning_rate, config.schedule)
            set_learning_rate(optimizer, rate)
            with precision.autocast():
                logits = forward(rows)
            loss = cross_entropy(logits, labels, config.label_smoothing)
            loss = group.weigh(loss, len(labels), config.batch_size)
            stop = watch.add(index, group.mean(loss.detach()), logits, labels)
            if precision.needs_looking or watch.is_due(index):
                lost = watch.find_lost()
                if lost is not None:
                    ((lost_rows, _),) = read_batches(net, split, [batches[lost.index]], plan)
                    where = describe_origin(net, lost_rows, precision)
                    raise diverged(lost, epoch * num_steps, where, config)
            precision.step(optimizer, loss, stop, net, config.clip_gradient)
            if config.positive_gamma:
                keep_gamma_positive(net)
            if average is not None:
                average.update(net, step)
            if on_step is not None:
                on_step(watch.facts(epoch + 1, config.batch_size))
        published, report = average.net if average else net, None
        if epoch + 1 == config.epochs:
            plain = partial(plain_batches, published, split, config)
            report = examine(published, plain, recalibrate=config.recalibrate_bn > 0)
        held_out_loss, held_out_accuracy = evaluate(
            published, split.held_out_pixels, split.held_out_labels, split.facts, group
        )
        check_published(published, held_out_loss, step)
        yield Epoch(
            facts=EpochFacts(
                epoch=epoch + 1,
                step=(epoch + 1) * num_steps,
                learning_rate=rate,
                train_loss=watch.mean_loss(),
                train_accuracy=group.total(watch.num_right).item() / (num_steps * config.batch_size),
                held_out_loss=held_out_loss,
                held_out_accuracy=held_out_accuracy,
            ),
            net=published,
            state=capture(net, published, optimizer, precision, generators),
            batchnorm=report,
        )
