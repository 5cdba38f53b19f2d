"""Nets that torch wraps, nets whose answers are no tensors, and files of early opsets."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.compute.rows import read_rows
from export.compute.runtime import load
from export.errors import ProofError, SourceError, TraceError
from export.graph.file import serialize
from export.proof.truth import true_answers
from export.sources.net import of_net
from file_kit import model, node


class _Net(nn.Module):
    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        self.conv, self.norm, self.kind = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), kind

    def forward(self, x: torch.Tensor):
        y = self.norm(self.conv(x)).mean((2, 3))
        if self.kind == "tensor":
            return y
        nested = {"boxes": (y, [y * 2]), "scores": y + 1, "state": None}
        answers = {
            "dict": {"scores": y, "aux": y * 2},
            "part": (y, None),
            "pair": (y, y * 2),
            "nested": nested,
        }
        broken = {"str": "cat", "none": None, "empty": {}, "mixed": {"scores": y, "names": "cat"}}
        return {**answers, **broken}[self.kind]


def opened(net: nn.Module):
    return of_net(net, (1, 8, 8), preprocessing=None, labels=None, description="a net", digest=None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_net_is_the_net_inside():
    source = opened(torch.compile(_Net()))
    assert [spec.row_shape for spec in source.outputs] == [(4,)]


@pytest.mark.filterwarnings("ignore")
def test_a_scriptmodule_is_refused_with_what_to_do():
    with pytest.raises(SourceError, match="give the Python module"):
        opened(torch.jit.trace(_Net().eval(), torch.zeros(2, 1, 8, 8)))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("str", "got str"),
        ("none", "got NoneType"),
        ("empty", "got an empty dict"),
        ("mixed", "got dict of 'scores': Tensor, 'names': str"),
    ],
)
def test_answers_that_are_no_tensors_are_named(kind, found):
    with pytest.raises(TraceError, match=f"{found}: wrap it in a module"):
        opened(_Net(kind))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dict", ["scores", "aux"]),
        ("part", ["logits"]),
        ("pair", ["output_0", "output_1"]),
        ("nested", ["boxes.0", "boxes.1.0", "scores"]),
    ],
)
def test_answers_in_dicts_and_tuples_have_names_of_their_own(kind, names):
    net = _Net(kind)
    source = opened(net)
    assert [spec.name for spec in source.outputs] == names
    assert [one.name for one in source.graph.graph if one.op_type == "BatchNormalization"] == ["norm"]
    rows = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    truth = source.evaluate({"input": rows})
    for name, answer in load(serialize(source.graph), optimised=True)({"input": rows}).items():
        assert np.abs(answer - truth[name]).max() < 1e-5
    assert type(net) is _Net, "the net stays as it was"


def test_one_tensor_twice_is_two_outputs():
    class Twice(_Net):
        def forward(self, x: torch.Tensor):
            y = super().forward(x)
            return {"a": y, "b": [y, None, {"c": y}]}

    assert [spec.name for spec in opened(Twice()).outputs] == ["a", "b.0", "b.2.c"]


class _Inside(nn.Module):
    def __init__(self, inner: nn.Module, answer=lambda y: y) -> None:
        super().__init__()
        self.inner, self.answer = inner, answer

    def forward(self, x: torch.Tensor):
        return self.answer(self.inner(x))


@pytest.mark.filterwarnings("ignore")
def test_nets_inside_are_uncompiled_and_scripts_are_named():
    source = opened(_Inside(torch.compile(_Net())))
    assert [one.name for one in source.graph.graph if one.op_type == "BatchNormalization"] == ["inner.norm"]
    with pytest.raises(SourceError, match="inner, a RecursiveScriptModule, is a ScriptModule"):
        opened(_Inside(torch.jit.script(nn.Conv2d(1, 4, 3))))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (torch.fft.fft, "'logits' of _Inside is complex, which no client could send: return its torch.view"),
        (lambda y: y * 2 if y.sum() > 0 else y, "choose by torch.where or torch.cond"),
        (lambda y: y.half() @ torch.ones(4, 2), "leave casts such as .half\\(\\) out of its forward"),
        (lambda y: y.reshape(1, -1), "a size of 'logits' depends on the number of rows"),
        (lambda y: [], "got an empty list"),
    ],
)
def test_a_forward_that_cannot_be_served_says_what_to_change(answer, sentence, capfd):
    with pytest.raises((SourceError, TraceError), match=sentence):
        opened(_Inside(_Net(), answer))
    assert capfd.readouterr().err == "", "torch prints whole graphs where it fails"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda y: y + torch.randn_like(y), "it draws random numbers"),
        (
            lambda y: y.reshape(-1, 2),
            r"answers one row with the shape \[2, 2\]: rows must stay the first axis",
        ),
    ],
)
def test_answers_that_are_no_rows_of_their_own_are_refused(answer, sentence):
    source = opened(_Inside(_Net(), answer))
    rows = {"input": np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)}
    with pytest.raises(ProofError, match=sentence):
        true_answers(source.evaluate, rows)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_rows_that_are_torn_or_too_large_are_refused(tmp_path, content):
    """1e300 is finite in float64, and infinite in the input's float32."""
    graph = ir.from_proto(model([node("Relu", "x", "y")], {}, {"x": ["N", 3]}))
    np.savez(tmp_path / "rows.npz", x=np.full((2, 3), 1e300))
    if content is not None:
        (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot be read|beyond float32"):
        read_rows(tmp_path / "rows.npz", graph)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_export_wrote_is_a_net():
    """Its module has an eval() that refuses, and calls aten's batch_norm."""
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        _Net().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: rows},), strict=True
    )
    source = opened(program.module())
    assert [spec.row_shape for spec in source.outputs] == [(4,)]
    assert [one.op_type for one in source.graph.graph].count("BatchNormalization") == 1


class _OwnWeights(_Net):
    """Weights that each row makes, for a convolution of as many groups as there are rows."""

    def forward(self, x: torch.Tensor):
        x = self.norm(self.conv(x))
        rows, channels, *sizes = x.shape
        weights = x.mean((2, 3)).reshape(rows, channels, 1, 1)
        y = torch.nn.functional.conv2d(x.reshape(1, rows * channels, *sizes), weights, groups=rows)
        return y.transpose(0, 1).mean((2, 3))


class _InChunks(_Net):
    """TabNet's ghost BatchNorm, also in eval mode."""

    def forward(self, x: torch.Tensor):
        return torch.cat([super(_InChunks, self).forward(each) for each in x.chunk((len(x) + 3) // 4)])


@pytest.mark.parametrize("net", [_InChunks(), _OwnWeights()], ids=["chunks", "groups"])
def test_a_forward_that_computes_with_the_number_of_rows_is_of_one_row(net):
    source = opened(net)
    assert source.max_rows == 1
    assert "it takes one row a call" in source.words[0]
    assert source.graph.graph.inputs[0].shape == [1, 1, 8, 8]
    row = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    (answer,) = load(serialize(source.graph), optimised=True)({"input": row}).values()
    (truth,) = source.evaluate({"input": row}).values()
    np.testing.assert_allclose(answer, truth, atol=1e-5)


def test_what_autocast_computes_in_bfloat16_is_computed_in_float32():
    class Auto(_Net):
        def forward(self, x: torch.Tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    source = opened(Auto())
    row = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    (answer,) = load(serialize(source.graph), optimised=True)({"input": row}).values()
    (truth,) = source.evaluate({"input": row}).values()
    np.testing.assert_allclose(answer, truth, atol=1e-5)
