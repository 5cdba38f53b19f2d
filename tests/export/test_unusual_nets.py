"""Nets that torch wraps, nets whose answers are no tensors, and files of early opsets."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.compute.rows import read_rows
from export.errors import SourceError, TraceError
from export.graph.file import load_graph
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
        return {"str": "cat", "dict": {"scores": y, "aux": y}, "part": (y, None), "none": None}[self.kind]


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
        ("part", "got tuple of Tensor, NoneType"),
        ("dict", "got dict of 'scores', 'aux'"),
    ],
)
def test_answers_that_are_no_tensors_are_named(kind, found):
    with pytest.raises(TraceError, match=f"{found}: wrap it in a module"):
        opened(_Net(kind))


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
