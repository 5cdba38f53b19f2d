"""Which weights of a file are which of a net: prefixes, what is missing, what fits nowhere."""

import pytest
import torch
from torch import nn

from fit_kit import few_digits, fresh_net
from training.nets import NetError
from training.nets.weights import load_all_weights, load_weights, renamed

FEW = few_digits()


class Outer(nn.Module):
    """A net whose own names begin as a trainer's do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "form",
    ["{}", "module.{}", "model.{}", "_orig_mod.module.{}", "model._orig_mod.{}", "module.model.{}"],
)
def test_names_that_a_wrapper_or_trainer_changed_are_the_nets(form):
    for net in (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Outer()):
        wanted = net.state_dict()
        given = {form.format(name.removeprefix("model.")): value for name, value in wanted.items()}
        found = renamed(given | {"criterion.weight": torch.ones(1)}, net)
        assert found.keys() == wanted.keys() | {"criterion.weight"}
        assert all(found[name] is value for name, value in wanted.items())


def test_a_name_that_the_net_has_itself_is_left_as_it_is():
    net = nn.Sequential(nn.Linear(2, 2))
    given = {"0.weight": torch.ones(1), "0.bias": torch.zeros(1), "model.0.weight": torch.zeros(1)}
    assert renamed(given, net).keys() == given.keys()
    # the ImageNet example of PyTorch wraps only `features`
    inner = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    assert renamed({"0.module.0.bias": torch.ones(1)}, inner).keys() == {"0.0.bias"}
    # DeepSpeed's, FSDP's, and that of activation checkpoints
    for wrapper in ("_forward_module.0", "_fsdp_wrapped_module.0", "0._checkpoint_wrapped_module"):
        assert renamed({f"{wrapper}.0.bias": torch.ones(1)}, inner).keys() == {"0.0.bias"}, wrapper


def test_weights_that_fit_nowhere_are_named():
    with pytest.raises(NetError, match=r"fit nowhere: it has x.1, x.2, x.3 and 1 more, the net has blocks.0"):
        load_weights(fresh_net(FEW), {f"x.{index}": torch.ones(1) for index in range(1, 5)}, "a.pt")
    wide = fresh_net(FEW).state_dict() | {"blocks.4.weight": torch.ones(9, 4, 3, 3)}
    with pytest.raises(NetError, match=r"blocks.4.weight is \(9, 4, 3, 3\), and the net wants"):
        load_weights(fresh_net(FEW), wide, "a.pt")


def test_what_was_not_loaded_is_named():
    weights = fresh_net(FEW, 1).state_dict()
    weights["extra.weight"] = torch.ones(1)
    del weights["blocks.0.weight"]
    net = fresh_net(FEW)
    notes = " / ".join(load_weights(net, weights, "a.pt"))
    assert "not in a.pt, so new: blocks.0.weight" in notes
    assert "of a.pt not used: extra.weight" in notes
    assert torch.equal(net.state_dict()["head.3.weight"], weights["head.3.weight"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda own: {f"backbone.{name}": value for name, value in own.items()}, None),
        (
            lambda own: {**{f"model.{name}": value for name, value in own.items()}, "loss.w": torch.ones(1)},
            None,
        ),
        (lambda own: {name: value.to_sparse() for name, value in own.items()}, None),
        (
            lambda own: {f"{at}.{name}": own[name] for at in ("student", "teacher") for name in own},
            r"holds the net 2 times, as student\.\*, teacher\.\*: save one of them alone",
        ),
        (lambda own: {**own, "fc.weight": torch.ones(1)}, "1 unexpected \\(fc.weight\\)"),
        (
            lambda own: {name: value.to("meta") for name, value in own.items()},
            "tensors \\(meta, torch.float32\\)",
        ),
    ],
    ids=["a prefix", "a loss beside it", "sparse", "two prefixes", "one more", "no numbers"],
)
def test_names_under_a_prefix_are_those_of_the_net_where_that_is_clear(change, error):
    theirs, net = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    given = change(theirs.state_dict())
    if error is not None:
        with pytest.raises(NetError, match=error):
            load_all_weights(net, given, "a.pt")
        return
    load_all_weights(net, given, "a.pt")
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in net.state_dict().items())


def _at(place: str, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{place}.{name}": value for name, value in own.items()}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (
            lambda own, other: {**_at("generator", own), **_at("discriminator", {"0.weight": other})},
            "generator.",
        ),
        (lambda own, other: {**_at("a", own), **_at("b", {**own, "0.weight": other})}, "a."),
        (lambda own, other: {**_at("g", {**own, "0.bias": torch.ones(2)}), **_at("g_ema", own)}, "g_ema."),
        (lambda own, other: _at("model", own), ""),
    ],
    ids=["by its names", "by its shapes", "an average", "a wrapper's name"],
)
def test_of_several_nets_the_one_that_fits_is_taken_and_named(given, place):
    theirs, net = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    assert load_all_weights(net, given(theirs.state_dict(), torch.ones(1, 2)), "a.pt") == place
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in net.state_dict().items())


def test_one_part_of_several_names_their_index():
    net = nn.Sequential(nn.Linear(2, 2))
    one = {"0.bias": torch.ones(2)}
    with pytest.raises(NetError, match=r"name their index, net\.safetensors\.index\.json"):
        load_all_weights(net, one, "net-00001-of-00002.safetensors")
