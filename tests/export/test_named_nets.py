"""Nets by name as sources: timm:NAME, torchvision:NAME and module:factory, each with weights from a file."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import nets
from export.compute.runtime import load
from export.errors import SourceError
from export.sources.opening import open_source
from export.sources.source import SourceOptions
from export_kit import assert_refused, run_here
from extras import NEEDED, PACKAGES
from nets import lively
from training.nets.foreign.packages import find_in_package
from training.nets.foreign.pretrained import open_net

# Stand-ins with the functions that are used; the packages themselves are tried where they are installed.
NETS = """
from types import SimpleNamespace
from torch import nn

def net(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )

def list_models():
    return ["tiny", "small"]
"""
TIMM = """
def create_model(name, *, pretrained, num_classes=7, in_chans=3):
    if pretrained and name == "small":
        raise RuntimeError("no hub")
    made = net(num_classes, in_chans)
    made.pretrained_cfg = {"input_size": (3, 10, 10), "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    return made
"""
TORCHVISION = """
def get_model(name, weights=None, num_classes=7):
    return net(num_classes, 3)

def get_model_weights(name):
    transform = SimpleNamespace(crop_size=[9], mean=[0.5] * 3, std=[0.1] * 3)
    return SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: transform) if name == "tiny" else None)
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """timm and torchvision as the stand-ins above."""
    (tmp_path / "timm.py").write_text(NETS + TIMM)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    (tmp_path / "torchvision" / "models.py").write_text(NETS + TORCHVISION)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("timm", "torchvision", "torchvision.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("timm", "torchvision", "torchvision.models"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "size", "mean"), [("timm:tiny", 10, 0.4), ("torchvision:tiny", 9, 0.5)])
def test_without_a_file_it_has_its_packages_own_weights_shape_and_mean(packages, name, size, mean):
    source = open_source(name, SourceOptions())
    assert source.inputs[0].row_shape == (3, size, size)
    assert source.outputs[0].row_shape == (7,)
    assert source.preprocessing is not None
    assert source.preprocessing.mean[1] == mean


@pytest.mark.parametrize("name", ["timm:tiny", "torchvision:small"])
def test_a_file_gives_the_weights_and_the_number_of_classes(packages, tmp_path, name):
    theirs = open_net("timm:tiny").net
    theirs[5] = nn.Linear(4, 5)
    lively(theirs, (3, 10, 10))
    weights = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.pt")
    options = SourceOptions(shapes={"": (3, 10, 10)}, weights=tmp_path / "w.pt")
    source = open_source(name, options)
    rows = torch.randn(2, 3, 10, 10)
    (answer,) = source.evaluate({source.inputs[0].name: rows.numpy()}).values()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), theirs.double()(rows.double()))
    assert source.preprocessing is None, "how the file's net was trained is not known"


def test_a_net_of_timm_has_as_many_channels_as_the_row(packages):
    assert open_source("timm:tiny", SourceOptions(shapes={"": (1, 8, 8)})).inputs[0].row_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "timm:small",
            r"of timm:small are not on this machine, and its hub .* \(no hub\): .*--weights",
        ),
        ("torchvision:small", "torchvision publishes none"),
        ("torchvision:tini", "^torchvision has no net 'tini'; did you mean tiny?"),
    ],
)
def test_a_net_that_cannot_be_had_is_one_sentence(packages, name, sentence):
    with pytest.raises(SourceError, match=sentence):
        open_source(name, SourceOptions())


def test_a_package_that_is_missing_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SourceError, match=r"^net timm:tiny needs the package timm .*: pip install"):
        open_source("timm:tiny", SourceOptions())


def test_missing_and_unexpected_names_are_counted_and_three_are_named(tmp_path):
    options = SourceOptions(shapes={"": (1, 8, 8)}, weights=tmp_path / "w.pt")
    weights = open_net("nets:everything").net.state_dict()
    renamed = {name.replace("pool_dense", "head"): value for name, value in weights.items()}
    torch.save({f"x{key}": value for key, value in renamed.items()}, tmp_path / "w.pt")
    sentence = (
        r"w.pt: not the weights of this net: \d+ missing \(.*, .*, .* and \d+ more\), \d+ unexpected \(x"
    )
    with pytest.raises(SourceError, match=sentence):
        open_source("nets:everything", options)
    name = next(name for name, value in weights.items() if value.ndim == 4)
    torch.save(weights | {name: torch.zeros(1, 2, 3, 4)}, tmp_path / "w.pt")
    with pytest.raises(SourceError, match=rf"{name} is \(1, 2, 3, 4\), and the net wants"):
        open_source("nets:everything", options)


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_the_packages_themselves(tmp_path, monkeypatch, name):
    if PACKAGES is not None:
        monkeypatch.syspath_prepend(str(PACKAGES))
    if importlib.util.find_spec(name.partition(":")[0]) is None:
        pytest.skip(f"{name.partition(':')[0]} is {NEEDED}")
    theirs = find_in_package(name, {})(num_classes=5, input_shape=(3, 64, 64)).eval()
    opened = open_net(name, {f"module.{key}": value for key, value in theirs.state_dict().items()})
    rows = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(opened.net.eval()(rows), theirs(rows))


@pytest.mark.parametrize("name", ["timm:tiny", "torchvision:small", "nets:one_norm"])
@pytest.mark.parametrize("pixels", [(), ("--inputs", "uint8", "--mean", "0.5,0.4,0.3", "--std", "1,2,3")])
def test_fold_and_verify_take_what_bundle_takes(packages, tmp_path, name, pixels):
    net = lively(nets.one_norm(), (3, 10, 10))
    torch.save({"model_state_dict": net.state_dict()}, tmp_path / "w.pt")
    flags = ("--weights", tmp_path / "w.pt", "--input-shape", "3,10,10", *pixels)
    verified = run_here("verify", name, *flags)
    assert verified.returncode == 0, verified.stderr
    facts = json.loads(verified.stdout)
    assert facts["proved"]
    assert 0 < facts["differences"]["worst"]["logits"] <= facts["tolerances"]["logits"]
    done = run_here("fold", name, tmp_path / "out.onnx", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == facts["folded"] == 1
    rows = (
        np.random.default_rng(0).integers(0, 256, (2, 3, 10, 10)).astype(np.uint8 if pixels else np.float32)
    )
    (answer,) = load(tmp_path / "out.onnx", optimised=True)({"input": rows}).values()
    seen = (rows / 255 - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / np.reshape([1, 2, 3], (3, 1, 1))
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(seen if pixels else rows.astype(float))).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("verify", "nets:one_norm"), "needs --input-shape"),
        (("verify", "nets:one_norm", "--rows", "r.npz"), "r.npz: --rows cannot be read"),
        (("verify", "in.onnx", "--weights", "w.pt"), "it brings its own weights"),
        (("fold", "in.onnx", "o.onnx", "--weights", "w.pt"), "it brings its own weights"),
        (("verify", ".", "--seed", "1"), "is a bundle: it brings its own rows"),
        (
            ("fold", "nets:one_norm", "w.pt", "--weights", "w.pt", "--input-shape", "3,10,10"),
            "never modified",
        ),
        (("fold", "nets:no_such", "o.onnx", "--input-shape", "3,10,10"), "no_such"),
        (("fold", "none.pt", "o.onnx"), "none.pt"),
    ],
)
def test_flags_that_do_not_fit_the_source(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.onnx").touch()
    (tmp_path / "w.pt").touch()
    assert_refused(run_here(*arguments), sentence)
    assert (tmp_path / "w.pt").read_bytes() == b""


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))


def test_layers_that_take_their_sizes_from_rows_get_them_before_their_weights(tmp_path, monkeypatch):
    net = lazy()
    net(torch.randn(4, 3, 8, 8))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    monkeypatch.setitem(sys.modules, "lazynets", SimpleNamespace(make=lazy))
    options = SourceOptions(shapes={"": (3, 8, 8)}, weights=tmp_path / "w.pt")
    rows = torch.randn(2, 3, 8, 8)
    (answer,) = open_source("lazynets:make", options).evaluate({"input": rows.numpy()}).values()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), net.eval().double()(rows.double()))
    with pytest.raises(SourceError, match="lazynets:make cannot take its first rows"):
        open_source("lazynets:make", SourceOptions(shapes={"": (3, 2, 2)}))


def test_which_of_several_nets_was_taken_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = nets.one_norm().state_dict()
    torch.save({"generator": own, "discriminator": {"conv.weight": torch.ones(1)}}, "w.pt")
    flags = ("--weights", "w.pt", "--input-shape", "3,10,10")
    done = run_here("fold", "nets:one_norm", "out.onnx", *flags)
    assert done.returncode == 0, done.stderr
    assert "the weights are those at 'generator'" in done.stderr
    assert run_here("bundle", "nets:one_norm", "--to", "m", *flags).returncode == 0
    source = json.loads((tmp_path / "m/1/manifest.json").read_text())["provenance"]["source"]
    assert source == "net nets:one_norm with weights w.pt; the weights are those at 'generator'"
