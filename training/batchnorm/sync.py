"""BatchNorm over the batch of all processes together, on CPUs and GPUs.

In: a net whose BatchNorms each see one process's share of the batch.  Out: the same net, with the same keys
and parameters, each BatchNorm normalising by the whole batch. Process r holds k_r values of a channel:

    m_r = Σ x / k_r     S_r = Σ (x − m_r)²                         one message forward: every (k, m, S)
    n = Σ k_r     μ = Σ k_r m_r / n     σ² = Σ (S_r + k_r (m_r − μ)²) / n          (Chan et al. 1979)

    dβ = Σ dy     dγ = Σ dy·x̂                                      one message backward: their sums
    dx = γ / √(σ² + ε) · (dy − dβ / n − x̂·dγ / n)

The sums in dx run over all processes; the gradients of γ and β stay each process's own, as every gradient
does until DistributedDataParallel joins them. Shares may differ in size. `torch.nn.SyncBatchNorm` refuses
CPUs, and its conversion drops what a subclass adds; on a GPU its kernels do the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm as OnGpu
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


@contextmanager
def synchronised(net: nn.Module) -> Iterator[None]:
    """Within it, in train mode, every BatchNorm of `net` normalises by the batch of all processes.

    Subclasses of BatchNorm too, whatever else their forward does. Each BatchNorm's class is replaced within,
    and restored at the end: so a checkpoint holds plain BatchNorms, and no conversion can lose an attribute.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    plain: list[Any] = [type(norm) for norm in norms]
    for norm, its_class in zip(norms, plain, strict=True):
        norm.__class__ = _synchronised(its_class)
    try:
        yield
    finally:
        for norm, its_class in zip(norms, plain, strict=True):
            norm.__class__ = its_class


class _Synchronised(nn.Module):
    """Comes before a BatchNorm's own class; runs its forward with `functional.batch_norm` replaced."""

    def forward(self, *arguments: Any) -> Tensor:
        # In eval mode the running statistics are the same everywhere: no message is needed.
        if not self.training:
            return super().forward(*arguments)  # type: ignore[no-any-return]
        with _ReplaceBatchNorm():
            return super().forward(*arguments)  # type: ignore[no-any-return]


@cache
def _synchronised(plain: Any) -> Any:
    return type(plain.__name__, (_Synchronised, plain), {})


class _ReplaceBatchNorm(TorchFunctionMode):
    """Within, a call of `functional.batch_norm` is one of `batch_norm` below, whatever forward makes it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = batch_norm if func is functional.batch_norm else func
        return chosen(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `functional.batch_norm`, over the batch of all processes; x (N, C, …) is this process's share."""
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training=False, momentum=momentum, eps=eps
        )
    if x.is_cuda:
        group, processes = distributed.group.WORLD, distributed.get_world_size()
        y: Tensor = OnGpu.apply(x, weight, bias, running_mean, running_var, eps, momentum, group, processes)  # type: ignore[no-untyped-call]
        return y
    y, mean, variance, count = _Normalise.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        # As torch does: the biased variance normalises, the unbiased one goes into the running average.
        unbiased = variance * (count / (count - 1))
        running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
        running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype), alpha=momentum)
    return y


def pool(count: int, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n (), μ and Σ (x − μ)² (C,) of all processes, in float64, from each one's k, m_r and S_r."""
    # float64, so that the count is exact and two processes come to the statistics of one up to rounding.
    own = torch.cat([mean.new_tensor([count], dtype=torch.float64), mean.double(), squares.double()])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    table = torch.stack(every)
    counts, means, sums = table[:, :1], table[:, 1 : 1 + len(mean)], table[:, 1 + len(mean) :]
    total = counts.sum()
    pooled = (counts * means).sum(0) / total
    return total, pooled, (sums + counts * (means - pooled).square()).sum(0)


class _Normalise(torch.autograd.Function):
    """x, γ, β, ε → y, and μ, σ², n, through which no gradient flows by themselves."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Half precision is only how x is stored: sums of thousands of values need float32.
        wide = x.float() if x.dtype.itemsize < 4 else x
        axes, count = _axes(x), x.numel() // x.shape[1]
        own_mean = wide.sum(axes) / count
        own_squares = (wide - _spread(own_mean, x)).square().sum(axes)
        total, mean, squares = pool(count, own_mean, own_squares)
        # A single value in one share is enough, if the shares together have two.
        if total < 2:
            raise ValueError(f"BatchNorm needs more than 1 value per channel, got {tuple(x.shape)}")
        variance = squares / total
        inverse = (variance + eps).rsqrt().to(wide.dtype)
        y = (wide - _spread(mean.to(wide.dtype), x)) * _spread(inverse, x)
        y = y if gamma is None else y * _spread(gamma, x)
        y = y if beta is None else y + _spread(beta, x)
        ctx.save_for_backward(x, gamma, mean.to(wide.dtype), inverse, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return y.to(x.dtype), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, inverse, total = ctx.saved_tensors
        dy = dy.to(mean.dtype)
        normal = (x - _spread(mean, x)) * _spread(inverse, x)
        dbeta, dgamma = dy.sum(_axes(x)), (dy * normal).sum(_axes(x))
        dx = None
        if ctx.needs_input_grad[0]:
            # The loss depends on x through the shared mean and variance too, so on every process's rows.
            sums = torch.stack([dbeta, dgamma]).double()
            distributed.all_reduce(sums)
            all_dbeta, all_dgamma = (sums / total).to(mean.dtype)
            scale = inverse if gamma is None else inverse * gamma
            dx = _spread(scale, x) * (dy - _spread(all_dbeta, x) - normal * _spread(all_dgamma, x))
            dx = dx.to(x.dtype)
        return dx, dgamma if gamma is not None else None, dbeta if ctx.needs_input_grad[2] else None, None


def _axes(x: Tensor) -> tuple[int, ...]:
    """The axes of x (N, C, …) to sum over: all but the channels."""
    return (0, *range(2, x.ndim))


def _spread(per_channel: Tensor, x: Tensor) -> Tensor:
    """(C,) → (1, C, 1, …), to broadcast against x."""
    return per_channel.view(1, -1, *[1] * (x.ndim - 2))
