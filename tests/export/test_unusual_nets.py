"""Nets that torch wraps, nets whose answers are no tensors, and files of early opsets."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.compute.rows import read_rows
from export.compute.runtime import load
from export.errors import SourceError, TraceError
from export.graph.file import load_graph, serialize
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


@pytest.mark.parametrize("opset", [3, 6])
def test_early_opsets_say_how_to_get_a_later_one(tmp_path, opset):
    proto = model([node("Relu", "x", "y")], {}, {"x": ["N", 3]})
    proto.opset_import[0].version = opset
    onnx.save(proto, tmp_path / "in.onnx")
    with pytest.raises(SourceError, match=f"opset {opset}, expected 7 to .*version_converter"):
        load_graph(tmp_path / "in.onnx")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_rows_that_are_torn_or_too_large_are_refused(tmp_path, content):
    """1e300 is finite in float64, and infinite in the input's float32."""
    graph = ir.from_proto(model([node("Relu", "x", "y")], {}, {"x": ["N", 3]}))
    np.savez(tmp_path / "rows.npz", x=np.full((2, 3), 1e300))
    if content is not None:
        (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot be read|beyond float32"):
        read_rows(tmp_path / "rows.npz", graph)
