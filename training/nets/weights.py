"""Fine-tuning: weights of another net, what of a net is its head, and what of it is frozen.

In: a net and a state dict.  Out: the same net with all of it that fits, and what did not.

The head is the last Linear or Conv; all else is the backbone. A head of another shape keeps its new weights,
for the classes are others; anything else that does not fit is an error or is named.
"""

import fnmatch
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from training.nets.settings import NetError

# What DistributedDataParallel, other trainers and torch.compile put before every name.
PREFIXES = ("module.", "model.", "_orig_mod.")
NUM_NAMED = 3


def find_head(net: nn.Module) -> str:
    """The name of the last Linear or Conv; raises NetError if there is none."""
    names: list[str] = [
        name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not names:
        raise NetError("the net has no Linear or Conv, so it has no head")
    return names[-1]


def is_in_head(net: nn.Module) -> dict[str, bool]:
    """Of each parameter by its name, whether it is of the head."""
    head = find_head(net) + "."
    return {name: name.startswith(head) for name, _ in net.named_parameters()}


def strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights without the prefixes that all of the names have."""
    names = dict(weights)
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in names)), ""):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
        if not names:
            break
    return names


def load_weights(
    net: nn.Module, weights: Mapping[str, Tensor], source: str, *, keep_head: bool = True
) -> list[str]:
    """Copy into `net` what fits; returns a sentence for each kind of thing that was not loaded.

    Without `keep_head` the head stays new even where it fits. Raises NetError if nothing of the backbone
    fits, or if a shape differs anywhere but in the head.
    """
    wanted, given, head = net.state_dict(), strip_prefixes(weights), find_head(net) + "."
    fitting = {
        name: value
        for name, value in given.items()
        if name in wanted and value.shape == wanted[name].shape and (keep_head or not name.startswith(head))
    }
    if all(name.startswith(head) for name in fitting):
        found, expected = _name(list(given)), _name(list(wanted))
        raise NetError(f"the weights of {source} fit nowhere: it has {found}, the net has {expected}")
    wrong = [name for name in given.keys() & wanted.keys() - fitting.keys() if not name.startswith(head)]
    if wrong:
        shapes = f"{tuple(given[wrong[0]].shape)}, and the net wants {tuple(wanted[wrong[0]].shape)}"
        raise NetError(f"the weights of {source} do not fit: {wrong[0]} is {shapes}")
    net.load_state_dict(fitting, strict=False)
    new = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
    unused = [name for name in given if name not in wanted]
    notes = [f"{len(fitting)} of {len(wanted)} tensors are those of {source}"]
    if any(name.startswith(head) for name in new):
        notes.append(f"the head {head[:-1]} is new, for its classes are others")
    if others := [name for name in new if not name.startswith(head)]:
        notes.append(f"not in {source}, so new: {_name(others)}")
    if unused:
        notes.append(f"of {source} not used: {_name(unused)}")
    return notes


def freeze(net: nn.Module, what: str) -> None:
    """Let `backbone`, `bn`, `none` or the parameters of a PATTERN such as blocks.* no longer train.

    Raises NetError if the pattern matches nothing, or if nothing is left to train.
    """
    if what == "none":
        return
    norms = {name for name, module in net.named_modules() if is_batchnorm(module)}
    in_head = is_in_head(net) if what == "backbone" else {}
    frozen = 0
    for name, parameter in net.named_parameters():
        if what == "backbone":
            chosen = not in_head[name]
        elif what == "bn":
            chosen = name.rpartition(".")[0] in norms
        else:
            chosen = fnmatch.fnmatchcase(name, what)
        if chosen:
            parameter.requires_grad_(False)
            frozen += 1
    if not frozen:
        names = _name([name for name, _ in net.named_parameters()])
        raise NetError(f"freeze {what} matches no parameter of the net: it has {names}")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise NetError(f"freeze {what} leaves nothing to train")


def hold_frozen_batchnorms(net: nn.Module) -> None:
    """Put BatchNorms whose γ is frozen in eval mode: they use the source's statistics, and keep them."""
    for module in net.modules():
        if is_batchnorm(module) and module.weight is not None and not module.weight.requires_grad:
            module.eval()


def is_batchnorm(module: nn.Module) -> bool:
    """Whether it is one, of any number of dimensions."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _name(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
