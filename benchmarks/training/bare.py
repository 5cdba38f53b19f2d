"""The bare loop: the minimum that trains a net.  No loss is read, nothing is counted.

In: a net, pictures on its device, settings.  Out: the seconds of each epoch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.data import Split
from training.loop.chance import seeded_generator
from training.loop.optimize import schedule
from training.loop.precision import resolve_precision
from training.settings.config import FitConfig


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_epochs(
    net: nn.Module, split: Split, config: FitConfig, clock: Callable[[], float]
) -> Iterator[float]:
    """Train with fused SGD, in half precision where ours is; yields the seconds of each epoch."""
    pixels, labels, facts = split.train_pixels, split.train_labels, split.facts
    device, num_steps = labels.device, len(labels) // config.batch_size
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (facts.mean, facts.std))
    dtype = resolve_precision(config.precision, device)
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in net.parameters() if weight.ndim > 1]},
        {"params": [other for other in net.parameters() if other.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
        fused=True,
    )
    generator = seeded_generator(config.seed, "order")
    for epoch in range(config.epochs):
        synchronize(device)
        began = clock()
        net.train()
        order = torch.randperm(len(labels), generator=generator).to(device)
        for index in range(num_steps):
            step = epoch * num_steps + index
            for group in optimizer.param_groups:
                group["lr"] = schedule(step, config.epochs * num_steps, config.learning_rate, config.schedule)
            rows = order[index * config.batch_size : (index + 1) * config.batch_size]
            x = (pixels[rows].float() / 255 - mean) / std
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = net(x)
            loss = functional.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        synchronize(device)
        yield clock() - began
