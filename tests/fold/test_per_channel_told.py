"""What is said of a Mul and Add that act as a BatchNorm: in the account, on the command line, in a bundle."""

import json

import onnx
import onnx_ir as ir
import pytest

from export.errors import ParityError
from export.fold.proved import FoldOptions, fold_proved
from export.graph.prepare import prepare
from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, weights
from gauge_kit import Net
from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError, parse_manifest

C = 4
MIXED = model(
    [
        *(node("Conv", "x w", "h"), norm("h", "n"), node("Relu", "n", "r")),
        *(node("Conv", "r v", "k"), node("Mul", "k g", "m"), node("Add", "m b", "a"), node("Relu", "a", "y")),
    ],
    {
        "w": weights(C, 3, 3, 3),
        "v": weights(C, C, 1, 1),
        "g": weights(C, 1, 1),
        "b": weights(C, 1, 1),
        **norm_arrays(C),
    },
    {"x": ["N", 3, 8, 8]},
)


def test_where_the_proof_fails_chains_are_taken_back_first():
    seen: list[list[str]] = []

    def prove(graph: ir.Model) -> None:
        seen.append([one.op_type for one in graph.graph])
        if len(seen) == 1:
            raise ParityError("beyond tolerance")

    _, account, _ = fold_proved(prepare(ir.from_proto(MIXED)), FoldOptions(), prove)
    assert (account.folded, [site.status for site in account.per_channel]) == (1, ["declined"])
    assert "as measured: beyond tolerance" in account.per_channel[0].reason
    assert [len(each) for each in seen] == [4, 6]


def test_the_command_names_both(tmp_path):
    onnx.save(MIXED, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--report", tmp_path / "fold.json")
    assert done.returncode == 0, done.stderr
    assert "1 BatchNormalization, 1 folded; 1 per-channel Mul/Add, 1 folded" in done.stderr
    account = json.loads((tmp_path / "fold.json").read_text())
    assert (account["found"], [site["name"] for site in account["per_channel"]]) == (1, ["Mul_m"])
    assert [one.op_type for one in onnx.load(tmp_path / "out.onnx").graph.node] == ["Conv", "Relu"] * 2


def test_one_that_costs_an_op_is_counted_apart(tmp_path):
    net = Net(0)
    y = net.op(
        "Sigmoid", net.norm(net.op("Transpose", net.op("MatMul", "x", net.weight(4, 6)), perm=[0, 2, 1]), 6)
    )
    onnx.save(net.model(("rows", 5, 4), y), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert "1 BatchNormalization, 0 folded, 1 reduced\n" in done.stderr


def test_a_bundle_names_them(tmp_path):
    onnx.save(MIXED, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models" / "net")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["per_channel"] == {"found": 1, "folded": 1}
    folder = tmp_path / "models" / "net" / "1"
    bundle = open_bundle(folder)
    assert (bundle.manifest.schema_version, bundle.manifest.fold.per_channel_folded) == (4, 1)
    report = (folder / "report.html").read_text()
    assert "1 of 1 per-channel Mul/Add" in report
    assert "Mul_m" in report
    assert run_here("verify", folder).returncode == 0
    older = (folder / "manifest.json").read_bytes().replace(b'"schema_version": 4', b'"schema_version": 3')
    with pytest.raises(BundleError, match="per_channel belongs to version 4"):
        parse_manifest(older, "manifest.json")
