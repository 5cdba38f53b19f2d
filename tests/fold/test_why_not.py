"""docs/why-not-just-onnxruntime.md stays true: its blocks print what it says, and our fold answers right."""

import contextlib
import importlib.util
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.compute.reference import graph_evaluator, in_float64
from export.errors import TraceError
from export.fold.stages import fold
from export.graph.edit import constant
from export.graph.prepare import prepare
from export.sources.trace import trace
from extras import NEEDED, PACKAGES
from nets import lively

PAGE = Path(__file__).parents[2] / "docs" / "why-not-just-onnxruntime.md"
EXACT = 1e-12
WRONG = 0.1


@dataclass(frozen=True)
class Block:
    """One block of the page, the heading above it, and the error that the page states beside it."""

    heading: str
    error: float | None
    code: str


def read_blocks() -> list[Block]:
    blocks, heading, start = [], "", 0
    text = PAGE.read_text()
    for match in re.finditer(r"^## (?P<heading>[^\n]+)|^```python\n(?P<code>.*?)^```", text, re.M | re.S):
        heading = match["heading"] or heading
        if match["code"]:
            said = re.findall(r"\*\*Error: ([\d.]+)\*\*", text[start : match.start()])
            blocks.append(Block(heading, float(said[-1]) if said else None, match["code"]))
        start = match.end()
    return blocks


BLOCKS = read_blocks()
NAMES = [
    f"{index}-{block.heading.split(':')[0].split('`')[0].strip()}" for index, block in enumerate(BLOCKS, 1)
]
WRONG_ONES = [
    pytest.param(block, id=name) for block, name in zip(BLOCKS, NAMES, strict=True) if block.error is not None
]


def run(block: Block) -> tuple[dict[str, Any], str]:
    """The block's variables and what it printed; skips where it needs a package that is not here."""
    for package in re.findall(r"^# pip install ([\w-]+)", block.code, re.M):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is {NEEDED}")
    variables: dict[str, Any] = {"__name__": "page"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        exec(compile(block.code, PAGE.name, "exec"), variables)
    return variables, printed.getvalue()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if PACKAGES is not None:
        monkeypatch.syspath_prepend(str(PACKAGES))


def find(word: str) -> Block:
    (block,) = [block for block in BLOCKS if word in block.code]
    return block


def test_the_page_has_every_case():
    assert len(BLOCKS) == 10
    assert sum(block.error is not None for block in BLOCKS) == 8


@pytest.mark.parametrize("block", WRONG_ONES)
def test_a_peer_is_as_wrong_as_the_page_says(block):
    _, printed = run(block)
    error = float(re.fullmatch(r"error ([\d.]+)\n", printed)[1])
    assert error > WRONG
    assert error == pytest.approx(block.error, rel=0.05), "the page states another number"


def test_fuse_never_sees_a_subclass():
    _, printed = run(find("BatchNormAct"))
    assert printed == "left ['batch_norm']\n"


def test_at_level_all_the_batchnorm_is_a_depthwise_conv():
    _, printed = run(find("optimized_model_filepath"))
    if "nchwc" not in printed:
        pytest.skip("ONNX Runtime has no blocked layout for this processor")
    assert printed.count("com.microsoft.nchwc:Conv") == 2
    assert "BatchNormalization" not in printed


def assert_our_fold_is_right(model: ir.Model, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The folded graph's answers in float64, equal to the unfolded one's; folded or declined, both do."""
    unfolded = prepare(in_float64(prepare(model)))  # prepared again: that brings the shapes back
    folded, _ = fold(unfolded)
    expected, answers = graph_evaluator(unfolded)(rows), graph_evaluator(folded)(rows)
    assert expected.keys() == answers.keys()
    for name, answer in answers.items():
        largest = np.abs(expected[name]).max()
        assert largest > WRONG
        assert np.abs(answer - expected[name]).max() <= EXACT * largest
    return answers


def assert_our_net_is_right(net: nn.Module, x: torch.Tensor) -> None:
    """From a net: through our trace, and against the net itself in float64."""
    answers = assert_our_fold_is_right(trace(net, x.shape[1:]), {"input": x.numpy()})
    with torch.no_grad():
        expected = net.double()(x.double()).numpy()
    np.testing.assert_allclose(answers["logits"], expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_a_fold_that_is_off_by_a_billionth_would_be_seen(monkeypatch):
    def nudged(model: ir.Model) -> tuple[ir.Model, None]:
        folded = model.clone()
        folded.graph.initializers["w"].const_value = ir.tensor(constant(model.graph.initializers["w"]) + 1e-9)
        return folded, None

    monkeypatch.setitem(globals(), "fold", nudged)
    variables, _ = run(find("Transpose"))
    with pytest.raises(AssertionError):
        assert_our_fold_is_right(ir.from_proto(variables["graph"]), {"x": variables["x"]})


@pytest.mark.parametrize("word", ["Transpose", "Reshape", "training_mode = 1"])
def test_our_fold_is_right_on_the_pages_graph(word):
    variables, _ = run(find(word))
    assert_our_fold_is_right(ir.from_proto(variables["graph"]), {"x": variables["x"]})


@pytest.mark.parametrize("word", ["self.bn1", "nn.Linear", "register_forward_hook"])
def test_our_fold_is_right_on_the_pages_net(word):
    variables, _ = run(find(word))
    assert_our_net_is_right(variables["net"], variables["x"])


def test_a_net_that_normalises_by_the_batch_is_refused():
    variables, _ = run(find("training=True"))
    with pytest.raises(TraceError, match="no running statistics in use"):
        trace(variables["net"], variables["x"].shape[1:])


class ReadTwice(nn.Module):
    """What torchao gets wrong, without torchao: one convolution, `reads` of whose outputs are normalised."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.bn, self.bn2 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        if self.way == "conv and its BatchNorm":
            return self.bn(h) + h
        return self.bn(h) + self.bn2(h if self.way == "one output, two BatchNorms" else self.conv(x))


@pytest.mark.parametrize(
    "way", ["conv and its BatchNorm", "one output, two BatchNorms", "conv called twice, two BatchNorms"]
)
def test_our_fold_is_right_where_a_conv_is_read_twice(way):
    torch.manual_seed(0)
    assert_our_net_is_right(lively(ReadTwice(way), (1, 8, 8)), torch.randn(4, 1, 8, 8))


def test_our_fold_is_right_on_a_subclass():
    variables, _ = run(find("BatchNormAct"))
    torch.manual_seed(0)
    net = lively(nn.Sequential(nn.Conv2d(3, 4, 3), variables["BatchNormAct"](4)), (3, 8, 8))
    assert_our_net_is_right(net, torch.randn(4, 3, 8, 8))


def test_our_fold_is_right_where_onnxruntime_has_a_stand_in():
    variables, _ = run(find("optimized_model_filepath"))
    rows = np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)
    assert_our_fold_is_right(ir.from_proto(variables["graph"]), {"x": rows})
