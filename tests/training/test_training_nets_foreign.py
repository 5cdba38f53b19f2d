"""Nets from elsewhere: built, kept in a checkpoint, rebuilt from it, and refused in one sentence."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from extras import NEEDED, PACKAGES
from training.__main__ import main
from training.data import DATA_SETS, Split
from training.nets import NetError, build_net, new_net, read_net_settings, settings_for
from training.runs.checkpoint import CheckpointError, load_checkpoint
from training_kit import FACTS, tiny_split

# A stand-in with the two functions of timm that are used; timm itself is tried where it is installed.
TIMM = """
from torch import nn

def list_models():
    return ["resnet18", "resnet34", "mobilenetv3_small_050"]

def create_model(name, *, num_classes, in_chans, width=4, drop_rate=0.0):
    assert name in list_models()
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(drop_rate),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""
OURS = """
import torch
from torch import nn

def build(num_classes, input_shape, *, width=4, norm=True, name="plain"):
    norms = [nn.BatchNorm1d(width)] if norm else []
    size = torch.Size(input_shape).numel()
    layers = [nn.Flatten(), nn.Linear(size, width), *norms, nn.ReLU(), nn.Linear(width, num_classes)]
    return nn.Sequential(*layers)

def ten(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
def wrong(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))
def narrow(): return nn.Sequential(nn.Flatten(), nn.Linear(255, 10))
def text(): return "a net"
def breaks(num_classes): raise OSError("no such\\nlayer")
def stranger(command): raise AssertionError("it was called")
def anything(**settings): raise AssertionError("it was called")
number = 3

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, width))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 10)
    def forward(self, rows):
        return self.head(self.layers(rows) + self.start)
"""


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch) -> Path:
    """A folder on the path with `timm` and `ournets`."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "timm.py").write_text(TIMM)
    (folder / "ournets.py").write_text(OURS)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("timm", "ournets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


def new(net: str, seed: int = 0, **words: str) -> nn.Module:
    settings = settings_for(net, FACTS, read_net_settings(net, words))
    return new_net(net, settings, torch.Generator().manual_seed(seed))


def test_timm_gets_classes_channels_and_settings():
    net = new("timm:resnet18", width="7")
    assert (net[0].in_channels, net[0].out_channels, net[-1].out_features) == (1, 7, 10)


def test_a_factory_gets_what_its_parameters_name():
    net = new("ournets:build", width="6", norm="False", name="a b")
    assert [type(layer).__name__ for layer in net] == ["Flatten", "Linear", "ReLU", "Linear"]
    assert (net[1].in_features, net[1].out_features, net[-1].out_features) == (256, 6, 10)
    assert new("ournets:ten")[1].out_features == 10


def test_a_nets_own_weights_come_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (new("ournets:Net", seed, width="5").state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["start"], other["start"])


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("timm:resnet19", {}, "timm has no net 'resnet19'; did you mean resnet18, resnet34?"),
        ("timm:hf-hub:someone/net", {}, "timm has no net 'hf-hub:someone/net'"),
        (
            "timm:resnet18",
            {"pretrained": "True"},
            "cannot take the setting pretrained: ",
        ),
        ("nowhere:build", {}, "net nowhere:build cannot be imported here (No module named 'nowhere')"),
        ("ournets:nothing", {}, "cannot be imported here (module 'ournets' has no attribute 'nothing')"),
        ("ournets:number", {}, "must be a callable that returns an nn.Module"),
        (
            "ournets:build",
            {"depth": "3"},
            "net ournets:build 'depth', its factory takes width, norm, name",
        ),
        ("ournets:stranger", {"command": "ls"}, "must have a parameter num_classes, it has command"),
        ("ournets:anything", {"command": "ls"}, "'command', its factory takes none"),
        ("subprocess:Popen", {"args": "ls"}, "must have a parameter num_classes"),
        (
            "ournets:build",
            {"num_classes": "3"},
            "num_classes of net ournets:build comes from the data",
        ),
        ("os:system", {"command": "ls"}, "must have a parameter num_classes"),
        ("torch.hub:load", {"model": "x"}, "must have a parameter num_classes"),
    ],
)
def test_what_cannot_be_built_is_told_before_there_is_any_data(name, words, told):
    with pytest.raises(NetError) as caught:
        read_net_settings(name, words)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ournets:wrong", "answers 2 rows with (2, 7), expected logits of (2, 10)"),
        ("ournets:narrow", "cannot take rows of (1, 16, 16): "),
        ("ournets:text", "must be an nn.Module, its factory returned str"),
        ("ournets:breaks", "net ournets:breaks raised OSError: no such"),
        ("ournets:Net", "raised TypeError"),
    ],
)
def test_a_net_that_does_not_fit_is_told_in_one_sentence(name, told):
    with pytest.raises(NetError) as caught:
        build_net(name, settings_for(name, FACTS))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm_there_is_a_command(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetError, match=r"needs the package timm .*: pip install --no-deps timm torchvision"):
        read_net_settings("timm:resnet18", {})


@pytest.fixture
def trained(tmp_path, tiny, monkeypatch) -> Path:
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)
    out = tmp_path / "run"
    flags = ["--net", "ournets:Net", "--net-setting", "width=5", "--data", "tiny", "--device", "cpu"]
    assert main(["--out", str(out), *flags, "--epochs", "1", "--batch-size", "50"]) == 0
    return out / "checkpoint.pt"


def test_a_checkpoint_is_rebuilt_from_its_name_and_settings(trained):
    checkpoint = load_checkpoint(trained)
    assert checkpoint.net_name == "ournets:Net"
    assert checkpoint.net_settings == {"input_shape": (1, 16, 16), "num_classes": 10, "width": 5}
    net = checkpoint.build_net()
    assert not net.training
    assert all(torch.equal(value, checkpoint.state_dict[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_whose_module_is_gone_says_so(trained, packages, monkeypatch):
    (packages / "ournets.py").unlink()
    monkeypatch.delitem(sys.modules, "ournets")
    with pytest.raises(
        CheckpointError,
        match=r"the checkpoint's net cannot be rebuilt: net ournets:Net cannot be imported here "
        r"\(No module named 'ournets'\): it must lie in this folder or on PYTHONPATH",
    ):
        load_checkpoint(trained).build_net()


def test_the_real_timm(monkeypatch):
    monkeypatch.undo()
    sys.modules.pop("timm", None)
    if PACKAGES is not None:
        monkeypatch.syspath_prepend(str(PACKAGES))
    if importlib.util.find_spec("timm") is None:
        pytest.skip(f"timm is {NEEDED}")
    net = new("timm:resnet18")
    assert net(torch.zeros(2, *FACTS.input_shape)).shape == (2, 10)
    with pytest.raises(NetError, match=r"did you mean resnet18"):
        read_net_settings("timm:resnet1", {})
