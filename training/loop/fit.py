"""The loop: a net and a split in, one `Epoch` of facts out after each pass over the train half.

    order, augmentation       drawn for a whole epoch, on the CPU; each batch takes its rows of both
    easy rows                 are left out of most epochs, where asked for (easy.py)
    loss                      mean cross-entropy of the batch
    step                      optimize.py, in the number format of precision.py; no step is taken after a
                              non-finite loss (loss_watch.py), which is an error (diagnosis.py)
    after each step           γ is kept positive (batchnorm/), weights are averaged, where asked for
    after the last epoch      BatchNorms are reported on, and recalibrated where asked for
    chance in the net itself  (dropout) is seeded again for each epoch, in torch's own generator
    several processes         share each batch, and each evaluation (distributed/group.py)

Each epoch brings, as its `State`, what a resumed run needs besides the weights that are published.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from training.augment import Plan
from training.batchnorm.report import BatchNormReport, examine
from training.batchnorm.statistics import keep_gamma_positive
from training.data import Split
from training.distributed.group import ALONE, Group
from training.loop.balance import balanced_order
from training.loop.batches import plain_batches, read_batches
from training.loop.chance import seeded_generator
from training.loop.device import initialize_mkl
from training.loop.diagnosis import check_published, describe_origin, diverged
from training.loop.evaluate import cross_entropy, evaluate
from training.loop.facts import EpochFacts, StepFacts
from training.loop.loss_watch import CHECK_EVERY, LossWatch
from training.loop.optimize import l1_norm, schedule, set_learning_rate
from training.loop.partial import Saving, capture_partial, resume_partial
from training.loop.parts import Parts, prepare
from training.loop.published import is_exhausted
from training.loop.state import PartialEpoch, State
from training.nets.weights import hold_frozen_batchnorms
from training.settings.config import FitConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch:
    """Facts, the net to publish, its `metrics`, a state to resume from; all live: save before the next epoch.

    `metrics` are `facts`, unless the best net is kept: then they are those of its epoch.
    """

    facts: EpochFacts
    metrics: EpochFacts
    net: nn.Module
    state: State
    batchnorm: BatchNormReport | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where a run resumes: with the net published after `epochs_done` epochs, or within the next one."""

    epochs_done: int
    state: State
    history: Sequence[EpochFacts] = ()


def fit(
    net: nn.Module,
    split: Split,
    config: FitConfig,
    start: Start | None = None,
    group: Group = ALONE,
    on_step: Callable[[StepFacts], None] | None = None,
    check_every: int = CHECK_EVERY,
    saving: Saving | None = None,
) -> Iterator[Epoch]:
    """Train `net` in place, on the device of `split`; yield after each epoch, in each process of `group`.

    `on_step` is called after each step; its loss and accuracy are at most `check_every` steps old. `saving`
    saves within an epoch. With `early_stop` fewer epochs than `config.epochs` may come. Raises ConfigError
    if the batches do not fit the train half, TrainingError if `start` lacks something, DivergedError at a
    non-finite loss or weight.
    """
    initialize_mkl()
    history = list(start.history) if start else []
    parts = prepare(net, split, config, group, history, check_every)
    partial = None
    if start is not None:
        parts.restore(start.state)
        partial = start.state.partial
    for epoch in range(start.epochs_done if start else 0, config.epochs):
        # Asked before the epoch, so that a run that has ended early and is resumed ends at once.
        if is_exhausted(history, config.early_stop):
            return
        watch = train_epoch(parts, epoch, on_step, saving, partial)
        partial = None
        done = close_epoch(parts, epoch, watch, history)
        history.append(done.facts)
        yield done


def train_epoch(
    parts: Parts,
    epoch: int,
    on_step: Callable[[StepFacts], None] | None,
    saving: Saving | None = None,
    partial: PartialEpoch | None = None,
) -> LossWatch:
    """One pass over the train half, `epoch` counted from 0, or the rest of it after `partial`.

    Returns the losses and right answers of all its steps.
    """
    config, group = parts.config, parts.group
    parts.net.train()
    hold_frozen_batchnorms(parts.net)
    # Dropout draws from torch's global generator, so that is seeded for each epoch: a run that resumes with
    # any epoch draws what it would have drawn without the stop. Each process drops other units.
    torch.manual_seed(seeded_generator(config.seed, group.own_stream(f"net {epoch}")).initial_seed())
    began_with = {name: generator.get_state() for name, generator in parts.generators.items()}
    batches, plan = draw_epoch(parts, epoch)
    watch = LossWatch(parts.num_steps, parts.split.train_labels.device, parts.check_every)
    if partial is not None:
        resume_partial(parts, watch, partial, batches)
    done = watch.num_steps
    shares = [group.share(batch) for batch in batches[done:]]
    reader = group.synchronised(parts.net, read_batches(parts.net, parts.split, shares, plan))
    for index, (rows, labels) in enumerate(reader, done):
        step = epoch * parts.num_steps + index
        loss, stop = forward_step(parts, watch, step, rows, labels, shares[index - done])
        is_saved = saving is not None and saving.is_due(index, parts.num_steps, config.accumulate)
        if is_saved or watch.is_due(index):
            require_finite(parts, watch, epoch, batches, plan)
        backward_step(parts, index, step, loss, stop)
        if saving is not None and is_saved:
            saving.save(parts.published, capture_partial(parts, watch, began_with))
        if on_step is not None:
            on_step(watch.facts(epoch + 1, config.batch_size))
    if parts.easy is not None:
        parts.easy.close(torch.cat(list(batches)), group)
    return watch


def backward_step(parts: Parts, index: int, step: int, loss: Tensor, stop: Tensor) -> None:
    """Add the gradients of `loss`; move the weights after `accumulate` batches, and at the epoch's end."""
    config = parts.config
    first = index - index % config.accumulate
    num_batches = min(config.accumulate, parts.num_steps - first)
    if index == first:
        parts.optimizer.zero_grad()
    if config.l1:
        # Each process adds all of it, and the average over processes is that again.
        loss = loss + config.l1 * l1_norm(parts.net)
    parts.precision.backward(loss if num_batches == 1 else loss / num_batches)
    if index + 1 < first + num_batches:
        return
    parts.precision.step(parts.optimizer, stop, parts.net, config.clip_gradient)
    if config.positive_gamma:
        keep_gamma_positive(parts.net)
    if parts.average is not None:
        parts.average.update(parts.net, step)


def draw_epoch(parts: Parts, epoch: int) -> tuple[Sequence[Tensor], Plan]:
    """Row numbers (batch_size,) of each batch, in a new order, and the augmentation of every row.

    Drawn on the CPU for the whole epoch, so all devices and all processes see the same pictures.
    """
    device, num_rows = parts.split.train_labels.device, len(parts.split.train_labels)
    generator = parts.generators["order"]
    if parts.easy is not None:
        order = parts.easy.draw(generator, (epoch + 1) / parts.config.epochs).to(device)
    elif parts.config.sampling == "balanced":
        order = balanced_order(parts.split.train_labels, generator).to(device)
    else:
        order = torch.randperm(num_rows, generator=generator).to(device)
    plan = parts.augmentation.draw(num_rows, parts.generators["augment"]).to(device)
    batch_size = parts.config.batch_size
    # Whole batches only: a last one of a few rows would give BatchNorm a poor variance.
    return torch.split(order[: parts.num_steps * batch_size], batch_size), plan


def forward_step(
    parts: Parts,
    watch: LossWatch,
    step: int,
    rows: Tensor,
    labels: Tensor,
    numbers: Tensor,
) -> tuple[Tensor, Tensor]:
    """Set the learning rate of `step`, run the net; returns the loss () and the `stop` flag of LossWatch.

    `numbers` (n,) say which rows of the train half these are.
    """
    config = parts.config
    num_steps, warmup_steps = config.epochs * parts.num_steps, config.warmup * parts.num_steps
    rate = schedule(step, num_steps, config.learning_rate, config.schedule, warmup_steps)
    set_learning_rate(parts.optimizer, rate)
    with parts.precision.autocast():
        logits = parts.forward(rows)
    counts = None if parts.easy is None else parts.easy.note(numbers, logits, labels)
    loss = cross_entropy(logits, labels, config.label_smoothing, parts.class_weights, counts)
    loss = parts.group.weigh(loss, len(labels), config.batch_size)
    # Every process notes the loss of the whole batch, so that all of them stop at the same step.
    stop = watch.add(step % parts.num_steps, parts.group.mean(loss.detach()), logits, labels)
    return loss, stop


def require_finite(parts: Parts, watch: LossWatch, epoch: int, batches: Sequence[Tensor], plan: Plan) -> None:
    """Raise DivergedError if a loss so far is NaN or infinite; waits for the device."""
    found = watch.find_non_finite()
    if found is None:
        return
    # No step was taken since, so the same rows through the same weights show where it began.
    ((rows, _),) = read_batches(parts.net, parts.split, [batches[found.index]], plan)
    where = describe_origin(parts.net, rows, parts.precision)
    raise diverged(found, epoch * parts.num_steps, where, parts.config)


def close_epoch(parts: Parts, epoch: int, watch: LossWatch, history: Sequence[EpochFacts]) -> Epoch:
    """Evaluate the net, and, after the last epoch, report on the BatchNorms of what is published."""
    config, evaluated, report = parts.config, parts.evaluated, None
    is_last = epoch + 1 == config.epochs
    if is_last and parts.best is None:
        # Before the evaluation: recalibrated statistics are part of what is published.
        report = examine_batchnorms(parts)
    held_out_loss, held_out_accuracy = evaluate_held_out(parts, evaluated)
    num_steps_done = (epoch + 1) * parts.num_steps
    check_published(evaluated, held_out_loss, num_steps_done - 1)
    facts = EpochFacts(
        epoch=epoch + 1,
        step=num_steps_done,
        learning_rate=parts.optimizer.param_groups[0]["lr"],
        train_loss=watch.mean_loss(),
        train_accuracy=parts.group.total(watch.num_right).item() / (parts.num_steps * config.batch_size),
        held_out_loss=held_out_loss,
        held_out_accuracy=held_out_accuracy,
    )
    metrics = facts if parts.best is None else parts.best.offer(evaluated, facts)
    if report is None and (is_last or is_exhausted([*history, facts], config.early_stop)):
        # That this epoch is the last, or which net is the best, is known only now.
        report = examine_batchnorms(parts)
        if config.recalibrate_bn:
            loss, accuracy = evaluate_held_out(parts, parts.published)
            metrics = replace(metrics, held_out_loss=loss, held_out_accuracy=accuracy)
    return Epoch(
        facts=facts,
        metrics=metrics,
        net=parts.published,
        state=parts.capture(),
        batchnorm=report,
    )


def examine_batchnorms(parts: Parts) -> BatchNormReport | None:
    """Report on the net that is published, and recalibrate it where asked for."""
    plain = partial(plain_batches, parts.published, parts.split, parts.config)
    return examine(parts.published, plain, recalibrate=parts.config.recalibrate_bn > 0)


def evaluate_held_out(parts: Parts, net: nn.Module) -> tuple[float, float]:
    """Mean loss and accuracy of `net` on the held-out half."""
    split = parts.split
    return evaluate(net, split.held_out_pixels, split.held_out_labels, split.facts, parts.group)
