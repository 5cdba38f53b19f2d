"""NaN or infinity in losses and weights, traced to where it began.

In: the net and rows of the step that failed.  Out: a `DivergedError`: the step, the layer, what to try.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.batchnorm.statistics import find_batchnorms
from training.errors import TrainingError
from training.loop.loss_watch import NonFinite
from training.loop.precision import Precision
from training.nets.weights import hold_frozen_batchnorms
from training.settings.config import FitConfig


class DivergedError(TrainingError):
    """The loss, or a weight, is NaN or infinite; the last good checkpoint is still there."""

    exit_code = 1


def diverged(found: NonFinite, first_step: int, where: str, config: FitConfig) -> DivergedError:
    """The error for a step of an epoch that began with `first_step`; `where` is from `describe_origin`."""
    # Only what the user has not set already is worth a try.
    cures = [f"a learning rate below {config.learning_rate:g}"]
    if not config.clip_gradient:
        cures.append("--clip-gradient 1")
    if config.precision == "float16":
        cures.append("--precision float32")
    step = first_step + found.index
    return DivergedError(f"the loss became {found.loss} at step {step}: {where}; try {' or '.join(cures)}")


def describe_origin(net: nn.Module, rows: Tensor, precision: Precision) -> str:
    """Run `rows` (N, C, H, W) through `net` again, in train mode; one clause: where NaN or infinity begins.

    The order of the checks is that of causes: the rows, the weights, a BatchNorm's statistics, an output.
    """
    if not rows.isfinite().all():
        return f"the rows of its batch already hold {_non_finite(rows)}, so the cause is in the data"
    for name, parameter in net.named_parameters():
        if not parameter.isfinite().all():
            return f"the step before left {_non_finite(parameter)} in {name}"
    outputs: list[str] = []
    statistics: list[str] = []
    norms, handles = set(find_batchnorms(net)), []
    for name, module in net.named_modules():
        label = f"{name or 'the net'} ({type(module).__name__})"
        if module in norms:
            # Before the layer runs: a BatchNorm's own output is NaN everywhere, which would not say why.
            handles.append(module.register_forward_pre_hook(_statistics_listener(label, statistics)))
        handles.append(module.register_forward_hook(_output_listener(label, outputs)))
    try:
        # In train mode, as the step was: running statistics would give other numbers, perhaps finite ones.
        with torch.no_grad(), precision.autocast():
            hold_frozen_batchnorms(net.train())
            net(rows)
    finally:
        for handle in handles:
            handle.remove()
    if statistics:
        return f"the first non-finite statistic is {statistics[0]}"
    if outputs:
        return f"the first layer with a non-finite output is {outputs[0]}"
    return "the output of every layer is finite, but too large for a loss"


def _statistics_listener(label: str, found: list[str]) -> Callable[..., None]:
    def listen(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        # In the precision that BatchNorm sums in: float64 would hide a square that overflows float32.
        x = arguments[0].to(torch.promote_types(arguments[0].dtype, torch.float32))
        variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
        for name, values in (("mean", mean), ("variance", variance)):
            if not values.isfinite().all():
                found.append(f"the batch {name} of {label}, {_non_finite(values)}")
                return

    return listen


def _output_listener(label: str, found: list[str]) -> Callable[..., None]:
    def listen(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(f"{label}, {_non_finite(output)}")

    return listen


def _non_finite(values: Tensor) -> float:
    """The first value that is NaN or infinite; there must be one."""
    values = values.detach()
    return values[~values.isfinite()][0].item()


def check_published(net: nn.Module, held_out_loss: float, step: int) -> None:
    """Raise DivergedError if `net`, after `step`, holds a non-finite value or has a non-finite held-out loss.

    The losses cannot show what the very last step does to the weights, for no forward pass follows it.
    """
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise DivergedError(
                f"step {step} left {_non_finite(value)} in {name}, although every loss was finite: "
                "try a smaller learning rate or --clip-gradient 1"
            )
    if not math.isfinite(held_out_loss):
        raise DivergedError(
            f"after step {step} the held-out loss is {held_out_loss}, although every weight is finite: "
            "try a smaller learning rate or --recalibrate-bn"
        )
