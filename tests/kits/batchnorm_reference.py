"""BatchNorm in NumPy, forward and backward, as its papers write it: what docs/batchnorm.md says, as code.

In: x of shape (N, C), (N, C, L) or (N, C, H, W); everything per channel has shape (C,).
Out: y, dx of x's shape; dγ, dβ and running averages of shape (C,).

    n = N·H·W,  Σ over all axes but C

    forward, train     μ = Σ x / n     σ² = Σ (x − μ)² / n     x̂ = (x − μ) / √(σ² + ε)     y = γ x̂ + β
    forward, eval      the same with the running averages for μ and σ²: y = s x + t
    backward, train    dβ = Σ dy     dγ = Σ dy·x̂     dx = γ / √(σ² + ε) · (dy − dβ / n − x̂ · dγ / n)
    backward, eval     dβ, dγ likewise                dx = s · dy
    running            r ← (1 − m) r + m · new,  where new is μ, and σ² · n / (n − 1)

(Ioffe & Szegedy 2015, algorithms 1 and 2.)  Nothing here is shared with torch, or with what folds.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def axes_of(x: Array) -> tuple[int, ...]:
    """All but the channels."""
    return (0, *range(2, x.ndim))


def spread(per_channel: Array, x: Array) -> Array:
    """(C,) to (1, C, 1, …), to stand beside x."""
    return np.reshape(per_channel, (1, -1, *[1] * (x.ndim - 2)))


def population(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel."""
    mean = x.mean(axis=axes_of(x))
    return mean, np.mean((x - spread(mean, x)) ** 2, axis=axes_of(x))


@dataclass(frozen=True)
class BatchNorm:
    """What is learnt, and ε; `gamma` and `beta` are None where affine is off."""

    eps: float
    gamma: Array | None = None
    beta: Array | None = None

    def scale_and_shift(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """s and t of y = s·x + t, for fixed statistics."""
        scale = (1.0 if self.gamma is None else self.gamma) / np.sqrt(variance + self.eps)
        return scale, (0.0 if self.beta is None else self.beta) - mean * scale

    def normalise(self, x: Array, mean: Array, variance: Array) -> Array:
        """x̂."""
        return (x - spread(mean, x)) / np.sqrt(spread(variance, x) + self.eps)

    def forward(self, x: Array, mean: Array, variance: Array) -> Array:
        """y; in train mode the statistics are `population(x)`, in eval mode the running averages."""
        y = self.normalise(x, mean, variance)
        y = y if self.gamma is None else spread(self.gamma, x) * y
        return y if self.beta is None else y + spread(self.beta, x)

    def backward_train(self, x: Array, dy: Array) -> tuple[Array, Array, Array]:
        """dx, dγ, dβ where μ and σ² depend on x too."""
        mean, variance = population(x)
        normal, count = self.normalise(x, mean, variance), x.size // x.shape[1]
        dgamma, dbeta = (dy * normal).sum(axis=axes_of(x)), dy.sum(axis=axes_of(x))
        scale, _ = self.scale_and_shift(mean, variance)
        through_statistics = spread(dbeta, x) / count + normal * spread(dgamma, x) / count
        return spread(scale, x) * (dy - through_statistics), dgamma, dbeta

    def backward_eval(self, x: Array, dy: Array, mean: Array, variance: Array) -> tuple[Array, Array, Array]:
        """dx, dγ, dβ where the statistics are constants."""
        dgamma = (dy * self.normalise(x, mean, variance)).sum(axis=axes_of(x))
        scale, _ = self.scale_and_shift(mean, variance)
        return spread(scale, x) * dy, dgamma, dy.sum(axis=axes_of(x))


@dataclass(frozen=True)
class Running:
    """Running averages after `steps` batches; `momentum` None is the plain average of all batches."""

    mean: Array
    variance: Array
    steps: int = 0

    def after(self, x: Array, momentum: float | None) -> "Running":
        """The averages after one more batch."""
        mean, variance = population(x)
        count = x.size // x.shape[1]
        share = 1 / (self.steps + 1) if momentum is None else momentum
        return Running(
            mean=(1 - share) * self.mean + share * mean,
            variance=(1 - share) * self.variance + share * variance * count / (count - 1),
            steps=self.steps + 1,
        )
