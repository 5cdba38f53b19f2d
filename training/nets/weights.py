"""Fine-tuning: weights of another net, what of a net is its head, and what of it is frozen.

In: a net and a state dict.  Out: the same net with all of it that fits, and what did not.

The head is the last Linear or Conv; all else is the backbone. A head of another shape keeps its new weights,
for the classes are others; anything else that does not fit is an error or is named.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from training.nets.settings import NetError

# What torch's and other trainers' wrappers put into names: of several processes, compiled, checkpointed.
WRAPPERS = (
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)
OUTER = "model"
# Counters that say nothing of what a net computes: torch's, of an average, and of a profiler.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
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


def renamed(weights: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The same weights under the net's names, where these differ by what a wrapper or trainer added.

    Raises NetError where the net is found several times; see `find_net`.
    """
    return find_net(weights, net)[0]


def find_net(weights: Mapping[str, Tensor], net: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The weights under the net's names, and the prefix that they have in the file.

    Where the whole net is found under one prefix, such as `backbone.`, what has it not is left out.  Of
    several, those of the net's shapes count, and an average is what was evaluated; raises NetError where
    several are left.
    """
    wanted = net.state_dict()
    given = _by_core(weights, wanted)
    needed = [name for name in wanted if not _counts(name)]
    if not needed or all(name in given for name in needed):
        return given, ""
    prefixes = {name.removesuffix(needed[0]) for name in weights if name.endswith(f".{needed[0]}")}
    inside = {
        at: _by_core(
            {name.removeprefix(at): weights[name] for name in weights if name.startswith(at)}, wanted
        )
        for at in sorted(prefixes)
    }
    whole = {at: found for at, found in inside.items() if all(name in found for name in needed)}
    for chosen in (_of_these_shapes(whole, wanted), [at for at in whole if _is_average(at)]):
        if len(chosen) == 1:
            return whole[chosen[0]], chosen[0]
    if len(whole) > 1:
        places = ", ".join(f"{at}*" for at in whole)
        raise NetError(f"the file holds the net {len(whole)} times, as {places}: save one of them alone")
    return next(((found, at) for at, found in whole.items()), (given, ""))


def _of_these_shapes(whole: Mapping[str, Mapping[str, Tensor]], wanted: Mapping[str, Tensor]) -> list[str]:
    return [
        at
        for at, found in whole.items()
        if all(value.shape == found[name].shape for name, value in wanted.items() if name in found)
    ]


def _is_average(prefix: str) -> bool:
    return "ema" in prefix.lower().replace("_", ".").split(".")


def _by_core(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    by_core = {_core(name): name for name in wanted}
    given = {}
    for name, value in weights.items():
        own = name if name in wanted else by_core.get(_core(name), name)
        given[name if own != name and (own in weights or own in given) else own] = value
    return given


def _core(name: str) -> str:
    """A name without wrappers, and without the outer `model.`"""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts[:1] == [OUTER]:
        del parts[0]
    return ".".join(parts)


def load_all_weights(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> str:
    """Copy every weight of the net from a file that has them all and no others; raises NetError.

    Returns the prefix that they have in the file.
    """
    wanted, (given, place) = net.state_dict(), find_net(weights, net)
    missing = [name for name in wanted if name not in given and not _counts(name)]
    unexpected = [name for name in given if name not in wanted and not _counts(name)]
    wrong = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if not missing and not any(name in weights for name in wanted):
        unexpected = []  # what else a wrapper holds, such as the weights of its loss
    if missing or unexpected:
        said = [
            f"{len(names)} {kind} ({_name(names)})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        if index := _index_of(source):
            said.append(f"it is one part of several: name their index, {index}")
        raise NetError(f"{source}: not the weights of this net: {', '.join(said)}")
    if wrong:
        shapes = f"{tuple(given[wrong[0]].shape)}, and the net wants {tuple(wanted[wrong[0]].shape)}"
        more = f"; {len(wrong)} tensors differ in shape" if len(wrong) > 1 else ""
        raise NetError(f"{source}: not the weights of this net: {wrong[0]} is {shapes}{more}")
    try:
        dense = {name: value.to_dense() if value.is_sparse else value for name, value in given.items()}
        net.load_state_dict({name: dense.get(name, value) for name, value in wanted.items()})
    except RuntimeError as error:  # torch's words name every tensor
        kinds = sorted(
            {str(value.device) for value in given.values()} | {str(value.dtype) for value in given.values()}
        )
        raise NetError(f"{source}: its tensors ({', '.join(kinds)}) cannot be copied into the net") from error
    return place


def _index_of(source: str) -> str | None:
    """The file that names all parts of which this is one, as Hugging Face's libraries call them."""
    part = re.fullmatch(r"(.+)-\d+-of-\d+(\.\w+)", source)
    return f"{part[1]}{part[2]}.index.json" if part else None


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def load_weights(
    net: nn.Module, weights: Mapping[str, Tensor], source: str, *, keep_head: bool = True
) -> list[str]:
    """Copy into `net` what fits; returns a sentence for each kind of thing that was not loaded.

    Without `keep_head` the head stays new even where it fits. Raises NetError if nothing of the backbone
    fits, or if a shape differs anywhere but in the head.
    """
    wanted, given, head = net.state_dict(), renamed(weights, net), find_head(net) + "."
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
