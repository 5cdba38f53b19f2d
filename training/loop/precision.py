"""The number format of the arithmetic: float32, or Conv and Linear in half of it.

In: a name, and the device.  Out: a `Precision`, with which the loop computes and steps.

Weights, their updates and losses stay float32, and so do BatchNorm's statistics and its arithmetic: autocast
hands it half-precision rows, which it sums in float32. float16 reaches down to 6e-8 only, so the loss is
scaled up before the backward pass (Micikevicius et al. 2018); a step whose gradients overflow is left out,
and the scale halved.
"""

import torch
from torch import Tensor, nn

from training.settings.config import ConfigError

HALVES = (torch.bfloat16, torch.float16)


class Precision:
    """Autocast, the scaler of the loss (idle but for float16), the backward pass and the optimizer's step."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.device, self.dtype = device, resolve_precision(name, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        is_half = self.dtype in HALVES
        return torch.autocast(self.device.type, self.dtype if is_half else torch.bfloat16, enabled=is_half)

    @property
    def needs_check(self) -> bool:
        """Whether the host must check a loss before its step, because the scaler does not read `stop`."""
        return self.scaler.is_enabled()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` () to those of the parameters."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, stop: Tensor, net: nn.Module, clip: float) -> None:
        """Clip the gradient to length `clip` if above 0, move the weights unless `stop` () is 1."""
        if clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.found_inf = stop  # type: ignore[attr-defined]  # what a fused step asks for
        self.scaler.step(optimizer)
        self.scaler.update()


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `name` means on `device`; `auto` is bfloat16 on a GPU that has it, else float32."""
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU: on a CPU take float32 or bfloat16")
    if name == "bfloat16" and not has_bfloat16:
        raise ConfigError("precision bfloat16 is not supported by this GPU: take float32 or float16")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
