"""The middle of an epoch: when it is saved, what is saved, and how the epoch continues from there.

In: the live parts of a loop after some steps of an epoch.  Out: a `State` with a `PartialEpoch`, and back.

    order, augmentation     drawn again by the generators as they were when the epoch began
    the batches done        left out; their losses and right answers are in the file
    chance in the net       (dropout) continues from the random state of each process
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.distributed.group import Group
from training.errors import TrainingError
from training.loop.loss_watch import LossWatch
from training.loop.parts import Parts
from training.loop.state import PartialEpoch, State


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Every `every` steps within an epoch, `save` gets the net to publish and a state, both live."""

    every: int
    save: Callable[[nn.Module, State], None]

    def is_due(self, index: int, num_steps: int, accumulate: int) -> bool:
        """Whether to save after batch `index` of `num_steps`, counted from 0.

        Not after the last, where the epoch is saved, and only where the weights have just moved: a gradient
        that is half summed (`accumulate`) is in no state.
        """
        done = index + 1
        if done == num_steps or done % accumulate:
            return False
        return done // self.every > (done - accumulate) // self.every


def capture_partial(parts: Parts, watch: LossWatch, generators: dict[str, Tensor]) -> State:
    """The state now, with `generators` as they were when the epoch began; all processes call it together."""
    partial = PartialEpoch(
        num_steps=watch.num_steps,
        losses=watch.losses[: watch.num_steps],
        num_right=int(parts.group.total(watch.num_right)),
        chance=parts.group.gather(net_chance(watch.losses.device)),
    )
    return replace(parts.capture(), generators=generators, partial=partial)


def resume_partial(parts: Parts, watch: LossWatch, partial: PartialEpoch, batches: Sequence[Tensor]) -> None:
    """Note in a new `watch` what is done of the epoch, and continue the net's chance.

    Raises TrainingError if `partial` is not of an epoch of so many batches.
    """
    group, num_steps = parts.group, partial.num_steps
    if not 0 < num_steps == len(partial.losses) < parts.num_steps:
        raise TrainingError(f"the checkpoint lacks what this run needs to resume: {num_steps} steps")
    num_rows = sum(len(group.share(batch)) for batch in batches[:num_steps])
    watch.resume(partial.losses, share_of_count(partial.num_right, group), num_rows)
    if group.rank < len(partial.chance):  # with more processes than before, the new ones begin anew
        set_net_chance(partial.chance[group.rank], watch.losses.device)


def share_of_count(count: int, group: Group) -> int:
    """A process's part of a count, so that the parts of all processes add up to it."""
    return count // group.size + (group.rank < count % group.size)


def net_chance(device: torch.device) -> Tensor:
    """The state of torch's own generators, from which dropout draws, as uint8: the CPU's, then the GPU's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_net_chance(state: Tensor, device: torch.device) -> None:
    """Put back what `net_chance` returned; a GPU's part is left out on a CPU."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)
