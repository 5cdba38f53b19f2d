"""Losses and weights that are no numbers, traced to where they began.

In: the net and rows of the step that failed.  Out: a `DivergedError`: the step, the layer, what to try.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.batchnorm.statistics import find_batchnorms
from training.errors import TrainingError
from training.loop.loss_watch import Lost
from training.loop.precision import Precision
from training.settings.config import FitConfig


class DivergedError(TrainingError):
    """The loss, or a weight, is no longer a number; the last good checkpoint is still there."""

    exit_code = 1


def diverged(lost: Lost, first_step: int, where: str, config: FitConfig) -> DivergedError:
    """The error of a step, of an epoch that began with `first_step`; `where` is from `describe_origin`."""
    cures = [f"a learning rate below {config.learning_rate:g}"]
    if not config.clip_gradient:
        cures.append("--clip-gradient 1")
    if config.precision == "float16":
        cures.append("--precision float32")
    step = first_step + lost.index
    return DivergedError(f"the loss became {lost.loss} at step {step}: {where}; try {' or '.join(cures)}")


def describe_origin(net: nn.Module, rows: Tensor, precision: Precision) -> str:
    """Run `rows` once more through `net`, in train mode, and say where the first number is lost."""
    if not rows.isfinite().all():
        return f"the rows of its batch already hold {_lost(rows)}, which is the data's fault"
    for name, parameter in net.named_parameters():
        if not parameter.isfinite().all():
            return f"the step before had left {_lost(parameter)} in {name}"
    answers: list[str] = []
    statistics: list[str] = []
    norms, handles = set(find_batchnorms(net)), []
    for name, module in net.named_modules():
        label = f"{name or 'the net'} ({type(module).__name__})"
        if module in norms:
            handles.append(module.register_forward_pre_hook(_statistics_listener(label, statistics)))
        handles.append(module.register_forward_hook(_answer_listener(label, answers)))
    try:
        with torch.no_grad(), precision.autocast():
            net.train()(rows)
    finally:
        for handle in handles:
            handle.remove()
    if statistics:
        return f"the first statistic that is no number is {statistics[0]}"
    if answers:
        return f"the first layer to answer with no number is {answers[0]}"
    return "every layer still answers with numbers, too large for a loss"


def _statistics_listener(label: str, told: list[str]) -> Callable[..., None]:
    def listen(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0].to(torch.promote_types(arguments[0].dtype, torch.float32))
        variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
        for name, values in (("mean", mean), ("variance", variance)):
            if not values.isfinite().all():
                told.append(f"the batch {name} of {label}, {_lost(values)}")
                return

    return listen


def _answer_listener(label: str, told: list[str]) -> Callable[..., None]:
    def listen(module: nn.Module, arguments: tuple[Any, ...], answer: Any) -> None:
        if isinstance(answer, Tensor) and not answer.isfinite().all():
            told.append(f"{label}, {_lost(answer)}")

    return listen


def _lost(values: Tensor) -> float:
    """The first value that is no number."""
    values = values.detach()
    return values[~values.isfinite()][0].item()


def check_published(net: nn.Module, held_out_loss: float, step: int) -> None:
    """Raise DivergedError if what stands behind `step` is not fit to be published."""
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise DivergedError(
                f"step {step} left {_lost(value)} in {name}, although every loss was a number: "
                "try a smaller learning rate or --clip-gradient 1"
            )
    if not math.isfinite(held_out_loss):
        raise DivergedError(
            f"behind step {step} the held-out loss is {held_out_loss}, although every weight is a number: "
            "try a smaller learning rate or --recalibrate-bn"
        )
