"""What is measured of a net: gradients, accuracy in both modes, γ.

In: a net and rows.  Out: plain numbers for JSON.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from study.nets import weights_of
from study.rows import Rows
from training.batchnorm.statistics import SMALLEST_GAMMA, find_batchnorms, recalibrate

RECALIBRATION_ROWS, EVALUATION_ROWS, COMPARED_ROWS = 100, 250, 1000
SATURATED = 3.64  # |x| from which σ'(x) is less than a tenth of σ'(0), its maximum
SMALLEST, LARGEST = 1e-30, 1e30
ACCURACIES = (
    "train_mode_accuracy",
    "eval_mode_accuracy",
    "held_out_accuracy",
    "recalibrated_eval_mode_accuracy",
    "recalibrated_held_out_accuracy",
)


def gradient_norms(net: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """‖∂L/∂W‖ of every Conv and Linear, from the first to the last, in train mode; `net` is left as it is.

    Within 1e±30, so that a logarithm can be taken of a gradient that is 0 or not finite.
    """
    twin = copy.deepcopy(net).train()
    gradients = torch.autograd.grad(cross_entropy(twin(x), y), weights_of(twin))
    norms = [gradient.norm().item() for gradient in gradients]
    return [max(min(norm, LARGEST), SMALLEST) if math.isfinite(norm) else LARGEST for norm in norms]


def accuracies(net: nn.Module, rows: Rows, batch_size: int) -> dict[str, float]:
    """Accuracy on the same train rows in both modes, and held out; then with re-estimated statistics."""
    seen = slice(COMPARED_ROWS)
    train, held_out = (rows.train_x[seen], rows.train_y[seen]), (rows.held_out_x, rows.held_out_y)
    found = [accuracy(copy.deepcopy(net).train(), *train, batch_size)]
    found += [accuracy(net.eval(), *train), accuracy(net, *held_out)]
    if find_batchnorms(net):
        recalibrate(net, torch.split(train[0], RECALIBRATION_ROWS))
        found += [accuracy(net, *train), accuracy(net, *held_out)]
    else:
        found += found[1:]
    return dict(zip(ACCURACIES, found, strict=True))


def accuracy(net: nn.Module, x: Tensor, y: Tensor, batch_size: int = EVALUATION_ROWS) -> float:
    """Share of rows that are right, in the mode that `net` is in; 0 of none.

    In train mode a last batch of one row is left out: BatchNorm needs two.
    """
    right = total = 0
    with torch.no_grad():
        for part, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            if len(labels) > 1 or not net.training:
                right += int((net(part).argmax(1) == labels).sum())
                total += len(labels)
    return right / total if total else 0.0


def recalls(net: nn.Module, rows: Rows) -> list[float]:
    """Of each class, by its label: the share of its held-out rows that are right; `net` ends in eval mode."""
    net.eval()
    return [
        accuracy(net, rows.held_out_x[of_class], rows.held_out_y[of_class])
        for of_class in (rows.held_out_y == label for label in range(rows.num_classes))
    ]


def saturation(net: nn.Module, x: Tensor) -> list[float]:
    """Of every Sigmoid, from first to last: the share of its inputs beyond ±SATURATED, in train mode."""
    twin, shares = copy.deepcopy(net).train(), []
    for module in twin.modules():
        if isinstance(module, nn.Sigmoid):
            module.register_forward_pre_hook(
                lambda _, inputs: shares.append((inputs[0].abs() > SATURATED).float().mean().item())
            )
    with torch.no_grad():
        twin(x)
    return shares


def count_gammas(net: nn.Module) -> dict[str, int]:
    """How many γ there are, how many lie below zero, and how many at the floor of `--positive-gamma`."""
    gammas = [norm.weight.detach() for norm in find_batchnorms(net) if norm.affine]
    every = torch.cat(gammas) if gammas else torch.empty(0)
    return {
        "gammas": len(every),
        "gammas_below_zero": int((every < 0).sum()),
        "gammas_at_floor": int((every == SMALLEST_GAMMA).sum()),
    }


def to_json(value: float) -> float | None:
    """Six digits; None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
